"""ONNX graphs of models against the models: onnxruntime says what `predict` says.

Networks are sampled: each has 400, told apart by their number. A run takes a few, chosen by a
seed that is printed: MLP_XP_SEED=… repeats them, MLP_XP_EXHAUSTIVE=1 takes all.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from time import time_ns
from typing import Any

import numpy as np
import pytest

from conftest import need
from mlp_xp import ACTIVATIONS, LOSSES, MLP, Activation, Sequential, load_table, model_for
from mlp_xp.export.functions import FUNCTIONS, PREDICTIONS, NotExportable
from mlp_xp.export.kinds import KINDS, NARROW
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
from mlp_xp.layers.base import Plain
from mlp_xp.prepared import Preparation, Scale

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


def sampled(number: int, **options: Any) -> Sequential:
    """A network of layers that fit each other, by its number; sequences of it may have lengths.

    options  of `Sequential`
    """
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
    options = {"lengths": len(shape) <= 2 and shape != (6,), **options}
    try:
        model = Sequential(shape, layers, **options)
    except ValueError:  # some layer cannot tell steps from what is after the end
        model = Sequential(shape, layers, **{**options, "lengths": False})
    return randomised(model, random)


def test_sampled_networks_are_their_graphs(run: Runtime) -> None:
    numbers = np.random.default_rng(SEED).permutation(N_SAMPLES)
    for number in numbers if EXHAUSTIVE else numbers[:N_TAKEN]:
        model = sampled(int(number))
        print(f"MLP_XP_SEED={SEED}, sample {number}: {model.network.layers}")
        random = np.random.default_rng(number)
        for m in (1, int(random.integers(2, 40))):
            same(run, model, rows(model, m, random))


def test_a_sequence_without_a_step_is_what_the_model_says(
    run: Runtime, random: np.random.Generator
) -> None:
    for shape, layers, lengths in STACKS:
        if lengths:
            model = randomised(Sequential(shape, layers, lengths=True), random)
            X = rows(model, 4, random)
            X[:2, -1] = 0
            same(run, model, X)


def test_no_rows_have_no_answers(run: Runtime) -> None:
    """But for recurrent layers, of which onnxruntime 1.32 ends the process then."""
    for shape, layers, lengths in STACKS:
        model = Sequential(shape, layers, lengths=lengths)
        if not any(isinstance(layer, Elman | GRU | LSTM) for layer in layers):
            X = np.zeros((0, model.network.sizes[0]), np.float32)
            assert run(model.to_onnx(), X=X)["probabilities"].shape == (0, 3)


def test_many_networks_are_one_graph(run: Runtime, random: np.random.Generator) -> None:
    layers = [Conv1d(4, 3, padding="same"), BatchNorm(), Active("relu"), GRU(3), Dense(3)]
    model = randomised(Sequential((2, 5), layers, seed=[0, 1, 2], lengths=True), random)
    same(run, model, rows(model, 9, random))
    dense = MLP((4, 5, 2), seed=[3, 4], normalization="batch", residual=True)
    same(run, randomised(dense, random), random.normal(size=(9, 4)).astype(np.float32))


@pytest.mark.parametrize("kind", NARROW, ids=lambda kind: kind.__name__)
def test_what_onnxruntime_has_in_float32_alone_is_said(
    run: Runtime, random: np.random.Generator, kind: Any
) -> None:
    shape, layers, lengths = next(
        stack for stack in STACKS if any(isinstance(layer, kind) for layer in stack[1])
    )
    model = randomised(Sequential(shape, layers, lengths=lengths, dtype="float64"), random)
    with pytest.warns(UserWarning, match=f"no {kind.__name__}.*dtype='float32'"):
        run.onnx.checker.check_model(model.to_onnx(), full_check=True)
    X = rows(model, 7, random).astype(np.float32)
    same(run, model, X, dtype="float32")


def test_rounded_products_are_said(run: Runtime) -> None:
    with pytest.warns(UserWarning, match="does not round to bfloat16"):
        MLP((3, 2), precision="bfloat16").to_onnx()


# -- preparations --------------------------------------------------------------


def test_raw_features_go_in_and_labels_come_out(run: Runtime, random: np.random.Generator) -> None:
    X = random.normal(loc=50, scale=9, size=(20, 3)).astype(np.float32)
    scale = Scale(X.mean(axis=0).tolist(), X.std(axis=0).tolist())
    for classes in (("cat", "dog", "øl"), (3, 5, 9), (0, 1, 2), (0.5, 1.5, 2.5)):
        model = MLP((3, 4, 3))
        model.preparation = Preparation("cross_entropy", inputs=scale, classes=classes)
        same(run, model, X)
        found = run(model.to_onnx(), X=X)["label"]
        assert found.tolist() == model.predict(X, layout="rows").tolist()
    binary = MLP((3, 4, 1), loss="binary_cross_entropy")
    binary.preparation = Preparation("binary_cross_entropy", inputs=scale, classes=("no", "yes"))
    same(run, binary, X)
    numbers = MLP((3, 4, 2), loss="squared_error")
    numbers.preparation = Preparation(
        "squared_error", inputs=scale, outputs=Scale([5.0, 1e6], [2.0, 1e4])
    )
    same(run, numbers, X)


def test_features_may_be_scaled_in_float64(run: Runtime, random: np.random.Generator) -> None:
    X = 1.7e9 + random.normal(size=(20, 3))  # seconds since 1970, which float32 cannot tell apart
    model = MLP((3, 4, 3))
    model.preparation = Preparation("cross_entropy", inputs=Scale(1.7e9, 1.0))
    found = run(model.to_onnx(input_dtype="float64"), X=X)["probabilities"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, model.predict_proba(X, layout="rows"), atol=1e-5)


def table(m: int, random: np.random.Generator) -> Any:
    """Numbers with gaps and without, few words, many words, with gaps."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("skrub")
    age = random.integers(18, 80, m).astype(float)
    age[::7] = np.nan
    city = random.choice(np.array(["Oslo", "Bergen", None], object), m)
    job = random.choice(np.array([*(f"job {i}" for i in range(40)), None], object), m)
    frame = pandas.DataFrame({"age": age, "weight": random.normal(70, 9, m)})
    frame["member"] = random.random(m) < 0.5
    frame["city"], frame["job"] = city, job
    frame["pay"] = 10 * frame["weight"] + 200 * (city == "Oslo") + 100 * frame["member"]
    return frame


def columns(session: Any, frame: Any) -> dict[str, Any]:
    """A data frame as the inputs that a graph asks for."""
    found = {}
    for put in session.get_inputs():
        column = frame[put.name]
        text = put.type == "tensor(string)"
        column = column.astype(object).fillna("") if text else column.astype(float)
        found[put.name] = column.to_numpy()[:, None]
    return found


@pytest.mark.parametrize("target", ["pay", "member"])
def test_a_table_is_read_column_by_column(
    run: Runtime, random: np.random.Generator, target: str
) -> None:
    data = load_table(table(150, random), target)
    model = model_for(data, hidden=(8,)).fit(data.X, data.y, epochs=3, progress=False)
    assert model.preparation.table is not None
    new = table(40, random)
    new.loc[3, "city"], new.loc[4, "job"] = "Narvik", "none of the known"
    new.loc[5, ["city", "job"]] = None
    session = run.session(model.to_onnx())
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, columns(session, new)), strict=True))
    if target == "pay":
        expected = model.predict(new)
        np.testing.assert_allclose(found["variable"][:, 0], expected, rtol=1e-5)
    else:
        np.testing.assert_allclose(found["probabilities"], model.predict_proba(new), atol=1e-5)
        assert (found["label"] == model.predict(new)).all()


@pytest.mark.parametrize("gap", [True, False], ids=["gaps", "none"])
def test_words_that_stand_for_gaps_do_so_in_the_graph(
    run: Runtime, random: np.random.Generator, gap: bool
) -> None:
    """Where training had a gap, and among words where it had none."""
    frame = table(150, random)
    words = ["age", "city", "job"] if gap else ["age"]
    frame[["city", "job"]] = frame[["city", "job"]].ffill().bfill()
    frame.loc[::7, words] = None
    data = load_table(frame, "member", missing=["-1", "unknown"])
    model = model_for(data, hidden=(8,)).fit(data.X, data.y, epochs=3, progress=False)
    new = frame.head(20).copy()
    new.loc[3, "age"], new.loc[4, ["city", "job"]] = -1, "unknown"
    session = run.session(model.to_onnx())
    found = session.run(["probabilities"], columns(session, new))[0]
    np.testing.assert_allclose(found, model.predict_proba(new), atol=1e-5)


def test_a_column_may_be_called_what_it_likes(run: Runtime, random: np.random.Generator) -> None:
    frame = table(150, random).rename(columns={"age": "label", "weight": "Gemm", "city": "W1"})
    data = load_table(frame, "member")
    model = model_for(data, hidden=(8,)).fit(data.X, data.y, epochs=1, progress=False)
    session = run.session(model.to_onnx())
    assert [put.name for put in session.get_outputs()] == ["label_2", "probabilities"]
    found = session.run(["probabilities"], columns(session, frame))[0]
    np.testing.assert_allclose(found, model.predict_proba(frame), atol=1e-5)


def test_layers_of_one_number_are_normalised(run: Runtime, random: np.random.Generator) -> None:
    layers = [LayerNorm(), Flatten(), Dense(1), LayerNorm(), Dense(2)]
    model = randomised(Sequential((1, 3), layers), random)
    same(run, model, rows(model, 5, random))


def test_dates_are_refused_by_name(run: Runtime, random: np.random.Generator) -> None:
    frame = table(60, random)
    frame["joined"] = [f"2024-0{1 + i % 9}-1{i % 7}" for i in range(60)]
    model = model_for(load_table(frame, "pay"), hidden=(4,))
    with pytest.raises(NotExportable, match=r"column 'joined' holds dates.*Train on numbers"):
        model.to_onnx()


# -- what is refused -----------------------------------------------------------


@dataclass(frozen=True)
class Doubled(Plain):
    """A layer of a user's own."""

    def out_shape(self, shape: Any) -> Any:
        return shape

    def forward(self, xp: Any, kernels: Any, P: Any, A: Any, told: Any) -> Any:
        return 2 * A, None

    def backward(self, xp: Any, kernels: Any, P: Any, memory: Any, dA: Any) -> Any:
        return 2 * dA, {}


def test_what_is_of_your_own_is_named(run: Runtime) -> None:
    def square(xp: Any, Z: Any) -> Any:
        return Z * Z

    own = Activation(square, lambda xp, Z: 2 * Z, "Z")
    with pytest.raises(NotExportable, match="layer 2 has an activation of your own"):
        MLP((3, 4, 2), activation=own).to_onnx()
    with pytest.raises(NotExportable, match=r"layer 1, Doubled.* is of a kind of your own"):
        Sequential(3, [Doubled(), Dense(2)]).to_onnx()
    loss = LOSSES["cross_entropy"]._replace(predict=square)
    with pytest.raises(NotExportable, match="a loss of your own"):
        MLP((3, 2), loss=loss).to_onnx()
    with pytest.raises(ValueError, match="dtype is 'float16', but expected one of 'float32'"):
        MLP((3, 2)).to_onnx(dtype="float16")


def test_a_layer_of_your_own_gets_a_row(
    run: Runtime, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, Doubled, lambda g, at, A: g("Mul", A, 2.0))
    model = Sequential(3, [Doubled(), Dense(2)])
    same(run, model, random.normal(size=(5, 3)).astype(np.float32))


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'mlp_xp\[onnx\]'"):
        MLP((3, 2)).to_onnx()


# -- files ---------------------------------------------------------------------


def test_a_file_says_what_it_is(run: Runtime, tmp_path: Path) -> None:
    model = MLP((3, 4, 2))
    model.preparation = Preparation("cross_entropy", classes=("no", "yes"), features=tuple("abc"))
    path = tmp_path / "model.onnx"
    written = model.to_onnx(path)
    assert path.read_bytes() == written.SerializeToString()
    assert model.to_onnx() == written  # the same every time
    assert list(tmp_path.iterdir()) == [path]
    session = run.runtime.InferenceSession(path)
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["classes"] == '["no", "yes"]'
    assert facts["features"] == '["a", "b", "c"]'
    assert (written.producer_name, written.ir_version) == ("mlp_xp", 8)
    assert [(put.domain, put.version) for put in written.opset_import] == [("", 18)]
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("X", ["m", 3])
    assert [put.shape for put in session.get_outputs()] == [["m"], ["m", 2]]


def test_the_reference_implementation_agrees(run: Runtime, random: np.random.Generator) -> None:
    from onnx.reference import ReferenceEvaluator

    layers = [Conv2d(4, 3, padding=1), BatchNorm(), Active("gelu"), MaxPool(2), Flatten(), Dense(3)]
    model = randomised(Sequential((2, 6, 6), layers, dtype="float64"), random)
    X = random.normal(size=(5, 72))
    with pytest.warns(UserWarning, match="no Conv2d"):
        _, found = ReferenceEvaluator(model.to_onnx()).run(None, {"X": X})
    np.testing.assert_allclose(found, model.predict_proba(X, layout="rows"), atol=1e-9)
