"""Initialisers: functions (draw, n_out, n_in, fan_in, fan_out) → W (n_out, n_in).

Drawn on the host in float64, then cast, so that every backend starts alike. `fan_in`
and `fan_out` count the connections a unit really has: n_in and n_out, times the
density of a sparse layer. The variances are those of the papers, by *inputs* (fan_in)
or by inputs and outputs; none is by the width of the layer alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .draws import Draw

Weights: TypeAlias = npt.NDArray[np.float64]
Initializer: TypeAlias = Callable[[Draw, int, int, float, float], Weights]


def zeros(draw: Draw, n_out: int, n_in: int, fan_in: float, fan_out: float) -> Weights:
    """All zero. Every unit of a layer then learns the same: only for linear models."""
    return np.zeros((n_out, n_in))


def normal(scale: float = 0.01) -> Initializer:
    """Normal of standard deviation `scale`, whatever the width."""
    return partial(_normal, scale)  # not a function of its own: pickle takes it


def _normal(
    scale: float, draw: Draw, n_out: int, n_in: int, fan_in: float, fan_out: float
) -> Weights:
    return scale * draw.normal(n_out, n_in)


def he(draw: Draw, n_out: int, n_in: int, fan_in: float, fan_out: float) -> Weights:
    """Normal, variance 2 / fan_in (He et al. 2015, eq. 10): for relu and its kin."""
    return math.sqrt(2 / fan_in) * draw.normal(n_out, n_in)


def lecun(draw: Draw, n_out: int, n_in: int, fan_in: float, fan_out: float) -> Weights:
    """Normal, variance 1 / fan_in (LeCun et al. 1998, "Efficient BackProp", §4.6)."""
    return math.sqrt(1 / fan_in) * draw.normal(n_out, n_in)


def glorot_uniform(draw: Draw, n_out: int, n_in: int, fan_in: float, fan_out: float) -> Weights:
    """Uniform, variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010, eq. 16)."""
    return math.sqrt(6 / (fan_in + fan_out)) * draw.uniform(n_out, n_in)


def glorot_normal(draw: Draw, n_out: int, n_in: int, fan_in: float, fan_out: float) -> Weights:
    """Normal, variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010)."""
    return math.sqrt(2 / (fan_in + fan_out)) * draw.normal(n_out, n_in)


def orthogonal(draw: Draw, n_out: int, n_in: int, fan_in: float, fan_out: float) -> Weights:
    """Orthonormal rows or columns, whichever are fewer (Saxe et al. 2014).

    Q of a normal matrix's QR factors, signs set by R's diagonal: uniform by Haar measure.
    """
    tall = draw.normal(max(n_out, n_in), min(n_out, n_in))
    Q, R = np.linalg.qr(tall)
    Q = Q * np.where(np.diagonal(R) < 0, -1.0, 1.0)
    return Q if n_out >= n_in else Q.T


def weights_by(
    initializer: Initializer, draw: Draw, n_out: int, n_in: int, fan_in: float, fan_out: float
) -> Weights:
    """What an initialiser gives, of the shape that is asked of it: ValueError if it is not."""
    W = np.asarray(initializer(draw, n_out, n_in, fan_in, fan_out))
    if W.shape != (n_out, n_in):
        raise ValueError(
            f"initializer gives weights of shape {W.shape}, but expected (n_out, n_in), here "
            f"{(n_out, n_in)}."
        )
    return W


INITIALIZERS: dict[str, Initializer] = {
    "zeros": zeros,
    "normal": normal(),
    "he": he,
    "lecun": lecun,
    "glorot_uniform": glorot_uniform,
    "glorot_normal": glorot_normal,
    "xavier_uniform": glorot_uniform,
    "xavier_normal": glorot_normal,
    "orthogonal": orthogonal,
}

# What "auto" means: the paper's match for the activation that follows the layer,
# Glorot's for every other activation and for the output layer.
MATCHED: dict[str, Initializer] = {
    "relu": he,
    "leaky_relu": he,
    "elu": he,
    "gelu": he,
    "silu": he,
    "mish": he,
    "selu": lecun,
}
