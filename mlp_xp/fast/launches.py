"""Kernels of `cuda_source` on a CuPy device: compiled once, launched with fixed arguments."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cupy
import numpy as np

from ..cached import cached_property
from ..kernels import PRECISIONS
from ..types import Array
from . import choice
from . import cuda_source as cuda

if TYPE_CHECKING:
    from .cupy import CupyStep

THREADS = 256


class KernelWarning(RuntimeWarning):
    """A part of the work is left to the specification, which is slower."""


def warn(name: str, reason: object) -> None:
    first = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
    warnings.warn(
        f"the CUDA kernel {name} cannot be used: {first}. The specification's formula takes "
        "its place: the same numbers, more slowly.",
        KernelWarning,
        stacklevel=2,
    )


# by source and device
_KERNELS: dict[tuple[cuda.Source, int], Any] = {}


def compiled(source: cuda.Source) -> Any:
    """The kernel, compiled for the current device; raises CompileException."""
    key = source, cupy.cuda.runtime.getDevice()
    if key not in _KERNELS:
        kernel = cupy.RawKernel(source.code, source.name)
        kernel.compile()
        _KERNELS[key] = kernel
    return _KERNELS[key]


def compile_together(sources: Iterable[cuda.Source]) -> None:
    """Compile those that are not yet, in one go, which takes a fraction of one after the other."""
    device = cupy.cuda.runtime.getDevice()
    missing = [source for source in dict.fromkeys(sources) if (source, device) not in _KERNELS]
    if not missing:
        return
    names = [f"{source.name}_{number}" for number, source in enumerate(missing)]
    module = cupy.RawModule(code=cuda.joined(missing, names))
    for source, name in zip(missing, names, strict=True):
        _KERNELS[source, device] = module.get_function(name)


class Launch:
    """A kernel with its arguments: a call launches it on the current stream.

    Arguments are arrays, None for the null pointer, and numbers, which are 64 bits wide in
    all kernels. They are laid out once: CuPy's own way takes twice as long for a call.
    """

    def __init__(
        self, source: cuda.Source, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any
    ) -> None:
        self.kernel, self.name = compiled(source), source.name
        self.kept = arguments  # arrays must outlive the addresses
        self.values = np.array([_argument(argument) for argument in arguments], np.uint64)
        self.addresses = self.values.ctypes.data + 8 * np.arange(len(arguments), dtype=np.uint64)
        sizes = (*grid, *(1,) * (3 - len(grid)), *block, *(1,) * (3 - len(block)))
        self.launch = (self.kernel.kernel.ptr, *map(int, sizes), 0)
        self.pointer = self.addresses.ctypes.data

    def __call__(self) -> None:
        stream = cupy.cuda.get_current_stream().ptr
        cupy.cuda.driver.launchKernel(*self.launch, stream, self.pointer, 0)


class Unless:
    """A launch that is left out where a step was given what it makes: dropout bits."""

    def __init__(self, step: CupyStep, launch: Launch) -> None:
        self.step, self.launch = step, launch

    def __call__(self) -> None:
        if not self.step.given:
            self.launch()


def _argument(value: Any) -> np.uint64:
    """64 bits as a kernel takes them."""
    if value is None:
        return np.uint64(0)
    if isinstance(value, float):
        return np.float64(value).view(np.uint64)
    if isinstance(value, cupy.ndarray):
        return np.uint64(value.data.ptr)
    return np.int64(value).view(np.uint64)


def blocks(size: int, threads: int) -> int:
    return max(1, -(-size // threads))


def row_threads(m: int) -> int:
    """Threads that take a row of m: a power of two, as the sums want it."""
    return min(THREADS, max(32, 1 << (m - 1).bit_length()))


def together(array: Array, pitch: int, network: int = 0) -> bool:
    """Whether every line of an array begins where 16 bytes can be copied at a time."""
    return all(n * array.itemsize % 16 == 0 for n in (pitch, network)) and (
        int(array.data.ptr) % 16 == 0
    )


class Whole(NamedTuple):
    """How W · A is computed by tiles, of examples that lie so: `cuda_tiles.INPUT` and the grid."""

    tile: cuda.Tile
    grid: tuple[int, int]
    operands: tuple[Any, ...]
    stride: int  # of W, from network to network

    @staticmethod
    def of(
        W: Array, A: Array, lies: cuda.Lies, precision: str = "float32", all_rows: bool = False
    ) -> Whole:
        """W (…, n, inner); A (…, inner, m), or as rows (m, inner)."""
        (*leading, n, inner), rows = W.shape, lies == "rows"
        m, K = A.shape[-2 if rows else -1], math.prod(leading)
        stride = W.strides[0] // W.itemsize if leading else 0
        aligned = together(W, inner, stride), together(A, inner if rows else m)
        best = choice.tile(((n, inner, m),), K, str(W.dtype), all_rows)
        best = best._replace(together=aligned, digits=PRECISIONS[precision])
        grid = (blocks(n, best.rows) * blocks(m, best.columns), K)
        return Whole(best, grid, (W, A, None, None, A.ndim == 3, inner), stride)


class Bits:
    """Dropout bits of one step, (…, size) uint16, drawn on the device when they are indexed.

    A step of this module takes only `seeds` and `step`, and draws them itself.
    """

    def __init__(
        self, seeds: Sequence[int], leading: tuple[int, ...], step: int, size: int
    ) -> None:
        self.seeds, self.leading, self.step, self.size = tuple(seeds), leading, step, size

    @cached_property
    def array(self) -> Array:
        """All of them."""
        out = cupy.empty((*self.leading, self.size), np.uint16)
        seeds = cupy.asarray(np.array(self.seeds, np.uint64))
        Launch(
            cuda.draw_bits("float32"),
            (blocks(self.size, 16 * THREADS), math.prod(self.leading)),
            (THREADS,),
            *(out, seeds, None, self.step, self.size),
        )()
        return out

    def __getitem__(self, key: Any) -> Array:
        return self.array[key]
