"""
Arrays stay where they are
==========================

CuPy arrays in, CuPy arrays out: nothing passes through the host but the labels' classes. Needs a
CUDA device and ``pip install 'mlp_xp[sklearn]'`` beside CuPy.
"""

import sys

try:
    import cupy as cp
except ImportError:
    sys.exit("CuPy is not installed: `mlp-xp devices` says what is missing here.")
if not cp.cuda.is_available():
    sys.exit("CuPy finds no CUDA device: `mlp-xp devices` says what is missing here.")

from sklearn.datasets import load_digits

from mlp_xp import MLPClassifier

rows, labels = load_digits(return_X_y=True)
X, y = cp.asarray(rows / 16, dtype=cp.float32), cp.asarray(labels)

model = MLPClassifier((100,), max_iter=30, random_state=0)
model.fit(X[:1500], y[:1500])
print(type(model.coefs_[0]).__module__, model.coefs_[0].shape, model.coefs_[0].dtype)

# %%
# Predictions and labels are on the device, so that more can be computed with them there:

predicted = model.predict(X[1500:])
print(type(predicted).__module__, f"accuracy {float(cp.mean(predicted == y[1500:])):.4f}")

# %%
# NumPy in, NumPy out, whatever the device trains on:

model = MLPClassifier((100,), max_iter=30, random_state=0, device="cuda")
model.fit(rows[:1500] / 16, labels[:1500])
print(type(model.coefs_[0]).__module__, f"{model.score(rows[1500:] / 16, labels[1500:]):.4f}")
