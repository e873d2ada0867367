"""The options of what the commands read block by block: --memory and what goes with it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import BUILT_IN
from ..model import Model
from ..readers import DataError
from ..recognise import numbers_the_rows
from ..streams.opening import stream
from ..streams.source import in_bytes
from ..streams.streamed import Stream
from ..tables import STDIN
from .common import Arguments, Halt, usage_error


def add_stream_arguments(parser: argparse._ActionsContainer) -> None:
    """The options of what is read block by block."""
    add = parser.add_argument
    memory = (
        "read DATA block by block within so much memory, 500MB or 2GiB: Parquet (a file, a folder, "
        "a pattern), .npy, Zarr, HDF5, numbers alone (docs/streams.md)"
    )
    examples = "with --memory: the array of examples in a Zarr group or HDF5 file (default: X)"
    add("--memory", type=_memory, metavar="SIZE", help=memory)
    add("--examples", metavar="NAME", help=examples)


def check_memory(args: Arguments) -> None:
    """--examples is refused without --memory."""
    if args.examples is not None and args.memory is None:
        usage_error("--examples names an array of what --memory reads: add that, or leave it out.")


def _memory(text: str) -> int:
    try:
        return in_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def stream_of(
    args: Arguments,
    source: str | None,
    target: Sequence[str],
    features: Sequence[str] = (),
    drop: Sequence[str] = (),
    labelled: bool = True,
) -> Stream:
    """What --memory reads; its options are refused where they concern something else.

    features  a table's columns to read, () for all that are nothing else
    labelled  whether examples without targets are refused
    """
    if source is None:
        usage_error("--memory reads a file block by block: name it with --data, or leave it out.")
    if source in (*BUILT_IN, STDIN):
        usage_error(f"--memory reads a file block by block, but {source} is none: leave it out.")
    if args.missing:
        usage_error("--missing names a word for gaps, but with --memory a table may have none.")
    if args.data_dir:
        usage_error(f"--data-dir is the folder of fashion-mnist, not of {source}: leave it out.")
    in_file = Path(source).suffix.lower() == ".npy"
    if args.labels and not in_file:
        usage_error(f"--labels is for a .npy file of examples, but {source} is none: see --target.")
    if in_file and args.target:
        usage_error(f"--target names a column, but {source} has none: expected --labels FILE.")
    if labelled and not (args.labels if in_file else target):
        what = "a .npy file of labels with --labels" if in_file else "what to predict with --target"
        usage_error(f"{source} has nothing to learn or to measure by: name {what}.")
    named = target[0] if len(target) == 1 else list(target)
    try:
        return stream(
            source,
            args.labels if in_file else named or None,
            features=args.examples or list(features) or None,
            drop=drop,
            memory=args.memory,
            seed=getattr(args, "seed", None) or 0,
        )
    except DataError:
        raise
    except (ValueError, TypeError) as error:
        usage_error(error)


def refuse_numberings(found: Stream, keep: Sequence[str]) -> None:
    """Raise `DataError` for a column that numbers the rows, as the first block shows."""
    _, first = next(found.blocks())
    for j, name in enumerate(found.features):
        values = first.rows[:, j]
        different = len(np.unique(values)) == len(values) > 2
        if name not in keep and different and numbers_the_rows(name, values):
            raise DataError(
                f"{found.name}, column {name!r} numbers the rows, so there is nothing to learn "
                f"from it: leave it out with --drop {name}, or use it with --keep {name}."
            )


def check_streamed(model: Model, path: str) -> None:
    """A model takes numbers, as a stream has them."""
    if model.preparation is not None and model.preparation.table is not None:
        raise Halt(
            1,
            f"{path} was trained on a table with words, gaps or dates, but with --memory a table "
            "has numbers alone: leave --memory out.",
        )


def knows_units(stored: Mapping[str, Any], data: Stream) -> bool:
    """Whether a training that kept this split may have had this stream."""
    return (stored.get("units"), stored["examples"]) == (len(data.units), data.m)
