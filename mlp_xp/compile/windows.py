"""Products with windows, of which a convolution is one: as sums, where they lie, and in tiles.

A convolution is a product with patches (`layers.convolution`), which hold what it is given once
for every tap of its kernel: windows X_1 … X_K, views of that, joined as rows. To write them and
to read them again may take longer than the product.

Where a group has one channel in and one or two out, as in a depthwise convolution, a product is
a sum, and nothing is joined (`sums`):

    W [X_1; …; X_K] = Σ_k W[:, k] X_k                    (rows, places)
    δ [X_1; …; X_K]ᵀ = [Σ δ X_1, …, Σ δ X_K]             (rows, K), sums over the places

X_k have several axes (rows, columns, examples) where a product has one axis of places.

The runtime's own product lays what it multiplies together, some rows and columns at a time, and
reads windows where they lie for that (`fetch`): it is told where each row of X begins, and where
the runs of places whose numbers lie together. Patches are never made, neither for Z = W X nor for
δ Xᵀ, and every sum has the same terms in the same order.

Without it, where patches are larger than a cache and nobody else reads them, as in a prediction
and in the derivative by the input, some places after the other are joined and multiplied, in the
same memory (`tile`):

    W X = [W X_a, W X_b, …]                              X_a, X_b, …: columns of X

A step of two convolutions, of 32 and 64 channels, took 0.94 of the time so. To join those of the
gradient, δ Xᵀ = δ_a X_aᵀ + …, a second time instead of keeping them gained nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..fast.blas import VECTOR
from . import items
from .graph import Node, base, live, seen_through
from .layout import Layout, Step, packed, reshaped

Buffer = npt.NDArray[Any]
FEW, MOST = 2, 128  # rows of W, and windows, of a sum
MOST_TILES = 32  # of a product: each is a loop and a product to be planned


class Manner(NamedTuple):
    """What a target makes of products with windows.

    sums   sums, where rows are few: not where each addition is a pass over memory, as by NumPy's
           calls, of which it took two to three times as long
    fetch  they read windows where they lie: the runtime's own
    tile   bytes of patches, from which on products with others are made in tiles; 0: never
    """

    sums: bool = True
    fetch: bool = False
    tile: int = 0


SUMS = Manner()


class Windows(NamedTuple):
    """What a product's right side is made of.

    parts   (…, 1, *places) each, joined along that axis of one
    axis    which it is
    turned  whether its rows are the side's columns
    alone   whether a part is one of its rows in each of a stack of matrices
    """

    parts: tuple[Node, ...]
    axis: int
    turned: bool
    alone: bool

    @property
    def places(self) -> tuple[int, ...]:
        return self.parts[0].shape[self.axis + 1 :]


class Lying(NamedTuple):
    """Windows that are read where they lie.

    source  the array, or a view of one, that they are parts of
    views   the steps from there to each
    shape   of each as a product has it: its stack, the rows of one window, and places
    n_axes  how many axes of places there are
    turned  whether places are the rows of the product's right side
    """

    source: Node
    views: tuple[tuple[Step, ...], ...]
    shape: tuple[int, ...]
    n_axes: int
    turned: bool

    def layouts(self, source: Layout) -> list[Layout] | None:
        """Where each of them lies, if its source does so; None where no product can read them.

        All have to lie alike, from wherever each begins, and the entries of the last axis together.
        """
        found = []
        for steps in self.views:
            seen = seen_through(steps, source)
            layout = None if seen is None else reshaped(seen, self.shape)
            if layout is None or (layout.shape[-1] > 1 and layout.strides[-1] != 1):
                return None
            found.append(layout)
        alike = all(layout.strides == found[0].strides for layout in found)
        return found if alike else None


def run_of(layout: Layout, n_axes: int) -> tuple[int, int]:
    """How many places lie together, of the last axes, and how many of these it takes."""
    width, axes = 1, 0
    for n, stride in list(zip(layout.shape, layout.strides, strict=True))[: -n_axes - 1 : -1]:
        if n > 1 and stride != width:
            break
        width, axes = width * n, axes + 1
    return width, axes


def rows_of(windows: items.Windows) -> tuple[Layout, Buffer, Buffer]:
    """The first run of the first window, as a matrix; and what the runtime is told of all:

    where each row of windows begins, a window's after those of the same row of others, and how
    many runs of places each has, of how many, and where they begin.
    """
    first, n = windows.layouts[0], len(windows.layouts[0].shape)
    width, axes = run_of(first, windows.n_axes)
    stack = n - windows.n_axes - 1
    down = first.strides[stack]
    shifts = [layout.offset - first.offset for layout in windows.layouts]
    rows = np.add.outer(down * np.arange(first.shape[stack]), shifts)
    starts = np.zeros(1, np.int64)
    for count, stride in list(zip(first.shape, first.strides, strict=True))[stack + 1 : n - axes]:
        starts = np.add.outer(starts, stride * np.arange(count)).reshape(-1)
    shape = (*first.shape[:stack], first.shape[stack], width)
    matrix = Layout(shape, (*first.strides[: stack + 1], 1), first.offset)
    runs = np.array([starts.size, width, *starts.tolist()], np.int64)
    return matrix, rows.reshape(-1).astype(np.int64), runs


class Spread(NamedTuple):
    """Roots that are written otherwise.

    sums     those over windows, in the place of products
    lying    what products read where it lies
    unmade   joins that nobody but those would read
    tiles    joins that are to be filled by loops of their own
    """

    roots: tuple[Node, ...]
    sums: set[Node]
    lying: dict[Node, Lying]
    unmade: set[Node]
    tiles: set[Node]


def spread(roots: Sequence[Node], manner: Manner) -> Spread:
    """The roots without products with many windows."""
    found = Spread(tuple(roots), set(), {}, set(), set())
    order = live(roots)
    if not any(_windows(node) for node in order):
        return found
    read = [arg for node in order if node.op != "view" for arg in node.args]
    readers = Counter(base(node)[0] for node in (*read, *roots))
    new: dict[Node, Node] = {}
    for node in order:
        args = tuple(new[arg] for arg in node.args)
        new[node] = node
        if any(mine is not theirs for mine, theirs in zip(args, node.args, strict=True)):
            new[node] = node.graph.again(node, args)
        windows = _windows(new[node])
        if windows is not None:
            shared = readers[base(node.args[1])[0]] > 1
            new[node] = _otherwise(new[node], windows, shared, manner, found)
    return _without_unread(found._replace(roots=tuple(new[root] for root in roots)))


def _without_unread(found: Spread) -> Spread:
    """Patches are not made that products alone read, all of which can do without."""
    made = {base(root)[0] for root in found.roots}
    for node in live(found.roots):
        read = node.args[:1] if node in found.lying else node.args
        made |= {base(arg)[0] for arg in read if node.op != "view"}
    lying = {
        product: windows
        for product, windows in found.lying.items()
        if base(product.args[1])[0] not in made
    }
    unmade = {base(product.args[1])[0] for product in lying}
    return found._replace(lying=lying, unmade=unmade)


def _windows(node: Node) -> Windows | None:
    """What a product is with; None for all else."""
    if node.op != "product":
        return None
    right = node.args[1]
    joined, steps = base(right)
    if joined.op != "join":
        return None
    axis, n = joined.param, right.ndim
    turned = bool(steps) and steps[-1] == ("permute", (*range(n - 2), n - 1, n - 2))
    shape = (*right.shape[:-2], *right.shape[:-3:-1]) if turned else right.shape
    plain = all(kind == "reshape" for kind, _ in (steps[:-1] if turned else steps))
    whole = all(part.shape[axis] == 1 for part in joined.args)
    places = joined.shape[axis + 1 :]
    if not (plain and whole and len(places) > 1 and math.prod(places) == shape[-1]):
        return None
    return Windows(joined.args, axis, turned, joined.shape[: axis + 1] == shape[:-1])


def _otherwise(
    product: Node, windows: Windows, shared: bool, manner: Manner, found: Spread
) -> Node:
    few = product.args[0].shape[-2] <= FEW and len(windows.parts) <= MOST
    if manner.sums and windows.alone and few:
        if windows.turned:
            return _gradient(product, windows)
        total = _sum(product, windows)
        found.sums.add(base(total)[0])
        return total
    lying = _lying(product, windows) if manner.fetch else None
    if lying is not None:
        found.lying[product] = lying
        return product
    size, tile = product.args[1].size * product.dtype.itemsize, manner.tile
    if windows.turned or shared or not tile or size <= tile:
        return product
    return _side_by_side(product, windows, min(MOST_TILES, -(-size // tile)), found)


# -- as sums


def _sum(product: Node, windows: Windows) -> Node:
    W, total = product.args[0], None
    graph, places = product.graph, windows.places
    for k, part in enumerate(windows.parts):
        weight = graph.view(W[..., k], ("reshape", (*W.shape[:-1], *(1 for _ in places))))
        seen = graph.map("multiply", weight, part)
        total = seen if total is None else graph.map("add", total, seen)
    assert total is not None
    return graph.view(total, ("reshape", product.shape))


def _gradient(product: Node, windows: Windows) -> Node:
    delta, graph, places = product.args[0], product.graph, windows.places
    delta = graph.view(delta, ("reshape", (*delta.shape[:-1], *places)))
    shape = (*product.shape[:-1], 1, math.prod(places[:-1]))
    found = []
    for part in windows.parts:
        along = graph.reduce("sum", graph.map("multiply", delta, part), -1, True)
        found.append(graph.view(along, ("reshape", shape)))  # of examples, which lie together
    whole = graph.reduce("sum", graph.join(found, -2), -1, True)
    return graph.view(whole, ("reshape", product.shape))


# -- where they lie


def _lying(product: Node, windows: Windows) -> Lying | None:
    """How a product reads windows where they lie; None where its runtime cannot, or loses by it."""
    n, places = len(windows.parts), windows.places
    *stack, rows, columns = product.args[1].shape
    rows = columns if windows.turned else rows
    chains = [_chain(part) for part in windows.parts]
    same = 0  # nodes that are below all of them
    while all(same < len(chain) and chain[same] is chains[0][same] for chain in chains):
        same += 1
    if same == 0 or rows % n:
        return None
    views = tuple(tuple(node.param for node in chain[same:]) for chain in chains)
    source, shape = chains[0][same - 1], (*stack, rows // n, *places)
    found = Lying(source, views, shape, len(places), windows.turned)
    layouts = found.layouts(packed(source.shape))
    if layouts is None:
        return None
    width, _ = run_of(layouts[0], len(places))
    return found if width * product.dtype.itemsize >= VECTOR else None


def _chain(node: Node) -> list[Node]:
    """What is no view, and the views upon it up to a node."""
    found = [node]
    while found[-1].op == "view":
        found.append(found[-1].args[0])
    return found[::-1]


# -- in tiles


def _side_by_side(product: Node, windows: Windows, n_tiles: int, found: Spread) -> Node:
    graph, (W, X) = product.graph, product.args
    parts = []
    for cut in _cuts(windows.places, n_tiles):
        tile = graph.join([part[(..., *cut)] for part in windows.parts], windows.axis)
        found.tiles.add(tile)
        n = math.prod(tile.shape[windows.axis + 1 :])
        parts.append(graph.product(W, graph.view(tile, ("reshape", (*X.shape[:-1], n)))))
    return graph.join(parts, -1)


def _cuts(places: tuple[int, ...], n_tiles: int) -> Iterator[tuple[slice, ...]]:
    """All places but the last axis, the examples, in pieces whose entries follow each other."""
    first, *rest = places
    n = min(n_tiles, first)
    whole = tuple(slice(None) for _ in rest)
    for i in range(n):
        cut = slice(first * i // n, first * (i + 1) // n)
        more = -(-n_tiles // n)
        if more < 2 or len(rest) < 2 or cut.stop - cut.start > 1:
            yield (cut, *whole)
            continue
        for inner in _cuts(tuple(rest), more):
            yield (cut, *inner)


__all__ = ["SUMS", "Lying", "Manner", "Spread", "rows_of", "spread"]
