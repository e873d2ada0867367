"""The curve of the learning-rate finder."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ..model import Model
from ..rates import LearningRates, smoothed
from .display import BLUE, VERMILLION, Display, legend, plain


class LearningRateDisplay(Display):
    """The loss against the rate it was reached at: what `find_learning_rate` found.

    found  a `LearningRates`: rates, losses, suggestion

    The rate to take is where the smoothed loss falls fastest, or somewhat less.
    """

    def __init__(self, found: LearningRates) -> None:
        self.found = found

    @classmethod
    def from_model(cls, model: Any, X: Any, Y: Any, *, ax: Any = None, **options: Any) -> Self:
        """Search a rate for an `MLP` or a `Sequential`, which stays as it is, and draw the search.

        X, Y, options  as in `Model.find_learning_rate`
        """
        if not isinstance(model, Model):
            raise TypeError(
                f"model is {model!r}, but expected an MLP or a Sequential: a search of the rate "
                "needs a network that is not trained yet, which an estimator does not have."
            )
        return cls(model.find_learning_rate(X, Y, **options)).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw on matplotlib axes; None makes a figure."""
        ax = self._begin(ax, 5.2, 3.6)
        rates, losses, suggestion = self._finite()
        ax.plot(rates, losses, color=BLUE, alpha=0.35, linewidth=1, label="loss of a batch")
        ax.plot(rates, smoothed(losses), color=BLUE, linewidth=1.8, label="smoothed")
        ax.axvline(
            suggestion, color=VERMILLION, linestyle="--", label=f"suggestion {suggestion:.2g}"
        )
        ax.set_xscale("log")
        plain(ax)
        ax.set_xlabel("learning rate")
        ax.set_ylabel("loss")
        legend(ax)
        return self

    def _finite(self) -> LearningRates:
        """Without steps whose loss is no number, in which a search may end."""
        rates, losses, suggestion = self.found
        finite = np.isfinite(losses)
        if not finite.any():
            raise ValueError("No loss of the search is finite: scale the features.")
        return LearningRates(rates[finite], losses[finite], suggestion)

    @property
    def alt(self) -> str:
        rates, losses, suggestion = self._finite()
        return (
            f"Loss against learning rate, {len(rates)} steps from {rates[0]:.2g} to "
            f"{rates[-1]:.2g}: {losses[0]:.4g} at first, least {losses.min():.4g}, "
            f"{losses[-1]:.4g} at last; suggested rate {suggestion:.2g}."
        )
