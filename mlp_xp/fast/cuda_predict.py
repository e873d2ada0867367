"""Predictions on a CuPy device: what is launched is known before the examples come.

A kernel a layer, the last with the loss's formula at its end, on buffers made once. The
first reads the examples where they lie, and is launched by itself; what is after it, where
that is more than one launch, is captured and replayed: two launches however deep the
network. Of large products, which are cuBLAS's, and of formulas that have no kernel, nothing
is known here: the specification predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import cupy

from ..kernels import PRECISIONS
from ..training import Recipe
from ..types import Array, Layer
from . import cuda_source as cuda
from .choice import ours, tile
from .graph import nothing_freed
from .launches import THREADS, Launch, blocks, together
from .predict import check
from .tracing import Untraceable

MOST_PLANS = 16  # numbers of rows that are remembered


class Plan:
    """The launches for m rows that lie so: `run` finds them at `rows`, the answer in `out`."""

    def __init__(
        self, recipe: Recipe, layers: Sequence[Layer], rows: Array, lies: cuda.Lies
    ) -> None:
        (m, _), dtype = rows.shape, str(layers[0].W.dtype)
        leading = layers[0].W.shape[:-2]
        K = leading[0] if leading else 1
        self.calls: list[Launch] = []
        self.graph: Any = None
        A = rows
        for number, layer in enumerate(layers):
            n, inner = layer.W.shape[-2:]
            stride = layer.W.strides[0] // layer.W.itemsize if leading else 0
            last = number == len(layers) - 1
            size = tile(((n, inner, m),), K, dtype, last)
            left = together(layer.W, inner, stride)
            right = together(A, inner if lies == "rows" else m)
            size = size._replace(together=(left, right), digits=PRECISIONS[recipe.precision])
            grid = (blocks(n, size.rows) * blocks(m, size.columns), K)
            out = cupy.empty((*leading, n, m), dtype)
            given: tuple[Any, ...] = (layer.W, A, None, None, bool(number and leading), inner)
            if last:
                source = cuda.forecast(dtype, recipe.loss, size, lies)
                given += (layer.b, out, n, m, stride)
            else:
                activation = recipe.network.activations[number]
                apart = activation.slope_of == "Z"  # which is written too, for no way back
                source = cuda.layer_forward(dtype, cuda.Shape(activation, apart=apart), size, lies)
                V = cupy.empty_like(out) if apart else out
                given += (V, out, layer.b, *(None,) * 6, n, m, stride, *(0,) * 6, None)
            self.calls.append(Launch(source, grid, (THREADS,), *given))
            A, lies = out, "columns"
        self.out = A

    def run(self, rows: Array) -> Array:
        """The answer (…, n_out, m), which lies where the last one did."""
        first, *others = self.calls
        first.values[1] = rows.data.ptr
        first()
        if self.graph is None and len(others) > 1:
            self.graph = self._captured(others)
        if self.graph:
            self.graph.launch(cupy.cuda.get_current_stream())
        else:
            for call in others:
                call()
        return self.out

    def _captured(self, calls: Sequence[Launch]) -> Any:
        """All but the first launch as a graph; False where that cannot be had."""
        stream = cupy.cuda.Stream(non_blocking=True)
        try:
            with stream, nothing_freed():
                stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
                try:
                    for call in calls:
                        call()
                finally:
                    graph = stream.end_capture()
            graph.upload(cupy.cuda.get_current_stream())
            return graph
        except RuntimeError:
            return False


def predictor(
    recipe: Recipe, layers: Sequence[Layer], batch_size: int | None = None
) -> Callable[[Array], Array | None] | None:
    """rows (m, n_features) → what they stand for, (…, n_out, m); None where SPEC has to do it.

    As `fast.predict.predictor`. The function gives None for rows that lie otherwise than in
    rows or columns.
    """
    network = recipe.network
    widths = list(pairwise(network.sizes))
    if network.normalization != "none" or network.residual or batch_size is None:
        return None
    K = layers[0].W.shape[0] if layers[0].W.ndim == 3 else 1
    small = all(ours(n, inner, batch_size, K) for inner, n in widths)
    if not small or network.sizes[-1] > cuda.WIDEST:
        return None
    home = layers[0].W.device
    plans: dict[Any, Plan] = {}

    def plan(rows: Array, lies: cuda.Lies) -> Plan:
        check(rows, layers, batch_size)
        if len(plans) == MOST_PLANS:
            plans.clear()
        return Plan(recipe, layers, rows, lies)

    def predict(rows: Array) -> Array | None:
        by_rows = bool(rows.flags.c_contiguous)
        if not (by_rows or rows.flags.f_contiguous) or rows.size == 0:
            return None
        if cupy.cuda.runtime.getDevice() != home.id:
            with home:
                return predict(rows)
        key = rows.shape, by_rows, rows.data.ptr % 16 == 0
        if key not in plans:
            plans[key] = plan(rows, "rows" if by_rows else "columns")
        return plans[key].run(rows)

    try:
        predict(cupy.zeros((batch_size, network.sizes[0]), layers[0].W.dtype))  # compiles
    except (Untraceable, cupy.cuda.compiler.CompileException):
        return None
    return predict
