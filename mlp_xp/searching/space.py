"""What a search varies: a table of dimensions, and what they make of a model.

A dimension is a row of `DIMENSIONS`. It is drawn from its choices or between its ends, by
whatever has Optuna's `suggest_…`; what an option of the command fixes is not drawn. These are the
rows of a dense network; `families` has those of layers of other families, which share the
rows of `TRAINING`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..activations import ACTIVATIONS
from ..checks import MOST_DROPPED
from ..network import AXES
from ..optimizers import OPTIMIZERS

Drawn = Mapping[str, Any]


def _always(drawn: Drawn) -> bool:
    return True


def _hidden(drawn: Drawn) -> bool:
    return bool(drawn["depth"] >= 1)


def _deep(drawn: Drawn) -> bool:
    return bool(drawn["depth"] >= 2)


@dataclass(frozen=True)
class Dimension:
    """One thing that is searched.

    name      of the parameter in the study
    choices   what it is one of, () for a number between two ends
    low, high its ends, both included; whole numbers where both are
    log       whether it is drawn evenly on a logarithmic scale
    step      of a number that is not drawn so; 0 for any
    fixed_by  the option that takes its place, where it is not the name itself
    allowed   all that may be chosen, where that is more
    least     that an end may be
    most      likewise
    why       there is no more than `most`, for errors
    when      whether it exists beside what was drawn before it
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float = 0.0
    fixed_by: str = ""
    allowed: tuple[Any, ...] = ()
    least: float = 0.0
    most: float = math.inf
    why: str = ""
    when: Callable[[Drawn], bool] = _always

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, trial: Any) -> Any:
        """A value by Optuna's trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(
            self.name, self.low, self.high, log=self.log, step=self.step or None
        )

    def holds(self, value: Any) -> bool:
        """Whether it can be drawn."""
        if self.choices:
            return value in self.choices
        steps = (value - self.low) / self.step if self.step else 0.0
        return bool(self.low <= value <= self.high and math.isclose(steps, round(steps)))

    def limited(self, given: Any) -> Dimension:
        """The same within what is given: a pair of ends, or a list of choices."""
        several = given if isinstance(given, Iterable) else (given,)
        values = tuple(one.item() if isinstance(one, np.generic) else one for one in several)
        if self.choices:
            known = self.allowed or self.choices
            wrong = [value for value in values if value not in known]
            if wrong or not values:
                shown = ", ".join(map(str, known))
                raise ValueError(f"{self.name} is {_said(values)}, but expected some of {shown}.")
            return replace(self, choices=tuple(dict.fromkeys(values)))
        if len(values) != 2 or not all(isinstance(value, int | float) for value in values):
            raise ValueError(
                f"{self.name} is {_said(values)}, but expected two ends, LOW and HIGH."
            )
        low, high = values
        kind = "whole numbers" if self.whole else "finite numbers"
        if self.whole and not all(isinstance(value, int) for value in values):
            raise ValueError(f"{self.name} is {_said(values)}, but expected whole numbers.")
        if not self.least <= low <= high <= self.most or math.isinf(high):
            upto = "" if math.isinf(self.most) else f" and at most {self.most:g}{self.why}"
            raise ValueError(
                f"{self.name} is {_said(values)}, but expected rising {kind} of at least "
                f"{self.least:g}{upto}."
            )
        step = self.step if self.step and _even(low, high, self.step) else 0.0
        return replace(self, low=low, high=high, step=step)

    def read(self, text: str) -> Dimension:
        """`limited` to what a command line says: LOW..HIGH, or a list with commas."""
        if self.choices:
            known = {_word(value): value for value in (self.allowed or self.choices)}
            kind = type(self.choices[0])
            words = text.split(",")
            if kind in (int, float):
                return self.limited([known.get(word, _number(word, kind)) for word in words])
            return self.limited([known.get(word, word) for word in words])
        ends = text.split("..")
        return self.limited([_number(end, int if self.whole else float) for end in ends])

    def plain(self) -> Any:
        """As JSON has it, to know again."""
        return list(self.choices) if self.choices else [self.low, self.high]


def _even(low: float, high: float, step: float) -> bool:
    steps = (high - low) / step
    return math.isclose(steps, round(steps))


def _said(values: tuple[Any, ...]) -> str:
    return ", ".join(map(_word, values)) or "empty"


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value}"


def _number(text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        return text


# The range of rates round what the finder suggests for the very network: its suggestion is where
# the loss falls fastest; under one_cycle, which reaches a rate only in passing, networks with
# batch normalisation take several times as much.
TRAINING: tuple[Dimension, ...] = (
    Dimension("optimizer", ("adam", "adamw", "nesterov", "lion"), allowed=tuple(OPTIMIZERS)),
    Dimension("rate_factor", low=0.1, high=20.0, log=True, fixed_by="learning_rate", least=1e-6),
    Dimension("batch_size", (32, 64, 128, 256), allowed=tuple(2**i for i in range(17))),
    Dimension(
        "weight_decay", (0.0, 0.001, 0.01, 0.1), allowed=(0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
    ),
)
ACTIVATION = Dimension("activation", ("relu", "gelu", "silu", "tanh"), allowed=tuple(ACTIVATIONS))
NORMALIZATION = Dimension("normalization", ("none", *AXES))
DROPOUT = Dimension("dropout", low=0.0, high=0.6, step=0.05, most=MOST_DROPPED)
DENSE: tuple[Dimension, ...] = (
    Dimension("depth", low=1, high=3, fixed_by="hidden"),
    Dimension("width", low=16, high=512, log=True, fixed_by="hidden", least=1, when=_hidden),
    Dimension("taper", (1.0, 0.5), allowed=(1.0, 0.75, 0.5, 0.25), fixed_by="hidden", when=_deep),
    replace(ACTIVATION, when=_hidden),
    replace(NORMALIZATION, when=_hidden),
    replace(DROPOUT, when=_hidden),
    Dimension("residual", (False, True), when=_deep),
)
DIMENSIONS = (*DENSE, *TRAINING)
OF_TRAINING = ("batch_size", "rate_factor")  # not arguments of a model


def dimensions(
    fixed: Drawn,
    limits: Mapping[str, Any],
    n_examples: int,
    usual_batch: int,
    rows: tuple[Dimension, ...] = DIMENSIONS,
) -> tuple[Dimension, ...]:
    """What is searched: all rows but those that are fixed, within limits.

    limits       name of a dimension → its text, two ends or choices
    n_examples   that are trained on: no batch is larger
    usual_batch  the default for so many, which is among the choices
    """
    names = [row.name for row in rows]
    for name in limits:
        if name not in names:
            raise ValueError(f"space {name!r} is unknown, but expected one of {', '.join(names)}.")
    found = []
    for row in rows:
        option = row.fixed_by or row.name
        if option in fixed:
            if row.name in limits:
                raise ValueError(
                    f"{row.name} is fixed by {option} and has limits too: leave one of them out."
                )
            continue
        given = limits.get(row.name)
        if given is not None:
            row = row.read(given) if isinstance(given, str) else row.limited(given)
        elif row.name == "batch_size":
            sizes = {usual_batch // 2, usual_batch, 2 * usual_batch, 4 * usual_batch}
            row = replace(row, choices=tuple(sorted(size for size in sizes if size > 0)))
        if row.name == "batch_size":
            row = replace(
                row, choices=tuple(dict.fromkeys(min(s, n_examples) for s in row.choices))
            )
        found.append(row)
    return tuple(found)


def draw(trial: Any, rows: tuple[Dimension, ...], fixed: Drawn) -> dict[str, Any]:
    """A value for each dimension that exists beside those before it and what is fixed."""
    known = {"depth": len(fixed["hidden"])} if "hidden" in fixed else {}
    drawn: dict[str, Any] = {}
    for row in rows:
        if row.when({**known, **drawn}):
            drawn[row.name] = row.draw(trial)
    return drawn


def hidden(drawn: Drawn) -> tuple[int, ...]:
    """The widths of the hidden layers: each is `taper` times the one before."""
    width, taper = drawn.get("width", 0), drawn.get("taper", 1.0)
    return tuple(max(1, round(width * taper**i)) for i in range(drawn["depth"]))


def arguments(drawn: Drawn) -> dict[str, Any]:
    """What was drawn as options of a model: `hidden`, and names that are options already."""
    of_shape = ("depth", "width", "taper", *OF_TRAINING)
    found = {name: _short(value) for name, value in drawn.items() if name not in of_shape}
    return {"hidden": hidden(drawn), **found} if "depth" in drawn else found


def _short(value: Any) -> Any:
    """0.3 for 6 · 0.05, so that it can be given on a command line."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def usual(defaults: Drawn, rows: tuple[Dimension, ...]) -> dict[str, Any]:
    """The dimensions of the model that is the default, as far as they can be drawn."""
    return {row.name: defaults[row.name] for row in rows if row.holds(defaults[row.name])}
