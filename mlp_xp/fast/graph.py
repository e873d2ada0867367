"""Graph replay: a whole training step captured once, then one launch from the host.

Everything that changes from step to step lies in the step's inbox on the device, and every
buffer was made before, so that a captured step is the same for all batches, rates and step
counts. CuPy's own cuBLAS calls cannot be captured; those of `cublas` can.

Replay is trusted after it has proved itself, in this process and on the network and data in
hand: ten replayed steps, of other batches at other rates, must equal ten eager ones. The
state is put back as it was.

A program belongs to one batch size and to the buffers its launches hold: with another size
or other buffers comes another program, captured and proved anew.
"""

from __future__ import annotations

import logging
from typing import Any

import cupy
import numpy as np

from ..devices import Device
from ..training import Data, Recipe
from ..types import Array, State
from .cupy import CupyStep
from .program import Program

STEPS = 10  # of the proof
log = logging.getLogger("mlp_xp")


class GraphError(RuntimeError):
    """A step cannot be captured and replayed."""


class Replay:
    """A captured step: a call launches it on the current stream."""

    def __init__(self, step: CupyStep, program: Program) -> None:
        stream = cupy.cuda.Stream(non_blocking=True)
        step.cublas.follow(stream.ptr)
        with stream:
            # not CuPy's relaxed mode, in which an allocation would go unnoticed
            stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
            try:
                program.run()
            finally:  # a capture that failed must end too
                self.graph = stream.end_capture()
        self.graph.upload(cupy.cuda.get_current_stream())

    def __call__(self) -> None:
        self.graph.launch(cupy.cuda.get_current_stream())


class GraphStep(CupyStep):
    """A `CupyStep` that replays its programs.

    graph   True, or "auto": where replay cannot be had, an error or a line in the log
    failed  why a program stays eager
    """

    def __init__(self, recipe: Recipe, device: Device, data: Data, graph: Any) -> None:
        super().__init__(recipe, device, data)
        self.graph, self.failed = graph, ""

    def launch(self, program: Program) -> None:
        if self.given:  # bits from elsewhere: the captured step would draw its own
            program.run()
            return
        if program.graph is None:
            program.graph = self._proved(program)
        if program.graph:
            program.graph()
        else:
            program.run()

    def _proved(self, program: Program) -> Replay | bool:
        """The program as a graph that equals it, or False with the reason in the log."""
        try:
            return prove(self, program)
        except (RuntimeError, NotImplementedError, MemoryError) as error:
            self.failed = str(error) or type(error).__name__
            self.cublas.follow(cupy.cuda.get_current_stream().ptr)
            if self.graph is True:
                raise GraphError(
                    f"a step cannot be replayed as a graph: {self.failed}. Leave graph='auto' "
                    "to have it run eagerly."
                ) from error
            log.info("training steps are not replayed as a graph: %s", self.failed)
            return False


def prove(step: CupyStep, program: Program) -> Replay:
    """Capture a program; ten replayed steps must equal ten eager ones, or `GraphError`.

    Steps are wholly determined, so equal means equal bits. Leaves every number as it was.
    """
    if not program.replayable:
        raise GraphError("rows come from the host, or the specification computes a part")
    kept = (step.theta, step.running, *step.moments, step.inbox, step.now, program.bits)
    before = [array.copy() for array in kept]
    place = step.epoch, step.start, step.row, step.number, step.index
    stream = cupy.cuda.get_current_stream()

    def put_back() -> None:
        for array, value in zip(kept, before, strict=True):
            array[...] = value

    def outcome(run: Any) -> list[Array]:
        put_back()
        _announce_ten(step, program)
        for _ in range(STEPS):
            run()
        assert step.epoch is not None
        arrays = (*kept, step.epoch.losses)
        return [array.copy() for array in arrays]

    try:
        step.cublas.follow(stream.ptr)
        eager = outcome(program.run)
        replay = Replay(step, program)
        replayed = outcome(replay)
        for mine, theirs in zip(replayed, eager, strict=True):
            if mine.dtype != np.int64 and not bool(cupy.array_equal(mine, theirs, equal_nan=True)):
                difference = float(cupy.nanmax(cupy.abs(mine.astype("f8") - theirs)))
                raise GraphError(f"replayed steps differ from eager ones, by {difference:.3g}")
    finally:
        put_back()
        step.epoch, step.start, step.row, step.number, step.index = place
        step.cublas.follow(stream.ptr)
    return replay


def _announce_ten(step: CupyStep, program: Program) -> None:
    """Ten batches of the data, at ten rates."""
    random, own = np.random.default_rng(0), () if program.shared else step.leading
    order = random.integers(0, step.data.m, (*own, STEPS * program.m))
    rates = [step.recipe.optimizer.rate / (1 + number) for number in range(STEPS)]
    state = State(step.theta, step.moments, step.running, step.number)
    step.announce(state, cupy.asarray(order), rates)


def stepper(recipe: Recipe, device: Device, data: Data, graph: Any = "auto") -> CupyStep:
    """A step on CuPy arrays, replayed where it can be."""
    return GraphStep(recipe, device, data, graph) if graph else CupyStep(recipe, device, data)
