"""What every kind of layer keeps, by the table: a new row is tested by existing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pytest

from conftest import Backend, tolerance
from mlp_xp.initializers import INITIALIZERS
from mlp_xp.kernels import SPEC, Kernels, at_precision
from mlp_xp.layers import Activation, Chain, Dense
from mlp_xp.layers.base import Kind, Pass
from mlp_xp.layers.convolution import Conv1d, Conv2d
from mlp_xp.layers.embedding import MANY, Embedding
from mlp_xp.layers.normalization import BatchNorm, LayerNorm
from mlp_xp.layers.pooling import AvgPool, GlobalAvgPool, MaxPool
from mlp_xp.layers.recurrent import GRU, LSTM, Elman
from mlp_xp.layers.shapes import Flatten, Last, Reshape

M = 3  # examples
N_NETWORKS = 2


class Row(NamedTuple):
    """A kind, the shape of its input, and whether sequences differ in length."""

    kind: Any
    shape: tuple[int, ...]
    ragged: bool = False
    training: bool = True

    def __str__(self) -> str:
        lengths = ", ragged" if self.ragged else ""
        return f"{self.kind} of {self.shape}{lengths}{'' if self.training else ', evaluated'}"


ROWS = [
    Row(Conv1d(4, 3), (2, 7)),
    Row(Conv1d(4, 3, stride=2, padding="same"), (2, 7)),
    Row(Conv1d(4, 2, dilation=3, padding="causal", groups=2), (2, 7)),
    Row(Conv1d(2, 1, stride=3, padding=1, bias=False), (3, 5)),
    Row(Conv1d(4, 3, padding="same"), (2, 5), ragged=True),
    Row(Conv2d(4, 3), (2, 5, 4)),
    Row(Conv2d(3, (2, 3), stride=(2, 1), padding="same", groups=3), (3, 4, 5)),
    Row(Conv2d(2, 2, stride=3, dilation=(1, 2), padding=(0, 1)), (1, 6, 5)),
    Row(Conv2d(3, 1), (2, 3, 3)),
    Row(MaxPool(2), (2, 5, 4)),
    Row(MaxPool((3, 2), stride=(1, 2), padding=(1, 0)), (2, 5, 4)),
    Row(MaxPool(3, stride=2), (2, 7)),
    Row(MaxPool(3, stride=1, padding=1), (2, 5), ragged=True),
    Row(MaxPool(2), (2, 5), ragged=True),
    Row(AvgPool(2), (2, 5, 4)),
    Row(AvgPool(3, stride=2, padding=1), (2, 7)),
    Row(GlobalAvgPool(), (2, 3, 4)),
    Row(GlobalAvgPool(), (2, 5), ragged=True),
    Row(Flatten(), (2, 3, 4)),
    Row(Flatten(), (4,)),
    Row(Reshape((2, -1)), (12,)),
    Row(Last(), (2, 4)),
    Row(Last(), (2, 4), ragged=True),
    Row(Last(), (3, 1)),
    Row(Embedding(5, 3), (4,)),
    Row(Embedding(5, 3), (2, 4)),
    Row(Embedding(MANY + 1, 1), (2,)),
    Row(Elman(3), (2, 4)),
    Row(Elman(3, returns="all", directions=2, activation="relu"), (2, 4), ragged=True),
    Row(GRU(3), (2, 4)),
    Row(GRU(3, directions=2), (2, 4), ragged=True),
    Row(GRU(2, returns="all", directions=2), (2, 4)),
    Row(LSTM(3, returns="all"), (2, 4)),
    Row(LSTM(3, directions=2, forget_bias=0.5), (2, 4), ragged=True),
    Row(LSTM(2, returns="all", directions=2), (2, 4), ragged=True),
    Row(BatchNorm(), (3,)),
    Row(BatchNorm(), (2, 3, 4)),
    Row(BatchNorm(), (2, 4), training=False),
    Row(LayerNorm(), (4,)),
    Row(LayerNorm(), (3, 4)),
    Row(LayerNorm("all"), (3, 2, 2)),
]
KINDS = {type(row.kind) for row in ROWS}


@pytest.fixture(params=ROWS, ids=str)
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    return found


class Inputs(NamedTuple):
    """Everything that goes into a layer, as NumPy arrays."""

    P: dict[str, np.ndarray]
    A: np.ndarray
    running: dict[str, np.ndarray]
    present: np.ndarray | None

    def told(self, row: Row, put: Callable[[Any], Any] = np.asarray, **others: Any) -> Pass:
        return Pass(
            training=row.training,
            running={name: put(value) for name, value in self.running.items()},
            present=None if self.present is None else put(self.present),
            shape=row.shape,
            **others,
        )


def inputs(
    row: Row,
    random: np.random.Generator,
    dtype: str = "float64",
    networks: tuple[int, ...] = (),
    alone: bool = False,
) -> Inputs:
    """Random parameters (for each network) and examples, of one input for all where `alone`."""
    kind, shape = row.kind, row.shape
    P = {
        p.name: random.normal(size=(*networks, *p.shape)).astype(dtype)
        for p in kind.parameters(shape)
    }
    size = (*(() if alone else networks), *shape, M)
    if isinstance(kind, Embedding):
        A = random.integers(0, kind.n_values, size=size)
    elif isinstance(kind, MaxPool):
        A = random.permutation(np.prod(size)).reshape(size) / 10  # no ties: it has a derivative
    else:
        A = random.normal(size=size)
    running = {
        s.name: random.uniform(0.5, 2, size=(*networks, s.n, 1)).astype(dtype)
        for s in kind.statistics(shape)
    }
    present = None
    if row.ragged:
        lengths = np.array([shape[1], 1, shape[1] - 2])
        present = (np.arange(shape[1])[:, None] < lengths).astype(dtype)
    return Inputs(P, A.astype(dtype), running, present)


def passed(
    xp: Any,
    row: Row,
    given: Inputs,
    G: np.ndarray | None = None,
    put: Callable[[Any], Any] = np.asarray,
    kernels: Kernels = SPEC,
    **others: Any,
) -> tuple[Any, Any, dict[str, Any], Any]:
    """The output, and what comes back of δ = G (ones, if none is given): ∂J/∂A, gradients."""
    P = {name: put(value) for name, value in given.P.items()}
    told = given.told(row, put, **others)
    H, memory = row.kind.forward(xp, kernels, P, put(given.A), told)
    G = np.ones(H.shape, given.A.dtype) if G is None else G
    dA, gradients = row.kind.backward(xp, kernels, P, memory, put(G))
    return H, dA, gradients, memory


def delta_like(H: Any, random: np.random.Generator) -> np.ndarray:
    return random.normal(size=H.shape).astype(H.dtype)


def test_a_kind_is_what_the_contract_says(row: Row, random: np.random.Generator) -> None:
    given = inputs(row, random)
    assert isinstance(row.kind, Kind)
    H, dA, gradients, memory = passed(np, row, given)
    assert H.shape == (*row.kind.out_shape(row.shape), M)
    assert dA is None or dA.shape == given.A.shape
    parameters = row.kind.parameters(row.shape)
    assert {name: g.shape for name, g in gradients.items()} == {p.name: p.shape for p in parameters}
    assert row.kind.n_bits(row.shape) == 0
    newest = row.kind.newest(np, memory, M) if row.training else {}
    if row.training:
        wanted = {s.name: (s.n, 1) for s in row.kind.statistics(row.shape)}
        assert {name: value.shape for name, value in newest.items()} == wanted


def test_options_go_through_json(row: Row) -> None:
    options = json.loads(json.dumps(asdict(row.kind)))
    again = type(row.kind)(**options)
    assert again == row.kind
    assert hash(again) == hash(row.kind)
    assert again.out_shape(row.shape) == row.kind.out_shape(row.shape)


def test_gradients_are_differences(row: Row, random: np.random.Generator) -> None:
    given = inputs(row, random)
    H, dA, gradients, _ = passed(np, row, given)
    G = delta_like(H, random)
    _, dA, gradients, _ = passed(np, row, given, G)

    def J(**changed: Any) -> float:
        P = {name: changed.get(name, value) for name, value in given.P.items()}
        now = given._replace(P=P, A=changed.get("A", given.A))
        return float(np.sum(G * row.kind.forward(np, SPEC, P, now.A, now.told(row))[0]))

    analytic = dict(gradients) if dA is None else {**gradients, "A": dA}
    h = 1e-6
    for name, gradient in analytic.items():
        value = given.A if name == "A" else given.P[name]
        for place in np.ndindex(value.shape):
            step = np.zeros_like(value)
            step[place] = h
            numeric = (J(**{name: value + step}) - J(**{name: value - step})) / (2 * h)
            np.testing.assert_allclose(
                gradient[place], numeric, rtol=1e-6, atol=1e-7, err_msg=f"{name}{place}"
            )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_backend_computes_the_same(
    row: Row, backend: Backend, dtype: str, random: np.random.Generator
) -> None:
    given = inputs(row, random, dtype)
    H, _, _, _ = passed(np, row, given)
    G = delta_like(H, random)
    H, dA, gradients, memory = passed(np, row, given, G)
    theirs = passed(backend.xp, row, given, G, backend.asarray, backend.device.kernels)
    expected = {"output": H, **gradients, **({} if dA is None else {"input": dA})}
    got = {"output": theirs[0], **theirs[2], **({} if theirs[1] is None else {"input": theirs[1]})}
    if row.training:
        expected |= row.kind.newest(np, memory, M)
        got |= row.kind.newest(backend.xp, theirs[3], M)
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert value.dtype == dtype, name
        host = backend.get(got[name])
        assert host.dtype == dtype, name
        np.testing.assert_allclose(host, value, **tolerance(dtype, 64), err_msg=name)


@pytest.mark.parametrize("alone", [False, True], ids=["an input each", "one input for all"])
def test_networks_at_once_are_each_alone(
    row: Row, alone: bool, backend: Backend, random: np.random.Generator
) -> None:
    given = inputs(row, random, networks=(N_NETWORKS,), alone=alone)
    H, _, _, _ = passed(np, row, given)
    leads = H.ndim > len(row.kind.out_shape(row.shape)) + 1
    assert leads or (alone and not given.P)
    G = delta_like(H, random)
    H, dA, gradients, memory = passed(backend.xp, row, given, G, backend.asarray)
    newest = row.kind.newest(backend.xp, memory, M) if row.training else {}
    for k in range(N_NETWORKS):

        def of(value: np.ndarray, k: int = k, leads: bool = True) -> np.ndarray:
            return value[k] if leads else value

        one = Inputs(
            {name: of(value) for name, value in given.P.items()},
            of(given.A, leads=not alone),
            {name: of(value) for name, value in given.running.items()},
            given.present,
        )
        expected = passed(np, row, one, of(G, leads=leads))
        names = {"output": (H, expected[0]), "input": (dA, expected[1])}
        names |= {name: (gradients[name], expected[2][name]) for name in expected[2]}
        alone_newest = row.kind.newest(np, expected[3], M) if row.training else {}
        names |= {name: (newest[name], alone_newest[name]) for name in alone_newest}
        for name, (together, apart) in names.items():
            if together is None:
                assert apart is None
                continue
            got = of(backend.get(together), leads=leads)
            np.testing.assert_allclose(got, apart, **tolerance("float64", 64), err_msg=name)


def test_an_input_gradient_that_is_not_wanted_changes_no_other(
    row: Row, random: np.random.Generator
) -> None:
    given = inputs(row, random)
    H, _, gradients, _ = passed(np, row, given)
    H_not, _, not_wanted, _ = passed(np, row, given, wanted=False)
    np.testing.assert_array_equal(H_not, H)
    for name, value in gradients.items():
        np.testing.assert_array_equal(not_wanted[name], value)


@pytest.mark.parametrize(
    ("row", "left"),
    [
        (Row(Conv2d(4, 3, stride=2), (2, 5, 5)), 0),
        (Row(Conv1d(4, 3), (2, 5)), 0),
        (Row(LSTM(3), (2, 4)), 4),  # through U, a step each
    ],
    ids=str,
)
def test_an_input_gradient_that_is_not_wanted_costs_no_product(
    row: Row, left: int, random: np.random.Generator
) -> None:
    taken: list[int] = []

    def counted(xp: Any, W: Any, dS: Any) -> Any:
        taken.append(1)
        return SPEC.input_gradient(xp, W, dS)

    kernels = SPEC._replace(input_gradient=counted)
    _, dA, _, _ = passed(np, row, inputs(row, random), kernels=kernels, wanted=False)
    assert dA is None
    assert len(taken) == left


class WithoutProducts:
    """NumPy without its products, so that whoever takes one shows."""

    def __getattr__(self, name: str) -> Any:
        if name in ("matmul", "tensordot", "vecdot", "einsum", "dot"):
            raise AssertionError(f"xp.{name} was called past the kernels")
        return getattr(np, name)


def test_products_are_those_of_the_kernel_set(row: Row, random: np.random.Generator) -> None:
    given = inputs(row, random)
    H, dA, gradients, _ = passed(np, row, given)

    def by_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda xp, *arrays: function(np, *arrays)

    names = ("product", "input_gradient", "weight_gradient")
    kernels = SPEC._replace(**{name: by_numpy(getattr(SPEC, name)) for name in names})
    again = passed(WithoutProducts(), row, given, kernels=kernels)
    np.testing.assert_array_equal(again[0], H)
    for name, value in gradients.items():
        np.testing.assert_array_equal(again[2][name], value)
    assert (again[1] is None) == (dA is None)


@pytest.mark.parametrize("kind", [Conv2d(3, 2), GRU(3), Embedding(6, 3)], ids=str)
def test_a_precision_rounds_the_operands_of_products(
    kind: Any, random: np.random.Generator
) -> None:
    row = Row(kind, (2, 4, 4) if isinstance(kind, Conv2d) else (4, 4))
    given = inputs(row, random, "float32")
    H, _, gradients, _ = passed(np, row, given)
    G = delta_like(H, random)
    H, _, gradients, _ = passed(np, row, given, G)
    rough = passed(np, row, given, G, kernels=at_precision(SPEC, "bfloat16"))
    for name in {"W", "U"} & set(gradients):
        off = np.max(np.abs(rough[2][name] - gradients[name])) / np.max(np.abs(gradients[name]))
        assert 1e-4 < off < 0.2, name


def test_nothing_is_written_to(row: Row, random: np.random.Generator) -> None:
    given = inputs(row, random)

    def locked(value: Any) -> np.ndarray:
        array = np.array(value)
        array.flags.writeable = False
        return array

    passed(np, row, given, put=locked)


def test_every_kind_has_a_row() -> None:
    import mlp_xp.layers as package
    from mlp_xp.layers import convolution, embedding, normalization, pooling, recurrent, shapes

    assert package.__doc__
    modules = (convolution, embedding, normalization, pooling, recurrent, shapes)
    found = {
        value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and hasattr(value, "out_shape")
        and hasattr(value, "__dataclass_fields__")
    }
    assert found == KINDS


def test_a_forget_gate_begins_open() -> None:
    (forget,) = (p for p in LSTM(4, directions=2).parameters((3, 5)) if p.name == "b_forget")
    assert (forget.shape, forget.begins, forget.decays) == ((8, 1), 1.0, False)
    (forget,) = (p for p in LSTM(4, forget_bias=2).parameters((3, 5)) if p.name == "b_forget")
    assert forget.begins == 2.0


@pytest.mark.parametrize("kind", [GRU(3), LSTM(3), Elman(3)], ids=str)
def test_gates_begin_by_their_own_activation_not_by_the_next(kind: Any) -> None:
    layers = (Conv1d(4, 1), Activation("relu"), kind, Activation("relu"), Dense(2))
    chain = Chain((2, 5), layers)
    found = dict(zip((slot.name for slot, _ in chain.drawn), chain.matching(), strict=True))
    assert found["W1"] is INITIALIZERS["he"]
    assert found["W3"] is found["U3"] is INITIALIZERS["glorot_uniform"]


def test_fans_are_those_that_a_unit_has() -> None:
    W = Conv2d(8, 3, groups=2).parameters((4, 9, 9))[0]
    assert (W.shape, W.fan_in, W.fan_out) == ((8, 18), 18, 36)
    W, U, *_ = GRU(5, directions=2).parameters((7, 3))
    assert (W.shape, W.fan_in, W.fan_out) == ((30, 7), 7, 5)
    assert (U.shape, U.fan_in, U.fan_out) == ((30, 5), 5, 5)
    W = Embedding(100, 8).parameters((3,))[0]
    assert (W.shape, W.fan_in) == ((8, 100), 1)


def test_of_equal_values_the_first_has_the_derivative() -> None:
    A = np.zeros((1, 2, 4, 1))
    row = Row(MaxPool(2), (1, 2, 4))
    _, dA, _, _ = passed(np, row, Inputs({}, A, {}, None))
    assert dA is not None
    np.testing.assert_array_equal(dA[0, :, :, 0], [[1, 0, 1, 0], [0, 0, 0, 0]])


def test_a_causal_convolution_sees_nothing_that_comes_later(random: np.random.Generator) -> None:
    row = Row(Conv1d(2, 3, dilation=2, padding="causal"), (2, 9))
    given = inputs(row, random)
    later = np.array(given.A)
    later[:, 5:] += 1
    H = passed(np, row, given)[0]
    changed = passed(np, row, given._replace(A=later))[0]
    np.testing.assert_array_equal(changed[:, :5], H[:, :5])
    assert np.all(changed[:, 5] != H[:, 5])


@pytest.mark.parametrize("kind", [Elman(3), GRU(3), LSTM(3)], ids=str)
@pytest.mark.parametrize("returns", ["last", "all"])
def test_what_lies_after_the_end_of_a_sequence_changes_nothing(
    kind: Any, returns: str, random: np.random.Generator
) -> None:
    kind = type(kind)(3, returns=returns, directions=2)
    row = Row(kind, (2, 5), ragged=True)
    given = inputs(row, random)
    other = given._replace(A=np.where(given.present == 1, given.A, 7.0))
    for got, expected in zip(passed(np, row, other)[:2], passed(np, row, given)[:2], strict=True):
        np.testing.assert_array_equal(got, expected)
    short = Row(kind, (2, 1))
    alone = given._replace(A=given.A[:, :1, 1:2], present=None)  # the second has one step
    H, cut = passed(np, row, given)[0], passed(np, short, alone)[0]
    if returns == "last":
        np.testing.assert_allclose(H[:, 1], cut[:, 0], rtol=1e-12)
    else:
        np.testing.assert_allclose(H[:, 0, 1], cut[:, 0, 0], rtol=1e-12)
        np.testing.assert_array_equal(H[:, 1:, 1], 0)


def test_one_product_over_time_and_one_gradient_each_matrix(random: np.random.Generator) -> None:
    calls: list[tuple[str, int]] = []

    def counted(name: str) -> Callable[..., Any]:
        def inside(xp: Any, left: Any, right: Any) -> Any:
            calls.append((name, right.shape[-1]))
            return getattr(SPEC, name)(xp, left, right)

        return inside

    names = ("product", "input_gradient", "weight_gradient")
    kernels = SPEC._replace(**{name: counted(name) for name in names})
    time = 6
    row = Row(GRU(3, directions=2), (2, time))
    passed(np, row, inputs(row, random), kernels=kernels)
    products = [columns for name, columns in calls if name == "product"]
    assert products == [time * M] + [M] * time
    assert [name for name, _ in calls].count("weight_gradient") == 2
    assert [name for name, _ in calls].count("input_gradient") == time + 1


def test_an_embedding_of_many_values_sums_in_parts(
    monkeypatch: pytest.MonkeyPatch, random: np.random.Generator
) -> None:
    row = Row(Embedding(11, 3), (4,))
    given = inputs(row, random)
    H = passed(np, row, given)[0]
    G = delta_like(H, random)
    whole = passed(np, row, given, G)[2]["W"]
    monkeypatch.setattr("mlp_xp.layers.embedding.ENTRIES", 4 * M * 3)
    parts: list[int] = []

    def counted(xp: Any, dS: Any, A: Any) -> Any:
        parts.append(A.shape[0])
        return SPEC.weight_gradient(xp, dS, A)

    again = passed(np, row, given, G, kernels=SPEC._replace(weight_gradient=counted))
    np.testing.assert_allclose(again[2]["W"], whole, rtol=1e-12)
    assert parts == [3, 3, 3, 2]


@pytest.mark.parametrize("alone", [False, True], ids=["an input each", "one input for all"])
@pytest.mark.parametrize("time", [1, 7])
def test_an_embedding_sums_the_same_by_sorting(
    monkeypatch: pytest.MonkeyPatch,
    backend: Backend,
    random: np.random.Generator,
    time: int,
    alone: bool,
) -> None:
    row = Row(Embedding(6, 3), (time,))
    given = inputs(row, random, networks=(N_NETWORKS,), alone=alone)
    G = delta_like(passed(np, row, given)[0], random)
    by_product = passed(np, row, given, G)[2]["W"]
    monkeypatch.setattr("mlp_xp.layers.embedding.MANY", 1)
    monkeypatch.setattr("mlp_xp.layers.embedding._by_product", None)
    got = backend.get(passed(backend.xp, row, given, G, backend.asarray)[2]["W"])
    np.testing.assert_allclose(got, by_product, **tolerance("float64", 8))


@pytest.mark.parametrize(
    "kind",
    [
        Conv1d(4, 3, padding="same"),
        Conv1d(2, 2, dilation=2, padding="causal"),
        MaxPool(3, stride=1, padding=1),
        AvgPool(3, stride=1, padding=1),
        LayerNorm(),
    ],
    ids=str,
)
def test_what_is_after_the_end_of_a_sequence_is_padding(
    kind: Any, random: np.random.Generator
) -> None:
    row = Row(kind, (2, 5), ragged=True)
    given = inputs(row, random)
    assert given.present is not None
    given = given._replace(A=(given.A - 10) * given.present)  # below 0: no zero may be largest
    H = passed(np, row, given)[0]
    assert np.all(np.isfinite(H))
    for example, n in enumerate(np.sum(given.present, axis=0).astype(int)):
        alone = given._replace(A=given.A[:, :n, example : example + 1], present=None)
        cut = passed(np, Row(kind, (2, int(n))), alone)[0]
        np.testing.assert_allclose(H[:, :n, example], cut[:, :, 0], rtol=1e-12)


def test_the_last_step_is_the_last_that_is_there() -> None:
    A = np.arange(12.0).reshape(1, 4, 3)
    present = (np.arange(4)[:, None] < np.array([4, 2, 0])).astype(float)
    row = Row(Last(), (1, 4), ragged=True)
    H, dA, _, _ = passed(np, row, Inputs({}, A, {}, present))
    np.testing.assert_array_equal(H, [[9, 4, 0]])
    np.testing.assert_array_equal(dA[0], [[0, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]])
    H, dA, _, _ = passed(np, row._replace(ragged=False), Inputs({}, A, {}, None))
    np.testing.assert_array_equal(H, A[:, -1])
    np.testing.assert_array_equal(dA[0], [[0, 0, 0]] * 3 + [[1, 1, 1]])


def test_the_mean_is_of_the_steps_that_are_there() -> None:
    A = np.arange(12.0).reshape(1, 4, 3)
    present = (np.arange(4)[:, None] < np.array([4, 2, 0])).astype(float)
    row = Row(GlobalAvgPool(), (1, 4), ragged=True)
    H, dA, _, _ = passed(np, row, Inputs({}, A, {}, present))
    np.testing.assert_allclose(H, [[(0 + 3 + 6 + 9) / 4, (1 + 4) / 2, 0]])
    np.testing.assert_allclose(dA[0], present / [4, 2, 1])


BAD_OPTIONS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Conv1d(0, 3), ValueError, "channels is 0, but expected at least 1"),
    (lambda: Conv1d(True, 3), TypeError, "channels is True, but expected a whole number"),
    (lambda: Conv1d(4, 3.0), TypeError, "kernel is 3.0, but expected a whole number"),
    (lambda: Conv1d(4, 3, padding="full"), ValueError, "padding is 'full', but expected one of"),
    (lambda: Conv1d(4, 3, groups=3), ValueError, "groups is 3, but does not divide the 4"),
    (lambda: Conv1d(4, 3, bias=1), TypeError, "bias is 1, but expected True or False"),
    (lambda: Conv2d(4, (3, 3, 3)), ValueError, "kernel is .* but expected a whole number, or two"),
    (lambda: Conv2d(4, (3, 0)), ValueError, r"kernel\[1\] is 0"),
    (lambda: Conv2d(4, 3, padding="causal"), ValueError, "an image has no direction of time"),
    (lambda: MaxPool(2, padding=2), ValueError, "padding is 2, but expected at most half"),
    (lambda: MaxPool("2"), TypeError, "window is '2', but expected a whole number"),
    (lambda: AvgPool(2, stride=0), ValueError, "stride is 0, but expected at least 1"),
    (lambda: Reshape(3), TypeError, "shape is 3, but expected the lengths"),
    (lambda: Reshape((-1, -1)), ValueError, "of which one may be -1"),
    (lambda: Embedding(0, 3), ValueError, "n_values is 0, but expected at least 1"),
    (lambda: Embedding(2**25, 3), ValueError, "n_values is 33554432, but float32"),
    (lambda: Elman(3, activation="gelu"), ValueError, "activation is 'gelu', but expected one of"),
    (lambda: GRU(3, returns="first"), ValueError, "returns is 'first', but expected one of"),
    (lambda: Activation("softmax"), ValueError, "has its softmax from the loss 'cross_entropy'"),
    (lambda: Activation("Swish"), ValueError, "Did you mean 'silu'"),
    (lambda: LayerNorm("feature"), ValueError, "Did you mean 'features'"),
    (lambda: LSTM(3, directions=3), ValueError, "directions is 3, but expected 1"),
    (lambda: LSTM(3, forget_bias="1"), TypeError, "forget_bias is '1', but expected a finite"),
    (lambda: LSTM(3, forget_bias=float("nan")), TypeError, "forget_bias is nan"),
    (lambda: LayerNorm("places"), ValueError, "over is 'places', but expected one of"),
]


@pytest.mark.parametrize(
    ("make", "error", "message"), BAD_OPTIONS, ids=lambda v: None if callable(v) else str(v)[:40]
)
def test_a_bad_option_names_itself(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


BAD_SHAPES: list[tuple[Any, tuple[int, ...], str]] = [
    (Conv1d(4, 3), (2, 5, 5), r"takes sequences, \(features, time\). Images take Conv2d"),
    (Conv1d(4, 3), (7,), "Reshape"),
    (Conv1d(4, 3, dilation=4), (2, 8), "takes at least 9 places .* there are 8"),
    (Conv1d(4, 3, groups=2), (3, 8), "its 2 groups divide"),
    (Conv2d(4, 3), (2, 5), "takes images"),
    (Conv2d(4, 3), (2, 5, 2), "padding='same', a smaller kernel"),
    (MaxPool(2), (3,), "takes sequences .* or images"),
    (MaxPool((2, 2)), (3, 4), "For sequences give one number each"),
    (AvgPool(4), (3, 5, 3), "takes at least 4 places"),
    (GlobalAvgPool(), (3,), "there is nothing to take the mean of"),
    (Last(), (3,), "takes sequences"),
    (Reshape((1, 28, 28)), (783,), "takes 784 numbers an example, but there are 783"),
    (Reshape((5, -1)), (12,), "a multiple of 5"),
    (Embedding(3, 2), (), "whole numbers as features"),
    (Elman(3), (3,), "must return 'all' states"),
    (GRU(3), (1, 4, 4), "takes sequences"),
    (LSTM(3), (3,), "takes sequences"),
    (BatchNorm(), (), "channels first"),
    (LayerNorm(), (), "features first"),
]


@pytest.mark.parametrize(("kind", "shape", "message"), BAD_SHAPES, ids=str)
def test_a_shape_that_does_not_fit_names_the_layer_and_the_shape(
    kind: Any, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        kind.out_shape(shape)
    assert str(caught.value).startswith(f"{kind} cannot follow the shape {shape}: ")
