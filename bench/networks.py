"""Several networks trained at once, beside `vmap` of PyTorch and JAX, compiled.

    python bench/networks.py [CASE …] [--rounds 9] [--json FILE]

Each network has weights of its own and batches of its own out of the same examples. A side's
step is that of all: gather, forward, backward and Adam, float32, on all cores.

    mlp_xp               `MLP(sizes, seed=[0, 1, …])`, the step that `fit` uses
    one after the other  the same networks as models of their own, each a step in its turn
    PyTorch, vmap        `torch.func.vmap` of `grad_and_value`, and Adam, one compiled graph
    JAX, vmap            `jax.vmap` of `value_and_grad`, and Adam, jitted; its state is donated

Before anything is timed the losses of the first three steps have to be equal. Sides take turns;
a row is the median of each, and the median, least and most of their ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from beyond import Side, kept, told, turns
from cases import BETA1, BETA2, EPSILON, RATE

from mlp_xp import MLP
from mlp_xp.fitting import copied
from mlp_xp.training import Data, stepper

N_ORDERS = 8
PROVEN = 3  # steps


class Case(NamedTuple):
    """Sizes, examples of a batch, and the number of networks."""

    sizes: tuple[int, ...]
    m: int
    n: int


CASES = {
    "8 of 20-16-3, batch 32": Case((20, 16, 3), 32, 8),
    "64 of 20-16-3, batch 32": Case((20, 16, 3), 32, 64),
    "16 of 64-64-64-10, batch 64": Case((64, 64, 64, 10), 64, 16),
    "8 of 784-100-10, batch 32": Case((784, 100, 10), 32, 8),
    "8 of 784-256-10, batch 128": Case((784, 256, 10), 128, 8),
}


class Given(NamedTuple):
    """Examples, the index of every batch (n, m), and each layer's W (n, out, in), b (n, out)."""

    rows: np.ndarray
    labels: np.ndarray
    order: list[np.ndarray]
    layers: list[tuple[np.ndarray, np.ndarray]]


class Contestant(NamedTuple):
    """A side, and the losses (n,) of its next step."""

    side: Side
    losses: Callable[[], np.ndarray]


def given(case: Case) -> Given:
    """The same for all sides."""
    rng = np.random.default_rng(0)
    total = 8 * case.m
    rows = rng.random((total, case.sizes[0]), dtype=np.float32)
    labels = rng.integers(0, case.sizes[-1], total)
    order = [
        np.stack([rng.permutation(total)[: case.m] for _ in range(case.n)]) for _ in range(N_ORDERS)
    ]
    made = MLP(case.sizes, seed=list(range(case.n))).parameters
    numbers = range(1, len(case.sizes))
    layers = [(made[f"W{i}"].copy(), made[f"b{i}"][..., 0].copy()) for i in numbers]
    return Given(rows, labels, order, layers)


def stepping(
    step: Callable[[int], Any],
    losses: Callable[[], Any],
    wait: Callable[[], Any],
    inside: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Any:
    """Steps over the orders, one after another, all of a turn inside a context."""
    number = 0

    def run(n: int) -> None:
        nonlocal number
        with inside():
            for _ in range(n):
                step(number % N_ORDERS)
                number += 1

    def next_losses() -> np.ndarray:
        run(1)
        wait()
        return np.asarray(losses(), np.float64).reshape(-1)

    return Contestant(Side(run, wait), next_losses)


def ours(case: Case, known: Given, at_once: bool) -> Contestant:
    """All as one model, or as many."""
    seeds: list[Any] = [list(range(case.n))] if at_once else list(range(case.n))
    models = [MLP(case.sizes, seed=seed) for seed in seeds]
    device, data = models[0].device, Data(known.rows, known.labels)
    steps = [stepper(model._recipe, device, data) for model in models]
    states = [copied(device, model._run.state) for model in models]

    def step(i: int) -> None:
        index = known.order[i]
        for k, one in enumerate(steps):
            states[k] = one(states[k], index if at_once else index[k], None, RATE)

    def losses() -> Any:
        return np.concatenate([np.ravel(state.loss) for state in states])

    return stepping(step, losses, lambda: None, lambda: models[0].network.threads(device, case.m))


def torchs(case: Case, known: Given) -> Contestant:
    """`vmap`, and Adam by hand in place: one compiled graph, as in `with_torch.py`."""
    import torch
    from torch.nn import functional

    rows, labels = torch.from_numpy(known.rows), torch.from_numpy(known.labels)
    order = [torch.from_numpy(index) for index in known.order]
    flat = [torch.from_numpy(array.copy()) for pair in known.layers for array in pair]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in flat]
    powers, betas = torch.ones(2, dtype=torch.float64), torch.tensor([BETA1, BETA2]).double()

    def objective(flat: Any, X: Any, y: Any) -> Any:
        for i in range(0, len(flat), 2):
            X = functional.linear(X, flat[i], flat[i + 1])
            X = X if i == len(flat) - 2 else functional.relu(X)
        return functional.cross_entropy(X, y)

    gradient = torch.func.vmap(torch.func.grad_and_value(objective))

    @torch.compile
    def update(flat: Any, moments: Any, powers: Any, index: Any) -> Any:
        gradients, losses = gradient(flat, rows[index], labels[index])
        powers.mul_(betas)
        corrections = 1 - powers
        rate = (RATE / corrections[0]).to(rows.dtype)
        root = torch.sqrt(corrections[1]).to(rows.dtype)
        for p, g, (m, s) in zip(flat, gradients, moments, strict=True):
            m.mul_(BETA1).add_(g, alpha=1 - BETA1)
            s.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            p.sub_(rate * m / (s.sqrt() / root + EPSILON))
        return losses

    last: Any = None

    def step(i: int) -> None:
        nonlocal last
        with torch.no_grad():
            last = update(flat, moments, powers, order[i])

    return stepping(step, lambda: last.numpy(), lambda: None)


def jaxs(case: Case, known: Given) -> Contestant:
    """`vmap`, and Adam, jitted."""
    import jax
    import jax.numpy as jnp

    rows, labels = jnp.asarray(known.rows), jnp.asarray(known.labels)
    order = [jnp.asarray(index) for index in known.order]

    def objective(layers: Any, X: Any, y: Any) -> Any:
        for W, b in layers[:-1]:
            X = jax.nn.relu(X @ W.T + b)
        W, b = layers[-1]
        S = X @ W.T + b
        right = jnp.take_along_axis(S, y[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(S, axis=1) - right)

    gradient = jax.vmap(jax.value_and_grad(objective))

    def one(state: Any, index: Any) -> Any:
        layers, m1, m2, t, _ = state
        losses, g = gradient(layers, rows[index], labels[index])
        t = t + 1
        first, second = (-jnp.expm1(t * np.log(beta)) for beta in (BETA1, BETA2))
        m1 = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m1, g)
        m2 = jax.tree.map(lambda s, g: BETA2 * s + (1 - BETA2) * g * g, m2, g)
        layers = jax.tree.map(
            lambda p, m, s: p - RATE * (m / first) / (jnp.sqrt(s / second) + EPSILON),
            layers,
            m1,
            m2,
        )
        return layers, m1, m2, t, losses

    update = jax.jit(one, donate_argnums=0)
    layers = jax.tree.map(jnp.asarray, known.layers)
    zeros = [jax.tree.map(jnp.zeros_like, layers) for _ in range(2)]
    state = (layers, *zeros, jnp.zeros((), jnp.float32), jnp.zeros(case.n, jnp.float32))

    def step(i: int) -> None:
        nonlocal state
        state = update(state, order[i])

    return stepping(step, lambda: state[-1], lambda: jax.block_until_ready(state))


def contestants(case: Case) -> Iterator[tuple[str, Contestant]]:
    """All, by their names."""
    known = given(case)
    yield "mlp_xp", ours(case, known, at_once=True)
    yield "one after the other", ours(case, known, at_once=False)
    yield "PyTorch, vmap", torchs(case, known)
    yield "JAX, vmap", jaxs(case, known)


def measure(name: str, rounds: int) -> dict[str, Any]:
    """One row, when all have been proven equal."""
    case = CASES[name]
    found = dict(contestants(case))
    expected: list[np.ndarray] = []
    for side, contestant in found.items():
        losses = [contestant.losses() for _ in range(PROVEN)]
        expected = expected or losses
        if not np.allclose(losses, expected, rtol=1e-4):
            off = np.abs(np.subtract(losses, expected)).max()
            raise AssertionError(f"{name}: the losses of {side} differ by {off}")
    if np.allclose(expected[0], expected[-1], rtol=1e-3):
        raise AssertionError(f"{name}: {PROVEN} steps change nothing that could be compared")
    sides = {side: contestant.side for side, contestant in found.items()}
    work = sum(6 * case.n * case.m * a * b for a, b in pairwise(case.sizes))
    return {"case": name, "flop": work, **turns(sides, rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="all without a name")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for name in args.cases or CASES:
        rows.append(measure(name, args.rounds))
        print(told(rows[-1]), flush=True)
    kept(rows, args.json, "cpu")


if __name__ == "__main__":
    main()
