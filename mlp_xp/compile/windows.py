"""Products with windows, where they have few rows, as sums: a depthwise convolution is one.

A convolution is a product with patches (`layers.convolution`), which hold what it is given once
for every tap of its kernel. Where a group has one channel in and one or two out, to write them
and to read them again takes longer than the product. Of windows X_1 … X_K, joined as rows:

    W [X_1; …; X_K] = Σ_k W[:, k] X_k                    (rows, places)
    δ [X_1; …; X_K]ᵀ = [Σ δ X_1, …, Σ δ X_K]             (rows, K), sums over the places

X_k are views of what the convolution is given, of several axes (rows, columns, examples) where
a product has one axis of places, and nothing is joined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .graph import Node, base, live

FEW, MOST = 2, 128  # rows of W, and windows


class Windows(NamedTuple):
    """What a product's right side is made of.

    parts   (…, 1, *places) each
    turned  whether they are its columns
    """

    parts: tuple[Node, ...]
    places: tuple[int, ...]
    turned: bool


def spread(roots: Sequence[Node]) -> tuple[tuple[Node, ...], set[Node]]:
    """The roots without such products, and the sums over windows in their place."""
    sums: set[Node] = set()
    order = live(roots)
    if not any(_windows(node) for node in order):
        return tuple(roots), sums
    new: dict[Node, Node] = {}
    for node in order:
        graph, args = node.graph, tuple(new[arg] for arg in node.args)
        new[node] = node
        if any(mine is not theirs for mine, theirs in zip(args, node.args, strict=True)):
            new[node] = graph.again(node, args)
        windows = _windows(new[node])
        if windows is not None:
            new[node] = (_gradient if windows.turned else _sum)(new[node], windows)
            sums |= {base(new[node])[0]} if not windows.turned else set()
    return tuple(new[root] for root in roots), sums


def _windows(node: Node) -> Windows | None:
    """What a product is with; None for all else."""
    if node.op != "product" or node.args[0].shape[-2] > FEW:
        return None
    right = node.args[1]
    joined, steps = base(right)
    if joined.op != "join" or len(joined.args) > MOST:
        return None
    axis, n = joined.param, right.ndim
    turned = bool(steps) and steps[-1] == ("permute", (*range(n - 2), n - 1, n - 2))
    shape = (*right.shape[:-2], *right.shape[:-3:-1]) if turned else right.shape
    if turned:
        steps = steps[:-1]
    whole = all(part.shape[axis] == 1 for part in joined.args)
    rows = joined.shape[: axis + 1] == shape[:-1] and all(kind == "reshape" for kind, _ in steps)
    if not (whole and rows):
        return None
    return Windows(joined.args, joined.shape[axis + 1 :], turned)


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


__all__ = ["spread"]
