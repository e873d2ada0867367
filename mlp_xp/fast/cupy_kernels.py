"""The kernel set of CuPy, for inference: a product and one more kernel a layer, two to score."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import cupy
import numpy as np

from ..activations import Activation
from ..kernels import EPSILON, SPEC, Kernels
from ..losses import Loss
from ..types import Array, Namespace
from . import cuda_measure as measures
from . import cuda_source as cuda
from .choice import ours
from .launches import THREADS, Launch, Whole, blocks, compiled, warn
from .tracing import Untraceable

INF = "#define INF ((T)__longlong_as_double(0x7ff0000000000000LL))"


@cache
def fused(make: Callable[..., cuda.Fused], *arguments: Any) -> Any:
    """An elementwise kernel of any layout and broadcasting, or None with a warning."""
    try:
        source = make(*arguments)
        names = (source.inputs, source.outputs)
        parameters = (", ".join(f"T {name}" for name in part) for part in names)
        kernel = cupy.ElementwiseKernel(*parameters, source.body, source.name, preamble=INF)
        # of a matrix and columns, as it will be called, so that it compiles once
        matrix, column = cupy.zeros((2, 2), arguments[-1]), cupy.zeros((2, 1), arguments[-1])
        kernel(matrix, *[column] * (len(source.inputs) - 1))
        return kernel
    except (Untraceable, cupy.cuda.compiler.CompileException) as error:
        warn(make.__name__, error)
        return None


def layer(
    xp: Namespace, W: Array, A: Array, b: Array, activation: Activation
) -> tuple[Array, Array]:
    """kernels.layer with the bias and the activation in one kernel, in the product's place.

    Or as one kernel with the product, where that is small or narrow.
    """
    found = _whole_layer(W, A, b, activation)
    if found is not None:
        return found
    kernel = fused(cuda.bias_activation, activation, str(W.dtype))
    if kernel is None:
        return SPEC.layer(xp, W, A, b, activation)
    S = xp.matmul(W, A)
    if activation.slope_of == "A":
        kernel(S, b, S)
        return S, S
    H = xp.empty_like(S)
    kernel(S, b, S, H)
    return S, H


def _whole_layer(
    W: Array, A: Array, b: Array, activation: Activation
) -> tuple[Array, Array] | None:
    """The product, bias and activation in one launch; None where that is not to be had."""
    (*leading, n, inner), m, size = W.shape, A.shape[-1], W.itemsize
    K = math.prod(leading)
    if 0 in (K, m) or not ours(n, inner, m, K) or A.ndim > max(2, W.ndim) or b.dtype != W.dtype:
        return None
    lies: cuda.Lies = "columns" if A.flags.c_contiguous else "rows"
    plain = W.strides[-2:] == (inner * size, size) and b.strides[-2] == size
    plain = plain and (not leading or b.strides[0] == W.strides[0]) and A.dtype == W.dtype
    if not plain or not (A.flags.c_contiguous or (A.ndim == 2 and A.flags.f_contiguous)):
        return None
    whole = Whole.of(W, A if lies == "columns" else A.T, lies)
    apart = activation.slope_of == "Z"
    shape = cuda.Shape(activation, apart=apart)
    try:
        source = cuda.layer_forward(str(W.dtype), shape, whole.tile, lies)
        compiled(source)
    except (Untraceable, cupy.cuda.compiler.CompileException):
        return None  # the kernel by itself says why
    V = cupy.empty((*leading, n, m), W.dtype)
    H = cupy.empty_like(V) if apart else V
    rest = (V, H, b, *(None,) * 6, n, m, whole.stride, *(0,) * 6, None)
    Launch(source, whole.grid, (THREADS,), *whole.operands, *rest)()
    return V, H


def activate(xp: Namespace, Z: Array, activation: Activation) -> Array:
    """kernels.activate as one kernel."""
    kernel = fused(cuda.activate, activation, str(Z.dtype))
    return SPEC.activate(xp, Z, activation) if kernel is None else kernel(Z)


def normalise_by(
    xp: Namespace,
    S: Array,
    gain: Array,
    b: Array,
    mean: Array,
    variance: Array,
    *,
    epsilon: float = EPSILON,
) -> Array:
    """kernels.normalise_by as one kernel."""
    kernel = fused(cuda.normalise_by, epsilon, str(S.dtype))
    if kernel is None:
        return SPEC.normalise_by(xp, S, gain, b, mean, variance, epsilon=epsilon)
    return kernel(S, gain, b, mean, variance)


@cache
def _sources(loss: Loss, labelled: bool, weighted: bool, dtype: str) -> list[cuda.Source] | None:
    """What `measure` launches, compiled; None with a warning."""
    try:
        sources = [measures.measure(dtype, loss, labelled, weighted), measures.measured(dtype)]
        if loss.kind in measures.NUMBERS:
            sources.append(measures.explained(dtype, loss, weighted))
        for source in sources:
            compiled(source)
        return sources
    except (Untraceable, cupy.cuda.compiler.CompileException) as error:
        warn("measure", error)
        return None


def measure(
    xp: Namespace,
    loss: Loss,
    S: Array,
    targets: Array,
    weights: Array | None,
    classes: Array | None,
) -> tuple[Array, Array]:
    """kernels.measure in two launches; in three where the score is R²."""
    labelled, weighted, dtype = classes is not None, weights is not None, S.dtype
    sources = _sources(loss, labelled, weighted, str(dtype))
    if sources is None:
        return SPEC.measure(xp, loss, S, targets, weights, classes)
    leading, (n, m) = S.shape[:-2], S.shape[-2:]
    K, n_parts = math.prod(leading), min(THREADS, blocks(m, THREADS))
    S = cupy.ascontiguousarray(S)
    targets = targets.astype(np.int64 if labelled else dtype, copy=False)
    strides = [step // targets.itemsize for step in targets.strides]
    if labelled:
        strides.insert(-1, 0)
    strides = [0, *strides][-3:]  # of a network, a unit, an example
    heavy = 0
    if weights is not None:
        weights, heavy = cupy.ascontiguousarray(weights, dtype), m * (weights.ndim > 1)
    shared = (n, m, *strides, heavy)
    parts, found = cupy.empty((K, n_parts, 3), dtype), None
    Launch(sources[0], (n_parts, K), (THREADS,), S, targets, weights, parts, *shared)()
    if len(sources) > 2:
        found, tiny = cupy.empty((K, n), dtype), float(np.finfo(dtype).smallest_normal)
        arguments = (S, targets, weights, found, *shared, tiny)
        Launch(sources[2], (n, K), (THREADS,), *arguments)()
    J, score = cupy.empty(leading, dtype), cupy.empty(leading, dtype)
    Launch(sources[1], (K,), (THREADS,), parts, found, J, score, n_parts, n)()
    return J, score


def rounded(xp: Namespace, x: Array, digits: int) -> Array:
    """kernels.rounded as one kernel."""
    x = xp.astype(x, xp.float32, copy=False)
    kernel = fused(cuda.rounded, digits, "float32")
    return SPEC.rounded(xp, x, digits) if kernel is None else kernel(x)


KERNELS: Kernels = SPEC._replace(
    rounded=rounded, layer=layer, activate=activate, normalise_by=normalise_by, measure=measure
)
