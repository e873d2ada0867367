"""A loop as text: one kernel in CUDA, which takes sizes, strides and numbers as arguments.

The three ways of `loops`, with threads in the place of the loops that are not sums:

    flat     a thread for every entry
    rows     a sum along the innermost axis: `lanes` threads side by side go over a row
    columns  a sum along another axis: 32 columns side by side, each of `lanes` threads

The threads of a sum hold parts of it, which are added up in an order that the shapes alone
decide, and then are known to all of them: so a pass that needs the sum can follow. Few sums along
a long axis go in parts, a block each, and another kernel adds these up.
"""

from __future__ import annotations

import math

from ..fast.cuda_text import Source, source
from ..fast.tracing import REDUCTIONS
from .cuda_products import CudaKernel, Matrices, Tiling, grid, parameters, text
from .items import Place
from .layout import packed, reshaped
from .loops import AXIS, CTYPES, Access, Argument, LoopText, Scope

THREADS = 256  # of a block
WARP = 32
LONG = 1024  # entries of a row from which on all of a block go over it
ENOUGH = 264  # blocks that keep a device busy: two for each multiprocessor of the largest
LEAST = 2048  # entries of a part of a sum, at least
MOST_PARTS = 64


def finished(dtype: str, how: str) -> Source:
    """Adds up the parts of each sum; `how` is "sum", "max" or "min"."""
    _, combine = REDUCTIONS[how]
    body = f"""
  const I e = blockIdx.x * (I)blockDim.x + threadIdx.x;
  if (e >= n) return;
  T total = partial[e];
  for (I part = 1; part < parts; part++) {{
    const T next = partial[part * n + e];
    total = {combine.format("total", "next")};
  }}
  out[e * stride] = total;"""
    return source(f"finish_{how}", dtype, "T* out, const T* partial, I n, I parts, I stride", body)


class CudaText(LoopText):
    """A loop's text; a flat one may take in the product that it reads entry by entry."""

    taken: Access | None = None  # the product's entries, where that is so
    kept = False  # whether others read them too

    def argument(self, what: Argument) -> str:
        self.arguments.append(what)
        return f"a{len(self.arguments) - 1}"

    def _real(self, value: float) -> str:
        return f"(T)__longlong_as_double({self.argument(value)})"

    def _sum(self, name: str) -> str:
        return name

    def _scope(self, mask: int, inner: Scope, row: Scope | None) -> Scope:
        return inner if mask & AXIS or self.kind == "flat" else self.outer

    def takes(self, place: Place) -> bool:
        """Whether every entry of what lies there is read once, in the order in which it lies."""
        found = [access for access in self.accesses.values() if access.place.owner is place.owner]
        if self.kind != "flat" or self.ones is not None or len(found) != 1:
            return False
        (access,) = found
        in_order = packed((*self.dims.outer, self.dims.inner)).strides
        size = math.prod(self.dims.outer) * self.dims.inner
        lies = (*access.outer, access.inner) == in_order and access.place.layout.offset == 0
        return lies and size == place.owner.size and not access.written

    def cuda(self, of: tuple[Matrices, Tiling] | None = None, kept: bool = False) -> CudaKernel:
        """The kernel.

        of    the product whose entries it reads, to be computed in it
        kept  whether these are written too
        """
        if of is not None:
            self.taken = next(a for a in self.accesses.values() if a.place.owner is of[0].out.owner)
            self.taken.written = self.kept = kept
        self.n = math.prod(self.dims.outer) * (1 if self.kind == "rows" else self.dims.inner)
        self._threads()
        self._sizes()
        for access in self.accesses.values():
            self._declare(access)
        self.top, self.outer = Scope(), Scope()
        lines = [*self._begin(), *(self._entries() if self.kind == "flat" else self._sums())]
        # what fits 32 bits is divided in a fifth of the time
        kind = f"  typedef {'I' if self.n > 2**31 else 'unsigned'} D;"
        if of is not None:
            end = ["D e = (D)((k * n + r) * columns + j);", *self.head, *lines]
            inside = text(*of, self.dtype, self.argument, "\n    ".join(end))
            return self._made("product_with", [kind, inside], grid(*of), (THREADS, 1))
        body = [kind, *self.head, *(f"  {line}" for line in lines)]
        found = self._made(f"loop_{self.kind}", body, self.grid, self.block)
        if self.parts == 1:
            return found
        sums = [target for target, _ in self.targets if target.node.op == "reduce"]
        finish = tuple((target.node.param[0], target.place) for target in sums)
        return found._replace(parts=self.parts, n=self.n, finish=finish)

    def _made(
        self, name: str, body: list[str], blocks: tuple[int, ...], threads: tuple[int, int]
    ) -> CudaKernel:
        made = source(name, self.dtype, parameters(self.arguments), "\n".join(body))
        return CudaKernel(made, self.arguments, blocks, threads)

    # -- who does what

    def _threads(self) -> None:
        """Threads along the axis and beside it, blocks, and parts of a sum."""
        along, self.parts = self.dims.axis, 1
        self.lanes, self.block = 1, (THREADS, 1)
        each = THREADS  # sums of a block
        if self.kind == "rows":
            self.lanes = THREADS if along >= LONG else WARP
            each = THREADS // self.lanes
            self.block = (self.lanes, each)
        elif self.kind == "columns":
            self.lanes, each = min(THREADS // WARP, 1 << (along - 1).bit_length()), WARP
            self.block = (WARP, self.lanes)
        blocks = max(1, -(-self.n // each))
        if self.kind != "flat" and blocks < ENOUGH and self._splits():
            least = LEAST if self.kind == "rows" else LEAST // WARP
            self.parts = max(1, min(MOST_PARTS, -(-ENOUGH // blocks), along // least))
        self.grid = (blocks, self.parts)

    def _splits(self) -> bool:
        """Whether nothing in the loop needs its sums, and these lie so that they can be left."""
        passes = self._passes()
        reduced = any(self._reduced_targets(level) for level in range(len(passes) + 1))
        sums = [t.place.layout for t, _ in self.targets if t.node.op == "reduce"]
        lie = all(reshaped(layout, (self.n,)) is not None for layout in sums)
        return len(passes) == 1 and not reduced and lie

    # -- text

    def _sizes(self) -> None:
        """Extents, and where an array ends that is 1 and then 0."""
        dims = self.dims
        self.head.append(f"  const D all = {self.argument(self.n)};")
        for i, n in enumerate(dims.outer[1:], 1):
            self.head.append(f"  const D e{i} = {self.argument(n)};")
        if self.kind != "rows" and dims.outer:
            self.head.append(f"  const D n = {self.argument(dims.inner)};")
        if self.kind != "flat":
            self.head.append(f"  const I along = {self.argument(dims.axis)};")
        if self.ones is not None:
            at = "r" if self.kind == "rows" else "i"
            self.half = f"(T)({at} < {self.argument(self.ones)})"

    def _begin(self) -> list[str]:
        """Which entry, or sum, a thread belongs to, and where each array begins for it."""
        place, lane = ("y", "x") if self.kind == "rows" else ("x", "y")
        lines = (
            []
            if self.taken is not None
            else [
                f"D e = blockIdx.x * (D)blockDim.{place} + threadIdx.{place};",
                "const bool inside = e < all;",
                "if (!inside) return;" if self.kind == "flat" else "if (!inside) e = 0;",
            ]
        )
        if self.kind != "flat":
            lines.append(f"const I lane = threadIdx.{lane};")
            lines.append("const I part = (along + gridDim.y - 1) / gridDim.y;")
            lines.append("const I from = part * blockIdx.y;")
            lines.append("const I until = from + part < along ? from + part : along;")
        left = "e"
        if self.kind != "rows":
            lines.append("const D i = e % n, o = e / n;" if self.dims.outer else "const D i = e;")
            left = "o"
        for k in reversed(range(1, len(self.dims.outer))):
            lines.append(f"const D i{k} = {left} % e{k}, o{k} = {left} / e{k};")
            left = f"o{k}"
        if self.dims.outer:
            lines.append(f"const D i0 = {left};")
        for access in self.accesses.values():
            terms = [f"i{k} * {access.name}_{k}" for k, s in enumerate(access.outer) if s]
            if self.kind != "rows" and access.inner:
                terms.append("i" if access.inner == 1 else f"i * {access.name}_n")
            if terms and (access is not self.taken or self.kept):
                kind = CTYPES[access.dtype] if access.written else f"const {CTYPES[access.dtype]}"
                begin = f"{kind}* __restrict__ p{access.name} = {access.name}"
                lines.append(f"{begin} + {' + '.join(terms)};")
        return lines

    def _declare(self, access: Access) -> None:
        if access is self.taken and not self.kept:
            return
        kind = CTYPES[access.dtype] if access.written else f"const {CTYPES[access.dtype]}"
        name, at = access.name, self.argument(access.place)
        self.head.append(f"  {kind}* __restrict__ {name} = ({kind}*){at};")
        for i, stride in enumerate(access.outer):
            if stride:
                self.head.append(f"  const I {name}_{i} = {self.argument(stride)};")
        if self.kind != "rows" and access.inner not in (0, 1):
            self.head.append(f"  const I {name}_n = {self.argument(access.inner)};")
        if self.kind != "flat" and access.axis not in (0, 1):
            self.head.append(f"  const I {name}_r = {self.argument(access.axis)};")

    def _entry(self, access: Access, written: bool = False) -> str:
        if access is self.taken and not written:
            return "value"
        moved = any(access.outer) or (self.kind != "rows" and access.inner)
        pointer = f"p{access.name}" if moved else access.name
        if self.kind == "flat" or access.axis == 0:
            return f"*{pointer}"
        return f"{pointer}[r]" if access.axis == 1 else f"{pointer}[r * {access.name}_r]"

    def _entries(self) -> list[str]:
        scope = Scope()
        ends = [self.write(expression, scope) for _, expression in self.targets]
        given = list(zip(self.outputs, ends, strict=True))
        if self.taken is not None and self.kept:
            given.append((self.taken, "value"))
        return [*scope.lines, *(f"{self._entry(to, True)} = {name};" for to, name in given)]

    def _sums(self) -> list[str]:
        lines = list[str]()
        if self.lanes > 1 and (self.kind == "columns" or self.lanes > WARP):
            lines.append(f"__shared__ T scratch[{THREADS}];")
        for number, (sums, ends) in enumerate(self._passes()):
            inner = Scope()
            self.outer.lines = []
            begin, inside = list[str](), list[str]()
            names: list[tuple[str, str]] = []
            for place in sums:
                target, expression = self.targets[place]
                how, name = target.node.param[0], f"sum{self.sums[id(target.node)]}"
                start, combine = REDUCTIONS[how]
                value = self.write(expression, inner)
                begin.append(f"T {name} = {start};")
                inside.append(f"{name} = {combine.format(name, value)};")
                names.append((name, combine))
            written = [
                (self.outputs[place], self.write(self.targets[place][1], inner)) for place in ends
            ]
            stores = [f"if (inside) {self._entry(access)} = {name};" for access, name in written]
            lines += [*self.outer.lines, *begin]
            if inside or stores:
                lines.append(f"for (I r = from + lane; r < until; r += {self.lanes}) {{")
                lines += [f"  {line}" for line in (*inner.lines, *inside, *stores)]
                lines.append("}")
            for name, combine in names:
                lines += self._across(name, combine)
            self.outer.lines = []
            reduced = [
                (place, self.write(self.targets[place][1], Scope()))
                for place in self._reduced_targets(number + 1)
            ]
            lines += self.outer.lines
            if reduced:  # others may still have to read what these are written over
                lines.append("__syncthreads();")
            after = [(place, name) for place, (name, _) in zip(sums, names, strict=True)] + reduced
            if self.parts == 1:
                stores = [
                    f"  {self._entry(self.outputs[place])} = {name};" for place, name in after
                ]
            else:
                room = self.argument("partial")
                self.head.append(f"  T* const partial = (T*){room};")
                stores = [
                    f"  partial[({k} * (I)gridDim.y + blockIdx.y) * all + e] = {name};"
                    for k, (_, name) in enumerate(after)
                ]
            if stores:
                lines += ["if (inside && lane == 0) {", *stores, "}"]
        return [*self.top.lines, *lines]

    def _across(self, name: str, combine: str) -> list[str]:
        """A sum of the parts that the threads hold, known to all of them."""
        lines = list[str]()
        combined = f"{name} = {combine.format(name, 'next')};"
        rows = self.kind == "rows"
        if rows:
            lines += [
                "for (int half = 16; half > 0; half /= 2) {",
                f"  const T next = __shfl_xor_sync(0xffffffffu, {name}, half);",
                f"  {combined}",
                "}",
            ]
        count = self.lanes // WARP if rows else self.lanes
        if count == 1:
            return lines
        mine = f"if (lane % {WARP} == 0) scratch[lane / {WARP}]"
        return [
            *lines,
            f"{mine if rows else f'scratch[lane * {WARP} + threadIdx.x]'} = {name};",
            "__syncthreads();",
            f"{name} = scratch[{0 if rows else 'threadIdx.x'}];",
            f"for (int q = 1; q < {count}; q++) {{",
            f"  const T next = scratch[{'q' if rows else f'q * {WARP} + threadIdx.x'}];",
            f"  {combined}",
            "}",
            "__syncthreads();",
        ]
