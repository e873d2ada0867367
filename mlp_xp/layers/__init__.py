"""Kinds of layers, a file a family: shapes, parameters, forward and backward as formulas.

`base` says what a kind is. Examples are the last axis: vectors are (n, m), images
(channels, height, width, m), sequences (features, time, m). Any array may have one more
leading axis: many networks at once.

    from mlp_xp.layers import Activation, Conv2d, Dense, Flatten
"""

from .chain import Chain
from .dense import Activation, Dense, Dropout
from .residual import Residual
from .table import LAYERS

__all__ = ["LAYERS", "Activation", "Chain", "Dense", "Dropout", "Residual"]
