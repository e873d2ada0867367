"""Predictions on NumPy arrays, compiled: one call from rows to what they stand for.

`network.forward` in evaluation and `Loss.predict`, traced for every number of rows that comes,
in every thread that asks. Of one row it takes half the time of `fast.predict`, whose calls are
all it costs.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..fast import aligned, blas, native
from ..fast.predict import Predictor, check
from ..fast.predict import predictor as in_place
from ..fast.threads import Shared
from ..fast.tracing import Untraceable
from ..training import Recipe
from ..types import Layer
from .fuse import Fusion
from .graph import Graph
from .program import Plan, Program, planned
from .trace import Tracer, trace

Buffer = npt.NDArray[Any]
WORTH = 1_000_000  # multiplications from which on a product is shared out to threads
FEW = 256  # rows at most for which buffers are kept that nobody asked for
MOST_PLANS = 16  # numbers of rows that are remembered
ALONE = nullcontext()


class _Own(threading.local):
    """What a predictor has for each thread: others may predict at the same time."""

    def __init__(self) -> None:
        self.plans: dict[int, Prediction] = {}
        self.block: Buffer | None = None


class Given(NamedTuple):
    """What a prediction is given: rows of n_features, and the arrays of layers, each by a name.

    turned  whether an array lies by columns: then it is given as its transpose
    """

    n_features: int
    n_layers: int
    arrays: dict[str, Buffer]
    turned: dict[str, bool]

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> Given:
        """Raises `Untraceable` for entries that do not lie together."""
        found = cls(layers[0].W.shape[-1], len(layers), {}, {})
        for i, layer in enumerate(layers, 1):
            for name, array in layer._asdict().items():
                if array is not None:
                    turned = found.turned[f"{name}{i}"] = not array.flags.c_contiguous
                    found.arrays[f"{name}{i}"] = array.T if turned else array
        if not all(array.flags.c_contiguous for array in found.arrays.values()):
            raise Untraceable("parameters whose entries do not lie together")
        return found

    def plan(self, recipe: Recipe, m: int) -> Plan:
        """What is to be done for m rows."""
        network, dtype = recipe.network, str(self.arrays["W1"].dtype)
        graph = Graph(dtype)
        xp = Tracer(graph)
        known = {name: graph.input(name, array.shape) for name, array in self.arrays.items()}
        turn, turned = xp.matrix_transpose, self.turned
        seen = {name: turn(x) if turned[name] else x for name, x in known.items()}
        rows = graph.input("rows", (m, self.n_features))
        nodes = [
            Layer(*(seen.get(f"{name}{i}") for name in Layer._fields))
            for i in range(1, self.n_layers + 1)
        ]

        def formula(xp: Any) -> list[Any]:
            S = network.forward(recipe.kernels, xp, nodes, xp.matrix_transpose(rows)).scores
            return [recipe.loss.predict(xp, S)]

        return Plan(Fusion(trace(formula, graph), [None]))


class Prediction:
    """The program for m rows: `run` finds them at `rows` and leaves the answer in `out`."""

    def __init__(self, recipe: Recipe, layers: Sequence[Layer], own: _Own, m: int) -> None:
        dtype, given = str(layers[0].W.dtype), Given.of(layers)
        shapes = tuple((name, array.shape) for name, array in given.arrays.items())
        read = (recipe.network, recipe.loss, recipe.kernels)
        key = ("predict", *read, dtype, m, shapes, tuple(given.turned.items()))
        plan = planned(key, lambda: given.plan(recipe, m))
        rows = aligned.zeros((m, given.n_features), dtype)
        self.program = Program(plan, {**given.arrays, "rows": rows}, None, own.block)
        self.program.finish()
        own.block = self.program.block
        (self.out,) = self.program.roots
        self.rows = plan.inputs["rows"]
        work = m * max(layer.W.size for layer in layers)
        self.inside: Any = Shared() if work >= WORTH else ALONE

    def run(self, rows: Buffer) -> Buffer:
        """The answer (n_out, m), which lies where the last one did."""
        self.program.give(self.rows, rows)
        with self.inside:
            self.program.run()
        return self.out


class CompiledPredictor:
    """rows (m, n_features) → what they stand for, (…, n_out, m).

    most       rows at most, and every answer lies where the last one of the same thread did;
               None: any number, and every answer is an array of its own
    otherwise  does the same without kernels
    """

    def __init__(
        self, recipe: Recipe, layers: Sequence[Layer], most: int | None, otherwise: Predictor
    ) -> None:
        self.recipe, self.layers, self.most, self.otherwise = recipe, layers, most, otherwise
        self.own, self.compiles = _Own(), True

    def __call__(self, rows: Buffer) -> Buffer:
        if not self.compiles or (self.most is None and len(rows) > FEW):
            return self.otherwise(rows)
        if self.most is not None:
            check(rows, self.layers[0].W.shape[-1], self.most)
            return self._answer(rows)
        check(rows, self.layers[0].W.shape[-1], FEW)
        found = self._answer(rows)
        return found.copy() if self.compiles else found

    def _answer(self, rows: Buffer) -> Buffer:
        own = self.own
        plan = own.plans.get(len(rows))
        if plan is None:
            if len(own.plans) == MOST_PLANS:
                own.plans.clear()
            try:
                plan = Prediction(self.recipe, self.layers, own, len(rows))
            except (Untraceable, native.CannotCompile, ValueError):  # strides no BLAS takes
                self.compiles = False
                return self.otherwise(rows)
            own.plans[len(rows)] = plan
        if rows.dtype != plan.out.dtype or not rows.flags.c_contiguous:
            rows = np.ascontiguousarray(rows, plan.out.dtype)
        return plan.run(rows)


def predictor(
    recipe: Recipe, layers: Sequence[Layer], batch_size: int | None = None
) -> Predictor | None:
    """As `fast.predict.predictor`, compiled where all of it can be."""
    plain = in_place(recipe, layers, batch_size)
    if plain is None or not native.available():
        return plain
    dtype = layers[0].W.dtype
    flat = [array for layer in layers for array in (layer.W, layer.b)]
    known = dtype in (np.float32, np.float64) and all(array.dtype == dtype for array in flat)
    if not known or blas.product(str(dtype)) is None:
        return plain
    return CompiledPredictor(recipe, layers, batch_size, plain)


__all__ = ["FEW", "CompiledPredictor", "predictor"]
