"""The course of a training, epoch by epoch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..model import Model
from .display import BLUE, GREEN, VERMILLION, Display, legend, model_of, plain


class Curve(NamedTuple):
    """How a quantity is drawn: its word, its colour and line, and which of its values is best."""

    word: str
    colour: str
    line: str
    best: Any = None


TRAINING = Curve("training", BLUE, "-")
PANELS: dict[str, dict[str, Curve]] = {
    "loss": {
        "loss": TRAINING,
        "validation_loss": Curve("validation", VERMILLION, "--", np.nanargmin),
    },
    "score": {"validation_score": Curve("validation", VERMILLION, "--", np.nanargmax)},
    "rate": {"rate": Curve("learning rate", GREEN, "-")},
}
ATTRIBUTES = {  # of the estimators that are scikit-learn's by name
    "loss": "loss_curve_",
    "validation_loss": "validation_loss_curve_",
    "validation_score": "validation_scores_",
}


class HistoryDisplay(Display):
    """Loss and score of every epoch.

    curves  "loss", "validation_loss", "validation_score", "rate": (n_epochs,) each, or
            (n_epochs, n_networks), which are drawn thin about their median
    score   what the score is called: "accuracy", "R²"

    It has the fields of `Display`; `from_model` makes one.
    """

    def __init__(self, curves: Mapping[str, Any], *, score: str = "score") -> None:
        known = {name for panel in PANELS.values() for name in panel}
        found = {name: _table(curves[name]) for name in curves if name in known}
        if "loss" not in found or not len(found["loss"]):
            raise ValueError("There is no epoch to draw: train first, by fit.")
        n = len(found["loss"])
        for name in [name for name, curve in found.items() if len(curve) != n]:
            part = found.pop(name)
            if len(part):
                warnings.warn(
                    f"{name} is known of {len(part)} epochs of {n}, and not of which: it is not "
                    "drawn. Give all calls of fit the same kind of validation.",
                    stacklevel=3,
                )
        self.curves, self.score = found, score

    @classmethod
    def from_model(cls, model: Any, *, ax: Any = None, panels: Sequence[str] | None = None) -> Self:
        """Draw the history of an `MLP`, a `Sequential` or an estimator.

        ax, panels  as in `plot`

        ValueError where nothing was trained yet, or by L-BFGS, which keeps no history.
        """
        if getattr(model, "solver", None) == "lbfgs" and not hasattr(model, "loss_curve_"):
            raise ValueError("solver='lbfgs' keeps no history: expected a stochastic solver.")
        kind = model_of(model).loss.kind
        score = "R²" if kind in ("real", "count") else "accuracy"
        return cls(history_of(model), score=score).plot(ax, panels=panels)

    def plot(self, ax: Any = None, *, panels: Sequence[str] | None = None) -> Self:
        """Draw on matplotlib axes.

        ax      axes, as many as panels; None makes a figure
        panels  of "loss", "score" and "rate"; None: the loss, and the score if it is known
                and there is no single ax

        The legend names the best value and its epoch, from 1.
        """
        known = [name for name, panel in PANELS.items() if panel.keys() & self.curves.keys()]
        if panels is None:
            single = ax is not None and np.size(np.asarray(ax, object)) == 1
            panels = [name for name in ("loss", "score")[: 1 if single else 2] if name in known]
        for name in panels:
            if name not in known:
                raise ValueError(f"panels has {name!r}, but expected some of {', '.join(known)}.")
        axes = self._begin(ax, 5.2 * len(panels), 3.6, len(panels))
        for name, one in zip(panels, np.ravel(np.asarray(axes, object)), strict=True):
            self._panel(one, name)
        return self

    def _panel(self, ax: Any, panel: str) -> None:
        for name, curve in PANELS[panel].items():
            values = self.curves.get(name)
            if values is None:
                continue
            epochs, middle = np.arange(1, len(values) + 1), np.nanmedian(values, axis=1)
            style = {"color": curve.colour, "linestyle": curve.line}
            if values.shape[1] > 1:
                ax.plot(epochs, values, linewidth=0.7, alpha=0.35, **style)
            label = curve.word
            where = self._best(name, curve)
            if where is not None:
                label += f", best {values[where, 0]:.4g} in epoch {where + 1}"
                ax.plot(epochs[where], values[where, 0], "o", color=curve.colour, markersize=5)
            elif values.shape[1] > 1:
                label += f", median of {values.shape[1]}"
            single = "o" if len(values) == 1 else None
            ax.plot(epochs, middle, linewidth=1.8, label=label, marker=single, **style)
        plain(ax)
        ax.set_xlabel("epoch")
        ax.set_ylabel({"score": self.score, "rate": "learning rate"}.get(panel, panel))
        ax.xaxis.get_major_locator().set_params(integer=True)
        legend(ax)

    def _best(self, name: str, curve: Curve) -> int | None:
        """The epoch of the best value, from 0; None where that says nothing."""
        values = self.curves[name]
        if curve.best is None or values.shape[1] > 1 or np.isnan(values).all():
            return None
        return int(curve.best(values[:, 0]))

    @property
    def alt(self) -> str:
        n, networks = self.curves["loss"].shape
        told = []
        for panel, curves in PANELS.items():
            for name, curve in curves.items():
                if name not in self.curves or panel == "rate":
                    continue
                first, last = np.nanmedian(self.curves[name][[0, -1]], axis=1)
                what = f"{curve.word} {self.score if panel == 'score' else 'loss'}"
                best = self._best(name, curve)
                where = "" if best is None else f", best {self.curves[name][best, 0]:.4g} in epoch"
                where += "" if best is None else f" {best + 1}"
                told.append(f"{what} from {first:.4g} to {last:.4g}{where}")
        of = f" of {networks} networks, medians" if networks > 1 else ""
        return f"Training over {n} epoch{'s' if n > 1 else ''}{of}: {'; '.join(told)}."


def history_of(model: Any) -> dict[str, Any]:
    """The curves of a model or an estimator by `Epoch`'s names."""
    history = model.history if isinstance(model, Model) else getattr(model, "history_", None)
    if history is not None:
        return dict(history)
    found = {name: getattr(model, own, None) for name, own in ATTRIBUTES.items()}
    return {name: curve for name, curve in found.items() if curve is not None}


def _table(curve: Any) -> npt.NDArray[np.float64]:
    """(n_epochs, n_networks)."""
    values = np.asarray(curve, np.float64)
    return values.reshape(len(values), -1)
