"""
Handwritten digits
==================

Train a network, look inside one step, check the gradients, save::

    python examples/digits.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mlp_xp import MLP, check_gradients, inspect_step
from mlp_xp.data import load

data = load("digits")
order = np.random.default_rng(0).permutation(len(data.y))
X, y = data.X[order].T / 16, data.y[order]  # columns are examples
X_train, y_train, X_test, y_test = X[:, :1438], y[:1438], X[:, 1438:], y[1438:]

# %%
# Before it is trained, its gradients are held to central differences, and one step is looked
# into: every array by its name in the mathematics.

model = MLP((64, 100, 10), normalization="batch", dropout=0.2, learning_rate=0.01)
check = check_gradients(model, X_train[:, :20], y_train[:20])
print(f"gradients: worst relative error {check.error:.1e} at {check.worst}")

step = inspect_step(model, X_train[:, :5], y_train[:5])
print("one step:", ", ".join(f"{name} {np.shape(array)}" for name, array in step.items()))

# %%

model.fit(X_train, y_train, epochs=30, schedule="one_cycle", validation_data=(X_test, y_test))
print(f"accuracy {model.evaluate(X_test, y_test).score:.4f}")

# %%
# A file holds all of it:

with TemporaryDirectory() as folder:
    path = Path(folder) / "digits.safetensors"
    model.save(path)
    again = MLP.load(path)
    print("the same after loading:", np.array_equal(again.predict(X_test), model.predict(X_test)))
