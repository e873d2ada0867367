"""Trackers record what the history holds, in the libraries themselves."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import need
from mlp_xp import MLP, Epoch, MLPClassifier, NeuralClassifier, Sequential
from mlp_xp.layers import Dense
from mlp_xp.trackers import MLflow, TensorBoard, WandB, mlflow_autolog, options, scalars

rng = np.random.default_rng(3)
X, Y = rng.normal(size=(40, 4)), rng.integers(0, 2, 40)
FIT: dict[str, Any] = {"epochs": 2, "progress": False, "layout": "rows"}


def test_an_epoch_of_several_networks_is_several_scalars() -> None:
    losses = np.array([0.5, 0.25])
    assert scalars(Epoch(1, 7, 0.1, losses, None, None, 2.0)) == {
        "loss/0": 0.5,
        "loss/1": 0.25,
        "rate": 0.1,
    }


def test_options_are_plain_values_by_name() -> None:
    model = Sequential(4, [Dense(3)], learning_rate=0.25, seed=7)
    found = options(model)
    assert found["model"] == "Sequential"
    assert (found["optimizer.name"], found["optimizer.rate"]) == ("adam", 0.25)
    assert (found["seed"], found["parameters"]) == (7, 15)
    est = options(MLPClassifier((3,), callbacks=[print]))
    assert est["hidden_layer_sizes"] == "(3,)"
    assert "callbacks" not in est
    plain = bool | int | float | str | None
    assert all(isinstance(value, plain) for value in [*found.values(), *est.values()])


@pytest.mark.parametrize(
    ("module", "extra", "make"),
    [
        ("tensorboard.summary", "tensorboard", lambda: TensorBoard("never")),
        ("mlflow", "mlflow", MLflow),
        ("wandb", "wandb", WandB),
    ],
)
def test_a_missing_tracker_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str, make: Any
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape(f"pip install 'mlp_xp[{extra}]'")):
        MLP((4, 2)).fit(X, Y, callbacks=make(), **FIT)
    if extra == "mlflow":
        with pytest.raises(ImportError, match=re.escape("pip install 'mlp_xp[mlflow]'")):
            mlflow_autolog()


# -- TensorBoard ----------------------------------------------------------------------------


def written(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_tensorboard_reads_the_history(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    need(request, "tensorboard")
    with TensorBoard(tmp_path) as board:
        model = MLP((4, 2)).fit(X, Y, callbacks=board, validation_data=(X, Y), **FIT)
        found = written(tmp_path)  # whole while the file is open
    assert set(found) == {"loss", "validation_loss", "validation_score", "rate"}
    for name, values in found.items():
        assert [step for step, _ in values] == [1, 2]
        np.testing.assert_allclose([value for _, value in values], model.history[name], rtol=1e-6)


def test_an_estimator_with_a_board_can_be_cloned(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    need(request, "tensorboard")
    from sklearn.base import clone

    board = TensorBoard(tmp_path)
    est = NeuralClassifier("dense:3", epochs=1, callbacks=[board]).fit(X, Y)
    other = clone(est)
    board.close()
    assert other.callbacks[0].folder == str(tmp_path)
    assert other.callbacks[0]._writer is None
    assert len(written(tmp_path)["loss"]) == 1


# -- MLflow ---------------------------------------------------------------------------------

MLFLOWS_OWN = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what it calls


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder: MLflow's database takes seconds to begin."""
    return (tmp_path_factory.mktemp("mlflow") / "runs").as_uri()


@pytest.fixture
def mlflow(
    request: pytest.FixtureRequest, store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Any]:
    """MLflow with runs of this file alone."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    library = need(request, "mlflow")
    before = library.get_tracking_uri()
    library.set_tracking_uri(store)
    yield library
    library.end_run()
    library.set_tracking_uri(before)


def metrics(mlflow: Any, run: Any, name: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
    return [(metric.step, metric.value) for metric in history]


@MLFLOWS_OWN
def test_mlflow_has_the_history_and_how_the_model_was_made(mlflow: Any) -> None:
    with mlflow.start_run() as run:
        model = MLP((4, 2)).fit(X, Y, callbacks=MLflow(), **FIT)
    assert metrics(mlflow, run, "loss") == list(enumerate(model.history["loss"], 1))
    params = mlflow.get_run(run.info.run_id).data.params
    assert params["sizes"] == "[4, 2]"
    assert params["optimizer.name"] == "adam"


@MLFLOWS_OWN
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_autologging_needs_no_word_in_the_program(mlflow: Any) -> None:
    mlflow_autolog()
    try:
        seen: list[Epoch] = []
        est = MLPClassifier((3,), max_iter=2, callbacks=lambda _, epoch: seen.append(epoch))
        own = est.callbacks
        est.fit(X, Y)
        (first,) = mlflow.search_runs(max_results=1, output_format="list")
        assert est.callbacks is own
        assert len(seen) == 2
        NeuralClassifier("dense:3", epochs=2).fit(X, Y)
        MLPClassifier((3,), solver="lbfgs", max_iter=3).fit(X, Y)
        last, neural, *_ = mlflow.search_runs(output_format="list")
    finally:
        mlflow_autolog(disable=True)
    assert metrics(mlflow, first, "loss") == list(enumerate(est.loss_curve_, 1))
    assert first.data.params["hidden_layer_sizes"] == "(3,)"
    assert first.info.status == "FINISHED"
    path = mlflow.artifacts.download_artifacts(
        run_id=first.info.run_id, artifact_path="model.safetensors"
    )
    again = MLPClassifier.load(path)
    np.testing.assert_array_equal(again.predict_proba(X), est.predict_proba(X))
    assert neural.data.params["fit.epochs"] == "2"
    assert len(metrics(mlflow, neural, "loss")) == 2  # once, though a fit is in a fit
    assert last.data.params["solver"] == "lbfgs"
    assert len(metrics(mlflow, last, "loss")) == 1
    n = len(mlflow.search_runs(output_format="list"))
    MLP((4, 2)).fit(X, Y, **FIT)
    assert len(mlflow.search_runs(output_format="list")) == n


@MLFLOWS_OWN
@pytest.mark.filterwarnings("ignore:MLflow does not log all of this fit:UserWarning")
def test_a_fault_of_autologging_is_a_warning_and_the_training_goes_on(mlflow: Any) -> None:
    def own(xp: Any, Z: Any) -> Any:
        return xp.tanh(Z)

    mlflow_autolog()
    try:
        with mlflow.start_run() as run:
            MLP((4, 2)).fit(X, Y, **FIT)
            with pytest.warns(UserWarning, match="Changing param values is not allowed"):
                other = MLP((4, 3, 2)).fit(X, Y, **FIT)
        assert other.epochs_trained == 2
        assert len(metrics(mlflow, run, "loss")) == 2
        pair = (own, lambda xp, Z: 1 - own(xp, Z) ** 2)
        MLP((4, 3, 2), activation=pair).fit(X, Y, **FIT)  # a file cannot hold it
        (last,) = mlflow.search_runs(max_results=1, output_format="list")
        assert last.info.status == "FINISHED"
    finally:
        mlflow_autolog(disable=True)


# -- Weights & Biases -----------------------------------------------------------------------


def test_wandb_has_the_history_and_how_the_model_was_made(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = need(request, "wandb")
    given: dict[str, Any] = {"project": "here", "mode": "offline", "dir": str(tmp_path)}
    try:
        MLP((4, 2)).fit(X, Y, callbacks=WandB(**given), **FIT)
        model = MLP((4, 2)).fit(2 * X, Y, callbacks=WandB(), **FIT)  # in the same run
        summary, config = wandb.run.summary, dict(wandb.run.config)
        assert summary["epoch"] == 2
        assert summary["loss"] == model.history["loss"][-1]
        assert config["sizes"] == "[4, 2]"
    finally:
        wandb.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
