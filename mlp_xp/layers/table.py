"""The kinds of layers by name, and layers as JSON: what a model's file says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from .. import activations
from ..activations import ACTIVATIONS
from .base import Kind
from .convolution import Conv1d, Conv2d
from .dense import Activation, Dense, Dropout
from .embedding import Embedding
from .normalization import BatchNorm, LayerNorm
from .pooling import AvgPool, GlobalAvgPool, MaxPool
from .recurrent import GRU, LSTM, Elman
from .residual import Residual
from .shapes import Flatten, Last, Reshape

LAYERS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Dense,
        Activation,
        Dropout,
        BatchNorm,
        LayerNorm,
        Conv1d,
        Conv2d,
        MaxPool,
        AvgPool,
        GlobalAvgPool,
        Flatten,
        Reshape,
        Last,
        Embedding,
        Elman,
        GRU,
        LSTM,
        Residual,
    )
}


def to_json(kind: Kind) -> dict[str, Any]:
    """{"kind": "Conv2d", …}: its name in `LAYERS` and its options. None for what has no name."""
    name = next((name for name, row in LAYERS.items() if row is type(kind)), None)
    options = {field.name: _plain(getattr(kind, field.name)) for field in fields(kind)}  # type: ignore[arg-type]
    return {"kind": name, **options}


def _plain(value: Any) -> Any:
    if isinstance(value, activations.Activation):
        return next((name for name, row in ACTIVATIONS.items() if row is value), None)
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return to_json(value) if isinstance(value, Kind) else value


def brief(kind: Kind) -> str:
    """A kind and its options that are not the usual ones: "Conv2d(32, 3, padding='same')"."""
    options: list[str] = []
    for i, field in enumerate(fields(kind)):  # type: ignore[arg-type]
        value = getattr(kind, field.name)
        if i > 0 and value in (field.default, (field.default,) * 2):
            continue
        named = "" if i == 0 or field.default is MISSING else f"{field.name}="
        options.append(named + _brief_value(value))
    return f"{type(kind).__name__}({', '.join(options)})"


def _brief_value(value: Any) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], Kind):
        return f"[{', '.join(map(brief, value))}]"
    if isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]:
        return repr(value[0])  # of rows and of columns
    return "…" if isinstance(value, activations.Activation) else repr(value)


def from_json(stored: Any, place: str = "layers") -> tuple[Kind, ...]:
    """The inverse for a list of layers; ValueError names the entry that is none of ours."""
    if not isinstance(stored, Sequence) or isinstance(stored, str):
        raise ValueError(f"{place} is {stored!r}, but expected a list of layers.")
    return tuple(_kind(entry, f"{place}[{i}]") for i, entry in enumerate(stored))


def _kind(stored: Any, place: str) -> Kind:
    if not isinstance(stored, Mapping) or stored.get("kind") not in LAYERS:
        known = ", ".join(LAYERS)
        name = stored.get("kind") if isinstance(stored, Mapping) else stored
        raise ValueError(f"{place} is of the kind {name!r}, but expected one of {known}.")
    name = stored["kind"]
    options = {key: _option(v, f"{place}.{key}") for key, v in stored.items() if key != "kind"}
    try:
        kind: Kind = LAYERS[name](**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} cannot be a {name}: {error}") from None
    return kind


def _option(value: Any, place: str) -> Any:
    """Lists become tuples, and what says its kind a layer."""
    if isinstance(value, list):
        return tuple(_option(part, f"{place}[{i}]") for i, part in enumerate(value))
    return _kind(value, place) if isinstance(value, Mapping) else value


def nameless(stored: Any) -> str | None:
    """The option of some layer that `to_json` found no name for, or None."""
    for entry in stored:
        for key, value in entry.items():
            if value is None and key in ("kind", "activation"):
                return str(key)
            if isinstance(value, list) and value and isinstance(value[0], dict):
                found = nameless(value)
                if found is not None:
                    return found
    return None


__all__ = ["LAYERS", "brief", "from_json", "nameless", "to_json"]
