"""THE SPECIFICATION: every computation of a training step, as the formula it is.

Kernels are pure functions of arrays that take the namespace `xp` first and follow the
array API standard. They use the last two axes only, so that arrays with one more
leading axis are many networks at once. `SPEC` collects them; a faster set for some
device is `SPEC._replace(layer=…)`, held equal to SPEC by tests.

No kernel writes to its arguments. What is faster in place is a `training.Step` of its
own, such as the compiler's, held equal to a step of these.

Notation (the README's table): m examples, W weights, A activations, Z pre-activations,
δ = ∂J/∂Z, dA = ∂J/∂A. The mean over examples is inside δ from the start (`score`), so
that no later kernel divides by m.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from .activations import Activation
from .losses import Loss, one_hot
from .optimizers import Moments, Optimizer
from .types import Array, Namespace, Normalised

Means: TypeAlias = Callable[..., tuple[Array, ...]]  # see `means`
EPSILON = 1e-5  # added to variances, as in Ioffe & Szegedy 2015

# significant bits of the operands of a product, of the 24 of float32
PRECISIONS = {"float32": 24, "tf32": 11, "bfloat16": 8}


def rounded(xp: Namespace, x: Array, digits: int) -> Array:
    """x in float32, to `digits` ≤ 21 significant bits: to nearest, ties to even.

    Exponents keep float32's range: below 2⁻¹²⁶ the last bit stays where it is there, what
    rounds up beyond the largest number is infinite, infinities and NaN stay. Equals the
    formats tf32 (11) and bfloat16 (8) in every bit but the sign of 0.

    The first bit of y alone is |φ y - (1 - u) φ y| with φ = 2²³ + 1 and u = 2⁻²⁴ (Rump
    2009, "Ultimately fast accurate summation"). A number 1.5 · 2^(24 - digits) times as
    large has its last bit where that of the result has to be, so that adding it rounds.
    """
    x = xp.astype(x, xp.float32, copy=False)
    tiny, huge = 2.0**-126, 2.0**64
    finite = xp.isfinite(x)
    y = xp.where(finite, x, xp.zeros_like(x))
    ones = xp.ones_like(y)
    scale = xp.where(xp.abs(y) > huge, huge * ones, ones)  # φ y and what is added stay finite
    y = y / scale
    scaled = (2.0**23 + 1) * y
    first = xp.abs(scaled - (1 - 2.0**-24) * scaled)
    first = xp.where(first > tiny, first, tiny * ones)
    added = (1.5 * 2.0 ** (24 - digits)) * first
    y = (y + added) - added
    return xp.where(finite, y * scale, x)


def product(xp: Namespace, W: Array, A: Array) -> Array:
    """W A: (n_out, n_in), (n_in, m) → (n_out, m)."""
    return xp.matmul(W, A)


def layer(
    xp: Namespace,
    W: Array,
    A: Array,
    b: Array,
    activation: Activation,
) -> tuple[Array, Array]:
    """Z = W A + b and H = f(Z).

    W  (n_out, n_in), A (n_in, m), b (n_out, 1)

    Returns Z and H, (n_out, m) each. Where the slope of f is written in its output, a
    fast version may return H in the place of Z.
    """
    Z = xp.matmul(W, A) + b
    return Z, activation.f(xp, Z)


def activate(xp: Namespace, Z: Array, activation: Activation) -> Array:
    """H = f(Z), (n_out, m)."""
    return activation.f(xp, Z)


def means(xp: Namespace, arrays: tuple[Array, ...], axis: int) -> tuple[Array, ...]:
    """The mean of each array along `axis`, kept as length 1; over several processes: `ranks`."""
    return tuple(xp.mean(x, axis=axis, keepdims=True) for x in arrays)


def normalise(
    xp: Namespace,
    S: Array,
    gain: Array,
    b: Array,
    axis: int,
    *,
    epsilon: float = EPSILON,
    out: Array | None = None,
    means: Means = means,
) -> Normalised:
    """Z = gain (S - mean) / √(variance + ε) + b, with the moments of S itself.

    axis  -1: over the examples, batch normalisation (Ioffe & Szegedy 2015, algorithm 1)
          -2: over the units, layer normalisation (Ba, Kiros & Hinton 2016, eq. 3)
    S     (n_out, m); gain, b (n_out, 1)
    """
    (mean,) = means(xp, (S,), axis)
    centred = S - mean
    (variance,) = means(xp, (centred * centred,), axis)
    inverse_deviation = 1 / xp.sqrt(variance + epsilon)
    N = centred * inverse_deviation
    return Normalised(gain * N + b, N, inverse_deviation, mean, variance)


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
    """The same with given moments (n_out, 1): batch normalisation in evaluation."""
    return gain * ((S - mean) / xp.sqrt(variance + epsilon)) + b


def normalise_gradient(
    xp: Namespace,
    delta: Array,
    gain: Array,
    normalised: Normalised,
    axis: int,
    *,
    means: Means = means,
) -> tuple[Array, Array]:
    """∂J/∂S and ∂J/∂gain from δ = ∂J/∂Z, through both moments.

    With G = gain δ and means along `axis`:  ∂J/∂S = (G - mean G - N mean(G N)) / √(variance + ε)
    """
    _, N, inverse_deviation, _, _ = normalised
    G = gain * delta
    mean, mean_N = means(xp, (G, G * N), axis)
    return (
        (G - mean - N * mean_N) * inverse_deviation,
        xp.sum(delta * N, axis=-1, keepdims=True),
    )


def unbiased(xp: Namespace, variance: Array, m: Any) -> Array | None:
    """m / (m - 1) of the variance of m numbers: what a population's is estimated by.

    m  a whole number, or an array that broadcasts. One number tells of none: None, or
       infinite where m is an array
    """
    if isinstance(m, int):
        return variance * (m / (m - 1)) if m > 1 else None
    estimate = variance * (m / xp.maximum(m - 1, xp.ones_like(m)))
    return xp.where(m > 1, estimate, xp.full_like(estimate, math.inf))


def newest_or(xp: Namespace, newest: Array | None, running: Array, m: Any) -> Array:
    """A statistic of a batch of m, or the running one where the batch tells of none."""
    if newest is None:
        return running
    return newest if isinstance(m, int) else xp.where(newest < math.inf, newest, running)


def dropout_scale(rate: float) -> tuple[int, float]:
    """The 16 bits from which on a unit is kept, and the factor of those that are."""
    threshold = round(rate * 65536)
    return threshold, 65536 / (65536 - threshold)


def dropout_mask(xp: Namespace, bits: Array, rate: float, dtype: Any) -> Array:
    """0 with probability `rate`, else 1 / (1 - rate): inverted dropout (Srivastava et al. 2014).

    bits  unsigned 16-bit integers, uniform; the rate is rounded to 1/65536 and the
          scale follows the rounded rate, so that the mean is 1 to rounding
    """
    threshold, scale = dropout_scale(rate)
    return xp.astype(bits >= threshold, dtype) * scale


def dropout(xp: Namespace, H: Array, mask: Array) -> Array:
    """H ∘ mask."""
    return H * mask


def score(
    xp: Namespace,
    loss: Loss,
    S: Array,
    T: Array,
    weights: Array | None,
) -> tuple[Array, Array, Array]:
    """The weighted mean loss of a batch, its derivative by the scores, and by the last bias.

    S, T     (n_out, m)  scores and targets
    weights  (m,) ≥ 0 or None for equal; a batch whose weights are all 0 has loss 0

    Returns J = Σ wᵢ ℓᵢ / Σ wᵢ, (); δ = ∂J/∂S, (n_out, m); Σ δ over examples, (n_out, 1).
    """
    if weights is None:
        J = xp.mean(loss.value(xp, S, T), axis=-1)
        delta = loss.delta(xp, S, T) / S.shape[-1]
    else:
        total = xp.sum(weights, axis=-1, keepdims=True)
        share = weights / xp.where(total > 0, total, xp.ones_like(total))
        J = xp.sum(share * loss.value(xp, S, T), axis=-1)
        delta = share[..., None, :] * loss.delta(xp, S, T)
    return J, delta, xp.sum(delta, axis=-1, keepdims=True)


def weighted_mean(xp: Namespace, values: Array, weights: Array | None) -> Array:
    """Σ wᵢ vᵢ / Σ wᵢ over the examples, the last axis; weights (m,) or None for equal."""
    if weights is None:
        return xp.mean(values, axis=-1)
    share = weights / xp.sum(weights, axis=-1, keepdims=True)
    return xp.sum(share * values, axis=-1)


def ends(xp: Namespace, T: Array, weights: Array | None) -> tuple[Array, Array]:
    """The least and the largest of those that weigh something, along the last axis."""
    if weights is None:
        return xp.min(T, axis=-1), xp.max(T, axis=-1)
    beyond = xp.full_like(T, math.inf)
    low, high = (xp.where(weights > 0, T, end) for end in (beyond, -beyond))
    return xp.min(low, axis=-1), xp.max(high, axis=-1)


def measure(
    xp: Namespace,
    loss: Loss,
    S: Array,
    targets: Array,
    weights: Array | None,
    classes: Array | None,
) -> tuple[Array, Array]:
    """The weighted mean loss of examples, and how well their scores do; nothing to learn from.

    S        (n_out, m)          scores
    targets  (m,) or (n_out, m)  labels, where there are `classes`; or targets
    weights  (m,) ≥ 0, not all 0, or None for equal
    classes  (n_out,)            0 … n_out - 1, or None

    Returns the loss, (), and the score, (): accuracy for classes (all outputs right for
    multilabel); for numbers R² = 1 - Σ w (t - p)² / Σ w (t - mean)², the mean over outputs;
    of one whose t are all equal, 1 where p is too, else 0, as scikit-learn has it.
    """
    T = targets if classes is None else one_hot(xp, targets, classes, S.dtype)
    J = weighted_mean(xp, loss.value(xp, S, T), weights)
    if loss.kind in ("real", "count"):
        weights = None if weights is None else weights[..., None, :]
        prediction = loss.predict(xp, S)
        centre = weighted_mean(xp, T, weights)[..., None]
        spread = weighted_mean(xp, (T - centre) * (T - centre), weights)
        error = weighted_mean(xp, (T - prediction) * (T - prediction), weights)
        low, high = ends(xp, T, weights)
        equal = (low == high) | (spread < float(xp.finfo(spread.dtype).smallest_normal))
        R2 = 1 - error / xp.where(equal, xp.ones_like(spread), spread)
        return J, xp.mean(xp.where(equal, xp.astype(error == 0, R2.dtype), R2), axis=-1)
    if loss.kind == "multiclass":
        labels = targets if classes is not None else xp.argmax(T, axis=-2)
        right = xp.argmax(S, axis=-2) == labels
    else:
        right = xp.all((S > 0) == (T > 0.5), axis=-2)
    return J, weighted_mean(xp, xp.astype(right, S.dtype), weights)


def input_gradient(xp: Namespace, W: Array, dS: Array) -> Array:
    """Carry the error one layer back: dA = Wᵀ dS, (n_in, m)."""
    return xp.matmul(xp.matrix_transpose(W), dS)


def activation_gradient(
    xp: Namespace,
    dA: Array,
    V: Array,
    activation: Activation,
    mask: Array | None,
) -> tuple[Array, Array]:
    """δ = dA ∘ mask ∘ f', and Σ δ over examples, the gradient of the bias.

    dA    (n_out, m)  ∂J/∂A of the layer
    V     (n_out, m)  H or Z, whichever `activation.slope_of` names
    mask  (n_out, m)  the dropout mask of the forward pass, or None

    Returns δ (n_out, m) and ∂J/∂b (n_out, 1).
    """
    delta = dA * activation.slope(xp, V)
    if mask is not None:
        delta = delta * mask
    return delta, xp.sum(delta, axis=-1, keepdims=True)


def weight_gradient(xp: Namespace, dS: Array, A: Array) -> Array:
    """∂J/∂W = dS Aᵀ: (n_out, m), (n_in, m) → (n_out, n_in)."""
    return xp.matmul(dS, xp.matrix_transpose(A))


def whole_batch(
    xp: Namespace, J: Array, g: Array, m: int, weights: Array | None
) -> tuple[Array, Array, Any, Array | None]:
    """J, gradient, number of examples and weights of a batch, from those of a process's share.

    One process has all of it. Where there are several (`ranks`), m is an array (…, 1, 1), and
    for weights stands their sum, (…, 1).
    """
    return J, g, m, weights


def clip_norm(xp: Namespace, g: Array, limit: float) -> Array:
    """g scaled so that its Euclidean norm is at most `limit` (Pascanu et al. 2013).

    One norm over all parameters of a network; no value is read on the host.
    """
    norm = xp.sqrt(xp.sum(g * g, axis=-1, keepdims=True))
    return g * (limit / xp.maximum(norm, xp.full_like(norm, limit)))


def clip_value(xp: Namespace, g: Array, limit: float) -> Array:
    """Every entry of g held within ±limit."""
    bound = xp.full_like(g, limit)
    return xp.minimum(xp.maximum(g, -bound), bound)


def update(
    xp: Namespace,
    optimizer: Optimizer,
    theta: Array,
    g: Array,
    moments: Moments,
    scalars: tuple[Any, ...],
    shrink: Array | None,
) -> tuple[Array, Moments]:
    """One update of the flat vector of all parameters.

    shrink  rate · weight_decay for every weight and 0 for the rest, like theta; or None
    """
    if shrink is not None:
        theta = theta - shrink * theta
    return optimizer.update(xp, theta, g, moments, *scalars)


class Kernels(NamedTuple):
    """A kernel set is a value: one function for each computation of a step."""

    rounded: Callable[..., Array] = rounded
    product: Callable[..., Array] = product
    layer: Callable[..., tuple[Array, Array]] = layer
    activate: Callable[..., Array] = activate
    normalise: Callable[..., Normalised] = normalise
    normalise_by: Callable[..., Array] = normalise_by
    normalise_gradient: Callable[..., tuple[Array, Array]] = normalise_gradient
    dropout_mask: Callable[..., Array] = dropout_mask
    dropout: Callable[..., Array] = dropout
    score: Callable[..., tuple[Array, Array, Array]] = score
    measure: Callable[..., tuple[Array, Array]] = measure
    input_gradient: Callable[..., Array] = input_gradient
    activation_gradient: Callable[..., tuple[Array, Array]] = activation_gradient
    weight_gradient: Callable[..., Array] = weight_gradient
    whole_batch: Callable[..., tuple[Array, Array, Any, Array | None]] = whole_batch
    clip_norm: Callable[..., Array] = clip_norm
    clip_value: Callable[..., Array] = clip_value
    update: Callable[..., tuple[Array, Moments]] = update


SPEC = Kernels()


def at_precision(kernels: Kernels, precision: str) -> Kernels:
    """A kernel set whose products are taken of operands rounded to a row of `PRECISIONS`.

    The sums of a product, and all that is no product, stay in float32.
    """
    digits = PRECISIONS[precision]
    if digits == PRECISIONS["float32"]:
        return kernels

    def of_rounded(function: Callable[..., Any]) -> Callable[..., Any]:
        def inside(xp: Namespace, left: Array, right: Array, *others: Any) -> Any:
            left, right = (kernels.rounded(xp, x, digits) for x in (left, right))
            return function(xp, left, right, *others)

        return inside

    return kernels._replace(
        product=of_rounded(kernels.product),
        layer=of_rounded(kernels.layer),
        input_gradient=of_rounded(kernels.input_gradient),
        weight_gradient=of_rounded(kernels.weight_gradient),
    )
