"""The training that the commands and the search begin with, where nothing else is asked for."""

from __future__ import annotations

from typing import Any

DEFAULT_SCHEDULE = "one_cycle"
OF_MLP = ("hidden", "normalization", "dropout", "residual")  # layers of their own in --layers
MANY = 10_000  # examples from which fewer epochs of larger batches do


def defaults(kind: str) -> dict[str, Any]:
    """Options of a new model for targets of this kind.

    Chosen on the digits by their held-out accuracy (24 seeds: least 0.978, median 0.989).
    For numbers they were only compared with a few others on scikit-learn's diabetes and
    Friedman sets (10 seeds): R² 0.41 and 0.93, where those gave 0.30 to 0.42 and 0.89 to 0.93.
    """
    return {
        "hidden": (256, 128),
        "normalization": "batch",
        "dropout": 0.3,
        "label_smoothing": 0.1 if kind == "multiclass" else 0.0,
        "scale": "auto",
        "scale_target": True,
        "held_out": 0.2,
        "validation": 0.1,
        "seed": 0,
    }


def default_rate(optimizer: str, layers: bool = False) -> float | None:
    """Under one_cycle and batch normalisation Adam takes ten times its usual rate.

    layers  of --layers, which may be deep and not normalised: three times. On the digits (3
            seeds, 15 epochs) two convolutional networks and a GRU got 0.94 to 0.97 at its usual
            rate, 0.97 to 0.99 at three times, 0.98 to 0.99 at ten times
    """
    if optimizer not in ("adam", "adamw"):
        return None
    return 0.003 if layers else 0.01


def default_epochs(n_examples: int) -> int:
    """Many examples take fewer passes."""
    return 20 if n_examples >= MANY else 60


def default_batch_size(n_examples: int) -> int:
    """Never more than there are."""
    return 128 if n_examples >= MANY else min(64, n_examples)
