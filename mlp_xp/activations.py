"""Activations: rows of a function f(Z) and its slope f'.

Every f and slope is a pure elementwise function of (xp, array), any shape, in the
dtype of its input; none overflows and none warns for scores of ±1e4 in float32.

The slope is written in terms of the output A = f(Z) wherever that is possible
(`slope_of="A"`), so that Z need not be kept; else in terms of Z. At a kink the slope
is the one from the left, so that f'(0) = 0 for relu.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

from .pickling import named, reduced
from .types import Array, Namespace


class Activation(NamedTuple):
    """f: Z ↦ A, its slope, and what the slope is written in.

    f         (xp, Z) → A, entry by entry
    slope     (xp, A) → f'(Z), of the output; or (xp, Z) → f'(Z), as in a pair of functions
    slope_of  which of them: "A" or "Z"
    """

    f: Callable[[Namespace, Array], Array]
    slope: Callable[[Namespace, Array], Array]
    slope_of: Literal["A", "Z"] = "A"

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced("activation", ACTIVATIONS, _row, self)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


def _row(name: str) -> Activation:
    return named("activation", ACTIVATIONS, name)


# Constants of Klambauer et al. 2017, "Self-Normalizing Neural Networks", eq. 14.
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805
LEAK = 0.01
# Hendrycks & Gimpel 2016, "Gaussian Error Linear Units": the tanh form. The array API
# standard has no erf; this form differs from it by less than 5e-4.
GELU_SCALE = 0.7978845608028654  # √(2/π)
GELU_CUBIC = 0.044715


def sigmoid(xp: Namespace, Z: Array) -> Array:
    """1 / (1 + e⁻ᶻ), through e^(-|z|), which cannot overflow."""
    e = xp.exp(-xp.abs(Z))
    return xp.where(Z >= 0, xp.ones_like(e), e) / (1 + e)


def softplus(xp: Namespace, Z: Array) -> Array:
    """log(1 + eᶻ) = max(z, 0) + log1p(e^(-|z|))."""
    return xp.maximum(Z, xp.zeros_like(Z)) + xp.log1p(xp.exp(-xp.abs(Z)))


def _positive(xp: Namespace, Z: Array) -> Array:
    return xp.maximum(Z, xp.zeros_like(Z))


def _negative(xp: Namespace, Z: Array) -> Array:
    return xp.minimum(Z, xp.zeros_like(Z))


def _step(xp: Namespace, A: Array, below: Array | float, above: float) -> Array:
    """`above` where A > 0, `below` elsewhere, in the dtype of A."""
    positive = xp.astype(A > 0, A.dtype)
    return below + (above - below) * positive


def _gelu_tanh(xp: Namespace, Z: Array) -> Array:
    return xp.tanh(GELU_SCALE * Z * (1 + GELU_CUBIC * Z * Z))


def _gelu_slope(xp: Namespace, Z: Array) -> Array:
    t = _gelu_tanh(xp, Z)
    inner = GELU_SCALE * (1 + 3 * GELU_CUBIC * Z * Z)
    return 0.5 * (1 + t) + 0.5 * Z * ((1 - t) * (1 + t)) * inner


def _silu_slope(xp: Namespace, Z: Array) -> Array:
    s = sigmoid(xp, Z)
    return s * (1 + Z * (1 - s))


def _mish_slope(xp: Namespace, Z: Array) -> Array:
    t = xp.tanh(softplus(xp, Z))
    return t + Z * ((1 - t) * (1 + t)) * sigmoid(xp, Z)


IDENTITY = Activation(f=lambda xp, Z: Z, slope=lambda xp, A: xp.ones_like(A))
RELU = Activation(f=_positive, slope=lambda xp, A: xp.astype(A > 0, A.dtype))
LEAKY_RELU = Activation(
    f=lambda xp, Z: _positive(xp, Z) + LEAK * _negative(xp, Z),
    slope=lambda xp, A: _step(xp, A, LEAK, 1.0),
)
# Clevert et al. 2016, "Fast and Accurate Deep Network Learning by ELUs", α = 1.
ELU = Activation(
    f=lambda xp, Z: _positive(xp, Z) + xp.expm1(_negative(xp, Z)),
    slope=lambda xp, A: _negative(xp, A) + 1,
)
SELU = Activation(
    f=lambda xp, Z: SELU_SCALE * (_positive(xp, Z) + SELU_ALPHA * xp.expm1(_negative(xp, Z))),
    slope=lambda xp, A: _step(xp, A, _negative(xp, A) + SELU_SCALE * SELU_ALPHA, SELU_SCALE),
)
GELU = Activation(
    f=lambda xp, Z: 0.5 * Z * (1 + _gelu_tanh(xp, Z)), slope=_gelu_slope, slope_of="Z"
)
# Elfwing et al. 2018; also called swish.
SILU = Activation(f=lambda xp, Z: Z * sigmoid(xp, Z), slope=_silu_slope, slope_of="Z")
SOFTPLUS = Activation(f=softplus, slope=lambda xp, A: -xp.expm1(-A))
# Misra 2019, "Mish: A Self Regularized Non-Monotonic Activation Function".
MISH = Activation(f=lambda xp, Z: Z * xp.tanh(softplus(xp, Z)), slope=_mish_slope, slope_of="Z")
TANH = Activation(f=lambda xp, Z: xp.tanh(Z), slope=lambda xp, A: (1 - A) * (1 + A))
SIGMOID = Activation(f=sigmoid, slope=lambda xp, A: A * (1 - A))

ACTIVATIONS: dict[str, Activation] = {
    "identity": IDENTITY,
    "relu": RELU,
    "leaky_relu": LEAKY_RELU,
    "elu": ELU,
    "selu": SELU,
    "gelu": GELU,
    "silu": SILU,
    "softplus": SOFTPLUS,
    "mish": MISH,
    "tanh": TANH,
    "sigmoid": SIGMOID,
}
