"""Activations and predictions in ONNX's operators: a row each, by the names of our tables.

A row is (graph, name of Z) → name of f(Z). They are the formulas of `activations` and `losses`;
`tests/test_onnx.py` demands a row for each of those, and equal numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ..activations import ACTIVATIONS, GELU_CUBIC, GELU_SCALE, LEAK, SELU_ALPHA, SELU_SCALE
from ..losses import LOSSES, POISSON_LIMIT
from .graph import Graph

Formula: TypeAlias = Callable[[Graph, str], str]


class NotExportable(ValueError):
    """What has no counterpart on the other side; the message names it, and a cure."""


def _native(op: str, formula: Formula, **attributes: Any) -> Formula:
    """An operator; in float64 its formula, for which onnxruntime has all kernels at every opset."""

    def row(g: Graph, Z: str) -> str:
        return g(op, Z, **attributes) if g.dtype == np.float32 else formula(g, Z)

    return row


def _positive(g: Graph, Z: str) -> str:
    return g("Max", Z, 0.0)


def _exponential(g: Graph, Z: str, alpha: float) -> str:
    """max(z, 0) + α (e^min(z, 0) - 1)."""
    below = g("Sub", g("Exp", g("Min", Z, 0.0)), 1.0)
    return g("Add", _positive(g, Z), g("Mul", below, alpha))


def _selu(g: Graph, Z: str) -> str:
    return g("Mul", _exponential(g, Z, SELU_ALPHA), SELU_SCALE)


def _softplus_formula(g: Graph, Z: str) -> str:
    """max(z, 0) + log(1 + e^-|z|)."""
    e = g("Exp", g("Neg", g("Abs", Z)))
    return g("Add", _positive(g, Z), g("Log", g("Add", e, 1.0)))


_softplus = _native("Softplus", _softplus_formula)


def _gelu(g: Graph, Z: str) -> str:
    """½ z (1 + tanh(√(2/π) z (1 + 0.044715 z²)))."""
    square = g("Add", g("Mul", g("Mul", Z, Z), GELU_CUBIC), 1.0)
    t = g("Tanh", g("Mul", g("Mul", Z, GELU_SCALE), square))
    return g("Mul", g("Mul", Z, 0.5), g("Add", t, 1.0))


def _silu(g: Graph, Z: str) -> str:
    """z σ(z); in float64 z / (1 + e⁻ᶻ), as onnxruntime up to 1.23 fuses the other, and cannot."""
    if g.dtype == np.float32:
        return g("Mul", Z, g("Sigmoid", Z))
    return g("Div", Z, g("Add", g("Exp", g("Neg", Z)), 1.0))


FUNCTIONS: dict[str, Formula] = {
    "identity": lambda g, Z: Z,
    "relu": lambda g, Z: g("Relu", Z),
    "leaky_relu": _native("LeakyRelu", lambda g, Z: g("Max", Z, g("Mul", Z, LEAK)), alpha=LEAK),
    "elu": _native("Elu", lambda g, Z: _exponential(g, Z, 1.0), alpha=1.0),
    "selu": _native("Selu", _selu, alpha=SELU_ALPHA, gamma=SELU_SCALE),
    "gelu": _gelu,
    "silu": _silu,
    "softplus": _softplus,
    "mish": lambda g, Z: g("Mul", Z, g("Tanh", _softplus(g, Z))),
    "tanh": lambda g, Z: g("Tanh", Z),
    "sigmoid": lambda g, Z: g("Sigmoid", Z),
}

# scores (m, n_out) ↦ what they stand for
PREDICTIONS: dict[str, Formula] = {
    "squared_error": lambda g, S: S,
    "absolute_error": lambda g, S: S,
    "huber": lambda g, S: S,
    "poisson": lambda g, S: g("Exp", g("Min", S, POISSON_LIMIT)),
    "binary_cross_entropy": lambda g, S: g("Sigmoid", S),
    "multilabel": lambda g, S: g("Sigmoid", S),
    "cross_entropy": lambda g, S: g("Softmax", S, axis=-1),
}


def activation_name(row: Any, where: str) -> str:
    """The name of a row of `ACTIVATIONS`; one of your own is refused."""
    found = next((name for name, known in ACTIVATIONS.items() if known is row), None)
    if found is None:
        raise NotExportable(
            f"{where} has an activation of your own, {row!r}, which is known here as Python "
            f"alone: expected one of {', '.join(map(repr, ACTIVATIONS))}. Use one of these, or "
            "predict with mlp_xp."
        )
    return found


def loss_name(row: Any) -> str:
    """The name of a row of `LOSSES`; one of your own is refused."""
    found = next((name for name, known in LOSSES.items() if known is row), None)
    if found is None:
        raise NotExportable(
            "The model has a loss of your own, whose prediction is known here as Python alone: "
            f"expected one of {', '.join(map(repr, LOSSES))}. Train with one of these, or "
            "predict with mlp_xp."
        )
    return found


__all__ = ["FUNCTIONS", "PREDICTIONS", "NotExportable", "activation_name", "loss_name"]
