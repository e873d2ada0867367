"""Gradients and whole trainings against PyTorch, on random architectures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_activations import TORCH
from test_losses import TORCH as TORCH_LOSSES
from test_losses import targets
from test_optimizers import TORCH as TORCH_OPTIMIZERS

from mlp_xp import ACTIVATIONS, LOSSES, MLP, inspect_step
from mlp_xp.draws import Purpose, permutation

N_ARCHITECTURES = 24


def architecture(seed: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Settings of an MLP, X and targets."""
    rng = np.random.default_rng(seed)
    loss = str(rng.choice(list(TORCH_LOSSES)))
    n_out = 1 if LOSSES[loss].kind == "binary" else int(rng.integers(2, 5))
    hidden = rng.integers(2, 7, rng.integers(0, 4)).tolist()
    settings = {
        "sizes": (int(rng.integers(1, 6)), *hidden, n_out),
        "activation": [str(rng.choice(list(TORCH))) for _ in hidden],
        "normalization": str(rng.choice(["none", "batch", "layer"])),
        "residual": bool(rng.integers(2)),
        "loss": loss,
        "dtype": "float64",
        "seed": seed,
    }
    m = int(rng.integers(3, 12))
    return settings, rng.normal(size=(settings["sizes"][0], m)), targets(loss, rng, n_out, m)


def torch_scores(torch: Any, model: MLP, parameters: dict[str, Any], X: Any) -> Any:
    """The same network written with torch's own layers, examples as rows."""
    nn = torch.nn.functional
    A = X
    for i, activation in enumerate(model.network.activations, 1):
        W, b = parameters[f"W{i}"], parameters[f"b{i}"][:, 0]
        if model.network.normalization == "none":
            Z = nn.linear(A, W, b)
        else:
            S, gain = nn.linear(A, W), parameters[f"gain{i}"][:, 0]
            if model.network.normalization == "batch":
                Z = nn.batch_norm(S, None, None, gain, b, training=True, eps=1e-5)
            else:
                Z = nn.layer_norm(S, S.shape[1:], gain, b, eps=1e-5)
        name = next(name for name, row in ACTIVATIONS.items() if row is activation)
        function, arguments = TORCH[name]
        H = getattr(nn, function)(Z, **arguments)
        if model.network.residual:
            P = parameters.get(f"P{i}")
            H = H + (A if P is None else nn.linear(A, P))
        A = H
    last = len(model.network.sizes) - 1
    return nn.linear(A, parameters[f"W{last}"], parameters[f"b{last}"][:, 0])


def torch_loss(torch: Any, name: str, S: Any, T: Any) -> Any:
    """The mean over examples, which are rows here."""
    return TORCH_LOSSES[name](torch.nn.functional, S.T, T.T).mean()


def as_torch(torch: Any, model: MLP) -> dict[str, Any]:
    return {
        name: torch.tensor(np.array(value), requires_grad=True)
        for name, value in model.parameters.items()
    }


@pytest.mark.parametrize("seed", range(N_ARCHITECTURES))
def test_gradients_are_those_of_autograd(torch: Any, seed: int) -> None:
    settings, X, Y = architecture(seed)
    model = MLP(**settings)
    seen = inspect_step(model, X, Y, layout="columns")
    parameters = as_torch(torch, model)
    S = torch_scores(torch, model, parameters, torch.tensor(X.T))
    J = torch_loss(torch, settings["loss"], S, torch.tensor(Y.T))
    J.backward()
    np.testing.assert_allclose(seen["loss"], J.item(), rtol=1e-10)
    for name, parameter in parameters.items():
        np.testing.assert_allclose(
            seen[f"d{name}"], parameter.grad, rtol=1e-7, atol=1e-10, err_msg=name
        )


@pytest.mark.parametrize("optimizer", TORCH_OPTIMIZERS)
@pytest.mark.parametrize("seed", [3, 7])
def test_whole_trainings_are_those_of_torch(torch: Any, optimizer: str, seed: int) -> None:
    settings, X, Y = architecture(seed)
    model = MLP(**settings, optimizer=optimizer, learning_rate=0.01, weight_decay=0.0)
    parameters = as_torch(torch, model)
    reference = TORCH_OPTIMIZERS[optimizer](torch.optim, list(parameters.values()), 0.01)
    epochs, m = 6, X.shape[1]
    model.fit(X, Y, epochs=epochs, batch_size=m, progress=False, layout="columns")
    losses = []
    for epoch in range(epochs):
        order = permutation(settings["seed"], Purpose.SHUFFLE, epoch, m).copy()
        reference.zero_grad()
        S = torch_scores(torch, model, parameters, torch.tensor(X.T[order]))
        J = torch_loss(torch, settings["loss"], S, torch.tensor(Y.T[order]))
        J.backward()
        reference.step()
        losses.append(J.item())
    np.testing.assert_allclose(model.history["loss"], losses, rtol=1e-7)
    for name, value in model.parameters.items():
        # a bias without effect on the loss may carry rounding noise through 1 / √s
        np.testing.assert_allclose(
            value, parameters[name].detach(), rtol=1e-5, atol=1e-7, err_msg=name
        )
