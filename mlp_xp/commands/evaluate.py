"""`mlp-xp evaluate`: loss and score of a model on examples, and what they are made of."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data import Dataset
from ..model import Model
from ..preparation import divide_stream, split, take
from ..prepared import Preparation
from ..report import counted, described
from ..scoring import judge
from .common import (
    Arguments,
    Document,
    add_data_arguments,
    check_features,
    kept_split,
    open_model,
    read_data,
    said_of,
    say,
    say_parts,
    say_unseen,
    usage_error,
)
from .stream_options import (
    add_stream_arguments,
    check_memory,
    check_streamed,
    knows_units,
    stream_of,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, DATA and their options."""
    parser.add_argument("model", metavar="MODEL", help="file of a model")
    parser.add_argument("data", metavar="DATA", help="a file, digits or fashion-mnist")
    parser.add_argument(
        "--held-out", action="store_true", help="only the examples that training held out of it"
    )
    add_data_arguments(parser)
    add_stream_arguments(parser)


def evaluate(args: Arguments) -> Document:
    """Measure on all examples, on the data's own test set, or on what training held out.

    Where some of them equal rows of the training, also on those that do not.
    """
    check_memory(args)
    model, prepared = open_model(args.model, args.device)
    if args.memory is not None:
        return _evaluate_stream(args, model, prepared)
    data = read_data(args.data, args, prepared, labelled=True)
    check_features(model, data, args.model)
    X, y = (data.X, data.y) if data.X_test is None else (data.X_test, data.y_test)
    assert y is not None
    if args.held_out and data.X_test is None:
        index = _held_out(model, data, args.model)
        X, y = take(X, index), y[index]
    apart = data.X_test is None and _knows_split(model, data)
    return _evaluated(args, judge(model, X, y), data.name, apart)


def _evaluated(args: Arguments, found: dict[str, Any], name: str, apart: bool) -> Document:
    """Say a score of `judge`; `apart`: whether training held some of these examples out."""
    m = found["examples"]
    say(args, f"{described(found)} on {counted(m, 'examples')} of {name}{said_of(found)}")
    say_unseen(args, found)
    if found["trained_on"] and found["looked_up"] < m and not args.held_out and apart:
        say(args, "--held-out measures on all that training held out")
    say_parts(args, found)
    return {"model": args.model, "data": name, **found}


def _evaluate_stream(args: Arguments, model: Model, prepared: Preparation) -> Document:
    check_streamed(model, args.model)
    target = tuple(args.target) or prepared.target
    data = part = stream_of(args, args.data, target, prepared.features)
    stored = kept_split(model)
    apart = stored is not None and knows_units(stored, data) and stored["held_out"] > 0
    if args.held_out:
        if stored is None or not apart:
            usage_error(
                f"--held-out: the training of {args.model} held no units of {data.name} out: "
                "expected the file it was trained on, with the same --memory."
            )
        part = divide_stream(data, stored["held_out"], 0.0, stored["seed"]).X_held
    return _evaluated(args, judge(model, part, None), Path(args.data).name, apart)


def _knows_split(model: Model, data: Dataset) -> bool:
    """Whether these may be the data that training held a share out of."""
    stored = kept_split(model)
    if stored is None or "units" in stored:
        return False
    return bool(stored["held_out"] > 0 and stored["examples"] == len(data.X))


def _held_out(model: Model, data: Dataset, path: str) -> npt.NDArray[np.int64]:
    """Indices of the examples that training held out of the same data."""
    stored = kept_split(model)
    if stored is None or not _knows_split(model, data):
        known = "nothing" if stored is None else f"a share of {stored['held_out']:g}"
        known += "" if stored is None else f" of {counted(stored['examples'], 'examples')}"
        known += " of a stream (see --memory)" if stored is not None and "units" in stored else ""
        usage_error(
            f"--held-out: the training of {path} held out {known}, but {data.name} has "
            f"{len(data.X):,}: expected the file it was trained on."
        )
    return split(stored["examples"], stored["held_out"], stored["seed"])[1]
