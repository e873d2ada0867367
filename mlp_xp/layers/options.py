"""Options of layers, checked where a layer is made, and the errors of shapes that do not fit."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from ..meant import meant
from .base import Shape


def whole(argument: str, value: Any, least: int) -> int:
    """A whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{argument} is {value!r}, but expected a whole number.")
    if value < least:
        raise ValueError(f"{argument} is {value}, but expected at least {least}.")
    return int(value)


def pair(argument: str, value: Any, least: int) -> tuple[int, int]:
    """Two whole numbers, (of rows, of columns); one stands for both."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        values = tuple(value)
        if len(values) != 2:
            raise ValueError(
                f"{argument} is {value!r}, but expected a whole number, or two: (rows, columns)."
            )
        high, wide = (whole(f"{argument}[{i}]", n, least) for i, n in enumerate(values))
        return high, wide
    n = whole(argument, value, least)
    return n, n


def each(argument: str, value: Any, least: int) -> int | tuple[int, int]:
    """One whole number for every axis, or two; two that are equal stay two."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return pair(argument, value, least)
    return whole(argument, value, least)


def flag(argument: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{argument} is {value!r}, but expected True or False.")
    return value


def number(argument: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not abs(float(value)) < 1e30:
        raise TypeError(f"{argument} is {value!r}, but expected a finite number.")
    return float(value)


def one_of(argument: str, value: Any, names: Iterable[str]) -> str:
    known = tuple(names)
    if value not in known:
        raise ValueError(
            f"{argument} is {value!r}, but expected one of {', '.join(map(repr, known))}."
            f"{meant(known, value)}"
        )
    return str(value)


def unfit(layer: object, shape: Shape, expected: str, cure: str) -> ValueError:
    """What `out_shape` raises: the layer, what it was given, what it takes, what to do."""
    return ValueError(
        f"{layer} cannot follow the shape {tuple(shape)}: it takes {expected}. {cure}"
    )
