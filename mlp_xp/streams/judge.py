"""Loss and score of examples that come in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..hardware import Device
from ..kernels import ends, weighted_mean
from ..training import Data, Recipe, Score, encode, objective
from ..types import Array, State

Numbers = npt.NDArray[np.float64]


class Judge:
    """What `training.evaluate` says of all examples at once, merged block by block in float64.

    For numbers R² takes the mean and spread of all targets: Chan's formula, with weights. Those
    that are all equal are known by their least and their largest.
    """

    def __init__(self, recipe: Recipe, device: Device, state: State) -> None:
        self.recipe, self.device, self.state = recipe, device, state
        self.total = 0.0
        self.loss: Any = 0.0
        self.right: Any = 0.0
        self.error: Any = 0.0
        self.centre: Any = 0.0
        self.spread: Any = 0.0
        self.low: Any = np.inf
        self.high: Any = -np.inf

    def add(self, S: Array, data: Data) -> None:
        """Take in the scores (…, n_out, m) of some examples."""
        recipe, xp, get = self.recipe, self.device.xp, self._get
        weights = data.weights
        n = data.m if weights is None else float(get(xp.sum(weights)))
        if n == 0:
            return
        T, loss = encode(recipe, xp, data, data.targets), recipe.loss
        self.total += n
        self._merge("loss", n, get(weighted_mean(xp, loss.value(xp, S, T), weights)))
        if loss.kind in ("real", "count"):
            self._numbers(S, T, weights, n)
            return
        if loss.kind == "multiclass":
            right = xp.argmax(S, axis=-2) == xp.argmax(T, axis=-2)
        else:
            right = xp.all((S > 0) == (T > 0.5), axis=-2)
        self._merge("right", n, get(weighted_mean(xp, xp.astype(right, S.dtype), weights)))

    def _numbers(self, S: Array, T: Array, weights: Array | None, n: float) -> None:
        xp, get = self.device.xp, self._get
        by_output = None if weights is None else weights[..., None, :]
        prediction = self.recipe.loss.predict(xp, S)
        error = get(weighted_mean(xp, (T - prediction) * (T - prediction), by_output))
        centre = weighted_mean(xp, T, by_output)
        apart = T - centre[..., None]
        spread = get(weighted_mean(xp, apart * apart, by_output))
        self._merge("error", n, error)
        before, moved = self.total - n, get(centre) - self.centre
        between = moved * moved * (before / self.total)
        self._merge("spread", n, spread + between)
        self._merge("centre", n, get(centre))
        low, high = map(get, ends(xp, T, by_output))
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)

    def _merge(self, name: str, n: float, value: Any) -> None:
        """The mean of all that came, of which n have this mean."""
        mean = getattr(self, name)
        setattr(self, name, mean + (value - mean) * (n / self.total))

    def _get(self, value: Array) -> Numbers:
        return np.asarray(self.device.get(value), np.float64)

    def score(self) -> Score:
        """Loss and score as arrays of the host, () or (n_networks,)."""
        xp, recipe, theta = self.device.xp, self.recipe, self.state.theta
        zero = xp.zeros_like(theta[..., 0])
        loss = self.loss + self._get(objective(recipe, xp, theta, zero, recipe.l2))
        if recipe.loss.kind not in ("real", "count"):
            return Score(loss, self.right)
        tiny = float(np.finfo(np.float32).tiny)
        equal = (self.low == self.high) | (self.spread < tiny)
        R2 = 1 - self.error / np.where(equal, 1, self.spread)
        return Score(loss, np.mean(np.where(equal, self.error == 0, R2), axis=-1))


__all__ = ["Judge"]
