"""
Layers of any kind
==================

The handwritten digits as images, as rows that are read one by one, and as parts of these::

    python examples/layers.py
"""

import numpy as np

from mlp_xp import NeuralClassifier, Sequential
from mlp_xp.data import load
from mlp_xp.layers import (
    LSTM,
    Activation,
    BatchNorm,
    Conv2d,
    Dense,
    Flatten,
    GlobalAvgPool,
    MaxPool,
    Residual,
)

data = load("digits")
order = np.random.default_rng(0).permutation(len(data.y))
images, y = data.X[order].reshape(-1, 1, 8, 8) / 16, data.y[order]  # (m, channels, height, width)
train, test = slice(0, 1438), slice(1438, None)

# %%
# As images, by convolutions and a residual block:

convolutions = [
    Conv2d(16, kernel=3, padding="same", bias=False),
    BatchNorm(),
    Activation("relu"),
    Residual([Conv2d(16, kernel=3, padding="same"), Activation("relu")]),
    MaxPool(2),
    Flatten(),
    Dense(10),
]
model = Sequential((1, 8, 8), convolutions, learning_rate=0.01)
model.fit(images[train], y[train], epochs=10, schedule="one_cycle", layout="rows", progress=False)
print(f"{model}: accuracy {model.evaluate(images[test], y[test]).score:.4f}")

# %%
# As sequences of eight steps, each a row of eight pixels, read in both directions:

readers = [LSTM(32, returns="all", directions=2), GlobalAvgPool()]
classifier = NeuralClassifier(
    readers, layout="sequences", epochs=10, learning_rate=0.01, random_state=0
)
steps = images[:, 0]  # (m, time, features)
classifier.fit(steps[train], y[train])
print(f"{classifier.model_}: accuracy {classifier.score(steps[test], y[test]):.4f}")

# %%
# And as far as a pen has come, lists of sequences of different lengths:

rng = np.random.default_rng(1)
parts = [image[: rng.integers(4, 9)] for image in steps]
classifier.fit(parts[train], y[train])
print(f"of 4 to 8 rows: accuracy {classifier.score(parts[test], y[test]):.4f}")
