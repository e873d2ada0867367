"""Arrays whose ends lie beyond 2³¹ bytes and 2³¹ elements.

They are of zeros that nobody has written to, which take addresses and no memory; only rows at
the end are written and read. What cannot be tested so is a batch or a
layer that large, or examples that lie as columns, which a step copies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlp_xp import MLP
from mlp_xp.compile.step import CompiledStep
from mlp_xp.training import Data
from mlp_xp.types import State

N, K = 1000, 12  # features; rows that are read
BEYOND = 2**31  # elements, and more bytes


def _rows(dtype: str) -> Any:
    """(m, N), of which the last K are random."""
    try:
        rows = np.zeros((BEYOND // N + 100, N), dtype)
    except MemoryError:
        pytest.skip(f"this machine gives no {BEYOND * np.dtype(dtype).itemsize:,} addresses")
    rows[-K:] = np.random.default_rng(0).normal(size=(K, N))
    return rows


def _stepped(model: MLP, rows: Any, index: Any, y: Any) -> Any:
    start = model._run.state
    step = CompiledStep(model._recipe, model.device, Data(rows, y, None))
    copies = State(start.theta.copy(), tuple(M.copy() for M in start.moments), *start[2:])
    return step(copies, index, None, 0.01)


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_examples_beyond_two_to_the_31_are_those_that_are_read(
    dtype: str, native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLP_XP_NATIVE", native)
    rows, model = _rows(dtype), MLP((N, 4, 3), dtype=dtype)
    m, last = len(rows), np.random.default_rng(1).permutation(K)
    y = np.zeros(m, np.int64)
    y[-K:] = np.arange(K) % 3
    found = _stepped(model, rows, m - K + last, y)
    expected = _stepped(model, np.array(rows[-K:]), last, y[-K:])
    np.testing.assert_array_equal(found.theta, expected.theta)
    scores = model._scores_by(model._recipe, model._run.state, rows[-K:])
    few = model._scores_by(model._recipe, model._run.state, np.array(rows[-K:]))
    np.testing.assert_allclose(scores, few, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 4, 8])
def test_the_runtime_gathers_from_beyond_two_to_the_31(size: int) -> None:
    """Rows of one to eight bytes, by numbers beyond 2³¹ where they have one."""
    import ctypes

    from mlp_xp.fast import native

    if not native.available():
        pytest.skip(native.status())
    m = 2**32 // size + 100 if size > 1 else 2**31 + 100
    data = np.zeros(m, f"u{size}")
    data[-K:] = np.arange(1, K + 1)
    index = np.arange(m - 1, m - K - 1, -1, dtype=np.int64)
    out = np.zeros(K, data.dtype)
    words = np.zeros(16, np.int64)
    words[:2] = native.entry(native.runtime(), "gather"), 1
    words[2:7] = out.ctypes.data, data.ctypes.data, index.ctypes.data, K, size
    native.runtime().run(words.ctypes.data_as(ctypes.c_void_p), 1)
    np.testing.assert_array_equal(out, np.arange(K, 0, -1))
