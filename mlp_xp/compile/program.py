"""A fused graph with memory and compiled kernels: a list of calls that runs it.

Memory is one block. An array has a part of it from the first item that writes it to the last
that reads it; then others have that part.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product as combinations
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ..fast import aligned, blas
from ..fast.aligned import LINE
from ..fast.c_source import MOST_PARTS
from ..fast.calls import Calls, Table, address
from ..fast.tracing import Untraceable
from . import loops
from .fuse import Fusion
from .graph import Node
from .items import Call, Item, Loop, Place, Product
from .layout import Layout, Step, broadcast, indexed, reshaped
from .sharing import Piece, fetches, made_by_products, pieces, takes
from .windows import Manner, rows_of

Buffer = npt.NDArray[Any]
T = TypeVar("T")
TILE = 1 << 21  # bytes of patches; half of it, and less, is slower where rows are few
# words of a product that hold addresses: A, B and what they make; the numbers of B's rows
OPERANDS, WHICH = (8, 10, 12), 15

FINISH = f"""
  const I *a = (const I *)w[2];
  const T *partial = (const T *)a[0];
  T *out = (T *)a[1];
  const I n = a[2], stride = a[3];
  for (I k = 0; k < n; k++) {{
    T total = partial[k * {MOST_PARTS}];
    for (I i = 1; i < {MOST_PARTS}; i++) {{
      const T next = partial[k * {MOST_PARTS} + i];
      total = COMBINE;
    }}
    out[k * stride] = total;
  }}"""
COMBINED = {
    "sum": "total + next",
    "max": "next > total || next != next ? next : total",
    "min": "next < total || next != next ? next : total",
}


GONE = np.zeros(0)  # in the place of an input
# Bytes of programs that wait to be used again, at most: one takes half a millisecond to make, as
# long as ten steps of a small network, and a `fit` of such may have no more than twenty.
IDLE = 1 << 21


class _Word(NamedTuple):
    """Where an input's address stands, and what is added to it, in bytes."""

    where: Buffer | tuple[Table, int]
    word: int
    offset: int


class Memory:
    """Parts of one block, given out and taken back."""

    def __init__(self, aligned: int = LINE) -> None:
        self.size, self.aligned = 0, aligned
        self.free: list[tuple[int, int]] = []  # start and size, in order, none beside another

    def take(self, size: int) -> int:
        size = -(-max(size, 1) // self.aligned) * self.aligned
        fitting = [(n, start) for start, n in self.free if n >= size]
        if fitting:
            n, start = min(fitting)
            self.free.remove((start, n))
            if n > size:
                self._insert(start + size, n - size)
            return start
        if self.free and sum(self.free[-1]) == self.size:  # the last part grows
            start, n = self.free.pop()
            self.size = start + size
            return start
        start, self.size = self.size, self.size + size
        return start

    def give(self, start: int, size: int) -> None:
        self._insert(start, -(-max(size, 1) // self.aligned) * self.aligned)

    def _insert(self, start: int, size: int) -> None:
        self.free.append((start, size))
        self.free.sort()
        merged: list[tuple[int, int]] = []
        for begin, n in self.free:
            if merged and sum(merged[-1]) == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + n)
            else:
                merged.append((begin, n))
        self.free = merged


class Plan:
    """What a program is, before there is memory for it: made once for all that are alike.

    kernels    the text of each loop
    starts     where each array begins in the block of `n_bytes`
    inputs     by their names
    left_out   items that a target does not run
    apart      arrays that are not in the block
    idle       what was made by it, is at most `IDLE` bytes, and waits for who wants it next
    """

    aligned: ClassVar[int] = LINE

    def __init__(self, fusion: Fusion) -> None:
        self.fusion, graph = fusion, fusion.order[0].graph
        self.dtype = graph.dtype
        self.inputs: dict[str, Node] = {n.param: n for n in graph.nodes if n.op == "input"}
        self.products: dict[int, list[tuple[list[Place], list[Any] | None]]] = {}
        self._blocks: dict[int, tuple[Buffer, list[tuple[int, Place]]]] = {}
        self._pieces: dict[int, list[Piece]] = {}
        self.kept: list[Buffer] = []  # what products point at
        self.left_out: set[int] = set()
        self.apart: set[Node] = set()
        self.idle: list[Any] = []
        self._write()
        self.starts: dict[Node, int] = {}
        self._plan()

    def block_of(self, loop: Loop) -> tuple[Buffer, list[tuple[int, Place]]]:
        """A kernel's arguments but for the addresses, and where which of them belong."""
        found = self._blocks.get(loop.number)
        if found is None:
            arguments = self.kernels[loop.number].arguments
            block = np.zeros(len(arguments), np.int64)
            places = []
            for i, argument in enumerate(arguments):
                if isinstance(argument, Place):
                    places.append((i, argument))
                elif isinstance(argument, float):
                    block[i] = np.array(argument).view(np.int64)
                elif isinstance(argument, int):
                    block[i] = argument
            found = self._blocks[loop.number] = (block, places)
        return found

    def pieces_of(self, loop: Loop) -> list[Piece]:
        """A loop in the order in which it runs: over what products make, as these are cut.

        So a thread updates the rows of a layer's weights whose gradient it has made: what a core
        must fetch from another takes up to thirty times as long as what it has at hand.
        """
        found = self._pieces.get(loop.number)
        if found is None:
            kernel = self.kernels[loop.number]
            found = self._pieces[loop.number] = pieces(self._made, loop, kernel)
        return found

    @cached_property
    def _made(self) -> dict[Node, list[Piece]]:
        return made_by_products(self.fusion)

    @cached_property
    def _looped(self) -> set[Node]:
        """What loops write."""
        return {target.place.owner for loop in self._loops() for target in loop.writes}

    def fetched(self, node: Node) -> bool:
        """Whether an input's rows need not be gathered: products alone read them, and of theirs
        those that fetch rows where they lie.
        """
        return self.taken(node) and all(fetches(item, self.dtype) for item in self._reading(node))

    def taken(self, node: Node) -> bool:
        """Whether products alone read an input's rows, one an example."""
        reading = self._reading(node)
        return bool(reading) and all(takes(item, node) for item in reading)

    def _reading(self, node: Node) -> list[Item]:
        return [
            item
            for item in self.fusion.items
            if any(place.owner is node for place in self._touched(item))
        ]

    def constant(self, node: Node) -> bool:
        """Whether an array is an input that no loop writes: weights in a prediction."""
        return node.op == "input" and node not in self._looped

    def _loops(self) -> list[Loop]:
        """Those that run."""
        loops = [item for item in self.fusion.items if isinstance(item, Loop)]
        return [loop for loop in loops if loop.number not in self.left_out]

    def _write(self) -> None:
        """What the loops are in the target's language."""
        self.kernels = {loop.number: loops.kernel(self.fusion, loop) for loop in self._loops()}

    def texts(self) -> set[str]:
        """The bodies of all kernels that its programs call."""
        found = {kernel.body for kernel in self.kernels.values()}
        for loop in self._loops():
            if self.kernels[loop.number].finish:
                found |= {_finish(node) for node in loop.sums}
        return found

    def _plan(self) -> None:
        first: dict[Node, int] = {}
        last: dict[Node, int] = {}
        for item in self.fusion.items:
            if item.number in self.left_out:
                continue
            for place in self._touched(item):
                if place.owner.op not in ("input", "value") and place.owner not in self.apart:
                    first.setdefault(place.owner, item.number)
                    last[place.owner] = item.number
        end = len(self.fusion.items)
        for place in self.fusion.roots:
            if place.owner in first:
                last[place.owner] = end
        begins: dict[int, list[Node]] = {}
        ends: dict[int, list[Node]] = {}
        for node, number in first.items():
            begins.setdefault(number, []).append(node)
            ends.setdefault(last[node], []).append(node)
        memory = Memory(self.aligned)
        for number in range(end):
            for node in begins.get(number, ()):
                self.starts[node] = memory.take(size_of(node))
            for node in ends.get(number, ()):
                memory.give(self.starts[node], size_of(node))
        self.n_bytes = memory.size

    def _touched(self, item: Item) -> list[Place]:
        if isinstance(item, Loop):
            kernel = self.kernels[item.number]
            places = [arg for arg in kernel.arguments if isinstance(arg, Place)]
            return places + [target.place for target in item.writes]
        return [*item.operands, self.fusion.place(item.node)]


class Program:
    """Calls that compute the roots of a graph.

    given    memory of the inputs (and results that lie in inputs), by their names
    before   makes calls that come first
    block    memory to work in, where it is enough
    roots    arrays that hold the results after `run`
    target   what its calls are made of
    native   whether it is compiled
    n_calls  of kernels, products and functions of NumPy, when it is finished
    """

    target: ClassVar[str] = "C"
    native: ClassVar[bool] = True
    plans: ClassVar[type[Plan]] = Plan

    @staticmethod
    def manner(dtype: str) -> Manner:
        """Of a `Fusion` for it, of numbers of a dtype."""
        return Manner(fetch=blas.fetches(dtype), tile=TILE)

    def __init__(
        self,
        plan: Plan,
        given: Mapping[str, Buffer],
        before: Callable[[Calls], None] | None = None,
        block: Buffer | None = None,
    ) -> None:
        self.plan, self.fusion = plan, plan.fusion
        self.given = {plan.inputs[name]: array for name, array in given.items()}
        self.inputs: dict[Node, list[_Word]] = {}  # where their addresses stand
        self.addresses: dict[Node, list[Any]] = {}  # the same, of finished tables
        self.calls = Calls(plan.dtype)
        self.dtype = np.dtype(plan.dtype)
        if block is None or block.size < plan.n_bytes:
            block = aligned.zeros(plan.n_bytes, np.uint8)
        self.block = block
        self._flat: dict[Node, Buffer] = {}
        self._starts: dict[Node, int] = {}
        if before is not None:
            before(self.calls)
        for item in self.fusion.items:
            if item.number not in plan.left_out:
                self._emit(item)
        self.roots = [self.array(place) for place in self.fusion.roots]

    def whole(self, owner: Node) -> Buffer:
        """An owner's memory, flat."""
        if owner in self.given:
            array = self.given[owner]
            assert array.flags.c_contiguous, f"{owner.param} would be a copy"
            return array.reshape(-1)
        found = self._flat.get(owner)
        if found is None:
            if owner.op == "value":
                found = np.ascontiguousarray(owner.param).reshape(-1)
            else:
                start = self.plan.starts[owner]
                found = self.block[start : start + size_of(owner)].view(owner.dtype)
            self._flat[owner] = found
        return found

    def array(self, place: Place) -> Buffer:
        """A view of memory."""
        layout, flat = place.layout, self.whole(place.owner)
        return np.lib.stride_tricks.as_strided(
            flat[layout.offset :] if layout.size else flat[:0],
            layout.shape,
            tuple(stride * flat.itemsize for stride in layout.strides),
        )

    # -- calls

    def _emit(self, item: Item) -> None:
        if isinstance(item, Loop):
            self._loop(item)
        elif isinstance(item, Product):
            self._product(item)
        else:
            self._call(item)

    def _loop(self, loop: Loop) -> None:
        kernel, (first, *more) = self.plan.kernels[loop.number], self.plan.pieces_of(loop)
        if more:
            for piece in (first, *more):
                self._piece(loop, piece)
            return
        block = self._block(loop)
        partial = np.zeros(kernel.finish * MOST_PARTS, self.dtype)
        if kernel.finish:
            block[kernel.arguments.index("partial")] = address(partial)
        self.calls.kept.append(partial)
        self.calls.kernel(kernel.body, block, parts=first.parts)
        if kernel.finish:
            n = kernel.finish // len(loop.sums)
            for number, node in enumerate(loop.sums):
                place, done = self.fusion.place(node), number * n
                for line in _lines(place.layout):
                    room, out = partial[done * MOST_PARTS :], Place(place.owner, line)
                    told = [address(room), self._address(out), line.size, *line.strides]
                    block = np.array(told, np.int64)
                    self.calls.kernel(_finish(node), block)
                    self._note(out, block, 1)
                    done += line.size

    def _block(self, loop: Loop, start: int = 0) -> Buffer:
        """A kernel's arguments from an entry on."""
        along = self.plan.kernels[loop.number].along if start else ()
        template, places = self.plan.block_of(loop)
        block = template.copy()
        for i, place in places:
            if i in along:
                layout = place.layout
                place = place._replace(layout=layout._replace(offset=layout.offset + start))
            block[i] = self._address(place)
            self._note(place, block, i)
        numbers = set(along) - {i for i, _ in places}
        block[list(numbers)] -= start
        return block

    def _piece(self, loop: Loop, piece: Piece) -> None:
        block = self._block(loop, piece.start)
        block[0] = piece.stop - piece.start
        self.calls.kernel(self.plan.kernels[loop.number].body, block, parts=piece.parts)

    def _address(self, place: Place) -> int:
        owner = place.owner
        start = self._starts.get(owner)
        if start is None:
            flat = self.whole(owner)
            if owner not in self.given:
                self.calls.kept.append(flat)
            start = self._starts[owner] = address(flat)
        return start + place.layout.offset * owner.dtype.itemsize

    def _note(self, place: Place, where: Buffer | tuple[Table, int], word: int) -> None:
        """Remember where the address of an input stands."""
        if place.owner.op == "input":
            offset = place.layout.offset * place.owner.dtype.itemsize
            self.inputs.setdefault(place.owner, []).append(_Word(where, word, offset))

    def _product(self, item: Product) -> None:
        known = self.plan.products.get(item.number)
        if known is None:
            known = self.plan.products[item.number] = self._matrices(item)
        for places, row in known:
            if row is None:  # no BLAS is found that could be called

                def multiply(places: Sequence[Place] = places) -> None:
                    A, B, C = map(self.array, places)
                    np.matmul(A, B, out=C)

                self.calls.calls.append(multiply)
                continue
            words = list(row)
            for place, word in zip(places, OPERANDS, strict=True):
                words[word] = self._address(place)
            where = self.calls.kernel(words[0], *words[2:], parts=words[1])
            for place, word in zip(places, OPERANDS, strict=True):
                self._note(place, where, word)

    def _matrices(self, item: Product) -> list[tuple[list[Place], list[Any] | None]]:
        """The places of each product of two matrices, and its row but for the addresses."""
        out = self.fusion.place(item.node)
        lead = out.layout.shape[:-2]
        left, right = item.operands
        if item.windows is not None:
            first, rows, runs = rows_of(item.windows)
            right = right._replace(layout=first)
            self.plan.kept += [rows, runs]
        places = [
            place._replace(layout=broadcast(place.layout, (*lead, *place.layout.shape[-2:])))
            for place in (left, right, out)
        ]
        constant = self.plan.constant(left.owner)
        found: list[tuple[list[Place], list[Any] | None]] = []
        for index in combinations(*map(range, lead)):
            key: list[Step] = [("at", i) for i in index]
            matrices = [place._replace(layout=_matrix(place.layout, key)) for place in places]
            A, B, C = map(self.array, matrices)
            if C.size == 0:
                continue
            calls = Calls(self.plan.dtype)
            row = (
                calls.product(A, B, C, constant)
                if item.windows is None
                else calls.windows(A, B, C, rows, runs, item.windows.turned, constant)
            )
            found.append((matrices, None if row is None else row[0].rows[row[1]]))
        return found

    def _call(self, item: Call) -> None:
        out = self.array(self.fusion.place(item.node))
        function = item.node.param

        def call() -> None:  # an input may lie elsewhere every time
            np.copyto(out, function(*map(self.array, item.operands)))

        self.calls.calls.append(call)

    def give(self, node: Node, array: Buffer) -> None:
        """Take an input from another array, C-contiguous, of the same shape and dtype."""
        if self.given[node] is array:
            return
        self.given[node] = array
        start = address(array)
        for words, place, offset in self.addresses.get(node, ()):
            words[place] = start + offset

    def leave(self, names: Iterable[str]) -> None:
        """Let go of inputs, which are given again before it runs."""
        self.given |= {self.plan.inputs[name]: GONE for name in names}

    def finish(self) -> None:
        """Compile; raises `CannotCompile`."""
        tables = [call.rows if isinstance(call, Table) else [call] for call in self.calls.calls]
        self.n_calls = sum(map(len, tables))
        self.calls.finish()
        for node, found in self.inputs.items():
            self.addresses[node] = [
                (where, word, offset)
                if isinstance(where, np.ndarray)
                else (where[0].words, (where[1], word), offset)
                for where, word, offset in found
            ]

    def run(self) -> Sequence[Buffer]:
        """The roots."""
        for call in self.calls.calls:
            call()
        return self.roots


def _finish(node: Node) -> str:
    """The kernel that adds up the parts of a sum."""
    return FINISH.replace("COMBINE", COMBINED[node.param[0]])


def _lines(layout: Layout) -> Iterator[Layout]:
    """Its entries in their order, as few arrays of one axis."""
    line = reshaped(layout, (layout.size,))
    if line is not None:
        yield line
        return
    rest: list[Step] = [("all", n) for n in layout.shape[1:]]
    for i in range(layout.shape[0]):
        yield from _lines(indexed(layout, (("at", i), *rest)))


def _matrix(layout: Layout, lead: Sequence[Step]) -> Layout:
    """One of a stack of matrices."""
    rest: list[Step] = [("all", n) for n in layout.shape[-2:]]
    return indexed(layout, (*lead, *rest))


def size_of(node: Node) -> int:
    """An array's bytes."""
    return node.size * node.dtype.itemsize


_PLANS: OrderedDict[Any, Any] = OrderedDict()
_LOCK = threading.Lock()
MOST_PLANS = 32  # that are remembered, each with the constants of its network


def _forked() -> None:
    """In the child of a fork nobody else holds the lock."""
    global _LOCK
    _LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def planned(key: Any, make: Callable[[], T]) -> T:
    """The plan of a key, or what holds one, made at the first time.

    key  None, or a key with something in it that has no hash, is not remembered

    A fault of the compiler is `Untraceable` too: a warning, and slower, instead of the end of a
    training.
    """
    try:
        hash(key)
    except TypeError:
        key = None
    with _LOCK:
        found: T | None = _PLANS.get(key)
        if found is not None:
            _PLANS.move_to_end(key)
            return found
    try:
        found = make()
    except Untraceable:
        raise
    except Exception as error:
        what = f"{type(error).__name__} {error}".strip()
        raise Untraceable(f"the compiler failed ({what}): please tell its authors") from error
    if key is not None:
        with _LOCK:
            _PLANS[key] = found
            if len(_PLANS) > MOST_PLANS:
                _PLANS.popitem(last=False)
    return found
