"""Kinds of layers, a file a family: shapes, parameters, forward and backward as formulas.

`base` says what a kind is. Examples are the last axis: vectors are (n, m), images
(channels, height, width, m), sequences (features, time, m). Any array may have one more
leading axis: many networks at once.

    from mlp_xp.layers import Activation, Conv2d, Dense, Flatten
"""

from .chain import Chain
from .convolution import Conv1d, Conv2d
from .dense import Activation, Dense, Dropout
from .embedding import Embedding
from .normalization import BatchNorm, LayerNorm
from .pooling import AvgPool, GlobalAvgPool, MaxPool
from .recipes import temporal_convolutions
from .recurrent import GRU, LSTM, Elman
from .residual import Residual
from .shapes import Flatten, Last, Reshape
from .table import LAYERS

__all__ = [
    "GRU",
    "LAYERS",
    "LSTM",
    "Activation",
    "AvgPool",
    "BatchNorm",
    "Chain",
    "Conv1d",
    "Conv2d",
    "Dense",
    "Dropout",
    "Elman",
    "Embedding",
    "Flatten",
    "GlobalAvgPool",
    "Last",
    "LayerNorm",
    "MaxPool",
    "Reshape",
    "Residual",
    "temporal_convolutions",
]
