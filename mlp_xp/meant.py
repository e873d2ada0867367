"""The name that was meant: what a row is called elsewhere, or the nearest spelling."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# what rows of the tables are called in Keras, PyTorch, scikit-learn and in talk
ELSEWHERE = {
    "swish": "silu",
    "hard_swish": "silu",
    "hardswish": "silu",
    "logistic": "sigmoid",
    "hard_sigmoid": "sigmoid",
    "linear": "identity",
    "none": "identity",
    "relu6": "relu",
    "leakyrelu": "leaky_relu",
    "lrelu": "leaky_relu",
    "prelu": "leaky_relu",
    "mse": "squared_error",
    "rmse": "squared_error",
    "mseloss": "squared_error",
    "l2": "squared_error",
    "mean_squared_error": "squared_error",
    "mae": "absolute_error",
    "l1": "absolute_error",
    "l1loss": "absolute_error",
    "mean_absolute_error": "absolute_error",
    "smooth_l1": "huber",
    "bce": "binary_cross_entropy",
    "bceloss": "binary_cross_entropy",
    "bcewithlogitsloss": "binary_cross_entropy",
    "binary_crossentropy": "binary_cross_entropy",
    "ce": "cross_entropy",
    "crossentropyloss": "cross_entropy",
    "log_loss": "cross_entropy",
    "logloss": "cross_entropy",
    "nll": "cross_entropy",
    "nll_loss": "cross_entropy",
    "nllloss": "cross_entropy",
    "softmax": "cross_entropy",
    "categorical_crossentropy": "cross_entropy",
    "sparse_categorical_crossentropy": "cross_entropy",
    "kaiming": "he",
    "kaiming_normal": "he",
    "kaiming_uniform": "he",
    "he_normal": "he",
    "he_uniform": "he",
    "lecun_normal": "lecun",
    "lecun_uniform": "lecun",
    "xavier": "glorot_uniform",
    "glorot": "glorot_uniform",
    "bn": "batch",
    "ln": "layer",
    "sgdm": "momentum",
    "nag": "nesterov",
    "plateau": "reduce_on_plateau",
    "reducelronplateau": "reduce_on_plateau",
    "cosine_annealing": "cosine",
    "cosineannealinglr": "cosine",
    "exp": "exponential",
    "invscaling": "inverse_scaling",
}


def meant(table: Iterable[str], name: Any) -> str:
    """A sentence with the name in the table that is nearest to what was given; "" if none is."""
    from difflib import get_close_matches

    names, given = list(table), str(name).lower()
    known = ELSEWHERE.get(given)
    if given == "softmax" and "relu" in names:
        return " A classifier's last layer has its softmax from the loss 'cross_entropy'."
    close = [known] if known in names else get_close_matches(given, names, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


__all__ = ["ELSEWHERE", "meant"]
