"""What a fused graph is made of: loops, products and calls, and what they read and write."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from .graph import Node
from .layout import Layout, Shape

FEW, LONG = 4, 8192  # sums along an axis of more than LONG entries go in parts if they are FEW


class Place(NamedTuple):
    """Where a node's entries lie: in the memory of some node, its own or a join's."""

    owner: Node
    layout: Layout


class Target(NamedTuple):
    """What a loop has to write: all entries of a node, at a place."""

    node: Node
    place: Place


@dataclass(eq=False)
class Loop:
    """A loop over a space of entries.

    space   its shape
    axis    along which it sums, or None
    sums    the reductions it computes
    writes  what it writes, sums among it
    """

    number: int
    space: Shape
    axis: int | None = None
    sums: list[Node] = field(default_factory=list)
    writes: list[Target] = field(default_factory=list)
    reads: set[int] = field(default_factory=set)
    inside: set[int] = field(default_factory=set)  # maps it computes on the way

    @property
    def sides(self) -> tuple[int, int, int]:
        """Entries before the axis, along it, and after it."""
        assert self.axis is not None
        return sides(self.space, self.axis)

    @property
    def reduced(self) -> Shape:
        """The space with one entry along the axis."""
        assert self.axis is not None
        return (*self.space[: self.axis], 1, *self.space[self.axis + 1 :])

    @property
    def split(self) -> bool:
        """Whether its sums go in parts."""
        if self.axis is None:
            return False
        before, along, after = self.sides
        return after == 1 and before <= FEW and along > LONG


class Windows(NamedTuple):
    """What a product's B is made of where it is no matrix: rows that lie anywhere.

    layouts  of each window, (*stack, rows, *places)
    n_axes   how many of these are places
    turned   whether places are B's rows
    """

    layouts: tuple[Layout, ...]
    n_axes: int
    turned: bool


@dataclass(eq=False)
class Product:
    """node = A B; operands as views of what lies in memory, or B as windows in the second."""

    number: int
    node: Node
    operands: tuple[Place, Place]
    windows: Windows | None = None


@dataclass(eq=False)
class Call:
    """node = function of whole arrays."""

    number: int
    node: Node
    operands: tuple[Place, ...]


Item: TypeAlias = Loop | Product | Call


@dataclass(frozen=True)
class Expression:
    """One value of a loop's every entry.

    op     a name of `tracing`'s tables, "where" or "cast" of args; "number"; "read"; "sum"
    place  of what is read, seen over the space
    node   the reduction of this loop whose sum it is
    """

    op: str
    dtype: str
    args: tuple[Expression, ...] = ()
    value: Any = None
    place: Place | None = None
    node: Node | None = None


def sides(shape: Shape, axis: int) -> tuple[int, int, int]:
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
