"""The commands predict, evaluate and devices, and what all commands share.

What people read goes through `say`: to standard output, or to standard error under
--json, where the document a command returns is all that standard output gets.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from .data import VARIABLE, Dataset, Request, load
from .devices import device as find_device
from .devices import devices
from .model import MLP
from .preparation import NUMBERS, Preparation, split
from .readers import Rows
from .storage import check_writable, write_atomically

Document: TypeAlias = dict[str, Any] | list[Any]
Arguments: TypeAlias = argparse.Namespace


class Halt(Exception):
    """The command ends here, with an exit code and a message for standard error."""

    def __init__(self, code: int, message: str, document: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.document = code, document or {}


def say(args: Arguments, text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)


def add_data_arguments(parser: argparse._ActionsContainer) -> None:
    """The options that say how data are read."""
    target = "CSV column to predict; repeat it for several"
    labels = "labels of a .npy or IDX file of examples"
    folder = f"folder of fashion-mnist (default: ${VARIABLE}, then that of Debian's package)"
    add = parser.add_argument
    add("--target", action="append", default=[], metavar="NAME", help=target)
    add("--labels", metavar="FILE", help=labels)
    add("--data-dir", metavar="DIR", help=folder)
    add("--device", default="cpu", metavar="NAME", help="see mlp-xp devices (default: cpu)")


def usage_error(message: object) -> NoReturn:
    """The command line asks for what cannot be."""
    raise Halt(2, str(message))


# -- predict, evaluate -------------------------------------------------------------


def open_model(path: str, device: str) -> tuple[MLP, Preparation]:
    """A model of one network, and how its data are prepared."""
    try:
        find_device(device)
    except (ValueError, RuntimeError, ImportError) as error:
        usage_error(error)
    model = MLP.load(path, device=device)
    if model.leading:
        raise Halt(1, f"{path} holds {len(model.seeds)} networks, but this command takes one.")
    stored = model.metadata.get("preparation")
    if stored is None:  # saved from Python: its data were prepared there
        return model, Preparation(loss=str(model.config["loss"]))
    try:
        return model, Preparation.from_json(stored)
    except (KeyError, TypeError, ValueError) as error:
        raise Halt(
            1, f"{path} was not written by mlp-xp train: its preparation lacks {error}."
        ) from None


def read_data(source: str, args: Arguments, prepared: Preparation, labelled: bool) -> Dataset:
    """Data for a trained model: by name the columns it was trained on."""
    target = tuple(args.target) or (prepared.target if labelled else ())
    request = Request(
        target=target,
        features=prepared.features,
        labels=args.labels,
        folder=args.data_dir,
        labelled=labelled,
    )
    return load(source, request)


def check_features(model: MLP, data: Dataset, path: str) -> None:
    """The file has as many features as the model takes."""
    expected, found = model.network.sizes[0], data.X.shape[1]
    if expected != found:
        raise Halt(
            1,
            f"{data.name} has {found} features, but {path} was trained on {expected}: "
            "expected the same columns.",
        )


def answers(model: MLP, prepared: Preparation, rows: Rows) -> Rows:
    """Predictions as the file would say them: (m,), or (m, n_targets)."""
    return prepared.answer(model.device.get(model.predict(prepared.X(rows), layout="columns")))


def probabilities(model: MLP, prepared: Preparation, rows: Rows) -> Rows:
    """(m, n_classes), or (m, n_labels) for labels independent of each other."""
    P = model.device.get(model.predict_proba(prepared.X(rows), layout="columns")).T
    return np.hstack([1 - P, P]) if prepared.kind == "binary" else P


def measure(model: MLP, prepared: Preparation, X: Rows, y: Rows) -> dict[str, Any]:
    """Loss, score, and for numbers the root of the mean squared error in their own units."""
    loss, score = model.evaluate(prepared.X(X), prepared.Y(y), layout="columns")
    found = {"examples": len(X), "loss": loss}
    if prepared.kind not in NUMBERS:
        return {**found, "accuracy": score}
    error = answers(model, prepared, X) - y
    return {**found, "r2": score, "rmse": float(np.sqrt(np.mean(error * error)))}


def described(found: dict[str, Any]) -> str:
    """`measure` as a line."""
    names = {"accuracy": "accuracy", "r2": "R²", "rmse": "RMSE", "loss": "loss"}
    return ", ".join(f"{label} {found[key]:.4g}" for key, label in names.items() if key in found)


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, DATA and their options."""
    parser.add_argument("model", metavar="MODEL", help="a file that mlp-xp train wrote")
    parser.add_argument("data", metavar="DATA", help="a file, digits or fashion-mnist")
    parser.add_argument(
        "--held-out", action="store_true", help="only the examples that training held out of it"
    )
    add_data_arguments(parser)


def evaluate(args: Arguments) -> Document:
    """Measure on all examples, on the data's own test set, or on what training held out."""
    model, prepared = open_model(args.model, args.device)
    data = read_data(args.data, args, prepared, labelled=True)
    check_features(model, data, args.model)
    X, y = (data.X, data.y) if data.X_test is None else (data.X_test, data.y_test)
    assert y is not None
    if args.held_out and data.X_test is None:
        index = _held_out(model, data, args.model)
        X, y = X[index], y[index]
    found = measure(model, prepared, X, y)
    say(args, f"{described(found)} on {len(X):,} examples of {data.name}")
    return {"model": args.model, "data": data.name, **found}


def _held_out(model: MLP, data: Dataset, path: str) -> npt.NDArray[np.int64]:
    """Indices of the examples that training held out of the same data."""
    stored = model.metadata.get("split")
    if stored is None or stored["examples"] != len(data.X) or stored["held_out"] == 0:
        known = "nothing" if stored is None else f"a share of {stored['held_out']:g}"
        known += "" if stored is None else f" of {stored['examples']:,} examples"
        usage_error(
            f"--held-out: the training of {path} held out {known}, but {data.name} has "
            f"{len(data.X):,}: expected the file it was trained on."
        )
    return split(stored["examples"], stored["held_out"], stored["seed"])[1]


def predict_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, DATA and their options."""
    parser.add_argument("model", metavar="MODEL", help="a file that mlp-xp train wrote")
    parser.add_argument("data", metavar="DATA", help="a file, digits or fashion-mnist")
    parser.add_argument("--proba", action="store_true", help="probabilities after the prediction")
    parser.add_argument("--out", metavar="FILE", help="write there, not to standard output")
    add_data_arguments(parser)


def predict(args: Arguments) -> Document:
    """One line an example: the prediction, then with --proba the probability of each class."""
    model, prepared = open_model(args.model, args.device)
    if args.proba and prepared.kind in NUMBERS:
        usage_error("--proba takes a model of classes, but this one predicts numbers.")
    if args.out:
        check_writable(args.out)
    data = read_data(args.data, args, prepared, labelled=False)
    check_features(model, data, args.model)
    X = data.X if data.X_test is None else data.X_test
    answer = answers(model, prepared, X)
    if answer.dtype.kind == "f":
        answer = answer.astype(model.dtype)  # no more digits than the model has
    document: dict[str, Any] = {"model": args.model, "data": data.name}
    document["predictions"] = answer.tolist()
    columns = [np.reshape(answer, (len(answer), -1))]
    if args.proba:
        columns.append(probabilities(model, prepared, X))
        document |= {"classes": prepared.classes, "probabilities": columns[1].tolist()}
    text = "".join(
        ",".join(str(value) for part in line for value in part) + "\n"
        for line in zip(*columns, strict=True)
    )
    if args.out:
        write_atomically(args.out, text.encode())
        say(args, f"{len(answer):,} predictions written to {args.out}")
        return {**document, "out": args.out}
    if not args.json:
        sys.stdout.write(text)
    return document


# -- devices -------------------------------------------------------------------


def print_devices(args: Arguments) -> Document:
    """One line a device: its name, whether it can run here, and its version or why not."""
    found = devices()
    for status in found:
        can = "available" if status.available else "not available"
        say(args, f"{status.name:<8}{can:<15}{status.detail}")
    return [status._asdict() for status in found]
