"""scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import RATE, STEPS_BEFORE_CHECK, Arrays, Case, parameters
from contest import Peer, batches_of, nothing, rotating
from timing import Session


def _sklearn(case: Case, arrays: Arrays) -> Any:
    """An MLPClassifier with the given parameters and a fresh Adam."""
    import warnings

    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")
    model = MLPClassifier(
        case.sizes[1:-1], alpha=0.0, batch_size=case.batch, learning_rate_init=RATE, shuffle=False
    )
    classes = np.arange(max(2, case.n_outputs))
    model.partial_fit(arrays["rows"][: case.batch], arrays["labels"][: case.batch], classes=classes)
    for i, (W, b) in enumerate(parameters(case, arrays)):
        model.coefs_[i][...] = W.T
        model.intercepts_[i][...] = b
    del model._optimizer  # the next call makes one with moments of zero
    return model


def _sklearn_training(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
    """`partial_fit` on n batches at once: scikit-learn's own loop shuffles, gathers and steps.

    That is its public way with the least beside the steps: `fit` would begin again, and
    `partial_fit` batch by batch would check its input at every step.
    """
    model = _sklearn(case, arrays)
    rows, labels, order = arrays["rows"], arrays["labels"], arrays["order"]
    size, most = case.batch, len(arrays["order"])
    checked = size * STEPS_BEFORE_CHECK

    def run(n: int) -> None:
        while n > 0:
            m = min(n * size, most)
            model.partial_fit(rows[:m], labels[:m])
            n -= m // size

    def result() -> float:
        first, then = order[:checked], order[checked : checked + size]
        model.partial_fit(rows[first], labels[first])
        model.partial_fit(rows[then], labels[then])
        model.set_params(shuffle=True)
        return float(model.loss_)

    return Session(run, nothing, result)


def _sklearn_inference(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
    model = _sklearn(case, arrays)
    batches = [arrays["rows"][piece] for piece in batches_of(case, arrays)]
    run, first = rotating(batches, model.predict_proba)
    return Session(run, nothing, lambda: first()[:, -case.n_outputs :])


SKLEARN_STARTUP = """
import sys, warnings
import numpy as np
from sklearn.neural_network import MLPClassifier
warnings.simplefilter("ignore")
with np.load(sys.argv[1]) as file:
    X, y = (file["X"] / 16).astype("float32"), file["y"].astype("int64")
model = MLPClassifier((100,), batch_size=32, max_iter=1, alpha=0.0).fit(X, y)
print(model.score(X, y))
"""


ROWS = {
    "sklearn": Peer(
        ("sklearn.neural_network",),
        "sklearn",
        training=_sklearn_training,
        inference=_sklearn_inference,
        startup=SKLEARN_STARTUP,
        epsilon_hat=True,
    ),
}
