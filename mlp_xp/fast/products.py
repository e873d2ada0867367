"""The products of a CUDA step: kernels of ours, or cuBLAS's, at the recipe's precision.

What is launched is added to `calls`; the kernels round the products are `fast.program`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from ..kernels import PRECISIONS
from ..optimizers import Optimizer
from ..types import Array
from . import choice
from . import cuda_source as cuda
from .blas import layout
from .cublas import Product
from .launches import THREADS, Launch, blocks, row_threads, together
from .tracing import Untraceable

if TYPE_CHECKING:
    from .cupy import CupyStep


def transposed(array: Array) -> Array:
    """The transpose of the last two axes, a view."""
    return array.swapaxes(-1, -2)


def in_bfloat16(matrix: Array, pitch: int) -> tuple[Array, Launch]:
    """A buffer for a matrix's numbers as bfloat16, and the launch that fills it.

    matrix  (…, rows, n), whose rows lie together, `pitch` apart
    """
    half = cupy.empty(matrix.shape, np.uint16)
    networks, n = math.prod(matrix.shape[:-2]), matrix.shape[-1]
    stride = matrix.strides[0] // matrix.itemsize if matrix.ndim == 3 else 0
    source, size = cuda.as_bfloat16(str(matrix.dtype)), matrix.shape[-2] * n
    grid = (blocks(size, 4 * THREADS), networks)
    return half, Launch(source, grid, (THREADS,), half, matrix, n, pitch, stride, size)


class Products:
    """What a step of m examples multiplies, and where it lies.

    calls     launches in order
    X         (…, n_features, m) the batch's examples
    gathered  whether X is there before the first product, which else fetches the rows
    halves    operands as bfloat16, by the addresses of the float32 they hold now
    pieces    δ, A_in, and where W and b are in the flat vector, of gradients still to come
    values    the losses of the examples, each its share
    apart     whether something but `pieces` writes to the gradient
    """

    def __init__(self, step: CupyStep, m: int, shared: bool) -> None:
        self.step, self.m, self.shared, self.K = step, m, shared, step.networks
        self.dtype, self.stride = str(step.theta.dtype), step.theta.shape[-1]
        self.precision = step.recipe.precision
        own = () if shared else step.leading
        self.X = cupy.empty((*own, step.recipe.network.sizes[0], m), self.dtype)
        self.gathered = False
        self.calls: list[Callable[[], object]] = []
        self.halves: dict[int, Array] = {}
        self.pieces: list[tuple[Array, Array, int, int]] = []
        self.apart = False
        self.values = self.buffer(m)

    def buffer(self, *shape: int, dtype: Any = None) -> Array:
        """A place to compute in, (…, *shape)."""
        return cupy.empty((*self.step.leading, *shape), dtype or self.dtype)

    def by_row(self, source: cuda.Source, rows: int, *arguments: Any) -> Launch:
        """A block for each row."""
        return Launch(source, (rows, self.K), (row_threads(self.m),), *arguments)

    def by_column(self, source: cuda.Source, *arguments: Any) -> Launch:
        """A block for COLUMNS examples."""
        grid = (blocks(self.m, cuda.COLUMNS), self.K)
        return Launch(source, grid, (cuda.COLUMNS, cuda.ROWS), *arguments)

    def tiled(self, source: cuda.Source, size: cuda.Tile, n: int, *arguments: Any) -> Launch:
        """A block for each tile of a product (n, m)."""
        grid = (blocks(n, size.rows) * blocks(self.m, size.columns), self.K)
        return Launch(source, grid, (THREADS,), *arguments)

    def ours(self, n: int, inner: int) -> bool:
        """Whether a product of n units, over the batch, is a kernel of ours."""
        return choice.ours(n, inner, self.m, self.K)

    def tile(
        self, W: Array, A: Array, n: int, *, turned: bool = False, all_rows: bool = False
    ) -> cuda.Tile:
        """The tile for W A or Wᵀ A, which has n rows."""
        inner, rows = A.shape[-2], self.step.data.rows
        size = choice.tile(((n, inner, self.m),), self.K, self.dtype, all_rows)
        left = together(W, n if turned else inner, self.stride if self.K > 1 else 0)
        lies = self.lies(A)
        right = together(rows, inner) if lies == "found" else together(A, self.m)
        return size._replace(together=(left, right), digits=PRECISIONS[self.precision])

    def lies(self, A: Array) -> cuda.Lies:
        """Whether examples are fetched where they lie."""
        return "found" if A is self.X and not self.gathered else "columns"

    def operands(self, W: Array, A: Array) -> tuple[Any, ...]:
        """W · A as a kernel of ours takes it: `cuda_tiles.INPUT`."""
        own = A.ndim == 3
        rows, kept = (self.step.data.rows, A) if self.lies(A) == "found" else (A, None)
        return W, rows, kept, self.step.inbox, own, A.shape[-2]

    def product(self, A: Array, B: Array, out: Array, add: bool = False) -> Array:
        """out ← A B (+ out), by cuBLAS, of operands at the recipe's precision."""
        if self.precision == "bfloat16":
            A, B = self._as_bfloat16(A), self._as_bfloat16(B)
        self.calls.append(Product(self.step.cublas, A, B, out, add, self.precision))
        self.halves.pop(out.data.ptr, None)  # it holds other numbers now
        return out

    def _as_bfloat16(self, array: Array) -> Array:
        """A matrix's numbers in a buffer of bfloat16, which a launch fills where none has yet."""
        turned, pitch = layout(array)
        matrix = transposed(array) if turned else array
        half = self.halves.get(matrix.data.ptr)
        if half is None:
            half, launch = in_bfloat16(matrix, pitch)
            self.halves[matrix.data.ptr] = half
            self.calls.append(launch)
        half = half.reshape(matrix.shape)  # a row lies like a column, and may have been made as one
        return transposed(half) if turned else half

    def multiply(
        self, W: Array, A: Array, out: Array, *, turned: bool = False, add: bool = False
    ) -> Array:
        """out ← W A (+ out), or Wᵀ A: of weights and examples, whoever is best at it."""
        n, inner = out.shape[-2], A.shape[-2]
        self.halves.pop(out.data.ptr, None)
        if not self.ours(n, inner):
            return self.product(transposed(W) if turned else W, A, out, add)
        size = self.tile(W, A, n, turned=turned)
        source = cuda.multiply(self.dtype, size, turned, self.lies(A), add)
        self.calls.append(
            self.tiled(source, size, n, *self.operands(W, A), out, n, self.m, self.stride)
        )
        return out

    def weigh(self, delta: Array, A: Array, W: Array, theta: int, b: int = -1) -> None:
        """∂J/∂W ← δ Aᵀ, and where `b` is given, its place in the flat vector, ∂J/∂b."""
        n, width = W.shape[-2:]
        alone = b >= 0 and self.precision != "float32"  # ∂J/∂b is a sum of what is not rounded
        if choice.ours(n, self.m, width + 1, self.K):
            self.pieces.append((delta, A, theta, -1 if alone else b))
            if not alone:
                return
        else:
            self.product(delta, transposed(A), W)
        self.apart = True
        if b >= 0:
            db = self.step.g[..., b:]
            source = cuda.totals(self.dtype)
            self.calls.append(self.by_row(source, n, delta, db, n, self.m, self.stride))

    def halved(self, array: Array, wanted: bool) -> Array | None:
        """A buffer for an array's numbers as bfloat16, which a launch fills that makes both."""
        if wanted:
            self.halves[array.data.ptr] = cupy.empty(array.shape, np.uint16)
        return self.halves[array.data.ptr] if wanted else None

    def finish(self, optimizer: Optimizer | None) -> bool:
        """The gradients of the weights that are kernels of ours; whether the step is done.

        optimizer  to update by in the same launch, where no others are wanted
        """
        step = self.step
        if not self.pieces:
            return False
        widths = [(d.shape[-2], A.shape[-2] + (b >= 0)) for d, A, _, b in self.pieces]
        size = choice.tile(tuple((n, self.m, columns) for n, columns in widths), self.K, self.dtype)
        both = (together(self.X, self.m),) * 2
        size = size._replace(together=both, digits=PRECISIONS[self.precision])
        rows: list[tuple[int, ...]] = []
        count = 0
        for (delta, A, theta, b), (n, columns) in zip(self.pieces, widths, strict=True):
            addresses = delta.data.ptr, A.data.ptr
            rows.append((count, *addresses, n, A.shape[-2], A.ndim == 3, theta, b))
            count += blocks(n, size.rows) * blocks(columns, size.columns)
        described = cupy.asarray(np.array(rows, np.int64))
        arguments = (described, len(rows), step.inbox, self.m, self.stride)
        kept = [array for piece in self.pieces for array in piece[:2]]
        done = False

        def launch(source: cuda.Source, *more: Any) -> None:
            call = Launch(source, (count, self.K), (THREADS,), *arguments, *more)
            call.kept += tuple(kept)
            self.calls.append(call)

        if optimizer is not None:
            with suppress(Untraceable, cupy.cuda.compiler.CompileException):
                ended = cupy.zeros(1, np.uint32)
                more = (step.theta, step.recipe.network.n_weights, self.values, self.K, ended)
                launch(cuda.gradients(self.dtype, size, optimizer), *more, *step.moments)
                done = True
        if not done:
            launch(cuda.gradients(self.dtype, size), step.g)
        return done
