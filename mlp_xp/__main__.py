"""`python -m mlp_xp` is `mlp-xp`."""

import sys

from .cli import main

sys.exit(main())
