"""Scores and predictions of any recipe on a CuPy device: the pass forward, traced and captured.

A program is made for so many examples, which it finds as columns; what is asked is copied there,
and the whole is one launch. Many rows go through in pieces, what is left over in one that is a
power of two, as in `scores`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import cupy

from ..fast import gate
from ..fast.cublas import Cublas
from ..fast.graph import captured
from ..fast.launches import warn
from ..fast.predict import check
from ..fast.tracing import Untraceable
from ..hardware import Device
from ..kernels import SPEC
from ..training import Recipe, scores_of
from ..types import Array, State
from .cuda_plan import CudaPlan
from .cuda_program import CudaProgram
from .fuse import Fusion
from .graph import Graph
from .program import planned
from .scores import DTYPES, WORTH, rounded
from .trace import trace

MOST = 16  # programs kept in a thread
PIECE = 8192  # examples of the largest
FAILURES = (Untraceable, cupy.cuda.compiler.CompileException)


class Forward:
    """The program for m examples: scores, or what they stand for, where the last ones were."""

    def __init__(
        self, recipe: Recipe, state: State, m: int, predicts: bool, cublas: Cublas
    ) -> None:
        network, dtype, self.cublas = recipe.network, str(state.theta.dtype), cublas
        self.X = cupy.zeros((network.sizes[0], m), dtype)
        self.theta = cupy.ascontiguousarray(state.theta).copy()
        self.running = cupy.ascontiguousarray(state.running).copy()
        given = {"theta": self.theta, "running": self.running, "X": self.X}

        def make() -> CudaPlan:
            graph = Graph(dtype)
            known = {name: graph.input(name, x.shape, x.dtype) for name, x in given.items()}

            def formula(xp: Any) -> list[Any]:
                layers = network.split(xp, known["theta"])
                S = network.forward(SPEC, xp, layers, known["X"], running=known["running"]).scores
                return [recipe.loss.predict(xp, S) if predicts else S]

            return CudaPlan(Fusion(trace(formula, graph), [None]), recipe.precision)

        shapes = tuple(array.shape for array in given.values())
        key = (CudaProgram, "forward", network, recipe.loss, recipe.precision, predicts)
        self.program = CudaProgram(planned((*key, dtype, shapes), make), given, cublas)
        (self.out,) = self.program.roots
        self.graph: Any = None

    def take(self, state: State) -> None:
        """Go on with these parameters."""
        self.theta[...] = state.theta
        self.running[...] = state.running

    def __call__(self, rows: Array) -> Array:
        """Of m rows, or fewer: then the last columns say nothing."""
        stream = cupy.cuda.get_current_stream()
        self.X[:, : rows.shape[0]] = rows.T
        if self.graph is None:
            self.graph = self._captured()
        self.cublas.follow(stream.ptr)
        if self.graph:
            self.graph.launch(stream)
        else:
            self.program.run()
        return self.out

    def _captured(self) -> Any:
        """The program as a graph; False where that cannot be had."""
        try:
            return self.program.replayable and captured(self.cublas, self.program.calls)
        except RuntimeError:
            return False


class _Own(threading.local):
    """What each thread has for itself: others may ask at the same time."""

    def __init__(self) -> None:
        self.programs: dict[Any, Forward] = {}
        self.cublas = Cublas()

    def program(self, recipe: Recipe, state: State, m: int, predicts: bool) -> Forward:
        key = id(recipe), m, predicts
        found = self.programs.get(key)
        if found is None:
            if len(self.programs) >= MOST:
                self.programs.clear()
            found = self.programs[key] = Forward(recipe, state, m, predicts, self.cublas)
        return found


def takes(recipe: Recipe, state: State) -> bool:
    """Whether this is of use: dense networks have kernels of their own."""
    return str(state.theta.dtype) in DTYPES and not gate.takes(gate.READ, recipe)


class CudaScores:
    """`scores_of` for one recipe after another, of many rows at once."""

    def __init__(self, device: Device) -> None:
        self.device, self.own = device, _Own()
        self.recipe: Recipe | None = None
        self.compiles = True

    def __call__(self, recipe: Recipe, state: State, rows: Array) -> Array:
        """Scores (…, n_out, m) of rows (m, n_features)."""
        network, m = recipe.network, rows.shape[0]
        if recipe is not self.recipe:
            self.recipe, self.own, self.compiles = recipe, _Own(), True
        networks = math.prod(state.theta.shape[:-1])
        known = self.compiles and isinstance(rows, cupy.ndarray) and takes(recipe, state)
        if known and networks * network.work * m >= WORTH:
            try:
                return self._traced(recipe, state, rows)
            except FAILURES as error:
                warn("of an evaluation", error)
                self.compiles = False
        return scores_of(recipe, self.device.xp, state, rows)

    def _traced(self, recipe: Recipe, state: State, rows: Array) -> Array:
        m, size, found = rows.shape[0], min(PIECE, recipe.network.at_once), None
        fresh: set[int] = set()
        for start in range(0, m, size):
            piece = rows[start : start + size]
            n = piece.shape[0]
            forward = self.own.program(recipe, state, min(size, rounded(n)), False)
            if id(forward) not in fresh:
                forward.take(state)
                fresh.add(id(forward))
            S = forward(piece)
            if found is None:
                found = cupy.empty((*S.shape[:-1], m), S.dtype)
            found[..., start : start + n] = S[..., :n]
        assert found is not None
        return found

    def predictor(
        self, recipe: Recipe, state: State, most: int
    ) -> Callable[[Array], Array | None] | None:
        """rows (m, n_features) → what they stand for, (…, n_out, m), where the last ones were.

        None where nothing can be traced, which a call may find out and then gives None.
        """
        if not takes(recipe, state):
            return None
        own, home, compiles = _Own(), state.theta.device, True

        def predict(rows: Array) -> Array | None:
            nonlocal compiles
            check(rows, recipe.network.sizes[0], most)
            if not compiles or rows.shape[0] == 0:
                return None
            if cupy.cuda.runtime.getDevice() != home.id:
                with home:
                    return predict(rows)
            try:
                return own.program(recipe, state, rows.shape[0], True)(rows)
            except FAILURES as error:
                warn("of a prediction", error)
                compiles = False
                return None

        return predict


__all__ = ["CudaScores"]
