"""Products with windows of few rows are sums, and nothing is joined for them."""

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
from mlp_xp.fast import native
from mlp_xp.layers import Conv1d, Conv2d, Dense, Flatten
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
    plans = [target.plans(fuse.Fusion(roots, none, tile=size)) for size in (tile, 0)]
    assert (plans[0].n_bytes < plans[1].n_bytes) != kept
    made = target(plans[0], arrays)
    made.finish()
    for mine, theirs in zip(made.run(), interpret.run(roots, arrays), strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance("float64", 1024))


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
