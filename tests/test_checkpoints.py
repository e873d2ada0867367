"""A training that is killed goes on from its checkpoint to the bit, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Backend
from mlp_xp import MLP, OPTIMIZERS, SCHEDULES, Epoch, Sequential
from mlp_xp.fitting import EarlyStopping
from mlp_xp.layers import Activation, BatchNorm, Conv2d, Dense, Dropout, Flatten
from mlp_xp.model import Model
from mlp_xp.schedules import ReduceOnPlateau

RNG = np.random.default_rng(11)
X = RNG.normal(size=(5, 60))
Y = (X[0] + X[1] * X[2] > 0).astype(int)
HELD = (RNG.normal(size=(5, 30)), RNG.integers(0, 2, 30))
WEIGHTS = RNG.uniform(0.5, 2, 60)
EPOCHS, KILLED = 12, 8
FULL: dict[str, Any] = {
    "normalization": "batch",
    "dropout": 0.25,
    "residual": True,
    "density": 0.6,
    "l2": 1e-4,
    "clip_norm": 2.0,
    "label_smoothing": 0.1,
}


def dense(**options: Any) -> Callable[[], Model]:
    return lambda: MLP((5, 6, 4, 2), **{"seed": 3, **options})


def layered() -> Model:
    layers = [Conv2d(3, kernel=(2, 1)), BatchNorm(), Activation("relu"), Flatten(), Dropout(0.2)]
    return Sequential((1, 5, 1), [*layers, Dense(2)], seed=[3, 4])


# how a model is made, and how it is fitted
CASES: dict[str, tuple[Callable[[], Model], dict[str, Any]]] = {
    "everything": (dense(**FULL), {"validation_data": HELD, "schedule": "one_cycle"}),
    "three networks": (
        dense(**FULL, seed=[1, 2, 3]),
        {"validation_data": HELD, "early_stopping": 3, "schedule": ReduceOnPlateau(patience=1)},
    ),
    "float64": (dense(**FULL, dtype="float64"), {"sample_weight": WEIGHTS}),
    "bfloat16": (dense(precision="bfloat16"), {}),
    "early stopping": (
        dense(learning_rate=0.1),
        {"validation_data": HELD, "early_stopping": EarlyStopping(6, 0.01)},
    ),
    "by the training loss": (dense(), {"early_stopping": True, "shuffle": False}),
    "one batch": (dense(), {"batch_size": 60}),
    "layers": (layered, {"validation_data": HELD, "early_stopping": 5}),
}
CASES |= {name: (dense(optimizer=name), {}) for name in OPTIMIZERS}
CASES |= {name: (dense(), {"schedule": name, "early_stopping": 9}) for name in SCHEDULES}


class Killed(Exception):
    """What ends a training in a test, where nothing can be done about it."""


def fitted(model: Model, folder: Path | None = None, **options: Any) -> Model:
    more: dict[str, Any] = {} if folder is None else {"checkpoint": folder, "every": 0}
    kept = {"epochs": EPOCHS, "batch_size": 16, "progress": False, **more, **options}
    return model.fit(X, Y, **kept)


def killed(model: Model, folder: Path, after: int = KILLED, **options: Any) -> None:
    """Train until the end of an epoch, which is not kept: it had not ended."""

    def kill(_: Model, epoch: Epoch) -> None:
        if epoch.epoch == after:
            raise Killed

    with pytest.raises(Killed):
        fitted(model, folder, **options, callbacks=kill)


def bits(model: Model) -> list[bytes]:
    state = model._run.state
    arrays = (state.theta, *state.moments, state.running)
    return [model.device.get(array).tobytes() for array in arrays]


def assert_same(model: Model, other: Model) -> None:
    assert bits(model) == bits(other)
    assert model.steps_trained == other.steps_trained
    assert model.history.keys() == other.history.keys()
    for name in set(model.history) - {"seconds"}:
        assert np.array_equal(model.history[name], other.history[name]), name
    seconds = model.history["seconds"]
    assert seconds == sorted(seconds)


def names(folder: Path) -> list[str]:
    """The checkpoints in a folder."""
    return sorted(path.name for path in folder.glob("epoch-*"))


@pytest.mark.parametrize("case", CASES)
def test_a_training_goes_on_to_the_bit(case: str, tmp_path: Path) -> None:
    make, options = CASES[case]
    straight = fitted(make(), **options)
    killed(make(), tmp_path, min(KILLED, straight.epochs_trained), **options)
    assert f"epoch-{min(KILLED, straight.epochs_trained) - 1}.safetensors" in names(tmp_path)
    assert_same(fitted(make(), tmp_path, **options), straight)
    assert_same(fitted(make(), tmp_path, **options), straight)  # which was over


def test_checkpoints_change_nothing_of_a_training(tmp_path: Path) -> None:
    make, options = CASES["everything"]
    assert_same(fitted(make(), tmp_path / "a" / "b", **options), fitted(make(), **options))


def test_a_training_on_any_backend_goes_on(backend: Backend, tmp_path: Path) -> None:
    options = {"early_stopping": 4, "validation_data": HELD}
    make = dense(**FULL, seed=[1, 2], device=backend.device)
    straight = fitted(make(), **options)
    killed(make(), tmp_path, **options)
    assert_same(fitted(make(), tmp_path, **options), straight)
