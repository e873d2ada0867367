"""Training steps beyond the plain network, beside PyTorch's: layers of every kind.

    python bench/beyond.py [CASE …] [--rounds 9] [--json FILE]
    python bench/beyond.py --device cuda

On the CPU beside PyTorch, eager and compiled (forward, backward and loss; its fused Adam), and
JAX, which compiles this library's own step as one program where its formulas can be jitted (not
those of convolutions). On CUDA beside PyTorch, eager and as a CUDA graph of the whole step.

All have the same weights (`mlp_xp.to_torch`) and the same batch. Before anything is timed the
first step's losses have to be equal, and so have PyTorch's scores. Then all sides take turns; a
row is the median of each, and the median, least and most of their ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlp_xp import MLP, Sequential, to_torch
from mlp_xp.fitting import copied
from mlp_xp.layers import (
    GRU,
    LSTM,
    Activation,
    Conv1d,
    Conv2d,
    Dense,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    MaxPool,
    Residual,
)
from mlp_xp.training import Data, bits_for, columns, stepper, train_step

M = 128
WIDE = (784, 256, 256, 10)
SECONDS, REST = 0.1, 0.05  # of one turn, at least, and before it


class Case(NamedTuple):
    """A model, the shape of an example, and whether steps are clipped."""

    make: Callable[[], Any]
    shape: tuple[int, ...]
    clip: float | None = None
    m: int = M


def _deep() -> Any:
    block = Residual([LayerNorm(), Dense(128), Activation("gelu"), Dense(128)])
    return Sequential(784, [Dense(128), *[block] * 6, LayerNorm(), Dense(10)], seed=0)


def _convolutions() -> Any:
    layers = [Conv2d(32, 3), Activation(), MaxPool(2), Conv2d(64, 3), Activation(), MaxPool(2)]
    return Sequential(
        (1, 28, 28), [*layers, Flatten(), Dense(128), Activation(), Dense(10)], seed=0
    )


def _padded() -> Any:
    def of(channels: int) -> list[Any]:
        return [Conv2d(channels, 3, padding="same"), Activation()]

    layers = [*of(32), *of(32), MaxPool(2), *of(64), MaxPool(2), Flatten(), Dense(10)]
    return Sequential((3, 32, 32), layers, seed=0)


def _depthwise() -> Any:
    block = [Conv2d(32, 3, padding="same", groups=32), Conv2d(32, 1), Activation()]
    return Sequential(
        (1, 28, 28),
        [Conv2d(32, 3, stride=2), Activation(), *block, GlobalAvgPool(), Dense(10)],
        seed=0,
    )


def _dilated() -> Any:
    layers: list[Any] = []
    for dilation in (1, 2, 4, 8):
        layers += [Conv1d(32, 3, dilation=dilation, padding="same"), Activation()]
    return Sequential((8, 100), [*layers, GlobalAvgPool(), Dense(10)], seed=0)


CASES: dict[str, Case] = {
    "plain": Case(lambda: MLP(WIDE, seed=0), (784,)),
    "batch norm": Case(lambda: MLP(WIDE, normalization="batch", seed=0), (784,)),
    "layer norm": Case(lambda: MLP(WIDE, normalization="layer", seed=0), (784,)),
    "dropout": Case(lambda: MLP(WIDE, dropout=0.2, seed=0), (784,)),
    "batch norm, dropout, residual": Case(
        lambda: MLP(
            (784, 256, 256, 256, 10), normalization="batch", dropout=0.2, residual=True, seed=0
        ),
        (784,),
    ),
    "the same, small": Case(
        lambda: MLP((20, 16, 16, 16, 3), normalization="batch", dropout=0.2, residual=True, seed=0),
        (20,),
        m=32,
    ),
    "clipped": Case(lambda: MLP(WIDE, clip_norm=1.0, seed=0), (784,), clip=1.0),
    "deep, layer norm and residual": Case(_deep, (784,)),
    "two convolutions": Case(_convolutions, (1, 28, 28)),
    "three convolutions": Case(_padded, (3, 32, 32), m=64),
    "depthwise": Case(_depthwise, (1, 28, 28)),
    "dilated": Case(_dilated, (8, 100)),
    "gru": Case(lambda: Sequential((28, 28), [GRU(128), Dense(10)], seed=0), (28, 28)),
    "lstm": Case(lambda: Sequential((28, 28), [LSTM(128), Dense(10)], seed=0), (28, 28)),
}


class Side(NamedTuple):
    """A contestant: `run` takes n steps, and `wait` until they are done."""

    run: Callable[[int], None]
    wait: Callable[[], object]


AT_ONCE = 64  # steps of an epoch on a device that takes several at once


def ours(model: Any, X: Any, y: Any, m: int) -> tuple[Side, float]:
    """Steps as `fit` makes them, and the first one's loss."""
    device, network = model.device, model.network
    put = device.put
    step: Any = stepper(model._recipe, device, Data(put(X), put(y)))
    rng = np.random.default_rng(1)
    order = [rng.permutation(len(X))[:m] for _ in range(AT_ONCE)]

    def bits_at(number: int) -> Any:
        return bits_for(device, network, model.seeds, (), number, m)

    state = copied(device, model._run.state)
    with network.threads(device, m):
        begin = step
        if network.n_dropped and hasattr(step, "several"):  # it cannot leave out the dropping
            begin = stepper(model._recipe, device._replace(stepper=None), step.data)
        after = begin(copied(device, state), put(np.arange(m)), None, 0.001)
        first = float(device.get(after.loss))
    bits, index = bits_at(0), put(np.concatenate(order))

    def run(n: int) -> None:
        nonlocal state
        with network.threads(device, m):
            for i in range(n):
                state = step(state, order[i % len(order)], bits, 0.001)

    def epochs(n: int) -> None:
        nonlocal state
        for _ in range(n // AT_ONCE):
            step.announce(state, index, [0.001] * AT_ONCE)
            for _ in range(AT_ONCE // step.most):
                state = step.several(state, bits_at(state.step), m, step.most)

    return Side(epochs if hasattr(step, "several") else run, device.synchronize), first


def torchs(model: Any, case: Case, X: Any, y: Any, how: str) -> tuple[Side, float]:
    """The same by PyTorch: forward, backward, Adam.

    how  "", "compiled", or "CUDA graph" of the whole step
    """
    import torch

    where = "cpu" if model.device.name == "cpu" else "cuda"
    torch.backends.cudnn.allow_tf32 = False  # as the products, and ours
    module = to_torch(model).to(where)
    inputs, labels = torch.from_numpy(X).to(where), torch.from_numpy(y).to(where)
    loss_of = torch.nn.CrossEntropyLoss()
    with torch.no_grad():
        scores = module(inputs[: case.m]).cpu().numpy()
    mine = model.device.get(model.scores(X[: case.m], layout="rows"))
    if not np.allclose(scores, mine, rtol=1e-3, atol=1e-4):
        raise AssertionError(f"scores differ by {np.abs(scores - mine).max()}")
    module.train()
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.eval()
    first = float(loss_of(module(inputs[: case.m]), labels[: case.m]).detach())
    module.train()
    captured = how == "CUDA graph"
    optimizer = torch.optim.Adam(module.parameters(), lr=0.001, fused=True, capturable=captured)
    rng = torch.Generator().manual_seed(1)
    order = [torch.randperm(len(X), generator=rng)[: case.m].to(where) for _ in range(8)]
    index = order[0].clone()

    def objective(index: Any) -> Any:
        return loss_of(module(inputs[index]), labels[index])

    if how == "compiled":
        torch._dynamo.reset()  # or from the ninth case on it gives up, and runs eagerly
        objective = torch.compile(objective)

    def step(index: Any) -> None:
        objective(index).backward()
        if case.clip is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), case.clip)
        optimizer.step()

    def run(n: int) -> None:
        for i in range(n):
            optimizer.zero_grad(set_to_none=True)
            step(order[i % 8])

    wait = (lambda: None) if where == "cpu" else torch.cuda.synchronize
    if not captured:
        return Side(run, wait), first
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        run(3)
    torch.cuda.current_stream().wait_stream(aside)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(index)

    # the graph knows addresses alone: what lies there must live as long
    def replay(n: int, kept: Any = step) -> None:
        for i in range(n):
            index.copy_(order[i % 8])
            graph.replay()

    return Side(replay, wait), first


def jaxs(model: Any, case: Case, X: Any, y: Any) -> tuple[Side, float]:
    """This library's own step, compiled by JAX: gather, forward, backward and Adam in one."""
    import jax
    import jax.numpy as jnp

    recipe, network = model._recipe, model.network
    rows, labels = jnp.asarray(X), jnp.asarray(y)
    betas = jnp.asarray([recipe.optimizer.beta1, recipe.optimizer.beta2])

    def one(state: Any, t: Any, index: Any, bits: Any) -> Any:
        # 1 - βᵗ in float32 loses four digits at first
        first, second = -jnp.expm1((t + 1) * jnp.log(betas))
        given = _Scalars(recipe.optimizer, (0.001 / first, jnp.sqrt(second)))
        own, data = replace(recipe, optimizer=given), Data(rows, labels)
        X, T = columns(own, jnp, data, rows[index], labels[index])
        after = train_step(own, jnp, state._replace(step=0), X, T, None, bits, 0.001)
        return after._replace(step=0), t + 1

    compiled = jax.jit(one, donate_argnums=(0, 1))

    def begun() -> Any:
        state = copied(model.device, model._run.state)
        return jax.tree.map(jnp.array, state._replace(step=0)), jnp.zeros(())

    rng = np.random.default_rng(1)
    order = [jnp.asarray(rng.permutation(len(X))[: case.m]) for _ in range(8)]
    first = float(compiled(*begun(), jnp.arange(case.m), None)[0].loss)
    bits = bits_for(model.device, network, model.seeds, (), 0, case.m)
    bits = None if bits is None else jnp.asarray(bits)
    state = begun()

    def run(n: int) -> None:
        nonlocal state
        for i in range(n):
            state = compiled(*state, order[i % 8], bits)

    return Side(run, lambda: jax.block_until_ready(state)), first


class _Scalars:
    """Adam whose scalars are given, as they are made where the step is compiled."""

    def __init__(self, optimizer: Any, scalars: tuple[Any, ...]) -> None:
        self.optimizer, self.given = optimizer, scalars

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)

    def scalars(self, rate: Any, step: int) -> tuple[Any, ...]:
        return self.given


def timed(side: Side, n: int) -> float:
    """Seconds a step, after the threads of whoever had the turn before have gone to sleep."""
    time.sleep(REST)
    side.run(1)
    side.wait()
    began = time.perf_counter()
    side.run(n)
    side.wait()
    return (time.perf_counter() - began) / n


def measure(name: str, rounds: int, device: str) -> dict[str, Any]:
    """One row."""
    case = CASES[name]
    rng = np.random.default_rng(0)
    n_features = int(np.prod(case.shape))
    X = rng.random((8 * case.m, n_features), dtype=np.float32)
    model = moved(case.make(), device)
    y = rng.integers(0, model.network.sizes[-1], len(X))
    mine, first = ours(model, X, y, case.m)
    sides, makers = {"mlp_xp": mine}, dict[str, Callable[[], tuple[Side, float]]]()
    for how in ("", "CUDA graph") if device == "cuda" else ("", "compiled"):
        name_of = f"PyTorch, {how}" if how else "PyTorch"
        makers[name_of] = partial(torchs, model, case, X, y, how)
    if device == "cpu" and (len(case.shape) == 1 or name in ("gru", "lstm")):
        makers["JAX"] = partial(jaxs, model, case, X, y)
    for side, make in makers.items():
        sides[side], expected = make()
        if not np.isclose(first, expected, rtol=1e-3):
            raise AssertionError(f"{name}: the first loss is {first}, that of {side} {expected}")
    return {"case": name, **turns(sides, rounds, AT_ONCE if device == "cuda" else 1)}


def turns(sides: dict[str, Side], rounds: int, least: int = 1) -> dict[str, Any]:
    """All sides in turns: µs a step of the first, and of the others beside it.

    least  steps that are taken at once
    """
    counts = {}
    for name, side in sides.items():
        timed(side, max(3, least))
        found = max(1, int(SECONDS / timed(side, max(2, least))))
        counts[name] = -(-found // least) * least
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides) if turn % 2 else reversed(list(sides)):
            times[name].append(timed(sides[name], counts[name]))
    first, *others = sides
    row: dict[str, Any] = {"microseconds": 1e6 * statistics.median(times[first]), "peers": {}}
    for name in others:
        ratios = [b / a for a, b in zip(times[first], times[name], strict=True)]
        row["peers"][name] = {
            "microseconds": 1e6 * statistics.median(times[name]),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
        }
    return row


def moved(model: Any, device: str) -> Any:
    """The same model on a device."""
    if device == "cpu":
        return model
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        return type(model).load(path, device=device)


def told(row: dict[str, Any]) -> str:
    line = f"{row['case']:32s} {row['microseconds']:10.0f} µs"
    for name, other in row["peers"].items():
        line += f"; {name} {other['microseconds']:.0f}: {other['ratio']:.2f}"
        line += f" ({other['least']:.2f} to {other['most']:.2f})"
    return line


def kept(rows: list[dict[str, Any]], path: Path | None, device: str) -> None:
    """Write what was found, with where."""
    if path is None:
        return
    import torch

    machine = platform.processor() or platform.machine()
    if device == "cuda":
        machine = torch.cuda.get_device_name()
    found = {"machine": machine, "torch": torch.__version__, "rows": rows}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="all without a name")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; JAX takes all cores")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    rows = []
    for name in args.cases or CASES:
        row = measure(name, args.rounds, args.device)
        rows.append(row)
        print(told(row), flush=True)
    kept(rows, args.json, args.device)


if __name__ == "__main__":
    main()
