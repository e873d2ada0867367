"""Pooling: the largest or the mean of each window, or the mean of all places.

One dimension or two by the shape: sequences (channels, time), images (channels, height, width).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..kernels import Kernels
from ..types import Array, Namespace
from . import options
from .base import Pass, Plain, Shape
from .windows import ONE, Axis, added, extended, taps


class Windows(NamedTuple):
    """How windows lie over one example of a given shape; a sequence has one row."""

    channels: int
    rows: Axis
    columns: Axis
    flat: bool  # whether there are no rows

    @property
    def out_shape(self) -> Shape:
        places = (self.columns.n_out,) if self.flat else (self.rows.n_out, self.columns.n_out)
        return (self.channels, *places)


class _Pool(Plain):
    """What both poolings share: where their windows lie."""

    window: int | tuple[int, int]
    stride: int | tuple[int, int] | None
    padding: int | tuple[int, int]

    def _check(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("window", options.each("window", self.window, 1))
        if self.stride is not None:
            put("stride", options.each("stride", self.stride, 1))
        put("padding", options.each("padding", self.padding, 0))
        window, padding = (options.pair("", n, 0) for n in (self.window, self.padding))
        for n, k in zip(padding, window, strict=True):
            if n > k // 2:
                raise ValueError(
                    f"padding is {self.padding}, but expected at most half the window, "
                    f"{self.window}, so that each window sees the input."
                )

    def _windows(self, shape: Shape) -> Windows:
        if len(shape) not in (2, 3):
            raise options.unfit(
                self,
                shape,
                "sequences (channels, time) or images (channels, height, width)",
                "It stands before Flatten and dense layers.",
            )
        flat = len(shape) == 2
        stride = self.window if self.stride is None else self.stride
        settings = (self.window, stride, self.padding)
        if flat and not all(isinstance(n, int) for n in settings):
            raise options.unfit(
                self,
                shape,
                "images, for its options are of rows and columns",
                "For sequences give one number each.",
            )
        (kh, kw), (sh, sw), (ph, pw) = (options.pair("", n, 0) for n in settings)
        columns = self._axis(shape, shape[-1], kw, sw, pw)
        rows = ONE if flat else self._axis(shape, shape[1], kh, sh, ph)
        return Windows(shape[0], rows, columns, flat)

    def _axis(self, shape: Shape, n: int, kernel: int, stride: int, padding: int) -> Axis:
        n_out = (n + 2 * padding - kernel) // stride + 1
        if n_out < 1:
            raise options.unfit(
                self,
                shape,
                f"at least {kernel - 2 * padding} places along each axis",
                "Take a smaller window, padding, or less pooling before.",
            )
        return Axis(n, kernel, stride, 1, padding, n_out)

    def out_shape(self, shape: Shape) -> Shape:
        return self._windows(shape).out_shape

    def _seen(
        self, xp: Namespace, A: Array, shape: Shape, padding: float
    ) -> tuple[Windows, list[Array]]:
        """Where the windows lie, and what each of their places sees, (…, channels, h, w, m)."""
        windows = self._windows(shape)
        if windows.flat:
            A = A[..., None, :, :]
        A = extended(xp, A, windows.rows, windows.columns, padding)
        return windows, taps(A, windows.rows, windows.columns)


def _as_out(xp: Namespace, H: Array, windows: Windows) -> Array:
    return H[..., 0, :, :] if windows.flat else H


def _given_back(
    xp: Namespace, parts: Sequence[Array], windows: Windows
) -> tuple[Array, dict[str, Array]]:
    dA = added(xp, parts, windows.rows, windows.columns)
    return (dA[..., 0, :, :] if windows.flat else dA), {}


class MaxMemory(NamedTuple):
    """seen: what each place of the windows saw; H: the largest, (…, channels, h, w, m)."""

    windows: Windows
    seen: list[Array]
    H: Array


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest of each window: (channels, …) → (channels, …'), one or two dimensions.

    window   one number for every axis, or (rows, columns)
    stride   likewise; None moves by a window
    padding  places at both ends that are never the largest; at most half a window

    ⌊(n + 2 padding - window) / stride⌋ + 1 places come out along an axis of n. Of equal values
    the first, row by row, has the derivative (as PyTorch). Where sequences differ in length
    (`Pass.present`) what lies after the end of each is padding, and 0 comes of nothing else.
    """

    window: int | tuple[int, int]
    stride: int | tuple[int, int] | None = None
    padding: int | tuple[int, int] = 0

    def __post_init__(self) -> None:
        self._check()

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, MaxMemory]:
        """A (…, channels, [height,] width, m) → H (…, channels, [height',] width', m)."""
        present = told.present if len(told.shape) == 2 else None
        if present is not None:
            A = xp.where(present[..., None, :, :] > 0, A, xp.full_like(A, -math.inf))
        windows, seen = self._seen(xp, A, told.shape, -math.inf)
        H = seen[0]
        for part in seen[1:]:
            H = xp.maximum(H, part)
        if present is not None:
            H = xp.where(-math.inf < H, H, xp.zeros_like(H))
        return _as_out(xp, H, windows), MaxMemory(windows, seen, H)

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: MaxMemory, dA: Array
    ) -> tuple[Array | None, dict[str, Array]]:
        """δ goes to the first place of each window that is the largest."""
        windows, seen, H = memory
        delta = dA[..., None, :, :] if windows.flat else dA
        nothing = xp.zeros_like(delta)
        parts, left = [], None  # left: the windows whose largest is not found yet
        for part in seen:
            found = part == H
            parts.append(xp.where(found if left is None else found & left, delta, nothing))
            left = ~found if left is None else left & ~found
        return _given_back(xp, parts, windows)


@dataclass(frozen=True)
class AvgPool(_Pool):
    """The mean of each window: (channels, …) → (channels, …'), one or two dimensions.

    window   one number for every axis, or (rows, columns)
    stride   likewise; None moves by a window
    padding  zeros at both ends, which count; at most half a window

    ⌊(n + 2 padding - window) / stride⌋ + 1 places come out along an axis of n (as PyTorch).
    """

    window: int | tuple[int, int]
    stride: int | tuple[int, int] | None = None
    padding: int | tuple[int, int] = 0

    def __post_init__(self) -> None:
        self._check()

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Windows]:
        """A (…, channels, [height,] width, m) → H (…, channels, [height',] width', m)."""
        windows, seen = self._seen(xp, A, told.shape, 0.0)
        H = seen[0]
        for part in seen[1:]:
            H = H + part
        return _as_out(xp, H / len(seen), windows), windows

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Windows, dA: Array
    ) -> tuple[Array | None, dict[str, Array]]:
        """δ goes to all places of each window in equal shares."""
        delta = dA[..., None, :, :] if memory.flat else dA
        n = memory.rows.kernel * memory.columns.kernel
        return _given_back(xp, [delta / n] * n, memory)


class GlobalMemory(NamedTuple):
    """share: (1, places, m) of each place in the mean, or a number where all are equal."""

    places: Shape
    share: Array | float


@dataclass(frozen=True)
class GlobalAvgPool(Plain):
    """The mean of each channel over all places: (channels, …) → (channels,).

    Of sequences whose lengths differ (`Pass.present`) the mean of the steps that are there; of
    a sequence without any, 0. (Lin, Chen & Yan 2014, "Network In Network", §3.2.)
    """

    def out_shape(self, shape: Shape) -> Shape:
        if len(shape) < 2:
            raise options.unfit(
                self,
                shape,
                "channels with places: (channels, time) or (channels, height, width)",
                "Leave it out: there is nothing to take the mean of.",
            )
        return (shape[0],)

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, GlobalMemory]:
        """A (…, channels, places …, m) → the means (…, channels, m)."""
        self.out_shape(told.shape)
        places = told.shape[1:]
        n = math.prod(places)
        lead = A.shape[: A.ndim - 1 - len(told.shape)]
        A = xp.reshape(A, (*lead, told.shape[0], n, A.shape[-1]))
        if told.present is None or len(places) != 1:
            return xp.mean(A, axis=-2), GlobalMemory(places, 1 / n)
        present = xp.astype(told.present, A.dtype, copy=False)
        count = xp.sum(present, axis=-2, keepdims=True)
        share = (present / xp.maximum(count, xp.ones_like(count)))[..., None, :, :]
        return xp.sum(A * share, axis=-2), GlobalMemory(places, share)

    def backward(
        self,
        xp: Namespace,
        kernels: Kernels,
        P: Mapping[str, Array],
        memory: GlobalMemory,
        dA: Array,
    ) -> tuple[Array | None, dict[str, Array]]:
        """δ (…, channels, m) in shares to all places."""
        places, share = memory
        spread = dA[..., None, :] * share
        shape = (*dA.shape[:-1], math.prod(places), dA.shape[-1])
        whole = xp.broadcast_to(spread, shape)
        return xp.reshape(whole, (*dA.shape[:-1], *places, dA.shape[-1])), {}
