"""Predictions on a CuPy device: what is launched is known before the examples come.

A kernel a layer, the last with the loss's formula at its end, on buffers made once; of large
products cuBLAS's, and a kernel after it. The first launch reads the examples where they lie;
what is after it, where that is more than one launch, is captured and replayed: two launches
however deep the network. Formulas that have no kernel are the specification's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import cupy

from ..training import Recipe
from ..types import Array, Layer
from . import cuda_source as cuda
from . import gate
from .choice import ours
from .cublas import Cublas, Product
from .graph import captured
from .launches import THREADS, Launch, Whole, blocks
from .predict import check
from .tracing import Untraceable

TAKES = gate.READ
MOST_PLANS = 16  # numbers of rows that are remembered


class Plan:
    """The launches for m rows that lie so: `run` finds them at `rows`, the answer in `out`."""

    def __init__(
        self,
        recipe: Recipe,
        layers: Sequence[Layer],
        rows: Array,
        lies: cuda.Lies,
        cublas: Cublas,
    ) -> None:
        self.recipe, self.cublas, self.dtype = recipe, cublas, str(layers[0].W.dtype)
        self.leading, self.m = layers[0].W.shape[:-2], rows.shape[0]
        self.K = self.leading[0] if self.leading else 1
        self.graph: Any = None
        self.calls: list[Callable[[], object]] = []
        self.first: Callable[[Array], object]
        A = rows if lies == "rows" else rows.T
        whole = _whole(recipe.network.sizes, self.m, self.K)
        for number, layer in enumerate(layers):
            out = cupy.empty((*self.leading, layer.W.shape[-2], self.m), self.dtype)
            S = None if whole[number] else cupy.empty_like(out)
            launch = self._launch(number, layer, A, out, S, lies if number == 0 else "columns")
            if S is None and number == 0:
                self.first = _reading(launch)
            elif S is not None and number == 0:
                self.first = self._multiplying(layer.W, S)
                self.calls.append(launch)
            else:
                if S is not None:
                    self.calls.append(Product(cublas, layer.W, A, S, False, recipe.precision))
                self.calls.append(launch)
            A = out
        self.out = A

    def _launch(
        self, number: int, layer: Layer, A: Array, out: Array, S: Array | None, lies: cuda.Lies
    ) -> Launch:
        """A layer's kernel: of the scores S where they are there, else of the examples A."""
        n, m, last = layer.W.shape[-2], self.m, number == self.recipe.network.n_hidden
        stride = layer.W.strides[0] // layer.W.itemsize if self.leading else 0
        given: tuple[Any, ...] = (S,)
        size, grid = None, (n * blocks(m, cuda.SPAN), self.K)
        block: tuple[int, ...] = (cuda.SPAN // 4,)
        if last:
            grid, block = (blocks(m, cuda.COLUMNS), self.K), (cuda.COLUMNS, cuda.ROWS)
        if S is None:
            size, grid, given, _ = Whole.of(layer.W, A, lies, self.recipe.precision, last)
            block = (THREADS,)
        if last:
            source = cuda.forecast(self.dtype, self.recipe.loss, size, lies)
            return Launch(source, grid, block, *given, layer.b, out, n, m, stride)
        activation = self.recipe.network.activations[number]
        apart = activation.slope_of == "Z" or S is not None
        source = cuda.layer_forward(self.dtype, cuda.Shape(activation, apart=apart), size, lies)
        V = S if S is not None else cupy.empty_like(out) if apart else out
        given = () if S is not None else given  # the scores lie in V
        rest = (V, out, layer.b, *(None,) * 6, n, m, stride, *(0,) * 6, None)
        return Launch(source, grid, block, *given, *rest)

    def _multiplying(self, W: Array, S: Array) -> Callable[[Array], object]:
        """S ← W · examples as columns, wherever they lie, by cuBLAS."""

        def multiply(rows: Array) -> None:
            Product(self.cublas, W, rows.T, S, False, self.recipe.precision)()

        return multiply

    def run(self, rows: Array) -> Array:
        """The answer (…, n_out, m), which lies where the last one of the same thread did."""
        stream = cupy.cuda.get_current_stream()
        self.cublas.follow(stream.ptr)
        self.first(rows)
        if self.graph is None and len(self.calls) > 1:
            self.graph = self._captured()
            self.cublas.follow(stream.ptr)
        if self.graph:
            self.graph.launch(stream)
        else:
            for call in self.calls:
                call()
        return self.out

    def _captured(self) -> Any:
        """All but the first launch as a graph; False where that cannot be had."""
        try:
            return captured(self.cublas, self.calls)
        except RuntimeError:
            return False


def _whole(sizes: Sequence[int], m: int, K: int) -> list[bool]:
    """Of each layer, whether product and all after it are one kernel, for m examples."""
    small = [ours(n, inner, m, K) for inner, n in pairwise(sizes)]
    return [*small[:-1], small[-1] and sizes[-1] <= cuda.WIDEST]


class _Own(threading.local):
    """What a predictor has for each thread: others may predict at the same time."""

    def __init__(self) -> None:
        self.plans: dict[Any, Plan] = {}
        self.cublas = Cublas()


def _reading(launch: Launch) -> Callable[[Array], object]:
    """The launch with its examples where these lie."""

    def read(rows: Array) -> None:
        launch.values[1] = rows.data.ptr
        launch()

    return read


def predictor(
    recipe: Recipe, layers: Sequence[Layer], batch_size: int | None = None
) -> Callable[[Array], Array | None] | None:
    """rows (m, n_features) → what they stand for, (…, n_out, m); None where SPEC has to do it.

    As `fast.predict.predictor`. The function gives None for rows of another dtype, or
    that lie otherwise than in rows or columns.
    """
    network = recipe.network
    if not gate.takes(TAKES, recipe):
        return None
    if network.normalization != "none" or network.residual or batch_size is None:
        return None
    K = layers[0].W.shape[0] if layers[0].W.ndim == 3 else 1
    if recipe.precision == "bfloat16" and not all(_whole(network.sizes, batch_size, K)):
        return None  # cuBLAS would want operands in bfloat16
    home, dtype = layers[0].W.device, layers[0].W.dtype
    own = _Own()

    def plan(rows: Array, lies: cuda.Lies) -> Plan:
        check(rows, layers[0].W.shape[-1], batch_size)
        if len(own.plans) == MOST_PLANS:
            own.plans.clear()
        return Plan(recipe, layers, rows, lies, own.cublas)

    def predict(rows: Array) -> Array | None:
        by_rows = bool(rows.flags.c_contiguous)
        if not (by_rows or rows.flags.f_contiguous) or rows.size == 0 or rows.dtype != dtype:
            return None
        if cupy.cuda.runtime.getDevice() != home.id:
            with home:
                return predict(rows)
        key, plans = (rows.shape, by_rows, rows.data.ptr % 16 == 0), own.plans
        if key not in plans:
            plans[key] = plan(rows, "rows" if by_rows else "columns")
        return plans[key].run(rows)

    try:
        predict(cupy.zeros((batch_size, network.sizes[0]), layers[0].W.dtype))  # compiles
    except (Untraceable, cupy.cuda.compiler.CompileException):
        return None
    return predict
