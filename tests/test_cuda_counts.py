"""What a step, an epoch and a prediction ask of the device: exact counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlp_xp import MLP, checks
from mlp_xp.devices import device as find_device
from mlp_xp.training import Data, scores_of, stepper

SIZES = [(20, 3), (20, 16, 3), (20, 32, 16, 8, 3)]


def problem(**settings: Any) -> tuple[MLP, Data]:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(20, 256)), random.integers(0, 3, 256)
    graph = settings.pop("graph", False)
    weights = random.uniform(1, 2, 256) if settings.pop("weighted", False) else None
    model = MLP(settings.pop("sizes"), device=find_device("cuda", graph=graph), **settings)
    sizes, kind = model.network.sizes, model.loss.kind
    return model, checks.data(X, y, weights, sizes, kind, model.device, model.dtype)


def fourth_step(counting: Any, model: MLP, data: Data) -> Any:
    """The counts of a step that is not the first; the device is not waited for."""
    from mlp_xp.training import bits_for

    step, state = stepper(model._recipe, model.device, data), model._run.state
    index = model.device.put(np.arange(256))
    step.announce(state, index, [0.01] * 4)  # type: ignore[attr-defined]
    for number in range(4):
        with (
            counting.count() as counted,
            counting.forbid_synchronisation() if number else nothing(),
        ):
            bits = bits_for(model.device, model.network, model.seeds, model.leading, state.step, 64)
            state = step(state, index[64 * number : 64 * number + 64], bits, 0.01)
    return counted


def nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def assert_nothing_else(counted: Any) -> None:
    """No wait, no copy, no memset, no allocation the pool could not serve."""
    assert counted.waits == counted.memsets == counted.pool_misses == 0
    assert counted.copies == {}
    assert counted.library == {}


def kernels(n_layers: int, **more: int) -> dict[str, int]:
    """What a plain step of two layers or more launches, and what else."""
    counts = {"layer_forward": n_layers - 1, "score": 1, "layer_backward": n_layers - 2}
    counts |= {"gradients": 1, **more}
    return {name: n for name, n in counts.items() if n}


@pytest.mark.parametrize("sizes", SIZES)
def test_a_step_launches_what_the_readme_says(counting: Any, sizes: tuple[int, ...]) -> None:
    counted = fourth_step(counting, *problem(sizes=sizes))
    n = len(sizes) - 1
    one = {"multiply": 1, "score": 1, "gradients": 1}
    assert counted.kernels == (one if n == 1 else kernels(n))
    assert sum(counted.kernels.values()) == max(3, 2 * n - 1)
    assert counted.cublas == {}
    assert_nothing_else(counted)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_step_of_large_products_launches_what_the_readme_says(
    counting: Any, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_xp.fast import choice

    monkeypatch.setattr(choice, "SMALL", 0.0)
    counted = fourth_step(counting, *problem(sizes=sizes))
    n = len(sizes) - 1
    once = dict.fromkeys(("gather", "score", "totals", "close", "update"), 1)
    layers = {"layer_forward": n - 1, "layer_backward": n - 1} if n > 1 else {}
    assert counted.kernels == once | layers
    assert sum(counted.cublas.values()) == 3 * n - 1
    assert_nothing_else(counted)


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"dropout": 0.1}, {"draw_bits": 1}),
        (
            {"normalization": "batch"},
            {"multiply": 6, "layer_forward": 0, "layer_forward_batch": 3}
            | {"layer_backward": 0, "layer_backward_batch": 3, "close": 1, "update": 1},
        ),
        (
            {"normalization": "layer"},
            {"multiply": 6, "layer_forward": 0, "layer_forward_layer": 3, "layer_backward": 0}
            | {"layer_backward_layer": 3, "layer_norm_backward": 3, "close": 1, "update": 1},
        ),
        ({"clip_norm": 1.0}, {"regularise": 1, "close": 1, "update": 1}),
        (
            {"l2": 0.1, "weight_decay": 0.1, "clip_value": 1.0},
            {"regularise": 1, "close": 1, "update": 1},
        ),
        ({"residual": True}, {"multiply": 1, "layer_backward": 3}),  # P of the first layer
        ({"weighted": True}, {"weigh": 1}),
        ({"weight_decay": 0.1}, {}),
        ({"activation": "gelu"}, {}),
        ({"seed": [1, 2, 3]}, {}),
    ],
)
def test_what_else_a_network_has_costs_few_launches_more(
    counting: Any, settings: dict[str, Any], changes: dict[str, int]
) -> None:
    counted = fourth_step(counting, *problem(sizes=(20, 8, 8, 8, 3), **settings))
    assert counted.kernels == kernels(4, **changes)
    assert counted.cublas == {}
    assert_nothing_else(counted)


@pytest.mark.parametrize("sizes", [(20, 16, 3), (20, 32, 16, 8, 3), (20, 16, 256, 10)])
@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, lambda n: 2 * n - 1),
        ({"precision": "tf32"}, lambda n: 3 * n + 1),
        ({"precision": "bfloat16"}, lambda n: 3 * n + 1),
        ({"normalization": "batch"}, lambda n: 4 * n),
        ({"normalization": "layer"}, lambda n: 5 * n - 1),
    ],
)
def test_a_step_launches_what_the_page_on_gpus_says(
    counting: Any, sizes: tuple[int, ...], settings: dict[str, Any], count: Any
) -> None:
    counted = fourth_step(counting, *problem(sizes=sizes, **settings))
    wide = sizes[-2] == 256 and "normalization" not in settings
    assert sum(counted.kernels.values()) == count(len(sizes) - 1) + wide
    assert counted.cublas == {}


@pytest.mark.parametrize("sizes", SIZES)
def test_a_replayed_step_is_one_launch(counting: Any, sizes: tuple[int, ...]) -> None:
    counted = fourth_step(counting, *problem(sizes=sizes, dropout=0.1, graph=True))
    assert counted.launches == counted.graph_launches == 1
    dropped = len(sizes) > 2
    assert sum(counted.replayed.values()) == max(3, 2 * len(sizes) - 3) + dropped
    assert_nothing_else(counted)


def test_sixteen_steps_of_an_epoch_are_one_launch(counting: Any) -> None:
    """And what is left of it are as few as there are powers of two in its number."""
    model, data = problem(sizes=(20, 16, 3), graph=True)
    step, state = stepper(model._recipe, model.device, data), model._run.state
    index = model.device.put(np.arange(256))
    for _ in range(2):
        step.announce(state, index, [0.01] * 31)  # type: ignore[attr-defined]
        counts = []
        for n in (16, 15):
            with counting.count() as counted:
                state = step.several(state, None, 8, n)  # type: ignore[attr-defined]
            counts.append(counted)
    for counted, launches, n in zip(counts, (1, 4), (16, 15), strict=True):
        assert counted.launches == counted.graph_launches == launches
        assert sum(counted.replayed.values()) == 3 * n
        assert_nothing_else(counted)
    assert state.step == 62


@pytest.mark.parametrize("sizes", SIZES)
def test_inference_is_a_kernel_a_layer(counting: Any, sizes: tuple[int, ...]) -> None:
    model, data = problem(sizes=sizes)
    xp, state, n = model.device.xp, model._run.state, len(sizes) - 1
    for _ in range(2):
        with counting.count() as counted:
            scores_of(model._recipe, xp, state, data.rows)
    assert counted.cublas == {}
    assert counted.kernels == {"layer_forward": n}
    assert_nothing_else(counted)


@pytest.mark.parametrize("sizes", SIZES)
def test_inference_of_large_products_is_a_product_and_a_kernel_a_layer(
    counting: Any, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_xp.fast import choice

    monkeypatch.setattr(choice, "SMALL", 0.0)
    model, data = problem(sizes=sizes)
    xp, state, n = model.device.xp, model._run.state, len(sizes) - 1
    for _ in range(2):
        with counting.count() as counted:
            scores_of(model._recipe, xp, state, data.rows)
    assert sum(counted.cublas.values()) == n
    assert counted.kernels == {"bias_activation": n}
    assert_nothing_else(counted)


@pytest.mark.parametrize("normalization", ["none", "batch"])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_prediction_is_two_launches_at_most_and_allocates_nothing(
    counting: Any, sizes: tuple[int, ...], normalization: Any
) -> None:
    """One of the first layer, which reads the examples where they lie, and one of the rest."""
    model, data = problem(sizes=sizes, normalization=normalization)
    predict, n = model.predictor(8), len(sizes) - 1
    for X in (data.rows[:8].T, data.rows[:1].T, data.rows[:8].T.copy()):
        predict(X)
        with counting.count() as counted, counting.forbid_synchronisation():
            predict(X)
        assert counted.launches == min(n, 2)
        names = dict(counted.kernels)
        for name, times in counted.replayed.items():
            names[name] = names.get(name, 0) + times
        assert names == {name: k for name, k in (("layer_forward", n - 1), ("forecast", 1)) if k}
        assert_nothing_else(counted)


@pytest.mark.parametrize("graph", [False, True])
def test_an_epoch_waits_and_copies_no_more_often_for_more_steps(counting: Any, graph: bool) -> None:
    """The order and the rates go up and the history comes down once an epoch."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(20, 256)), random.integers(0, 3, 256)
    found = []
    for size in (16, 8):
        model = MLP((20, 8, 3), dropout=0.2, device=find_device("cuda", graph=graph))
        counts: list[Any] = []

        def note(model: MLP, epoch: Any, counts: list[Any] = counts) -> None:
            counts.append(counting.counters())

        model.fit(X, y, epochs=3, batch_size=size, callbacks=[note], progress=False)
        last = counts[2] - counts[1]
        found.append((last.waits, {way: copies.calls for way, copies in last.copies.items()}))
        assert last.pool_misses == 0
    assert found[0] == found[1]
    assert found[0][1]["H2D"] == 2  # the order; the rates
    assert found[0][1]["D2H"] == 2  # the losses; whether all weights are finite
