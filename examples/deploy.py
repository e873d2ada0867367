"""
A model as an ONNX graph
========================

What another program needs is the file and onnxruntime::

    pip install 'mlp_xp[onnx]' onnxruntime
"""

from __future__ import annotations

import numpy as np
import onnxruntime

from mlp_xp import Sequential
from mlp_xp.data import load
from mlp_xp.layers import Activation, Conv2d, Dense, Flatten, MaxPool

data = load("digits")
assert data.y is not None
X = (data.X / 16).astype(np.float32)

model = Sequential(
    (1, 8, 8),
    [Conv2d(16, kernel=3), Activation("relu"), MaxPool(2), Flatten(), Dense(10)],
    learning_rate=0.01,
)
model.fit(X[:1500], data.y[:1500], epochs=15, schedule="one_cycle", layout="rows", progress=False)
model.to_onnx("digits.onnx")

# %%
# From here on nothing of mlp_xp is needed:

session = onnxruntime.InferenceSession("digits.onnx")
label, probabilities = session.run(None, {"X": X[1500:]})

print(f"accuracy {np.mean(label == data.y[1500:]):.3f}")
difference = np.max(np.abs(probabilities - model.predict_proba(X[1500:])))
print(f"largest difference from the model {difference:.1e}")
assert difference < 1e-5
