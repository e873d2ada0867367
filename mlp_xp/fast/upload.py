"""Rows too many for the device: they stay on the host, and batches go up as they are needed.

A batch is gathered into one of two pinned buffers and copied on a stream of its own, while
the step before it computes. The host never waits for a step, only, before it fills a
buffer again, for the copy out of it two batches ago.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import cupy
import numpy as np
import numpy.typing as npt

from ..types import Array

SHARE = 0.6  # of the free memory that rows may take: steps and evaluations want the rest


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
            return cupy.asarray(np.ascontiguousarray(self.rows[key], self.dtype))
        if isinstance(key, cupy.ndarray):
            key = key.get()
        return HostRows(self.rows[key], str(self.dtype))

    def toarray(self) -> Array:
        """All of them on the device."""
        return cupy.asarray(np.ascontiguousarray(self.rows, self.dtype))


class _Slot:
    """A pinned buffer, one on the device, and what has been done with them."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        size = int(np.prod(shape)) * dtype.itemsize
        memory = cupy.cuda.alloc_pinned_memory(size)
        self.host = np.frombuffer(memory, dtype, int(np.prod(shape)))
        self.there = cupy.empty(int(np.prod(shape)), dtype)
        self.copied, self.used = (cupy.cuda.Event(disable_timing=True) for _ in range(2))
        self.used.record()
        self.place: tuple[int, int] | None = None  # what lies here: first row, rows


class Feed:
    """The batches of an epoch, the next one on its way while one is used.

    leading  axes of the order before its last
    m        examples of the largest batch
    """

    def __init__(self, rows: HostRows, leading: tuple[int, ...], m: int) -> None:
        self.rows, self.m, self.shape = rows, m, (*leading, m, rows.shape[1])
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.slots = [_Slot(self.shape, rows.dtype) for _ in range(2)]

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be at its end, and CuPy with it
            for slot in self.slots:  # a copy may still write to what is freed here
                cupy.cuda.get_current_stream().wait_event(slot.copied)

    def takes(self, rows: HostRows, order: npt.NDArray[np.int64], m: int) -> bool:
        """Whether it was made for such an epoch."""
        return self.rows is rows and self.shape == (*order.shape[:-1], m, rows.shape[1])

    def begin(self, order: npt.NDArray[np.int64]) -> None:
        """Start with the first batch of this order."""
        self.order = order
        for slot in self.slots:
            slot.place = None
        self._send(self.slots[0], 0)

    def _send(self, slot: _Slot, start: int) -> None:
        """Start the copy of the batch at `start`."""
        index = self.order[..., start : start + self.m]
        if index.shape[-1] == 0:
            return
        slot.copied.synchronize()  # the pinned buffer is read no more
        shape = (*index.shape, self.rows.shape[1])
        size = int(np.prod(shape))
        host = slot.host[:size].reshape(shape)
        host[...] = self.rows.rows[index]
        self.stream.wait_event(slot.used)
        slot.there[:size].set(host.reshape(-1), stream=self.stream)
        slot.copied.record(self.stream)
        slot.place = (start, index.shape[-1])

    def give(self, start: int, m: int, out: Array) -> bool:
        """The batch at `start` into `out` on the current stream; False if it is not at hand."""
        slot = next((slot for slot in self.slots if slot.place == (start, m)), None)
        if slot is None:
            return False
        stream = cupy.cuda.get_current_stream()
        stream.wait_event(slot.copied)
        out[...] = slot.there[: out.size].reshape(out.shape)
        slot.used.record(stream)
        slot.place = None
        other = self.slots[1 - self.slots.index(slot)]
        self._send(other, start + m)
        return True
