"""What is traced, fused and compiled is the formula: by the tables, and by graphs at random."""

from __future__ import annotations

import math
import os
import signal
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from test_fast_paths import N_SAMPLES, assert_equal_paths, build, sample, specified, walk
from test_layer_kinds import ROWS, Row

from conftest import tolerance
from mlp_xp import MLP, Sequential
from mlp_xp.compile import fuse, interpret, program, scores
from mlp_xp.compile.function import Function
from mlp_xp.compile.graph import Graph, Node, live
from mlp_xp.compile.items import LONG, Call, Loop, Product
from mlp_xp.compile.layout import Layout, applied, normal, packed
from mlp_xp.compile.numpy_program import NumpyProgram
from mlp_xp.compile.program import Plan, Program
from mlp_xp.compile.step import Apart, Batch, CompiledStep, traced
from mlp_xp.compile.trace import Tracer, trace
from mlp_xp.devices import device as find_device
from mlp_xp.fast import native
from mlp_xp.fast.aligned import LINE
from mlp_xp.fast.calls import address
from mlp_xp.fast.tracing import Untraceable
from mlp_xp.fitting import copied
from mlp_xp.kernels import SPEC
from mlp_xp.layers import (
    GRU,
    LSTM,
    Activation,
    AvgPool,
    BatchNorm,
    Conv2d,
    Dense,
    Flatten,
    Last,
    MaxPool,
)
from mlp_xp.layers.base import Parameter, Pass, Plain
from mlp_xp.training import Data, Score, batch, evaluate, scores_of, train_step
from mlp_xp.types import State

N_GRAPHS = 150

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler")


@pytest.fixture(params=[Program, NumpyProgram], ids=["C", "NumPy"])
def target(request: pytest.FixtureRequest) -> Any:
    """What a program is made of."""
    return request.param


def viewed(array: np.ndarray, layout: Layout) -> np.ndarray:
    """Entries of a flat array by their layout."""
    strides = tuple(stride * array.itemsize for stride in layout.strides)
    return np.lib.stride_tricks.as_strided(array[layout.offset :], layout.shape, strides)


# -- layouts


def test_views_upon_views_lie_where_numpys_do() -> None:
    rng = np.random.default_rng(11)
    kept = 0
    for _ in range(400):
        shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 5)))
        flat = np.arange(math.prod(shape), dtype=np.float64)
        array, layout = flat.reshape(shape), packed(shape)
        for _ in range(4):
            step, view = _some_view(rng, array)
            found = applied(step, layout)
            if found is None:  # then NumPy's is a copy
                assert step[0] == "reshape"
                assert not np.shares_memory(view, flat) or view.size == 0
                break
            array, layout = view, found
            kept += 1
            np.testing.assert_array_equal(viewed(flat, layout), array)
    assert kept > 800


def _some_view(rng: np.random.Generator, array: np.ndarray) -> tuple[Any, np.ndarray]:
    shape, kind = array.shape, rng.integers(4)
    if kind == 0:
        axes = tuple(int(a) for a in rng.permutation(array.ndim))
        return ("permute", axes), np.transpose(array, axes)
    if kind == 1:
        wide = (int(rng.integers(1, 3)), *(3 if n == 1 else n for n in shape))
        return ("broadcast", wide), np.broadcast_to(array, wide)
    if kind == 2:
        new = _other_shape(rng, array.size)
        return ("reshape", new), np.reshape(array, new)
    key: list[Any] = []
    for n in shape:
        start, step = int(rng.integers(n)), int(rng.choice([1, 1, 2, -1]))
        key.append([slice(None), start, slice(start, None, step), None][rng.integers(4)])
        if key[-1] is None:
            key.append(slice(None))
    return ("index", normal(tuple(key), shape)), array[tuple(key)]


def _other_shape(rng: np.random.Generator, size: int) -> tuple[int, ...]:
    found, left = [], size
    while left > 1:
        divisors = [d for d in range(1, left + 1) if left % d == 0]
        found.append(int(rng.choice(divisors)))
        left //= found[-1]
    return tuple(found)


# -- graphs


def _formula(seed: int) -> tuple[Callable[..., list[Any]], list[np.ndarray]]:
    """A formula at random, and arrays for it: it reads what it made before, in views and sums."""
    rng = np.random.default_rng([seed, 1986])
    shapes = [(4, 6), (4, 1), (6,), (3, 4, 6), (6, 5), (2, 12)]
    arrays = [rng.normal(size=shape) for shape in shapes]

    def formula(xp: Any, *given: Any) -> list[Any]:
        rng = np.random.default_rng([seed, 7])
        known, roots = list(given), []
        for _ in range(int(rng.integers(6, 25))):
            x = known[rng.integers(len(known))]
            known.append(_next(xp, rng, x, known))
            if rng.random() < 0.2:
                roots.append(known[-1])
        return [*roots, known[-1]]

    return formula, arrays


def _next(xp: Any, rng: np.random.Generator, x: Any, known: Sequence[Any]) -> Any:
    kind = rng.integers(12)
    if kind == 0:
        return xp.tanh(x)
    if kind == 1:
        return xp.where(x > 0.1, x, 0.5 * xp.abs(x) - 2)
    if kind in (2, 3, 4) and x.ndim > 0:
        name = ("sum", "max", "mean")[kind - 2]
        axis = int(rng.integers(x.ndim)) - x.ndim
        return getattr(xp, name)(x, axis=axis, keepdims=bool(rng.integers(2))) / 3
    if kind == 5 and x.ndim > 1:
        return xp.matrix_transpose(x)
    if kind == 6 and x.ndim > 0 and x.shape[-1] > 1:
        return x[..., 1:] if rng.integers(2) else x[..., ::2]
    if kind == 7:
        return xp.reshape(x, _other_shape(rng, math.prod(x.shape)))
    if kind == 8 and x.ndim > 0:
        parts = [x, 2 * x, xp.zeros_like(x)]
        return xp.concat(parts, axis=int(rng.integers(x.ndim)) - x.ndim)
    if kind == 9 and x.ndim > 1:
        return xp.matmul(x, xp.matrix_transpose(x)) / 10
    if kind == 10:
        others = [y for y in known if _meet(x.shape, y.shape)]
        return x * others[rng.integers(len(others))] + 0.1
    return x - 1.5


def _meet(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    try:
        return math.prod(np.broadcast_shapes(one, other)) < 5000
    except ValueError:
        return False


def _poisoned(program: Program) -> list[np.ndarray]:
    """What a program gives if all its memory was not numbers before."""
    program.block[:] = 0xFF
    return [np.array(root) for root in program.run()]


@pytest.mark.parametrize("seed", range(N_GRAPHS))
def test_a_formula_at_random_is_recorded_and_computed(seed: int, target: Any) -> None:
    formula, arrays = _formula(seed)
    expected = formula(np, *arrays)
    graph = Graph("float64")
    inputs = [graph.input(f"x{i}", a.shape) for i, a in enumerate(arrays)]
    roots = trace(formula, graph, *inputs)
    run = interpret.run(roots, {f"x{i}": a for i, a in enumerate(arrays)})
    fused = fuse.Fusion(roots, [None] * len(roots))
    program = target(target.plans(fused), {f"x{i}": array for i, array in enumerate(arrays)})
    program.finish()
    found = _poisoned(program)
    for mine, interpreted, theirs in zip(found, run, expected, strict=True):
        np.testing.assert_array_equal(interpreted, theirs)
        scale = max(1.0, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(mine / scale, theirs / scale, **tolerance("float64", 4096))


def test_numbers_of_another_byte_order_are_not_read_as_if_of_ours(target: Any) -> None:
    double = Function(lambda xp, x: [2 * x], "float64", target=target)
    x = np.arange(3.0)
    np.testing.assert_array_equal(double(x), [2 * x])
    with pytest.raises(Untraceable, match=r"an array of [<>]f8"):
        double(x.astype(x.dtype.newbyteorder()))


def test_the_same_operation_is_one_node() -> None:
    graph = Graph("float32")
    xp = Tracer(graph)
    x, y = graph.input("x", (3, 4)), graph.input("y", (4,))
    assert xp.exp(x + y) is xp.exp(x + y)
    assert x[:, 1:] is x[..., 1:4]
    assert xp.reshape(xp.reshape(x, (12,)), (3, 4)) is x
    assert 1 * x is x
    assert x / 1 is x
    assert x + 0 is x
    assert xp.exp(x) is not xp.exp(y)
    assert len(live([xp.exp(x + y)])) == 4


@pytest.mark.parametrize("axis", [0, 1])
def test_sums_in_parts_are_written_where_they_belong(axis: int, target: Any) -> None:
    def formula(xp: Any, x: Any, y: Any) -> list[Any]:
        return [xp.concat([y, xp.sum(2 * x, axis=-1)], axis=axis), xp.max(x, axis=-1)]

    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(2, 2, LONG + 1)), rng.normal(size=(2, 2))]
    program, _ = Function(formula, "float64", target=target).program(arrays)
    for mine, theirs in zip(_poisoned(program), formula(np, *arrays), strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", 8192))


@pytest.mark.parametrize("n", [5, LONG + 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_sum_that_is_wanted_in_two_places_is_made_once(n: int, axis: int, target: Any) -> None:
    def formula(xp: Any, x: Any) -> list[Any]:
        total = xp.sum(x * x, axis=axis, keepdims=True)
        return [xp.concat([xp.sum(x, axis=axis, keepdims=True), total], axis=axis), x / total]

    x = np.random.default_rng(0).normal(size=(2, n) if axis else (n, 2))
    program, _ = Function(formula, "float64", target=target).program([x])
    for mine, theirs in zip(_poisoned(program), formula(np, x), strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", n))
    loops = [item for item in program.fusion.items if isinstance(item, Loop)]
    assert sum(len(loop.sums) for loop in loops) == 2


def test_of_several_copies_of_a_view_that_of_the_most_steps_is_read(target: Any) -> None:
    def formula(xp: Any, x: Any) -> list[Any]:
        turned = xp.matrix_transpose(x)
        every = xp.reshape(turned[..., ::2], (-1,))
        return [xp.sum(every), xp.sum(xp.reshape(xp.tanh(turned), (-1,)))]

    x = np.random.default_rng(0).normal(size=(3, 4, 6))
    found = Function(formula, "float64", target=target)(x)
    np.testing.assert_allclose(found, formula(np, x), **tolerance("float64", 72))


def test_calls_are_told_apart_by_every_entry_of_an_array(target: Any) -> None:
    one = np.arange(2000)
    other = one.copy()
    other[1000] = 0

    def formula(xp: Any, x: Any) -> list[Any]:
        return [xp.take(x, one, axis=0), xp.take(x, other, axis=0)]

    x = np.random.default_rng(0).normal(size=2000)
    found = Function(formula, "float64", target=target)(x)
    np.testing.assert_array_equal(found, formula(np, x))


def _made(formula: Callable[..., Any], target: Any, *arrays: np.ndarray) -> None:
    """That a formula's program gives what NumPy does."""
    found = Function(formula, "float64", target=target)(*arrays)
    for mine, theirs in zip(found, formula(np, *arrays), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", 16))


@pytest.mark.parametrize("name", ["sum", "max", "min"])
def test_a_sum_that_is_joined_twice_is_made_once(name: str, target: Any) -> None:
    def formula(xp: Any, x: Any) -> list[Any]:
        total = getattr(xp, name)(x, axis=-1, keepdims=True)
        return [xp.concat([total, total], axis=-1), xp.concat([total, 2 * total, total], axis=0)]

    _made(formula, target, np.random.default_rng(0).normal(size=(3, 5)))


@pytest.mark.parametrize("wide", [True, False], ids=["broadcast", "beside"])
def test_what_is_kept_may_be_summed_with_an_axis_more(wide: bool, target: Any) -> None:
    def formula(xp: Any, x: Any, y: Any) -> list[Any]:
        kept = x - 1.5
        seen = xp.broadcast_to(kept, (1, 5)) if wide else kept * y
        return [kept, xp.sum(seen, axis=1, keepdims=True)]

    rng = np.random.default_rng(0)
    _made(formula, target, rng.normal(size=5), rng.normal(size=(1, 5)))


@pytest.mark.parametrize(
    "formula",
    [
        lambda xp, x, b: [x * xp.arange(0, 8, 2, dtype=x.dtype)],
        lambda xp, x, b: [x * xp.arange(3.0, -1, -1)],
        lambda xp, x, b: [xp.pow(b, xp.full_like(x, 2.0)), b ** xp.ones_like(x)],
        lambda xp, x, b: [x + xp.astype(xp.full_like(x, 2.7, dtype=xp.int64), x.dtype)],
        lambda xp, x, b: [x + xp.astype(xp.astype(xp.full_like(x, -2.7), xp.int64), x.dtype)],
        lambda xp, x, b: [x / np.size(x) + np.ndim(b) * np.shape(x)[0]],
    ],
    ids=["arange", "backward", "pow", "whole", "rounded", "shapes"],
)
def test_numbers_and_shapes_are_those_of_numpy(formula: Any, target: Any) -> None:
    rng = np.random.default_rng(0)
    _made(formula, target, rng.normal(size=(3, 4)), rng.normal(size=(3, 1)))


@pytest.mark.parametrize(
    ("formula", "why"),
    [
        (lambda xp, x: np.dot(x, x), "NumPy's dot"),
        (lambda xp, x: x * np.ravel(x)[0], "NumPy's ravel"),
        (lambda xp, x: x * np.asarray(x), "an array of NumPy"),
        (lambda xp, x: xp.arange(4, dtype=xp.uint16) * 30000, "multiply of uint16"),
        (lambda xp, x: xp.permute_dims(x, (0, 0)), "permuted by"),
        (lambda xp, x: xp.permute_dims(x, (1,)), "permuted by"),
        (lambda xp, x: x if x[0, 0] > 0 else -x, "branches on a value"),
        (lambda xp, x: xp.zeros((int(x[0, 0]),)), "reads a value"),
        (lambda xp, x: x[x > 0], "indexes by"),
        (lambda xp, x: list(x), "iterates"),
        (lambda xp, x: xp.fft(x), "xp.fft, which is not recorded"),
        (lambda xp, x: x + np.ones(4, np.float32), "float32 in a formula of float64"),
        (lambda xp, x: xp.where(x, x, x), "where of numbers"),
        (lambda xp, x: xp.exp(x > 0), "exp of truth values"),
        (lambda xp, x: xp.matmul(x, x), "a product of"),
        (lambda xp, x: x + "1", "a str beside its arrays"),
        (lambda xp, x: xp.astype(x, xp.int64) < 0.5, "0.5 beside an array of int64"),
        (lambda xp, x: 1 // 0, "cannot be traced"),
    ],
)
def test_what_cannot_be_recorded_says_why(formula: Any, why: str) -> None:
    graph = Graph("float64")
    with pytest.raises(Untraceable, match=why):
        trace(formula, graph, graph.input("x", (3, 4)))


def test_whole_numbers_that_loops_do_not_read_are_named() -> None:
    def formula(xp: Any, x: Any) -> list[Any]:
        return [x * xp.astype(xp.arange(4, dtype=np.uint8), x.dtype)]

    with pytest.raises(Untraceable, match="an array of uint8"):
        Function(formula, "float64", target=Program)(np.ones((3, 4)))


# -- layers, by their table


def _layer(row: Row) -> tuple[Callable[..., list[Any]], list[np.ndarray]]:
    """A layer's output and gradients as a formula of arrays."""
    rng = np.random.default_rng(5)
    kind, m = row.kind, 3
    shapes = {p.name: p.shape for p in kind.parameters(row.shape)}
    statistics = kind.statistics(row.shape)
    whole = getattr(kind, "whole", False)
    A = (
        rng.integers(0, 4, (*row.shape, m)).astype(float)
        if whole
        else rng.normal(size=(*row.shape, m))
    )
    present = (np.arange(row.shape[-1])[:, None] < np.array([1, 2, row.shape[-1]])).astype(float)
    delta = rng.normal(size=(*kind.out_shape(row.shape), m))
    P = [rng.normal(size=shape) for shape in shapes.values()]
    running = [rng.uniform(0.5, 2, (s.n, 1)) for s in statistics]

    def formula(xp: Any, A: Any, delta: Any, present: Any, *rest: Any) -> list[Any]:
        own = dict(zip(shapes, rest, strict=False))
        told = Pass(
            training=row.training,
            running={s.name: r for s, r in zip(statistics, rest[len(own) :], strict=True)},
            present=present if row.ragged else None,
            shape=row.shape,
        )
        out, memory = kind.forward(xp, SPEC, own, A, told)
        back, gradients = kind.backward(xp, SPEC, own, memory, delta)
        newest = kind.newest(xp, memory, m) if row.training else {}
        found = [out, *gradients.values(), *newest.values()]
        return found if back is None else [*found, back]

    return formula, [A, delta, present, *P, *running]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_layer_is_compiled_as_it_is_written(row: Row, target: Any) -> None:
    formula, arrays = _layer(row)
    expected = formula(np, *arrays)
    graph = Graph("float64")
    inputs = [graph.input(f"x{i}", a.shape) for i, a in enumerate(arrays)]
    roots = trace(formula, graph, *inputs)
    run = interpret.run(roots, {f"x{i}": a for i, a in enumerate(arrays)})
    for interpreted, theirs in zip(run, expected, strict=True):
        np.testing.assert_array_equal(interpreted, theirs)
    program, _ = Function(formula, "float64", target=target).program(arrays)
    for mine, theirs in zip(_poisoned(program), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", 64))


# -- steps


def _step(settings: dict[str, Any]) -> tuple[CompiledStep, MLP, Data, State]:
    model, data, state = build(settings)
    return CompiledStep(model._recipe, find_device("cpu"), data), model, data, state


@pytest.mark.parametrize("number", range(0, N_SAMPLES, 5))
def test_a_steps_graph_is_the_step_in_every_bit(number: int) -> None:
    settings = sample(number)
    step, model, data, state = _step(settings)
    index, n = np.arange(8), model.network.n_dropped * 8
    shape = (*model.leading, n)
    bits = np.random.default_rng(0).integers(0, 1 << 16, shape).astype(np.uint16) if n else None
    step._begin(state)
    made = Batch(step, 8, True, bits is not None)
    recipe, given = model._recipe, {node.param: a for node, a in made.program.given.items()}
    given |= {name: getattr(data, name)[:8] for name in made.inputs} | {"bits": bits}
    scalars = recipe.optimizer.scalars(0.01, state.step + 1)
    given |= {f"scalar{i}": np.full_like(step.rate, s) for i, s in enumerate(scalars)}
    given["rate"] = np.full_like(step.rate, 0.01)
    found = interpret.run(_nodes(step, made), given)
    expected = train_step(recipe, np, state, *batch(recipe, np, data, index), bits, 0.01)
    wanted = [expected.theta, *expected.moments, expected.loss]
    if model.network.n_statistics:
        wanted.insert(-1, expected.running)
    for mine, theirs in zip(found, wanted, strict=True):
        if settings["weight_decay"] and settings["dtype"] == "float32":
            # rate · weight_decay is rounded to float32 where the step takes it as an array
            np.testing.assert_allclose(mine, theirs, **tolerance("float32", 4))
        else:
            np.testing.assert_array_equal(mine, theirs)


SEVERAL = [n for n in range(N_SAMPLES) if isinstance(sample(n)["seed"], list)]


@pytest.mark.parametrize("number", SEVERAL)
def test_networks_with_a_program_each_are_trained_as_specified(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlp_xp.compile.step.LARGE", 0)
    step, model, data, state = _step(sample(number))
    expected = specified(model, data, state)
    assert_equal_paths(
        walk(model, data, copied(model.device, state), step), expected, sample(number)
    )
    assert {type(made) for made in step.programs.values()} == {Apart}


def test_networks_that_a_thread_takes_have_one_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlp_xp.compile.step.LARGE", 0)
    model, rng = MLP((7, 5, 3), seed=range(5)), np.random.default_rng(0)
    data = Data(rng.random((9, 7), np.float32), np.arange(9) % 3)
    step = CompiledStep(model._recipe, model.device, data)
    runtime = native.runtime()
    before = runtime.use_threads(2)
    try:
        step(copied(model.device, model._run.state), np.arange(5), None, 0.1)
    finally:
        runtime.use_threads(before)
    (made,) = step.programs.values()
    assert isinstance(made, Apart)
    blocks = [address(batch.program.block) for batch in made.batches]
    assert blocks == [blocks[0]] * 2 + [blocks[2]] * 3
    assert blocks[0] != blocks[2]
    for one in made.batches:
        assert not np.may_share_memory(one.loss, one.program.block)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("number", SEVERAL)
def test_small_networks_have_a_program_for_each_thread(number: int, threads: int) -> None:
    step, model, data, state = _step(sample(number))
    expected = specified(model, data, state)
    runtime = native.runtime()
    before = runtime.use_threads(threads)
    try:
        found = walk(model, data, copied(model.device, state), step)
    finally:
        runtime.use_threads(before)
    assert_equal_paths(found, expected, sample(number))
    if len(state.theta) >= threads:
        for made in step.programs.values():
            assert isinstance(made, Apart)
            assert len(made.batches) == threads
            assert sum(batch.loss.size for batch in made.batches) == len(state.theta)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("hidden", [(6,), (64, 32)])  # on both sides of LARGE
@pytest.mark.parametrize("own", [{}, {"normalization": "batch", "dropout": 0.2, "density": 0.5}])
def test_each_of_several_networks_has_the_bits_that_it_has_alone(
    own: dict[str, Any], hidden: tuple[int, ...], threads: int
) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.random((70, 40), np.float32), rng.integers(0, 5, 70)

    def trained(seed: Any) -> MLP:
        made = MLP((40, *hidden, 5), seed=seed, **own)
        runtime = native.runtime()
        before = runtime.use_threads(threads)
        try:
            return made.fit(X, y, layout="rows", epochs=3, batch_size=32, progress=False)
        finally:
            runtime.use_threads(before)

    several = trained([3, 4, 5])
    for k, seed in enumerate((3, 4, 5)):
        alone = trained(seed).parameters
        for name, array in several.parameters.items():
            np.testing.assert_array_equal(array[k], alone[name])


def test_what_a_step_works_on_begins_with_a_line_of_the_cache() -> None:
    model, rng = MLP((7, 5, 3), seed=0), np.random.default_rng(0)
    state = copied(model.device, model._run.state)
    data = Data(rng.random((9, 7), np.float32), np.arange(9) % 3)
    step = CompiledStep(model._recipe, model.device, data)
    after = step(state, np.arange(5), None, 0.1)
    assert after.theta is state.theta
    (made,) = step.programs.values()
    assert isinstance(made, Batch)
    arrays = [state.theta, *state.moments, made.inputs["rows"], made.program.block]
    assert not [array for array in arrays if address(array) % LINE]


@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_a_step_lets_the_data_go_that_others_replace(
    seed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlp_xp.compile.step.LARGE", 0)
    model, rng = MLP((4, 5, 3), seed=seed), np.random.default_rng(0)

    def examples() -> Data:
        return Data(rng.random((9, 4), np.float32), np.arange(9) % 3)

    data = examples()
    step, index = CompiledStep(model._recipe, model.device, data), np.arange(5)
    state = step(model._run.state, index, None, 0.1)
    (made,) = step.programs.values()
    assert isinstance(made, Batch if seed == 0 else Apart)
    rows = weakref.ref(data.rows)
    del data
    step.data = other = examples()
    assert rows() is None
    expected = train_step(
        model._recipe, np, state, *batch(model._recipe, np, other, index), None, 0.1
    )
    expected = np.array(expected.theta)
    found = step(state, index, None, 0.1)
    np.testing.assert_allclose(found.theta, expected, **tolerance("float32", 64))


def test_a_loop_runs_along_its_large_arrays_not_along_many_small_ones() -> None:
    """As of batch normalisation in evaluation: four numbers a unit, and two arrays."""

    def formula(xp: Any, Z: Any, *of_units: Any) -> Any:
        mean, variance, gain, shift = of_units
        return gain * ((Z - mean) / xp.sqrt(variance)) + shift

    graph = Graph("float64")
    shapes = {"Z": (30, 500), **dict.fromkeys(("mean", "variance", "gain", "shift"), (30, 1))}
    root = trace(formula, graph, *(graph.input(name, shape) for name, shape in shapes.items()))
    (kernel,) = Plan(fuse.Fusion([root], [None])).kernels.values()
    assert kernel.arguments[:2] == [30, 500]  # the loops, the innermost last


def test_a_sequence_twice_as_long_is_planned_with_twice_the_calls() -> None:
    def planned(n_steps: int) -> int:
        model = Sequential((2, n_steps), [LSTM(4), Dense(3)], seed=0)
        data = Data(np.zeros((8, 2 * n_steps), np.float32), np.zeros(8, np.int64), None)
        step, calls = CompiledStep(model._recipe, model.device, data), 0

        def count(frame: Any, event: str, _: Any) -> None:
            nonlocal calls
            calls += event == "call"

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            step(model._run.state, np.arange(8), None, 0.01)
        finally:
            sys.setprofile(before)
        return calls

    assert planned(80) < 2.1 * planned(40)


def _nodes(step: CompiledStep, made: Batch) -> list[Node]:
    """The roots of a step's graph: the new state's arrays, and the loss."""
    given = {node.param: array for node, array in made.program.given.items()}
    shapes = {name: (array.shape, str(array.dtype)) for name, array in given.items()}
    return list(traced(step.recipe, step.data, shapes, Plan).plan.fusion.wanted)


@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
def test_a_plain_steps_calls_are_counted(n_layers: int) -> None:
    settings = {"seed": 3, "activation": "tanh", "loss": "cross_entropy", "dtype": "float32"}
    sizes = (4, *[5] * (n_layers - 1), 3)
    model = MLP(sizes, **settings)
    data = Data(np.zeros((23, 4), np.float32), np.zeros(23, np.int64), None)
    step = CompiledStep(model._recipe, model.device, data)
    step(model._run.state, np.arange(8), None, 0.1)
    (made,) = step.programs.values()
    items = made.program.fusion.items
    assert sum(isinstance(item, Product) for item in items) == 3 * n_layers - 1
    loops = [item for item in items if isinstance(item, Loop)]
    large = [loop for loop in loops if math.prod(loop.space) > 8]
    assert len(large) <= 2 * n_layers + 1
    assert len(loops) - len(large) <= 2  # of the mean loss


def test_equal_layers_are_one_text() -> None:
    model = Sequential((4, 9), [GRU(8), Dense(3)], seed=0)
    rows = np.zeros((16, 36), np.float32)
    step = CompiledStep(model._recipe, model.device, Data(rows, np.zeros(16, np.int64), None))
    step(model._run.state, np.arange(8), None, 0.1)
    (made,) = step.programs.values()
    kernels = made.program.plan.kernels.values()
    assert len(kernels) > 30
    assert len({kernel.body for kernel in kernels}) < 25


def test_what_a_state_gives_up_is_not_read_after_it_is_written() -> None:
    graph = Graph("float64")
    x = graph.input("x", (6,))
    turned = Tracer(graph).flip(x, axis=-1)
    fused = fuse.Fusion([x + 1, turned * 2], [x, None])
    assert fused.overwritten() == {x}
    assert fuse.Fusion([x + turned], [x]).overwritten() == {x}
    assert fuse.Fusion([x * 2 + 1], [x]).overwritten() == set()
    W = graph.input("W", (6, 6))
    square = Tracer(graph).matmul(W, W)
    assert fuse.Fusion([square, W + square], [None, W]).overwritten() == set()


@pytest.mark.parametrize("axis", [0, 1])
def test_what_a_loop_gives_up_is_written_when_it_was_read_for_the_last_time(
    axis: int, target: Any
) -> None:
    def formula(xp: Any, x: Any, y: Any, z: Any) -> list[Any]:
        w, z = x + z, 0.9 * z
        x = 0.9 * x + 1
        return [w, y + x / xp.sum(x, axis=axis, keepdims=True), z]

    rng, graph = np.random.default_rng(0), Graph("float64")
    given = {name: rng.random((5, 9)) for name in "xyz"}
    expected = formula(np, *given.values())
    nodes = [graph.input(name, (5, 9)) for name in given]
    fused = fuse.Fusion(trace(formula, graph, *nodes), nodes)
    assert len(fused.items) == 1
    assert not fused.overwritten()
    program = target(target.plans(fused), given)
    program.finish()
    for mine, theirs in zip(program.run(), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", 9))


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("sizes", [(1, 1, 2), (3, 1, 2), (1, 2), (4, 5, 2)])
def test_batches_and_layers_of_one_are_steps_too(
    sizes: Any, m: int, loss: str, target: Any
) -> None:
    model = MLP(sizes, loss=loss, dtype="float64", seed=0, optimizer="sgd")
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, m) if loss == "cross_entropy" else rng.normal(size=(m, 2))
    data = Data(rng.normal(size=(m, sizes[0])), targets, None)
    step = CompiledStep(model._recipe, model.device, data, target)
    X, T, _ = batch(model._recipe, np, data, np.arange(m))
    expected = train_step(model._recipe, np, model._run.state, X, T, None, None, 0.1)
    start = model._run.state
    copies = State(np.copy(start.theta), *_copied(start))
    found = step(copies, np.arange(m), None, 0.1)
    np.testing.assert_allclose(found.theta, expected.theta, **tolerance("float64", 16))
    np.testing.assert_allclose(found.loss, expected.loss, **tolerance("float64", 16))


def test_memory_is_used_again() -> None:
    def deep(xp: Any, x: Any, W: Any) -> list[Any]:
        for _ in range(20):
            x = xp.tanh(xp.matmul(W, x))
        return [x]

    program, _ = Function(deep, "float64").program([np.ones((50, 50)), np.eye(50)])
    assert program.plan.n_bytes <= 3 * 50 * 50 * 8 + 1000


def test_a_step_that_cannot_be_traced_is_the_specifications() -> None:
    from mlp_xp import Activation as Row

    def odd(xp: Any, Z: Any) -> Any:
        return Z * (2.0 if float(xp.max(Z)) > 0 else 1.0)

    activation = Row(odd, lambda xp, A: xp.ones_like(A))
    layers = [Dense(4), Activation(activation), Dense(3)]
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(20, 5)), rng.integers(0, 3, 20)
    with pytest.warns(RuntimeWarning, match="not compiled.*reads a value"):
        found = Sequential(5, layers, seed=1).fit(X, Y, epochs=3, layout="rows", progress=False)
    plain = find_device("cpu")._replace(stepper=None)
    expected = Sequential(5, layers, seed=1, device=plain)
    expected.fit(X, Y, epochs=3, layout="rows", progress=False)
    np.testing.assert_array_equal(found._run.state.theta, expected._run.state.theta)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parts_of_a_large_step_make_the_same_whole(threads: int) -> None:
    layers = [Conv2d(8, 3), Activation(), MaxPool(2), Flatten(), Dense(3)]
    model = Sequential((2, 14, 14), layers, seed=0, dtype="float64", clip_norm=0.1, l2=0.1)
    rng = np.random.default_rng(0)
    data = Data(rng.normal(size=(64, 392)), rng.integers(0, 3, 64), None)
    step = CompiledStep(model._recipe, model.device, data)
    before = native.runtime().use_threads(threads)
    state = State(*map(np.copy, model._run.state[:1]), *_copied(model._run.state))
    for _ in range(3):
        state = step(state, np.arange(64), None, 0.01)
    native.runtime().use_threads(before)
    expected = model._run.state
    for _ in range(3):
        X, T, _ = batch(model._recipe, np, data, np.arange(64))
        expected = train_step(model._recipe, np, expected, X, T, None, None, 0.01)
    np.testing.assert_allclose(state.theta, expected.theta, **tolerance("float64", 4096))
    np.testing.assert_allclose(state.loss, expected.loss, **tolerance("float64", 4096))


def _copied(state: State) -> tuple[Any, ...]:
    return tuple(map(np.copy, state.moments)), np.copy(state.running), state.step, state.loss


def test_several_threads_may_call_one_function(target: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def formula(xp: Any, x: Any) -> list[Any]:
        return [xp.sum(xp.tanh(xp.matmul(x, xp.matrix_transpose(x))), axis=-1)]

    function = Function(formula, "float64", target=target)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(20, 20)) for _ in range(200)]
    expected = [formula(np, x)[0] for x in arrays]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda x: np.array(function(x)[0]), arrays))
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", 64))


OPERATIONS = ["exp", "tanh", "maximum", "multiply", "add", "divide", "greater"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_written_wrongly_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_xp.compile import loops

    table = loops.QUESTIONS if name in loops.QUESTIONS else loops.FUNCTIONS
    wrong = {"greater": "{0} < {1}"}.get(name, "({0}) * (T)1.5" if name != "multiply" else "{0}")
    monkeypatch.setitem(table, name, wrong)
    x = np.random.default_rng(0).normal(size=(4, 5))

    def formula(xp: Any, x: Any) -> list[Any]:
        E = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
        found = E / xp.sum(E, axis=-1, keepdims=True) + xp.maximum(xp.tanh(x), 0.1 * x)
        return [xp.where(x > 0, found, -found)]

    (found,) = Function(formula, "float64")(x)
    assert not np.allclose(found, formula(np, x)[0])


# -- scores


def _chain(seed: Any = 0) -> Sequential:
    layers = [Conv2d(4, 3), BatchNorm(), Activation(), MaxPool(2), Flatten(), Dense(3)]
    return Sequential((2, 8, 8), layers, seed=seed, dtype="float64")


@pytest.mark.parametrize("seed", [0, [0, 1]])
@pytest.mark.parametrize("m", [3, 20, 1024, 1500])
def test_scores_in_pieces_are_those_of_the_specification(
    m: int, seed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "WORTH", 1)
    made: list[Function] = []
    original = scores.forward

    def forward(*given: Any, **options: Any) -> Function:
        made.append(original(*given, **options))
        return made[-1]

    monkeypatch.setattr(scores, "forward", forward)
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(m, 128)), rng.integers(0, 3, m)
    model = _chain(seed).fit(X, Y, epochs=1, layout="rows", progress=False)
    specified = scores_of(model._recipe, np, model._state(), X)
    np.testing.assert_allclose(
        model.scores(X.T, layout="columns"), specified, **tolerance("float64", 256)
    )
    assert len(made) == 1
    assert len(made[0].own.programs) == (2 if m == 1500 else 1)  # 1,024, and 476 in 512
    again = Score(*model.evaluate(X, Y, layout="rows"))
    expected = evaluate(model._recipe, np, model._state(), Data(X, Y, None))
    np.testing.assert_allclose(again.loss, expected.loss, **tolerance("float64", 256))
    np.testing.assert_array_equal(again.score, expected.score)


@pytest.mark.parametrize("m", [1, 7])
def test_a_predictor_of_any_layers_is_compiled(m: int) -> None:
    model = _chain()
    X = np.random.default_rng(0).normal(size=(128, m))
    expected = model.predict_proba(X)
    predict = model.predictor(8)
    np.testing.assert_allclose(predict(X), expected, **tolerance("float64", 64))
    assert np.shares_memory(predict(X), predict(X))
    with pytest.raises(ValueError, match="X has 3 features, but expected 128"):
        predict(X[:3])
    with pytest.raises(
        ValueError, match="9 examples were given, but the predictor was made for at most 8"
    ):
        predict(np.zeros((128, 9)))


# -- a new kind of layer


@dataclass(frozen=True)
class Squash(Plain):
    """A made-up kind: gain · A / (1 + |A|), with gain (n, 1)."""

    def out_shape(self, shape: Any) -> Any:
        return shape

    def parameters(self, shape: Any) -> Any:
        return (Parameter("gain", (shape[0], 1), "ones", decays=False),)

    def forward(self, xp: Any, kernels: Any, P: Any, A: Any, told: Any) -> Any:
        return P["gain"] * (A / (1 + xp.abs(A))), A

    def backward(self, xp: Any, kernels: Any, P: Any, memory: Any, dA: Any) -> Any:
        bottom = 1 + xp.abs(memory)
        dgain = xp.sum(dA * (memory / bottom), axis=-1, keepdims=True)
        return dA * P["gain"] / (bottom * bottom), {"gain": dgain}


@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_a_new_kind_of_layer_is_compiled_by_existing(seed: Any, target: Any) -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(30, 5)), rng.integers(0, 3, 30)
    model = Sequential(5, [Dense(4), Squash(), Dense(3)], seed=seed, dtype="float64")
    data = Data(X, Y, None)
    step = CompiledStep(model._recipe, model.device, data, target)
    start = model._run.state
    state, expected = State(np.copy(start.theta), *_copied(start)), start
    for i in range(3):
        index = np.arange(i, 30, 2)
        state = step(state, index, None, 0.01)
        expected = train_step(
            model._recipe, np, expected, *batch(model._recipe, np, data, index), None, 0.01
        )
    assert step.compiles
    np.testing.assert_allclose(state.theta, expected.theta, **tolerance("float64", 64))
    assert np.abs(state.theta - start.theta).max() > 1e-3
    (*_, program) = step.programs.values()
    assert program.program.native is target.native
    assert not [item for item in program.program.fusion.items if isinstance(item, Call)]


# -- what is deep


@pytest.mark.parametrize("n", [10, 63, 64, 65, 500])
def test_long_chains_are_cut(n: int, target: Any) -> None:
    def formula(xp: Any, x: Any) -> list[Any]:
        total = x
        for i in range(n):  # each reads the one before twice
            total = 0.5 * total + 0.5 * xp.tanh(total) + x[:1, :] / (i + 1)
        return [total, xp.sum(total, axis=-1)]

    x = np.random.default_rng(0).normal(size=(3, 70))
    program, _ = Function(formula, "float64", target=target).program([x])
    for mine, theirs in zip(_poisoned(program), formula(np, x), strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", 4096))


@pytest.mark.parametrize("pool", [AvgPool, MaxPool])
def test_windows_of_a_thousand_places_are_compiled(pool: Any) -> None:
    model = Sequential((1, 64, 64), [pool(32), Flatten(), Dense(3)], seed=0, dtype="float64")
    rng = np.random.default_rng(0)
    data = Data(rng.normal(size=(8, 4096)), rng.integers(0, 3, 8), None)
    start = model._run.state
    step = CompiledStep(model._recipe, model.device, data)
    found = step(State(np.copy(start.theta), *_copied(start)), np.arange(8), None, 0.1)
    assert step.compiles
    given = batch(model._recipe, np, data, np.arange(8))
    expected = train_step(model._recipe, np, start, *given, None, 0.1)
    np.testing.assert_allclose(found.theta, expected.theta, **tolerance("float64", 4096))


def test_a_fault_of_the_compiler_is_a_warning_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> Any:
        raise KeyError("a fault")

    monkeypatch.setattr(fuse.Fusion, "_put", broken)
    monkeypatch.setattr(program, "_PLANS", OrderedDict())
    X, Y = np.random.default_rng(0).normal(size=(20, 5)), np.arange(20) % 3
    model = MLP((5, 4, 3), seed=1)
    with pytest.warns(RuntimeWarning, match="the compiler failed .KeyError 'a fault'."):
        model.fit(X, Y, epochs=2, layout="rows", progress=False)
    plain = MLP((5, 4, 3), seed=1, device=find_device("cpu")._replace(stepper=None))
    plain.fit(X, Y, epochs=2, layout="rows", progress=False)
    np.testing.assert_array_equal(model._run.state.theta, plain._run.state.theta)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_forked_while_another_thread_asks_for_a_plan_makes_plans() -> None:
    with program._LOCK:  # as that thread has it
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            os._exit(program.planned("some key", lambda: 0))
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("kind", [GRU(3, returns="all"), LSTM(3)])
def test_states_of_many_steps_are_compiled(kind: Any, target: Any) -> None:
    model = Sequential(
        (2, 60), [kind, *([Last()] if kind.returns == "all" else []), Dense(3)], seed=0
    )
    rng = np.random.default_rng(0)
    data = Data(rng.normal(size=(8, 120)).astype("float32"), rng.integers(0, 3, 8), None)
    step = CompiledStep(model._recipe, model.device, data, target)
    start = model._run.state
    found = step(State(np.copy(start.theta), *_copied(start)), np.arange(8), None, 0.1)
    assert step.compiles
    (made,) = step.programs.values()
    assert made.program.fusion.cut  # so that it is a test
    given = batch(model._recipe, np, data, np.arange(8))
    expected = train_step(model._recipe, np, start, *given, None, 0.1)
    np.testing.assert_allclose(found.loss, expected.loss, **tolerance("float32", 64))
    np.testing.assert_allclose(found.moments[0], expected.moments[0], **tolerance("float32", 64))
