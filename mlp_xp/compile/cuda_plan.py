"""What a program on CUDA launches: kernels of loops, and of products with what comes after them."""

from __future__ import annotations

from typing import Any

from ..fast.cuda_text import Source
from . import cuda_products
from .cuda_loops import CudaText, finished
from .cuda_products import CudaKernel, Matrices, Tiling
from .fuse import Fusion
from .graph import Node
from .items import Item, Loop, Place, Product
from .program import Plan


class CudaPlan(Plan):
    """A `Plan` of CUDA kernels; it needs no device.

    precision  of the products' operands, a row of `kernels.PRECISIONS`
    matrices   each product as cuBLAS, or a kernel, takes it
    within     of a product that a loop computes on its way, this loop
    constants  places that hold one number at every run, and this number: they are written once,
               in arrays of their own. On a CPU these would be cold, for want of a few stores
    """

    aligned = 256
    kernels: dict[int, CudaKernel]  # type: ignore[assignment]

    def __init__(self, fusion: Fusion, precision: str = "float32") -> None:
        self.precision = precision
        super().__init__(fusion)

    def _write(self) -> None:
        fusion = self.fusion
        self.constants: list[tuple[Place, Any]] = []
        self._fill()
        texts = {loop.number: CudaText(fusion, loop) for loop in self._loops()}
        self.matrices: dict[int, list[Matrices]] = {}
        alone: dict[int, tuple[Matrices, Tiling]] = {}
        for item in fusion.items:
            if not isinstance(item, Product):
                continue
            found = self.matrices[item.number] = cuda_products.matrices(fusion, item)
            if len(found) == 1:
                plan = cuda_products.tiling(found[0], self.dtype, self.precision)
                if plan is not None:
                    alone[item.number] = found[0], plan
        self.kernels = {}
        taken = self._taken(texts, alone)
        self.within = {number: loop for number, (loop, _) in taken.items()}
        for number, (loop, kept) in taken.items():
            self.kernels[loop] = texts[loop].cuda(alone[number], kept)
            self.left_out.add(number)
        for number, one in alone.items():
            if number not in taken:
                self.kernels[number] = cuda_products.kernel(*one, self.dtype)
        for number, text in texts.items():
            if number not in self.kernels:
                self.kernels[number] = text.cuda()

    def _fill(self) -> None:
        """Find what is the same at every run, as the zeros round an image."""
        kept = {place.owner for place in self.fusion.roots}
        for item in self.fusion.items:
            if not isinstance(item, Loop) or item.sums:
                continue
            if any(t.place.owner in kept or t.place.owner.op == "input" for t in item.writes):
                continue
            found = [self.fusion.expression(item, target) for target in item.writes]
            if all(expression.op == "number" for expression in found):
                self.left_out.add(item.number)
                places = [target.place for target in item.writes]
                self.constants += zip(places, (e.value for e in found), strict=True)
                self.apart |= {place.owner for place in places}

    def _taken(
        self, texts: dict[int, CudaText], alone: dict[int, tuple[Matrices, Tiling]]
    ) -> dict[int, tuple[int, bool]]:
        """Products that a loop can compute on its way; and whether others read them too."""
        readers: dict[Node, list[int]] = {}
        writers: dict[Node, list[int]] = {}
        for item in self.fusion.items:
            if item.number in self.left_out:
                continue
            for owner in self._read(item, texts):
                readers.setdefault(owner, []).append(item.number)
            for owner in self._written(item):
                writers.setdefault(owner, []).append(item.number)
        kept = {place.owner for place in self.fusion.roots}
        found: dict[int, tuple[int, bool]] = {}
        for number, (matrices, plan) in alone.items():
            item, out = self.fusion.items[number], matrices.out
            assert isinstance(item, Product)
            reading = readers.get(out.owner, [])
            if plan.parts > 1 or out.owner is not item.node or not reading:
                continue
            loop = reading[0]
            if loop not in texts or not texts[loop].takes(out):
                continue
            if any(loop == other for other, _ in found.values()):
                continue
            operands = (matrices.left.owner, matrices.right.owner)
            later = [n for owner in operands for n in writers.get(owner, ())]
            if any(number < n <= loop for n in later):
                continue
            found[number] = loop, len(reading) > 1 or out.owner in kept
        return found

    def _read(self, item: Item, texts: dict[int, CudaText]) -> set[Node]:
        if isinstance(item, Loop):
            return {access.place.owner for access in texts[item.number].accesses.values()}
        return {place.owner for place in item.operands}

    def _written(self, item: Item) -> set[Node]:
        if isinstance(item, Loop):
            return {target.place.owner for target in item.writes}
        return {self.fusion.place(item.node).owner}

    def sources(self) -> list[Source]:
        """Every kernel, also what adds up the parts of sums."""
        found = []
        for kernel in self.kernels.values():
            found.append(kernel.source)
            found += [finished(self.dtype, how) for how, _ in kernel.finish]
        return found


__all__ = ["CudaPlan"]
