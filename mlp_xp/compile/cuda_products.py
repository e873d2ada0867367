"""Products as kernels of ours, in the tiles of `fast.cuda_tiles`: which, how, and in what parts.

Of small products the launch and the latency of memory are what costs, and cuBLAS takes many
times as long as it has to where a side is short. One of a long inner axis and few entries goes
in parts, which another kernel adds up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..fast import choice
from ..fast import cuda_tiles as tiles
from ..fast.cuda_text import Source, source
from ..kernels import PRECISIONS
from .fuse import Fusion
from .items import Place, Product
from .layout import Layout, Step, broadcast, indexed, reshaped
from .loops import Argument

MOST_PARTS = 64
ROOM = 1 << 20  # entries of all parts, at most
FINISH = 3000  # clocks of the kernel that adds them up, about
# Of more entries cuBLAS moves them faster, and so it does what should take longer than this: on
# an H200 (32, 9) · (9, 86528) took 25 µs here and 8 there, (10, 128) · (128, 128) 2 and 51
MOST_ENTRIES = 1 << 18
MOST_CLOCKS = 16_000


class CudaKernel(NamedTuple):
    """A kernel's text, what it is called with, and by how many threads.

    source     of the kernel
    arguments  whole numbers, floating numbers, and places; "partial" is room for split sums
    grid       blocks; of sums in parts also these
    block      threads
    parts      in which sums are left, to be added up; 1 where they are whole
    n          sums of each reduction, or entries
    finish     how the parts are added up, and where to, of each reduction
    """

    source: Source
    arguments: list[Argument]
    grid: tuple[int, ...]
    block: tuple[int, int]
    parts: int = 1
    n: int = 0
    finish: tuple[tuple[str, Place], ...] = ()


class Matrices(NamedTuple):
    """out = left · right of K networks, groups or whatever: places of (K, rows, columns)."""

    left: Place
    right: Place
    out: Place

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """K, and n, inner and columns of each product."""
        K, n, columns = self.out.layout.shape
        return K, n, self.left.layout.shape[-1], columns

    @property
    def work(self) -> float:
        return 2.0 * math.prod(self.sizes)


class Tiling(NamedTuple):
    """How a product is computed by tiles; each part has `piece` places of the inner axis."""

    tile: tiles.Tile
    parts: int
    piece: int


def matrices(fusion: Fusion, item: Product) -> list[Matrices]:
    """The product, or as many as its batches, which may lie unevenly, come to."""
    out = fusion.place(item.node)
    lead = out.layout.shape[:-2]
    layouts = [broadcast(x.layout, (*lead, *x.layout.shape[-2:])) for x in item.operands]
    places = [*item.operands, out]
    return list(_even([*layouts, out.layout], places)) if out.layout.size else []


def _even(layouts: list[Layout], places: list[Place]) -> list[Matrices]:
    lead = layouts[0].shape[:-2]
    flat = [reshaped(x, (math.prod(lead), *x.shape[-2:])) for x in layouts]
    if all(layout is not None for layout in flat):
        found = [Place(p.owner, x) for p, x in zip(places, flat, strict=True) if x is not None]
        return [Matrices(*found)]
    rest: list[Matrices] = []
    for k in range(lead[0]):
        key: list[Step] = [("at", k), *(("all", n) for n in layouts[0].shape[1:-2])]
        parts = [indexed(x, [*key, *(("all", n) for n in x.shape[-2:])]) for x in layouts]
        rest += _even(parts, places)
    return rest


def tiling(product: Matrices, dtype: str, precision: str) -> Tiling | None:
    """The tile and the parts of a product that is a kernel of ours; None of cuBLAS's."""
    K, n, inner, columns = product.sizes
    few = K * n * columns <= MOST_ENTRIES
    if not few or not choice.ours(n, inner, columns, K) or min(n, inner, columns) == 0:
        return None
    best: tuple[float, Tiling] | None = None
    flat = reshaped(product.out.layout, (K * n * columns,)) is not None
    parts = 1
    while parts == 1 or (parts <= MOST_PARTS and flat and parts * K * n * columns <= ROOM):
        piece = inner if parts == 1 else -(-inner // parts // 64) * 64
        if parts > 1 and piece * (parts - 1) >= inner:
            break  # one of them would have nothing to do
        shapes = ((n, piece, columns),)
        tile = choice.tile(shapes, K * parts, dtype)
        clocks = choice.clocks(tile, shapes, K * parts, dtype) + (FINISH if parts > 1 else 0)
        if best is None or clocks < best[0]:
            best = clocks, Tiling(tile, parts, piece)
        parts *= 2
    assert best is not None
    if best[0] > MOST_CLOCKS:
        return None
    together = _together(product.left, inner, dtype, 1), _together(product.right, inner, dtype, 0)
    tile = best[1].tile._replace(together=together, digits=PRECISIONS[precision])
    return best[1]._replace(tile=tile)


def _lies(place: Place, axis: int) -> tuple[str, int, int]:
    """Along which axis an operand lies together, its pitch, and its extent along that axis.

    axis  of the matrix that is the inner one: the last of the left, the first of the right
    """
    _, *sizes = place.layout.shape
    _, *strides = place.layout.strides
    if strides[axis] == 1 or sizes[axis] == 1:
        return tiles.INNER, strides[1 - axis], sizes[axis]
    return tiles.OUTER, strides[axis], sizes[1 - axis]


def _together(place: Place, inner: int, dtype: str, axis: int) -> bool:
    """Whether 16 bytes of an operand can be copied at a time, wherever a tile begins."""
    _, pitch, extent = _lies(place, axis)
    width = 2 if dtype == "float64" else 4
    numbers = (pitch, extent, place.layout.offset, place.layout.strides[0])
    return all(number % width == 0 for number in numbers)


def _operand(place: Place, axis: int, name: str, first: str) -> tuple[tiles.Operand, int]:
    """An operand as a kernel finds it, from `name`, `name_k` and `name_p`; and its pitch."""
    lies, pitch, _ = _lies(place, axis)
    line, inner = f"({first} + {{c}})", "(from + {i})"
    outer, along = (line, inner) if lies == tiles.INNER else (inner, line)
    start = f"{name} + k * {name}_k + {outer} * {name}_p + {along}"
    return tiles.Operand(start, f"{name}_p", lies), pitch


def text(
    product: Matrices, plan: Tiling, dtype: str, argument: Callable[[Any], str], end: str
) -> str:
    """The body of a kernel that has `end` done with each `value`, at `k`, `r` and `j`.

    argument  the name of a value that the kernel is called with
    """
    _, n, inner, columns = product.sizes
    left, left_pitch = _operand(product.left, 1, "left_of", "row0")
    right, right_pitch = _operand(product.right, 0, "right_of", "column0")
    numbers = {
        "n": n,
        "columns": columns,
        "inner": inner,
        "piece": plan.piece,
        "left_of_k": product.left.layout.strides[0],
        "left_of_p": left_pitch,
        "right_of_k": product.right.layout.strides[0],
        "right_of_p": right_pitch,
    }
    lines = [f"  const I {name} = {argument(number)};" for name, number in numbers.items()]
    for name, place in (("left_of", product.left), ("right_of", product.right)):
        lines.append(f"  const T* const {name} = (const T*){argument(place)};")
    lines.append("  const I from = blockIdx.z * piece;")
    lines.append("  const I depth = inner - from < piece ? inner - from : piece;")
    body = tiles.place(plan.tile) + tiles.shared(dtype, plan.tile)
    body += tiles.product(left, right, plan.tile) + tiles.each(plan.tile, end)
    return "\n".join([*lines, body])


def grid(product: Matrices, plan: Tiling) -> tuple[int, int, int]:
    """Blocks: of a matrix, matrices, and parts."""
    K, n, _, columns = product.sizes
    tile = plan.tile
    return -(-n // tile.rows) * -(-columns // tile.columns), K, plan.parts


def kernel(matrices: Matrices, plan: Tiling, dtype: str) -> CudaKernel:
    """The kernel of a product by itself."""
    arguments: list[Argument] = []

    def argument(what: Argument) -> str:
        arguments.append(what)
        return f"a{len(arguments) - 1}"

    K, n, _, columns = matrices.sizes
    total = K * n * columns
    if plan.parts > 1:
        room = f"((T*){argument('partial')})[(I)blockIdx.z * {argument(total)} + "
        end = f"{room}(k * n + r) * columns + j] = value;"
        finish: tuple[tuple[str, Place], ...] = (("sum", matrices.out),)
    else:
        across, down, _ = matrices.out.layout.strides
        at = f"k * {argument(across)} + r * {argument(down)} + j"
        end, finish = f"((T*){argument(matrices.out)})[{at}] = value;", ()
    body = text(matrices, plan, dtype, argument, end)
    made = source("product", dtype, parameters(arguments), body)
    return CudaKernel(
        made, arguments, grid(matrices, plan), (tiles.THREADS, 1), plan.parts, total, finish
    )


def parameters(arguments: Sequence[Argument]) -> str:
    """Whole numbers all of them, also what is an address or the bits of a float."""
    return ", ".join(f"I a{i}" for i in range(len(arguments)))
