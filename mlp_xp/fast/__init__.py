"""Fast versions of what the specification computes; only `devices` imports them."""
