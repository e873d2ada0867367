"""Rows that do not fit on the device train from the host, and the numbers are the same."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mlp_xp import MLP, TrainingDiverged


def problem() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    X = random.normal(size=(6, 90))
    return X, (X[0] > 0) + 1 * (X[1] > 0)


@pytest.fixture
def crowded(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has no room for rows."""
    from mlp_xp.fast import upload

    monkeypatch.setattr(upload, "room", lambda: 100)


def history(**settings: Any) -> list[float]:
    X, y = problem()
    model = MLP((6, 9, 3), device="cuda", dropout=0.2, normalization="batch", **settings)
    model.fit(X, y, epochs=3, batch_size=16, validation_data=(X, y), progress=False)
    np.testing.assert_array_equal(model.evaluate(X, y).loss, model.history["validation_loss"][-1])
    return [float(np.sum(v)) for v in model.history["loss"] + model.history["validation_loss"]]


@pytest.mark.parametrize("seed", [3, [3, 4]])
def test_rows_on_the_host_train_as_rows_on_the_device(
    cupy: Any, seed: Any, request: pytest.FixtureRequest
) -> None:
    expected = history(seed=seed)
    request.getfixturevalue("crowded")
    assert history(seed=seed) == expected


def test_a_batch_goes_up_a_step_and_no_step_is_waited_for(counting: Any, crowded: None) -> None:
    X, y = problem()
    model, counts = MLP((6, 9, 3), device="cuda"), list[Any]()
    model.fit(
        *(X, y),
        epochs=3,
        batch_size=10,
        callbacks=[lambda m, e: counts.append(counting.counters())],
        progress=False,
    )
    last = counts[2] - counts[1]
    assert last.kernels["score"] == 9
    assert last.copies["H2D"].calls <= 9 + 2  # 9 batches; the order and the rates
    assert last.copies["H2D"].bytes < 1.5 * X.size * 4
    waits = {name: n for name, n in last.synchronisations.items() if "Event" not in name}
    assert sum(waits.values()) == 4  # for the history and whether the weights are finite


def test_faults_in_rows_on_the_host_are_found(crowded: None) -> None:
    X, y = problem()
    X[2, 7] = np.inf
    with pytest.raises(ValueError, match=r"X holds inf at \[2, 7\]"):
        MLP((6, 9, 3), device="cuda").fit(X, y, progress=False)
    X[2, 7] = 1e300
    with pytest.raises(ValueError, match="finite numbers that fit float32"):
        MLP((6, 9, 3), device="cuda").fit(X, y, progress=False)
    X[2, 7] = 1
    model = MLP((6, 9, 3), device="cuda", optimizer="sgd", learning_rate=1e30)
    with pytest.raises(TrainingDiverged, match="scale the features"):
        model.fit(1e4 * X, y, progress=False)


def test_copies_and_steps_are_ordered_by_events_not_by_luck(counting: Any) -> None:
    """Work that is put off until something waits for it shows each missing order."""
    only = [__file__, "-k", "train_as_rows", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--require", "cupy", *only],
        env={**os.environ, "CUPYCPU_DEFER": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
