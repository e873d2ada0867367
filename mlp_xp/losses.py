"""Losses: rows of value, delta and predict, all from scores.

The last layer is linear. Softmax and sigmoid live here, inside the loss, where
log-sum-exp and log1p keep them finite: no probability is ever passed to a logarithm.

    S  (n_out, n_examples)  scores, the last layer's Z
    T  (n_out, n_examples)  targets in the dtype of S

    value(xp, S, T)  → (n_examples,)         loss of each example
    delta(xp, S, T)  → (n_out, n_examples)   its derivative by S
    predict(xp, S)   → (n_out, n_examples)   the mean the scores stand for: a probability,
                                             a rate, or the value itself

Weights and the mean over examples are applied in one place, `kernels.score`. `kind`
says which targets the loss takes:

    real        any finite numbers
    count       numbers ≥ 0
    binary      one output, T in [0, 1]
    multilabel  many outputs, each T in [0, 1], independent of the others
    multiclass  columns of T are distributions over n_out ≥ 2 classes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

from .activations import sigmoid, softplus
from .pickling import named, reduced
from .types import Array, Namespace

Kind = Literal["real", "count", "binary", "multilabel", "multiclass"]


class Loss(NamedTuple):
    """value, its derivative by the scores, the prediction, and the kind of targets.

    value    (xp, S, T) → the loss of each example, (n_examples,), of scores and targets
             (n_out, n_examples)
    delta    (xp, S, T) → its derivative by S, (n_out, n_examples)
    predict  (xp, S) → probabilities, rates or values, (n_out, n_examples)
    kind     of targets: "real", "count" (≥ 0), "binary" (one output, 0 to 1), "multilabel"
             (several such), "multiclass" (labels or one-hot)
    report   (xp, values (n_examples,)) → values, where `value` reports something other than
             what `delta` descends: it is then report(xp, the value that delta belongs to)
    """

    value: Callable[[Namespace, Array, Array], Array]
    delta: Callable[[Namespace, Array, Array], Array]
    predict: Callable[[Namespace, Array], Array]
    kind: Kind
    report: Callable[[Namespace, Array], Array] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced("loss", LOSSES, _row, self)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


def _row(name: str) -> Loss:
    return named("loss", LOSSES, name)


# Beyond this score the Poisson rate e^s (here 1e13 events) goes on as its tangent, so
# that value and delta stay finite and delta stays the derivative of value.
POISSON_LIMIT = 30.0


def softmax(xp: Namespace, S: Array) -> Array:
    """e^s / Σ e^s over the classes (axis -2), shifted by the largest score."""
    E = xp.exp(S - xp.max(S, axis=-2, keepdims=True))
    return E / xp.sum(E, axis=-2, keepdims=True)


def _squared_error(xp: Namespace, S: Array, T: Array) -> Array:
    """½ Σ (s - t)² over the outputs."""
    return 0.5 * xp.sum((S - T) * (S - T), axis=-2)


def _absolute_error(xp: Namespace, S: Array, T: Array) -> Array:
    """Σ |s - t| over the outputs."""
    return xp.sum(xp.abs(S - T), axis=-2)


def _clip(xp: Namespace, D: Array, limit: float) -> Array:
    """D held within ±limit."""
    bound = xp.full_like(D, limit)
    return xp.minimum(xp.maximum(D, -bound), bound)


def _huber(xp: Namespace, S: Array, T: Array) -> Array:
    """Σ ½ d² where |d| ≤ 1, |d| - ½ beyond; d = s - t (Huber 1964, threshold 1)."""
    D = S - T
    near = _clip(xp, D, 1.0)
    return xp.sum(near * (D - 0.5 * near), axis=-2)


def _poisson_rate(xp: Namespace, S: Array) -> Array:
    return xp.exp(xp.minimum(S, xp.full_like(S, POISSON_LIMIT)))


def _poisson(xp: Namespace, S: Array, T: Array) -> Array:
    """Σ e^s - t s: the negative log-likelihood up to a constant in t."""
    beyond = xp.maximum(S - POISSON_LIMIT, xp.zeros_like(S))
    return xp.sum(_poisson_rate(xp, S) * (1 + beyond) - T * S, axis=-2)


def _binary_cross_entropy(xp: Namespace, S: Array, T: Array) -> Array:
    """Σ log(1 + e^s) - t s = -Σ t log σ(s) + (1 - t) log(1 - σ(s)).

    Written max(s, 0) - t s + log1p(e^-|s|), its two large terms joined first.
    """
    joined = xp.where(S > 0, (1 - T) * S, -T * S)
    return xp.sum(joined + xp.log1p(xp.exp(-xp.abs(S))), axis=-2)


def _cross_entropy(xp: Namespace, S: Array, T: Array) -> Array:
    """log Σ e^s - Σ t s for Σ t = 1, with the scores shifted by their largest."""
    shifted = S - xp.max(S, axis=-2, keepdims=True)
    return xp.log(xp.sum(xp.exp(shifted), axis=-2)) - xp.sum(T * shifted, axis=-2)


def _difference(xp: Namespace, S: Array, T: Array) -> Array:
    return S - T


def _identity(xp: Namespace, S: Array) -> Array:
    return S


def _sigmoid_difference(xp: Namespace, S: Array, T: Array) -> Array:
    return sigmoid(xp, S) - T


LOSSES: dict[str, Loss] = {
    "squared_error": Loss(_squared_error, _difference, _identity, "real"),
    "absolute_error": Loss(_absolute_error, lambda xp, S, T: xp.sign(S - T), _identity, "real"),
    "huber": Loss(_huber, lambda xp, S, T: _clip(xp, S - T, 1.0), _identity, "real"),
    "poisson": Loss(_poisson, lambda xp, S, T: _poisson_rate(xp, S) - T, _poisson_rate, "count"),
    "binary_cross_entropy": Loss(_binary_cross_entropy, _sigmoid_difference, sigmoid, "binary"),
    "multilabel": Loss(_binary_cross_entropy, _sigmoid_difference, sigmoid, "multilabel"),
    "cross_entropy": Loss(
        _cross_entropy, lambda xp, S, T: softmax(xp, S) - T, softmax, "multiclass"
    ),
}


def one_hot(xp: Namespace, labels: Array, classes: Array, dtype: object) -> Array:
    """Columns of the identity: labels (n_examples,), classes (n_out,) → (n_out, n_examples).

    A comparison, not an indexed write: a label out of range gives a column of zeros
    instead of a silent wrap, and no shape depends on data. Labels are checked before.
    """
    return xp.astype(xp.expand_dims(labels, axis=-2) == classes[:, None], dtype)


def smooth(kind: Kind, T: Array, smoothing: float) -> Array:
    """Label smoothing: (1 - ε) T + ε u, u uniform over the classes (Szegedy et al. 2016, §7).

    Two classes, 0 and 1, for binary and multilabel targets.
    """
    n_classes = T.shape[-2] if kind == "multiclass" else 2
    return (1 - smoothing) * T + smoothing / n_classes


__all__ = ["LOSSES", "Kind", "Loss", "one_hot", "smooth", "softmax", "softplus"]
