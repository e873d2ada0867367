"""A terminal of any width shows the epoch and its loss."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp import (
    ACTIVATIONS,
    INITIALIZERS,
    LOSSES,
    MLP,
    OPTIMIZERS,
    SCHEDULES,
    Epoch,
    MLPClassifier,
    checks,
)
from mlp_xp.fitting import describe, fitted

ROOT = Path(__file__).parents[1]
AN_EPOCH = Epoch(12, 276, 0.01, 0.59431, 0.13342, 0.98614, 0.5)


def shown(tmp_path: Path, columns: int, *argv: str) -> list[str]:
    """The lines of a bar, each as it was drawn over the one before."""
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "mlp_xp", "train", "--json", *argv]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=slave
    )
    os.close(slave)
    content = b""
    with contextlib.suppress(OSError):  # how Linux reports the end of a terminal
        while part := os.read(master, 4096):
            content += part
    os.close(master)
    assert process.wait(timeout=60) == 0
    lines = re.split(r"[\r\n]+", content.decode())
    return [line for line in lines if "%" in line and ("█" in line or " 0%" in line)]


@pytest.mark.skipif(os.name != "posix", reason="a terminal of POSIX")
@pytest.mark.parametrize("columns", [30, 40, 60, 80, 120])
def test_epoch_or_step_and_loss_are_whole_at_any_width(tmp_path: Path, columns: int) -> None:
    lines = shown(tmp_path, columns, "--epochs", "10", "--hidden", "16")
    assert max(map(len, lines)) <= columns
    last = lines[-1]
    assert "10/10" in last or "230/230" in last
    assert re.search(r"loss \d\.\d{4}\b", last)
    assert ("score" in last) == (columns >= 60)
    if columns >= 60:
        assert re.search(r"score 0\.\d{4}\b", last)
    assert ("step/s" in last) == (columns == 120)


def test_a_width_that_the_environment_names_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    X = np.random.default_rng(0).normal(size=(4, 60))
    MLP((4, 8, 2)).fit(X, X[0] > 0, epochs=3, validation_data=(X, X[0] > 0))
    lines = re.split(r"[\r\n]+", capsys.readouterr().err.rstrip())
    assert re.match(r"epoch 3/3, loss \d\.\d{4} .*100%$", lines[-1])
    assert max(map(len, lines)) <= 40


def test_a_second_call_of_fit_counts_its_epochs_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    X = np.random.default_rng(0).normal(size=(4, 60))
    model = MLP((4, 8, 2)).fit(X, X[0] > 0, epochs=3, progress=False)
    model.fit(X, X[0] > 0, epochs=2)
    assert "epoch 5/5, loss" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("columns", [40, 120])
def test_an_estimator_shows_the_same(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    X = np.random.default_rng(0).normal(size=(60, 4))
    est = MLPClassifier((8,), max_iter=3, progress=True, early_stopping=True).fit(X, X[:, 0] > 0)
    last = re.split(r"[\r\n]+", capsys.readouterr().err.rstrip())[-1]
    assert f"loss {est.loss_:.4f}" in last
    assert ("epoch 3/3" if columns == 40 else f"score {est.validation_scores_[-1]:.4f}") in last


def test_what_has_no_room_goes_the_least_wanted_first() -> None:
    assert fitted(AN_EPOCH, 60, 80) == f"epoch 12/60, {describe(AN_EPOCH)}"
    assert fitted(AN_EPOCH, 60, 50) == "epoch 12/60, loss 0.5943, score 0.9861"
    assert fitted(AN_EPOCH, 60, 30) == "epoch 12/60, loss 0.5943"
    assert fitted(AN_EPOCH, 60, 20) == "12/60, loss 0.5943"
    assert fitted(AN_EPOCH, None, 30) == "epoch 12, loss 0.5943"
    large = AN_EPOCH._replace(loss=123456.789, validation_loss=None, validation_score=None)
    assert fitted(large, 60, 30) == "epoch 12/60, loss 1.23e+05"


TABLES = {
    "activation": ACTIVATIONS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "initializer": INITIALIZERS,
}
MEANT = {
    "activation": {"swish": "silu", "relu6": "relu", "Linear": "identity", "prelu": "leaky_relu"},
    "loss": {
        "mse": "squared_error",
        "MSELoss": "squared_error",
        "mae": "absolute_error",
        "ce": "cross_entropy",
        "NLLLoss": "cross_entropy",
        "BCEWithLogitsLoss": "binary_cross_entropy",
    },
    "optimizer": {"Adam": "adam", "sgdm": "momentum", "nag": "nesterov"},
    "schedule": {
        "plateau": "reduce_on_plateau",
        "ReduceLROnPlateau": "reduce_on_plateau",
        "OneCycleLR": "one_cycle",
        "cosine_annealing": "cosine",
    },
    "initializer": {"he_uniform": "he", "xavier": "glorot_uniform", "kaiming_normal": "he"},
}


@pytest.mark.parametrize(("argument", "name"), [(a, n) for a in MEANT for n in MEANT[a]])
def test_a_name_of_another_library_is_answered_with_ours(argument: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"Did you mean '{MEANT[argument][name]}'"):
        checks.choose(argument, TABLES[argument], name)


def test_a_softmax_between_layers_is_told_where_it_is() -> None:
    with pytest.raises(ValueError, match="has its softmax from the loss 'cross_entropy'"):
        MLP((4, 3, 2), activation="softmax")


@pytest.mark.parametrize(
    ("option", "name", "ours"),
    [
        ("activation", "swish", "silu"),
        ("activation", "relu6", "relu"),
        ("loss", "ce", "cross_entropy"),
        ("solver", "Adam", "adam"),
        ("learning_rate", "plateau", "reduce_on_plateau"),
    ],
)
def test_an_estimator_knows_other_names_too(option: str, name: str, ours: str) -> None:
    X = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(ValueError, match=rf"'{option}' parameter of .* Did you mean '{ours}'\?"):
        MLPClassifier(**{option: name}).fit(X, X[:, 0] > 0)


@pytest.mark.parametrize("loss", ["squared_error", "mse"])
def test_an_estimator_means_no_name_that_it_refuses(loss: str) -> None:
    with pytest.raises(ValueError, match=r"'loss' parameter of MLPClassifier .*") as refused:
        MLPClassifier(loss=loss).fit([[0.0], [1.0]], [0, 1])
    assert "mean" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            {"early_stopping": "yes"},
            "early_stopping is 'yes', but expected True, epochs of patience",
        ),
        ({"early_stopping": 2.5}, "early_stopping is 2.5, but expected True, epochs of patience"),
        ({"callbacks": "f"}, "callbacks is 'f', but expected a function or a list of"),
        ({"callbacks": 3}, "callbacks is 3, but expected a function or a list of"),
        ({"callbacks": [print, 3]}, "callbacks holds 3, but expected functions"),
    ],
)
def test_what_is_no_patience_and_no_function_is_refused(
    options: dict[str, Any], error: str
) -> None:
    X = np.random.default_rng(0).normal(size=(4, 60))
    with pytest.raises(TypeError, match=re.escape(error)):
        MLP((4, 2)).fit(X, X[0] > 0, epochs=1, progress=False, **options)


def test_a_patience_may_be_numpys_number() -> None:
    X = np.random.default_rng(0).normal(size=(4, 60))
    options: dict[str, Any] = {"early_stopping": np.int64(1), "progress": False}
    assert MLP((4, 2)).fit(X, X[0] > 0, epochs=1, **options).epochs_trained == 1


def test_no_callbacks_may_be_said_as_none() -> None:
    X = np.random.default_rng(0).normal(size=(4, 60))
    assert MLP((4, 2)).fit(X, X[0] > 0, epochs=1, callbacks=None, progress=False).epochs_trained
