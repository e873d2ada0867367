"""Elman, GRU and LSTM in ONNX's operators RNN, GRU and LSTM, of opset 14 on.

The standard's are ours with other names: X (time, m, features), W (directions, gates · n,
features), R in the place of U, and both biases in one row, B (directions, 2 · gates · n). Its
gates lie in another order. GRU's `linear_before_reset` is the reset after the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .graph import Graph

if TYPE_CHECKING:
    from .kinds import Place

Host: TypeAlias = npt.NDArray[Any]
DIRECTIONS = {1: "forward", 2: "bidirectional"}


def _by_gate(X: Host, directions: int, gates: int, order: Sequence[int]) -> Host:
    """(d · gates · n, k) as (d, gates · n, k), the gates in the standard's order."""
    parts = X.reshape(directions, gates, -1, X.shape[-1])[:, list(order)]
    return parts.reshape(directions, -1, X.shape[-1])


def _run(
    g: Graph,
    at: Place,
    A: str,
    op: str,
    order: Sequence[int],
    biases: Sequence[Host],
    **attributes: Any,
) -> str:
    """The operator over A (m, features, time), and its states as ours lie.

    order   which of our gates is the standard's first, second …
    biases  added to W x and to R h, (d · gates · n, 1) each
    """
    kind: Any = at.part.kind
    d, gates, time = kind.directions, kind.gates, at.part.shape[1]
    W, R = (_by_gate(at.P[name], d, gates, order) for name in ("W", "U"))
    B = np.concatenate([_by_gate(b, d, gates, order)[..., 0] for b in biases], axis=1)
    H, last = g.several(
        op,
        g("Transpose", A, perm=[2, 0, 1]),
        g.parameter(W, at.name("W")),
        g.parameter(R, at.name("U")),
        g.parameter(B, at.name("b")),
        None if at.present is None else at.present.lengths,
        n=2,
        hidden_size=kind.n,
        direction=DIRECTIONS[d],
        **attributes,
    )
    if kind.returns == "last":  # (d, m, n)
        return g("Reshape", g("Transpose", last, perm=[1, 0, 2]), [0, d * kind.n])
    return g("Reshape", g("Transpose", H, perm=[2, 1, 3, 0]), [0, d * kind.n, time])


def elman(g: Graph, at: Place, A: str) -> str:
    """One gate; its bias acts on the input."""
    kind: Any = at.part.kind
    b = at.P["b"]
    word = {"tanh": "Tanh", "relu": "Relu"}[kind.activation]
    return _run(g, at, A, "RNN", (0,), (b, np.zeros_like(b)), activations=[word] * kind.directions)


def gru(g: Graph, at: Place, A: str) -> str:
    """Ours are r, z, g; the standard's z, r, h."""
    biases = (at.P["b"], at.P["c"])
    return _run(g, at, A, "GRU", (1, 0, 2), biases, linear_before_reset=1)


def lstm(g: Graph, at: Place, A: str) -> str:
    """Ours are i, f, g, o; the standard's i, o, f, c."""
    kind: Any = at.part.kind
    b = kind._input_bias(np, at.P)
    return _run(g, at, A, "LSTM", (0, 3, 1, 2), (b, np.zeros_like(b)))


__all__ = ["elman", "gru", "lstm"]
