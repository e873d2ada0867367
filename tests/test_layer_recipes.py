"""Recipes of layers: what papers say they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlp_xp import Sequential, inspect_step
from mlp_xp.layers import Activation, Dense, Dropout, GlobalAvgPool, Last, temporal_convolutions
from mlp_xp.layers.recipes import steps_seen


def test_scores_and_gradients_of_temporal_convolutions_are_those_of_torch(torch: Any) -> None:
    random = np.random.default_rng(3)
    widths, kernel, time, m = [4, 4, 3], 3, 20, 5
    layers = [*temporal_convolutions(widths, kernel=kernel), GlobalAvgPool(), Dense(2)]
    model = Sequential((2, time), layers, dtype="float64", loss="squared_error", seed=1)
    X, Y = random.normal(size=(2 * time, m)), random.normal(size=(2, m))
    seen = inspect_step(model, X, Y, layout="columns")
    P = {k: torch.tensor(np.array(v), requires_grad=True) for k, v in model.parameters.items()}
    nn = torch.nn.functional
    A, n_in = torch.tensor(X.reshape(2, time, m)).movedim(-1, 0), 2
    for block, n in enumerate(widths):
        number, F = 2 * block + 1, A
        for inside, width in ((1, n_in), (3, n)):
            W = P[f"W{number}_{inside}"].reshape(n, width, kernel)
            padded = nn.pad(F, ((kernel - 1) * 2**block, 0))
            F = nn.conv1d(padded, W, P[f"b{number}_{inside}"][:, 0], dilation=2**block).relu()
        skip = A if n == n_in else nn.conv1d(A, P[f"P{number}"][:, :, None])
        A, n_in = (F + skip).relu(), n
    last = 2 * len(widths) + 2
    S = nn.linear(A.mean(dim=2), P[f"W{last}"], P[f"b{last}"][:, 0])
    ((S - torch.tensor(Y.T)) ** 2).sum(dim=1).mean().mul(0.5).backward()
    for name, parameter in P.items():
        ours, theirs = seen[f"d{name}"], parameter.grad.numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-11, err_msg=name)


@pytest.mark.parametrize(("kernel", "blocks", "steps"), [(2, 1, 3), (3, 1, 5), (2, 3, 15)])
def test_a_step_sees_so_many_and_no_more(kernel: int, blocks: int, steps: int) -> None:
    assert steps_seen(kernel, blocks) == steps
    time = steps + 3
    layers = [*temporal_convolutions([2] * blocks, kernel=kernel), Last(), Dense(1)]
    model = Sequential((1, time), layers, dtype="float64", loss="squared_error")
    model.set_parameters(**{k: np.abs(v) for k, v in model.parameters.items()})
    X = np.ones((time, 1)) + np.eye(time)  # column t: step t is larger
    scores = model.predict(X, layout="columns")
    differs = np.abs(scores - model.predict(np.ones((time, 1)), layout="columns")[0]) > 1e-9
    np.testing.assert_array_equal(differs, np.arange(time) >= time - steps)


def test_as_many_blocks_as_the_last_step_needs_to_see_the_first() -> None:
    for time, blocks in ((1, 1), (3, 1), (4, 2), (7, 2), (8, 3), (100, 6)):
        layers = temporal_convolutions(8, kernel=2, time=time)
        assert len(layers) == 2 * blocks
        assert steps_seen(2, blocks) >= time


def test_dropout_stands_after_each_relu() -> None:
    block, relu = temporal_convolutions([4], dropout=0.25)
    assert relu == Activation("relu")
    assert [type(kind).__name__ for kind in block.layers] == 2 * [
        "Conv1d",
        "Activation",
        "Dropout",
    ]
    assert block.layers[2] == Dropout(0.25)


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: temporal_convolutions(8), ValueError, "nothing says how many blocks"),
    (lambda: temporal_convolutions([8], time=5), ValueError, "expected one number with time"),
    (lambda: temporal_convolutions([]), ValueError, "channels is empty"),
    (lambda: temporal_convolutions([0]), ValueError, r"channels\[0\] is 0"),
    (lambda: temporal_convolutions("8"), TypeError, "channels is '8'"),
    (lambda: temporal_convolutions(8, kernel=1, time=5), ValueError, "kernel is 1"),
    (lambda: temporal_convolutions([8], dropout=1.5), ValueError, "rate is 1.5"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=[row[2] for row in BAD])
def test_a_bad_argument_of_a_recipe_names_itself(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()
