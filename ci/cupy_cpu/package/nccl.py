"""NCCL between the processes of one machine: what ``cupy.cuda.nccl`` has in this build.

The processes of a communicator are connected in pairs. A call is work of its stream, a host
function, so that it is put off, captured and replayed like all other work; the counters have
it among the host functions. Calls in a group are one. As on a device, two ranks cannot have
one GPU, and what waits for a process that is gone waits for ever.
"""

import ctypes
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, Listener

import numpy as np
from cupy_backends.cuda.api import runtime

NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN, NCCL_AVG = range(5)
NCCL_INT8 = NCCL_CHAR = 0
NCCL_UINT8 = 1
NCCL_INT32 = NCCL_INT = 2
NCCL_UINT32, NCCL_INT64, NCCL_UINT64 = 3, 4, 5
NCCL_FLOAT16 = NCCL_HALF = 6
NCCL_FLOAT32 = NCCL_FLOAT = 7
NCCL_FLOAT64 = NCCL_DOUBLE = 8
NCCL_BFLOAT16 = 9

_DTYPES = ("i1", "u1", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
_REDUCTIONS = {NCCL_SUM: np.add, NCCL_PROD: np.multiply, NCCL_MAX: np.maximum, NCCL_MIN: np.minimum}
_ERRORS = {
    4: "NCCL_ERROR_INVALID_ARGUMENT: invalid argument",
    5: "NCCL_ERROR_INVALID_USAGE: invalid usage",
    6: "NCCL_ERROR_REMOTE_ERROR: remote process exited or there was a network error",
}
_PATIENCE = 60.0  # seconds in which all ranks have to come
_BYTES = 128  # of a unique id

available = True


class NcclError(RuntimeError):
    """A status other than success."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(_ERRORS[status])

    def __reduce__(self) -> tuple[type["NcclError"], tuple[int]]:
        return type(self), (self.status,)


def get_build_version() -> int:
    return 22707


def get_version() -> int:
    return get_build_version()


def get_unique_id() -> bytes:
    """A name by which the ranks of a communicator find each other."""
    return secrets.token_hex(_BYTES // 2).encode()


@dataclass
class _Work:
    """Messages of one call or group: pointers and sizes in bytes, in order, by the peer."""

    stream: int
    sends: list[tuple[int, int, int]] = field(default_factory=list)
    receives: list[tuple[int, int, int]] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)


class _Group(threading.local):
    depth = 0

    def __init__(self) -> None:
        self.works: dict[tuple[NcclCommunicator, int], _Work] = {}


def groupStart() -> None:
    """Calls from here on are one, until `groupEnd`."""
    _group.depth += 1


def groupEnd() -> None:
    if _group.depth == 0:
        raise NcclError(5)
    _group.depth -= 1
    if _group.depth == 0:
        works, _group.works = _group.works, {}
        for (communicator, _), work in works.items():
            communicator._submit(work)


class NcclCommunicator:
    """This process among `ndev`, on the current device."""

    def __init__(self, ndev: int, commId: bytes, rank: int, config: None = None) -> None:
        if len(commId) != _BYTES:
            raise ValueError(f"commId length {len(commId)} != {_BYTES}.")
        if not 0 <= rank < ndev:
            raise NcclError(4)
        self._n, self._rank, self._device = ndev, rank, runtime.getDevice()
        self._error = 0
        self._peers = _connected(ndev, commId, rank)
        own = runtime.deviceGetPCIBusId(self._device)
        for peer in self._peers.values():
            peer.send(own)
        if len({own, *(peer.recv() for peer in self._peers.values())}) < ndev:
            raise NcclError(5)

    def destroy(self) -> None:
        for peer in self._peers.values():
            peer.close()

    abort = destroy

    def device_id(self) -> int:
        return self._device

    def rank_id(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._n

    def check_async_error(self) -> None:
        if self._error:
            raise NcclError(self._error)

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        size = count * _dtype(datatype).itemsize
        self._add(stream, sends=[(peer, sendbuf, size)])

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        size = count * _dtype(datatype).itemsize
        self._add(stream, receives=[(peer, recvbuf, size)])

    def allGather(self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int) -> None:
        size = count * _dtype(datatype).itemsize
        everyone = range(self._n)
        self._add(
            stream,
            [(peer, sendbuf, size) for peer in everyone],
            [(peer, recvbuf + peer * size, size) for peer in everyone],
        )

    def allReduce(
        self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int
    ) -> None:
        if op not in _REDUCTIONS:
            raise NcclError(4)
        dtype = _dtype(datatype)
        parts = np.empty((self._n, count), dtype)
        size = parts[0].nbytes
        everyone = range(self._n)

        def reduce() -> None:
            found = _REDUCTIONS[op].reduce(parts, axis=0)
            ctypes.memmove(recvbuf, found.ctypes.data, size)

        self._add(
            stream,
            [(peer, sendbuf, size) for peer in everyone],
            [(peer, parts.ctypes.data + peer * size, size) for peer in everyone],
            [reduce],
        )

    # -- how it is done

    def _add(
        self,
        stream: int,
        sends: list[tuple[int, int, int]] | None = None,
        receives: list[tuple[int, int, int]] | None = None,
        after: list[Callable[[], None]] | None = None,
    ) -> None:
        """Give work to the group that is open, or to the stream."""
        self.check_async_error()
        work = _Work(stream, sends or [], receives or [], after or [])
        if any(not 0 <= peer < self._n for peer, _, _ in (*work.sends, *work.receives)):
            raise NcclError(4)
        if _group.depth == 0:
            self._submit(work)
            return
        whole = _group.works.setdefault((self, stream), _Work(stream))
        whole.sends += work.sends
        whole.receives += work.receives
        whole.after += work.after

    def _submit(self, work: _Work) -> None:
        captured = runtime.streamIsCapturing(work.stream)

        def call(_: object) -> None:
            self._do(work)
            if not captured:
                _alive.pop(id(function), None)

        function = (call, None)
        _alive[id(function)] = function  # of a capture for ever: its graph may run at any time
        try:
            runtime._launchHostFuncUnmanaged(work.stream, function)
        except BaseException:
            del _alive[id(function)]
            raise

    def _do(self, work: _Work) -> None:
        """Exchange with one peer after the other; pairs in one order for all, so none waits
        for one that waits for it."""
        try:
            self._copy(work)
            for peer, line in sorted(self._peers.items()):
                sends = [_bytes(*rest) for to, *rest in work.sends if to == peer]
                receives = [_bytes(*rest) for of, *rest in work.receives if of == peer]
                for sending in (self._rank < peer, self._rank > peer):
                    for part in sends if sending else receives:
                        if sending:
                            line.send_bytes(part)
                        elif line.recv_bytes_into(part) != len(part):
                            raise OSError("a message is shorter than expected")
            for then in work.after:
                then()
        except Exception as error:  # a peer is gone, or sends something else
            self._error = 6
            if not isinstance(error, EOFError | ConnectionError):
                traceback.print_exc()
            threading.Event().wait()

    def _copy(self, work: _Work) -> None:
        """What a rank sends to itself."""
        sends = [rest for to, *rest in work.sends if to == self._rank]
        receives = [rest for of, *rest in work.receives if of == self._rank]
        for (source, size), (target, _) in zip(sends, receives, strict=True):
            ctypes.memmove(target, source, size)


_group = _Group()
_alive: dict[int, tuple[Callable[[object], None], None]] = {}


def _dtype(datatype: int) -> np.dtype:
    if not 0 <= datatype < len(_DTYPES):
        raise NcclError(4)
    return np.dtype(_DTYPES[datatype])


def _bytes(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def _connected(n: int, name: bytes, rank: int) -> dict[int, Connection]:
    """A line to each other rank, through abstract sockets of this machine."""

    def address(of: int) -> str:
        return f"\0cupycpu-nccl-{name[:32].decode()}-{of}"

    lines: dict[int, Connection] = {}
    with Listener(address(rank), "AF_UNIX", backlog=n, authkey=name) as listener:
        until = time.monotonic() + _PATIENCE
        for peer in range(rank):
            while peer not in lines:
                try:
                    lines[peer] = Client(address(peer), "AF_UNIX", authkey=name)
                except ConnectionRefusedError:
                    if time.monotonic() > until:
                        raise NcclError(6) from None
                    time.sleep(0.01)
            lines[peer].send(rank)
        while len(lines) < n - 1:
            line = listener.accept()
            lines[line.recv()] = line
    return lines


__all__ = [
    "NcclCommunicator",
    "NcclError",
    "available",
    "get_build_version",
    "get_unique_id",
    "get_version",
    "groupEnd",
    "groupStart",
    *(name for name in dir() if name.startswith("NCCL_")),
]
