"""The kernel set of CuPy, for inference: a product and one more kernel a layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import cupy

from ..activations import Activation
from ..kernels import EPSILON, SPEC, Kernels
from ..types import Array, Namespace
from . import cuda_source as cuda
from .launches import warn
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
        kernel(*[cupy.zeros(1, arguments[-1])] * len(source.inputs))  # compiles
        return kernel
    except (Untraceable, cupy.cuda.compiler.CompileException) as error:
        warn(make.__name__, error)
        return None


def layer(
    xp: Namespace, W: Array, A: Array, b: Array, activation: Activation
) -> tuple[Array, Array]:
    """kernels.layer with the bias and the activation in one kernel, in the product's place."""
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


def rounded(xp: Namespace, x: Array, digits: int) -> Array:
    """kernels.rounded as one kernel."""
    x = xp.astype(x, xp.float32, copy=False)
    kernel = fused(cuda.rounded, digits, "float32")
    return SPEC.rounded(xp, x, digits) if kernel is None else kernel(x)


KERNELS: Kernels = SPEC._replace(
    rounded=rounded, layer=layer, activate=activate, normalise_by=normalise_by
)
