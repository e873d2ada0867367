"""What threads have to do with: the same rows of weights in products and update, and whose rows.

What a core must fetch from another takes up to thirty times as long as what it has at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from ..fast import blas
from ..fast.calls import parts_of, parts_of_product
from .fuse import Fusion
from .graph import Node
from .items import Item, Loop, Place, Product
from .layout import Layout, packed
from .loops import Kernel


class Piece(NamedTuple):
    """Entries of a loop, and into how many parts they may be cut."""

    start: int
    stop: int
    parts: int


def made_by_products(fusion: Fusion) -> dict[Node, list[Piece]]:
    """What products make of arrays, as it is cut."""
    found: dict[Node, list[Piece]] = {}
    for item in fusion.items:
        if not isinstance(item, Product):
            continue
        place, inner = fusion.place(item.node), item.operands[0].layout.shape[-1]
        layout = place.layout
        if layout.together and len(layout.shape) == 2:
            parts = parts_of_product(layout.shape[0], inner, layout.shape[1])
            piece = Piece(layout.offset, layout.offset + layout.size, parts)
            found.setdefault(place.owner, []).append(piece)
    return found


def pieces(products: Mapping[Node, list[Piece]], loop: Loop, kernel: Kernel) -> list[Piece]:
    """A loop in the order in which it runs: over what products make, as these are cut."""
    n = math.prod(loop.space)
    along = [kernel.arguments[i] for i in kernel.along]
    begin = {place.owner: place.layout.offset for place in along if isinstance(place, Place)}
    made = sorted(
        Piece(piece.start - first, piece.stop - first, piece.parts)
        for owner, first in begin.items()
        for piece in products.get(owner, ())
    )
    whole = Piece(0, n, parts_of(kernel.work))
    if not made or whole.parts == 1:
        return [whole]
    found, before = list[Piece](), 0
    for product in (*made, Piece(n, n, 1)):
        if not before <= product.start <= product.stop <= n:
            continue  # it lies elsewhere in the array, or across what another one makes
        for start, stop, most in (Piece(before, product.start, whole.parts), product):
            parts = min(most, parts_of(kernel.work * (stop - start) // n))
            if found and found[-1].parts == parts == 1:
                start = found.pop().start
            if start < stop:
                found.append(Piece(start, stop, parts))
        before = product.stop
    return found


def takes(item: Item, node: Node) -> bool:
    """Whether a product's B are an input's rows, one an example."""
    if not isinstance(item, Product) or len(item.node.shape) != 2 or min(node.shape) == 1:
        return False
    A, B = item.operands
    examples = packed((node.size // node.shape[-1], node.shape[-1]))
    turned_round = Layout(examples.shape[::-1], examples.strides[::-1])
    return A.owner is not node and B.layout in (examples, turned_round)


def fetches(item: Item, dtype: str) -> bool:
    """Whether a product that takes rows is the runtime's, and fetches them where they lie."""
    assert isinstance(item, Product)
    A, B = item.operands
    (rows, columns), inner = item.node.shape, B.layout.shape[0]
    turned = (A.layout.strides[-1] != 1, B.layout.strides[-1] != 1)
    own = blas.own(dtype, turned, (rows, columns, inner))
    return own is not None and not (turned[1] and rows <= blas.FEW)


__all__ = ["Piece", "fetches", "made_by_products", "pieces", "takes"]
