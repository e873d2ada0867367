"""What each kind of layer is in ONNX's operators: a row each.

Examples come first there: what is (*shape, m) inside is (m, *shape). A row is

    (graph, what stands there, name of A) → name of the layer's output

for A (m, *part.shape). `tests/test_onnx.py` demands a row for each kind of `layers.LAYERS`. A
kind of your own becomes exportable by a row of its own: `KINDS[MyLayer] = my_row`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..kernels import EPSILON
from ..layers import stack
from ..layers.convolution import Conv1d, Conv2d
from ..layers.dense import Activation, Dense, Dropout
from ..layers.embedding import Embedding
from ..layers.normalization import BatchNorm, LayerNorm
from ..layers.pooling import AvgPool, GlobalAvgPool, MaxPool
from ..layers.recurrent import GRU, LSTM, Elman
from ..layers.residual import Residual
from ..layers.shapes import Flatten, Last, Reshape
from ..layers.stack import Part
from ..layers.windows import Axis
from .functions import FUNCTIONS, NotExportable, activation_name
from .graph import Graph
from .recurrent import elman, gru, lstm

Host: TypeAlias = npt.NDArray[Any]


class Present(NamedTuple):
    """Where sequences have steps, 1 and 0 in the graph's dtype.

    steps     (m, time)
    channels  (m, 1, time)
    lengths   (m,) int32
    """

    steps: str
    channels: str
    lengths: str


class Place(NamedTuple):
    """A layer where it stands.

    P        its parameters by their names within the layer, on the host
    running  its statistics likewise, (n, 1)
    present  where sequences have steps; None where all have all
    name     what a part of the layer is called in the graph, by what it is called within
    """

    part: Part
    P: Mapping[str, Host]
    running: Mapping[str, Host]
    present: Present | None
    name: Callable[[str], str]


Row: TypeAlias = Callable[[Graph, Place, str], str]


def _dense(g: Graph, at: Place, A: str) -> str:
    """A Wᵀ + bᵀ."""
    W = g.parameter(at.P["W"], at.name("W"))
    if "b" not in at.P:
        return g("Gemm", A, W, transB=1)
    return g("Gemm", A, W, g.parameter(at.P["b"][:, 0], at.name("b")), transB=1)


def _activation(g: Graph, at: Place, A: str) -> str:
    where = f"layer {at.part.number}"
    return FUNCTIONS[activation_name(at.part.kind.row, where)](g, A)  # type: ignore[attr-defined]


def _nothing(g: Graph, at: Place, A: str) -> str:
    return A


def _batch_norm(g: Graph, at: Place, A: str) -> str:
    """By the running moments."""
    vectors = (("gain", at.P), ("b", at.P), ("mean", at.running), ("variance", at.running))
    names = [g.parameter(given[own][:, 0], at.name(own)) for own, given in vectors]
    return g("BatchNormalization", A, *names, epsilon=EPSILON)


def _layer_norm(g: Graph, at: Place, A: str) -> str:
    """Over all axes but the first as they lie; over the features with these moved to the end."""
    shape = at.part.shape
    every = at.part.kind.over == "all"  # type: ignore[attr-defined]
    own = shape if every else shape[:1]
    b = g.parameter(at.P["b"].reshape(own), at.name("b"))
    if int(np.prod(own)) == 1:  # a number less its mean is 0; onnxruntime 1.22 refuses it
        return g("Add", g("Mul", A, 0.0), b)
    gain = g.parameter(at.P["gain"].reshape(own), at.name("gain"))
    kept = 11 if g.dtype == np.float64 else 1  # the moments' type, double or float
    axes: dict[str, Any] = {"epsilon": EPSILON, "stash_type": kept}
    if every or len(shape) == 1:
        return g("LayerNormalization", A, gain, b, axis=1, **axes)
    places = range(2, len(shape) + 1)
    A = g("Transpose", A, perm=[0, *places, 1])
    Z = g("LayerNormalization", A, gain, b, axis=-1, **axes)
    return g("Transpose", Z, perm=[0, len(shape), *range(1, len(shape))])


def zeros_after(axis: Axis) -> int:
    """Zeros behind the last place: as many as the windows cover."""
    return max(axis.extent - axis.before - axis.n, 0)


def _convolution(g: Graph, at: Place, A: str) -> str:
    """W (n_out, n_in / groups · taps) in the standard's shape, the paddings written out."""
    kind: Any = at.part.kind
    geometry = kind._geometry(at.part.shape)
    axes = [geometry.rows, geometry.columns][-(len(at.part.shape) - 1) :]
    kernel = [axis.kernel for axis in axes]
    shape = (geometry.n_out, geometry.n_in // geometry.groups, *kernel)
    operands = [g.parameter(at.P["W"].reshape(shape), at.name("W"))]
    if "b" in at.P:
        operands.append(g.parameter(at.P["b"][:, 0], at.name("b")))
    return g(
        "Conv",
        A,
        *operands,
        kernel_shape=kernel,
        strides=[axis.stride for axis in axes],
        dilations=[axis.dilation for axis in axes],
        pads=[*(axis.before for axis in axes), *map(zeros_after, axes)],
        group=geometry.groups,
    )


def _windows(at: Place) -> dict[str, Any]:
    kind: Any = at.part.kind
    windows = kind._windows(at.part.shape)
    axes = [windows.columns] if windows.flat else [windows.rows, windows.columns]
    before = [axis.before for axis in axes]
    return {
        "kernel_shape": [axis.kernel for axis in axes],
        "strides": [axis.stride for axis in axes],
        "pads": before * 2,
    }


def _max_pool(g: Graph, at: Place, A: str) -> str:
    """What lies after a sequence's end is never the largest; 0 where there is nothing else."""
    if at.present is None:
        return g("MaxPool", A, **_windows(at))
    lowest = float(np.finfo(g.dtype).min)  # onnxruntime's own padding
    there = g("Greater", at.present.channels, 0.0)
    H = g("MaxPool", g("Where", there, A, lowest), **_windows(at))
    return g("Where", g("Greater", H, lowest), H, 0.0)


def _avg_pool(g: Graph, at: Place, A: str) -> str:
    return g("AveragePool", A, count_include_pad=1, **_windows(at))


def _global_pool(g: Graph, at: Place, A: str) -> str:
    axes = list(range(2, len(at.part.shape) + 1))
    if at.present is None or len(axes) != 1:
        return g("ReduceMean", A, axes, keepdims=0)
    total = g("ReduceSum", g("Mul", A, at.present.channels), axes, keepdims=0)
    count = g("ReduceSum", at.present.steps, [1], keepdims=1)
    return g("Div", total, g("Max", count, 1.0))


def reshaped(g: Graph, A: str, shape: Sequence[int]) -> str:
    """(m, …) as (m, *shape)."""
    return g("Reshape", A, [0, *shape])


def _reshape(g: Graph, at: Place, A: str) -> str:
    return reshaped(g, A, at.part.out_shape)


def _last(g: Graph, at: Place, A: str) -> str:
    """The last step that is there; of a sequence without any, 0."""
    time = at.part.shape[1]
    if at.present is None:
        return g("Gather", A, np.array(time - 1), axis=2)
    before = g("Sub", g("Cast", at.present.lengths, to=np.dtype(np.int64)), np.array([1]))
    steps = g("Unsqueeze", before, [1])
    there = g.cast(g("Equal", np.arange(time)[None, :], steps), g.dtype)
    return g("ReduceSum", g("Mul", A, g("Unsqueeze", there, [1])), [2], keepdims=0)


def _embedding(g: Graph, at: Place, A: str) -> str:
    """Rows of Wᵀ (n_values, n) by whole numbers; the n to the front of the places."""
    rows = g.parameter(np.ascontiguousarray(at.P["W"].T), at.name("W"))
    H = g("Gather", rows, g.cast(A, np.int64), axis=0)
    n_places = len(at.part.shape)
    return g("Transpose", H, perm=[0, n_places + 1, *range(1, n_places + 1)])


def _residual(g: Graph, at: Place, A: str) -> str:
    """The sum of both ways; P acts on the first axis."""
    kind: Any = at.part.kind
    shape, out = at.part.shape, at.part.out_shape
    along, beside = kind._ways(shape)
    F = stacked(g, along, stack.apart(along, at.P), at.running, A, at.present, at.name)
    S = stacked(g, beside, stack.apart(beside, at.P), at.running, A, at.present, at.name)
    if kind._projects(shape):
        P = at.P["P"]
        if len(shape) == 1:
            S = g("Gemm", A, g.parameter(P, at.name("P")), transB=1)
        else:
            flat = reshaped(g, A, (shape[0], math.prod(shape[1:])))
            S = reshaped(g, g("MatMul", g.parameter(P, at.name("P")), flat), out)
    return g("Add", F, S)


KINDS: dict[type[Any], Row] = {
    Dense: _dense,
    Activation: _activation,
    Dropout: _nothing,
    BatchNorm: _batch_norm,
    LayerNorm: _layer_norm,
    Conv1d: _convolution,
    Conv2d: _convolution,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    GlobalAvgPool: _global_pool,
    Flatten: _reshape,
    Reshape: _reshape,
    Last: _last,
    Embedding: _embedding,
    Elman: elman,
    GRU: gru,
    LSTM: lstm,
    Residual: _residual,
}

# kinds whose operators onnxruntime's CPU has in float32 only
NARROW = (Conv1d, Conv2d, AvgPool, Elman, GRU, LSTM)


def stacked(
    g: Graph,
    parts: Sequence[Part],
    pieces: Sequence[Mapping[str, Host]],
    running: Mapping[str, Host],
    A: str,
    present: Present | None = None,
    outside: Callable[[str], str] = str,
) -> str:
    """Layers one after the other: `layers.stack.forward` in a graph.

    pieces   each layer's parameters
    running  statistics by their names outside of the layers
    outside  what a part of these layers is called outside of them
    """
    for part, own in zip(parts, pieces, strict=True):
        row = KINDS.get(type(part.kind))
        if row is None:
            raise NotExportable(
                f"layer {part.number}, {part.kind}, is of a kind of your own, which has no "
                "formula in ONNX: expected one of "
                f"{', '.join(kind.__name__ for kind in KINDS)}. Give it a row in "
                "mlp_xp.export.kinds.KINDS, or predict with mlp_xp."
            )
        statistics = {s.name: running[part.name(s.name)] for s in part.statistics}
        there = present if part.timed else None

        def name(inside: str, part: Part = part) -> str:
            return outside(part.name(inside))

        A = row(g, Place(part, own, statistics, there, name), A)
        if present is not None and part.lasting:
            A = g("Mul", A, present.channels)
    return A


__all__ = ["KINDS", "NARROW", "Place", "Present", "Row", "stacked"]
