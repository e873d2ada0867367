"""The commands of `mlp-xp`, a file each: their options, and what runs them.

    common          what all share, and the command devices
    train_options   the options of train; stream_options: of what is read block by block

`cli` is their table. selftest and bench stand beside it, for they are used without it.
"""
