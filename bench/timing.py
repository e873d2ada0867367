"""How time and memory are taken, on each device. A device is added by one row of `DEVICES`.

Everything here runs in the contestant's own process.
"""

from __future__ import annotations

import gc
import importlib
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mlp_xp.bench import copy_rate, emulated, gemm_rate, last_level_cache
from mlp_xp.devices import device as find_device


class Session(NamedTuple):
    """A contestant at work on one case.

    run     do so many steps or calls, one after another; may return before they are done
    wait    until they are
    result  what equality looks at, as NumPy: the last loss, the first probabilities, …
    """

    run: Callable[[int], None]
    wait: Callable[[], None]
    result: Callable[[], Any]


class Block(NamedTuple):
    """Seconds of one step or call: all of it, until `run` returned, and on the device's clock."""

    total: float
    host: float
    device: float | None


class DeviceRow(NamedTuple):
    """A device as the contestants name it.

    refusal  why it cannot be timed here, or ""
    events   library → (start, stop): seconds between them on the device; empty on a CPU
    names    library → its name for the device
    """

    refusal: Callable[[], str]
    events: dict[str, Callable[[], tuple[Callable[[], None], Callable[[], float]]]]
    names: dict[str, str]


# -- CUDA ----------------------------------------------------------------------


def _cuda_refusal() -> str:
    fault = emulated()
    if fault:
        return fault
    try:
        find_device("cuda")
    except (RuntimeError, ValueError, ImportError) as error:
        return str(error).split(". ")[0]
    return ""


def _cupy_events() -> tuple[Callable[[], None], Callable[[], float]]:
    cupy = importlib.import_module("cupy")
    first, last = cupy.cuda.Event(), cupy.cuda.Event()

    def stop() -> float:
        last.record()
        last.synchronize()
        return float(cupy.cuda.get_elapsed_time(first, last)) / 1e3

    return first.record, stop


def _torch_events() -> tuple[Callable[[], None], Callable[[], float]]:
    torch = importlib.import_module("torch")
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def stop() -> float:
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3

    return first.record, stop


DEVICES = {
    "cpu": DeviceRow(lambda: "", {}, {"mlp_xp": "cpu", "torch": "cpu", "jax": "cpu"}),
    "cuda": DeviceRow(
        _cuda_refusal,
        {"mlp_xp": _cupy_events, "torch": _torch_events},
        {"mlp_xp": "cuda", "torch": "cuda", "jax": "cuda"},
    ),
}


class Launches(NamedTuple):
    """What one step asks of a CUDA device: kernels started, and calls in which the host waits."""

    kernels: float
    waits: float


WAITING = re.compile(r"cuda(Stream|Device|Event)Synchronize|cuda?MemcpyDtoH|cudaMemcpy$")


def launches(session: Session, n: int = 10) -> Launches | None:
    """Counted over n steps by PyTorch's profiler, which sees every library's; None without it."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    session.wait()
    with torch.profiler.profile(activities=activities) as profile:
        session.run(n)
    events = profile.events()
    on_device = [e for e in events if str(e.device_type).endswith("CUDA")]
    kernels = [e for e in on_device if not e.name.startswith(("Memcpy", "Memset"))]
    waits = [e.name for e in events if WAITING.search(e.name)]
    # the profiler itself synchronises once when it stops
    return Launches(len(kernels) / n, max(0, len(waits) - 1) / n)


# -- blocks --------------------------------------------------------------------


def block(session: Session, n: int, events: Callable[[], Any] | None) -> Block:
    """Time n steps, after a few that bring caches and clocks back."""
    session.run(max(1, n // 16))
    session.wait()
    start, stop = events() if events is not None else (None, None)
    began = time.perf_counter()
    if start is not None:
        start()
    session.run(n)
    returned = time.perf_counter()
    on_device = None if stop is None else stop()
    session.wait()
    ended = time.perf_counter()
    return Block(
        (ended - began) / n,
        (returned - began) / n,
        None if on_device is None else on_device / n,
    )


# -- ceilings ------------------------------------------------------------------


def ceilings(device: str, dtype: str) -> dict[str, float]:
    """FLOP/s of a product and bytes/s of a copy, by NumPy, or CuPy on CUDA."""
    if device == "cpu":
        xp, wait = importlib.import_module("numpy"), lambda: None
        gemm = max(gemm_rate(xp, wait, getattr(xp, dtype), n) for n in (512, 1024, 2048))
        return {"gemm": gemm, "copy": copy_rate(xp, wait, 4 * last_level_cache())}
    xp = importlib.import_module("cupy")
    wait = xp.cuda.get_current_stream().synchronize
    gemm = max(gemm_rate(xp, wait, getattr(xp, dtype), n) for n in (2048, 8192))
    return {"gemm": gemm, "copy": copy_rate(xp, wait, 2**30)}


# -- memory --------------------------------------------------------------------


def _status(field: str) -> int | None:
    """A line of /proc/self/status in bytes; None on systems without it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None


def memory_now() -> int:
    """Bytes resident."""
    gc.collect()
    return _status("VmRSS") or memory_peak()


def memory_peak() -> int:
    """Most bytes resident since the start, or since `forget_peak`."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Start the peak again from what is resident now, where the system can."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


# -- environment ---------------------------------------------------------------

# What a child of the harness does not inherit: settings that would favour one contestant.
DROPPED = re.compile(r"^(OPENBLAS|GOTO|OMP|GOMP|KMP|MKL|BLIS|VECLIB|NUMEXPR|XLA|JAX|TORCH|NPROC)")


def child_environment(threads: int, dtype: str) -> dict[str, str]:
    """The environment of a contestant: the same number of threads in every library."""
    kept = {name: value for name, value in os.environ.items() if not DROPPED.match(name)}
    counts = ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB_MAXIMUM", "NUMEXPR")
    kept |= {f"{name}_NUM_THREADS": str(threads) for name in counts}
    kept["NPROC"] = str(threads)  # the size of XLA's pool
    if dtype == "float64":
        kept["JAX_ENABLE_X64"] = "1"
    return kept


def dropped_variables() -> list[str]:
    """Names of the settings found in the environment and taken away."""
    return sorted(name for name in os.environ if DROPPED.match(name))


def pin(threads: int) -> None:
    """Keep this process to as many cores as it has threads."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:threads])


def blas() -> str:
    """The BLAS libraries loaded and the architecture they chose, as far as can be known."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown (threadpoolctl is not installed)"
    found = []
    for pool in threadpool_info():
        if pool["user_api"] == "blas":
            parts = (pool["internal_api"], pool.get("version"), pool.get("architecture"))
            found.append(" ".join(str(part) for part in parts if part))
    return ", ".join(sorted(set(found))) or "none"


def machine() -> dict[str, Any]:
    """What JSON keeps of the machine and the software."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in (
        "mlp_xp",
        "numpy",
        "torch",
        "jax",
        "jaxlib",
        "scikit-learn",
        "onnxruntime",
        "cupy",
    ):
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        models = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        processor = models[0] if models else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "last_level_cache": last_level_cache(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": packages,
    }
