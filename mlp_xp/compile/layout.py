"""Where the entries of a view lie: an offset, and a stride for each axis, in entries.

The same as NumPy's views, without an array: a program is planned before there is memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

Shape: TypeAlias = tuple[int, ...]
Step: TypeAlias = tuple[Any, ...]  # one step of a view: "reshape", "permute", "broadcast", "index"


class Layout(NamedTuple):
    """Entry (i, j, …) lies at offset + i · strides[0] + j · strides[1] + …"""

    shape: Shape
    strides: Shape
    offset: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def whole(self) -> bool:
        """Whether its entries lie one after the other from the beginning, in the usual order."""
        return self.offset == 0 and self.together

    @property
    def together(self) -> bool:
        """Whether its entries lie one after the other in the usual order."""
        return self == packed(self.shape)._replace(offset=self.offset)


def packed(shape: Shape) -> Layout:
    """An array in the usual order; an axis of one entry has stride 0."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step if n != 1 else 0)
        step *= n
    return Layout(tuple(shape), tuple(reversed(strides)))


def applied(step: Step, layout: Layout) -> Layout | None:
    """The view of what has this layout; None where only a copy can be reshaped so."""
    kind, what = step
    if kind == "reshape":
        return reshaped(layout, what)
    if kind == "permute":
        return Layout(
            tuple(layout.shape[axis] for axis in what),
            tuple(layout.strides[axis] for axis in what),
            layout.offset,
        )
    if kind == "broadcast":
        return broadcast(layout, what)
    return indexed(layout, what)


def broadcast(layout: Layout, shape: Shape) -> Layout:
    """Repeated along axes that it lacks or of which it has one entry."""
    missing = len(shape) - len(layout.shape)
    strides = (0,) * missing + tuple(
        0 if n == 1 else stride for n, stride in zip(layout.shape, layout.strides, strict=True)
    )
    return Layout(tuple(shape), strides, layout.offset)


def indexed(layout: Layout, key: Sequence[Step]) -> Layout:
    """Entries by a key that `normal` made."""
    shape, strides, offset, axis = [], [], layout.offset, 0
    for kind, *what in key:
        if kind == "new":
            shape.append(1)
            strides.append(0)
            continue
        stride = layout.strides[axis]
        axis += 1
        if kind == "all":
            shape.append(what[0])
            strides.append(stride)
            continue
        if kind == "at":
            offset += what[0] * stride
            continue
        start, n, step = what
        offset += start * stride
        shape.append(n)
        strides.append(step * stride if n != 1 else 0)
    return Layout(tuple(shape), tuple(strides), offset)


def normal(key: Any, shape: Shape) -> tuple[Step, ...]:
    """A key of basic indexing as one entry for each axis.

    ("all", n), ("cut", start, n, step), ("at", i); a new axis is ("new",). IndexError for a
    whole number beyond the axis, TypeError for all else.
    """
    entries = key if isinstance(key, tuple) else (key,)
    n_given = sum(1 for entry in entries if entry is not None and entry is not Ellipsis)
    left = len(shape) - n_given
    if left < 0:
        raise IndexError(f"{n_given} indices for an array of {len(shape)} axes")
    if Ellipsis not in entries:
        entries = (*entries, Ellipsis)
    found: list[Step] = []
    axis = 0
    for entry in entries:
        if entry is None:
            found.append(("new",))
        elif entry is Ellipsis:
            found += [("all", n) for n in shape[axis : axis + left]]
            axis += left
        elif isinstance(entry, slice):
            start, stop, step = entry.indices(shape[axis])
            n = len(range(start, stop, step))
            whole = n == shape[axis] and step == 1
            found.append(("all", n) if whole else ("cut", start, n, step))
            axis += 1
        elif isinstance(entry, int):
            n = shape[axis]
            if not -n <= entry < n:
                raise IndexError(f"index {entry} of an axis of {n}")
            found.append(("at", entry % n))
            axis += 1
        else:
            raise TypeError(f"an index of type {type(entry).__name__}")
    return tuple(found)


def reshaped(layout: Layout, shape: Shape) -> Layout | None:
    """The same entries in the same order under another shape; None where they lie otherwise."""
    old = [(n, s) for n, s in zip(layout.shape, layout.strides, strict=True) if n != 1]
    new = [n for n in shape if n != 1]
    if 0 in layout.shape:
        return packed(shape)._replace(offset=layout.offset)
    strides: list[int] = []
    i = j = 0
    while i < len(old) or j < len(new):
        have, want = old[i][0], new[j]
        last_i, last_j = i, j
        while have != want:  # the fewest axes of both with as many entries
            if have < want:
                last_i += 1
                have *= old[last_i][0]
            else:
                last_j += 1
                want *= new[last_j]
        for k in range(i, last_i):  # those of old have to be one axis
            if old[k][1] != old[k + 1][0] * old[k + 1][1]:
                return None
        step = old[last_i][1]
        fresh = []
        for k in range(last_j, j - 1, -1):
            fresh.append(step)
            step *= new[k]
        strides += reversed(fresh)
        i, j = last_i + 1, last_j + 1
    given = iter(strides)
    return Layout(tuple(shape), tuple(0 if n == 1 else next(given) for n in shape), layout.offset)
