"""The training step of any recipe on a CuPy device: `training.train_step` itself, traced.

It stands in the place of `fast.program` in a `fast.cupy.CupyStep` or a `fast.graph.GraphStep`,
which know of epochs, rates, replay and rows on the host; nothing here knows what a step consists
of. A step is a launch that fetches the batch's examples as columns, one for its targets, weights
and the optimiser's scalars, one that draws dropout bits where there are any, the program's own,
and one that puts the loss in its place and moves the inbox on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

import cupy
import numpy as np

from ..fast import cuda_source as cuda
from ..fast.cupy import CupyStep
from ..fast.graph import GraphError, GraphStep
from ..fast.launches import THREADS, Launch, Unless, blocks, warn
from ..fast.tracing import Untraceable
from ..hardware import Device
from ..kernels import SPEC, Kernels, at_precision
from ..training import Data, Recipe, batch, train_step
from ..types import Array, State
from .cuda_plan import CudaPlan
from .cuda_program import CudaProgram
from .program import planned
from .step import DTYPES, StepPlan, key_of, traced

T = TypeVar("T")


@dataclass(frozen=True)
class Shared(Recipe):
    """A recipe of which a rank computes its share of every batch.

    rank, size  this one's number, and how many there are
    summed      the specification's kernels with sums over all ranks, for the tracer
    votes       what each rank says, on all of them: a host's value → a list
    """

    rank: int = 0
    size: int = 1
    summed: Kernels = SPEC
    votes: Callable[[Any], list[Any]] = lambda value: [value]

    def share(self, m: int) -> slice:
        """This rank's of a batch of m examples: all of them where there are fewer than ranks."""
        if m < self.size:
            return slice(0, m)
        return slice(self.rank * m // self.size, (self.rank + 1) * m // self.size)

    def own(self, m: int) -> Kernels:
        """The specification's kernels for its share of a batch of m examples."""
        return SPEC if m < self.size else self.summed


class TracedProgram:
    """A `fast.cupy.Launches` of what the specification does on m examples."""

    def __init__(self, step: CupyStep, m: int, shared: bool) -> None:
        self.step, self.m, self.shared = step, m, shared
        self.recipe, self.reads = step.recipe, step.buffers()
        self.share, self.summed = slice(0, m), SPEC
        if isinstance(step.recipe, Shared):
            self.share, self.summed = step.recipe.share(m), step.recipe.own(m)
        self.own = self.share.stop - self.share.start  # examples that it computes
        self.graphs, self.replayable = dict[int, Any](), True
        self.dtype, self.K = str(step.theta.dtype), step.networks
        network, own = self.recipe.network, () if shared else step.leading
        self.drawn = network.n_dropped * m
        self.bits = self.kept = cupy.empty((*step.leading, self.drawn), np.uint16)
        if self.own < m:
            self.kept = cupy.empty((*step.leading, network.n_dropped * self.own), np.uint16)
        self.calls: list[Callable[[], object]] = []
        try:
            loss = self._compiled(own)
        except (Untraceable, cupy.cuda.compiler.CompileException) as error:
            warn("of a step", error)
            self.calls, self.replayable = [], False
            self._draw_bits()
            loss = cupy.empty(step.leading, self.dtype)
            self.calls.append(lambda: self._specified(loss))
        arguments = (step.inbox, loss, self.K, m)
        self.calls.append(Launch(cuda.end_step(self.dtype), (1,), (THREADS,), *arguments))

    @staticmethod
    def prepare(step: CupyStep) -> None:
        """There is nothing but what all steps have."""

    def run(self) -> None:
        """The launches of one step, in order."""
        for call in self.calls:
            call()

    # -- the batch

    def _compiled(self, own: tuple[int, ...]) -> Array:
        """Launches of the whole step; where it leaves the loss."""
        step, data, recipe = self.step, self.step.data, self.recipe
        given = {"theta": step.theta, "running": step.running}
        given |= {f"moment{i}": moment for i, moment in enumerate(step.moments)}
        given |= self._batch(own)
        self._draw_bits()
        if self.drawn:
            given["bits"] = self.kept
        if recipe.connected is not None:
            given["connected"] = cupy.ascontiguousarray(recipe.connected)
        # what the kernels compute is the specification's, and cuBLAS sees to the precision
        known = replace(
            recipe,
            kernels=self.summed,
            decayed=cupy.asnumpy(recipe.decayed),
            classes=cupy.asnumpy(recipe.classes),
        )
        shapes = {name: (array.shape, str(array.dtype)) for name, array in given.items()}
        plans = partial(CudaPlan, precision=recipe.precision)
        key = (CudaProgram, recipe.precision, key_of(known, data, shapes))
        made: StepPlan = planned(key, lambda: traced(known, data, shapes, plans))
        program = CudaProgram(cast(CudaPlan, made.plan), given, step.cublas)
        self.calls += program.calls
        self.replayable = self.replayable and program.replayable
        *arrays, loss = program.roots
        for name, array in zip(made.changed, arrays, strict=True):
            if name in made.late:
                to, size = given[name], array.size
                launch = Launch(
                    cuda.copied(self.dtype), (blocks(size, THREADS),), (THREADS,), to, array, size
                )
                self.calls.append(launch)
        self.program = program
        return loss

    def _batch(self, own: tuple[int, ...]) -> dict[str, Array]:
        """Fetch the examples; by what names the step reads them."""
        step, data, m, networks = self.step, self.step.data, self.own, math.prod(own)
        first = self.share.start
        n_in, n_out = self.recipe.network.sizes[0], self.recipe.network.sizes[-1]
        X = cupy.empty((*own, n_in, m), self.dtype)
        if hasattr(data.rows, "toarray"):
            self.calls.append(lambda: step.fetch(X, first))
            self.replayable = False
        else:
            arguments: tuple[Any, ...] = (X, data.rows, step.inbox, first, n_in, m)
            tiles = (blocks(n_in, 32) * blocks(m, 32), networks)
            self.calls.append(Launch(cuda.gather(self.dtype), tiles, (THREADS,), *arguments))
        labelled, n = data.targets.ndim == 1, step.now.shape[-1] - 1
        width = 1 if labelled else n_out
        targets = cupy.empty((*own, m) if labelled else (*own, m, n_out), data.targets.dtype)
        given = {"X": X, "targets": targets}
        if data.weights is not None:
            given["weights"] = cupy.empty((*own, m), self.dtype)
        scalars = cupy.empty((n, self.K), self.dtype)
        size = max(m * width, n * self.K)
        arguments = (step.inbox, first, targets, data.targets, width)
        arguments += (given.get("weights"), data.weights, scalars, n, self.K, m)
        grid = (blocks(size, THREADS), networks)
        take = cuda.take_batch(self.dtype, labelled)
        self.calls.append(Launch(take, grid, (THREADS,), *arguments))
        shape = (*step.leading, 1) if step.leading else ()
        names = [f"scalar{i}" for i in range(n)]
        if self.recipe.optimizer.weight_decay != 0:
            names[-1] = "shrink"
        given |= {name: row.reshape(shape) for name, row in zip(names, scalars, strict=True)}
        return given

    def _draw_bits(self) -> None:
        if not self.drawn:
            return
        step = self.step
        grid = (blocks(self.drawn, 16 * THREADS), self.K)
        arguments = (self.bits, step.seeds, step.inbox, -1, self.drawn)
        draw = Launch(cuda.draw_bits(self.dtype), grid, (THREADS,), *arguments)
        self.calls.append(Unless(step, draw))
        if self.own < self.m:  # those of the whole batch are drawn, as on one device
            lead, n = step.leading, self.recipe.network.n_dropped
            mine, drawn = self.kept.reshape(*lead, n, -1), self.bits.reshape(*lead, n, -1)
            self.calls.append(lambda: cupy.copyto(mine, drawn[..., self.share]))

    # -- where nothing can be compiled

    def _specified(self, loss: Array) -> None:
        """The step by the specification, on the state's own arrays."""
        step, recipe, xp = self.step, self.recipe, self.step.xp
        if isinstance(recipe, Shared):
            recipe = replace(recipe, kernels=at_precision(self.summed, recipe.precision))
        X, T, weights = batch(recipe, xp, step.data, step.index[..., self.share])
        state = State(step.theta, step.moments, step.running, step.number)
        bits = self.kept if self.drawn else None
        after = train_step(recipe, xp, state, X, T, weights, bits, step.rate)
        mine = (step.theta, step.running, *step.moments, loss)
        new = (after.theta, after.running, *after.moments, after.loss)
        for to, array in zip(mine, new, strict=True):
            to[...] = array


class SharedStep(GraphStep):
    """A `GraphStep` of one rank among several: they replay all, or none.

    Ranks of which some proved a graph that the others did not have would wait for each other.
    """

    faults = (GraphError,)

    def agreed(self, make: Callable[[], T]) -> T:
        recipe, made, failed = cast(Shared, self.recipe), cast(Any, None), None
        try:
            made = make()
        except GraphStep.faults as error:
            failed = error
        said = recipe.votes(None if failed is None else str(failed) or type(failed).__name__)
        for rank, words in enumerate(said):
            if words is not None:
                raise GraphError(f"on rank {rank}: {words}") from failed
        return cast(T, made)


def stepper(recipe: Recipe, device: Device, data: Data, graph: Any) -> CupyStep | None:
    """The step of a recipe, traced; None where that may mean something else."""
    if type(data) is not Data or str(recipe.decayed.dtype) not in DTYPES:
        return None
    if graph:
        kind = SharedStep if isinstance(recipe, Shared) else GraphStep
        return kind(recipe, device, data, graph, TracedProgram)
    return CupyStep(recipe, device, data, TracedProgram)


__all__ = ["Shared", "TracedProgram", "stepper"]
