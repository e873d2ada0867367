"""Data on the way to the device: all at once, or, where they are too many, batch by batch.

Large arrays go up through pinned buffers (`pinned`), in the narrower of their own dtype and
the one that is wanted, and in the order in which they lie in memory; what is left to
convert or to transpose is done on the device, where it costs next to nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import cupy
import numpy as np
import numpy.typing as npt

from ..training import pieces
from ..types import Array
from .pinned import THREADS, Ring, Tile, workers

SMALL = 2**20  # bytes that go up by one plain copy
CHUNK = 2**23  # bytes of a pinned buffer: an H200 took 50 GB/s so, 29 with half of it
LEAST = 2**18  # bytes worth a thread
WIDE = 8192  # numbers at most of a row that is transposed on the device
SHARE = 0.6  # of the free memory that rows may take: steps and evaluations want the rest


@cache
def ring() -> Ring:
    """The buffers of all that goes up at once."""
    return Ring(CHUNK)


_turn = threading.Lock()  # to use that ring: the link is one, too


# -- all at once ---------------------------------------------------------------------


def up(rows: npt.NDArray[Any], dtype: Any) -> Array:
    """Rows (m, n) of any layout on the device, C-ordered, in a dtype.

    On the current stream; the host waits for buffers of its own at most, and `rows` may
    change as soon as this returns.
    """
    out = cupy.empty(rows.shape, np.dtype(dtype).newbyteorder("="))
    if out.nbytes < SMALL:
        with np.errstate(all="ignore"):  # what overflows is infinite, and found as that
            out.set(np.ascontiguousarray(rows, out.dtype))
        return out
    memory, there = (rows.T, out.T) if _by_columns(rows) else (rows, out)
    dtype = _travelling(rows.dtype, out.dtype)
    plain = dtype == out.dtype and there.flags.c_contiguous
    numbers = CHUNK // dtype.itemsize
    staged = None if plain else cupy.empty(numbers, dtype)
    stream = cupy.cuda.get_current_stream()
    with _turn:
        buffers = ring()
        try:
            buffers.start(
                Tile(place, there[place].shape, dtype, _copy, (memory[place],))
                for place in _tiles(memory.shape, numbers, numbers if plain else WIDE)
            )
            for place, array in buffers.filled(stream):
                if staged is None:
                    there[place].set(array)
                    continue
                piece = staged[: array.size].reshape(array.shape)
                piece.set(array)
                there[place] = piece
        finally:
            buffers.drop()
    return out


def put(array: npt.NDArray[Any]) -> Array:
    """An array on the device: the same dtype, the same layout where it has no gaps."""
    if array.flags.fnc:
        return put(array.T).T
    if array.ndim == 2 and not array.flags.c_contiguous:
        return up(array, array.dtype)
    return up(array.reshape(1, -1), array.dtype).reshape(array.shape)


def _by_columns(rows: npt.NDArray[Any]) -> bool:
    """Whether neighbours in memory are numbers of one column."""
    return abs(rows.strides[0]) < abs(rows.strides[1])


def _travelling(own: np.dtype[Any], wanted: np.dtype[Any]) -> np.dtype[Any]:
    """The narrower dtype: pixels go up as bytes, float64 for a float32 model as float32."""
    return own.newbyteorder("=") if own.itemsize < wanted.itemsize else wanted


def _tiles(shape: tuple[int, ...], numbers: int, wide: int) -> Iterator[tuple[slice, slice]]:
    """A matrix in pieces of so many numbers at most, whole rows where they fit."""
    width = max(1, min(shape[1], numbers, wide))
    for i in pieces(shape[0], max(1, numbers // width)):
        for j in pieces(shape[1], width):
            yield i, j


def _copy(out: npt.NDArray[Any], part: npt.NDArray[Any]) -> None:
    np.copyto(out, part, casting="unsafe")


@cache
def _not_finite() -> Any:
    return cupy.ElementwiseKernel(
        "T x", "raw bool bad", "if (!isfinite(x)) bad[0] = true", "finite"
    )


def finite(array: Any) -> bool:
    """Whether all numbers of an array on the device, or of `HostRows`, are finite.

    One launch and one wait, and nothing of the array's size is written.
    """
    if isinstance(array, HostRows):
        return array.finite()
    bad = cupy.zeros(1, bool)
    _not_finite()(array, bad)
    return not bad.get()[0]


# -- rows that stay on the host ------------------------------------------------------


def room() -> int:
    """Bytes of device memory that CuPy could give now."""
    free: int = cupy.cuda.runtime.memGetInfo()[0]
    pool = cupy.get_default_memory_pool()
    free += pool.free_bytes()
    limit = pool.get_limit()
    return min(free, limit - pool.used_bytes()) if limit else free


def fits(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether rows of this shape may lie on the device as a whole."""
    return int(np.prod(shape)) * np.dtype(dtype).itemsize <= SHARE * room()


class HostRows:
    """Rows (m, n_features) on the host, for a model on the device.

    `rows[index]` stays on the host until `toarray()`; `rows[a:b, :]` comes up at once.
    """

    ndim = 2

    def __init__(self, rows: npt.NDArray[Any], dtype: str) -> None:
        self.rows, self.dtype, self.shape = rows, np.dtype(dtype), rows.shape

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):
            return up(self.rows[key], self.dtype)
        if isinstance(key, cupy.ndarray):
            key = key.get()
        return HostRows(self.rows[key], str(self.dtype))

    def toarray(self) -> Array:
        """All of them on the device."""
        return up(self.rows.reshape(-1, self.shape[-1]), self.dtype).reshape(self.shape)

    def finite(self) -> bool:
        """Whether all are finite in their dtype, by several threads."""
        if self.rows.dtype.kind in "biu":
            return True
        memory = self.rows.T if _by_columns(self.rows) else self.rows
        numbers = CHUNK // 4 // self.dtype.itemsize  # a cast of so many stays in a core's cache

        def check(place: tuple[slice, slice]) -> bool:
            with np.errstate(all="ignore"):
                return bool(np.isfinite(memory[place].astype(self.dtype, copy=False)).all())

        return all(workers().map(check, _tiles(memory.shape, numbers, numbers)))


class _Slot:
    """A batch on the device, and what has been done with it."""

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        self.there = cupy.empty(size, dtype)
        self.copied, self.used = (cupy.cuda.Event(disable_timing=True) for _ in range(2))
        self.used.record()


class Feed:
    """The batches of an epoch, the next one on its way while one is used.

    leading  axes of the order before its last
    m        examples of the largest batch

    While a step computes, threads gather the next batch into pinned buffers, and it is
    copied, on a stream of its own, into one of two places on the device. The host never
    waits for a step, only, before it fills a buffer again, for the last copy out of it.
    """

    def __init__(self, rows: HostRows, leading: tuple[int, ...], m: int) -> None:
        self.rows, self.m, self.shape = rows, m, (*leading, m, rows.shape[1])
        self.columns = _by_columns(rows.rows)
        self.memory = rows.rows.T if self.columns else rows.rows
        self.dtype = _travelling(rows.rows.dtype, rows.dtype)
        n, size = rows.shape[1], int(np.prod(self.shape))
        bytes_ = min(CHUNK, max(LEAST, -(-size * self.dtype.itemsize // THREADS)))
        self.part = min(size // n, max(1, bytes_ // (n * self.dtype.itemsize)))
        self.ring = Ring(
            self.part * n * self.dtype.itemsize,
            min(2 * THREADS, 2 * -(-size // (self.part * n))),
        )
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.slots = [_Slot(size, self.dtype) for _ in range(2)]
        self.order: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.next = (0, 0)  # first example and size of the batch that is being gathered

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be at its end, and CuPy with it
            self.ring.drop()
            self.stream.synchronize()  # a copy may still read and write what is freed here

    def takes(self, rows: HostRows, order: npt.NDArray[np.int64], m: int) -> bool:
        """Whether it was made for such an epoch."""
        return self.rows is rows and self.shape == (*order.shape[:-1], m, rows.shape[1])

    def begin(self, order: npt.NDArray[np.int64]) -> None:
        """Start with the first batch of this order."""
        self.order = order
        self._gather(0)

    def _gather(self, start: int) -> None:
        """Have the batch at `start` gathered."""
        index = self.order[..., start : start + self.m]
        self.next, flat, n = (start, index.shape[-1]), index.reshape(-1), self.shape[-1]
        dtype, memory, axis = self.dtype, self.memory, int(self.columns)

        def tile(part: slice) -> Tile:
            chosen = flat[part]
            shape = (n, len(chosen)) if axis else (len(chosen), n)
            return Tile(part, shape, dtype, _take, (memory, axis, chosen))

        self.ring.start(tile(part) for part in pieces(len(flat), self.part))

    def give(self, start: int, m: int, out: Array) -> bool:
        """The batch at `start` into `out` on the current stream; False if it is not at hand."""
        if self.next != (start, m):
            return False
        n, stream, slot = self.shape[-1], cupy.cuda.get_current_stream(), self.slots[0]
        self.slots.reverse()
        self.stream.wait_event(slot.used)
        parts = []
        for part, array in self.ring.filled(self.stream):
            parts.append(part)
            slot.there[part.start * n : part.stop * n].set(array.reshape(-1), self.stream)
        slot.copied.record(self.stream)
        stream.wait_event(slot.copied)
        if self.columns:
            # rows of several networks, which may lie as columns, have no view as one table
            rows = out if out.ndim == 2 else cupy.empty((out.size // n, n), out.dtype)
            for part in parts:
                there = slot.there[part.start * n : part.stop * n]
                rows[part] = there.reshape(n, -1).T
            if rows is not out:
                out[...] = rows.reshape(out.shape)
        else:
            out[...] = slot.there[: out.size].reshape(out.shape)
        slot.used.record(stream)
        self._gather(start + m)
        return True


def _take(
    out: npt.NDArray[Any], memory: npt.NDArray[Any], axis: int, index: npt.NDArray[np.int64]
) -> None:
    """out ← the examples at `index`, which lie along `axis`."""
    whole = memory.flags.c_contiguous  # or np.take would copy all of it first
    if whole and memory.dtype == out.dtype:
        np.take(memory, index, axis, out, mode="clip")  # "raise" would go through a copy
        return
    for piece in pieces(len(index), max(1, LEAST // memory.itemsize // out.shape[1 - axis])):
        part = (slice(None),) * axis + (piece,)
        chosen = (slice(None),) * axis + (index[piece],)
        found = np.take(memory, index[piece], axis) if whole else memory[chosen]
        np.copyto(out[part], found, casting="unsafe")
