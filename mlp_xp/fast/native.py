"""C, compiled where a compiler is found, and the memory-bound half of a step with it.

Libraries are kept in a folder of the user's, by their source, the compiler and the
processor; a source is compiled once, in 0.1 to 0.3 s. Where there is no compiler, or it
fails, steps are made of NumPy's calls alone: slower, but the same.

MLP_XP_NATIVE=0  compiles nothing and loads nothing
MLP_XP_CACHE     the folder; else $XDG_CACHE_HOME/mlp_xp or ~/.cache/mlp_xp
CC               the compiler; else cc, gcc or clang
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

FLAGS = (
    *("-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"),
    *("-shared", "-fPIC", "-pthread", "-w"),
)
TIME_LIMIT = 120  # seconds for a compilation


class CannotCompile(RuntimeError):
    """There is no compiler, or it refuses."""


@cache
def compiler() -> tuple[str, ...]:
    """The compiler's command; raises `CannotCompile`."""
    if os.name == "nt":
        raise CannotCompile("compiled steps are written for POSIX threads, which Windows lacks")
    wanted = shlex.split(os.environ.get("CC", ""))
    for command in [wanted] if wanted else [["cc"], ["gcc"], ["clang"]]:
        path = shutil.which(command[0])
        if path is not None:
            return path, *command[1:]
    raise CannotCompile("no C compiler (cc, gcc, clang, or what CC names) is installed")


@cache
def _machine() -> str:
    """What a library for this processor depends on: its features and the compiler."""
    features = platform.processor()
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    found = Path(compiler()[0]).resolve().stat()
    return f"{platform.platform()} {features} {compiler()} {found.st_size} {found.st_mtime_ns}"


@cache
def folder() -> Path:
    """Where libraries are kept: the user's, or a temporary folder if that cannot be written."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get("MLP_XP_CACHE") or Path(home) / "mlp_xp") / "native"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="mlp_xp-"))


def _compile(source: str, path: Path) -> None:
    """A library at `path`, there whole or not at all."""
    own = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        text, built = Path(scratch, "source.c"), Path(scratch, "built.so")
        text.write_text(source, encoding="utf-8")
        command = [*compiler(), own, *FLAGS, str(text), "-o", str(built), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT)
        except subprocess.CalledProcessError as error:
            raise CannotCompile(f"{shlex.join(command)}: {error.stderr.strip()[:2000]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotCompile(f"{shlex.join(command)}: {error}") from error
        os.replace(built, path)


@cache
def library(source: str) -> ctypes.CDLL:
    """The library of a C source, compiled if it is not there; raises `CannotCompile`."""
    key = hashlib.sha256(f"{_machine()}\n{FLAGS}\n{source}".encode()).hexdigest()[:32]
    path = folder() / f"{key}.so"
    try:
        if path.exists():
            with suppress(OSError):  # a file that does not load is made again
                return ctypes.CDLL(str(path))
        _compile(source, path)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CannotCompile(f"{path}: {error}") from error


@cache
def runtime() -> ctypes.CDLL:
    """runtime.c; raises `CannotCompile`."""
    found = library(Path(__file__).with_name("runtime.c").read_text(encoding="utf-8"))
    found.run.argtypes, found.run.restype = [ctypes.c_void_p, ctypes.c_longlong], None
    found.use_threads.argtypes, found.use_threads.restype = [ctypes.c_longlong], ctypes.c_longlong
    return found


@cache
def _works() -> bool:
    """Whether anything can be compiled; a compiler that is there and fails is warned of."""
    try:
        compiler()
    except CannotCompile:
        return False
    try:
        runtime()
    except CannotCompile as error:
        warnings.warn(f"Steps are not compiled: {error}", RuntimeWarning, stacklevel=2)
        return False
    return True


def available() -> bool:
    """Whether there is compiled code, and it is wanted."""
    return os.environ.get("MLP_XP_NATIVE", "1") != "0" and _works()


def status() -> str:
    """What becomes of a step, and why: for people."""
    if os.environ.get("MLP_XP_NATIVE", "1") == "0":
        return "steps not compiled: MLP_XP_NATIVE=0"
    try:
        command, _ = compiler(), runtime()
    except CannotCompile as error:
        return f"steps not compiled: {error}"
    return f"steps compiled by {command[0]}"


def entry(found: ctypes.CDLL, name: str) -> int:
    """Where a function of a library begins."""
    return ctypes.cast(getattr(found, name), ctypes.c_void_p).value or 0
