"""The namespace under which a formula records itself as a graph.

What stands in `tracing`'s tables is a map; sums, products, views and joins have nodes of their
own; anything else of NumPy is a call of it. What no array can say before the program runs
(a branch on a value, its number) raises `Untraceable`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..fast.tracing import FUNCTIONS, QUESTIONS, Untraceable
from .graph import Graph, Node

OTHERS = {
    "argsort": np.argsort,
    "argmax": np.argmax,
    "argmin": np.argmin,
    "searchsorted": np.searchsorted,
    "sort": np.sort,
    "take": np.take,
    "take_along_axis": np.take_along_axis,
    "floor_divide": np.floor_divide,
    "remainder": np.remainder,
    "roll": np.roll,
    "tril": np.tril,
    "triu": np.triu,
    "all": np.all,
    "any": np.any,
    "prod": np.prod,
    "cumulative_sum": getattr(np, "cumulative_sum", None),
}


class Tracer:
    """`xp` for formulas whose arrays are nodes of one graph."""

    float32, float64, int64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
    int32, uint16, bool = np.dtype(np.int32), np.dtype(np.uint16), np.dtype(np.bool_)
    pi, e, inf, nan, newaxis = math.pi, math.e, math.inf, math.nan, None

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __getattr__(self, name: str) -> Any:
        graph = self.graph
        if name in FUNCTIONS or name in QUESTIONS:
            return lambda *arguments: graph.map(name, *arguments)
        function = OTHERS.get(name)
        if function is None:
            raise Untraceable(f"a formula calls xp.{name}, which is not recorded")
        return lambda *arguments, **options: graph.call(function, arguments, options)

    def _node(self, x: Any) -> Node:
        return self.graph.lifted(x, self.graph.dtype)

    # -- made from nothing

    def full(self, shape: Any, number: Any, *, dtype: Any = None, device: Any = None) -> Node:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        return self.graph.constant(number, shape, dtype and np.dtype(dtype))

    def zeros(self, shape: Any, *, dtype: Any = None, device: Any = None) -> Node:
        return self.full(shape, 0.0, dtype=dtype)

    def ones(self, shape: Any, *, dtype: Any = None, device: Any = None) -> Node:
        return self.full(shape, 1.0, dtype=dtype)

    def full_like(self, x: Node, number: Any, *, dtype: Any = None, device: Any = None) -> Node:
        return self.full(x.shape, number, dtype=dtype or x.dtype)

    def zeros_like(self, x: Node, *, dtype: Any = None, device: Any = None) -> Node:
        return self.full_like(x, 0, dtype=dtype)

    def ones_like(self, x: Node, *, dtype: Any = None, device: Any = None) -> Node:
        return self.full_like(x, 1, dtype=dtype)

    def arange(self, *bounds: Any, dtype: Any = None, device: Any = None, **others: Any) -> Node:
        return self.graph.value(np.arange(*bounds, dtype=dtype, **others))

    def opaque(self, function: Callable[[Any], Any], x: Node) -> Node:
        """A function that does more than to compute, such as to ask another process."""
        return self.graph.opaque(function, self._node(x))

    def finfo(self, dtype: Any) -> Any:
        return np.finfo(dtype)

    # -- elementwise

    def where(self, condition: Any, x: Any, y: Any) -> Node:
        return self.graph.map("where", condition, x, y)

    def astype(self, x: Node, dtype: Any, *, copy: Any = True, device: Any = None) -> Node:
        return self.graph.cast(self._node(x), dtype)

    def pow(self, x: Any, y: Any) -> Node:
        return self.graph.map("pow", x, y)

    # -- along axes

    def _reduced(self, name: str, x: Node, axis: Any, keepdims: Any) -> Node:
        if axis is None:
            x, axis = self.reshape(x, (-1,)), (0,)
            if keepdims:
                raise Untraceable(f"{name} over all axes with keepdims")
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        axes = tuple(sorted(a % x.ndim for a in axes))
        shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        for a in axes:
            x = self.graph.reduce(name, x, a, True)
        return x if keepdims else self.reshape(x, shape)

    def sum(self, x: Node, *, axis: Any = None, keepdims: Any = False) -> Node:
        return self._reduced("sum", x, axis, keepdims)

    def max(self, x: Node, *, axis: Any = None, keepdims: Any = False) -> Node:
        return self._reduced("max", x, axis, keepdims)

    def min(self, x: Node, *, axis: Any = None, keepdims: Any = False) -> Node:
        return self._reduced("min", x, axis, keepdims)

    def mean(self, x: Node, *, axis: Any = None, keepdims: Any = False) -> Node:
        total = self.sum(x, axis=axis, keepdims=keepdims)
        return self.graph.map("divide", total, x.size / max(1, total.size))

    # -- products

    def matmul(self, A: Any, B: Any) -> Node:
        return self.graph.product(self._node(A), self._node(B))

    def matrix_transpose(self, x: Any) -> Node:
        return self.graph.turned(self._node(x))

    # -- shapes

    def reshape(self, x: Any, shape: Any, *, copy: Any = None) -> Node:
        x = self._node(x)
        shape = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        if -1 in shape:
            rest = -math.prod(shape)
            shape = tuple(x.size // max(1, rest) if n == -1 else n for n in shape)
        if math.prod(shape) != x.size:
            raise Untraceable(f"{x.shape} reshaped to {shape}")
        return self.graph.view(x, ("reshape", shape))

    def expand_dims(self, x: Any, *, axis: int = 0) -> Node:
        x = self._node(x)
        axis = axis % (x.ndim + 1)
        return self.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))

    def squeeze(self, x: Node, axis: Any) -> Node:
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        gone = {a % x.ndim for a in axes}
        return self.reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in gone))

    def permute_dims(self, x: Any, axes: Sequence[int]) -> Node:
        x = self._node(x)
        axes = tuple(a % x.ndim for a in axes)
        if sorted(axes) != list(range(x.ndim)):
            raise Untraceable(f"the {x.ndim} axes of {x.shape} permuted by {axes}")
        return self.graph.view(x, ("permute", axes))

    def moveaxis(self, x: Node, source: int, destination: int) -> Node:
        axes = [a for a in range(x.ndim) if a != source % x.ndim]
        axes.insert(destination % x.ndim, source % x.ndim)
        return self.permute_dims(x, axes)

    def broadcast_to(self, x: Any, shape: Any) -> Node:
        x, shape = self._node(x), tuple(shape)
        if np.broadcast_shapes(x.shape, shape) != shape:
            raise Untraceable(f"{x.shape} broadcast to {shape}")
        return x if x.shape == shape else self.graph.view(x, ("broadcast", shape))

    def flip(self, x: Node, *, axis: int) -> Node:
        key: list[Any] = [slice(None)] * x.ndim
        key[axis % x.ndim] = slice(None, None, -1)
        return x[tuple(key)]

    def concat(self, arrays: Sequence[Node], *, axis: int = 0) -> Node:
        return self.graph.join([self._node(x) for x in arrays], axis)

    def stack(self, arrays: Sequence[Node], *, axis: int = 0) -> Node:
        return self.concat([self.expand_dims(x, axis=axis) for x in arrays], axis=axis)


def trace(formula: Callable[..., Any], graph: Graph, *arguments: Any) -> Any:
    """formula(xp, *arguments) with nodes; raises `Untraceable`, whatever went wrong."""
    try:
        return formula(Tracer(graph), *arguments)
    except Untraceable:
        raise
    except Exception as error:
        raise Untraceable(f"a formula cannot be traced ({error})") from error
