"""The command devices, and what all commands share.

What people read goes through `say`: to standard output, or to standard error under
--json, where the document a command returns is all that standard output gets.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn, TypeAlias

import numpy as np

from .. import report
from ..cells import check_numbers
from ..columns import EMPTY
from ..data import BUILT_IN, VARIABLE, Dataset, Request, load
from ..devices import device as find_device
from ..devices import devices
from ..extras import missing
from ..model import Model
from ..prepared import Preparation
from ..readers import Rows, listed
from ..report import counted, described
from ..storage import EstimatorFileError, check_writable

Document: TypeAlias = dict[str, Any] | list[Any]
Arguments: TypeAlias = argparse.Namespace

# None seen among so many looked up: with 95 % confidence at most 1 % of all (rule of three).
ENOUGH = 300


class Halt(Exception):
    """The command ends here, with an exit code and a message for standard error."""

    def __init__(self, code: int, message: str, document: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.document = code, document or {}


def say(args: Arguments, text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)


def say_unused(args: Arguments, prepared: Preparation) -> None:
    """Which columns of a table are left out, why, and what uses them."""
    for column in prepared.unused:
        cure = "" if column.why == EMPTY else f"; --keep {shlex.quote(column.name)} uses it"
        say(args, f"column {column.name!r} is {column}{cure}")


def warn(text: str) -> None:
    """A line for people that is no result: to standard error."""
    print(f"mlp-xp: {text}", file=sys.stderr, flush=True)


def add_data_arguments(parser: argparse._ActionsContainer) -> None:
    """The options that say how data are read."""
    target = "a table's column to predict; repeat it for several"
    gap = "a word that stands for a gap in a table, beside NA, null, ? and the like"
    labels = "labels of a .npy or IDX file of examples"
    folder = f"folder of fashion-mnist (default: ${VARIABLE}, then that of Debian's package)"
    add = parser.add_argument
    add("--target", action="append", default=[], metavar="NAME", help=target)
    add("--missing", action="append", default=[], metavar="WORD", help=gap)
    add("--labels", metavar="FILE", help=labels)
    add("--data-dir", metavar="DIR", help=folder)
    add("--device", default="cpu", metavar="NAME", help="see mlp-xp devices (default: cpu)")


def a_name(text: str) -> str:
    """An argparse type: the name of a file, a folder or built-in data."""
    if not text:
        raise argparse.ArgumentTypeError(
            "it is empty, but expected a name. Is a variable of the shell not set?"
        )
    return text


def usage_error(message: object) -> NoReturn:
    """The command line asks for what cannot be."""
    raise Halt(2, str(message))


def check_output(out: str, *inputs: str | None, data: str | None = None) -> None:
    """Refuse to write over what a command reads; an OSError says why there can be no file.

    data  a file, or the name of built-in examples
    """
    check_writable(out)
    for path in filter(None, (*inputs, None if data in BUILT_IN else data)):
        if os.path.exists(out) and os.path.exists(path) and os.path.samefile(out, path):
            usage_error(f"{out} is what this command reads: expected another file to write to.")


# -- models, data and scores ----------------------------------------------


def open_model(
    path: str, device: str, training: bool = False, several: bool = False
) -> tuple[Model, Preparation]:
    """A model of one network, and what it does to its data.

    training  whether it is to be trained: then an estimator's file is refused
    several   whether it may be of many networks
    """
    try:
        find_device(device)
    except (ValueError, RuntimeError, ImportError) as error:
        usage_error(error)
    try:
        model = Model.load(path, device=device)
    except EstimatorFileError as error:
        if training:
            raise
        model = _of_estimator(path, error.estimator, device)
    if model.leading and not several:
        raise Halt(1, f"{path} holds {len(model.seeds)} networks, but this command takes one.")
    prepared = model.preparation
    bare = Preparation(str(model.config["loss"]), features=prepared.features if prepared else ())
    if prepared is None or (prepared.features and prepared == bare):
        # saved from Python: its classes are numbered
        n = {"multiclass": model.network.sizes[-1], "binary": 2}.get(model.loss.kind)
        prepared = replace(bare, classes=None if n is None else tuple(range(n)))
    model.preparation = prepared
    return model, prepared


def _of_estimator(path: str, name: str, device: str) -> Model:
    """What an estimator's file predicts with."""
    try:
        from ..estimators import mlp
        from ..estimators.keeping import to_mlp
    except ImportError as error:
        who = f"{path} holds an {name}, which needs scikit-learn"
        raise Halt(1, str(missing(who, "sklearn", error))) from None
    if name not in mlp.__all__:
        raise Halt(1, f"{path} holds a {name}, a class of your own. Use {name}.load in Python.")
    model: Model = to_mlp(getattr(mlp, name).load(path), device)
    return model


def read_data(
    source: str,
    args: Arguments,
    prepared: Preparation,
    labelled: bool,
    ids: tuple[str, ...] = (),
) -> Dataset:
    """Data for a trained model: by name the columns it was trained on, else all but `ids`.

    ids  a table's columns that are to be copied: text, if the model does not take them
    """
    target = tuple(args.target) or (prepared.target if labelled else ())
    table = prepared.table
    named = any(isinstance(label, str) for label in prepared.classes or ())
    request = Request(
        target=target,
        features=prepared.features,
        missing=(*prepared.missing, *args.missing),
        text=(() if table is None else table.text) + (target if named else ()),
        copied=tuple(name for name in ids if name not in prepared.features),
        zeros=False,  # the model knows what its classes are
        drop=() if prepared.features else ids,
        labels=args.labels,
        folder=args.data_dir,
        labelled=labelled,
    )
    data = load(source, request)
    if (args.target or args.missing) and not data.features:
        usage_error(f"--target and --missing are of a table's columns, but {data.name} has none.")
    for note in data.notes:
        warn(note)
    if data.table is not None and table is not None:
        table.check(data.name, data.X)
        for name, (n, word) in table.unknown(data.X).items():
            rows = f"{n:,} row{'s hold words' if n > 1 else ' holds a word'}"
            first = "a gap" if word is None else repr(word)
            warn(f"column {name!r}: {rows} that training did not meet, such as {first}")
    elif data.table is not None and prepared.features:
        check_numbers(data.name, data.X, prepared.features)
    return data


def check_features(model: Model, data: Dataset, path: str) -> None:
    """The file has as many features as the model takes."""
    if model.preparation is not None and model.preparation.table is not None:
        if data.table is None:
            names = listed(model.preparation.features)
            raise Halt(
                1,
                f"{data.name} is no table with names, but {path} was trained on one: expected "
                f"the columns {names}.",
            )
        return
    expected, found = model.network.sizes[0], data.X.shape[1]
    if expected != found:
        raise Halt(
            1,
            f"{data.name} has {counted(found, 'features')}, but {path} was trained on {expected}: "
            "expected the same columns.",
        )


def probabilities(model: Model, rows: Any) -> Rows:
    """(m, n_classes), or (m, n_labels) for labels independent of each other."""
    P = model.device.get(model.predict_proba(rows, layout="rows"))
    return np.hstack([1 - P, P]) if model.loss.kind == "binary" else P


def say_parts(args: Arguments, found: dict[str, Any], most: int | None = None) -> None:
    """What a score of `judge` is made of, of examples that training has not met if it can be.

    most  classes from which on it is too long to be said; None: never
    """
    flattered = bool(found.get("trained_on")) and found.get("unseen") is not None
    part = found["unseen"] if flattered else found
    classes = part.get("classes", ())
    if classes and (most is None or len(classes) <= most):
        lines = report.lines(classes, part.get("confused", ()))
    elif "targets" in part:
        lines = report.target_lines(part["targets"])
    else:
        return
    if flattered:
        n = part["examples"]
        say(args, f"of the {n:,} that {_equal(n)} no row of the training:")
    say(args, "\n".join(lines))


def said_of(found: dict[str, Any]) -> str:
    """How flattered a score of `judge` is, to follow the word examples; "" where it is not."""
    seen, known = found["trained_on"], found["looked_up"]
    if seen is None:
        return " that may have been used in training: the model's file does not say"
    if known == found["examples"]:
        return f", of which {seen:,} {_equal(seen)} rows of the training" if seen else ""
    if seen or known < ENOUGH:
        were = "was" if known == 1 else "were"
        return (
            f", of which about {seen:,} {_equal(seen)} rows of the training ({known:,} {were} "
            "looked up)"
        )
    return ""


def say_unseen(args: Arguments, found: dict[str, Any]) -> None:
    """The score that is not flattered, where the other is."""
    unseen = found["unseen"]
    if found["trained_on"] and unseen:
        n = unseen["examples"]
        say(args, f"{described(unseen)} on {n:,} that {'does' if n == 1 else 'do'} not")


def _equal(n: int) -> str:
    """A row of few different numbers may equal one that was trained on, and be another."""
    return "equals" if n == 1 else "equal"


def kept_split(model: Model) -> dict[str, Any] | None:
    """What `mlp-xp train` held out, by the model's metadata; None where they hold none of ours.

    held_out, validation  shares in [0, 1)
    seed                  of the draw
    examples              how many there were
    units                 of a stream: how many it had, of which shares were drawn
    """
    found = model.metadata.get("split")
    if not isinstance(found, Mapping):
        return None
    stored = {"validation": 0.0, "examples": 0, **found}
    shares = [stored.get(name) for name in ("held_out", "validation")]
    counts = [stored.get(name) for name in ("seed", "examples")]
    right = all(isinstance(share, int | float) and 0 <= share < 1 for share in shares)
    right = right and all(isinstance(n, int) and 0 <= n < 2**64 for n in counts)
    return stored if right else None


# -- devices -------------------------------------------------------------------


def print_devices(args: Arguments) -> Document:
    """One line a device: its name, whether it can run here, and its version or why not."""
    found = devices()
    for status in found:
        can = "available" if status.available else "not available"
        say(args, f"{status.name:<8}{can:<15}{status.detail}")
    return [status._asdict() for status in found]
