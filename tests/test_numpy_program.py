"""Loops as NumPy's calls: what is in place, in blocks, and computed once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from test_compile import _formula, _poisoned
from test_fast_paths import build, plain, specified, walk

from conftest import tolerance
from mlp_xp.compile import fuse, numpy_loops, program
from mlp_xp.compile.function import Function
from mlp_xp.compile.graph import Graph, Node
from mlp_xp.compile.numpy_program import NumpyPlan, NumpyProgram
from mlp_xp.compile.step import CompiledStep
from mlp_xp.compile.trace import Tracer
from mlp_xp.devices import device as find_device
from mlp_xp.fitting import copied


def names(program: NumpyProgram) -> list[str]:
    """The functions that a program calls."""
    return [call.func.__name__ for call in program.calls.calls]  # type: ignore[attr-defined]


def made(formula: Any, *arrays: Any) -> NumpyProgram:
    program, _ = Function(formula, str(arrays[0].dtype), target=NumpyProgram).program(arrays)
    assert isinstance(program, NumpyProgram)
    return program


def over(inputs: dict[Node, Any], roots: list[Node], results: list[Any]) -> list[Any]:
    """The roots, written over the inputs given up for them."""
    given = {node.param: array for node, array in inputs.items()}
    program = NumpyProgram(NumpyPlan(fuse.Fusion(roots, results)), given)
    program.finish()
    return list(program.run())


@pytest.mark.parametrize("seed", range(40))
def test_in_blocks_a_formula_at_random_is_the_same(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy_loops, "BLOCK", 4)
    monkeypatch.setattr(numpy_loops, "LONG", 8)
    formula, arrays = _formula(seed)
    for mine, theirs in zip(_poisoned(made(formula, *arrays)), formula(np, *arrays), strict=True):
        scale = max(1.0, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(mine / scale, theirs / scale, **tolerance("float64", 4096))


def test_where_is_exact_for_whatever_is_not_chosen() -> None:
    x = np.array([1.0, np.nan, np.inf, -np.inf, -0.0, 5e-324])
    y = np.array([np.nan, 2.0, -np.inf, 0.0, np.inf, np.nan])
    for c in (np.array([1, 0, 1, 0, 1, 0]) > 0, np.array([0, 1, 0, 1, 0, 1]) > 0):
        (found,) = made(lambda xp, c, x, y: [xp.where(c > 0.5, x, y)], c.astype(float), x, y).run()
        np.testing.assert_array_equal(found, np.where(c, x, y))
        np.testing.assert_array_equal(np.signbit(found), np.signbit(np.where(c, x, y)))


def test_what_is_written_over_is_read_before() -> None:
    graph = Graph("float64")
    x, y, z = (graph.input(name, (5,)) for name in "xyz")
    xp = Tracer(graph)
    given = {x: np.arange(5.0), y: 10 - np.arange(5.0), z: np.full(5, 2.0)}
    X, Y, Z = (array.copy() for array in given.values())
    u = xp.where(x > y, z, x)
    found = over(given, [u, y * x, u + x * z], [x, y, z])
    U = np.where(X > Y, Z, X)
    for mine, theirs in zip(found, [U, Y * X, U + X * Z], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert all(
        mine is not None and np.shares_memory(mine, given[n])
        for mine, n in zip(found, (x, y, z), strict=True)
    )


def test_what_is_copied_and_written_over_is_copied_before() -> None:
    graph = Graph("float64")
    x, y = graph.input("x", (3,)), graph.input("y", (3,))
    given = {x: np.arange(3.0), y: np.full(3, 7.0)}
    found = over(given, [y, y * x], [x, y])
    np.testing.assert_array_equal(found[0], np.full(3, 7.0))
    np.testing.assert_array_equal(found[1], 7 * np.arange(3.0))


def test_equal_parts_are_computed_once_and_at_their_own_size() -> None:
    def formula(xp: Any, x: Any, b: Any) -> list[Any]:
        return [xp.tanh(x) * (b - 3), xp.tanh(x) + (b - 3) * 2]

    program = made(formula, np.ones((4, 5)), np.ones((4, 1)))
    assert sorted(names(program)) == ["add", "multiply", "multiply", "subtract", "tanh"]
    shapes = {call.func.__name__: call.args[-1].shape for call in program.calls.calls}  # type: ignore[attr-defined]
    assert shapes["subtract"] == (4, 1)


def test_sums_are_products_with_ones() -> None:
    x = np.random.default_rng(0).normal(size=(40, 30))
    for axis in (0, 1):
        program = made(lambda xp, x, axis=axis: [xp.sum(x, axis=axis)], x)
        assert names(program) == ["matmul"]
        np.testing.assert_allclose(program.run()[0], x.sum(axis=axis), **tolerance("float64", 40))


def test_a_sum_of_squares_is_a_product_of_vectors() -> None:
    x = np.random.default_rng(0).normal(size=(1, 40))
    program = made(lambda xp, x: [xp.sum(0.5 * (x * x), axis=1)], x)
    assert names(program) == ["matmul", "multiply"]
    np.testing.assert_allclose(program.run()[0], [(x * x).sum() / 2], **tolerance("float64", 40))


def test_an_update_needs_room_for_one_block_only() -> None:
    def update(xp: Any, theta: Any, g: Any) -> list[Any]:
        return [theta - 0.1 * g / (xp.sqrt(g * g) + 1e-8)]

    n = 10 * numpy_loops.LONG
    program = made(update, np.ones(n), np.ones(n))
    assert program.plan.n_bytes - program.plan.room <= 3 * numpy_loops.BLOCK * 8


def test_a_long_sum_needs_room_for_one_block_only() -> None:
    n = 5 * numpy_loops.LONG + 77
    x, c = np.random.default_rng(0).normal(size=(2, n))

    def formula(xp: Any, x: Any, c: Any) -> list[Any]:
        return [0.5 * xp.sum(x * c * x), xp.max(xp.abs(x) * c)]

    program = made(formula, x, c)
    assert program.plan.n_bytes <= 4 * numpy_loops.BLOCK * 8
    total, most = _poisoned(program)
    np.testing.assert_allclose(total / n, (x * c * x).sum() / 2 / n, **tolerance("float64", n))
    assert most == (abs(x) * c).max()


@pytest.mark.parametrize(
    ("name", "function"),
    [("subtract", np.add), ("exp", np.exp2), ("tanh", np.sin), ("sqrt", np.abs)],
)
def test_a_step_of_numpys_calls_broken_on_purpose_is_caught(
    name: str, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, state = build(plain())
    expected = specified(model, data, state)
    monkeypatch.setitem(numpy_loops.UFUNCS, name, function)
    monkeypatch.setattr(program, "_PLANS", OrderedDict())  # nothing that is right already
    step = CompiledStep(model._recipe, find_device("cpu"), data, NumpyProgram)
    found = walk(model, data, copied(model.device, state), step)
    assert not np.allclose(found[-1].theta, expected[-1].theta, **tolerance(model.dtype, 64))
