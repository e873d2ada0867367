"""What is traced for CUDA is the formula: graphs at random, all layers, whole steps, counts."""

from __future__ import annotations

import math
import warnings
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import pytest
import test_compile
import test_cuda_steps as on_device
import test_fast_paths as paths
from test_layer_kinds import ROWS, Row
from test_precision import ROUNDED, on_a_card

from conftest import tolerance
from mlp_xp import MLP, Sequential
from mlp_xp.compile import program
from mlp_xp.compile.fuse import Fusion
from mlp_xp.compile.graph import Graph
from mlp_xp.compile.trace import trace
from mlp_xp.devices import device as find_device
from mlp_xp.layers import GRU, LSTM, Activation, BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool
from mlp_xp.training import Data, evaluate, scorer, stepper

N_GRAPHS = 60
N_STEPS = range(0, paths.N_SAMPLES, 3)


def program_of(formula: Any, arrays: list[np.ndarray], dtype: str = "float64") -> Any:
    """A formula as launches on arrays of the device."""
    import cupy

    from mlp_xp.compile.cuda_plan import CudaPlan
    from mlp_xp.compile.cuda_program import CudaProgram
    from mlp_xp.fast.cublas import Cublas

    graph = Graph(dtype)
    inputs = [graph.input(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)]
    roots = list(trace(formula, graph, *inputs))
    cublas = Cublas()
    cublas.follow(cupy.cuda.get_current_stream().ptr)
    given = {f"x{i}": cupy.asarray(array) for i, array in enumerate(arrays)}
    return CudaProgram(CudaPlan(Fusion(roots, [None] * len(roots))), given, cublas)


def poisoned(program: Any) -> list[np.ndarray]:
    """What a program gives if all its memory was not numbers before."""
    program.block[...] = 0xFF
    program.run()
    return [root.get() for root in program.roots]


def assert_computed(formula: Any, arrays: list[np.ndarray], units: int, dtype: str) -> Any:
    program = program_of(formula, arrays, dtype)
    for mine, theirs in zip(poisoned(program), formula(np, *arrays), strict=True):
        scale = max(1.0, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(mine / scale, theirs / scale, **tolerance(dtype, units))
    return program


@pytest.mark.parametrize("seed", range(N_GRAPHS))
def test_a_formula_at_random_is_computed(cupy: Any, seed: int) -> None:
    formula, arrays = test_compile._formula(seed)
    assert_computed(formula, arrays, 4096, "float64")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_layer_is_compiled_as_it_is_written(cupy: Any, row: Row) -> None:
    assert_computed(*test_compile._layer(row), 64, "float64")


def sums(xp: Any, x: Any) -> list[Any]:
    """A softmax, its entropy and moments, along both axes of the last two."""
    found = []
    for axis in (-1, -2):
        e = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
        p = e / xp.sum(e, axis=axis, keepdims=True)
        mean = xp.mean(x, axis=axis, keepdims=True)
        spread = xp.mean((x - mean) * (x - mean), axis=axis, keepdims=True)
        found += [p, xp.sum(p * x, axis=axis), (x - mean) / xp.sqrt(spread + 1e-5)]
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 5), (40, 33), (3, 70, 2), (2, 3, 300), (5, 1500), (1500, 5)], ids=str
)
def test_sums_of_all_lengths_are_known_to_those_who_go_on(
    cupy: Any, shape: tuple[int, ...], dtype: str
) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    assert_computed(sums, [x], 64, dtype)


@pytest.mark.parametrize("shape", [(2, 9000), (9000, 2), (1, 20000), (3, 9000, 2)], ids=str)
def test_a_few_long_sums_go_in_parts(cupy: Any, shape: tuple[int, ...]) -> None:
    def formula(xp: Any, x: Any) -> list[Any]:
        axis = x.ndim - 1 if x.shape[-1] > 100 else x.ndim - 2
        y = xp.tanh(x)
        return [y * y, xp.sum(y, axis=axis), xp.max(y * 2, axis=axis), xp.min(y, axis=axis)]

    x = np.random.default_rng(0).normal(size=shape)
    program = assert_computed(formula, [x], 64, "float64")
    kernels = program.plan.kernels.values()
    assert any(kernel.parts > 1 for kernel in kernels)
    assert all(math.prod(kernel.block) <= 1024 for kernel in kernels)


def test_a_function_that_is_only_called_is_cupys(cupy: Any) -> None:
    def formula(xp: Any, x: Any) -> list[Any]:
        return [xp.sort(xp.tanh(x), axis=-1) * 2]

    program = assert_computed(formula, [np.random.default_rng(0).normal(size=(3, 8))], 8, "float64")
    assert not program.replayable


# -- products

MATRICES = [
    ((3, 5), (5, 7)),
    ((64, 40), (40, 48)),
    ((10, 128), (128, 100)),
    ((2, 33, 20), (2, 20, 17)),
    ((3, 1, 9), (3, 9, 50)),
    ((2, 3, 4, 8), (8, 12)),
    ((8, 1500), (1500, 6)),
    ((1, 2100), (2100, 1)),
]


@pytest.fixture(params=["ours", "cuBLAS"])
def whose(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who multiplies."""
    from mlp_xp.fast import choice

    if request.param == "cuBLAS":
        monkeypatch.setattr(choice, "SMALL", 0.0)
    return str(request.param)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("left", "right"), MATRICES, ids=str)
def test_products_of_all_layouts_are_right(
    cupy: Any, left: tuple[int, ...], right: tuple[int, ...], dtype: str, whose: str
) -> None:
    """Both ways round, of pieces of something, alone and with what comes after them."""
    random = np.random.default_rng(0)
    arrays = [random.normal(size=shape).astype(dtype) for shape in (left, right)]
    arrays += [random.normal(size=(*left[:-1], right[-1])).astype(dtype)]

    def formula(xp: Any, A: Any, B: Any, C: Any) -> list[Any]:
        AB = xp.matmul(A, B)
        H = xp.tanh(AB / 10 + C)  # takes the product in, which is kept too
        turned = xp.matmul(xp.matrix_transpose(B), xp.matrix_transpose(A))
        some = xp.matmul(A[..., 1:], B[..., 1:, :])
        joined = xp.concat([xp.matmul(A, 2 * B), C], axis=-2)
        alone = xp.abs(xp.matmul(H, xp.matrix_transpose(C))) + 1
        return [AB, H, turned, some, joined, alone, xp.sum(H, axis=-1)]

    program = assert_computed(formula, arrays, 4096, dtype)
    names = {source.name for source in program.plan.sources()}
    mine = {name for name in names if name.startswith("product")}
    assert bool(mine) == (whose == "ours")
    if mine:
        assert "product_with" in mine


def test_a_long_product_goes_in_parts(cupy: Any) -> None:
    random = np.random.default_rng(0)
    arrays = [random.normal(size=shape) for shape in ((4, 40_000), (40_000, 3))]
    program = assert_computed(lambda xp, A, B: [xp.matmul(A, B)], arrays, 4096, "float64")
    (kernel,) = program.plan.kernels.values()
    assert kernel.parts > 1


# -- steps


def traced(model: MLP | Sequential, data: Data) -> Any:
    from mlp_xp.compile.cuda_step import TracedProgram
    from mlp_xp.fast.cupy import CupyStep

    return CupyStep(model._recipe, model.device, data, TracedProgram)


@pytest.mark.parametrize("number", N_STEPS)
def test_a_traced_step_equals_the_specification(
    cupy: Any, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_xp.fast import choice

    settings = paths.sample(number)
    if number % 2:
        monkeypatch.setattr(choice, "SMALL", 0.0)  # all products are cuBLAS's
        monkeypatch.setattr(program, "_PLANS", OrderedDict())
    expected = paths.specified(*paths.build(settings))
    model, data, state = on_device.on_cuda(settings)
    with model.device.active():
        step = traced(model, data)
        found = on_device.walk(model, data, state, step)
    paths.assert_equal_paths(found, expected, settings)
    assert all(made.replayable for made in step.programs.values())


def test_the_sample_holds_every_value_of_every_choice() -> None:
    rows = [paths.sample(number) for number in N_STEPS]
    for name, values in paths.CHOICES.items():
        for value in values:
            assert any(row[name] == value for row in rows), (name, value)


IMAGES: tuple[Any, ...] = (
    *(Conv2d(3, kernel=3), BatchNorm(), Activation("relu"), MaxPool(2)),
    *(Flatten(), Dropout(0.2), Dense(4)),
)
NETWORKS: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = {
    "images": ((1, 8, 8), IMAGES),
    "sequences": ((3, 6), (GRU(4, returns="all"), LSTM(5), Dense(4))),
}


def trained(name: str, where: Any, **settings: Any) -> Any:
    shape, layers = NETWORKS[name]
    random = np.random.default_rng(0)
    X, y = random.normal(size=(40, *shape)), random.integers(0, 4, 40)
    settings = {"dtype": "float64", "seed": [1, 2], **settings}
    network = Sequential(shape, list(layers), device=where, **settings)
    told = {"sample_weight": random.uniform(0, 2, 40)}
    return network.fit(X, y, epochs=3, batch_size=16, layout="rows", progress=False, **told)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("graph", [True, False])
def test_layers_of_any_kind_train_as_on_the_cpu(cupy: Any, name: str, graph: bool) -> None:
    """Two networks at once, weighted, with a smaller last batch."""
    there, here = trained(name, find_device("cuda", graph=graph)), trained(name, "cpu")
    np.testing.assert_allclose(there.history["loss"], here.history["loss"], rtol=1e-10)
    for key, value in here.parameters.items():
        # a bias before a normalisation has a gradient of nothing but rounding
        np.testing.assert_allclose(there.parameters[key].get(), value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ROUNDED)
def test_products_of_less_than_float32_are_those_of_the_specification(
    cupy: Any, name: str, precision: str, whose: str
) -> None:
    settings = {"precision": precision, "optimizer": "sgd", "dtype": "float32"}
    there, here = trained(name, "cuda", **settings), trained(name, "cpu", **settings)
    within = 0.01 if on_a_card("cupy") else 1e-4
    np.testing.assert_allclose(there.history["loss"], here.history["loss"], rtol=within)
    if not on_a_card("cupy"):
        other = trained(name, "cpu", **{**settings, "precision": "float32"})
        off = np.abs(np.array(other.history["loss"]) - here.history["loss"]).max()
        mine = np.abs(np.array(there.history["loss"]) - here.history["loss"]).max()
        assert mine < off / 4


def test_rows_on_the_host_go_up_batch_by_batch(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_xp.fast import upload

    expected = trained("images", "cpu")
    monkeypatch.setattr(upload, "fits", lambda shape, dtype: False)
    found = trained("images", "cuda")
    np.testing.assert_allclose(found.history["loss"], expected.history["loss"], rtol=1e-10)


def test_a_step_asks_nothing_but_launches(counting: Any) -> None:
    """As many as the program has, four round it, and no memory, copy or wait."""
    shape, layers = NETWORKS["images"]
    model = Sequential(shape, list(layers), device=find_device("cuda", graph=False), seed=0)
    random, put = np.random.default_rng(0), model.device.put
    rows = random.normal(size=(64, 64)).astype(np.float32)
    data = Data(put(rows), put(random.integers(0, 4, 64)))
    step, state = stepper(model._recipe, model.device, data), model._run.state
    index = put(np.arange(64))
    step.announce(state, index, [0.01] * 4)  # type: ignore[attr-defined]
    for number in range(4):
        with counting.count() as counted:
            bits = model.device.draw_bits(model.seeds, (), state.step, model.network.n_dropped * 16)
            state = step(state, index[16 * number : 16 * number + 16], bits, 0.01)
    (program,) = step.programs.values()  # type: ignore[attr-defined]
    kernels = Counter[str]()
    for name, n in counted.kernels.items():
        kernels[name.rstrip("0123456789").rstrip("_")] += n
    for name in ("gather", "take_batch", "draw_bits", "end_step"):
        assert kernels.pop(name) == 1
    # two layers' 3L - 1 products, of which the activation's loop takes in none: batch norm
    assert kernels["product"] + kernels["product_with"] == 5
    plan = program.program.plan
    assert kernels == Counter(source.name for source in plan.sources())
    assert counted.cublas == {}
    assert counted.waits == counted.memsets == counted.pool_misses == 0
    assert counted.copies == {}


def test_a_step_that_cannot_be_traced_is_the_specifications(cupy: Any) -> None:
    from mlp_xp import Activation as Formula
    from mlp_xp.fast.launches import KernelWarning

    def f(xp: Any, z: Any) -> Any:
        return z if float(xp.max(z)) < 0 else xp.tanh(z)

    looking = Formula(f, lambda xp, a: 1 - a * a, "A")
    random = np.random.default_rng(0)
    X, y = random.normal(size=(30, 5)), random.integers(0, 3, 30)
    found = []
    for name in ("cpu", "cuda"):
        where = find_device(name)
        if name == "cpu":
            where = where._replace(stepper=None)
        layers = [Dense(6), Activation(looking), Dropout(0.2), Dense(3)]
        network = Sequential((5,), layers, device=where, dtype="float64", seed=0)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            network.fit(X, y, epochs=2, batch_size=8, layout="rows", progress=False)
        assert name == "cpu" or any(w.category is KernelWarning for w in told)
        found.append(network.history["loss"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-10)


# -- scores and predictions


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("m", [2, 5, 300])
def test_scores_of_any_layers_are_those_of_the_specification(
    cupy: Any, name: str, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces, what is left in one of its own; with the weights of now."""
    from mlp_xp.compile import cuda_scores

    monkeypatch.setattr(cuda_scores, "WORTH", 0)
    monkeypatch.setattr(cuda_scores, "PIECE", 128)
    shape, layers = NETWORKS[name]
    there = Sequential(shape, list(layers), device="cuda", dtype="float64", seed=[0, 1])
    plain = there.device._replace(scorer=None)
    random = np.random.default_rng(0)
    X, y = random.normal(size=(m, *shape)), np.arange(m) % 4
    rows = there.device.put(X.reshape(m, -1))
    data = Data(rows, there.device.put(y))
    for _ in range(2):
        recipe, state = there._recipe, there._state()
        expected = scorer(plain)(recipe, state, rows).get()
        found = there.scores(X, layout="rows").get().swapaxes(-1, -2)
        np.testing.assert_allclose(found, expected, **tolerance("float64", 256))
        mine, theirs = there.evaluate(X, y, layout="rows"), evaluate(recipe, plain.xp, state, data)
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(one, other.get(), **tolerance("float64", 256))
        there.fit(X, y, epochs=1, layout="rows", progress=False)
    own = there._scores_by.own  # type: ignore[union-attr]
    assert len(own.programs) == (2 if m == 300 else 1)
    assert all(forward.graph for forward in own.programs.values())


@pytest.mark.parametrize("m", [1, 7])
def test_a_predictor_of_any_layers_is_one_launch_after_a_copy(counting: Any, m: int) -> None:
    shape, layers = NETWORKS["images"]
    model = Sequential(shape, list(layers), device="cuda", dtype="float64", seed=0)
    X = model.device.put(np.random.default_rng(0).normal(size=(64, m)))
    expected = model.predict_proba(X, layout="columns")
    predict = model.predictor(8)
    np.testing.assert_allclose(predict(X).get(), expected.get(), **tolerance("float64", 64))
    with counting.count() as counted, counting.forbid_synchronisation():
        predict(X)
    assert counted.graph_launches == 1
    assert sum(counted.kernels.values()) <= 1
    assert counted.pool_misses == counted.waits == 0
    with pytest.raises(ValueError, match="X has 3 features, but expected 64"):
        predict(X[:3])
    with pytest.raises(ValueError, match="9 examples were given, but the predictor was made for"):
        predict(model.device.put(np.zeros((64, 9))))
