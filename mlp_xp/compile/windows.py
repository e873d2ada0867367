"""Products with windows, of which a convolution is one: as sums, and in tiles.

A convolution is a product with patches (`layers.convolution`), which hold what it is given once
for every tap of its kernel: windows X_1 … X_K, views of that, joined as rows. To write them and
to read them again may take longer than the product.

Where a group has one channel in and one or two out, as in a depthwise convolution, a product is
a sum, and nothing is joined (`sums`):

    W [X_1; …; X_K] = Σ_k W[:, k] X_k                    (rows, places)
    δ [X_1; …; X_K]ᵀ = [Σ δ X_1, …, Σ δ X_K]             (rows, K), sums over the places

X_k have several axes (rows, columns, examples) where a product has one axis of places.

Where patches are larger than a cache and nobody else reads them, as in a prediction and in the
derivative by the input, some places after the other are joined and multiplied, in the same memory
(`tile`):

    W X = [W X_a, W X_b, …]                              X_a, X_b, …: columns of X

A step of two convolutions, of 32 and 64 channels, took 0.94 of the time so. To join those of the
gradient, δ Xᵀ = δ_a X_aᵀ + …, a second time instead of keeping them gained nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .graph import Node, base, live

FEW, MOST = 2, 128  # rows of W, and windows, of a sum
MOST_TILES = 32  # of a product: each is a loop and a product to be planned


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


class Spread(NamedTuple):
    """Roots that are written otherwise.

    sums   those over windows, in the place of products
    tiles  joins that are to be filled by loops of their own
    """

    roots: tuple[Node, ...]
    sums: set[Node]
    tiles: set[Node]


def spread(roots: Sequence[Node], tile: int = 0) -> Spread:
    """The roots without products with many windows.

    tile  bytes of patches that are made at once; 0: all
    """
    found = Spread(tuple(roots), set(), set())
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
            new[node] = _otherwise(new[node], windows, 0 if shared else tile, found)
    return found._replace(roots=tuple(new[root] for root in roots))


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


def _otherwise(product: Node, windows: Windows, tile: int, found: Spread) -> Node:
    few = product.args[0].shape[-2] <= FEW and len(windows.parts) <= MOST
    if windows.alone and few:
        if windows.turned:
            return _gradient(product, windows)
        total = _sum(product, windows)
        found.sums.add(base(total)[0])
        return total
    size = product.args[1].size * product.dtype.itemsize
    if windows.turned or not tile or size <= tile:
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


__all__ = ["Spread", "spread"]
