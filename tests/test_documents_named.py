"""What the documents name without showing it: every row of that table is trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp import Sequential, check_gradients, layers
from mlp_xp.data import load
from mlp_xp.layers import Dense, Flatten

TEXT = (Path(__file__).parent.parent / "docs" / "documents.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| (\d) \| ([^|]+) \| `(\[[^`]+\])`(?:, with `(\w+)=([^`]+)`)? \| `(\([^`]+\))` \|$", re.M
)
ROWS = ROW.findall(TEXT)
WANTED = {
    "3": {"fully connected", "convolutional", "dilated", "recurrent", "skip / residual", "random"},
    "2": {"CNNs", "LSTMs", "GRUs", "dropout, batch normalization"},
}


def test_every_pattern_and_every_network_that_is_named_has_a_row() -> None:
    for document, names in WANTED.items():
        assert {row[1] for row in ROWS if row[0] == document} == names


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"document {row[0]}, {row[1]}")
def test_what_a_document_names_learns_the_digits(row: tuple[str, ...]) -> None:
    _, _, text, option, value, shape = row
    data = load("digits")
    assert data.y is not None
    X, y = data.X / 16, data.y
    kinds: list[Any] = eval(text, dict(vars(layers)))
    options = {option: float(value)} if option else {}
    model = Sequential(
        eval(shape), [*kinds, Flatten(), Dense(10)], learning_rate=0.01, seed=0, **options
    )
    check = check_gradients(model, X[:6], y[:6], layout="rows")
    assert check.passed, check
    model.fit(X[:1400], y[:1400], epochs=15, schedule="one_cycle", progress=False, layout="rows")
    assert model.evaluate(X[1400:], y[1400:]).score > 0.85
    assert np.isfinite(model.history["loss"]).all()
