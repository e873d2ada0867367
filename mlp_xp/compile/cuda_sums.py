"""Sums over the GPUs of several ranks (`ranks`): NCCL moves, and a kernel adds.

All is calls on the current stream, on memory made before: a step's graph can hold them, and
nothing is copied to the host or waited for there.

Sums are in the order of the ranks, as on the CPU. ncclAllReduce would be one call and move as
little, but the order in which it adds belongs to the algorithm and the channels that it picks by
size, topology, version and environment: the same number of ranks on another machine would give
other bits. So small arrays, and those of two ranks, go whole to every rank (ncclAllGather); of
large ones each rank gets a part from all (ncclSend and ncclRecv in one group), adds it up and
gives it to all (ncclAllGather).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cupy
from cupy.cuda import get_current_stream

from ..fast.cuda_source import copied
from ..fast.launches import THREADS, Launch, blocks
from ..types import Array
from .cuda_loops import finished

SMALL = 1 << 14  # bytes up to which an array goes whole to every rank


class Sums:
    """Sums of CuPy arrays over the ranks, on their GPUs: float32 or float64, on all of them.

    communicator  of NCCL, on this rank's device
    """

    def __init__(self, communicator: Any) -> None:
        self.communicator = communicator
        self.rank, self.size = int(communicator.rank_id()), int(communicator.size())

    def __call__(self, x: Array) -> Array:
        """The sum of the ranks' arrays x, in the order of the ranks."""
        out = cupy.empty(x.shape, x.dtype)
        for call in self.calls(x, out):
            call()
        return out

    def calls(self, x: Array, out: Array) -> list[Callable[[], object]]:
        """Calls that write the sum of the ranks' arrays x to out, on the current stream."""
        calls: list[Callable[[], object]] = []
        given = x if x.flags.c_contiguous else cupy.empty(x.shape, x.dtype)
        found = out if out.flags.c_contiguous else cupy.empty(x.shape, x.dtype)
        if given is not x:
            calls.append(lambda: cupy.copyto(given, x))
        calls += self._flat(given.reshape(-1), found.reshape(-1))
        if found is not out:
            calls.append(lambda: cupy.copyto(out, found))
        return calls

    def _flat(self, x: Array, out: Array) -> list[Callable[[], object]]:
        n, size, dtype = self.size, x.size, str(x.dtype)

        def add(parts: Array, to: Array) -> Launch:
            of = finished(dtype, "sum")
            return Launch(of, (blocks(to.size, THREADS),), (THREADS,), to, parts, to.size, n, 1)

        if n == 2 or x.nbytes <= SMALL:
            parts = cupy.empty((n, size), dtype)
            return [self._gather(x, parts), add(parts, out)]
        most = -(-size // n)  # the last parts may be shorter, or empty
        parts, whole = cupy.zeros((n, most), dtype), cupy.empty((n, most), dtype)
        mine = cupy.empty(most, dtype)
        copy = Launch(copied(dtype), (blocks(size, THREADS),), (THREADS,), out, whole, size)
        pieces = [x[part * most : (part + 1) * most] for part in range(n)]
        length = pieces[self.rank].size
        scatter = self._scatter(pieces, [part[:length] for part in parts])
        return [scatter, add(parts, mine), self._gather(mine, whole), copy]

    def _gather(self, x: Array, parts: Array) -> Callable[[], object]:
        """Every rank's x to the parts of each."""
        gather, kind = self.communicator.allGather, _kind(x)
        arguments = (x.data.ptr, parts.data.ptr, x.size, kind)
        kept = x, parts

        def call(kept: Any = kept) -> None:
            gather(*arguments, get_current_stream().ptr)

        return call

    def _scatter(self, pieces: Sequence[Array], parts: Sequence[Array]) -> Callable[[], object]:
        """The pieces to a rank each; parts are what comes from each."""
        from cupy.cuda import nccl

        communicator, kind = self.communicator, _kind(parts[0])
        sends = [(x.data.ptr, x.size, kind, to) for to, x in enumerate(pieces) if x.size]
        receives = [(x.data.ptr, x.size, kind, of) for of, x in enumerate(parts) if x.size]
        kept = pieces, parts

        def call(kept: Any = kept) -> None:
            stream = get_current_stream().ptr
            nccl.groupStart()
            for send in sends:
                communicator.send(*send, stream)
            for receive in receives:
                communicator.recv(*receive, stream)
            nccl.groupEnd()

        return call


def _kind(x: Array) -> int:
    from cupy.cuda import nccl  # not above: where it is missing, CuPy warns

    return int({"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}[str(x.dtype)])


__all__ = ["Sums"]
