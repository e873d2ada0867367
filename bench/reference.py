"""What every contestant must give, computed in float64 from the textbook.

Written apart from the library, so that it is not its own judge. Rows are examples here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from cases import (
    BETA1,
    BETA2,
    EPSILON,
    RATE,
    STEPS_BEFORE_CHECK,
    Arrays,
    Case,
    n_examples,
    parameters,
)

Floats = npt.NDArray[np.float64]

# how far off a loss may be where products round their operands to 11 or 8 bits: it is a mean
# of many that are off by one such rounding or less; a probability alone may be by four
ROUNDED = {"tf32": 2.0**-11, "bfloat16": 2.0**-8}


class Check:
    """What equality compares: the expected numbers, and how far off they may be.

    expected   float64
    relative   allowed distance as a share of the largest expected number
    distance   of an answer that ignored the work from the expected one, as such a share;
               None where there is no such answer. It must be well above `relative`, or
               the check would prove nothing
    """

    def __init__(self, expected: Any, relative: float, distance: float | None = None) -> None:
        self.expected = np.asarray(expected, np.float64)
        self.relative, self.distance = relative, distance

    def difference(self, found: Any) -> float:
        """Largest distance as a share of the largest expected number; infinite if of no sense."""
        found = np.asarray(found, np.float64)
        if found.shape != self.expected.shape or not np.isfinite(found).all():
            return float("inf")
        return float(np.max(np.abs(found - self.expected)) / np.max(np.abs(self.expected)))


def check(case: Case, arrays: Arrays, epsilon_hat: bool = False) -> Check:
    """The check of a case: loss after three steps, probabilities, or a kernel's results.

    epsilon_hat  Adam as at the end of §2 of its paper, where ε is not corrected for the step
    """
    terms = n_examples(case) if case.kernel == "gather" else max(*case.sizes, case.batch)
    relative = float(16 * np.finfo(case.dtype).eps * np.sqrt(terms))
    relative = ROUNDED.get(case.precision, relative)
    wide = {
        name: array if name == "rows" and case.kind != "kernels" else array.astype(np.float64)
        for name, array in arrays.items()  # of many rows few are looked at
    }
    if case.trains:
        losses = _training(case, wide, arrays["order"], arrays["labels"], epsilon_hat)
        return Check(losses[0], relative, abs(losses[0] - losses[1]) / abs(losses[0]))
    if case.kind == "inference":
        X = wide["rows"][: case.batch].astype(np.float64)
        scores, _ = _forward(parameters(case, wide), X)
        rounded = 4 * ROUNDED[case.precision] if case.precision in ROUNDED else relative
        return Check(_probabilities(scores), rounded)
    return Check(_kernel(case, wide), relative)


def _forward(layers: list[tuple[Any, Any]], X: Floats) -> tuple[Floats, list[Floats]]:
    """Scores, and the input of every layer."""
    A, memory = X, []
    for i, (W, b) in enumerate(layers):
        memory.append(A)
        Z = A @ W.T + b
        A = np.maximum(Z, 0) if i < len(layers) - 1 else Z
    return A, memory


def _probabilities(S: Floats) -> Floats:
    if S.shape[1] == 1:
        return 1 / (1 + np.exp(-S))
    E = np.exp(S - S.max(axis=1, keepdims=True))
    return np.asarray(E / E.sum(axis=1, keepdims=True))


def _loss(S: Floats, labels: npt.NDArray[Any]) -> tuple[float, Floats]:
    """The mean loss of scores (m, n_out), and its derivative by them."""
    P = _probabilities(S)
    if S.shape[1] == 1:
        T = labels[:, None].astype(np.float64)
        values = np.logaddexp(0, S) - T * S
    else:
        T = np.eye(S.shape[1])[labels]
        top = S.max(axis=1)
        values = top + np.log(np.exp(S - top[:, None]).sum(axis=1)) - (T * S).sum(axis=1)
    return float(values.mean()), (P - T) / len(S)


def _training(
    case: Case,
    arrays: Arrays,
    order: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    epsilon_hat: bool,
) -> tuple[float, float]:
    """The loss of the fourth batch after three Adam steps, and without them."""
    flat = [p.copy() for layer in parameters(case, arrays) for p in layer]
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in flat]

    def batch(step: int) -> tuple[Floats, npt.NDArray[Any]]:
        index = order[step * case.batch : (step + 1) * case.batch]
        return arrays["rows"][index].astype(np.float64), labels[index]

    def layers() -> list[tuple[Any, Any]]:
        return list(zip(flat[::2], flat[1::2], strict=True))

    X, y = batch(STEPS_BEFORE_CHECK)
    untrained, _ = _loss(_forward(layers(), X)[0], y)
    for t in range(1, STEPS_BEFORE_CHECK + 1):
        X, y = batch(t - 1)
        S, memory = _forward(layers(), X)
        _, delta = _loss(S, y)
        gradients: list[Any] = [None] * len(flat)
        for i in reversed(range(len(flat) // 2)):
            gradients[2 * i], gradients[2 * i + 1] = delta.T @ memory[i], delta.sum(axis=0)
            delta = (delta @ flat[2 * i]) * (memory[i] > 0)
        for p, g, (m, s) in zip(flat, gradients, moments, strict=True):
            m[...] = BETA1 * m + (1 - BETA1) * g
            s[...] = BETA2 * s + (1 - BETA2) * g * g
            root = np.sqrt(1 - BETA2**t)
            epsilon = EPSILON if epsilon_hat else EPSILON * root
            p -= RATE * root / (1 - BETA1**t) * m / (np.sqrt(s) + epsilon)
    X, y = batch(STEPS_BEFORE_CHECK)
    return _loss(_forward(layers(), X)[0], y)[0], untrained


def adam_scalars(step: int) -> tuple[float, float]:
    """What the `update` kernel is given: the library's form of Adam, see `optimizers.Adam`."""
    corrected = ((1 - BETA2**step) / (1 - BETA2)) ** 0.5
    return RATE * (1 - BETA1) / (1 - BETA1**step) * corrected, EPSILON * corrected


def _kernel(case: Case, a: Arrays) -> Floats:
    """The kernel's results, those of several stacked as one vector."""
    if case.kernel == "layer":
        return np.asarray(np.maximum(a["W"] @ a["A"] + a["b"], 0))
    if case.kernel == "input_gradient":
        return np.asarray(a["W"].T @ a["delta"])
    if case.kernel == "weight_gradient":
        return np.asarray(a["delta"] @ a["A"].T)
    if case.kernel == "activation_gradient":
        return np.asarray(a["dA"] * (a["A"] > 0))
    if case.kernel == "score":
        return _loss(a["S"].T, a["labels"].astype(np.int64))[1].T
    if case.kernel == "gather":
        return a["rows"][a["index"].astype(np.int64)]
    m, s = BETA1 * a["m"] + a["g"], BETA2 * a["s"] + a["g"] ** 2
    rate, epsilon = adam_scalars(1)
    return np.concatenate([a["theta"] - rate * m / (np.sqrt(s) + epsilon), m, s])
