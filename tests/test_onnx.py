"""ONNX graphs of models against the models: onnxruntime says what `predict` says.

Networks are sampled: each has 400, told apart by their number. A run takes a few, chosen by a
seed that is printed: MLP_XP_SEED=… repeats them, MLP_XP_EXHAUSTIVE=1 takes all.
"""

from __future__ import annotations

import os
from time import time_ns
from typing import Any

import numpy as np
import pytest

from conftest import need
from mlp_xp import ACTIVATIONS, LOSSES, MLP, Sequential
from mlp_xp.export.functions import FUNCTIONS, PREDICTIONS
from mlp_xp.export.kinds import KINDS
from mlp_xp.layers import (
    GRU,
    LAYERS,
    LSTM,
    AvgPool,
    BatchNorm,
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
from mlp_xp.layers import Activation as Active

N_SAMPLES, N_TAKEN = 400, 30
EXHAUSTIVE = bool(os.environ.get("MLP_XP_EXHAUSTIVE"))
SEED = int(os.environ.get("MLP_XP_SEED", time_ns() % 2**32))
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}  # of answers of size one


class Runtime:
    """onnx, which checks a graph, and onnxruntime, which runs it."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.onnx, self.runtime = need(request, "onnx"), need(request, "onnxruntime")

    def session(self, proto: Any) -> Any:
        self.onnx.checker.check_model(proto, full_check=True)
        return self.runtime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def __call__(self, proto: Any, **inputs: Any) -> dict[str, Any]:
        session = self.session(proto)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, inputs), strict=True))


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Runtime:
    return Runtime(request)


def randomised(model: Any, random: np.random.Generator) -> Any:
    """The model with other numbers in all its parameters and running moments."""
    parts = {}
    for name, value in model.parameters.items():
        noise = 0.3 * random.normal(size=value.shape)
        absent = model.network.sparse and name[0] in "WUP"
        parts[name] = value + (noise * (value != 0) if absent else noise)
    model.set_parameters(**parts)
    state = model._run.state
    running = random.uniform(0.5, 2, size=state.running.shape).astype(model.dtype)
    model._run.state = state._replace(running=running)
    return model


def same(run: Runtime, model: Any, X: np.ndarray, **options: Any) -> None:
    """What onnxruntime says of rows is what the model says."""
    found = run(model.to_onnx(**options), X=X)
    limit = TOLERANCE[options.get("dtype", model.dtype)]
    if model.loss.kind in ("real", "count"):
        expected = model.predict(X, layout="rows")
        got = found["variable"]
        got = got[..., 0] if model.network.sizes[-1] == 1 else got
    else:
        P = model.predict_proba(X, layout="rows")
        expected = np.concatenate([1 - P, P], axis=-1) if model.loss.kind == "binary" else P
        got = found["probabilities"]
        labels = model.predict(X, layout="rows")
        near = np.sort(expected, axis=-1)  # rounding may choose between two that are as likely
        clear = near[..., -1] - near[..., -2] > 1e-4 if near.shape[-1] > 1 else True
        if model.loss.kind == "multilabel":
            clear = np.abs(expected - 0.5) > 1e-4
            labels = labels.reshape(found["label"].shape)
        assert np.all((found["label"] == labels) | ~clear)
    assert got.shape == expected.shape
    if "dtype" not in options:
        assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=limit, atol=limit)


# -- tables --------------------------------------------------------------------


def test_every_row_of_the_tables_has_a_formula() -> None:
    assert set(FUNCTIONS) == set(ACTIVATIONS)
    assert set(PREDICTIONS) == set(LOSSES)
    assert set(KINDS) == set(LAYERS.values())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_its_formula(
    run: Runtime, random: np.random.Generator, name: str, dtype: str
) -> None:
    model = Sequential(6, [Active(name), Dense(6)], loss="squared_error", dtype=dtype)
    model.set_parameters(W2=np.eye(6))
    X = np.concatenate([[-1e4, -1, 0, 1, 1e4, 80], random.normal(scale=3, size=30)])
    same(run, model, X.reshape(6, 6).astype(dtype))


@pytest.mark.parametrize("seed", [0, [0, 1, 2]], ids=["one", "three"])
@pytest.mark.parametrize("name", LOSSES)
def test_an_answer_is_what_the_loss_predicts(
    run: Runtime, random: np.random.Generator, name: str, seed: Any
) -> None:
    n_out = 1 if LOSSES[name].kind == "binary" else 3
    model = MLP((5, 4, n_out), loss=name, seed=seed, activation="tanh")
    same(run, model, random.normal(size=(20, 5)).astype(np.float32))


# -- dense networks ------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
def test_a_dense_network_is_the_same_graph(
    run: Runtime, random: np.random.Generator, normalization: Any, residual: bool, dtype: str
) -> None:
    model = MLP(
        (7, 9, 9, 5, 3),
        activation=["gelu", "relu", "selu"],
        normalization=normalization,
        residual=residual,
        dropout=[0.1, 0.0, 0.2],
        density=0.6,
        dtype=dtype,
    )
    model = randomised(model, random)
    for m in (1, 2, 33):
        same(run, model, random.normal(size=(m, 7)).astype(dtype))


# -- layers of any kind --------------------------------------------------------

STACKS: list[tuple[Any, Any, bool]] = [
    (8, [Dense(6, bias=False), BatchNorm(), Active("relu"), Dropout(0.5), Dense(3)], False),
    ((2, 7), [Conv1d(4, 3, stride=2, padding="same"), Flatten(), Dense(3)], False),
    ((2, 7), [Conv1d(4, 2, dilation=3, padding="causal", groups=2), Last(), Dense(3)], False),
    ((3, 5), [Conv1d(2, 1, stride=3, padding=1, bias=False), Flatten(), Dense(3)], False),
    ((2, 5), [Conv1d(4, 3, padding="same"), GlobalAvgPool(), Dense(3)], True),
    ((2, 5, 4), [Conv2d(4, 3), Flatten(), Dense(3)], False),
    ((3, 4, 5), [Conv2d(3, (2, 3), (2, 1), padding="same", groups=3), Flatten(), Dense(3)], False),
    ((1, 6, 5), [Conv2d(2, 2, 3, (1, 2), padding=(0, 1)), Flatten(), Dense(3)], False),
    ((2, 5, 4), [MaxPool((3, 2), stride=(1, 2), padding=(1, 0)), Flatten(), Dense(3)], False),
    ((2, 7), [AvgPool(3, stride=2, padding=1), Flatten(), Dense(3)], False),
    ((2, 5, 4), [AvgPool(2), Flatten(), Dense(3)], False),
    ((2, 5), [MaxPool(3, stride=1, padding=1), Last(), Dense(3)], True),
    ((2, 5), [GlobalAvgPool(), Dense(3)], True),
    ((2, 3, 4), [GlobalAvgPool(), Dense(3)], False),
    (12, [Reshape((2, -1)), Last(), Dense(3)], False),
    ((4,), [Embedding(5, 3), GRU(3, directions=2), Dense(3)], True),
    ((2, 4), [Embedding(5, 3), Flatten(), Dense(3)], False),
    ((2, 4), [Elman(3, "all", 2, "relu"), LayerNorm(), Last(), Dense(3)], True),
    ((2, 4), [GRU(3), Dense(3)], False),
    ((2, 4), [GRU(2, "all", 2), Flatten(), Dense(3)], True),
    ((2, 4), [LSTM(3, "all"), LSTM(2, directions=2, forget_bias=0.5), Dense(3)], False),
    ((2, 4), [LSTM(2, "all", 2), GlobalAvgPool(), Dense(3)], True),
    ((3, 2, 2), [LayerNorm("all"), Flatten(), Dense(3)], False),
    ((3, 2, 2), [LayerNorm(), BatchNorm(), Flatten(), Dense(3)], False),
    ((2, 6), [Residual([Conv1d(4, 3, padding="causal"), Active("gelu")]), Last(), Dense(3)], True),
    (6, [Residual([Dense(4), Active("mish"), Residual([Dense(4), BatchNorm()])]), Dense(3)], False),
    (
        (2, 6, 6),
        [
            Residual([Conv2d(4, 3, 2, padding=1), BatchNorm()], [Conv2d(4, 1, 2)]),
            GlobalAvgPool(),
            Dense(3),
        ],
        False,
    ),
]


def rows(model: Sequential, m: int, random: np.random.Generator) -> np.ndarray:
    """Examples (m, n_features), with lengths behind them where the network takes such."""
    chain = model.network
    n = chain.sizes[0] - chain.lengths
    first = chain.layers[0]
    if isinstance(first, Embedding):
        X = random.integers(0, first.n_values, size=(m, n)).astype(model.dtype)
    else:
        X = random.normal(size=(m, n)).astype(model.dtype)
    if not chain.lengths:
        return X
    lengths = random.integers(1, chain.shape[-1] + 1, size=(m, 1))
    return np.hstack([X, lengths.astype(model.dtype)])


def ids(value: Any) -> str:
    kinds = value if isinstance(value, list) else []
    return "-".join(type(kind).__name__ for kind in kinds) or str(value)


@pytest.mark.parametrize(("shape", "layers", "lengths"), STACKS, ids=ids)
def test_layers_are_their_rows(
    run: Runtime, random: np.random.Generator, shape: Any, layers: Any, lengths: bool
) -> None:
    model = randomised(Sequential(shape, layers, lengths=lengths), random)
    for m in (1, 2, 17):
        same(run, model, rows(model, m, random))


def test_the_stacks_have_every_kind() -> None:
    def kinds(layers: Any) -> set[type]:
        found = {type(kind) for kind in layers}
        for kind in layers:
            if isinstance(kind, Residual):
                found |= kinds(kind.layers) | kinds(kind.skip)
        return found

    assert set().union(*(kinds(layers) for _, layers, _ in STACKS)) == set(LAYERS.values())


def sampled(number: int) -> Sequential:
    """A network of layers that fit each other, by its number."""
    random = np.random.default_rng(number)

    def pick(*values: Any) -> Any:
        return values[random.integers(len(values))]

    def kind(shape: tuple[int, ...]) -> Any:
        options: list[Any] = [Active(pick(*ACTIVATIONS)), BatchNorm(), Dropout(0.3)]
        options.append(LayerNorm(pick("features", "all")))
        if len(shape) == 1:
            options += [Dense(pick(1, 3, 5), pick(True, False))] * 3
            options.append(Residual([Dense(pick(shape[0], 4)), Active(pick(*ACTIVATIONS))]))
        if len(shape) == 2:
            groups = pick(1, 1, shape[0])
            n, returns, directions = pick(2, 3), pick("last", "all"), pick(1, 2)
            padding = pick("valid", "same", "causal", 1, 2)
            options += [
                Conv1d(pick(2, 4) * groups, pick(1, 2, 3), pick(1, 2), pick(1, 2), padding, groups),
                Elman(n, returns, directions, pick("tanh", "relu")),
                GRU(n, returns, directions),
                LSTM(n, returns, directions),
                pick(MaxPool, AvgPool)(pick(2, 3), pick(None, 1, 2), pick(0, 1)),
                pick(Last(), GlobalAvgPool(), Flatten()),
                Residual([Conv1d(3, 3, padding="same"), Active("relu")]),
            ]
        if len(shape) == 3:
            groups = pick(1, 1, shape[0])
            padding = pick("valid", "same", 1, (0, 2))
            kernel, stride = pick(1, 2, (3, 2)), pick(1, 2, (1, 3))
            options += [
                Conv2d(pick(2, 3) * groups, kernel, stride, pick(1, (2, 1)), padding, groups),
                pick(MaxPool, AvgPool)(pick(2, (2, 3)), pick(None, 1, (2, 1)), pick(0, 1)),
                pick(GlobalAvgPool(), Flatten(), Reshape((shape[0], -1))),
                Residual([Conv2d(4, 3, padding="same"), BatchNorm()]),
            ]
        return options[random.integers(len(options))]

    shape = here = pick((6,), (2, 7), (3, 5), (2, 6, 5), (1, 8, 8), (5,))
    layers: list[Any] = []
    if shape == (5,):
        layers, here = [Embedding(7, 3)], (3, 5)
    depth = int(random.integers(1, 5)) + len(layers)
    while len(layers) < depth:
        try:
            layer = kind(here)
            here = layer.out_shape(here)
        except ValueError:
            continue
        layers.append(layer)
    layers += [Dense(3)] if len(here) == 1 else [Flatten(), Dense(3)]
    try:
        model = Sequential(shape, layers, lengths=len(shape) <= 2 and shape != (6,))
    except ValueError:  # some layer cannot tell steps from what is after the end
        model = Sequential(shape, layers)
    return randomised(model, random)


def test_sampled_networks_are_their_graphs(run: Runtime) -> None:
    numbers = np.random.default_rng(SEED).permutation(N_SAMPLES)
    for number in numbers if EXHAUSTIVE else numbers[:N_TAKEN]:
        model = sampled(int(number))
        print(f"MLP_XP_SEED={SEED}, sample {number}: {model.network.layers}")
        random = np.random.default_rng(number)
        for m in (1, int(random.integers(2, 40))):
            same(run, model, rows(model, m, random))
