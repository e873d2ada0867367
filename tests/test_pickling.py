"""Models in other processes: pickled, copied, sent by joblib and multiprocessing."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import mlp_xp
from conftest import Backend
from mlp_xp import ACTIVATIONS, LOSSES, MLP, Activation, Loss
from mlp_xp.initializers import normal
from mlp_xp.optimizers import Momentum

X = np.random.default_rng(0).normal(size=(4, 30))
y = np.arange(30) % 3
FULL: dict[str, Any] = {
    "activation": ["mish", "leaky_relu"],
    "normalization": "batch",
    "dropout": 0.2,
    "residual": True,
    "density": 0.7,
    "optimizer": "adamw",
}


def f(xp: Any, Z: Any) -> Any:
    return xp.tanh(Z)


def slope(xp: Any, A: Any) -> Any:
    return 1 - A * A


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def trained(**settings: Any) -> MLP:
    model = MLP((4, 8, 6, 3), **{**FULL, **settings})
    return model.fit(X, y, epochs=3, batch_size=8, progress=False)


def same(model: MLP, other: MLP) -> None:
    """Equal weights, moments and statistics, to the bit."""
    states = [m._run.state for m in (model, other)]
    for mine, theirs in zip(*[(s.theta, *s.moments, s.running) for s in states], strict=True):
        np.testing.assert_array_equal(model.device.get(mine), other.device.get(theirs))
    assert model.steps_trained == other.steps_trained
    assert model.history.keys() == other.history.keys()
    for name in model.history.keys() - {"seconds"}:
        np.testing.assert_array_equal(model.history[name], other.history[name])


@pytest.mark.parametrize("again", [pickled, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_copy_predicts_the_same_and_trains_on_to_the_same_bits(again: Any, loss: str) -> None:
    kind = LOSSES[loss].kind
    n_out = 1 if kind == "binary" else 3
    Y = y if kind == "multiclass" else (np.eye(3)[y].T)[:n_out]
    model = MLP((4, 8, 6, n_out), loss=loss, **FULL)
    model.fit(X, Y, epochs=3, batch_size=8, progress=False)
    model.metadata["source"] = ["made up"]
    other = again(model)
    assert (other.config, other.metadata) == (model.config, model.metadata)
    assert other.loss is model.loss
    assert other.network == model.network
    np.testing.assert_array_equal(other.predict(X), model.predict(X))
    same(model, other)
    other.fit(X, Y, epochs=2, batch_size=8, progress=False)
    other.metadata["source"].append("copied")
    assert model.epochs_trained == len(model.history["loss"]) == 3
    assert model.metadata["source"] == ["made up"]
    model.fit(X, Y, epochs=2, batch_size=8, progress=False)
    same(model, other)


def test_a_copy_is_on_the_same_device(backend: Backend) -> None:
    model = trained(device=backend.device, seed=[0, 1])
    other = copy.deepcopy(model)
    assert other.device is model.device
    same(model, other)
    before = backend.get(model.parameters["W1"])
    other.fit(X, y, epochs=1, progress=False)
    np.testing.assert_array_equal(backend.get(model.parameters["W1"]), before)
    if backend.name == "cupy":
        other = pickled(model)
        assert other.device.name == "cuda"
        same(model, other)


@pytest.mark.parametrize("row", [*ACTIVATIONS.values(), *LOSSES.values()])
def test_a_row_of_a_table_comes_back_as_that_row(row: Any) -> None:
    assert pickled(row) is row
    assert copy.deepcopy(row) is row
    assert copy.copy(row) is row


def test_functions_of_a_module_are_pickled_as_they_are() -> None:
    own = Loss(*LOSSES["huber"][:4])
    model = MLP((4, 5, 1), activation=(f, slope), loss=Loss(f, f, f, "real"))
    again = pickled(model)
    assert again.network.activations == model.network.activations == ((f, slope, "Z"),)
    assert again.loss == model.loss
    assert isinstance(pickled(Loss(f, slope, f, "real")), Loss)
    assert copy.deepcopy(own) is own
    given = MLP((4, 3), optimizer=Momentum(rate=0.1, momentum=0.5), initializer=normal(0.5))
    assert pickled(given).optimizer == given.optimizer
    np.testing.assert_array_equal(pickled(given).parameters["W1"], given.parameters["W1"])


OWN = {
    "activation": lambda: Activation(f=lambda xp, Z: xp.tanh(Z), slope=lambda xp, A: 1 - A * A),
    "loss": lambda: LOSSES["cross_entropy"]._replace(predict=lambda xp, S: xp.exp(S)),
    "initializer": lambda: lambda draw, n_out, n_in, *fans: draw.normal(n_out, n_in),
    "device": lambda: MLP((4, 3)).device._replace(name="mine"),
}


@pytest.mark.parametrize("argument", OWN)
def test_a_function_that_pickle_does_not_take_is_named_and_deepcopy_keeps_it(
    argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MLP((4, 5, 3), **{argument: OWN[argument]()})
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    message = f"{argument} holds .*, but expected functions from the top level of a module"
    with pytest.raises(pickle.PicklingError, match=message):
        pickle.dumps(model)
    given = {"activation": model.network.activations[0], "loss": model.loss, "device": model.device}
    if argument in given:
        assert copy.copy(given[argument]) is given[argument]
    other = copy.deepcopy(model)
    assert other.network.activations[0] is model.network.activations[0]
    assert other.loss is model.loss
    assert other.initializers == model.initializers
    assert other.device is model.device


@pytest.mark.parametrize("argument", OWN)
def test_where_cloudpickle_is_installed_pickle_takes_every_function(argument: str) -> None:
    pytest.importorskip("cloudpickle")
    model = MLP((4, 5, 3), **{argument: OWN[argument]()})
    np.testing.assert_array_equal(pickled(model).scores(X), model.scores(X))


def test_a_row_that_is_missing_in_another_process_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ACTIVATIONS, "mine", Activation(f, slope))
    content = pickle.dumps(MLP((4, 5, 3), activation="mine"))
    assert pickle.loads(content).config["activation"] == ["mine"]
    monkeypatch.delitem(ACTIVATIONS, "mine")
    with pytest.raises(pickle.UnpicklingError, match=r"activation 'mine'.*that it imports"):
        pickle.loads(content)


def test_joblib_trains_models_in_other_processes() -> None:
    joblib = pytest.importorskip("joblib")
    start = [MLP((4, 8, 3)), MLP((4, 600, 600, 3))]  # joblib hands large arrays over as files
    fit = {"epochs": 2, "batch_size": 8, "progress": False}
    jobs = [joblib.delayed(MLP.fit)(model, X, y, **fit) for model in start]
    with joblib.parallel_config(backend="loky", n_jobs=2):
        found = joblib.Parallel()(jobs)
    for model, other in zip(start, found, strict=True):
        assert model.epochs_trained == 0
        same(model.fit(X, y, **fit), other)


SPAWN = """
import multiprocessing
import numpy as np
from mlp_xp import MLP

if __name__ == "__main__":
    X = np.random.default_rng(0).normal(size=(4, 30))
    model = MLP((4, 8, 3), activation="mish").fit(X, np.arange(30) % 3, progress=False)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(np.array_equal(pool.apply(model.scores, (X,)), model.scores(X)))
"""


def test_a_spawned_process_predicts_the_same(tmp_path: Any) -> None:
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("again", [pickled, copy.deepcopy])
def test_an_estimator_with_rows_for_parameters_is_pickled(again: Any) -> None:
    pytest.importorskip("sklearn")
    row = ACTIVATIONS["mish"]
    est = mlp_xp.MLPClassifier((5,), activation=row, max_iter=2, random_state=0, device="cpu")
    with pytest.warns(Warning, match="Maximum iterations"):
        est.fit(X.T, y)
    other = again(est)
    assert other.activation is row
    np.testing.assert_array_equal(other.predict_proba(X.T), est.predict_proba(X.T))
