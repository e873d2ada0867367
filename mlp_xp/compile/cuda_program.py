"""A fused graph on a CuPy device: launches on memory that is made once, in order.

Its loops and small products are kernels of ours, its large products cuBLAS's. All of it can be
captured as a CUDA graph, sums over several GPUs too, but for what calls CuPy's own functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import cupy

from ..fast.blas import layout
from ..fast.cublas import Cublas
from ..fast.cublas import Product as Multiplication
from ..fast.launches import THREADS, Launch, blocks, compile_together
from ..fast.products import in_bfloat16, transposed
from ..types import Array
from .cuda_loops import finished
from .cuda_plan import CudaPlan
from .cuda_products import CudaKernel
from .cuda_sums import Sums
from .graph import Node, Opaque
from .items import Call, Item, Place, Product
from .layout import Layout, reshaped
from .program import size_of


class CudaProgram:
    """Launches that compute the roots of a graph.

    given      arrays of the inputs (and results that lie in inputs), C-contiguous, by their
               names; what is multiplied from an address that is a multiple of 16
    calls      in order
    by_item    where those of an item stand among them
    replayable whether all are launches on fixed memory, as a graph needs
    roots      arrays that hold the results after `run`
    """

    target: ClassVar[str] = "CUDA"

    def __init__(self, plan: CudaPlan, given: Mapping[str, Array], cublas: Cublas) -> None:
        self.plan, self.fusion, self.cublas = plan, plan.fusion, cublas
        self.given = {plan.inputs[name]: array for name, array in given.items()}
        self.block = cupy.empty(plan.n_bytes, "uint8")
        self.calls: list[Callable[[], object]] = []
        self.by_item: dict[int, slice] = {}
        self.replayable = True
        self._flat: dict[Node, Array] = {}
        for one in (one for found in plan.matrices.values() for one in found):
            if any(self.whole(place.owner).data.ptr % 16 for place in one):
                raise ValueError("a matrix begins where 16 bytes cannot be copied at a time")
        compile_together(plan.sources())
        for place, number in plan.constants:
            self.array(place)[...] = number
        for item in self.fusion.items:
            if item.number not in plan.left_out:
                start = len(self.calls)
                self._emit(item)
                self.by_item[item.number] = slice(start, len(self.calls))
        self.roots = [self.array(place) for place in self.fusion.roots]

    @property
    def n_calls(self) -> int:
        return len(self.calls)

    def run(self) -> None:
        for call in self.calls:
            call()

    def whole(self, owner: Node) -> Array:
        """An owner's memory, flat."""
        if owner in self.given:
            return self.given[owner].reshape(-1)
        found = self._flat.get(owner)
        if found is None:
            if owner.op == "value":
                found = cupy.asarray(owner.param).reshape(-1)
            elif owner in self.plan.starts:
                start = self.plan.starts[owner]
                found = self.block[start : start + size_of(owner)].view(owner.dtype)
            else:
                found = cupy.zeros(owner.size, owner.dtype)
            self._flat[owner] = found
        return found

    def array(self, place: Place) -> Array:
        """A view of memory."""
        lies, flat = place.layout, self.whole(place.owner)
        return cupy.lib.stride_tricks.as_strided(
            flat[lies.offset :] if lies.size else flat[:0],
            lies.shape,
            tuple(stride * flat.itemsize for stride in lies.strides),
        )

    # -- launches

    def _emit(self, item: Item) -> None:
        kernel = self.plan.kernels.get(item.number)
        if kernel is not None:
            self._kernel(kernel)
        elif isinstance(item, Product):
            for matrices in self.plan.matrices[item.number]:
                A, B, C = map(self._matrix, matrices)
                precision = self.plan.precision
                if precision == "bfloat16":
                    A, B = self._in_bfloat16(A), self._in_bfloat16(B)
                self.calls.append(Multiplication(self.cublas, A, B, C, precision=precision))
        elif isinstance(item, Call):
            self._call(item)

    def _kernel(self, kernel: CudaKernel) -> None:
        if math.prod(kernel.grid) == 0:
            return
        n, parts, dtype = kernel.n, kernel.parts, self.plan.dtype
        partial = cupy.empty(len(kernel.finish) * n * parts, dtype)
        given = [self._argument(argument, partial) for argument in kernel.arguments]
        launch = Launch(kernel.source, kernel.grid, kernel.block, *given)
        launch.kept += (partial,)
        self.calls.append(launch)
        for number, (how, place) in enumerate(kernel.finish):
            flat = reshaped(place.layout, (n,))
            assert flat is not None
            out, room = self.array(Place(place.owner, flat)), partial[number * n * parts :]
            stride = flat.strides[0]
            arguments = (out, room, n, parts, stride)
            grid = (blocks(n, THREADS),)
            self.calls.append(Launch(finished(dtype, how), grid, (THREADS,), *arguments))

    def _argument(self, argument: Any, partial: Array) -> Any:
        if isinstance(argument, Place):
            flat = self.whole(argument.owner)
            return flat[argument.layout.offset :] if argument.layout.offset else flat
        return partial if isinstance(argument, str) else argument

    def _matrix(self, place: Place) -> Array:
        """A stack of matrices; one by itself is no stack."""
        shape, strides, offset = place.layout
        if shape[0] == 1:
            shape, strides = shape[1:], strides[1:]
        return self.array(Place(place.owner, Layout(shape, strides, offset)))

    def _in_bfloat16(self, matrix: Array) -> Array:
        turned, pitch = layout(matrix)
        half, launch = in_bfloat16(transposed(matrix) if turned else matrix, pitch)
        self.calls.append(launch)
        return transposed(half) if turned else half

    def _call(self, item: Call) -> None:
        out, function = self.array(self.fusion.place(item.node)), item.node.param
        arrays = [self.array(place) for place in item.operands]
        if isinstance(function, Opaque) and isinstance(function.function, Sums):
            self.calls += function.function.calls(arrays[0], out)
            return

        def call() -> None:  # NumPy's functions hand CuPy's arrays over to CuPy's own
            out[...] = function(*arrays)

        call()  # what CuPy lacks is found now
        self.calls.append(call)
        self.replayable = False


__all__ = ["CudaProgram"]
