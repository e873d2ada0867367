"""What is traced for CUDA is the formula: graphs at random, all layers, whole steps, counts."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import test_compile
import test_cuda_steps as on_device
import test_fast_paths as paths
from test_layer_kinds import ROWS, Row

from conftest import tolerance
from mlp_xp import MLP, Sequential
from mlp_xp.compile.fuse import Fusion
from mlp_xp.compile.graph import Graph
from mlp_xp.compile.trace import trace
from mlp_xp.devices import device as find_device
from mlp_xp.layers import GRU, LSTM, Activation, BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool
from mlp_xp.training import Data, stepper

N_GRAPHS = 60
N_STEPS = range(0, paths.N_SAMPLES, 3)


def program_of(formula: Any, arrays: list[np.ndarray], dtype: str = "float64") -> Any:
    """A formula as launches on arrays of the device."""
    import cupy

    from mlp_xp.compile.cuda_loops import CudaPlan
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


# -- steps


def traced(model: MLP | Sequential, data: Data) -> Any:
    from mlp_xp.compile.cuda_step import TracedProgram
    from mlp_xp.fast.cupy import CupyStep

    return CupyStep(model._recipe, model.device, data, TracedProgram)


@pytest.mark.parametrize("number", N_STEPS)
def test_a_traced_step_equals_the_specification(cupy: Any, number: int) -> None:
    settings = paths.sample(number)
    expected = paths.specified(*paths.build(settings))
    model, data, state = on_device.on_cuda(settings)
    with model.device.active():
        step = traced(model, data)
        found = on_device.walk(model, data, state, step)
    paths.assert_equal_paths(found, expected, settings)
    assert all(program.replayable for program in step.programs.values())


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
    network = Sequential(shape, list(layers), device=where, dtype="float64", seed=[1, 2])
    told = {"sample_weight": random.uniform(0, 2, 40), **settings}
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
    kernels = dict(counted.kernels)
    for name in ("gather", "take_batch", "draw_bits", "end_step"):
        assert kernels.pop(name) == 1
    loops = program.program.plan.kernels.values()
    assert sum(kernels.values()) >= len(loops)
    assert sum(counted.cublas.values()) == 5  # two layers' 3L - 1
    assert counted.waits == counted.memsets == counted.pool_misses == 0
    assert counted.copies == {}
    assert not {name for name in kernels if "loop" not in name and "finish" not in name}


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
        layers = [Dense(6), Activation(looking), Dropout(0.2), Dense(3)]
        network = Sequential((5,), layers, device=name, dtype="float64", seed=0)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            network.fit(X, y, epochs=2, batch_size=8, layout="rows", progress=False)
        assert name == "cpu" or any(w.category is KernelWarning for w in told)
        found.append(network.history["loss"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-10)
