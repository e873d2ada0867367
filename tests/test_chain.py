"""Networks of layers: what holds for every kind, by the table `LAYERS`, and the chain itself."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Backend, tolerance
from mlp_xp import MLP, Sequential, check_gradients, inspect_step, stream
from mlp_xp import layers as package
from mlp_xp.devices import device as find_device
from mlp_xp.fast import gate
from mlp_xp.kernels import Kernels
from mlp_xp.layers import (
    GRU,
    LAYERS,
    LSTM,
    Activation,
    AvgPool,
    BatchNorm,
    Chain,
    Conv1d,
    Conv2d,
    Dense,
    Dropout,
    Elman,
    Embedding,
    Flatten,
    GlobalAvgPool,
    Last,
    LayerNorm,
    MaxPool,
    Reshape,
    Residual,
)
from mlp_xp.layers.base import Pass, Plain, Shape
from mlp_xp.layers.stack import numbered
from mlp_xp.layers.table import brief, from_json, to_json
from mlp_xp.storage import ModelFileError
from mlp_xp.training import gradient

N_CLASSES = 3
M = 14
IMAGE, SEQUENCE = (2, 5, 4), (3, 6)

# for every kind a small network with it inside: weights before and after it where that can be
NETWORKS: dict[str, tuple[Shape, list[Any]]] = {
    "Dense": ((5,), [Dense(4), Activation("tanh"), Dense(4, bias=False), Dense(3)]),
    "Activation": ((5,), [Dense(4), Activation("gelu"), Dense(3)]),
    "Dropout": ((5,), [Dropout(0.1), Dense(6), Activation("tanh"), Dropout(0.4), Dense(3)]),
    "BatchNorm": (IMAGE, [Conv2d(3, 2, bias=False), BatchNorm(), Flatten(), Dense(3)]),
    "LayerNorm": (SEQUENCE, [Conv1d(4, 2), LayerNorm(), GRU(3), LayerNorm("all"), Dense(3)]),
    "Conv1d": (SEQUENCE, [Conv1d(4, 2), Activation("tanh"), Conv1d(4, 3, groups=2), Flatten(),
                          Dense(3)]),
    "Conv2d": (IMAGE, [Conv2d(4, 2), Activation("tanh"), Conv2d(4, 3, padding="same", stride=2),
                       Flatten(), Dense(3)]),
    "MaxPool": (IMAGE, [Conv2d(3, 2), MaxPool(2, stride=1), Flatten(), Dense(3)]),
    "AvgPool": (IMAGE, [Conv2d(3, 2), AvgPool(2), Flatten(), Dense(3)]),
    "GlobalAvgPool": (IMAGE, [Conv2d(4, 2), Activation("tanh"), GlobalAvgPool(), Dense(3)]),
    "Flatten": (IMAGE, [Flatten(), Dense(4), Activation("tanh"), Dense(3)]),
    "Reshape": ((12,), [Dense(12), Reshape((3, -1)), Elman(4), Dense(3)]),
    "Last": (SEQUENCE, [Conv1d(4, 2, padding="causal"), Activation("tanh"), Last(), Dense(3)]),
    "Embedding": ((6,), [Embedding(9, 3), LSTM(4), Dense(3)]),
    "Elman": (SEQUENCE, [Elman(4, returns="all"), Elman(3, activation="relu"), Dense(3)]),
    "GRU": (SEQUENCE, [GRU(3, directions=2), Dense(3)]),
    "LSTM": (SEQUENCE, [LSTM(3, returns="all", directions=2), LSTM(3), Dense(3)]),
    "Residual": (
        IMAGE,
        [
            Conv2d(3, 2),
            Residual([Conv2d(3, 3, padding="same", bias=False), BatchNorm(), Activation("tanh")]),
            Residual([Conv2d(5, 3, padding="same"), Dropout(0.3)]),
            Residual([Conv2d(4, 2, stride=2), Residual([Activation("tanh")])],
                     skip=[Conv2d(4, 2, stride=2)]),
            Flatten(),
            Residual([Dense(6)]),
            Dense(3),
        ],
    ),
}  # fmt: skip


@pytest.fixture(params=LAYERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def build(name: str, **options: Any) -> Sequential:
    shape, layers = NETWORKS[name]
    return Sequential(shape, layers, **{"dtype": "float64", "seed": 1, **options})


def data_of(name: str, m: int = M) -> tuple[np.ndarray, np.ndarray]:
    """Examples as rows of their own shape, and labels."""
    rng = np.random.default_rng(5)
    shape, layers = NETWORKS[name]
    X = rng.normal(size=(m, *shape))
    if isinstance(layers[0], Embedding):
        X = rng.integers(0, layers[0].n_values, (m, *shape)).astype(float)
    return X, rng.permutation(np.arange(m) % N_CLASSES)


def fit(model: Sequential, name: str, epochs: int = 2) -> Sequential:
    X, Y = data_of(name)
    return model.fit(X, Y, epochs=epochs, batch_size=5, progress=False, layout="rows")


def numbers(model: Sequential) -> dict[str, np.ndarray]:
    return {key: model.device.get(W) for key, W in model.parameters.items()}


def test_every_kind_stands_in_a_network() -> None:
    assert set(NETWORKS) == set(LAYERS)
    assert {kind.__name__: kind for kind in LAYERS.values()} == LAYERS
    assert set(LAYERS) <= set(package.__all__)


@pytest.mark.parametrize("options", [{}, {"l2": 0.1, "density": 0.6}], ids=["plain", "sparse"])
def test_the_gradient_is_that_of_differences(name: str, options: dict[str, Any]) -> None:
    X, Y = data_of(name)
    model = fit(build(name, **options), name, epochs=1)
    weights = np.linspace(0, 1, M)
    found = check_gradients(model, X, Y, weights)
    assert found.passed, found
    assert found.checked > found.kinks


def test_every_backend_trains_alike(name: str, backend: Backend) -> None:
    expected = fit(build(name), name)
    model = fit(build(name, device=backend.device), name)
    for key, W in numbers(expected).items():
        np.testing.assert_allclose(
            numbers(model)[key], W, err_msg=key, **tolerance("float64", 2**16)
        )
    X, _ = data_of(name)
    asked = model.device.get(model.predict_proba(X))
    np.testing.assert_allclose(asked, expected.predict_proba(X), **tolerance("float64", 2**16))


def test_several_networks_at_once_are_each_alone(name: str) -> None:
    together = fit(build(name, seed=[1, 2, 3], density=0.7), name)
    X, Y = data_of(name)
    score = together.evaluate(X, Y)
    for k, seed in enumerate([1, 2, 3]):
        alone = fit(build(name, seed=seed, density=0.7), name)
        for key, W in numbers(alone).items():
            close = tolerance("float64", 2**16)
            np.testing.assert_allclose(numbers(together)[key][k], W, err_msg=key, **close)
        running = (together._run.state.running[k], alone._run.state.running)
        np.testing.assert_allclose(*running, **tolerance("float64", 1024))
        np.testing.assert_allclose(score.loss[k], alone.evaluate(X, Y).loss, rtol=1e-9)


def test_a_file_brings_back_every_bit(name: str, tmp_path: Path) -> None:
    X, _ = data_of(name)
    model = fit(build(name, seed=[1, 2], density=0.8), name)
    model.save(tmp_path / "model.safetensors")
    other = Sequential.load(tmp_path / "model.safetensors")
    assert other.network == model.network
    asked = other.predict_proba(X, layout="rows")
    np.testing.assert_array_equal(asked, model.predict_proba(X))
    fit(other, name)
    fit(model, name)
    np.testing.assert_array_equal(other._run.state.theta, model._run.state.theta)
    np.testing.assert_array_equal(other._run.state.running, model._run.state.running)


@pytest.mark.parametrize("copied", ["pickle", "deepcopy"])
def test_a_copy_trains_on_like_its_model(name: str, copied: str) -> None:
    model = fit(build(name), name)
    other = pickle.loads(pickle.dumps(model)) if copied == "pickle" else copy.deepcopy(model)
    fit(other, name)
    fit(model, name)
    np.testing.assert_array_equal(other._run.state.theta, model._run.state.theta)


def test_inspection_names_every_output_and_every_gradient(name: str) -> None:
    X, Y = data_of(name)
    model = fit(build(name), name)
    seen = inspect_step(model, X, Y)
    for part in model.network.parts:
        assert seen[f"A{part.number}"].shape == (*part.out_shape, M)
        assert f"dA{part.number}" not in seen or seen[f"dA{part.number}"].shape[-1] == M
    for key, W in model.parameters.items():
        assert seen[f"d{key}"].shape == W.shape
    last = len(model.network.parts)
    assert seen[f"dA{last}"].shape == seen[f"A{last}"].shape
    recipe, rows = model._recipe, X.reshape(M, -1).T
    T = (np.arange(N_CLASSES)[:, None] == Y).astype(float)
    if not model.network.n_dropped:
        found = gradient(recipe, np, model._run.state.theta, rows, T)
        flat = np.concatenate([seen[f"d{s.name}"].reshape(-1) for s in model.network.slots])
        np.testing.assert_array_equal(found.g, flat)


def test_in_evaluation_an_answer_does_not_depend_on_the_others(name: str) -> None:
    X, _ = data_of(name)
    model = fit(build(name), name)
    whole = model.predict_proba(X)
    apart = np.concatenate([model.predict_proba(X[i : i + 1]) for i in range(M)])
    np.testing.assert_allclose(whole, apart, rtol=1e-12)
    columns = model.predict_proba(np.moveaxis(X, 0, -1), layout="columns")
    np.testing.assert_array_equal(columns, whole.T)
    quick = model.predictor(M)(np.ascontiguousarray(X.reshape(M, -1)).T)
    np.testing.assert_allclose(quick, whole.T, rtol=1e-12)


def test_a_file_of_other_weights_is_refused(name: str, tmp_path: Path) -> None:
    model = build(name)
    model.config["layers"] = [to_json(Dense(10**9)), *model.config["layers"]]
    model.config["shape"] = [5]
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"does not fit its own config|cannot be built here"):
        Sequential.load(tmp_path / "model.safetensors")


def test_options_go_through_json(name: str) -> None:
    layers = tuple(NETWORKS[name][1])
    stored = json.loads(json.dumps([to_json(kind) for kind in layers]))
    assert from_json(stored) == layers


def test_a_summary_names_every_layer(name: str) -> None:
    model = build(name)
    told = model.summary()
    assert told.startswith("Sequential: ")
    for part in model.network.parts:
        assert brief(part.kind) in told
    rows = model.layer_rows()
    assert sum(row["parameters"] for row in rows) == model.n_parameters
    assert [row["units"] for row in rows] == list(model.network.sizes[1:])
    assert "<table>" in model._repr_html_()
    json.dumps(rows)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Dense(3), "Dense(3)"),
        (Activation(), "Activation('relu')"),
        (Conv2d(8, 3, padding="same"), "Conv2d(8, 3, padding='same')"),
        (Conv2d(8, (3, 1), stride=2), "Conv2d(8, (3, 1), stride=2)"),
        (LSTM(4, directions=2), "LSTM(4, directions=2)"),
        (Residual([Dense(4), Dropout(0.1)]), "Residual([Dense(4), Dropout(0.1)])"),
    ],
)
def test_a_kind_is_told_by_the_options_that_are_not_usual(kind: Any, text: str) -> None:
    assert brief(kind) == text


# -- beside the dense network


def specified() -> Any:
    return find_device("cpu")._replace(stepper=None, predictor=None)


@pytest.mark.parametrize("options", [{}, {"l2": 0.1, "density": 0.5, "weight_decay": 0.1}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dense_network_as_a_chain_is_equal_in_every_bit(
    dtype: str, options: dict[str, Any]
) -> None:
    X, Y = data_of("Dense")
    common = {"dtype": dtype, "seed": 3, **options}
    for activation in ("relu", "gelu", "selu"):
        dense = MLP((5, 7, 6, 3), activation=activation, device=specified(), **common)
        layers = [Dense(7), Activation(activation), Dense(6), Activation(activation), Dense(3)]
        chain = Sequential(5, layers, device=specified(), **common)
        np.testing.assert_array_equal(chain._run.state.theta, dense._run.state.theta)
        for model in (dense, chain):
            model.fit(X, Y, epochs=4, batch_size=5, progress=False, layout="rows")
        np.testing.assert_array_equal(chain._run.state.theta, dense._run.state.theta)
        np.testing.assert_array_equal(chain.predict_proba(X), dense.predict_proba(X))
        assert chain.evaluate(X, Y) == dense.evaluate(X, Y)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_a_dense_network_with_everything_is_a_chain_too(normalization: str) -> None:
    X, Y = data_of("Dense")
    dense = MLP(
        (5, 7, 7, 3),
        normalization=normalization,  # type: ignore[arg-type]
        dropout=0.25,
        residual=True,
        dtype="float64",
        device=specified(),
    )
    norm = {"batch": BatchNorm, "layer": LayerNorm}[normalization]

    def block() -> Residual:
        return Residual([Dense(7, bias=False), norm(), Activation("relu"), Dropout(0.25)])

    chain = Sequential(5, [block(), block(), Dense(3)], dtype="float64")
    names = {"W1": "W1_1", "P1": "P1", "W2": "W2_1", "W3": "W3", "b3": "b3"}
    names |= {f"{part}{i}": f"{part}{i}_2" for part in ("b", "gain") for i in (1, 2)}
    start = {names[key]: W for key, W in dense.parameters.items()}
    assert set(start) == set(chain.parameters)
    chain.set_parameters(**start)
    for model in (dense, chain):
        model.fit(X, Y, epochs=4, batch_size=5, progress=False, layout="rows")
    for key, W in dense.parameters.items():
        np.testing.assert_allclose(chain.parameters[names[key]], W, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(chain._run.state.running, dense._run.state.running, rtol=1e-9)


# -- a layer of one's own


@dataclass(frozen=True)
class Scale(Plain):
    """A made-up layer: A ∘ exp(c), one c a feature, that nothing in the library knows."""

    begins: float = 0.5

    def out_shape(self, shape: Shape) -> Shape:
        return shape

    def parameters(self, shape: Shape) -> Any:
        from mlp_xp.layers.base import Parameter

        return (Parameter("c", (shape[0], 1), self.begins, decays=False),)

    def forward(
        self, xp: Any, kernels: Kernels, P: Mapping[str, Any], A: Any, told: Pass
    ) -> tuple[Any, Any]:
        Z = A * xp.exp(P["c"])
        return Z, Z

    def backward(
        self, xp: Any, kernels: Kernels, P: Mapping[str, Any], memory: Any, dA: Any
    ) -> tuple[Any, dict[str, Any]]:
        dc = xp.sum(dA * memory, axis=-1, keepdims=True)
        return dA * xp.exp(P["c"]), {"c": dc}


def test_a_layer_of_ones_own_trains_on_every_device(backend: Backend) -> None:
    X, Y = data_of("Dense")

    def trained(**options: Any) -> Sequential:
        layers = [Dense(4), Scale(), Activation("tanh"), Dense(3)]
        model = Sequential(5, layers, dtype="float64", **options)
        return model.fit(X, Y, epochs=3, batch_size=5, progress=False, layout="rows")

    expected, model = trained(), trained(device=backend.device)
    assert not gate.takes(gate.READ, model._recipe)
    assert np.abs(numbers(expected)["c2"] - 0.5).max() > 1e-3
    for key, W in numbers(expected).items():
        np.testing.assert_allclose(numbers(model)[key], W, **tolerance("float64", 2**16))
    assert check_gradients(expected, X, Y).passed


def test_a_layer_whose_options_can_change_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a frozen dataclass whose options do not change"):
        Sequential(5, [Scale([1.0]), Dense(3)])  # type: ignore[arg-type]


def test_a_layer_of_ones_own_is_kept_once_it_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Sequential(5, [Residual([Scale()]), Dense(3)])
    with pytest.raises(ValueError, match=r"LAYERS\['Mine'\]"):
        model.save(tmp_path / "m.safetensors")
    monkeypatch.setitem(LAYERS, "Scale", Scale)
    model = Sequential(5, [Residual([Scale()]), Dense(3)])
    model.save(tmp_path / "m.safetensors")
    assert Sequential.load(tmp_path / "m.safetensors").network == model.network
    monkeypatch.delitem(LAYERS, "Scale")
    with pytest.raises(ModelFileError, match=r"layers\[0\].layers\[0\] is of the kind 'Scale'"):
        Sequential.load(tmp_path / "m.safetensors")


def test_an_activation_of_ones_own_is_taken_but_not_kept(tmp_path: Path) -> None:
    from mlp_xp import ACTIVATIONS
    from mlp_xp import Activation as Row

    own = Row(lambda xp, Z: Z * Z, lambda xp, Z: 2 * Z, slope_of="Z")
    model = Sequential(5, [Dense(4), Activation(own), Dense(3)], dtype="float64")
    X, Y = data_of("Dense")
    assert check_gradients(model, X, Y, layout="rows").passed
    with pytest.raises(ValueError, match="activation stands in no table"):
        model.save(tmp_path / "m.safetensors")
    row = Sequential(5, [Dense(4), Activation(ACTIVATIONS["tanh"]), Dense(3)])
    row.save(tmp_path / "m.safetensors")
    assert Sequential.load(tmp_path / "m.safetensors").network.layers[1] == Activation("tanh")


# -- lengths


@pytest.mark.parametrize("first", [Conv1d(4, 3, padding="same"), LSTM(4, returns="all")], ids=str)
@pytest.mark.parametrize("last", [GRU(3, directions=2), GlobalAvgPool()], ids=str)
def test_a_short_sequence_is_as_if_it_were_alone(first: Any, last: Any) -> None:
    time, rng = 6, np.random.default_rng(2)
    layers = [first, Activation("tanh"), Dropout(0.3), last, Dense(3)]
    X, lengths = rng.normal(size=(M, 3, time)), 1 + np.arange(M) % time
    rows = np.concatenate([X.reshape(M, -1), lengths[:, None]], axis=1)
    Y = np.arange(M) % 3
    model = Sequential((3, time), layers, lengths=True, dtype="float64")
    assert check_gradients(model, rows, Y, layout="rows").passed
    model.fit(rows, Y, epochs=2, batch_size=5, progress=False, layout="rows")
    found = model.predict_proba(rows)
    for i, n in enumerate(lengths):
        cut = Sequential((3, int(n)), layers, dtype="float64")
        cut.set_parameters(**model.parameters)
        alone = cut.predict_proba(X[i : i + 1, :, :n], layout="rows")
        np.testing.assert_allclose(found[i : i + 1], alone, rtol=1e-11)


def test_several_networks_see_the_lengths_of_their_own_batches(backend: Backend) -> None:
    rng = np.random.default_rng(4)
    X, lengths = rng.normal(size=(M, 3, 6)), 1 + np.arange(M) % 6
    rows = np.concatenate([X.reshape(M, -1), lengths[:, None]], axis=1)
    layers = [Conv1d(4, 3, padding="same"), LSTM(3, returns="all", directions=2), GRU(3), Dense(3)]

    def trained(seed: Any, device: Any = "cpu") -> Sequential:
        model = Sequential((3, 6), layers, lengths=True, dtype="float64", seed=seed, device=device)
        Y = np.arange(M) % 3
        return model.fit(rows, Y, epochs=2, batch_size=5, progress=False, layout="rows")

    together = numbers(trained([1, 2], backend.device))
    for k, seed in enumerate([1, 2]):
        for key, W in numbers(trained(seed)).items():
            np.testing.assert_allclose(together[key][k], W, **tolerance("float64", 2**16))


def test_everything_that_fit_takes_goes_with_layers() -> None:
    X, Y = data_of("Residual", 30)
    model = build("Residual", seed=[1, 2], optimizer="sgd", l2=1e-3, clip_norm=1.0)
    seen: list[int] = []
    model.fit(
        X[:20],
        Y[:20],
        epochs=200,
        batch_size=7,
        validation_data=(X[20:], Y[20:]),
        sample_weight=np.linspace(0.5, 1, 20),
        schedule="reduce_on_plateau",
        early_stopping=3,
        callbacks=lambda model, epoch: seen.append(epoch.epoch),
        progress=False,
        layout="rows",
    )
    assert 3 < len(seen) < 200
    losses = np.array(model.history["validation_loss"])
    found = model.evaluate(X[20:], Y[20:]).loss
    assert np.isclose(losses, found, rtol=1e-9).any(axis=0).all()  # each stops by itself
    assert (found <= losses[0]).all()
    rates = model.find_learning_rate(X, Y, steps=10)
    assert rates.suggestion > 0
    model.reset()
    assert model.epochs_trained == 0


def test_lengths_go_with_an_embedding() -> None:
    rng = np.random.default_rng(2)
    ids, lengths = rng.integers(0, 5, (M, 7)), 1 + np.arange(M) % 7
    rows = np.concatenate([ids, lengths[:, None]], axis=1)
    model = Sequential(7, [Embedding(5, 3), GRU(4), Dense(3)], lengths=True, dtype="float64")
    changed = np.where(np.arange(7) < lengths[:, None], ids, 4)
    others = np.concatenate([changed, lengths[:, None]], axis=1)
    asked = model.predict_proba(rows, layout="rows")
    np.testing.assert_array_equal(asked, model.predict_proba(others, layout="rows"))
    assert check_gradients(model, rows, np.arange(M) % 3, layout="rows").passed


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("value", [-1, 5, 1.5])
def test_an_embedding_takes_the_numbers_of_its_columns_alone(
    backend: Backend, value: float, lengths: bool
) -> None:
    """-1 would be the last column, 1.5 the second, and 5 a number of its own on a device."""
    ids, ends = np.arange(28).reshape(4, 7) % 5.0, np.full((4, 1), 6.0)
    layers = [Reshape((7,)), Embedding(5, 3), GRU(4), Dense(2)]
    model = Sequential(7, layers, lengths=lengths, device=backend.device)

    def rows(place: int) -> Any:
        found = ids.copy()
        found[2, place] = value
        return backend.asarray(np.hstack([found, ends]) if lengths else found)

    Y, message = np.arange(4) % 2, rf"holds {value:g}, but layer 2, Embedding\(.*\), takes whole"
    for call in (
        lambda: model.fit(rows(0), Y, layout="rows"),
        lambda: model.fit(
            backend.asarray(rows(6)) if lengths else ids,
            Y,
            layout="rows",
            epochs=1,
            progress=False,
            validation_data=(rows(0), Y),
        ),
        lambda: model.predict(rows(0), layout="rows"),
        lambda: model.evaluate(rows(0), Y, layout="rows"),
        lambda: inspect_step(model, rows(0), Y, layout="rows"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    if lengths:  # what is after the end may be anything
        model.predict(rows(6), layout="rows")


@pytest.mark.parametrize(
    "layers",
    [
        [MaxPool(2), Embedding(5, 3)],
        [Reshape((2, 4)), Last(), Embedding(5, 3)],
        [Residual([Embedding(5, 3)], skip=[Embedding(7, 3)])],
        [Residual([Residual([Embedding(9, 1)], [Embedding(5, 1)])], [Embedding(7, 1)])],
    ],
    ids=str,
)
def test_the_numbers_of_an_embedding_are_checked_wherever_it_stands(layers: Any) -> None:
    model = Sequential((1, 8), [*layers, Flatten(), Dense(2)])
    X, y = np.arange(48).reshape(6, 8) % 5, np.arange(6) % 2
    model.fit(X, y, layout="rows", epochs=1, progress=False)
    for value in (5, -1, 0.5):
        wrong = np.where(np.eye(6, 8) > 0, value, X)
        for ask in (lambda W: model.fit(W, y, progress=False), model.predict):
            with pytest.raises(ValueError, match=rf"X holds {value:g}, but layer .*, Embedding"):
                ask(wrong)


@pytest.mark.parametrize("value", [-1, 6, 2.5])
def test_a_length_is_a_whole_number_of_steps(backend: Backend, value: float) -> None:
    model = Sequential((2, 5), [GRU(4), Dense(2)], lengths=True, device=backend.device)
    X = np.ones((3, 11))
    X[:, -1] = 5, 0, value
    with pytest.raises(ValueError, match=f"X holds {value:g}, but .* its length, .* 0 … 5"):
        model.predict(backend.asarray(X), layout="rows")


def test_a_streams_tokens_are_checked_block_by_block() -> None:
    """The least and the largest of a feature are of no example, whose length they go by."""
    ids = np.array([[1.0, 2, 9, 2], [3, 1, 1, 3]])
    model = Sequential(3, [Embedding(5, 3), GRU(4), Dense(2)], lengths=True)
    model.fit(stream(ids, np.array([0, 1])), epochs=1, progress=False)
    ids[0, 3] = 3
    with pytest.raises(ValueError, match="holds 9, but layer 1, Embedding"):
        model.fit(stream(ids, np.array([0, 1])), epochs=1, progress=False)


# -- memory and threads


def test_evaluation_goes_through_few_examples_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y = data_of("Conv2d")
    whole = build("Conv2d", seed=[1, 2])
    assert whole.network.at_once == 8192
    monkeypatch.setattr("mlp_xp.layers.chain.ENTRIES", 1000)
    pieces = build("Conv2d", seed=[1, 2])
    assert 1 < pieces.network.at_once < M // 2
    asked = [model.predict_proba(X, layout="rows") for model in (whole, pieces)]
    np.testing.assert_allclose(*asked, rtol=1e-12)
    assert check_gradients(pieces, X, Y, layout="rows").passed


def test_threads_go_by_the_largest_product() -> None:
    from contextlib import nullcontext

    entered: list[Any] = []
    device = find_device("cpu")._replace(
        threads=lambda *given: entered.append(given) or nullcontext()
    )
    network = Sequential((2, 6, 5), [Conv2d(4, 3), Flatten(), Dense(3)]).network
    with network.threads(device, M):
        assert entered == [((1, (4 * 18 + 4) * 6 * 5), M)]


@pytest.mark.parametrize("name", ["Conv2d", "GRU", "Residual"])
def test_rows_that_are_too_many_for_the_device_train_alike(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from mlp_xp.fast import upload

    monkeypatch.setattr(upload, "fits", lambda *given: False)
    model = fit(build(name, device="cuda"), name)
    for key, W in numbers(fit(build(name), name)).items():
        np.testing.assert_allclose(numbers(model)[key], W, **tolerance("float64", 2**16))
    X, Y = data_of(name)
    assert np.isfinite(model.evaluate(X, Y).loss)


# -- names, beginnings, connections


@pytest.mark.parametrize(
    ("own", "number", "outside"),
    [("W", 3, "W3"), ("W1", 3, "W3_1"), ("W1_2", 3, "W3_1_2"), ("W_back", 2, "W_back2"),
     ("W_back4", 2, "W_back2_4"), ("gain", 12, "gain12")],
)  # fmt: skip
def test_a_part_is_called_by_the_numbers_of_its_layers(own: str, number: int, outside: str) -> None:
    assert numbered(own, number) == outside
    assert outside.isidentifier()


def test_weights_lie_first_and_each_in_the_order_of_the_layers() -> None:
    network = build("Residual").network
    slots = network.slots
    decaying = [slot.name[0] in "WP" for slot in slots]
    assert decaying == sorted(decaying, reverse=True)
    assert network.n_weights == max(s.stop for s in slots if s.name[0] in "WP")
    assert [slot.start for slot in slots[1:]] == [slot.stop for slot in slots[:-1]]
    assert len({slot.name for slot in slots}) == len(slots)


def test_auto_begins_by_the_activation_after_a_layer() -> None:
    from mlp_xp.initializers import glorot_uniform, he, lecun

    layers = [
        Conv2d(3, 2),
        BatchNorm(),
        Activation("relu"),
        Residual([Conv2d(3, 3, padding="same"), Activation("selu"), Conv2d(4, 1)]),
        Activation("relu"),
        Flatten(),
        Dense(4),
        Dropout(0.1),
        Activation("tanh"),
        Dense(3),
    ]
    network = Chain(IMAGE, tuple(layers))
    found = dict(zip([slot.name for slot, _ in network.drawn], network.matching(), strict=True))
    assert found["W1"] is he
    assert found["W4_1"] is lecun
    assert found["W4_3"] is found["P4"] is he
    assert found["W7"] is found["W10"] is glorot_uniform


def test_density_thins_every_matrix_but_the_last(name: str) -> None:
    model = build(name, density=0.5)
    drawn = model.network.drawn
    for slot, parameter in drawn:
        W = model.parameters[slot.name]
        kept = (np.asarray(W) != 0).sum(axis=1)
        last = slot is drawn[-1][0]
        expected = max(1, round(0.5 * slot.shape[1])) if parameter.sparse and not last else None
        assert expected is None or (kept == expected).all(), slot.name
    before = {slot.name: np.asarray(model.parameters[slot.name]) == 0 for slot, _ in drawn}
    fit(model, name)
    for slot, parameter in drawn:
        if parameter.sparse and slot is not drawn[-1][0]:
            np.testing.assert_array_equal(model.parameters[slot.name] == 0, before[slot.name])


# -- errors

WRONG: list[tuple[Any, Any, type[Exception], str]] = [
    (IMAGE, [Conv2d(4, 3), Dense(3)], ValueError,
     r"layer 2, Dense\(units=3, bias=True\), cannot follow layer 1, Conv2d\(.*\), which gives "
     r"\(4, 3, 2\): it takes vectors \(n,\). Put Flatten\(\)"),
    (IMAGE, [Conv2d(4, 9), Dense(3)], ValueError,
     r"layer 1, Conv2d\(.*\), cannot follow the input, which gives \(2, 5, 4\)"),
    (IMAGE, [Conv2d(4, 2)], ValueError, r"the last layer, Conv2d\(.*\), gives \(4, 4, 3\)"),
    (IMAGE, [], ValueError, "layers is empty"),
    ((5,), [Activation("tanh")], ValueError, "nothing to learn"),
    ((5,), [Dense], TypeError, r"entry 1, but expected a layer .*Dense\(…\)"),
    ((5,), ["dense"], TypeError, "'dense' as its entry 1"),
    ((5,), Dense(3), TypeError, "expected a list of layers"),
    ((5,), [Residual([Dense(4), Residual([Conv1d(3, 1)])]), Dense(3)], ValueError,
     r"layer 1, Residual.* cannot follow the input"),
    (IMAGE, [Residual([Conv2d(2, 2)]), Flatten(), Dense(3)], ValueError,
     r"makes \(2, 4, 3\) of \(2, 5, 4\) by its layers, but the skip .* Say how the input gets"),
    (IMAGE, [Residual([Conv2d(2, 2)], skip=[Conv2d(2, 3)]), Flatten(), Dense(3)], ValueError,
     r"but its skip makes \(2, 3, 2\)"),
    ((6,), [Dense(6), Embedding(9, 3), GRU(3), Dense(3)], ValueError,
     r"layer 2, Embedding\(.*\), takes whole numbers, which have no derivative"),
    ((6,), [Dropout(0.5), Flatten(), Embedding(9, 3), GRU(3), Dense(3)], ValueError,
     r"layer 3, Embedding.* but layer 1, Dropout\(rate=0.5\), makes others of them. Put it first"),
    ((2, 3, 4, 5), [Flatten(), Dense(3)], ValueError, r"shape is \(2, 3, 4, 5\)"),
    ("5", [Dense(3)], TypeError, "shape is '5'"),
    ((0,), [Dense(3)], ValueError, r"shape\[0\] is 0"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "layers", "error", "message"), WRONG)
def test_what_cannot_be_a_network_is_refused_in_words(
    shape: Any, layers: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Sequential(shape, layers)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Dense(0), ValueError, "units is 0"),
        (lambda: Dense(2.5), TypeError, "units is 2.5"),
        (lambda: Dense(3, bias=1), TypeError, "bias is 1"),
        (lambda: Activation("rleu"), ValueError, "activation is 'rleu'"),
        (lambda: Activation((1, 2)), TypeError, "expected a name or a row"),
        (lambda: Activation(None), TypeError, "activation is None, but expected a name or a row"),
        (lambda: Activation(np.tanh), TypeError, "expected a name or a row"),
        (lambda: Dropout(1.0), ValueError, "rate is 1, but expected"),
        (lambda: Dropout(1 - 2**-18), ValueError, r"rate is 0.99.* drops everything: expected at"),
        (lambda: Residual([]), ValueError, "layers is empty"),
        (lambda: Residual(Dense(3)), TypeError, "expected a list of layers"),
        (lambda: Residual([Dense(3)], skip=[3]), TypeError, "skip has 3 as its entry 1"),
    ],
)
def test_a_bad_option_names_itself(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_lengths_are_refused_where_steps_are_lost() -> None:
    with pytest.raises(ValueError, match=r"layer 1, MaxPool.* steps cannot be told"):
        Sequential((3, 6), [MaxPool(2), GRU(3), Dense(3)], lengths=True)
    with pytest.raises(ValueError, match="expected sequences"):
        Sequential(IMAGE, [Flatten(), Dense(3)], lengths=True)


def test_examples_of_another_shape_are_refused() -> None:
    model = build("Conv2d")
    X, Y = data_of("Conv2d")
    with pytest.raises(ValueError, match=r"examples are \(2, 5, 4\): expected \(m, 2, 5, 4\)"):
        model.fit(X[..., :3], Y, layout="rows", progress=False)
    with pytest.raises(ValueError, match="Pass layout='rows' if the examples come first"):
        model.fit(X, Y, progress=False)
    with pytest.raises(ValueError, match="the first layer takes 40 features"):
        model.fit(X.reshape(M, -1)[:, :7], Y, layout="rows", progress=False)


def test_examples_that_lie_both_ways_are_refused_until_somebody_says_which() -> None:
    cube, y = np.random.default_rng(0).normal(size=(6, 6, 6)), np.arange(6) % 2
    layers = [GRU(3), Dense(2)]
    for call in ("fit", "evaluate"):
        with pytest.raises(ValueError, match=r"X has shape \(6, 6, 6\).*'rows'.*'columns'"):
            getattr(Sequential((6, 6), layers), call)(cube, y)
    wide, z = np.concatenate([cube, -cube]), np.arange(12) % 2
    held = {"validation_data": (cube, y), "progress": False}
    with pytest.raises(ValueError, match="validation X has shape"):
        Sequential((6, 6), layers).fit(np.moveaxis(wide, 0, -1), z, **held)
    model = Sequential((6, 6), layers).fit(wide, z, layout="rows", **held)
    np.testing.assert_allclose(model.scores(cube), model.scores(cube.reshape(6, 36), layout="rows"))
    one = Sequential((1, 1, 1), [Flatten(), Dense(2)])
    assert one.scores(np.ones((1, 1, 1, 1))).shape == (2, 1)


def test_lists_of_the_examples_shape_are_examples() -> None:
    model = build("Conv2d")
    X, Y = data_of("Conv2d")
    expected = model.scores(X, layout="rows")
    np.testing.assert_array_equal(model.scores(X.tolist(), layout="rows"), expected)
    np.testing.assert_array_equal(model.scores(list(X), layout="rows"), expected)
    with pytest.raises(ValueError, match="X cannot be made into an array"):
        model.fit([X[0].tolist(), X[0, :, :3].tolist()], Y[:2], layout="rows")


def test_an_axis_that_is_missing_is_named_with_the_cure() -> None:
    model = Sequential((1, 5, 4), [Conv2d(2, 2), Flatten(), Dense(2)])
    X = np.random.default_rng(0).normal(size=(7, 1, 5, 4))
    for wrong, cure in ((X[:, 0], r"X\[:, None\]"), (X[0], r"x\[None\]")):
        with pytest.raises(ValueError, match=rf"expected \(m, 1, 5, 4\).* {cure}\."):
            model.predict(wrong, layout="rows")
    columns = np.moveaxis(X, 0, -1)
    for wrong, cure in ((columns[0], r"X\[None\]"), (columns[..., 0], r"x\[..., None\]")):
        with pytest.raises(ValueError, match=rf"expected \(1, 5, 4, m\).* {cure}\."):
            model.predict(wrong)
    told = Sequential((3, 4), [GRU(2), Dense(2)], lengths=True)
    with pytest.raises(ValueError, match=r"a table of 13 features, the 12 numbers of \(3, 4\)"):
        told.predict(np.zeros((5, 3, 4)), layout="rows")


def test_one_class_does_not_load_the_others_file(tmp_path: Path) -> None:
    build("Dense").save(tmp_path / "chain.safetensors")
    MLP((5, 3)).save(tmp_path / "dense.safetensors")
    with pytest.raises(ModelFileError, match=r"holds a Sequential.* Use Sequential.load"):
        MLP.load(tmp_path / "chain.safetensors")
    with pytest.raises(ModelFileError, match=r"holds a MLP.* Use MLP.load"):
        Sequential.load(tmp_path / "dense.safetensors")
