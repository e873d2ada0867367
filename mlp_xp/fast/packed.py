"""Kernels that come compiled with the package, so that a first fit waits for no compiler.

A wheel may bring, beside this file, a library for each of `LEVELS`: `runtime.c`, and the kernels
of the common programs (`packing`). A function is looked up by the hash of its text, so what is
not there (another layer's kernel, a formula of the user's) is compiled where it is needed, as
everything is where there is no such library.

A library's name holds the hash of its contents, which are compared before it is loaded.

What is compiled here has the same flags, of the same level: the same text gives the same bits,
as far as the compilers are the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent

# Of a kind of processor, the widest first: what has to be there, as Linux and compilers call it
LEVELS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx512": ("avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
        "avx2": ("avx2", "fma", "bmi2"),
    },
    "aarch64": {"neon": ()},
    "arm64": {"neon": ()},
}
# Of 512 bits a step of a small network takes 1.12 times as long, and none is much faster: bench/
TUNED = {"x86_64": ("-mtune=generic", "-mprefer-vector-width=256")}


def features() -> str:
    """What this processor can do, in the words of the system."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return platform.processor()


@cache
def level() -> str | None:
    """The widest of `LEVELS` that this processor has; None where it has none of them."""
    levels, there = LEVELS.get(platform.machine(), {}), set(features().split())
    return next((name for name, needed in levels.items() if there.issuperset(needed)), None)


def flags(name: str | None) -> tuple[str, ...]:
    """What tells a compiler of a level; without one, of the processor at hand."""
    if name is None:
        return ("-march=native",)
    machine = platform.machine()
    return *(f"-m{feature}" for feature in LEVELS[machine][name]), *TUNED.get(machine, ())


def hashed(content: bytes) -> str:
    """What a library's name ends with."""
    return hashlib.sha256(content).hexdigest()


def path(folder: Path, name: str, content: bytes) -> Path:
    """Where the library of a level belongs."""
    return folder / f"kernels-{name}-{hashed(content)}.so"


@cache
def library() -> ctypes.CDLL | None:
    """The library that came for this processor; raises OSError where it is damaged."""
    if level() is None or os.environ.get("MLP_XP_NATIVE") == "compile":
        return None
    for found in sorted(FOLDER.glob(f"kernels-{level()}-*.so")):
        if found != path(FOLDER, str(level()), found.read_bytes()):
            raise OSError(f"{found.name} is not as it was installed: install mlp_xp again")
        return ctypes.CDLL(str(found))
    return None
