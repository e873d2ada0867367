"""Learning-rate schedules: the factor on the optimiser's rate at a given step.

A schedule is a value: `factor(step, n_steps, steps_per_epoch)`, all counted from 0 over
one call of `fit`, gives a float. `ReduceOnPlateau` also learns from the monitored loss;
what it remembers goes in and comes out of `observe`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Schedule:
    """Constant: the factor is 1."""

    def factor(self, step: int, n_steps: int, steps_per_epoch: int) -> float:
        """The multiple of the optimiser's rate to use for update number `step`."""
        return 1.0


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """1 / (step + 1)^power."""

    power: float = 0.5

    def factor(self, step: int, n_steps: int, steps_per_epoch: int) -> float:
        return float((step + 1) ** -self.power)


@dataclass(frozen=True)
class StepDecay(Schedule):
    """drop^⌊epoch / every⌋."""

    drop: float = 0.1
    every: int = 10

    def factor(self, step: int, n_steps: int, steps_per_epoch: int) -> float:
        return float(self.drop ** (step // (self.every * steps_per_epoch)))


@dataclass(frozen=True)
class Exponential(Schedule):
    """decay^epoch, falling at every step within the epoch too."""

    decay: float = 0.95

    def factor(self, step: int, n_steps: int, steps_per_epoch: int) -> float:
        return float(self.decay ** (step / steps_per_epoch))


@dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 to `final` along half a cosine (Loshchilov & Hutter 2017, eq. 5, no restart)."""

    final: float = 0.0

    def factor(self, step: int, n_steps: int, steps_per_epoch: int) -> float:
        return _cosine(1.0, self.final, step / max(n_steps - 1, 1))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from `start` to 1 in the first `warm` of the steps, down to `final` in the rest.

    Smith & Topin 2018, "Super-Convergence", with cosine ramps.
    """

    warm: float = 0.3
    start: float = 0.04
    final: float = 1e-4

    def factor(self, step: int, n_steps: int, steps_per_epoch: int) -> float:
        peak = self.warm * (n_steps - 1)
        if step < peak:
            return _cosine(self.start, 1.0, step / peak)
        return _cosine(1.0, self.final, (step - peak) / max(n_steps - 1 - peak, 1e-9))


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Linear from 1 / steps to 1 over the first `steps` updates, then `then`."""

    steps: int = 100
    then: Schedule = field(default_factory=Schedule)

    def factor(self, step: int, n_steps: int, steps_per_epoch: int) -> float:
        if step < self.steps:
            return (step + 1) / self.steps
        left = max(n_steps - self.steps, 1)
        return self.then.factor(step - self.steps, left, steps_per_epoch)


class Plateau(NamedTuple):
    """What ReduceOnPlateau remembers, one entry a network: (n_networks,) each."""

    best: npt.NDArray[np.float64]
    waited: npt.NDArray[np.int64]
    reduction: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """Times `drop` whenever the monitored loss has not improved for `patience` epochs.

    An improvement is a loss below (1 - `threshold`) · best. `lowest` bounds the factor.
    """

    drop: float = 0.1
    patience: int = 5
    threshold: float = 1e-4
    lowest: float = 1e-4

    def begin(self, n_networks: int) -> Plateau:
        """Nothing seen yet: any loss is an improvement."""
        worst = np.full(n_networks, np.finfo(np.float64).max)
        return Plateau(worst, np.zeros(n_networks, int), np.ones(n_networks))

    def observe(self, plateau: Plateau, loss: npt.NDArray[np.float64]) -> Plateau:
        """The memory after an epoch that ended with `loss` (n_networks,)."""
        better = loss < plateau.best - self.threshold * np.abs(plateau.best)
        waited = np.where(better, 0, plateau.waited + 1)
        drop = waited > self.patience
        reduction = np.where(
            drop, np.maximum(plateau.reduction * self.drop, self.lowest), plateau.reduction
        )
        return Plateau(np.where(better, loss, plateau.best), np.where(drop, 0, waited), reduction)


def _cosine(start: float, end: float, progress: float) -> float:
    """From `start` (progress 0) to `end` (progress ≥ 1) along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule(),
    "inverse_scaling": InverseScaling(),
    "step": StepDecay(),
    "exponential": Exponential(),
    "cosine": Cosine(),
    "one_cycle": OneCycle(),
    "warm_up": WarmUp(),
    "reduce_on_plateau": ReduceOnPlateau(),
}
