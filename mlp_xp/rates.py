"""The search for a learning rate: training at rates that rise, until the loss does.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", §3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .hardware import Device
from .training import Data, Recipe, batch, bits_for, shuffled, train_step
from .types import Array, State


class LearningRates(NamedTuple):
    """The result of a learning-rate search.

    rates, losses  one entry a step
    suggestion     the rate at which the smoothed loss falls fastest
    """

    rates: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    suggestion: float


def search(
    recipe: Recipe,
    device: Device,
    state: State,
    data: Data,
    rates: npt.NDArray[np.float64],
    batch_size: int,
    seeds: Sequence[int],
    leading: tuple[int, ...],
) -> LearningRates:
    """Train from a state, a step a rate, until the loss is four times its least.

    Of counts, whose loss falls below 0, what it is above `least_possible` is compared.

    data     examples, on the device
    rates    (n,) rising
    seeds    of the networks, by which examples are shuffled
    leading  the parameters' leading axes
    """
    losses: list[float] = []
    above: list[float] = []
    xp, start, epoch = device.xp, 0, 0
    index = device.put(shuffled(seeds, leading, epoch, data.m))
    for rate in rates:
        X, T, w = batch(recipe, xp, data, index[..., start : min(start + batch_size, data.m)])
        bits = bits_for(device, recipe.network, seeds, leading, state.step, X.shape[-1])
        with np.errstate(all="ignore"):  # the search ends by diverging
            state = train_step(recipe, xp, state, X, T, w, bits, float(rate))
            losses.append(float(np.mean(device.get(state.loss))))
            above.append(losses[-1] - least_possible(recipe, device, T, w))
        if not math.isfinite(losses[-1]) or above[-1] > 4 * min(above):
            break
        start += batch_size
        if start >= data.m:
            start, epoch = 0, epoch + 1
            index = device.put(shuffled(seeds, leading, epoch, data.m))
    return _suggest(rates[: len(losses)], np.array(losses))


def least_possible(recipe: Recipe, device: Device, T: Array, weights: Array | None) -> float:
    """The loss of the best scores for these targets: of counts that of s = log t, else 0."""
    if recipe.loss.kind != "count":
        return 0.0
    xp = device.xp
    S = xp.log(xp.maximum(T, xp.full_like(T, float(xp.finfo(T.dtype).smallest_normal))))
    J, _, _ = recipe.kernels.score(xp, recipe.loss, S, T, weights)
    return float(np.mean(device.get(J)))


def _suggest(rates: npt.NDArray[np.float64], losses: npt.NDArray[np.float64]) -> LearningRates:
    """The rate of the steepest fall of the smoothed loss against log rate."""
    usable = np.isfinite(losses)
    kept, seen = rates[usable], losses[usable]
    if len(seen) < 3:
        return LearningRates(rates, losses, float(rates[0]))
    slope = np.gradient(smoothed(seen), np.log(kept))
    return LearningRates(rates, losses, float(kept[int(np.argmin(slope))]))


def smoothed(losses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The running mean of a search's losses (n,), over a tenth of them, the ends repeated."""
    width = max(1, len(losses) // 20)
    padded = np.pad(losses, width, mode="edge")
    return np.convolve(padded, np.ones(2 * width + 1) / (2 * width + 1), mode="valid")


__all__ = ["LearningRates", "search", "smoothed"]
