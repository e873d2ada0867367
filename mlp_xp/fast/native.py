"""C, compiled where a compiler is found, and the memory-bound half of a step with it.

What came compiled with the package (`packed`) is not compiled again. Other libraries are kept
in a folder of the user's, by their source, the compiler and the processor; a source is
compiled once, in 0.1 to 0.5 s. Where there is no compiler, or it fails, steps are made of
NumPy's calls alone: slower, but the same.

What is kept is code that will run, so it is loaded only from a folder that nobody else can
write to, from a file of the user's (or root's) whose name holds the hash of its contents: a
library that was cut short or altered is made again, and not run.

MLP_XP_NATIVE=0        compiles nothing and loads nothing
MLP_XP_NATIVE=compile  compiles what came with the package too
MLP_XP_CACHE           the folder; else $XDG_CACHE_HOME/mlp_xp or ~/.cache/mlp_xp
CC                     the compiler; else cc, gcc or clang
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

from . import c_source, packed

FLAGS = (
    *("-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"),
    *("-fPIC", "-pthread", "-w"),
)
TIME_LIMIT = 15  # seconds for a compilation, which takes 0.1 to 0.5
SCRATCH, OLD = "making-", 3600  # folders of compilations; seconds after which none goes on
SHOWN = 2000  # letters of what a compiler says
PRODUCTS = [
    f"{kind}_{dtype}_{bits}"
    for kind in ("product", "vector")
    for dtype in ("float32", "float64")
    for bits in (32, 64)
]
SPARSE = ["sparse_float32", "sparse_float64"]
ENTRIES = (  # of the runtime
    *("run", "use_threads", "use_weights", "each", "gather"),
    *(*PRODUCTS, *SPARSE),
)


class CannotCompile(RuntimeError):
    """There is no compiler, or it refuses, or what it makes cannot be loaded."""


class NoCompiler(CannotCompile):
    """There is none, which is nothing to warn of."""


# -- the compiler ------------------------------------------------------------------


@cache
def compiler() -> tuple[str, ...]:
    """The compiler's command; raises `CannotCompile`."""
    if os.name == "nt":
        raise NoCompiler("compiled steps are written for POSIX threads, which Windows lacks")
    said = os.environ.get("CC", "")
    try:
        wanted = shlex.split(said)
    except ValueError as error:
        raise CannotCompile(
            f"CC is {said!r}, which is no command ({error}): expected one such as 'gcc' or "
            "'ccache gcc'"
        ) from None
    for command in [wanted] if wanted else [["cc"], ["gcc"], ["clang"]]:
        path = shutil.which(command[0])
        if path is not None:
            return os.path.abspath(path), *command[1:]
    raise NoCompiler("no C compiler (cc, gcc, clang, or what CC names) is installed")


@cache
def _machine() -> str:
    """What a library for this processor depends on: flags or features, and the compiler."""
    processor = packed.flags(packed.level()) if packed.level() else packed.features()
    found = Path(compiler()[0]).resolve().stat()
    return f"{platform.platform()} {processor} {compiler()} {found.st_size} {found.st_mtime_ns}"


_hung: list[str] = []  # the command that did not come back: nothing more is asked of it


def _compile(source: str, key: str) -> Path:
    """A library in the folder, there whole or not at all, named by the key and its hash."""
    place = folder()
    _sweep(place)
    with tempfile.TemporaryDirectory(dir=place, prefix=SCRATCH) as scratch:
        text, built = Path(scratch, "source.c"), Path(scratch, "built.so")
        text.write_text(source, encoding="utf-8")
        flags = (*packed.flags(packed.level()), *FLAGS, "-shared")
        run([*compiler(), *flags, str(text), "-o", str(built), "-lm"], Path(scratch, "said"))
        with open(built, "rb") as file:
            os.fchmod(file.fileno(), 0o700)
            path = place / f"{key}-{packed.hashed(file.read())}.so"
            os.fsync(file.fileno())  # or a crash may leave a name without its contents
        os.replace(built, path)
    return path


def run(command: list[str], output: Path, limit: float | None = None) -> None:
    """Run a compiler; raises `CannotCompile` where it fails or does not come back.

    output  a new file for what it says
    limit   in seconds; None: TIME_LIMIT
    """
    limit = TIME_LIMIT if limit is None else limit
    if _hung:
        raise CannotCompile(_hung[0])
    shown = shlex.join(command).replace(f"{output.parent}{os.sep}", "")
    with open(output, "wb+") as said:
        # its own group, for what it starts has to end with it; a file, for a pipe that one of
        # those held open would have to be waited for
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            failed = started.wait(limit)
        except subprocess.TimeoutExpired:
            _hung.append(f"{shown} did not end within {limit} s")
            raise CannotCompile(_hung[0]) from None
        finally:
            if started.poll() is None:  # too late, or interrupted
                with suppress(OSError):
                    os.killpg(started.pid, signal.SIGKILL)
                started.wait()
        if failed:
            said.seek(0)
            text = said.read(4 * SHOWN).decode("utf-8", "replace").strip()[:SHOWN]
            text = text.replace(f"{output.parent}{os.sep}", "")
            raise CannotCompile(f"{shown}: {text or f'exit status {failed}'}")


# -- the folder --------------------------------------------------------------------


@cache
def folder() -> Path:
    """Where libraries are kept: the user's, or else a temporary folder that ends with us.

    Raises `CannotCompile` where no code can be loaded from either, OSError where there is none.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(os.environ.get("MLP_XP_CACHE") or Path(home) / "mlp_xp") / "native"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = path.resolve()
        if os.access(path, os.W_OK | os.X_OK):
            _check_folder(path)
            return path
    except CannotCompile as error:
        warn("Compiled steps are not kept", error)
    except (OSError, RuntimeError):  # it cannot be made, or nobody knows where home is
        pass
    path = Path(tempfile.mkdtemp(prefix="mlp_xp-")).resolve()
    atexit.register(_delete, path, os.getpid())
    _check_folder(path)
    return path


def _delete(path: Path, process: int) -> None:
    if os.getpid() == process:  # and not one that was forked from it
        shutil.rmtree(path, ignore_errors=True)


def _check_folder(path: Path) -> None:
    """Raise `CannotCompile` where others could lay code into a folder, or none may run there."""
    if os.statvfs(path).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise CannotCompile(f"{path} is on a file system from which no code may run (noexec)")
    for place in (path, *path.parents):
        found = place.stat()
        if not _trusted(found.st_uid):
            raise CannotCompile(
                f"{place} belongs to another user (uid {found.st_uid}), who could lay code there: "
                "let MLP_XP_CACHE name a folder of your own"
            )
        others = found.st_mode & stat.S_IWOTH
        if found.st_mode & stat.S_IWGRP and not _alone(found.st_gid):
            others = stat.S_IWGRP
        sticky = found.st_mode & stat.S_ISVTX and place != path  # as /tmp: each has his own in it
        if others and not sticky:
            raise CannotCompile(
                f"others may write to {place} (mode {stat.S_IMODE(found.st_mode):o}), and so lay "
                f"code there: chmod go-w {place}, or let MLP_XP_CACHE name a folder of your own"
            )


def _sweep(path: Path) -> None:
    """Delete what compilations left that were killed."""
    for left in path.glob(f"{SCRATCH}*"):
        with suppress(OSError):
            if left.lstat().st_mtime < time.time() - OLD:
                shutil.rmtree(left, ignore_errors=True)


def _trusted(owner: int) -> bool:
    """Whether a file's owner may do here as he likes: the user, root, or who owns `/`.

    The last is root by another number, in a container with user numbers of its own.
    """
    return owner in (os.geteuid(), 0, os.stat("/").st_uid)


def _alone(group: int) -> bool:
    """Whether a group is the user's private one, as most Linux systems give everyone."""
    import grp
    import pwd

    try:
        found, name = grp.getgrgid(group), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return group == os.getegid() and found.gr_name == name and set(found.gr_mem) <= {name}


def _kept(key: str) -> Path | None:
    """The library of a key, if it is whole, unaltered and a trusted user's; others go."""
    with os.scandir(folder()) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(f"{key}-")]
    for name in sorted(names):
        path = folder() / name
        with suppress(OSError):
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                found = os.fstat(file.fileno())
                safe = stat.S_ISREG(found.st_mode) and _trusted(found.st_uid)
                safe = safe and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
                if safe and name == f"{key}-{packed.hashed(file.read())}.so":
                    return path
            path.unlink()
    return None


# -- libraries ---------------------------------------------------------------------


@cache
def _library(source: str) -> ctypes.CDLL | str:
    """The library of a C source, or why there is none: asked once, for it may take long."""
    place = Path("no folder for libraries")
    try:
        key = hashlib.sha256(f"{_machine()}\n{FLAGS}\n{source}".encode()).hexdigest()[:32]
        place = folder()
        return ctypes.CDLL(str(_kept(key) or _compile(source, key)))
    except NoCompiler:
        raise
    except CannotCompile as error:
        return str(error)
    except OSError as error:
        return f"{place}: {error}"


def library(source: str) -> ctypes.CDLL:
    """The library of a C source, compiled if it is not there; raises `CannotCompile`."""
    found = _library(source)
    if isinstance(found, str):
        raise CannotCompile(found)
    return found


@cache
def _brought() -> ctypes.CDLL | None:
    """What came compiled with the package; a library that is damaged is warned of."""
    try:
        return packed.library()
    except OSError as error:
        warn("Kernels that came with the package are compiled again", error)
        return None


def brought(name: str) -> int | None:
    """Where a function begins that came compiled with the package; None of any other."""
    found = _brought()
    return entry(found, name) if found is not None and hasattr(found, name) else None


@cache
def runtime() -> ctypes.CDLL:
    """runtime.c; raises `CannotCompile`."""
    source, mark = c_source.runtime()
    brought = _brought()
    found = brought if brought is not None and hasattr(brought, mark) else library(source)
    for name in ENTRIES:
        entry(found, name)
    found.run.argtypes, found.run.restype = [ctypes.c_void_p, ctypes.c_longlong], None
    for use in (found.use_threads, found.use_weights):
        use.argtypes, use.restype = [ctypes.c_longlong], ctypes.c_longlong
    return found


def threads() -> int:
    """To how many threads the tables of this thread are shared out."""
    found: int = runtime().use_threads(1)
    runtime().use_threads(found)
    return found


@cache
def _works() -> bool:
    """Whether anything can be compiled; a compiler that is there and fails is warned of."""
    try:
        runtime()
    except NoCompiler:
        return False
    except CannotCompile as error:
        warn("Steps are not compiled", error)
        return False
    return True


_warned: set[str] = set()


def warn(what: str, error: Exception, stacklevel: int = 3) -> None:
    """One line, once: what is not compiled, and why; nothing of `NoCompiler`."""
    if isinstance(error, NoCompiler):
        return
    message = " ".join(f"{what}: {error}".split())[:SHOWN]
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)


def available() -> bool:
    """Whether there is compiled code, and it is wanted."""
    return os.environ.get("MLP_XP_NATIVE", "1") != "0" and _works()


def status() -> str:
    """What becomes of a step, and why: for people."""
    if os.environ.get("MLP_XP_NATIVE", "1") == "0":
        return "steps not compiled: MLP_XP_NATIVE=0"
    try:
        runtime()
        others = f"by {compiler()[0]}"
    except CannotCompile as error:
        if _brought() is None:
            return f"steps not compiled: {error}"
        others = f"not: {error}"
    if _brought() is None:
        return f"steps compiled {others}"
    return f"steps compiled with the package for {packed.level()}, others {others}"


def entry(found: ctypes.CDLL, name: str) -> int:
    """Where a function of a library begins; raises `CannotCompile`."""
    try:
        return ctypes.cast(getattr(found, name), ctypes.c_void_p).value or 0
    except AttributeError:
        raise CannotCompile(
            f"the compiled library {found._name} has no function {name}: is CC "
            f"({shlex.join(compiler())}) a C compiler?"
        ) from None
