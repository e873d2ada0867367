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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mlp_xp.bench import copy_rate, cublas_rate, emulated, gemm_rate, last_level_cache
from mlp_xp.devices import device as find_device


class Session(NamedTuple):
    """A contestant at work on one case.

    run      do so many steps or calls, one after another; may return before they are done
    wait     until they are
    result   what equality looks at, as NumPy: the last loss, the first probabilities, …
    issued   of a `run` that ends with waiting: when the host had done its part, on the clock
             of `time.perf_counter`
    kernels  what one step launches on the device, as its program has it
    """

    run: Callable[[int], None]
    wait: Callable[[], None]
    result: Callable[[], Any]
    issued: Callable[[], float] | None = None
    kernels: Callable[[], int] | None = None


class Block(NamedTuple):
    """Seconds of one step or call: all of it, until `run` returned, and on the device's clock."""

    total: float
    host: float
    device: float | None


class DeviceRow(NamedTuple):
    """A device as the contestants name it.

    refusal  why it cannot be timed here, or ""
    events   library → (start, stop): seconds between them on the device; empty on a CPU
    memory   library → most bytes held on the device, and what was asked; empty on a CPU
    names    library → its name for the device
    """

    refusal: Callable[[], str]
    events: dict[str, Callable[[], tuple[Callable[[], None], Callable[[], float]]]]
    memory: dict[str, Callable[[], tuple[int, str]]]
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


def _cupy_memory() -> tuple[int, str]:
    cupy = importlib.import_module("cupy")
    # the pool gives nothing back unasked, so that what it holds is the most it ever held
    return int(cupy.get_default_memory_pool().total_bytes()), "device: all that CuPy's pool took"


def _torch_memory() -> tuple[int, str]:
    torch = importlib.import_module("torch")
    return int(torch.cuda.max_memory_allocated()), "device: torch.cuda.max_memory_allocated"


def _jax_memory() -> tuple[int, str]:
    jax = importlib.import_module("jax")
    used = jax.devices("cuda")[0].memory_stats()["peak_bytes_in_use"]
    return int(used), "device: JAX's peak_bytes_in_use"


DEVICES = {
    "cpu": DeviceRow(lambda: "", {}, {}, {"mlp_xp": "cpu", "torch": "cpu", "jax": "cpu"}),
    "cuda": DeviceRow(
        _cuda_refusal,
        {"mlp_xp": _cupy_events, "torch": _torch_events},
        {"mlp_xp": _cupy_memory, "torch": _torch_memory, "jax": _jax_memory},
        {"mlp_xp": "cuda", "torch": "cuda", "jax": "cuda"},
    ),
}


WAITING = re.compile(r"cuda(Stream|Device|Event)Synchronize|cuda?MemcpyDtoH|cudaMemcpy$")
PROFILED = 3  # steps


def launches(session: Session, library: str) -> dict[str, Any]:
    """What a step asks of a CUDA device: kernels, and calls in which the host waits.

    Ours are counted in the step's own program; PyTorch's by its profiler over three steps,
    which takes seconds; JAX's are not counted, for only its traces would tell.
    """
    if session.kernels is not None:
        return {"kernels": session.kernels(), "waits": None, "kernels_by": "the step's program"}
    if library != "torch":
        return {"kernels": None, "waits": None, "kernels_by": f"not counted for {library}"}
    torch = importlib.import_module("torch")
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    session.wait()
    with torch.profiler.profile(activities=activities) as profile:
        session.run(PROFILED)
    events = profile.events()
    on_device = [e for e in events if str(e.device_type).endswith("CUDA")]
    kernels = [e for e in on_device if not e.name.startswith(("Memcpy", "Memset"))]
    waits = [e.name for e in events if WAITING.search(e.name)]
    return {
        "kernels": len(kernels) / PROFILED,
        # the profiler itself synchronises once when it stops
        "waits": max(0, len(waits) - 1) / PROFILED,
        "kernels_by": "torch.profiler",
    }


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
    returned = time.perf_counter() if session.issued is None else session.issued()
    on_device = None if stop is None else stop()
    session.wait()
    ended = time.perf_counter()
    return Block(
        (ended - began) / n,
        (returned - began) / n,
        None if on_device is None else on_device / n,
    )


# -- ceilings ------------------------------------------------------------------


def ceilings(
    device: str, dtype: str, precision: str = "float32", seconds: float = 0.2
) -> dict[str, float]:
    """FLOP/s of a product and bytes/s of a copy: by NumPy, or by cuBLAS and CUDA's own copy.

    seconds  of a turn: on a CPU, no product follows one that took longer
    """
    if device == "cpu":
        xp, wait = importlib.import_module("numpy"), lambda: None
        gemm = 0.0
        for n in (512, 1024, 2048):
            gemm = max(gemm, rate := gemm_rate(xp, wait, getattr(xp, dtype), n))
            if 2 * n**3 / rate > seconds:
                break
        return {"gemm": gemm, "copy": copy_rate(xp, wait, 4 * last_level_cache())}
    xp = importlib.import_module("cupy")
    wait = xp.cuda.get_current_stream().synchronize
    sides = (2048, 8192)
    if precision == "float32":
        gemm = max(gemm_rate(xp, wait, getattr(xp, dtype), n) for n in sides)
    else:
        gemm = max(cublas_rate(precision, n) for n in sides)
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
DROPPED = re.compile(
    r"^(OPENBLAS|GOTO|OMP|GOMP|KMP|MKL|BLIS|VECLIB|NUMEXPR|XLA|JAX|TORCH|NPROC"
    r"|CUPY_TF32|NVIDIA_TF32)"
)


def child_environment(threads: int, dtype: str) -> dict[str, str]:
    """The environment of a contestant: the same number of threads in every library."""
    kept = {name: value for name, value in os.environ.items() if not DROPPED.match(name)}
    counts = ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB_MAXIMUM", "NUMEXPR")
    kept |= {f"{name}_NUM_THREADS": str(threads) for name in counts}
    kept["NPROC"] = str(threads)  # the size of XLA's pool
    kept["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # else JAX takes 3/4 of a device at once
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


def gpu() -> str:
    """The name of the CUDA device, which makes no context on it; "" where there is none."""
    with suppress(Exception):  # no CuPy, no driver, no device
        cupy = importlib.import_module("cupy")
        return str(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    return ""


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
        "cupy-cuda12x",
        "cupy-cuda13x",
    ):
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        models = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        processor = models[0] if models else processor
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor,
        "cores": os.cpu_count(),
        "last_level_cache": last_level_cache(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": packages,
    }
