"""Where the examples of an epoch come from: parts that lie on the device, one after the other.

Examples in memory are one part, the same in every epoch. A stream (`streams.feed`) has as many
as it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .hardware import Device
from .training import Data, Recipe, Score, Scores, Step, evaluate, shuffled, stepper
from .types import State

# Multiplications of what is watched, from which on the BLAS has all its threads for it. They spin
# for milliseconds when they are done, on cores that the next steps want: of the digits, 180 of
# which are watched, a step took 154 µs in the place of 108.
MUCH = 1 << 30


class Wanted(Protocol):
    """What decides the order of examples, of a `fitting.Plan`."""

    @property
    def batch_size(self) -> int: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def leading(self) -> tuple[int, ...]: ...
    @property
    def shuffle(self) -> bool: ...


class Part(NamedTuple):
    """Some of an epoch's examples, and the order in which batches take them.

    order    (n,) indices of the data's rows, or (n_networks, n)
    weights  those of the data on the host, or None
    """

    data: Data
    order: npt.NDArray[np.int64]
    weights: npt.NDArray[Any] | None


# epoch → its parts; all but the last hold a whole number of batches
Parts = Callable[[int], Iterator[Part]]


class Examples(Protocol):
    """What a training takes its batches from, or measures itself on."""

    @property
    def m(self) -> int: ...

    def passes(
        self, plan: Wanted, epochs: Sequence[int], check: Callable[[], object], begun: int = 0
    ) -> Any:
        """A context with the `Parts` of these epochs, asked for one after the other.

        check  called now and then while a part is waited for
        begun  batches of the first epoch that were taken before: they are in no part
        """
        ...

    def evaluate(self, recipe: Recipe, device: Device, state: State, scores: Scores) -> Score:
        """The mean loss and the score of `training.evaluate`, on the host."""
        ...


class InMemory:
    """Examples that are on the device, all of them."""

    def __init__(self, data: Data, device: Device) -> None:
        self.data, self.m = data, data.m
        self.weights = None if data.weights is None else device.get(data.weights)

    @contextmanager
    def passes(
        self, plan: Wanted, epochs: Sequence[int], check: Callable[[], object], begun: int = 0
    ) -> Iterator[Parts]:
        def parts(epoch: int) -> Iterator[Part]:
            taken = begun * plan.batch_size if epoch == epochs[0] else 0
            if taken >= self.m:
                return
            order = np.arange(self.m)
            if plan.shuffle:
                order = shuffled(plan.seeds, plan.leading, epoch, self.m)
            yield Part(self.data, order[..., taken:], self.weights)

        yield parts

    def evaluate(self, recipe: Recipe, device: Device, state: State, scores: Scores) -> Score:
        few = self.m * recipe.network.work < MUCH
        with recipe.network.threads(device, self.m) if few else nullcontext():
            found = evaluate(recipe, device.xp, state, self.data, scores)
        return Score(*map(device.get, found))


class Steps:
    """The step of a recipe on whatever part is at hand: made once where its data may change."""

    def __init__(self, recipe: Recipe, device: Device, make: Callable[..., Step] = stepper) -> None:
        self.recipe, self.device, self.make = recipe, device, make
        self.data: Data | None = None
        self.step: Any = None

    def on(self, data: Data) -> Step:
        if data is not self.data:
            if hasattr(self.step, "data"):
                self.step.data = data
            else:
                self.step = self.make(self.recipe, self.device, data)
            self.data = data
        found: Step = self.step
        return found

    def end(self) -> None:
        """Let the examples go: a step is part of a circle, which may live on for a while."""
        if hasattr(self.step, "end"):
            self.step.end()


__all__ = ["Examples", "InMemory", "Part", "Parts", "Steps", "Wanted"]
