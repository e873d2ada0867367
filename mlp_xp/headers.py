"""What the JSON in a model file's header may say: checked before anything is made of it.

A right checksum proves that a file is as it was written, not that it was written by us.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from . import checks
from .losses import LOSSES
from .prepared import Preparation

HEADER = ("config", "step", "epoch", "history", "metadata")
MOST_STEPS = 2**62  # counted in 64 bits
SHOWN = 60  # letters of a value in a message
# what goes wrong where a value of one kind is used as one of another, or is too large
MISUSED = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)

Path = str | os.PathLike[str]


class ModelFileError(ValueError):
    """A file that is not a whole, unaltered model of this version."""


def refusal(path: Path, field: str, value: Any, expected: str) -> ModelFileError:
    """The error of a field that holds something else than was expected."""
    shown = repr(value)
    shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + " …"
    return ModelFileError(
        f"{path} was not written by mlp_xp: its {field} is {shown}, but expected {expected}."
    )


def parsed(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """The parts of a header; raises `ModelFileError`."""
    values = {name: loaded(path, name, header[name]) for name in HEADER}
    for name in ("config", "history", "metadata"):
        mapping(path, name, values[name])
    for name in ("step", "epoch"):
        count(path, name, values[name])
    for name, value in values["history"].items():
        if value is not None or "estimator" not in values["config"]:
            _curve(path, f"history[{name!r}]", value)
    return values


def loaded(path: Path, name: str, text: str) -> Any:
    """A part of a header as JSON gives it back."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} was not written by mlp_xp: its {name} cannot be read as JSON "
            f"({str(error)[:200]})."
        ) from None


def mapping(path: Path, field: str, value: Any) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise refusal(path, field, value, "names and values")
    return value


def count(path: Path, field: str, value: Any) -> int:
    """A whole number from 0 on that fits where steps are counted."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST_STEPS:
        raise refusal(path, field, value, f"a whole number from 0 to {MOST_STEPS - 1}")
    return value


def number(value: Any) -> bool:
    """Whether it is a number that a float can hold, NaN and infinities among them."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _curve(path: Path, field: str, value: Any) -> None:
    """A list of an entry an epoch: a number, or one for each of several networks."""
    if not isinstance(value, list):
        raise refusal(path, field, value, "a list of an entry an epoch")
    for i, entry in enumerate(value):
        networks = entry if isinstance(entry, list) else [entry]
        if not (networks and all(map(number, networks))):
            raise refusal(path, f"{field}[{i}]", entry, "a number, or one for each network")


def check_sizes(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]
) -> None:
    """That the weights are those of the sizes, before memory is taken for so many."""
    sizes, seed = checks.sizes(config["sizes"]), config["seed"]
    leading = (len(seed),) if isinstance(seed, list) else ()
    for i, (n_in, n_out) in enumerate(pairwise(sizes), 1):
        check_shape(path, tensors, f"W{i}", (*leading, n_out, n_in))


def check_shape(
    path: Path, tensors: Mapping[str, npt.NDArray[Any]], name: str, shape: Sequence[int]
) -> npt.NDArray[Any]:
    """A tensor of a shape, of finite numbers."""
    found = tensors.get(name)
    if found is None or found.shape != tuple(shape):
        holds = "missing" if found is None else f"of shape {found.shape}"
        raise ModelFileError(
            f"{path} does not fit its own config: tensor {name} is {holds}, but expected "
            f"{tuple(shape)}."
        )
    return found


def check_finite(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Nothing infinite and no NaN but in moments, which may overflow while a model is good."""
    for name, tensor in tensors.items():
        if not name.startswith("moment") and not np.isfinite(tensor).all():
            raise ModelFileError(
                f"{path} holds a model that cannot predict: its {name} has "
                f"{int(np.sum(~np.isfinite(tensor)))} entries that are not finite. Train again."
            )


def preparation(path: Path, stored: Any, dtype: str, kind: str) -> Preparation:
    """What a model does to its inputs and answers, of a model's dtype and a loss's kind."""
    mapping(path, "metadata['preparation']", stored)
    try:
        found = Preparation.from_json(stored)
    except MISUSED as error:
        raise ModelFileError(
            f"{path} was not written by this mlp_xp: {str(error)[:500]} Only that knows what it "
            "predicts from."
        ) from None

    def field(name: str) -> str:
        return f"metadata['preparation'][{name!r}]"

    known = isinstance(found.loss, str) and found.loss in LOSSES
    if not known or LOSSES[found.loss].kind != kind:
        raise refusal(path, field("loss"), found.loss, f"the name of a loss for {kind} targets")
    for name in ("features", "target"):
        value = getattr(found, name)
        if not isinstance(value, tuple) or not all(isinstance(part, str) for part in value):
            raise refusal(path, field(name), value, "names")
    if found.classes is not None:
        kinds = {type(label) for label in found.classes}
        if len(kinds) != 1 or not kinds <= {str, int, float, bool}:
            raise refusal(path, field("classes"), found.classes, "labels of one kind")
    for name in ("inputs", "outputs"):
        scale = getattr(found, name)
        try:
            usable = scale.fits(dtype)
        except MISUSED:
            usable = False
        if not usable:
            raise refusal(path, field(name), tuple(scale), f"{dtype} numbers to scale by")
    return found
