"""Data-parallel training on GPUs: `ranks` with one GPU each, between which NCCL sums.

MPI makes the ranks and carries what lies on the host. A step is traced with its exchanges as
nodes: calls of NCCL on the step's stream, on memory made before, captured in its graph. Nothing
of it is copied to the host or waited for there.

Sums are in the order of the ranks, as on the CPU (`ranks`). ncclAllReduce would take one call
and move as little, but the order in which it adds belongs to the algorithm and channels that it
picks by size, topology, version and environment: the same number of ranks on another machine
would give other bits. So NCCL moves, and a kernel adds: small arrays, and those of two ranks, go
whole to every rank (ncclAllGather); of large ones each rank gets a part from all (ncclSend and
ncclRecv in one group), adds it up and gives it to all (ncclAllGather).
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .devices import Device
from .kernels import SPEC, Kernels
from .training import Data, Recipe
from .types import Array

SMALL = 1 << 14  # bytes up to which an array goes whole to every rank


@dataclass(frozen=True)
class Shared(Recipe):
    """A recipe of which a rank computes its share of every batch.

    rank, size  this one's number, and how many there are
    summed      the specification's kernels with sums over all ranks, for the tracer
    votes       what each rank says, on all of them: a host's value → a list
    """

    rank: int = 0
    size: int = 1
    summed: Kernels = SPEC
    votes: Callable[[Any], list[Any]] = lambda value: [value]

    def share(self, m: int) -> slice:
        """This rank's of a batch of m examples: all of them where there are fewer than ranks."""
        if m < self.size:
            return slice(0, m)
        return slice(self.rank * m // self.size, (self.rank + 1) * m // self.size)

    def own(self, m: int) -> Kernels:
        """The specification's kernels for its share of a batch of m examples."""
        return SPEC if m < self.size else self.summed


class Sums:
    """Sums of CuPy arrays over the ranks, on their GPUs: float32 or float64, on all of them.

    communicator  of NCCL, on this rank's device
    """

    def __init__(self, communicator: Any) -> None:
        self.communicator = communicator
        self.rank, self.size = int(communicator.rank_id()), int(communicator.size())

    def __call__(self, x: Array) -> Array:
        """The sum of the ranks' arrays x, in the order of the ranks."""
        import cupy

        out = cupy.empty(x.shape, x.dtype)
        for call in self.calls(x, out):
            call()
        return out

    def calls(self, x: Array, out: Array) -> list[Callable[[], object]]:
        """Calls that write the sum of the ranks' arrays x to out, on the current stream."""
        import cupy

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
        import cupy

        from .compile.cuda_loops import finished
        from .fast.cuda_source import copied
        from .fast.launches import THREADS, Launch, blocks

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
        from cupy.cuda import get_current_stream

        gather, kind = self.communicator.allGather, _kind(x)
        arguments = (x.data.ptr, parts.data.ptr, x.size, kind)
        kept = x, parts

        def call(kept: Any = kept) -> None:
            gather(*arguments, get_current_stream().ptr)

        return call

    def _scatter(self, pieces: Sequence[Array], parts: Sequence[Array]) -> Callable[[], object]:
        """The pieces to a rank each; parts are what comes from each."""
        from cupy.cuda import get_current_stream, nccl

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
    from cupy.cuda import nccl

    return int({"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}[str(x.dtype)])


def is_cuda(device: Device) -> bool:
    return device.name.partition(":")[0] == "cuda"


def told(device: Device) -> dict[str, str]:
    """What the ranks compare of their GPUs beside `devices.circumstances`; which one is theirs."""
    from cupy.cuda import nccl

    version = str(nccl.get_version()) if nccl.available else "missing"
    return {"the device": "cuda", "NCCL": version}


def connect(votes: Callable[[Any], list[Any]], rank: int, device: Device) -> Sums:
    """NCCL between the GPUs of the ranks, the same call on all of them; made once for the same.

    Raises `ImportError` without NCCL, `ValueError` where two ranks have one GPU.
    """
    import cupy
    from cupy.cuda import nccl

    runtime = cupy.cuda.runtime
    if not nccl.available:
        major = runtime.runtimeGetVersion() // 1000
        raise ImportError(
            "Training on several GPUs needs NCCL, which CuPy does not find: "
            f"pip install nvidia-nccl-cu{major}, for cupy-cuda{major}x",
            name="nccl",
        )
    with device.active():
        own = (platform.node(), runtime.deviceGetPCIBusId(runtime.getDevice()))
        gpus = votes((own, runtime.getDeviceCount()))
        for other, ((node, gpu), count) in enumerate(gpus):
            first = next(i for i, (theirs, _) in enumerate(gpus) if theirs == (node, gpu))
            if first < other:
                raise ValueError(
                    f"ranks {first} and {other} both compute on GPU {gpu} of {node}, but each "
                    f"needs its own: expected as many ranks on a node as GPUs, {count} there, and "
                    "device='cuda', which gives every rank another."
                )
        key = tuple(theirs for theirs, _ in gpus)
        if key not in _MADE:
            unique = votes(nccl.get_unique_id() if rank == 0 else None)[0]
            communicator = nccl.NcclCommunicator(len(gpus), unique, rank)
            # it ends with the process: to destroy it would be to wait for the other ranks, and
            # for graphs that hold its calls, while the interpreter takes all apart
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(communicator))
            _MADE[key] = Sums(communicator)
    return _MADE[key]


_MADE: dict[Any, Sums] = {}


def stepper(recipe: Recipe, device: Device, data: Data, **of: Any) -> Any:
    """A `training.Step` that takes whole batches and computes this rank's share of them.

    of  the fields of `Shared`
    """
    fields = {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}
    assert device.stepper is not None
    found = device.stepper(Shared(**{**fields, **of}), device, data)
    if found is None:  # the specification's own steps would be of this rank alone
        raise TypeError(f"steps on {type(data).__name__} of {data.rows.dtype} are not traced")
    return found


__all__ = ["Shared", "Sums", "connect", "is_cuda", "stepper", "told"]
