"""Training steps beyond the plain network, beside PyTorch's: layers of every kind.

    python bench/beyond.py [CASE …] [--rounds 9] [--json FILE]

Each pair has the same weights (`mlp_xp.to_torch`) and the same batch. Before anything is timed
the first step's losses have to be equal, and so have the scores. Then both sides take turns;
a row is the median of each, and the median, least and most of their ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
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
from mlp_xp.training import Data, stepper

M = 128
WIDE = (784, 256, 256, 10)
SECONDS = 0.05  # of one turn, at least


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
    "depthwise": Case(_depthwise, (1, 28, 28)),
    "dilated": Case(_dilated, (8, 100)),
    "gru": Case(lambda: Sequential((28, 28), [GRU(128), Dense(10)], seed=0), (28, 28)),
    "lstm": Case(lambda: Sequential((28, 28), [LSTM(128), Dense(10)], seed=0), (28, 28)),
}


class Side(NamedTuple):
    """A contestant: `run` takes n steps."""

    run: Callable[[int], None]


def ours(model: Any, X: Any, y: Any, m: int) -> tuple[Side, float]:
    """Steps as `fit` makes them, and the first one's loss."""
    step = stepper(model._recipe, model.device, Data(X, y))
    rng = np.random.default_rng(1)
    order = [rng.permutation(len(X))[:m] for _ in range(8)]
    n = model.network.n_dropped * m
    bits = rng.integers(0, 1 << 16, n).astype(np.uint16) if n else None
    state = copied(model.device, model._run.state)
    with model.network.threads(model.device, m):
        first = float(step(copied(model.device, state), np.arange(m), None, 0.001).loss)

    def run(n: int) -> None:
        nonlocal state
        with model.network.threads(model.device, m):
            for i in range(n):
                state = step(state, order[i % 8], bits, 0.001)

    return Side(run), first


def torchs(model: Any, case: Case, X: Any, y: Any) -> tuple[Side, float]:
    """The same by PyTorch: forward, backward, Adam."""
    import torch

    module = to_torch(model)
    inputs, labels = torch.from_numpy(X), torch.from_numpy(y)
    loss_of = torch.nn.CrossEntropyLoss()
    with torch.no_grad():
        scores = module(inputs[: case.m]).numpy()
    mine = model.scores(X[: case.m], layout="rows")
    if not np.allclose(scores, mine, rtol=1e-3, atol=1e-4):
        raise AssertionError(f"scores differ by {np.abs(scores - mine).max()}")
    module.train()
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.eval()
    first = float(loss_of(module(inputs[: case.m]), labels[: case.m]).detach())
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.001, fused=True)
    rng = torch.Generator().manual_seed(1)
    order = [torch.randperm(len(X), generator=rng)[: case.m] for _ in range(8)]

    def run(n: int) -> None:
        for i in range(n):
            index = order[i % 8]
            optimizer.zero_grad(set_to_none=True)
            loss_of(module(inputs[index]), labels[index]).backward()
            if case.clip is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), case.clip)
            optimizer.step()

    return Side(run), first


def timed(side: Side, n: int) -> float:
    began = time.perf_counter()
    side.run(n)
    return (time.perf_counter() - began) / n


def measure(name: str, rounds: int) -> dict[str, Any]:
    """One row."""
    case = CASES[name]
    rng = np.random.default_rng(0)
    n_features = int(np.prod(case.shape))
    X = rng.random((8 * case.m, n_features), dtype=np.float32)
    model = case.make()
    y = rng.integers(0, model.network.sizes[-1], len(X))
    mine, first = ours(model, X, y, case.m)
    theirs, expected = torchs(model, case, X, y)
    if not np.isclose(first, expected, rtol=1e-3):
        raise AssertionError(f"{name}: the first loss is {first}, PyTorch's {expected}")
    sides = [mine, theirs]
    counts = []
    for side in sides:
        side.run(3)
        counts.append(max(1, int(SECONDS / timed(side, 2))))
    times: list[list[float]] = [[], []]
    for turn in range(rounds):
        for i in (0, 1) if turn % 2 else (1, 0):
            side_time = timed(sides[i], counts[i])
            times[i].append(side_time)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    return {
        "case": name,
        "microseconds": 1e6 * statistics.median(times[0]),
        "pytorch": 1e6 * statistics.median(times[1]),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="all without a name")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    rows = []
    for name in args.cases or CASES:
        row = measure(name, args.rounds)
        rows.append(row)
        print(
            f"{name:32s} {row['microseconds']:10.0f} µs, PyTorch {row['pytorch']:10.0f}: "
            f"{row['ratio']:.2f} ({row['least']:.2f} to {row['most']:.2f})",
            flush=True,
        )
    if args.json is not None:
        found = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        args.json.write_text(json.dumps({**found, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
