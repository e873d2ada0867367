"""Scores and predictions of any recipe, compiled: the specification's own pass forward.

Many rows go through in pieces, and what is left over in a piece that is a power of two, its
last rows empty: so few programs do for every number of rows. In evaluation no example sees
another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fast import native
from ..fast.predict import check
from ..fast.tracing import Untraceable
from ..guard import asking
from ..hardware import Device
from ..training import Recipe, scores_of
from ..types import Array, State
from .function import Function
from .program import Program

Buffer = npt.NDArray[Any]
# Multiplications from which on a program is worth being made, which takes some hundredths of a
# second: the specification takes as long. It does not go by how often it is asked, so that
# the same rows always have the same scores.
WORTH = 200_000_000
SHARED = 1_000_000  # multiplications from which on other threads help
DTYPES = ("float32", "float64")
LEAST, PIECE = 16, 1024  # rows of the smallest and of the largest piece


def forward(
    recipe: Recipe, dtype: str, *, predicts: bool, target: type[Program] | None = None
) -> Function:
    """(theta, running, rows (m, n_features)) → scores, or what they stand for, (…, n_out, m)."""

    def formula(xp: Any, theta: Array, running: Array, rows: Array) -> Sequence[Array]:
        network, kernels = recipe.network, recipe.kernels
        layers, X = network.split(xp, theta), xp.matrix_transpose(rows)
        S = network.forward(kernels, xp, layers, X, running=running).scores
        return [recipe.loss.predict(xp, S) if predicts else S]

    key = ("forward", recipe.network, recipe.loss, recipe.kernels, predicts)
    return Function(formula, dtype, key, target)


class CompiledScores:
    """`scores_of` for one recipe after another, of many rows at once."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.recipe: Recipe | None = None
        self.function: Function | None = None

    def __call__(self, recipe: Recipe, state: State, rows: Array) -> Array:
        """Scores (…, n_out, m) of rows (m, n_features)."""
        network, m = recipe.network, rows.shape[0]
        size = min(PIECE, network.at_once)
        networks = math.prod(state.theta.shape[:-1])
        if networks * network.work * m >= WORTH and self._takes(recipe, state, rows):
            try:
                with network.threads(self.device, min(size, m)):
                    return self._compiled(state, rows, size)
            except (Untraceable, native.CannotCompile) as error:
                native.warn("An evaluation is not compiled", error, stacklevel=6)
                self.function = None
        with asking():
            return scores_of(recipe, self.device.xp, state, rows)

    def predictor(
        self, recipe: Recipe, state: State, most: int
    ) -> Callable[[Buffer], Buffer | None] | None:
        """rows (m, n_features) → what they stand for, (…, n_out, m), where the last ones were.

        None where nothing can be compiled, which a call may find out and then gives None.
        """
        known = isinstance(state.theta, np.ndarray) and str(state.theta.dtype) in DTYPES
        if recipe.precision != "float32" or not known or not native.available():
            return None
        function: Function | None = forward(recipe, str(state.theta.dtype), predicts=True)
        network = recipe.network
        n = network.sizes[0]

        def predict(rows: Buffer) -> Buffer | None:
            nonlocal function
            check(rows, n, most)
            m = len(rows)
            if function is None:
                return None
            own = nullcontext() if network.work * m < SHARED else network.threads(self.device, m)
            try:
                with own:
                    return function(state.theta, state.running, rows)[0]
            except (Untraceable, native.CannotCompile) as error:
                native.warn("A prediction is not compiled", error, stacklevel=4)
                function = None
                return None

        return predict

    def _takes(self, recipe: Recipe, state: State, rows: Array) -> bool:
        """Whether these can be compiled; a recipe that could not is not tried again."""
        known = isinstance(rows, np.ndarray) and isinstance(state.theta, np.ndarray)
        if not known or rows.dtype != state.theta.dtype or recipe.precision != "float32":
            return False
        if recipe is not self.recipe:
            self.recipe, self.function = recipe, None
            if str(rows.dtype) in DTYPES and native.available():
                self.function = forward(recipe, str(rows.dtype), predicts=False)
        return self.function is not None

    def _compiled(self, state: State, rows: Buffer, size: int) -> Buffer:
        assert self.function is not None
        m, found = len(rows), None
        for start in range(0, m, size):
            piece = rows[start : start + size]
            n, wide = len(piece), min(size, rounded(len(piece)))
            if n < wide:
                piece = np.concatenate([piece, np.zeros((wide - n, piece.shape[1]), piece.dtype)])
            (S,) = self.function(state.theta, state.running, piece)
            if found is None:
                found = np.empty((*S.shape[:-1], m), S.dtype)
            found[..., start : start + n] = S[..., :n]
        assert found is not None
        return found


def rounded(n: int) -> int:
    """The power of two that n rows go into."""
    return max(LEAST, 1 << (n - 1).bit_length())
