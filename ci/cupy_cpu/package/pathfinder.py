"""Stands in for ``cuda.pathfinder``, which CuPy asks for libraries and headers.

Every CUDA library that CuPy opens at run time (driver, runtime, NVRTC, cuBLAS,
...) is the one shared library of this build, and the CUDA headers are those that
ship inside the package. No file of NVIDIA's is looked for.
"""

import ctypes
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
LIBRARY = str(_ROOT / "cupy" / ".data" / "lib" / "libcupycpu.so")
INCLUDE = str(_ROOT / "cupy" / "_core" / "include" / "cupy" / "_cupycpu")

library = ctypes.CDLL(LIBRARY)
library.cupycpu_set_include_dir(INCLUDE.encode())


class DynamicLibNotFoundError(RuntimeError):
    """Never raised here; CuPy catches it."""


class LoadedDL:
    """What ``load_nvidia_dynamic_lib`` returns."""

    abs_path = LIBRARY
    found_via = "cupy_cpu"
    was_already_loaded_from_elsewhere = False

    def __init__(self) -> None:
        self._handle_uint = library._handle


def load_nvidia_dynamic_lib(name: str) -> LoadedDL:
    return LoadedDL()


def find_nvidia_header_directory(name: str) -> str:
    return INCLUDE


def find_nvidia_binary_utility(name: str) -> None:
    return None
