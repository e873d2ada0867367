"""What PyTorch has no module of: examples first, features before time, as everywhere here.

They are modules like others: trained, moved, saved. Importing this imports PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Scaled(nn.Module):
    """(X - offset) / divisor of rows (m, n): what a preparation does to features."""

    def __init__(self, offset: Any, divisor: Any) -> None:
        super().__init__()
        self.register_buffer("offset", offset)
        self.register_buffer("divisor", divisor)

    def forward(self, X: Any) -> Any:
        return (X - self.offset) / self.divisor


class FeatureNorm(nn.LayerNorm):
    """Layer normalisation over the features, the first axis of (m, features, places …)."""

    def forward(self, X: Any) -> Any:
        return super().forward(X.movedim(1, -1)).movedim(-1, 1)


class Embedding(nn.Embedding):
    """Whole numbers (m, places …), also as floats, as vectors (m, n, places …)."""

    def forward(self, X: Any) -> Any:
        return super().forward(X.long()).movedim(-1, 1)


class Recurrent(nn.Module):
    """A recurrent module of PyTorch over (m, features, time).

    cell     nn.RNN, nn.GRU or nn.LSTM of one layer, batch_first
    returns  "last": the last states (m, directions · n); "all": (m, directions · n, time)
    """

    def __init__(self, cell: nn.RNNBase, returns: str = "last") -> None:
        super().__init__()
        self.cell, self.returns = cell, returns

    def forward(self, X: Any) -> Any:
        every, last = self.cell(X.movedim(1, -1))
        if self.returns == "all":
            return every.movedim(-1, 1)
        h = last[0] if isinstance(last, tuple) else last
        return torch.cat(list(h), dim=1)

    def extra_repr(self) -> str:
        return f"returns={self.returns!r}"


class Last(nn.Module):
    """The last step: (m, features, time) → (m, features)."""

    def forward(self, X: Any) -> Any:
        return X[..., -1]


class Residual(nn.Module):
    """layers(X) + skip(X)."""

    def __init__(self, layers: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.layers, self.skip = layers, skip

    def forward(self, X: Any) -> Any:
        return self.layers(X) + self.skip(X)


__all__ = ["Embedding", "FeatureNorm", "Last", "Recurrent", "Residual", "Scaled"]
