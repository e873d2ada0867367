"""Pinned host memory, and the threads that fill it.

CUDA copies at the link's speed out of pinned memory alone, and to pin memory takes longer
than to copy it. So data go up piece by piece through a ring of buffers that are pinned once:
threads fill them ahead, the caller's thread, the only one that speaks to CUDA, sends them in
order. The threads are Python's: what they run, NumPy's copies and gathers of megabytes, holds
no lock of the interpreter, takes any layout and dtype, and needs no compiler, as those of
`runtime.c` would.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any, NamedTuple

import cupy
import numpy as np
import numpy.typing as npt

MEMORY_ALLOCATION = 2  # cudaError_t
# One thread copies 5 to 10 GB/s; the memory of a large machine is busy with eight.
THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 8)


@cache
def workers() -> ThreadPoolExecutor:
    """The threads, one set a process."""
    return ThreadPoolExecutor(THREADS, "mlp_xp-copy")


class Tile(NamedTuple):
    """A piece of work: `fill(array, *arguments)`, array being of this shape and dtype."""

    place: Any  # what its receiver knows it by
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Callable[..., None]
    arguments: tuple[Any, ...]


class _Buffer:
    """Pinned memory, and the event after which nothing reads it any more."""

    def __init__(self, size: int) -> None:
        try:
            self.memory = cupy.cuda.alloc_pinned_memory(size)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            if error.status != MEMORY_ALLOCATION:
                raise
            self.memory = bytearray(size)  # the host lets no more be pinned: slower, that is all
        self.copied: Any = None

    def fill(self, tile: Tile) -> npt.NDArray[Any]:
        array = np.frombuffer(self.memory, tile.dtype, int(np.prod(tile.shape)))
        array = array.reshape(tile.shape)
        with np.errstate(all="ignore"):  # what overflows is infinite, and found as that
            tile.fill(array, *tile.arguments)
        return array


class Ring:
    """Buffers of `size` bytes, `count` at most, made when they are needed and used in turn.

    Half of them are filled ahead, while the other half is being copied.
    """

    def __init__(self, size: int, count: int = 2 * THREADS) -> None:
        self.size, self.count = size, max(2, count)
        self.buffers: list[_Buffer] = []
        self.turn = 0
        self.filling: deque[tuple[Tile, _Buffer, Future[npt.NDArray[Any]]]] = deque()
        self.tiles: Iterator[Tile] = iter(())

    def start(self, tiles: Iterable[Tile]) -> None:
        """Have the first of these tiles filled; what was begun before is dropped."""
        self.drop()
        self.tiles = iter(tiles)
        self._ahead()

    def _ahead(self) -> None:
        while len(self.filling) < self.count // 2:
            tile = next(self.tiles, None)
            if tile is None:
                return
            if len(self.buffers) < self.count:
                self.buffers.append(_Buffer(self.size))
            buffer = self.buffers[self.turn % self.count]
            self.turn += 1
            if buffer.copied is not None:
                buffer.copied.synchronize()
                buffer.copied = None
            self.filling.append((tile, buffer, workers().submit(buffer.fill, tile)))

    def filled(self, stream: Any) -> Iterator[tuple[Any, npt.NDArray[Any]]]:
        """Place and contents of each tile in order, to be copied from on this stream."""
        while self.filling:
            tile, buffer, future = self.filling[0]
            array = future.result()
            self.filling.popleft()
            yield tile.place, array
            buffer.copied = stream.record(cupy.cuda.Event(disable_timing=True))
            self._ahead()

    def drop(self) -> None:
        """Forget what is left of the tiles; no thread writes to a buffer after this."""
        self.tiles = iter(())
        for _, _, future in self.filling:
            future.cancel()
        wait([future for _, _, future in self.filling])
        self.filling.clear()
