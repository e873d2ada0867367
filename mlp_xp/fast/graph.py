"""Graph replay: whole training steps captured once, then one launch from the host.

Everything that changes from step to step lies in the step's inbox on the device, and every
buffer was made before, so that a captured step is the same for all batches, rates and step
counts. So a graph may hold several steps: of an epoch that is announced, 16 are taken at
once, since a launch costs the host 25 to 30 µs, more than a small network's steps take the
device; what is left of an epoch, by graphs of 8, 4, 2 and 1. CuPy's own cuBLAS calls cannot
be captured; those of `cublas` can.

Replay is trusted after it has proved itself, in this process and on the network and data in
hand: ten replayed steps or more, of other batches at other rates, must equal as many eager
ones. The state is put back as it was.

A program belongs to one batch size and to the buffers its launches hold: with another size
or other buffers comes another program, captured and proved anew.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, TypeVar

import cupy
import numpy as np

from ..hardware import Device
from ..training import Data, Recipe
from ..types import Array, State
from . import gate
from .cublas import Cublas
from .cupy import CupyStep, Launches
from .program import Program

TAKES = gate.READ
STEPS = 10  # of the proof, at least
T = TypeVar("T")
log = logging.getLogger("mlp_xp")


class GraphError(RuntimeError):
    """A step cannot be captured and replayed."""


@contextmanager
def nothing_freed() -> Iterator[None]:
    """Keep Python from collecting garbage: CUDA refuses to destroy a graph during a capture.

    Steps and their programs refer to each other, so that old graphs wait for the collector.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def captured(cublas: Cublas, calls: Iterable[Callable[[], object]]) -> Any:
    """The launches of these calls as a CuPy graph; cuBLAS follows another stream from then on."""
    stream = cupy.cuda.Stream(non_blocking=True)
    cublas.follow(stream.ptr)
    with stream, nothing_freed():
        # not CuPy's relaxed mode, in which an allocation would go unnoticed
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
        try:
            for call in calls:
                call()
        finally:  # a capture that failed must end too
            graph = stream.end_capture()
    graph.upload(cupy.cuda.get_current_stream())
    return graph


class Replay:
    """Captured steps: a call launches them on the current stream."""

    def __init__(self, step: CupyStep, program: Launches, count: int) -> None:
        self.graph = captured(step.cublas, [program.run] * count)

    def __call__(self) -> None:
        self.graph.launch(cupy.cuda.get_current_stream())


class GraphStep(CupyStep):
    """A `CupyStep` that replays its programs.

    graph   True, or "auto": where replay cannot be had, an error or a line in the log
    failed  why a program stays eager
    faults  of a proof, for which it does
    """

    faults: ClassVar[tuple[type[Exception], ...]] = (RuntimeError, NotImplementedError, MemoryError)

    def __init__(
        self,
        recipe: Recipe,
        device: Device,
        data: Data,
        graph: Any,
        kind: type[Launches] = Program,
    ) -> None:
        super().__init__(recipe, device, data, kind)
        self.graph, self.failed = graph, ""

    def agreed(self, make: Callable[[], T]) -> T:
        """What `make` gives, or its error; where several processes replay, that of one is all's."""
        return make()

    def launch(self, program: Launches, count: int) -> None:
        if self.given:  # bits from elsewhere: the captured step would draw its own
            super().launch(program, count)
            return
        while count:
            n = 1 << min(count, self.most).bit_length() - 1
            if n not in program.graphs:
                program.graphs[n] = self._proved(program, n)
            replay = program.graphs[n]
            if not replay:
                super().launch(program, count)
                return
            replay()
            self.moved(program, n)
            count -= n

    def _proved(self, program: Launches, count: int) -> Replay | None:
        """The program as a graph that equals it, or None with the reason in the log."""
        try:
            return prove(self, program, count)
        except self.faults as error:
            self.failed = str(error) or type(error).__name__
            self.cublas.follow(cupy.cuda.get_current_stream().ptr)
            if self.graph is True:
                raise GraphError(
                    f"a step cannot be replayed as a graph: {self.failed}. Leave graph='auto' "
                    "to have it run eagerly."
                ) from error
            log.info("training steps are not replayed as a graph: %s", self.failed)
            return None


def prove(step: GraphStep, program: Launches, count: int) -> Replay:
    """Capture `count` steps; replayed they must equal eager ones, or `GraphError`.

    Steps are wholly determined, so equal means equal bits. Leaves every number as it was.
    """
    step.agreed(partial(_replayable, program))
    kept = (step.theta, step.running, *step.moments, step.inbox, step.now, program.bits)
    before = [array.copy() for array in kept]
    place = step.epoch, step.start, step.row, step.number, step.index
    stream, rounds = cupy.cuda.get_current_stream(), -(-STEPS // count)

    def put_back() -> None:
        for array, value in zip(kept, before, strict=True):
            array[...] = value

    def outcome(run: Any, times: int) -> list[Array]:
        put_back()
        _announce(step, program, rounds * count)
        for _ in range(times):
            run()
        return [array.copy() for array in (*kept, step.losses)]

    try:
        step.cublas.follow(stream.ptr)
        eager = outcome(program.run, rounds * count)
        replay = step.agreed(lambda: Replay(step, program, count))
        replayed = outcome(replay, rounds)
        step.agreed(lambda: _equal(replayed, eager))
    finally:
        put_back()
        step.epoch, step.start, step.row, step.number, step.index = place
        step.cublas.follow(stream.ptr)
    return replay


def _replayable(program: Launches) -> None:
    if not program.replayable:
        raise GraphError("rows come from the host, or the specification computes a part")


def _equal(replayed: list[Array], eager: list[Array]) -> None:
    for mine, theirs in zip(replayed, eager, strict=True):
        if mine.dtype != np.int64 and not bool(cupy.array_equal(mine, theirs, equal_nan=True)):
            difference = float(cupy.nanmax(cupy.abs(mine.astype("f8") - theirs)))
            raise GraphError(f"replayed steps differ from eager ones, by {difference:.3g}")


def _announce(step: CupyStep, program: Launches, count: int) -> None:
    """Batches of the data in any order, at as many rates."""
    random, own = np.random.default_rng(0), () if program.shared else step.leading
    order = random.integers(0, step.data.m, (*own, count * program.m))
    rates = [step.recipe.optimizer.rate / (1 + number) for number in range(count)]
    state = State(step.theta, step.moments, step.running, step.number)
    step.announce(state, cupy.asarray(order), rates)


def stepper(recipe: Recipe, device: Device, data: Data, graph: Any = "auto") -> CupyStep | None:
    """A step on CuPy arrays, replayed where it can be; None for what `TAKES` has not."""
    if not gate.takes(TAKES, recipe, data):
        return None
    return GraphStep(recipe, device, data, graph) if graph else CupyStep(recipe, device, data)
