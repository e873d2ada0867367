"""A loop as calls of NumPy: one for each operation, into memory that is made once.

Where there is no compiler, a loop is as many calls as there are operations in it. They are
faster than the formula itself because

- nothing is allocated: what lies between is in room that is used again;
- equal parts of its targets are computed once, and what is the same along an axis is computed
  without it;
- sums are products with a vector of ones, which take a third of `np.add.reduce`'s time;
- `where` is three calls on whole numbers, a tenth of `np.where`'s time, which branches;
- long loops go over blocks that stay in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..fast.tracing import FUNCTIONS, QUESTIONS
from .fuse import Fusion
from .graph import Node
from .items import Expression, Loop, Place
from .layout import Layout, Shape, Step, broadcast, indexed, packed, reshaped
from .program import Memory

BLOCK = 1 << 15  # entries at once
LONG = 2 * BLOCK  # entries from which a loop goes in blocks
LARGEST = 1 << 20  # entries of what is computed before the first run

# names of the array API that not all versions of NumPy have
OLD = {"abs": "absolute", "pow": "power", "atan": "arctan", "asinh": "arcsinh"}
UFUNCS: dict[str, Any] = {
    name: getattr(np, OLD.get(name, name)) for name in (*FUNCTIONS, *QUESTIONS)
}
REDUCED: dict[str, Any] = {"sum": np.add, "max": np.maximum, "min": np.minimum}


class View(NamedTuple):
    """Entries of an owner's memory, or of the room of a loop (None).

    start  in bytes
    dtype  as which they are seen
    """

    owner: Node | None
    start: int
    layout: Layout
    dtype: str

    def same(self, other: View) -> bool:
        return self.owner is other.owner and self[1:] == other[1:]


Operand: TypeAlias = "View | npt.NDArray[Any]"


class Do(NamedTuple):
    """function(*arguments, **options), where a `View` is a place for an array."""

    function: Callable[..., object]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def views(self) -> Iterator[View]:
        for argument in (*self.arguments, *self.options.values()):
            if isinstance(argument, View):
                yield argument


@dataclass(eq=False)
class _Value:
    """What a loop computes or reads, with length 1 where it is the same along an axis.

    op     of `Expression`, a reduction's name, or "read" of an operand
    where  it lies: what is read from the beginning, what is computed when it is planned
    uses   how many values are computed from it
    last   where in the order it is needed for the last time
    """

    op: str
    dtype: str
    shape: Shape
    args: tuple[_Value, ...] = ()
    where: Operand | None = None
    uses: list[_Value] = field(default_factory=list)
    number: int = -1
    last: int = -1

    @property
    def read(self) -> bool:
        return self.op == "read"

    @property
    def constant(self) -> bool:
        return self.read and isinstance(self.where, np.ndarray)

    @property
    def reduction(self) -> bool:
        return self.op in REDUCED or self.op == "dot"


class LoopCalls:
    """The calls of a loop.

    calls   in order
    n_room  bytes of room that they need
    """

    def __init__(self, fusion: Fusion, loop: Loop) -> None:
        self.fusion, self.loop, self.rank = fusion, loop, len(loop.space)
        self.known: dict[Any, _Value] = {}
        self.seen: dict[int, _Value] = {}
        self.sums: dict[Node, Expression] = {}
        self.order: list[_Value] = []
        expressions: dict[Any, Expression] = {}
        targets = [(t, fusion.expression(loop, t, expressions)) for t in loop.writes]
        self.kept = expressions  # their identities are keys
        self.sums = {t.node: e for t, e in targets if t.node.op == "reduce"}
        self.targets: list[tuple[_Value, View]] = []
        for target, expression in targets:
            if target.node.op == "reduce":
                value, shape = self._sum(target.node), loop.reduced
            else:
                value = self._value(expression)
                full = target.node.size == math.prod(loop.space)
                shape = loop.space if full else loop.reduced
            there = reshaped(target.place.layout, shape)
            assert there is not None
            self.targets.append((value, _seen(Place(target.place.owner, there), target.node.dtype)))
        for value, _ in self.targets:
            self._arrange(value)
        self.cut = self._cut()
        self.stages: dict[int, int] = {}
        if self.cut is not None:
            self.order.sort(key=self._stage)
        self._number()
        self._places()
        self.calls = list(self._calls())

    # -- what is computed

    def _value(self, expression: Expression) -> _Value:
        found = self.seen.get(id(expression))
        if found is None:
            found = self.seen[id(expression)] = self._made(expression)
        return found

    def _made(self, expression: Expression) -> _Value:
        op, dtype = expression.op, expression.dtype
        if op == "number":
            array = np.array(expression.value, dtype)
            return self._one(
                ("number", dtype, array.tobytes()), "read", dtype, self._ones, (), array
            )
        if op == "sum":
            assert expression.node is not None
            return self._sum(expression.node)
        if op == "read":
            assert expression.place is not None
            layout = expression.place.layout
            if len(layout.shape) != self.rank:
                layout = broadcast(layout, self.loop.space)
            view = _seen(expression.place._replace(layout=_narrow(layout)), dtype)
            key = (op, view)
            if view.owner is not None and view.owner.op == "value":
                array = entries(np.ascontiguousarray(view.owner.param).reshape(-1), view)
                return self._one(key, op, dtype, view.layout.shape, (), array)
            if view.layout.size == 1:  # NumPy takes a number faster than an array of one
                view = view._replace(layout=Layout((), (), view.layout.offset))
                return self._one(key, op, dtype, self._ones, (), view)
            return self._one(key, op, dtype, view.layout.shape, (), view)
        args = tuple(map(self._value, expression.args))
        if op == "copy":
            return args[0]
        shape = np.broadcast_shapes(*(arg.shape for arg in args))
        constant = all(arg.constant for arg in args) and math.prod(shape) <= LARGEST
        if constant:  # the same in every run
            array = _computed(op, dtype, [arg.where for arg in args])
            return self._one((op, dtype, args), "read", dtype, shape, (), array)
        return self._one((op, dtype, args), op, dtype, shape, args)

    @property
    def _ones(self) -> Shape:
        return (1,) * self.rank

    def _one(
        self,
        key: Any,
        op: str,
        dtype: str,
        shape: Shape,
        args: tuple[_Value, ...],
        where: Operand | None = None,
    ) -> _Value:
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = _Value(op, dtype, tuple(shape), args, where)
        return found

    def _sum(self, node: Node) -> _Value:
        """A sum along the axis, of whatever is summed."""
        x, axis = self._value(self.sums[node]), self.loop.axis
        name = node.param[0]
        assert axis is not None
        shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        if name == "sum" and math.prod(self.loop.space) == x.shape[axis]:
            found = self._dot(x, shape)
            if found is not None:
                return found
        return self._one((name, x), name, x.dtype, shape, (x,))

    def _dot(self, x: _Value, shape: Shape) -> _Value | None:
        """Σ c a b along the only axis as c times the product of two vectors."""
        if x.op != "multiply":
            return None
        a, b = x.args
        for factor, rest in ((a, b), (b, a)):
            if factor.constant and factor.shape == shape:
                found = self._dot(rest, shape)
                key = ("multiply", x.dtype, (factor, found))
                return found and self._one(key, "multiply", x.dtype, shape, (factor, found))
        if not a.shape == b.shape == x.shape:
            return None
        return self._one(("dot", a, b), "dot", x.dtype, shape, (a, b))

    def _arrange(self, value: _Value) -> None:
        """Put a value into the order, after what it is computed from."""
        stack = [(value, iter(value.args))]
        done = {id(other) for other in self.order}
        while stack:
            top, below = stack[-1]
            if top.read or id(top) in done:
                stack.pop()
                continue
            for arg in below:
                if not arg.read and id(arg) not in done:
                    stack.append((arg, iter(arg.args)))
                    break
            else:
                self.order.append(top)
                done.add(id(top))
                stack.pop()

    def _cut(self) -> tuple[int, int] | None:
        """The axis along which a long loop goes in blocks, and of how many entries."""
        space, size = self.loop.space, math.prod(self.loop.space)
        axes = [axis for axis in range(self.rank) if axis != self.loop.axis]
        if size < LONG or len(self.order) < 2:
            return None
        axis = max(axes, key=lambda axis: space[axis], default=0)
        if self._in_parts():
            assert self.loop.axis is not None
            axis = self.loop.axis
        elif not axes:
            return None
        n_blocks = -(-size // BLOCK)
        length = -(-space[axis] // n_blocks)  # about equal ones
        return (axis, length) if length < space[axis] else None

    def _in_parts(self) -> bool:
        """Whether all that is wanted are sums along the only axis, none of which needs another."""
        axis = self.loop.axis
        if axis is None or math.prod(self.loop.space) != self.loop.space[axis]:
            return False
        single = {id(value) for value in self.order if value.shape[axis] == 1}
        sums = {id(value) for value in self.order if value.reduction}
        after = set(sums)  # what is computed from sums
        for value in self.order:
            if any(id(arg) in after for arg in value.args):
                after.add(id(value))
                if id(value) not in single or value.reduction:
                    return False
        return all(value.shape[axis] == 1 for value, _ in self.targets)

    def _stage(self, value: _Value) -> int:
        """0 for what all blocks share, 1 for what each computes, 2 for what needs their sums."""
        assert self.cut is not None
        axis, found = self.cut[0], self.stages.get(id(value))
        if found is None:
            if value.read:
                found = 0
            elif value.shape[axis] > 1 or (value.reduction and axis == self.loop.axis):
                found = 1
            else:
                found = 2 if any(map(self._stage, value.args)) else 0
            self.stages[id(value)] = found
        return found

    # -- where

    def _number(self) -> None:
        end = len(self.order)
        for number, value in enumerate(self.order):
            value.number = number
            for arg in value.args:
                arg.uses.append(value)
                arg.last = number
        self.reading: dict[Node, list[tuple[int, View]]] = {}
        for value in self.known.values():
            if isinstance(value.where, View) and value.where.owner is not None:
                number = value.last
                if any(value is other for other, _ in self.targets):
                    number = end
                self.reading.setdefault(value.where.owner, []).append((number, value.where))

    def _free(self, value: _Value, view: View) -> bool:
        """Whether nothing reads what a target overwrites after a value is computed."""
        assert view.owner is not None
        again = [value.args[0].where, value.args[2].where] if value.op == "where" else []
        return all(
            (last <= value.number and not any(other is where for where in again))
            or not _meet(other.layout, view.layout)
            for last, other in self.reading.get(view.owner, ())
        )

    def _places(self) -> None:
        """Where each value lies: in a target if that is free by then, else in room."""
        end = len(self.order)
        self.late: list[tuple[_Value, View]] = []
        for value, view in self.targets:
            fits = not value.read and value.shape == view.layout.shape and value.where is None
            if fits and self._free(value, view):
                value.where = view
                continue
            if isinstance(value.where, View) and value.where.same(view):
                continue
            self.late.append((value, view))
            value.last = end
        self._ahead()
        memory = Memory()
        self._swapped(memory)
        rooms: dict[int, tuple[int, int]] = {}  # of values that have some
        ends: dict[int, list[_Value]] = {}
        for value in self.order:
            ends.setdefault(value.last, []).append(value)
        begun = -1
        for number, value in enumerate(self.order):
            if value.where is None:
                old = self._in_place(value, rooms)
                size = self._size(value)
                if old is not None:
                    rooms[id(value)] = rooms.pop(id(old))
                else:
                    rooms[id(value)] = (memory.take(size), size)
                shape = self._block(value.shape)
                value.where = View(None, rooms[id(value)][0], packed(shape), value.dtype)
            if self.cut is not None and self._stage(value) == 0:
                begun = number
                continue  # every block needs it
            for other in ends.get(number, ()):
                shared = self.cut is not None and other.number <= begun
                if id(other) in rooms and not shared:
                    memory.give(*rooms.pop(id(other)))
        self.n_room = memory.size

    def _swapped(self, memory: Memory) -> None:
        """Arrays that are written over before they are written elsewhere are kept first."""
        self.copied: dict[int, View] = {}
        written = {view.owner for _, view in self.targets}
        for value, view in self.late:
            there = value.where
            if not isinstance(there, View) or there.owner not in written or not value.read:
                continue
            shape = self._block(value.shape)
            room = View(None, memory.take(self._size(value)), packed(shape), value.dtype)
            self.copied[id(view)] = room

    def _ahead(self) -> None:
        """What becomes a target by and by is computed in its place, if that is free by then."""
        for value in reversed(self.order):
            there = value.where
            if not isinstance(there, View) or there.owner is None:
                continue
            for arg in _overwritten(value):
                alone = not arg.read and arg.where is None and arg.last == value.number
                same = arg.shape == value.shape and arg.dtype == value.dtype
                if alone and same and arg.uses[0] is value and self._free(arg, there):
                    arg.where = there
                    break

    def _in_place(self, value: _Value, rooms: dict[int, tuple[int, int]]) -> _Value | None:
        """An argument in room that nothing needs any more, and that can be overwritten."""
        for arg in _overwritten(value):
            same = arg.shape == value.shape and arg.dtype == value.dtype
            if id(arg) in rooms and arg.last == value.number and same:
                return arg
        return None

    def _block(self, shape: Shape) -> Shape:
        if self.cut is None or shape[self.cut[0]] == 1:
            return shape
        axis, length = self.cut
        return (*shape[:axis], length, *shape[axis + 1 :])

    def _size(self, value: _Value) -> int:
        return math.prod(self._block(value.shape)) * np.dtype(value.dtype).itemsize

    # -- calls

    def _calls(self) -> Iterator[Do]:
        if self.cut is None:
            yield from self._run(self.order, None)
            return
        axis, length = self.cut
        stages = [[v for v in self.order if self._stage(v) == stage] for stage in range(3)]
        sums = [value for value in stages[1] if value.reduction and axis == self.loop.axis]
        starts = range(0, self.loop.space[axis], length)
        parts = {id(value): np.zeros(len(starts), value.dtype) for value in sums}
        for value in stages[0]:
            yield from self._compute(value, None)
        for k, start in enumerate(starts):
            block = (axis, start, min(length, self.loop.space[axis] - start))
            if not sums:
                yield from self._run(stages[1], block)
            for value in stages[1] if sums else ():
                room = parts[id(value)][k : k + 1].reshape(value.shape) if value in sums else None
                yield from self._compute(value, block, room)
        for value in sums:
            out = _shaped(value.where, (1,))
            yield Do(REDUCED.get(value.op, np.add).reduce, (parts[id(value)], 0, None, out, True))
        yield from self._run(stages[2], None) if sums else ()

    def _run(self, order: Sequence[_Value], block: tuple[int, int, int] | None) -> Iterator[Do]:
        for value, view in self.late:
            if id(view) in self.copied:
                room = self.copied[id(view)]
                yield Do(np.copyto, (_part(room, block), _part(value.where, block)))
        for value in order:
            yield from self._compute(value, block)
        for value, view in self.late:
            source = self.copied.get(id(view), value.where)
            yield Do(np.copyto, (_part(view, block), _part(source, block)))

    def _compute(
        self, value: _Value, block: tuple[int, int, int] | None, room: Any = None
    ) -> Iterator[Do]:
        out = _part(value.where, block) if room is None else room
        args = [_part(arg.where, block) for arg in value.args]
        if value.op == "dot":
            n = math.prod(value.args[0].shape) if block is None else block[2]
            shapes = ((1, n), (n, 1), (1, 1))
            views = (_shaped(x, s) for x, s in zip((*args, out), shapes, strict=True))
            yield Do(np.matmul, tuple(views))
        elif value.reduction:
            n = self.loop.space[self.loop.axis or 0]
            if block is not None and block[0] == self.loop.axis:
                n = block[2]
            yield self._reduced(value, args[0], out, n)
        elif value.op == "cast":
            yield Do(np.copyto, (out, args[0]), {"casting": "unsafe"})
        elif value.op == "where":
            c, x, y = args[0], _bits(args[1]), _bits(args[2])
            out = _bits(out)
            yield Do(np.bitwise_xor, (x, y, out))
            yield Do(np.multiply, (out, c, out))
            yield Do(np.bitwise_xor, (out, y, out))
        elif value.op in ("maximum", "minimum"):  # NumPy warns of a third argument
            yield Do(UFUNCS[value.op], tuple(args), {"out": out})
        else:
            yield Do(UFUNCS[value.op], (*args, out))

    def _reduced(self, value: _Value, x: Any, out: Any, n: int) -> Do:
        axis = self.loop.axis
        assert axis is not None
        if isinstance(x, np.ndarray):
            shape = x.shape or self._ones
            x = np.broadcast_to(x, (*shape[:axis], n, *shape[axis + 1 :]))
            return Do(REDUCED[value.op].reduce, (x, axis, None, out, True))
        shape = x.layout.shape or self._ones
        if shape[axis] != n:  # the same n times
            x = x._replace(layout=broadcast(x.layout, (*shape[:axis], n, *shape[axis + 1 :])))
        elif value.op == "sum":
            found = _by_product(x, axis, out)
            if found is not None:
                return found
        return Do(REDUCED[value.op].reduce, (x, axis, None, out, True))


def _by_product(x: View, axis: int, out: Any) -> Do | None:
    """A sum as a product with ones, where a BLAS can read both."""
    shape = x.layout.shape
    before, n, after = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    ones = np.ones(n, x.dtype)
    if isinstance(out, np.ndarray):  # of a block's one sum
        X = reshaped(x.layout, (1, n))
        if X is None or not _readable(X):
            return None
        return Do(np.matmul, (x._replace(layout=X), ones[:, None], out.reshape(1, 1)))
    if after == 1:
        X, total = reshaped(x.layout, (before, n)), reshaped(out.layout, (before, 1))
        if X is not None and total is not None and _readable(X):
            return Do(np.matmul, (x._replace(layout=X), ones[:, None], out._replace(layout=total)))
    elif before == 1:
        X, total = reshaped(x.layout, (n, after)), reshaped(out.layout, (1, after))
        together = total is not None and total.strides[1] == 1
        if X is not None and together and _readable(X):
            assert total is not None
            return Do(np.matmul, (ones[None, :], x._replace(layout=X), out._replace(layout=total)))
    return None


def _overwritten(value: _Value) -> Sequence[_Value]:
    """Arguments in whose place a value can be computed."""
    if value.op == "where":
        return value.args[1:2] if value.args[1] is not value.args[2] else ()
    return () if value.reduction else value.args


def _shaped(operand: Any, shape: Shape) -> Any:
    """A vector as a matrix of one row or column."""
    if isinstance(operand, np.ndarray):
        return operand.reshape(shape)
    layout = reshaped(operand.layout, shape)
    assert layout is not None  # all axes but one have one entry
    return operand._replace(layout=layout)


def _readable(layout: Layout) -> bool:
    (rows, columns), (down, along) = layout.shape, layout.strides
    by_rows = (along == 1 or columns == 1) and (down >= columns or rows == 1)
    by_columns = (down == 1 or rows == 1) and (along >= rows or columns == 1)
    return by_rows or by_columns


def _seen(place: Place, dtype: Any) -> View:
    return View(place.owner, 0, place.layout, str(dtype))


def _narrow(layout: Layout) -> Layout:
    """With length 1 along the axes on which nothing changes."""
    shape = tuple(
        1 if stride == 0 and n else n
        for n, stride in zip(layout.shape, layout.strides, strict=True)
    )
    return layout._replace(shape=shape)


def _part(operand: Any, block: tuple[int, int, int] | None) -> Any:
    """A block of what changes along its axis."""
    if block is None:
        return operand
    axis, start, n = block
    if isinstance(operand, np.ndarray):
        if operand.ndim == 0 or operand.shape[axis] == 1:
            return operand
        key = (slice(None),) * axis + (slice(start, start + n),)
        return operand[key]
    shape = operand.layout.shape
    if not shape or shape[axis] == 1:
        return operand
    if operand.owner is None:  # room for one block
        return operand._replace(layout=packed((*shape[:axis], n, *shape[axis + 1 :])))
    steps: list[Step] = [("cut", 0, k, 1) for k in shape]
    steps[axis] = ("cut", start, n, 1)
    return operand._replace(layout=indexed(operand.layout, steps))


def _bits(operand: Any) -> Any:
    """Seen as whole numbers of as many bytes."""
    dtype = f"int{8 * np.dtype(operand.dtype).itemsize}"
    if isinstance(operand, np.ndarray):
        return operand.view(dtype)
    return operand._replace(dtype=dtype)


def _meet(one: Layout, other: Layout) -> bool:
    """Whether entries of one may be the other's."""
    (a, b), (c, d) = _extent(one), _extent(other)
    return a <= d and c <= b


def _extent(layout: Layout) -> tuple[int, int]:
    low = high = layout.offset
    for n, stride in zip(layout.shape, layout.strides, strict=True):
        if stride < 0:
            low += (n - 1) * stride
        else:
            high += (n - 1) * stride
    return low, high


def _computed(op: str, dtype: str, args: Sequence[Any]) -> npt.NDArray[Any]:
    with np.errstate(all="ignore"):
        if op == "cast":
            return np.asarray(args[0]).astype(dtype)
        if op == "where":
            return np.asarray(np.where(*args)).astype(dtype)
        return np.asarray(UFUNCS[op](*args))


def entries(flat: npt.NDArray[Any], view: View) -> npt.NDArray[Any]:
    """A view of memory as an array. What has one entry along an axis has NumPy's usual stride."""
    dtype, layout = np.dtype(view.dtype), view.layout
    if layout.size == 0:
        return np.zeros(layout.shape, dtype)
    strides, step = [], dtype.itemsize
    for n, stride in zip(reversed(layout.shape), reversed(layout.strides), strict=True):
        strides.append(stride * dtype.itemsize if n != 1 else step)
        step = abs(strides[-1]) * n or dtype.itemsize
    found: npt.NDArray[Any] = np.ndarray(
        layout.shape,
        dtype,
        flat,
        view.start + layout.offset * dtype.itemsize,
        tuple(reversed(strides)),
    )
    return found


__all__ = ["Do", "LoopCalls", "View", "entries"]
