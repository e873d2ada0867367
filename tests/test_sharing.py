"""What threads have to do with: pieces of loops, as products are cut, and rows where they lie."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from conftest import tolerance
from mlp_xp import MLP, Sequential
from mlp_xp.compile.function import Function
from mlp_xp.compile.items import Loop, Product
from mlp_xp.compile.step import Batch, CompiledStep
from mlp_xp.fast import blas, calls, native
from mlp_xp.fitting import copied
from mlp_xp.layers import Dense, Flatten
from mlp_xp.layers.base import Parameter, Pass, Plain
from mlp_xp.training import Data, batch, train_step

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler")
own_products = pytest.mark.skipif(
    not native.available() or blas.own("float32", (False, False), (64, 64, 64)) is None,
    reason="products are the BLAS's on this machine",
)


def step_of(model: Any, m: int) -> CompiledStep:
    """On m examples at random."""
    rng, network = np.random.default_rng(0), model.network
    rows = rng.normal(size=(m, network.sizes[0])).astype(model.dtype)
    data = Data(rows, rng.integers(0, network.sizes[-1], m), None)
    return CompiledStep(model._recipe, model.device, data)


def made_by(step: CompiledStep, model: Any, m: int) -> Any:
    """A step's program for the first m examples, after a step."""
    bits = None
    if model.network.n_dropped:
        bits = np.zeros((*model.leading, model.network.n_dropped * m), np.uint16)
    index = np.ascontiguousarray(np.broadcast_to(np.arange(m), (*model.leading, m)))
    step(copied(model.device, model._run.state), index, bits, 0.1)
    (made,) = step.programs.values()
    return made


def assert_as_specified(
    step: CompiledStep, model: Any, indices: Iterable[Any], rate: float = 0.01, most: int = 4096
) -> None:
    """Steps on these examples are those of `train_step`, to `most` units in the last place."""
    state, expected = copied(model.device, model._run.state), model._run.state
    close = tolerance(model.dtype, most)
    for index in indices:
        state = step(state, index, None, rate)
        X, T, _ = batch(model._recipe, np, step.data, index)
        expected = train_step(model._recipe, np, expected, X, T, None, None, rate)
        np.testing.assert_allclose(state.loss, expected.loss, **close)
        np.testing.assert_allclose(state.theta, expected.theta, **close)
        for mine, theirs in zip(state.moments, expected.moments, strict=True):
            np.testing.assert_allclose(mine, theirs, **close)


# -- rows where they lie -------------------------------------------------------------


@own_products
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lie", ["as read", "in another dtype", "by columns"])
def test_examples_are_fetched_where_they_lie(lie: str, dtype: str) -> None:
    model, rng = MLP((20, 30, 5), dtype=dtype, seed=0), np.random.default_rng(0)
    other = "float64" if dtype == "float32" else "float32"

    def some() -> Data:
        rows = rng.normal(size=(90, 20)).astype(other if lie == "in another dtype" else dtype)
        rows = np.asfortranarray(rows) if lie == "by columns" else rows
        return Data(rows, rng.integers(0, 5, 90), None)

    step = CompiledStep(model._recipe, model.device, some())

    def indices() -> Iterator[Any]:
        for number in range(8):
            if number in (3, 5):
                step.data = some()  # as windows of a stream are
            yield rng.permutation(90)[: 40 if number % 3 else 17]

    assert_as_specified(step, model, indices(), most=1024)
    for made in step.programs.values():
        assert isinstance(made, Batch)
        assert made.fetches
        assert made.taken == ([] if lie == "as read" else ["rows"])


@own_products
@pytest.mark.parametrize(
    ("sizes", "m", "settings", "fetched"),
    [
        ((20, 30, 5), 40, {}, True),
        ((20, 30, 5), 40, {"seed": [0, 1]}, True),  # each in a program of its own
        ((20, 30, 5), 8, {}, False),  # half a vector of examples: the BLAS's
        ((20, 24, 5), 40, {}, False),  # few rows, which are made as columns
        ((20, 5), 40, {}, False),
        ((20, 30, 30, 5), 40, {"residual": True}, True),  # a product makes 30 of 20
        ((30, 30, 5), 40, {"residual": True}, False),  # examples are added
        ((20, 30, 5), 40, {"normalization": "batch", "dropout": 0.2}, True),
    ],
)
def test_examples_that_something_else_reads_are_gathered(
    sizes: Any, m: int, settings: Any, fetched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlp_xp.compile.step.LARGE", 0)
    model = MLP(sizes, **settings)
    made = made_by(step_of(model, m), model, m)
    assert {one.fetches for one in getattr(made, "batches", [made])} == {fetched}


@dataclass(frozen=True)
class EachStep(Plain):
    """A layer of one's own: (time, features), the same weights for each step of an example."""

    units: int

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.units, shape[0])

    def parameters(self, shape: tuple[int, ...]) -> tuple[Parameter, ...]:
        return (Parameter("W", (self.units, shape[1])),)

    def forward(self, xp: Any, kernels: Any, P: Any, A: Any, told: Pass) -> Any:
        time, n = told.shape
        A = xp.reshape(xp.permute_dims(A, (1, 2, 0)), (n, A.shape[-1] * time))
        Z = xp.reshape(kernels.product(xp, P["W"], A), (self.units, -1, time))
        return xp.permute_dims(Z, (0, 2, 1)), A

    def backward(self, xp: Any, kernels: Any, P: Any, A: Any, dA: Any) -> Any:
        dA = xp.reshape(xp.permute_dims(dA, (0, 2, 1)), (self.units, A.shape[-1]))
        return None, {"W": kernels.weight_gradient(xp, dA, A)}


def test_rows_that_are_less_than_an_example_are_gathered() -> None:
    layers = [EachStep(30), Flatten(), Dense(3)]
    model = Sequential((6, 20), layers, seed=0, dtype="float64")
    index = np.random.default_rng(1).permutation(90)[:40]
    assert_as_specified(step_of(model, 90), model, [index])


@own_products
def test_products_know_whether_their_weights_are_updated() -> None:
    model = MLP((20, 30, 5), seed=0)
    plan = made_by(step_of(model, 40), model, 40).program.plan
    theta = plan.inputs["theta"]
    products = [item for item in plan.fusion.items if isinstance(item, Product)]
    assert sum(item.operands[0].owner is theta for item in products) == 3
    assert not plan.constant(theta)
    predicting, _ = Function(lambda xp, W, X: [xp.matmul(W, X)], "float64").program(
        [np.ones((30, 20)), np.ones((20, 40))]
    )
    ((_, row),) = next(iter(predicting.plan.products.values()))
    assert row is not None
    assert row[2] == 1


# -- pieces --------------------------------------------------------------------------


def pieces(sizes: tuple[int, ...], m: int) -> list[Any]:
    """Those in which a step's parameters are updated."""
    model = MLP(sizes, seed=0)
    plan = made_by(step_of(model, m), model, m).program.plan
    theta = plan.inputs["theta"]
    (loop,) = (
        item
        for item in plan.fusion.items
        if isinstance(item, Loop) and any(target.place.owner is theta for target in item.writes)
    )
    return list(plan.pieces_of(loop))


def test_a_thread_updates_what_it_has_made() -> None:
    W1, W2 = 300 * 200, 100 * 300
    found = pieces((200, 300, 100, 10), 64)
    assert [piece[:2] for piece in found] == [(0, W1), (W1, W1 + W2), (W1 + W2, W1 + W2 + 1410)]
    products = calls.parts_of_product(300, 64, 200), calls.parts_of_product(100, 64, 300)
    updates = calls.parts_of(5 * W1), calls.parts_of(5 * W2)  # as of five arrays
    assert [piece.parts for piece in found] == [*map(min, products, updates), 1]
    # a product of one example is one thread's, and so is the update of its weights
    assert pieces((200, 300, 100, 10), 1) == [(0, 91_410, 1)]
    # and a small network's update is one call, as ever
    assert pieces((20, 16, 3), 64) == [(0, 387, 1)]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("settings", [{"weight_decay": 0.1}, {"density": 0.5}, {"clip_value": 1}])
def test_pieces_of_an_update_are_all_of_it(optimizer: str, settings: dict[str, Any]) -> None:
    model = MLP((200, 300, 100, 10), seed=0, dtype="float64", optimizer=optimizer, **settings)
    # Adam's first steps are g / |g|, also where g is next to nothing
    assert_as_specified(step_of(model, 64), model, [np.arange(64)] * 3, rate=0.1, most=50 * 4096)


def test_a_loop_over_part_of_what_products_make_keeps_to_it() -> None:
    """With one example ∂J/∂b1 is δ, which lies within the gradient, behind what products make."""
    model = MLP((50, 10_000, 10), dtype="float64", seed=0)
    step = step_of(model, 1)
    assert_as_specified(step, model, [np.arange(1)])
    (made,) = step.programs.values()
    plan = made.program.plan
    for loop in (item for item in plan.fusion.items if isinstance(item, Loop)):
        found = plan.pieces_of(loop)
        edges = [0, *(piece.stop for piece in found)]
        assert [piece.start for piece in found] == edges[:-1]
        assert edges[-1] == math.prod(loop.space)
