"""Whole trainings of random networks of layers against PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_against_torch import torch_loss
from test_layers_torch import EXHAUSTIVE, TORCH, Rng, Told
from test_optimizers import TORCH as TORCH_OPTIMIZERS

from mlp_xp import Sequential
from mlp_xp.draws import Purpose, permutation
from mlp_xp.layers import (
    GRU,
    LSTM,
    Activation,
    AvgPool,
    BatchNorm,
    Conv1d,
    Conv2d,
    Dense,
    Elman,
    Embedding,
    Flatten,
    GlobalAvgPool,
    Last,
    LayerNorm,
    MaxPool,
    Residual,
)

N_NETWORKS = 40 if EXHAUSTIVE else 12
EPOCHS, M, BATCH, N_OUT = 5, 12, 6, 3


def one_of(rng: Rng, *choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def images(rng: Rng) -> tuple[tuple[int, ...], list[Any]]:
    """Convolutions, normalised or not, pooling and a residual block."""
    shape = (int(rng.integers(1, 3)), int(rng.integers(6, 9)), int(rng.integers(6, 9)))
    n = int(rng.integers(2, 4)) * 2
    norm = one_of(rng, [], [BatchNorm()], [LayerNorm()], [LayerNorm("all")])
    first = Conv2d(n, 3, stride=int(rng.integers(1, 3)), padding="same", bias=not norm)
    inside = Conv2d(
        int(rng.choice([n, n + 2])),
        (2, 3),
        dilation=(1, 2),
        padding="same",
        groups=int(rng.choice([1, 2])),
    )
    pool = one_of(rng, MaxPool(2), AvgPool(2), MaxPool(3, stride=1, padding=1))
    end = one_of(rng, Flatten(), GlobalAvgPool())
    act = Activation(one_of(rng, "tanh", "relu", "silu"))
    return shape, [first, *norm, act, pool, Residual([inside, act]), end, Dense(N_OUT)]


def sequences(rng: Rng) -> tuple[tuple[int, ...], list[Any]]:
    """Recurrent layers or convolutions over time, of features or of embedded numbers."""
    time, n = int(rng.integers(4, 8)), int(rng.integers(2, 5))
    embedded = bool(rng.integers(2))
    shape = (time,) if embedded else (int(rng.integers(1, 4)), time)
    first = [Embedding(5, 3)] if embedded else []
    make = one_of(rng, Elman, GRU, LSTM)
    middle = one_of(
        rng,
        [make(n, returns="all", directions=int(rng.integers(1, 3))), LayerNorm()],
        [Conv1d(n, 3, padding="same"), Activation("tanh")],
        [Residual([Conv1d(n, 2, dilation=2, padding="causal"), Activation("relu")])],
    )
    again = one_of(rng, Elman, GRU, LSTM)(n, directions=int(rng.integers(1, 3)))
    end = one_of(rng, again, again, GlobalAvgPool(), Last())
    return shape, [*first, *middle, end, Dense(N_OUT)]


def of_torch(torch: Any, parts: Any, P: dict[str, Any], X: Any, told: Told) -> Any:
    """A chain of layers in PyTorch, examples first."""
    for part in parts:
        kind, own = part.kind, {p.name: P[part.name(p.name)] for p in part.parameters}
        if isinstance(kind, Dense):
            X = torch.nn.functional.linear(X, own["W"], own["b"][:, 0])
        elif isinstance(kind, Activation):
            functional = torch.tanh if kind.activation == "tanh" else None
            X = (functional or getattr(torch.nn.functional, str(kind.activation)))(X)
        elif isinstance(kind, Residual):
            along = of_torch(torch, kind.inside(part.shape), own, X, told)
            X = along + (torch.einsum("oc,mc...->mo...", own["P"], X) if "P" in own else X)
        else:
            running = {s.name: np.zeros((s.n, 1)) for s in kind.statistics(part.shape)}
            X = TORCH[type(kind)](torch, kind, own, X, told._replace(running=running))
        if told.present is not None and X.ndim == 3:
            X = X * torch.tensor(told.present.T)[:, None, :]
    return X


@pytest.mark.parametrize("seed", range(N_NETWORKS))
def test_whole_trainings_of_layers_are_those_of_torch(torch: Any, seed: int) -> None:
    rng = np.random.default_rng([seed, 11])
    shape, layers = images(rng) if seed % 2 else sequences(rng)
    lengths = len(shape) < 3 and bool(rng.integers(2))
    loss = str(rng.choice(["cross_entropy", "squared_error"]))
    optimizer = str(rng.choice(["sgd", "momentum", "adam"]))
    embedded = isinstance(layers[0], Embedding)
    X = rng.integers(0, 5, (M, *shape)).astype(float) if embedded else rng.normal(size=(M, *shape))
    ends = rng.integers(1, shape[-1] + 1, M)
    rows = X.reshape(M, -1)
    if lengths:
        rows = np.concatenate([rows, ends[:, None]], axis=1)
    labels, Y = np.arange(M) % N_OUT, rng.normal(size=(M, N_OUT))
    T = np.eye(N_OUT)[labels] if loss == "cross_entropy" else Y
    model = Sequential(
        shape,
        layers,
        lengths=lengths,
        loss=loss,
        optimizer=optimizer,
        learning_rate=0.02,
        dtype="float64",
        seed=seed,
    )
    P = {k: torch.tensor(np.array(v), requires_grad=True) for k, v in model.parameters.items()}
    reference = TORCH_OPTIMIZERS[optimizer](torch.optim, list(P.values()), 0.02)
    given = labels if loss == "cross_entropy" else Y
    model.fit(rows, given, epochs=EPOCHS, batch_size=BATCH, progress=False, layout="rows")
    losses = []
    for epoch in range(EPOCHS):
        order, found = permutation(seed, Purpose.SHUFFLE, epoch, M).copy(), []
        for batch in (order[:BATCH], order[BATCH:]):
            present = None
            if lengths:
                present = (np.arange(shape[-1])[:, None] < ends[batch]).astype(float)
            reference.zero_grad()
            inputs = torch.tensor(X[batch])
            if present is not None and not embedded:
                inputs = inputs * torch.tensor(present.T)[:, None, :]
            S = of_torch(torch, model.network.parts, P, inputs, Told(present=present))
            J = torch_loss(torch, loss, S, torch.tensor(T[batch]))
            J.backward()
            reference.step()
            found.append(J.item())
        losses.append(np.mean(found))
    np.testing.assert_allclose(model.history["loss"], losses, rtol=1e-7, err_msg=str(layers))
    for name, value in model.parameters.items():
        # a bias without effect on the loss may carry rounding noise through 1 / √s
        np.testing.assert_allclose(
            value, P[name].detach(), rtol=1e-5, atol=1e-7, err_msg=f"{name} of {layers}"
        )
