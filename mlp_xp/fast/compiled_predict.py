"""Predictions on NumPy arrays by compiled kernels: one call from rows to probabilities.

The way forward of `fast.compiled`, on buffers made once for every number of rows that
comes, and in every thread that asks. Of one row it takes half the time of `fast.predict`,
whose calls are all it costs.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from ..training import Recipe
from ..types import Layer
from . import blas, c_source, native
from .calls import address, parts_of
from .compiled import CompiledTape
from .numpy import Arena, Buffer
from .predict import Predictor, check
from .predict import predictor as in_place
from .threads import Shared
from .tracing import Untraceable

WORTH = 1_000_000  # multiplications from which on a product is shared out to threads
FEW = 256  # rows at most for which buffers are kept that nobody asked for
MOST_PLANS = 16  # numbers of rows that are remembered


class Plan:
    """The calls for m rows: `run` finds them at `rows` and leaves the answer in `out`."""

    def __init__(self, recipe: Recipe, layers: Sequence[Layer], arena: Arena, m: int) -> None:
        dtype, arena.taken = str(layers[0].W.dtype), 0
        tape = CompiledTape(arena, dtype, ())
        rows = np.zeros((m, layers[0].W.shape[1]), dtype)
        A = rows.T
        for layer, activation in zip(layers, recipe.network.activations, strict=False):
            Z = tape.multiply(layer.W, A, tape.buffer(layer.W.shape[0], m))
            body = c_source.layer_forward(dtype, c_source.Shape(activation, 0.0, False))
            parts = parts_of(Z.size)
            tape.kernel(body, Z, None, layer.b, None, *Z.shape, parts=parts)
            A = Z
        last = layers[-1]
        S = tape.multiply(last.W, A, tape.buffer(last.W.shape[0], m))
        self.out = tape.buffer(*S.shape)
        body = c_source.predict(dtype, recipe.loss)
        tape.kernel(body, S, last.b, self.out, *S.shape, parts=parts_of(S.size))
        tape.finish()
        (self.call,) = tape.calls
        (table, row), *_ = tape.products
        self.tape, self.words = tape, table.words[row]
        self.large = m * max(layer.W.size for layer in layers) >= WORTH

    def run(self, rows: Buffer) -> Buffer:
        """The answer (n_out, m), which lies where the last one did."""
        self.words[10] = address(rows)
        if self.large:
            with Shared():
                self.call()
        else:
            self.call()
        return self.out


class _Own(threading.local):
    """What a predictor has for each thread: others may predict at the same time."""

    def __init__(self) -> None:
        self.plans: dict[int, Plan] = {}
        self.arena = Arena()


class CompiledPredictor:
    """rows (m, n_features) → what they stand for, (n_out, m).

    most       rows at most, and every answer lies where the last one of the same thread did;
               None: any number, and every answer is an array of its own
    otherwise  does the same without kernels
    """

    def __init__(
        self, recipe: Recipe, layers: Sequence[Layer], most: int | None, otherwise: Predictor
    ) -> None:
        self.recipe, self.layers, self.most, self.otherwise = recipe, layers, most, otherwise
        self.turned = layers
        if most is not None and most > 1:  # the weights are those of now: by columns, see `blas`
            self.turned = [layer._replace(W=np.asfortranarray(layer.W)) for layer in layers]
        self.own, self.compiles = _Own(), True

    def __call__(self, rows: Buffer) -> Buffer:
        if not self.compiles or (self.most is None and len(rows) > FEW):
            return self.otherwise(rows)
        if self.most is not None:
            check(rows, self.layers, self.most)
            return self._answer(rows)
        check(rows, self.layers, FEW)
        found = self._answer(rows)
        return found.copy() if self.compiles else found

    def _answer(self, rows: Buffer) -> Buffer:
        own = self.own
        plan = own.plans.get(len(rows))
        if plan is None:
            if len(own.plans) == MOST_PLANS:
                own.plans.clear()
            try:
                layers = self.layers if len(rows) == 1 else self.turned
                plan = Plan(self.recipe, layers, own.arena, len(rows))
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
    """As `fast.predict.predictor`, compiled where all of it has kernels."""
    plain = in_place(recipe, layers, batch_size)
    if plain is None or not native.available():
        return plain
    dtype = layers[0].W.dtype
    flat = [array for layer in layers for array in (layer.W, layer.b)]
    known = dtype in (np.float32, np.float64) and all(array.dtype == dtype for array in flat)
    if not known or blas.product(str(dtype)) is None:
        return plain
    return CompiledPredictor(recipe, layers, batch_size, plain)
