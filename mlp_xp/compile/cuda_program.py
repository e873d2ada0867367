"""A fused graph on a CuPy device: launches on memory that is made once, in order.

Its loops are kernels of `cuda_loops`, its products cuBLAS's. All of it can be captured as a CUDA
graph, but for what calls CuPy's own functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import cupy

from ..fast.cublas import Cublas
from ..fast.cublas import Product as Multiplication
from ..fast.launches import THREADS, Launch, blocks, compile_together
from ..types import Array
from . import cuda_loops
from .cuda_loops import CudaPlan
from .fuse import Call, Item, Loop, Place, Product
from .graph import Node
from .layout import Layout, broadcast, indexed, reshaped
from .program import size_of


class CudaProgram:
    """Launches that compute the roots of a graph.

    given      arrays of the inputs (and results that lie in inputs), C-contiguous, by their names
    precision  of the products' operands, a row of `kernels.PRECISIONS`; not "bfloat16"
    calls      in order
    replayable whether all are launches on fixed memory, as a graph needs
    roots      arrays that hold the results after `run`
    """

    def __init__(
        self,
        plan: CudaPlan,
        given: Mapping[str, Array],
        cublas: Cublas,
        precision: str = "float32",
    ) -> None:
        self.plan, self.fusion, self.cublas, self.precision = plan, plan.fusion, cublas, precision
        self.given = {plan.inputs[name]: array for name, array in given.items()}
        self.block = cupy.empty(plan.n_bytes, "uint8")
        self.calls: list[Callable[[], object]] = []
        self.replayable = True
        self._flat: dict[Node, Array] = {}
        compile_together(plan.sources())
        for place, number in plan.constants:
            self.array(place)[...] = number
        for item in self.fusion.items:
            if item.number not in plan.filled:
                self._emit(item)
        self.roots = [self.array(place) for place in self.fusion.roots]

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
        layout, flat = place.layout, self.whole(place.owner)
        return cupy.lib.stride_tricks.as_strided(
            flat[layout.offset :] if layout.size else flat[:0],
            layout.shape,
            tuple(stride * flat.itemsize for stride in layout.strides),
        )

    # -- launches

    def _emit(self, item: Item) -> None:
        if isinstance(item, Loop):
            self._loop(item)
        elif isinstance(item, Product):
            self._product(item)
        else:
            self._call(item)

    def _loop(self, loop: Loop) -> None:
        kernel = self.plan.kernels[loop.number]
        if kernel.n == 0:
            return
        n = len(loop.sums) * kernel.n * kernel.parts if kernel.parts > 1 else 0
        partial = cupy.empty(n, self.plan.dtype)
        given = [self._argument(argument, partial) for argument in kernel.arguments]
        launch = Launch(kernel.source, kernel.grid, kernel.block, *given)
        launch.kept += (partial,)
        self.calls.append(launch)
        if kernel.parts == 1:
            return
        for number, node in enumerate(loop.sums):
            place = self.fusion.place(node)
            layout = reshaped(place.layout, (kernel.n,))
            assert layout is not None
            out, room = (
                self.array(Place(place.owner, layout)),
                partial[number * kernel.n * kernel.parts :],
            )
            source = cuda_loops.finished(self.plan.dtype, node.param[0])
            arguments = (out, room, kernel.n, kernel.parts, layout.strides[0])
            self.calls.append(Launch(source, (blocks(kernel.n, THREADS),), (THREADS,), *arguments))

    def _argument(self, argument: Any, partial: Array) -> Any:
        if isinstance(argument, Place):
            flat = self.whole(argument.owner)
            return flat[argument.layout.offset :] if argument.layout.offset else flat
        return partial if argument == "partial" else argument

    def _product(self, item: Product) -> None:
        """One call of cuBLAS, or as many as its batches, which lie evenly, allow."""
        out = self.fusion.place(item.node)
        lead = out.layout.shape[:-2]
        layouts = [
            broadcast(place.layout, (*lead, *place.layout.shape[-2:])) for place in item.operands
        ]
        owners = [self.whole(place.owner) for place in (*item.operands, out)]
        self._multiply(owners, [*layouts, out.layout])

    def _multiply(self, owners: list[Array], layouts: list[Layout]) -> None:
        lead = layouts[0].shape[:-2]
        if math.prod(layouts[-1].shape) == 0:
            return
        flat = [reshaped(x, (math.prod(lead), *x.shape[-2:])) for x in layouts]
        if all(layout is not None for layout in flat):
            A, B, C = [_matrices(a, x) for a, x in zip(owners, flat, strict=True) if x is not None]
            self.calls.append(Multiplication(self.cublas, A, B, C, precision=self.precision))
            return
        for k in range(lead[0]):
            rest = [[("at", k), *(("all", n) for n in x.shape[1:])] for x in layouts]
            self._multiply(owners, [indexed(x, key) for x, key in zip(layouts, rest, strict=True)])

    def _call(self, item: Call) -> None:
        out, function = self.array(self.fusion.place(item.node)), item.node.param
        arrays = [self.array(place) for place in item.operands]

        def call() -> None:  # NumPy's functions hand CuPy's arrays over to CuPy's own
            out[...] = function(*arrays)

        call()  # what CuPy lacks is found now
        self.calls.append(call)
        self.replayable = False


def _matrices(flat: Array, layout: Layout) -> Array:
    """A stack of matrices; one by itself is not a stack."""
    if layout.shape[0] == 1:
        layout = Layout(layout.shape[1:], layout.strides[1:], layout.offset)
    strides = tuple(stride * flat.itemsize for stride in layout.strides)
    return cupy.lib.stride_tricks.as_strided(flat[layout.offset :], layout.shape, strides)


__all__ = ["CudaProgram"]
