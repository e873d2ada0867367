"""An estimator's fit that is killed goes on from its checkpoint to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")


from test_checkpoints import Killed, names

from mlp_xp import MLPClassifier, MLPRegressor
from mlp_xp.schedules import ReduceOnPlateau

RNG = np.random.default_rng(5)
X = RNG.normal(size=(60, 5))
LABELS = np.array(["no", "perhaps", "yes"])[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)]
VALUES = X[:, 0] * X[:, 1] + X[:, 2]
HELD = (RNG.normal(size=(20, 5)), LABELS[:20])
EPOCHS, KILLED = 12, 8
FAST: dict[str, Any] = {
    "hidden_layer_sizes": (6, 4),
    "max_iter": EPOCHS,
    "random_state": 3,
    "batch_size": 16,
}
FULL: dict[str, Any] = {"normalization": "batch", "dropout": 0.2, "residual": True}

# how an estimator is made, its targets, and how it is fitted
CASES: dict[str, tuple[Callable[..., Any], Any, dict[str, Any]]] = {
    "adam": (lambda **more: MLPClassifier(**FAST, **more), LABELS, {}),
    "everything": (
        lambda **more: MLPClassifier(**FAST, **FULL, class_weight="balanced", **more),
        LABELS,
        {"validation_data": HELD},
    ),
    "sgd, falling": (
        lambda **more: MLPRegressor(**FAST, solver="sgd", learning_rate="invscaling", **more),
        VALUES,
        {},
    ),
    "sgd, adapting": (
        lambda **more: MLPRegressor(
            **FAST,
            **{"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.05},
            **more,
        ),
        VALUES,
        {"sample_weight": np.linspace(0.5, 2, 60)},
    ),
    "stopping": (
        lambda **more: MLPClassifier(**FAST, **FULL, early_stopping=True, **more),
        LABELS,
        {},
    ),
    "stopped": (
        lambda **more: MLPClassifier(**FAST, early_stopping=True, n_iter_no_change=3, **more),
        LABELS,
        {},
    ),
    "a schedule": (
        lambda **more: MLPRegressor(**FAST, learning_rate="one_cycle", **more),
        VALUES,
        {},
    ),
    "a plateau": (
        lambda **more: MLPRegressor(
            **FAST, learning_rate=ReduceOnPlateau(patience=0, threshold=0.1), **more
        ),
        VALUES,
        {},
    ),
    "in order": (lambda **more: MLPRegressor(**FAST, shuffle=False, **more), VALUES, {}),
}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def fitted(case: str, folder: Path | None = None, rows: Any = X, **more: Any) -> Any:
    make, targets, options = CASES[case]
    kept: dict[str, Any] = {} if folder is None else {"checkpoint": folder, "every": 0}
    return make(**more).fit(rows, targets, **options, **kept)


def killed(case: str, folder: Path, rows: Any = X, after: int = KILLED) -> None:
    def kill(_: Any, epoch: Any) -> None:
        if epoch.epoch == after:
            raise Killed

    with pytest.raises(Killed):
        fitted(case, folder, rows, callbacks=[kill])


def fitted_attributes(est: Any) -> dict[str, Any]:
    found = {k: v for k, v in vars(est).items() if k.endswith("_") and not k.startswith("__")}
    found["_random_state"] = est._random_state.get_state()
    found["_no_improvement_count"] = est._no_improvement_count
    found["moments"] = [np.asarray(moment) for moment in est._optimizer.moments]
    found["rest"] = [est._optimizer.step, est._optimizer.learning_rate, est._optimizer.began]
    found["best"] = getattr(est, "_best", None)
    return found


def assert_same(est: Any, other: Any) -> None:
    np.testing.assert_equal(fitted_attributes(est), fitted_attributes(other))


@pytest.mark.parametrize("case", CASES)
def test_an_estimator_goes_on_to_the_bit(case: str, tmp_path: Path) -> None:
    straight = fitted(case)
    killed(case, tmp_path, after=min(KILLED, straight.n_iter_))
    assert names(tmp_path)
    assert_same(fitted(case, tmp_path), straight)
    assert_same(fitted(case, tmp_path), straight)  # which was over
