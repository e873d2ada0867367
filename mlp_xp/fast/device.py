"""The row "cuda" of the devices: CuPy's namespace, the ways in and out, and its errors."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ..extras import cure
from ..hardware import Device, DeviceUnavailable
from ..types import Array

OLDEST_DRIVER = 12_000  # CUDA 12.0, the least that CuPy 14 takes
# number of this process on its node, as Open MPI, MPICH and Intel MPI, MVAPICH and Slurm say it
LOCAL_RANK = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "SLURM_LOCALID",
)
INSUFFICIENT_DRIVER, NO_DEVICE = 35, 100  # cudaError_t


def driver_version() -> int:
    """CUDA version of the installed driver, 13000 for 13.0; 0 where there is none."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library, version = ctypes.CDLL(name), ctypes.c_int()
        return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else 0
    except (OSError, AttributeError):
        return 0


def _written(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def wheel(driver: int) -> str:
    """Which CuPy to install."""
    extra, major = ("cuda13", 13) if driver >= 13_000 else ("cuda", 12)
    return f"{cure(extra)}, which brings cupy-cuda{major}x"


def _driver_fault(driver: int) -> str:
    if driver == 0:
        return (
            "no NVIDIA driver was found. Install the driver of the graphics card; in a "
            "container, start it with the GPU passed in (docker run --gpus all)."
        )
    return (
        f"the NVIDIA driver supports CUDA {_written(driver)}, but CuPy needs "
        f"{_written(OLDEST_DRIVER)} or more, and its wheel no more than the driver: update the "
        f"driver, or {wheel(driver)}."
    )


def _cupy() -> Any:
    """CuPy with a device that can run, or `DeviceUnavailable`."""
    try:
        import cupy
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            driver = driver_version()
            if driver < OLDEST_DRIVER:
                raise DeviceUnavailable(
                    f"CuPy is not installed, and {_driver_fault(driver)} Then {wheel(driver)}."
                ) from None
            raise DeviceUnavailable(
                f"CuPy is not installed. The driver here takes CUDA {_written(driver)}: "
                f"{wheel(driver)}."
            ) from None
        raise DeviceUnavailable(
            f"CuPy is installed but cannot be imported: {error}. Install one CuPy wheel only: "
            f"{wheel(driver_version())}."
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if error.status == INSUFFICIENT_DRIVER:
            raise DeviceUnavailable(f"CUDA: {_driver_fault(driver_version())}") from None
        count = 0
        if error.status != NO_DEVICE:
            raise DeviceUnavailable(f"CUDA does not start: {error}.") from error
    if count == 0:
        raise DeviceUnavailable(
            "CuPy is installed, but CUDA finds no device. Does nvidia-smi show one? Does "
            "CUDA_VISIBLE_DEVICES hide it?"
        )
    return cupy


def status() -> list[tuple[str, bool, str]]:
    """Name, whether it can run, and what it is or why not: a row a device."""
    try:
        cupy = _cupy()
    except DeviceUnavailable as error:
        return [("cuda", False, str(error))]
    rows = []
    for number in range(cupy.cuda.runtime.getDeviceCount()):
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        name = properties["name"].decode()
        memory = properties["totalGlobalMem"] / 2**30
        detail = f"CuPy {cupy.__version__}, {name}, {memory:.1f} GiB"
        rows.append((f"cuda:{number}", True, detail))
    return rows


class OutOfDeviceMemory(MemoryError):
    """The device has no room for an array; says what was asked, what is free, what to try."""


def _explained(error: Exception, cupy: Any) -> str:
    asked = re.search(r"allocating ([\d,]+) bytes", str(error))
    size = int(asked[1].replace(",", "")) if asked else 0
    free, total = cupy.cuda.runtime.memGetInfo()
    pool = cupy.get_default_memory_pool()
    free += pool.free_bytes()
    number = cupy.cuda.runtime.getDevice()
    return (
        f"cuda:{number} is out of memory: {_bytes(size)} were asked for, {_bytes(free)} of "
        f"{_bytes(total)} are free and {_bytes(pool.used_bytes())} are held by this process. Try "
        "a smaller batch_size, fewer networks at once, dtype='float32' or device='cpu', or end "
        "what else uses the device. A model in training keeps the weights of its last whole "
        "step: save it, or call fit again to go on."
    )


def _bytes(n: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:,.1f} {unit}"
    return f"{n} bytes"


def _usual(current: int, count: int) -> int:
    """The device of "cuda": CuPy's current one; of its own to each process of MPI on a node.

    One that the caller has made current stays.
    """
    local = next((os.environ[name] for name in LOCAL_RANK if name in os.environ), "")
    return int(local) % count if current == 0 and local.isdecimal() else current


def cuda(number: int | None, graph: Any = "auto") -> Device:
    """The row of CUDA device `number`, or of CuPy's current device."""
    cupy = _cupy()
    import array_api_compat.cupy as xp

    from . import upload
    from .cupy_kernels import KERNELS
    from .launches import Bits

    count = cupy.cuda.runtime.getDeviceCount()
    if number is not None and number >= count:
        raise DeviceUnavailable(
            f"device is 'cuda:{number}', but there {'is' if count == 1 else 'are'} {count}: "
            f"expected cuda:0{'' if count == 1 else f' … cuda:{count - 1}'}."
        )
    name = "cuda" if number is None else f"cuda:{number}"
    home = _usual(cupy.cuda.runtime.getDevice(), count) if number is None else number

    @contextmanager
    def active() -> Iterator[None]:
        try:
            with cupy.cuda.Device(home):
                yield
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise OutOfDeviceMemory(_explained(error, cupy)) from error

    def put(array: Any) -> Array:
        if isinstance(array, cupy.ndarray):
            if array.device.id != home:
                raise TypeError(
                    f"it lies on cuda:{array.device.id}, and nothing is copied between devices "
                    f"unasked: with cupy.cuda.Device({home}): array.copy() does it"
                )
            return array
        with active():
            return upload.put(np.asarray(array))

    def put_rows(rows: npt.NDArray[Any], dtype: Any) -> Array:
        with active():
            return upload.up(rows, dtype)

    def get(array: Array) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = cupy.asnumpy(array)
        return found

    def synchronize() -> None:
        with cupy.cuda.Device(home):
            cupy.cuda.get_current_stream().synchronize()

    def host_rows(rows: npt.NDArray[Any], dtype: str) -> Any:
        with active():
            return None if upload.fits(rows.shape, dtype) else upload.HostRows(rows, dtype)

    def stepper(recipe: Any, device: Device, data: Any) -> Any:
        from ..compile.cuda_step import stepper as traced
        from .graph import GraphError, stepper

        found = stepper(recipe, device, data, graph) or traced(recipe, device, data, graph)
        if found is None and graph is True:
            raise GraphError(
                "a step cannot be replayed as a graph: the specification computes it. Leave "
                "graph='auto' to have it run as it is."
            )
        return found

    def predictor(*arguments: Any) -> Any:
        from .cuda_predict import predictor

        return predictor(*arguments)

    def scorer(device: Device) -> Any:
        from ..compile.cuda_scores import CudaScores

        return CudaScores(device)

    return Device(
        name,
        xp,
        KERNELS,
        put,
        get,
        synchronize,
        reads_wait=True,
        stepper=stepper,
        predictor=predictor,
        scorer=scorer,
        draw_bits=Bits,
        host_rows=host_rows,
        put_rows=put_rows,
        finite=upload.finite,
        active=active,
    )
