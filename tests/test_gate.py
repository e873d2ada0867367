"""What a fast path does not know goes to the specification, on every device."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest

from conftest import Backend, tolerance
from mlp_xp import MLP, Sequential
from mlp_xp import Activation as Formula
from mlp_xp.devices import device as find_device
from mlp_xp.fast import gate, native
from mlp_xp.fitting import copied
from mlp_xp.layers import Activation, Dense
from mlp_xp.network import Forward, Network
from mlp_xp.training import Data, Recipe, batch, stepper, train_step

SIZES = (4, 6, 3)


@dataclass(frozen=True)
class Louder(Network):
    """A network with a layer that is made up: its scores are `factor` times as large."""

    factor: float = 3.0

    def forward(self, *args: Any, **options: Any) -> Forward:
        scores, memories = super().forward(*args, **options)
        return Forward(self.factor * scores, memories)

    def backward(self, kernels: Any, xp: Any, layers: Any, memories: Any, *given: Any) -> Any:
        delta, db = (self.factor * array for array in given)
        return super().backward(kernels, xp, layers, memories, delta, db)


@dataclass(frozen=True)
class Tilted(Recipe):
    """A recipe with one thing more in it."""

    tilt: float = 0.0


def louder(model: MLP) -> MLP:
    """The model with the made-up layer at its end."""
    model.network = Louder(**{f.name: getattr(model.network, f.name) for f in fields(Network)})
    model._recipe = replace(model._recipe, network=model.network)
    return model


def examples(m: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(4, m)), rng.integers(0, 3, m)


def as_specified(**options: Any) -> MLP:
    """Three epochs by `train_step` and nothing else, on NumPy."""
    plain = find_device("cpu")._replace(stepper=None, predictor=None)
    X, Y = examples()
    model = louder(MLP(SIZES, device=plain, dtype="float64", **options))
    return model.fit(X, Y, epochs=3, batch_size=8, progress=False)


@pytest.fixture(params=["as it is", "nothing compiled"])
def native_or_not(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "nothing compiled":
        monkeypatch.setattr(native, "available", lambda: False)


@pytest.mark.usefixtures("native_or_not")
@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_a_made_up_layer_trains_like_the_specification_on_every_device(
    backend: Backend, seed: Any
) -> None:
    X, Y = examples()
    options = {"seed": seed, "dropout": 0.2, "normalization": "batch"}
    expected = as_specified(**options)
    model = louder(MLP(SIZES, device=backend.device, dtype="float64", **options))
    model.fit(X, Y, epochs=3, batch_size=8, progress=False)
    for name, W in expected.parameters.items():
        found = model.device.get(model.parameters[name])
        np.testing.assert_allclose(found, W, **tolerance("float64", 4096))
    asked = model.device.get(model.predict_proba(X))
    np.testing.assert_allclose(asked, expected.predict_proba(X), **tolerance("float64", 4096))
    own = model.device.put(X)
    quick = model.device.get(model.predictor(20)(own))
    np.testing.assert_allclose(quick, asked, **tolerance("float64", 64))


def test_a_made_up_layer_changes_what_is_learnt() -> None:
    X, Y = examples()
    plain = MLP(SIZES, dtype="float64").fit(X, Y, epochs=3, batch_size=8, progress=False)
    assert np.abs(plain.parameters["W1"] - as_specified().parameters["W1"]).max() > 1e-4


def paths(model: MLP, data: Data) -> dict[str, Any]:
    """What each fast path of the model's device makes of its recipe."""
    state = copied(model.device, model._run.state)
    layers = model.network.split(model.device.xp, state.theta)
    found = {
        "many predictions": model.device.predictor(model._recipe, layers, 8),
    }
    if model.device.name == "cpu":
        found["predictions"] = model.device.predictor(model._recipe, layers)
    if model.device.name != "cpu":  # there the specification is traced
        from mlp_xp.fast.program import Program

        step = model.device.stepper(model._recipe, model.device, data)
        found["step"] = step if step.kind is Program else None
    return found


def place(request: pytest.FixtureRequest, name: str) -> Any:
    if name == "cuda":
        request.getfixturevalue("cupy")
    return find_device(name)


def data_of(model: MLP) -> Data:
    X, Y = examples()
    put = model.device.put
    return Data(put(np.ascontiguousarray(X.T.astype(model.dtype))), put(Y))


@pytest.mark.usefixtures("native_or_not")
@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_fast_paths_take_every_dense_network_and_nothing_else(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    device = place(request, name)
    model = MLP(SIZES, device=device)
    data = data_of(model)
    assert all(path is not None for path in paths(model, data).values())

    other = louder(MLP(SIZES, device=device))
    assert all(path is None for path in paths(other, data).values())

    plain = model._recipe
    model._recipe = Tilted(**{f.name: getattr(plain, f.name) for f in fields(plain)})
    assert all(path is None for path in paths(model, data).values())
    model._recipe = plain

    for kind in (Network, Recipe):  # as if a field were added to the class itself
        with monkeypatch.context() as patch:
            more = {**kind.__dataclass_fields__, "tilt": Tilted.__dataclass_fields__["tilt"]}
            patch.setattr(kind, "__dataclass_fields__", more)
            assert all(path is None for path in paths(model, data).values()), kind
    for kind in (type(plain.loss), type(model.network.activations[0]), Data):
        with monkeypatch.context() as patch:
            patch.setattr(kind, "_fields", (*kind._fields, "tilt"))
            assert all(path is None for path in paths(model, data).values()), kind
    assert all(path is not None for path in paths(model, data).values())


def test_a_graph_that_was_asked_for_is_not_left_out_in_silence(cupy: Any) -> None:
    from mlp_xp.fast.graph import GraphError
    from mlp_xp.fast.launches import KernelWarning

    def looks(xp: Any, z: Any) -> Any:
        return z if float(xp.max(z)) < 0 else xp.tanh(z)

    device = find_device("cuda", graph=True)
    layers = [Dense(4), Activation(Formula(looks, lambda xp, a: 1 - a * a, "A")), Dense(3)]
    model = Sequential((SIZES[0],), layers, device=device)
    refused = pytest.raises(GraphError, match="the specification computes a part")
    with pytest.warns(KernelWarning, match="a formula reads a value"), refused:
        model.fit(*examples(), epochs=1, progress=False)
    louder(MLP(SIZES, device=device)).fit(*examples(), epochs=1, progress=False)


def test_what_paths_say_that_they_read_is_there() -> None:
    for kind, names in gate.READ.items():
        assert names == gate.named(kind), kind.__name__


def test_the_specification_is_one_step_of_batch_and_train_step() -> None:
    model = louder(MLP(SIZES, dtype="float64"))
    data, index = data_of(model), np.arange(8)
    step = stepper(model._recipe, model.device._replace(stepper=None), data)
    found = step(copied(model.device, model._run.state), index, None, 0.01)
    X, T, w = batch(model._recipe, np, data, index)
    expected = train_step(model._recipe, np, model._run.state, X, T, w, None, 0.01)
    np.testing.assert_array_equal(found.theta, expected.theta)
