"""What layers beyond the fully connected one learn: problems of papers, with all their data.

    python bench/layers.py PROBLEM …         (all of them without a name)

    convolutions  Fashion-MNIST, 60,000 to train on and 10,000 to test: two convolutions with
                  pooling (the data set's own table lists 0.916 for such)
    normalised    the same with padding and batch normalisation
    rows          the same, each image read row by row by a GRU: 28 steps of 28 pixels
    lstm, tcn     the adding problem (Hochreiter & Schmidhuber 1997, "Long Short-Term Memory",
                  §5.4) at T = 100 by an LSTM, and by a temporal convolutional network (Bai,
                  Kolter & Koltun 2018): the sum of two marked numbers of 100 to 110, solved
                  where the error is below 0.04 on all but a few of 2,560 new sequences

Each prints its score, its network and its seconds as it ends. One seed, 0, unless --seed says
another.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mlp_xp import Sequential
from mlp_xp.data import load
from mlp_xp.layers import (
    GRU,
    LSTM,
    Activation,
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    Last,
    MaxPool,
    Reshape,
)
from mlp_xp.layers.base import Kind
from mlp_xp.layers.recipes import temporal_convolutions

Host = npt.NDArray[np.float32]
STEPS, NEW, SOLVED = 100, 2560, 0.04


def fashion() -> tuple[Host, Host, Host, Host]:
    """Images (m, 784) in 0 … 1 and labels, to train on and to test."""
    data = load("fashion-mnist")
    assert data.X_test is not None
    scaled = (part.astype(np.float32) / 255 for part in (data.X, data.X_test))
    X, X_test = scaled
    return X, data.y, X_test, data.y_test  # type: ignore[return-value]


def _sees(layers: list[Kind], seed: int, epochs: int, **options: float) -> str:
    X, y, X_test, y_test = fashion()
    model = Sequential((1, 28, 28), layers, seed=seed, **options)
    model.fit(X, y, epochs=epochs, batch_size=64, schedule="one_cycle", layout="rows")
    return f"{model}: accuracy {model.evaluate(X_test, y_test).score:.4f}"


def convolutions(seed: int, epochs: int) -> str:
    """28×28 → 32 and 64 channels of 3×3 with pooling → 128 → 10."""
    layers = [
        *(Conv2d(32, 3), Activation("relu"), MaxPool(2)),
        *(Conv2d(64, 3), Activation("relu"), MaxPool(2)),
        *(Flatten(), Dense(128), Activation("relu"), Dropout(0.4), Dense(10)),
    ]
    return _sees(layers, seed, epochs, learning_rate=0.002)


def normalised(seed: int, epochs: int) -> str:
    """The same, padded, each convolution with batch normalisation."""
    layers = [
        *(Conv2d(32, 3, padding="same", bias=False), BatchNorm(), Activation("relu"), MaxPool(2)),
        *(Conv2d(64, 3, padding="same", bias=False), BatchNorm(), Activation("relu"), MaxPool(2)),
        *(Flatten(), Dropout(0.3), Dense(128), Activation("relu"), Dropout(0.3), Dense(10)),
    ]
    return _sees(layers, seed, epochs, learning_rate=0.003, label_smoothing=0.05)


def rows(seed: int, epochs: int) -> str:
    """28 steps of 28 pixels → GRU of 128 → 10."""
    X, y, X_test, y_test = (
        part.reshape(-1, 28, 28).swapaxes(1, 2).reshape(-1, 784) if part.ndim == 2 else part
        for part in fashion()
    )
    layers = [Reshape((28, 28)), GRU(128), Dense(10)]
    model = Sequential((784,), layers, learning_rate=0.004, clip_norm=1.0, seed=seed)
    model.fit(X, y, epochs=epochs, batch_size=128, schedule="one_cycle", layout="rows")
    return f"{model}: accuracy {model.evaluate(X_test, y_test).score:.4f}"


def adding(m: int, seed: int) -> tuple[Host, Host]:
    """Sequences (m, 2 · 110 + 1) with their lengths at the end, and targets (m,).

    The first of each pair is uniform in [-1, 1]; the second marks two steps by 1, the first
    among the first ten, the other among the first half, and first and last step by -1. The
    target is 0.5 + (X1 + X2) / 4; a number at the first step counts as 0.
    """
    rng, longest = np.random.default_rng(seed), STEPS + STEPS // 10
    lengths = rng.integers(STEPS, longest + 1, m)
    values = rng.uniform(-1, 1, (m, longest))
    marks = np.zeros((m, longest))
    every = np.arange(m)
    first = rng.integers(0, 10, m)
    second = rng.integers(0, STEPS // 2 - 1, m)
    second += second >= first
    marks[:, 0] = -1
    marks[every, lengths - 1] = -1
    marks[every, first] = marks[every, second] = 1
    values[:, 0][marks[:, 0] == 1] = 0
    y = 0.5 + (values[every, first] + values[every, second]) / 4
    after = np.arange(longest) >= lengths[:, None]
    values[after] = marks[after] = 0
    X = np.concatenate([values, marks, lengths[:, None]], axis=1)
    return X.astype(np.float32), y.astype(np.float32)


def _adds(layers: list[Kind], seed: int, epochs: int, m: int, rate: float) -> str:
    X, y = adding(m, seed)
    X_new, y_new = adding(NEW, 10_000 + seed)
    model = Sequential(
        (2, STEPS + STEPS // 10),
        layers,
        lengths=True,
        loss="squared_error",
        learning_rate=rate,
        clip_norm=1.0,
        seed=seed,
    )
    model.fit(X, y, epochs=epochs, batch_size=64, schedule="one_cycle", layout="rows")
    error = np.abs(model.predict(X_new) - y_new)
    wrong = int(np.sum(error >= SOLVED))
    return f"{model}: {wrong} of {NEW:,} wrong, mean error {error.mean():.4f}"


def lstm(seed: int, epochs: int) -> str:
    """LSTM of 32 → 1; its gates begin by remembering, as the paper's, which had none to forget."""
    return _adds([LSTM(32, forget_bias=6.0), Dense(1)], seed, epochs, 60_000, 0.005)


def tcn(seed: int, epochs: int) -> str:
    """Residual blocks of causal convolutions, 16 channels, dilation 1, 2, 4 … → 1."""
    blocks = temporal_convolutions(16, kernel=6, time=STEPS + STEPS // 10)
    return _adds([*blocks, Last(), Dense(1)], seed, epochs, 60_000, 0.004)


PROBLEMS: dict[str, tuple[Callable[[int, int], str], int]] = {
    "convolutions": (convolutions, 12),
    "normalised": (normalised, 8),
    "rows": (rows, 8),
    "lstm": (lstm, 8),
    "tcn": (tcn, 6),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("problems", nargs="*", choices=[*PROBLEMS, []], help="all without a name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="other than a problem's own")
    args = parser.parse_args()
    for name in args.problems or PROBLEMS:
        problem, epochs = PROBLEMS[name]
        start = time.perf_counter()
        found = problem(args.seed, args.epochs or epochs)
        seconds = time.perf_counter() - start
        print(f"{name}: {found}, {args.epochs or epochs} epochs, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
