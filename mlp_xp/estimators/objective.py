"""What scikit-learn minimises and reports, where it differs from the core: as formulas.

It needs no scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..losses import LOSSES, Kind
from ..training import Data, Recipe, encode, gradient
from ..types import Array, Namespace

# -log(1 - ε) and -log ε by the size of a number
BOUNDS = {
    np.dtype(dtype).itemsize: (-float(np.log1p(-eps)), -float(np.log(eps)))
    for dtype in (np.float32, np.float64)
    for eps in (np.finfo(dtype).eps,)
}


def _held(xp: Namespace, values: Array) -> Array:
    """-log p with p held within [ε, 1 - ε], as scikit-learn reports it; its gradient is not."""
    low, high = BOUNDS[4 if values.dtype == xp.float32 else 8]
    low, high = xp.full_like(values, low), xp.full_like(values, high)
    return xp.minimum(xp.maximum(values, low), high)


def _multiclass_value(xp: Namespace, S: Array, T: Array) -> Array:
    return _held(xp, LOSSES["cross_entropy"].value(xp, S, T))


def _binary_value(xp: Namespace, S: Array, T: Array) -> Array:
    return _held(xp, LOSSES["binary_cross_entropy"].value(xp, S, T))


def _multilabel_value(xp: Namespace, S: Array, T: Array) -> Array:
    """Every label's part is held on its own: one label becomes an axis of one output."""
    parts = _binary_value(xp, xp.expand_dims(S, axis=-2), xp.expand_dims(T, axis=-2))
    return xp.sum(parts, axis=-2)


def _squared_value(xp: Namespace, S: Array, T: Array) -> Array:
    """scikit-learn reports the mean over the outputs, but descends their sum."""
    return LOSSES["squared_error"].value(xp, S, T) / S.shape[-2]


def _poisson_value(xp: Namespace, S: Array, T: Array) -> Array:
    """Half the deviance: with the constant t log t - t that the core leaves out."""
    safe = xp.where(T > 0, T, xp.ones_like(T))
    return LOSSES["poisson"].value(xp, S, T) + xp.sum(T * xp.log(safe) - T, axis=-2)


# The core's rows with the value that scikit-learn reports; the descent is the core's.
LIKE_SCIKIT_LEARN = {
    "cross_entropy": LOSSES["cross_entropy"]._replace(value=_multiclass_value, report=_held),
    "binary_cross_entropy": LOSSES["binary_cross_entropy"]._replace(
        value=_binary_value, report=_held
    ),
    "multilabel": LOSSES["multilabel"]._replace(value=_multilabel_value),
    "squared_error": LOSSES["squared_error"]._replace(value=_squared_value),
    "poisson": LOSSES["poisson"]._replace(value=_poisson_value),
}
LOG_LOSS: dict[Kind, str] = {
    "multiclass": "cross_entropy",
    "binary": "binary_cross_entropy",
    "multilabel": "multilabel",
}


def share_of_gradient(recipe: Recipe, data: Data) -> tuple[Callable[..., Sequence[Array]], Any]:
    """A formula of L-BFGS, and all of the recipe that it reads, by which it is told from others.

    Of theta (n_parameters,), rows X (m, n_features) and targets, as those of `data`, weights
    (m,) or nothing, and a share () it gives this share of the mean loss, (), and of its
    gradient, (n_parameters,).
    """

    def formula(
        xp: Namespace, theta: Array, X: Array, targets: Array, share: Array, *w: Array
    ) -> Sequence[Array]:
        T = encode(recipe, xp, Data(X, data.targets), targets)
        found = gradient(recipe, xp, theta, xp.matrix_transpose(X), T, *w)
        return [found.J * share, found.g * share]

    labels = data.targets.ndim == 1
    return formula, ("gradient", recipe.network, recipe.loss, recipe.kernels, labels)


__all__ = ["LIKE_SCIKIT_LEARN", "LOG_LOSS", "share_of_gradient"]
