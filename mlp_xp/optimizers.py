"""Optimisers: elementwise formulas on one flat vector of all parameters.

An optimiser is a value that holds its constants. What depends on the step alone is
computed once a step in `scalars`; `update` is then a pure elementwise formula of

    theta     (…, n_parameters)  parameters
    g         (…, n_parameters)  gradient of the objective
    moments   as many such vectors as `n_moments`, zero at the start
    scalars   what `scalars(rate, step)` returned; step counts from 1

and returns the next theta and moments: one kernel on any device.

`weight_decay` is decoupled (Loshchilov & Hutter 2019): weights shrink by the factor
1 - rate · weight_decay before the update, in `kernels.update`; biases and gains do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .types import Array, Namespace

Moments = tuple[Array, ...]


@dataclass(frozen=True)
class Optimizer:
    """What all optimisers share: a base rate, decoupled decay, a number of moments."""

    rate: float = 0.001
    weight_decay: float = 0.0
    n_moments: ClassVar[int] = 0

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        """Scalars of update number `step` (1, 2, …) at the scheduled `rate`."""
        return (rate,)

    def update(
        self, xp: Namespace, theta: Array, g: Array, moments: Moments, *scalars: float
    ) -> tuple[Array, Moments]:
        """The next theta and moments."""
        raise NotImplementedError


@dataclass(frozen=True)
class SGD(Optimizer):
    """θ ← θ - rate g."""

    rate: float = 0.01

    def update(
        self, xp: Namespace, theta: Array, g: Array, moments: Moments, *scalars: float
    ) -> tuple[Array, Moments]:
        (rate,) = scalars
        return theta - rate * g, ()


@dataclass(frozen=True)
class Momentum(Optimizer):
    """v ← μ v - rate g; θ ← θ + v (Polyak 1964; Sutskever et al. 2013, eq. 1-2).

    The rate stands inside the velocity, as in the paper; where the rate is constant
    this equals the other common form, θ ← θ - rate v.
    """

    rate: float = 0.01
    momentum: float = 0.9
    n_moments: ClassVar[int] = 1

    def update(
        self, xp: Namespace, theta: Array, g: Array, moments: Moments, *scalars: float
    ) -> tuple[Array, Moments]:
        (rate,) = scalars
        (v,) = moments
        v = self.momentum * v - rate * g
        return theta + v, (v,)


@dataclass(frozen=True)
class Nesterov(Momentum):
    """v ← μ v - rate g; θ ← θ + μ v - rate g (Nesterov 1983; Sutskever et al. 2013, eq. 3-4).

    Written, as is usual, for the parameters at the look-ahead point.
    """

    def update(
        self, xp: Namespace, theta: Array, g: Array, moments: Moments, *scalars: float
    ) -> tuple[Array, Moments]:
        (rate,) = scalars
        (v,) = moments
        v = self.momentum * v - rate * g
        return theta + self.momentum * v - rate * g, (v,)


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """s ← s + g²; θ ← θ - rate g / (√s + ε) (Duchi et al. 2011)."""

    rate: float = 0.01
    epsilon: float = 1e-10
    n_moments: ClassVar[int] = 1

    def update(
        self, xp: Namespace, theta: Array, g: Array, moments: Moments, *scalars: float
    ) -> tuple[Array, Moments]:
        (rate,) = scalars
        (s,) = moments
        s = s + g * g
        return theta - rate * g / (xp.sqrt(s) + self.epsilon), (s,)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """s ← ρ s + (1 - ρ) g²; θ ← θ - rate g / (√s + ε) (Tieleman & Hinton 2012)."""

    rate: float = 0.001
    decay: float = 0.99
    epsilon: float = 1e-8
    n_moments: ClassVar[int] = 1

    def update(
        self, xp: Namespace, theta: Array, g: Array, moments: Moments, *scalars: float
    ) -> tuple[Array, Moments]:
        (rate,) = scalars
        (s,) = moments
        s = self.decay * s + (1 - self.decay) * (g * g)
        return theta - rate * g / (xp.sqrt(s) + self.epsilon), (s,)


@dataclass(frozen=True)
class Adam(Optimizer):
    """m ← β₁ m + g;  s ← β₂ s + g²;  θ ← θ - a m / (√s + ε').

    Kingma & Ba 2015, algorithm 1, with its constant factors taken out of the loop over
    parameters, which saves two multiplications of the twelve operations: m and s are the
    paper's moments divided by 1 - β₁ and 1 - β₂, and

        a  = rate (1 - β₁) / (1 - β₁ᵗ) · √((1 - β₂ᵗ) / (1 - β₂))
        ε' = ε √((1 - β₂ᵗ) / (1 - β₂))

    `epsilon_hat` takes the form at the end of the paper's §2, where ε is not corrected
    for the step: ε' = ε / √(1 - β₂). That is scikit-learn's.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_hat: bool = False
    n_moments: ClassVar[int] = 2

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        corrected = ((1 - self.beta2**step) / (1 - self.beta2)) ** 0.5
        plain = (1 - self.beta2) ** -0.5
        a = rate * (1 - self.beta1) / (1 - self.beta1**step) * corrected
        return a, self.epsilon * (plain if self.epsilon_hat else corrected)

    def update(
        self, xp: Namespace, theta: Array, g: Array, moments: Moments, *scalars: float
    ) -> tuple[Array, Moments]:
        a, epsilon = scalars
        m, s = moments
        m = self.beta1 * m + g
        s = self.beta2 * s + g * g
        return theta - a * (m / (xp.sqrt(s) + epsilon)), (m, s)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""

    weight_decay: float = 0.01


@dataclass(frozen=True)
class Lion(Optimizer):
    """θ ← θ - rate sign(β₁ m + (1 - β₁) g);  m ← β₂ m + (1 - β₂) g.

    Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2.
    """

    rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    n_moments: ClassVar[int] = 1

    def update(
        self, xp: Namespace, theta: Array, g: Array, moments: Moments, *scalars: float
    ) -> tuple[Array, Moments]:
        (rate,) = scalars
        (m,) = moments
        direction = xp.sign(self.beta1 * m + (1 - self.beta1) * g)
        return theta - rate * direction, (self.beta2 * m + (1 - self.beta2) * g,)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
    "lion": Lion,
}
