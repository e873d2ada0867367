"""What only a CuPy on the CPU can tell: what was launched, copied and waited for.

This package is installed by the wheel ``cupy-...+cpu``, beside CuPy, and imports
no CuPy itself.

>>> with cupy_cpu.count() as counted:
...     y = x @ W + b
>>> counted.kernels, counted.cublas, counted.synchronisations
>>> with cupy_cpu.forbid_synchronisation():
...     step(state)
"""

import ctypes
import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

__all__ = [
    "Copies",
    "Counters",
    "SynchronisationError",
    "count",
    "counters",
    "deferred",
    "forbid_synchronisation",
    "guarded",
    "is_cpu_build",
]


class SynchronisationError(RuntimeError):
    """Something waited for the device in a region that forbids it."""


@dataclass(frozen=True)
class Copies:
    """How many copies, and of how many bytes together."""

    calls: int = 0
    bytes: int = 0

    def __sub__(self, earlier: "Copies") -> "Copies":
        return Copies(self.calls - earlier.calls, self.bytes - earlier.bytes)


@dataclass
class Counters:
    """What the process asked of the "device", each by name.

    Work that is captured into a graph is in `captured`; a graph launch is one of
    `graph_launches`, and what it does is in `replayed`. All else counts what was
    submitted outside of captures.
    """

    kernels: dict[str, int] = field(default_factory=dict)
    cublas: dict[str, int] = field(default_factory=dict)
    library: dict[str, int] = field(default_factory=dict)
    """Sorting and random numbers: on a device, kernels of other libraries."""
    copies: dict[str, Copies] = field(default_factory=dict)
    """By direction: H2D, D2H, D2D (and H2H)."""
    memsets: int = 0
    allocations: dict[str, Copies] = field(default_factory=dict)
    """By call; cudaMalloc is what CuPy's memory pool could not serve."""
    synchronisations: dict[str, int] = field(default_factory=dict)
    """By the call that made the host wait."""
    callbacks: int = 0
    graph_launches: int = 0
    captured: dict[str, int] = field(default_factory=dict)
    replayed: dict[str, int] = field(default_factory=dict)

    @property
    def launches(self) -> int:
        """Launches from the host: what each costs some microseconds on a device."""
        each = (self.kernels, self.cublas, self.library)
        return sum(sum(d.values()) for d in each) + self.memsets + self.graph_launches

    @property
    def pool_misses(self) -> int:
        """Allocations of device memory that CuPy's pool could not serve."""
        calls = ("cudaMalloc", "cudaMallocManaged", "cudaMallocAsync")
        return sum(self.allocations.get(c, Copies()).calls for c in calls)

    @property
    def waits(self) -> int:
        """How often the host waited for the device."""
        return sum(self.synchronisations.values())

    def __sub__(self, earlier: "Counters") -> "Counters":
        result = Counters()
        for f in fields(self):
            new, old = getattr(self, f.name), getattr(earlier, f.name)
            if isinstance(new, int):
                setattr(result, f.name, new - old)
                continue
            zero = Copies() if f.name in ("copies", "allocations") else 0
            difference = {name: n - old.get(name, zero) for name, n in new.items()}
            setattr(result, f.name, {k: v for k, v in difference.items() if v != zero})
        return result


def is_cpu_build() -> bool:
    """Whether the installed CuPy is the one on the CPU that this package is part of."""
    try:
        return importlib.metadata.version("cupy").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def guarded() -> bool:
    """Whether CUPYCPU_GUARD puts a trapping page after each array."""
    return os.environ.get("CUPYCPU_GUARD", "0") not in ("", "0")


def deferred() -> bool:
    """Whether CUPYCPU_DEFER puts work off until something waits for it."""
    return os.environ.get("CUPYCPU_DEFER", "0") not in ("", "0")


def counters() -> Counters:
    """The counts since the process began."""
    result = Counters()
    for line in _lines("cupycpu_counters"):
        group, name, calls_text, bytes_text = line.split("\t")
        calls = int(calls_text)
        if group == "kernel":
            result.kernels[name] = calls
        elif group in ("cublas", "library"):
            getattr(result, group)[name] = calls
        elif group == "copy":
            result.copies[name] = Copies(calls, int(bytes_text))
        elif group == "memset":
            result.memsets = calls
        elif group == "allocation":
            result.allocations[name] = Copies(calls, int(bytes_text))
        elif group == "synchronisation":
            result.synchronisations[name] = calls
        elif group == "host":
            result.callbacks += calls
        elif group == "graph":
            result.graph_launches = calls
        else:
            verb, what = group.split(" ", 1)  # "captured kernel", "replayed copy", ...
            counts = result.captured if verb == "captured" else result.replayed
            counts[name if what != "copy" else f"copy {name}"] = calls
    return result


@contextmanager
def count() -> Iterator[Counters]:
    """Counts the work of a ``with`` block; the counters are filled in at its end."""
    before, result = counters(), Counters()
    try:
        yield result
    finally:
        difference = counters() - before
        for f in fields(result):
            setattr(result, f.name, getattr(difference, f.name))


@contextmanager
def forbid_synchronisation() -> Iterator[None]:
    """Refuses every call by which this thread would wait for the device.

    The refused call fails where it is made; SynchronisationError names it. Where
    the failure is swallowed, as in a destructor, it is raised at the end of the
    block.
    """
    library = _library()
    before = len(_lines("cupycpu_refusals"))
    library.cupycpu_forbid_waiting(1)
    try:
        yield
    except Exception as error:
        refused = _lines("cupycpu_refusals")[before:]
        if refused:
            raise SynchronisationError(_message(refused)) from error
        raise
    else:
        refused = _lines("cupycpu_refusals")[before:]
        if refused:
            raise SynchronisationError(_message(refused))
    finally:
        library.cupycpu_forbid_waiting(-1)


def _message(refused: list[str]) -> str:
    calls = ", ".join(dict.fromkeys(refused))
    return f"{calls}: waits for the device, in a region that forbids it"


def _library() -> ctypes.CDLL:
    from cupy_cpu import pathfinder  # not at import: CuPy imports us while it starts

    return pathfinder.library


def _lines(function: str) -> list[str]:
    """The lines of text that a C function of the library gives."""
    call = getattr(_library(), function)
    call.restype = ctypes.c_size_t
    call.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    room = 1 << 14
    while True:
        text = ctypes.create_string_buffer(room)
        needed = call(text, room)
        if needed <= room:
            return text.value.decode().splitlines()
        room = 2 * needed
