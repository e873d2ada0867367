"""Products with windows: sums where rows are few, others read windows where they lie."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from conftest import tolerance
from mlp_xp import Sequential
from mlp_xp.compile import fuse, interpret
from mlp_xp.compile.graph import Graph, Node
from mlp_xp.compile.items import Loop, Product
from mlp_xp.compile.numpy_program import NumpyProgram
from mlp_xp.compile.program import Program
from mlp_xp.compile.step import CompiledStep
from mlp_xp.compile.trace import Tracer, trace
from mlp_xp.compile.windows import Manner
from mlp_xp.fast import blas, native
from mlp_xp.layers import Activation, Conv1d, Conv2d, Dense, Flatten
from mlp_xp.training import Data, train_step

TARGETS = [
    pytest.param(Program, marks=pytest.mark.skipif(not native.available(), reason="no compiler")),
    NumpyProgram,
]


def products(roots: Any) -> int:
    items = fuse.Fusion(roots, [None] * len(roots)).items
    return sum(isinstance(item, Product) for item in items)


def windows(xp: Any, X: Any, n: int) -> Any:
    """(…, g, rows, columns, m) as (…, g, n, places): what n taps see of its rows."""
    rows = X.shape[-3] - n + 1
    seen = xp.stack([X[..., k : k + rows, :, :] for k in range(n)], axis=-4)
    return xp.reshape(seen, (*seen.shape[:-3], math.prod(seen.shape[-3:])))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("n", [2, 9, 70])  # the last in more than one loop
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("lead", [((), ()), ((3,), (3,)), ((3,), ()), ((), (3,))])
def test_both_products_are_sums(lead: Any, rows: int, n: int, target: Any) -> None:
    rng = np.random.default_rng(0)
    W = rng.normal(size=(*lead[0], 4, rows, n))
    X = rng.normal(size=(*lead[1], 4, n + 3, 3, 5))
    delta = rng.normal(size=(*lead[0], 4, rows, 4 * 15))

    def formula(xp: Any, W: Any, X: Any, delta: Any) -> Any:
        seen = windows(xp, X, n)
        Z = xp.matmul(W, seen)
        flat = xp.reshape(Z, (*Z.shape[:-3], 4 * rows, Z.shape[-1]))
        return [flat + 1, xp.matmul(delta, xp.matrix_transpose(seen)), xp.sum(flat, axis=-1)]

    arrays = {"W": W, "X": X, "delta": delta}
    graph = Graph("float64")
    roots = trace(formula, graph, *(graph.input(name, a.shape) for name, a in arrays.items()))
    assert products(roots) == 0
    made = target(target.plans(fuse.Fusion(roots, [None] * 3)), arrays)
    made.finish()
    for mine, theirs in zip(made.run(), interpret.run(roots, arrays), strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", 256))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kept", [False, True])  # whether patches are wanted anyway
@pytest.mark.parametrize("tile", [1 << 12, 1 << 15])
@pytest.mark.parametrize("axes", [(9, 3), (1, 20), (20, 1)])  # rows and columns, before windows
@pytest.mark.parametrize("lead", [((), ()), ((3,), (3,)), ((3,), ())])
def test_in_tiles_products_are_the_same_in_less_memory(
    lead: Any, axes: tuple[int, int], tile: int, kept: bool, target: Any
) -> None:
    rng, n, channels = np.random.default_rng(0), 5, 2
    rows, columns = axes
    X = rng.normal(size=(*lead[1], 4 * channels, rows + n - 1, columns, 64))
    W = rng.normal(size=(*lead[0], 4, 6, channels * n))

    def formula(xp: Any, W: Any, X: Any) -> Any:
        seen = windows(xp, X, n)
        seen = xp.reshape(seen, (*seen.shape[:-3], 4, channels * n, seen.shape[-1]))
        return [xp.matmul(W, seen) + 1, *([seen] if kept else [])]

    arrays = {"W": W, "X": X}
    graph = Graph("float64")
    roots = trace(formula, graph, *(graph.input(name, a.shape) for name, a in arrays.items()))
    none = [None] * len(roots)
    manners = [Manner(tile=size) for size in (tile, 0)]
    plans = [target.plans(fuse.Fusion(roots, none, manner)) for manner in manners]
    assert (plans[0].n_bytes < plans[1].n_bytes) != kept
    made = target(plans[0], arrays)
    made.finish()
    for mine, theirs in zip(made.run(), interpret.run(roots, arrays), strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", 1024))


# -- where they lie

PATCHES, LYING = Manner(), Manner(fetch=True)
fetching = pytest.mark.skipif(
    not (native.available() and blas.fetches("float32")), reason="products are the BLAS's"
)


def made_so(roots: Any, arrays: dict[str, Any], manner: Manner) -> tuple[Program, list[Product]]:
    """A program that has run, and its products."""
    fusion = fuse.Fusion(roots, [None] * len(roots), manner)
    program = Program(Program.plans(fusion), arrays)
    program.finish()
    program.run()
    return program, [item for item in fusion.items if isinstance(item, Product)]


def both_products(
    xp: Any, W: Any, X: Any, delta: Any, kernel: tuple[int, int], stride: tuple[int, int]
) -> list[Any]:
    """W [X_1; …; X_K] and δ [X_1; …; X_K]ᵀ, of windows that move over rows and columns."""
    n = [
        (size - k) // step + 1 for size, k, step in zip(X.shape[-3:-1], kernel, stride, strict=True)
    ]
    cuts = [
        [slice(i, i + (many - 1) * step + 1, step) for i in range(k)]
        for many, k, step in zip(n, kernel, stride, strict=True)
    ]
    seen = xp.stack([X[..., i, j, :] for i in cuts[0] for j in cuts[1]], axis=-4)
    seen = xp.reshape(seen, (*W.shape[:-2], W.shape[-1], n[0] * n[1] * X.shape[-1]))
    return [xp.matmul(W, seen), xp.matmul(delta, xp.matrix_transpose(seen))]


@fetching
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "m"),
    [
        ((3, 3), (1, 1), 16),
        ((3, 3), (1, 1), 1),  # columns lie together, if not many
        ((1, 5), (1, 1), 7),
        ((5, 1), (1, 1), 40),
        ((3, 2), (2, 1), 24),
        ((2, 3), (1, 2), 33),
        ((2, 2), (2, 2), 70),
        ((14, 31), (1, 1), 20),  # one place, and more rows of windows than are laid at once
    ],
)
def test_products_read_windows_where_they_lie(
    kernel: tuple[int, int], stride: tuple[int, int], m: int, groups: int, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    channels, n_out, rows, columns = 2, 9, 14, 31
    n = [(size - k) // s + 1 for size, k, s in zip((rows, columns), kernel, stride, strict=True)]
    K, places = channels * math.prod(kernel), math.prod(n) * m
    arrays = {
        "W": rng.normal(size=(groups, n_out, K)).astype(dtype),
        "X": rng.normal(size=(groups * channels, rows, columns, m)).astype(dtype),
        "delta": rng.normal(size=(groups, n_out, places)).astype(dtype),
    }
    graph = Graph(dtype)
    given = [graph.input(name, array.shape) for name, array in arrays.items()]
    roots = trace(lambda xp, *x: both_products(xp, *x, kernel, stride), graph, *given)
    mine, items = made_so(roots, arrays, LYING)
    theirs, patched = made_so(roots, arrays, PATCHES)
    assert [item.windows is not None for item in items] == [True, True]
    assert [item.windows for item in patched] == [None, None]
    assert theirs.block.nbytes - mine.block.nbytes >= groups * K * places * mine.dtype.itemsize
    for one, other in zip(mine.roots, theirs.roots, strict=True):
        np.testing.assert_array_equal(one, other)  # the same sums, in the same order
    for one, expected in zip(mine.roots, interpret.run(roots, arrays), strict=True):
        np.testing.assert_allclose(one, expected, **tolerance(dtype, 64 * max(K, places)))


@fetching
@pytest.mark.parametrize("n_networks", [1, 3])
def test_windows_of_networks_and_of_what_lies_by_columns(n_networks: int) -> None:
    """Rows of examples, as a first layer has them, are turned once; weights are of each network."""
    rng = np.random.default_rng(0)
    arrays = {
        "W": rng.normal(size=(n_networks, 5, 2 * 9)),
        "rows": rng.normal(size=(40, 2 * 8 * 9)),
        "delta": rng.normal(size=(n_networks, 5, 6 * 7 * 40)),
    }

    def formula(xp: Any, W: Any, rows: Any, delta: Any) -> Any:
        X = xp.reshape(xp.matrix_transpose(rows), (1, 2, 8, 9, 40))
        X = xp.broadcast_to(X, (n_networks, 2, 8, 9, 40))
        return both_products(xp, W, X, delta, (3, 3), (1, 1))

    graph = Graph("float64")
    roots = trace(formula, graph, *(graph.input(name, a.shape) for name, a in arrays.items()))
    program, items = made_so(roots, arrays, LYING)
    assert all(item.windows is not None for item in items)
    for mine, theirs in zip(program.roots, interpret.run(roots, arrays), strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", 1 << 14))


@fetching
@pytest.mark.parametrize("why", ["wanted", "narrow", "of several", "of several steps"])
def test_patches_are_made_where_they_are_wanted(why: str) -> None:
    """By others too; and where what lies together is less than a vector."""
    rng, m = np.random.default_rng(0), 4 if why == "narrow" else 32
    arrays = {"W": rng.normal(size=(1, 4, 9)), "X": rng.normal(size=(1, 9, 9, m))}
    stride = (1, 2) if why == "narrow" else (1, 1)
    arrays["delta"] = rng.normal(size=(1, 4, 7 * (4 if why == "narrow" else 7) * m))

    def formula(xp: Any, W: Any, X: Any, delta: Any) -> Any:
        if why == "of several":  # no view of one array
            seen = xp.stack(
                [X[:, i : i + 7, j : j + 7] + i for i in (0, 1, 2) for j in (0, 1, 2)], axis=1
            )
            seen = xp.reshape(seen, (1, 9, -1))
            return [xp.matmul(W, seen), xp.matmul(delta, xp.matrix_transpose(seen))]
        if why == "of several steps":
            wide = xp.concat([X, X], axis=-2)
            parts = [wide[:, :7, :14:2], *(wide[:, :7, j : j + 7] for j in range(8))]
            seen = xp.reshape(xp.stack(parts, axis=1), (1, 9, -1))
            return [xp.matmul(W, seen), xp.matmul(delta, xp.matrix_transpose(seen))]
        found = both_products(xp, W, X, delta, (3, 3), stride)
        if why == "wanted":
            seen = xp.stack(
                [X[:, i : i + 7, j : j + 7] for i in (0, 1, 2) for j in (0, 1, 2)], axis=1
            )
            found.append(xp.sum(seen, axis=-1))
            found.append(seen)
        return found

    graph = Graph("float64")
    roots = trace(formula, graph, *(graph.input(name, a.shape) for name, a in arrays.items()))
    program, items = made_so(roots, arrays, LYING)
    assert [item.windows for item in items] == [None, None]
    for mine, theirs in zip(program.roots, interpret.run(roots, arrays), strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", 1 << 12))


def _formulas() -> dict[str, Any]:
    def rows(xp: Tracer, W: Node, X: Node) -> Any:  # three rows: a product pays
        return xp.matmul(xp.concat([W, W, W], axis=-2), windows(xp, X, 3))

    def no_windows(xp: Tracer, W: Node, X: Node) -> Any:
        return xp.matmul(W, xp.reshape(X[:, :3], (4, 3, 15)))

    def pairs(xp: Tracer, W: Node, X: Node) -> Any:  # joined two by two, not as rows
        seen = xp.concat([X[:, :2], X[:, 3:4]], axis=1)
        return xp.matmul(W, xp.reshape(seen, (4, 3, 15)))

    def other_order(xp: Tracer, W: Node, X: Node) -> Any:  # seen otherwise than it was joined
        seen = xp.reshape(windows(xp, X, 3), (3, 4, -1))
        return xp.matmul(xp.reshape(W, (3, 1, 4)), seen)

    return {f.__name__: f for f in (rows, no_windows, pairs, other_order)}


@pytest.mark.parametrize("which", _formulas())
def test_others_stay_products(which: str) -> None:
    graph = Graph("float64")
    W, X = graph.input("W", (4, 1, 3)), graph.input("X", (4, 10, 3, 5))
    root = trace(_formulas()[which], graph, W, X)
    assert products([root]) == 1
    rng = np.random.default_rng(0)
    arrays = {"W": rng.normal(size=W.shape), "X": rng.normal(size=X.shape)}
    made = NumpyProgram(NumpyProgram.plans(fuse.Fusion([root], [None])), arrays)
    made.finish()
    (expected,) = interpret.run([root], arrays)
    np.testing.assert_allclose(made.run()[0], expected, **tolerance("float64", 16))


LAYERS: dict[str, tuple[tuple[int, ...], Any]] = {
    "images": ((3, 9, 8), Conv2d(3, (3, 2), groups=3)),
    "padded, by two": ((3, 9, 8), Conv2d(3, 3, stride=2, padding="same", groups=3)),
    "two of each": ((3, 9, 8), Conv2d(6, 3, padding=1, groups=3)),
    "a stride longer than the kernel": ((2, 9, 8), Conv2d(2, 2, stride=3, groups=2)),
    "causal": ((4, 20), Conv1d(4, 3, dilation=4, padding="causal", groups=4)),
    "one channel": ((1, 20), Conv1d(1, 5, padding="same")),
}


@pytest.mark.skipif(not native.available(), reason="no C compiler")
@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["one", "two at once"])
@pytest.mark.parametrize("which", LAYERS)
def test_depthwise_steps_make_no_patches(which: str, seed: Any) -> None:
    shape, layer = LAYERS[which]
    layers = [layer, type(layer)(layer.channels, 1), Flatten(), Dense(2)]  # so that δ goes on
    model = Sequential(shape, [type(layer)(shape[0], 1), *layers], dtype="float64", seed=seed)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, math.prod(shape)))
    data = Data(rows, rng.integers(0, 2, 40), None)
    step = CompiledStep(model._recipe, model.device, data)
    state = model._run.state
    K = state.theta.shape[:-1]
    index = np.broadcast_to(np.arange(32), (*K, 32))
    X, T = np.swapaxes(rows[index], -1, -2), np.eye(2)[data.targets[index]].swapaxes(-1, -2)
    expected = train_step(model._recipe, np, state, X, T, None, None, 0.01)
    found = step(state, index, None, 0.01)
    np.testing.assert_allclose(found.theta, expected.theta, **tolerance("float64", 1 << 14))
    (made,) = step.programs.values()
    patches = 32 * math.prod(shape) * 8 * math.prod(K)
    items = made.program.fusion.items
    joined = [t.node for i in items if isinstance(i, Loop) for t in i.writes]
    assert not [node for node in joined if node.size * 8 > 2 * patches]


@pytest.mark.skipif(not native.available(), reason="no C compiler")
def test_what_is_cheap_once_others_are_kept_is_copied_where_it_lies_otherwise() -> None:
    """δ of one example, summed along an axis of one: a view of a map, of a view that no strides
    show."""
    layers = [
        Conv2d(4, 2, padding="same", groups=2),
        Activation(),
        Conv2d(6, 1, stride=(1, 2), padding=1),
    ]
    model = Sequential((2, 14, 5), [*layers, Flatten(), Dense(3)], dtype="float64", seed=0)
    rng = np.random.default_rng(0)
    data = Data(rng.normal(size=(4, 140)), rng.integers(0, 3, 4), None)
    step, state = CompiledStep(model._recipe, model.device, data), model._run.state
    X, T = data.rows[:1].T, np.eye(3)[data.targets[:1]].T
    expected = train_step(model._recipe, np, state, X, T, None, None, 0.01)
    found = step(state, np.arange(1), None, 0.01)  # a warning, that it is not compiled, is an error
    for mine, theirs in zip(found.moments, expected.moments, strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", 1 << 14))
