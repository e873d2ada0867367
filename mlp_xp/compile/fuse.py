"""Which nodes are computed together: a graph becomes loops and products, in order.

A `Loop` runs once over a space of entries and writes what it was asked for; on its way it may
sum along one axis, and go over that axis again with the sums. Everything else between two
products is inside: a map is computed where it is needed, and kept in memory only if something
else than a loop over the same entries reads it.

Rules, each of which saves passes over memory:

- An array is asked for by a product, a call, a result, a view that takes other entries than a
  loop goes over, or a sum. Maps on the way to it are computed in the same loop.
- What is asked for is put into the newest loop over the same entries that stands after all it
  reads, and reads something of it. Loops only get more to do, never an earlier place, so
  that nothing can come before what it needs.
- A map that two loops need is kept in memory by the first, or done twice where it is `CHEAP`.
- What is joined is written where it belongs at once, by whoever makes it.
- A sum along an axis of which there are few goes in parts (`Loop.split`), whose sums are
  added up after the loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from .graph import Node, base, live, seen_through
from .items import Call, Expression, Item, Loop, Place, Product, Target, Windows, sides
from .layout import Layout, Shape, Step, broadcast, indexed, packed, reshaped
from .windows import SUMS, Lying, Manner, spread

HEAVY = {
    *("exp", "log", "log1p", "expm1", "log2", "sqrt", "divide", "reciprocal", "pow"),
    *("tanh", "sinh", "cosh", "sin", "cos", "tan", "asinh", "atan"),
}
CHEAP = 6  # operations and arrays read, up to which a map is rather done again than kept
SMALL = 4096  # entries up to which no operation costs much beside the call of a loop
MOST_OUTPUTS, MOST_READ = 16, 32  # of one loop
DEEPEST = 64  # maps done one upon the other in a loop
ARRAYS = {"input", "value", "product", "join", "call"}  # nodes that lie in memory in any case

Steps: TypeAlias = tuple[Step, ...]


def tidy(steps: Steps, shape: Shape) -> Steps:
    """Steps from an array of this shape without those that do nothing, or are done by the next."""
    found: list[Step] = []
    for step in steps:
        kind, what = step
        if kind == "reshape" and found and found[-1][0] == "reshape":
            found.pop()
        if kind in ("reshape", "broadcast") and not found and what == shape:
            continue
        found.append(step)
    if len(found) == 1 and found[0][0] == "reshape" and found[0][1] == shape:
        return ()
    return tuple(found)


def same_entries(steps: Steps) -> bool:
    """Whether steps take all entries in their order, if maybe in another shape."""
    return all(kind == "reshape" for kind, _ in steps)


def widened(shape: Shape, wide: Shape) -> Steps:
    """What an operation of several arguments does with one of this shape."""
    if shape == wide:
        return ()
    return (("reshape" if math.prod(shape) == math.prod(wide) else "broadcast", wide),)


class _Unfit(Exception):
    """A loop cannot go over this."""


class Fusion:
    """The items of a graph's roots, in the order in which they run.

    roots    what is wanted
    results  a node that is the memory each root has to be written to: inputs that are given
             up, or the root's own
    manner   what becomes of products with windows
    places   where every node lies that does
    """

    def __init__(
        self,
        roots: Sequence[Node],
        results: Sequence[Node | None],
        manner: Manner = SUMS,
    ) -> None:
        found = spread(roots, manner)
        roots, self.windowed, self.lying, self.unmade, self.tiles = found
        self.wanted, self.items = tuple(roots), list[Item]()
        self.places: dict[Node, Place] = {}
        self.ready: dict[Node, int] = {}  # the first item that can read a node from memory
        self.home: dict[Node, Loop] = {}  # whose sum, or written map, a node is
        self.loops_with: dict[Node, Loop] = {}  # the first loop a map is computed in
        self.copies: dict[tuple[Node, Steps], Node] = {}
        self.order = sorted(live(roots), key=lambda node: node.number)  # as it was recorded
        self.uses: dict[Node, int] = {}
        for node in self.order:
            for arg in node.args:
                self.uses[arg] = self.uses.get(arg, 0) + 1
        self.cut = _cut(self.order)
        self._join_places()
        for node in self.order:
            self._barrier(node)
        self.roots: list[Place] = []
        for root, result in zip(roots, results, strict=True):
            self.roots.append(self._result(root, result))

    # -- where things lie

    def _join_places(self) -> None:
        """Products, sums and joins that are pieces of a join are made where they belong."""
        for node in reversed(self.order):
            if node.op != "join" or node in self.unmade:
                continue
            place = self.places.setdefault(node, Place(node, packed(node.shape)))
            for part, layout in pieces(node, place.layout):
                made, steps = base(part)
                if made.op not in ("product", "join", "reduce") or made in self.places:
                    continue
                if not same_entries(steps) or made.size != part.size:
                    continue
                there = reshaped(layout, made.shape)
                if there is None or (self.uses[made] > 1 and not there.together):
                    continue
                if made.op == "product" and not (there.strides[-1] == 1 or made.shape[-1] == 1):
                    continue
                self.places[made] = Place(place.owner, there)

    def place(self, node: Node) -> Place:
        """Where a node lies, or will."""
        found = self.places.get(node)
        if found is None:
            found = self.places[node] = Place(node, packed(node.shape))
        return found

    # -- in order

    def _barrier(self, node: Node) -> None:
        """Make what has to lie in memory."""
        if node.op in ("input", "value"):
            self.ready[node] = 0
        elif node.op == "product":
            left, lying, windows = self._operand(node.args[0]), self.lying.get(node), None
            if lying is None:
                right = self._operand(node.args[1])
            else:
                right, windows = self._windows(lying)
            item = Product(len(self.items), node, (left, right), windows)
            self.place(node)
            self.items.append(item)
            self.ready[node] = len(self.items)
        elif node.op == "call":
            places = tuple(self._whole(arg) for arg in node.args)
            self.items.append(Call(len(self.items), node, places))
            self.place(node)
            self.ready[node] = len(self.items)
        elif node.op == "join" and node not in self.unmade:
            self._fill(node)
        elif node.op == "reduce":
            self._put(Target(node, self.place(node)))
        elif node in self.cut:
            self._kept(node)

    def _fill(self, join: Node) -> None:
        place, ready = self.place(join), 0
        since = len(self.items) if join in self.tiles else 0
        for part, layout in pieces(join, place.layout):
            made, _ = base(part)
            own = self.places.get(made)
            there = Place(place.owner, layout)
            if own is not None and made.size == part.size and _same_place(own, there):
                ready = max(ready, self.ready[made])
                continue
            ready = max(ready, self._put(Target(part, there), since).number + 1)
        self.ready[join] = ready

    def _operand(self, node: Node) -> Place:
        """A matrix, as a product can read it."""
        made, steps = base(node)
        if made.op == "number":
            return self._copied(node)
        self._kept(made)
        place = self.place(made)
        layout = seen_through(steps, place.layout)
        if layout is None or not _is_matrix(layout):
            return self._copied(node)
        return Place(place.owner, layout)

    def _windows(self, lying: Lying) -> tuple[Place, Windows]:
        """What windows are parts of, and where each of them lies there."""
        place = self._whole(lying.source)
        layouts = lying.layouts(place.layout)
        if layouts is None:
            place = self._copied(lying.source)
            layouts = lying.layouts(place.layout)
            assert layouts is not None, "a copy lies as `windows` asked"
        return place, Windows(tuple(layouts), lying.n_axes, lying.turned)

    def _whole(self, node: Node) -> Place:
        """Any view of what lies in memory."""
        made, steps = base(node)
        if made.op == "number":
            return self._copied(node)
        self._kept(made)
        layout = seen_through(steps, self.place(made).layout)
        return self._copied(node) if layout is None else Place(self.place(made).owner, layout)

    def _copied(self, node: Node) -> Place:
        copy = node.graph.copied(node)
        self._kept(copy)
        return self.place(copy)

    def _kept(self, node: Node) -> None:
        """See that a map lies in memory."""
        if node.op == "map" and node not in self.home:
            self._put(Target(node, self.place(node)))

    def _result(self, root: Node, result: Node | None) -> Place:
        """A root where it is wanted, or wherever it lies."""
        made, steps = base(root)
        if result is None:
            if same_entries(steps) and made.op in ARRAYS | {"map", "reduce"}:
                self._kept(made)
                layout = seen_through(steps, self.place(made).layout)
                if layout is not None and made.op not in ("input", "value"):
                    return Place(self.place(made).owner, layout)
            copy = root.graph.copied(root)
            self._kept(copy)
            return self.place(copy)
        place = Place(result, packed(root.shape))
        self._put(Target(root, place))
        return place

    def overwritten(self) -> set[Node]:
        """Inputs that something still reads after, or while, they are written over."""
        written: dict[Node, tuple[int, Place]] = {}
        for item in self.items:
            if isinstance(item, Loop):
                for target in item.writes:
                    if target.place.owner.op == "input":
                        written[target.place.owner] = (item.number, target.place)
        found: set[Node] = set()
        for item in self.items:
            for place in self.read_by(item):
                if place.owner not in written:
                    continue
                number, there = written[place.owner]
                same = item.number == number and _same_way(place.layout, there.layout)
                if item.number >= number and not same:
                    found.add(place.owner)
        return found

    def read_by(self, item: Item) -> list[Place]:
        """What an item reads from memory."""
        if not isinstance(item, Loop):
            return list(item.operands)
        found: list[Place] = []
        known: dict[Any, Expression] = {}
        for target in item.writes:
            self.expression(item, target, known)
        for expression in known.values():
            if expression.place is not None:
                found.append(expression.place)
        return found

    # -- loops

    def _put(self, target: Target, since: int = 0) -> Loop:
        """Have a target written by some loop, of those from a number on."""
        node = target.node
        if node.op == "reduce" and node in self.home:  # a sum is made once
            node = node.graph.copied(node)
            target = target._replace(node=node)
        shared = self._prepare(node)
        loop = self._find(target, shared, since) if shared else None
        if loop is None:
            for other in sorted(shared, key=lambda node: node.number):
                if self._cost(other) > CHEAP:  # it is cheap once what it is made of is kept
                    self._kept(other)
            loop = self._find(target, (), since)
        if loop is None:
            loop = self._new(target)
            if shared and not self._fits(loop, target, math.prod(loop.space)):
                self._prepare(node)  # what has become cheap is done on the way: see what it reads
                loop = self._new(target)
            self.items.append(loop)
            self._add(loop, target)
        return loop

    def _new(self, target: Target) -> Loop:
        """A loop for a target, after all others."""
        node = target.node
        if node.op == "reduce":
            return Loop(len(self.items), node.args[0].shape, node.param[1])
        return Loop(len(self.items), self._space(node))

    def _space(self, node: Node) -> Shape:
        """A map's shape, or that of a sum over windows in it, whose reads have no other."""
        if self.windowed:
            for made in self._inlined(node):
                if made in self.windowed and made.size == node.size:
                    return made.shape
        return node.shape

    def _add(self, loop: Loop, target: Target) -> None:
        node = target.node
        if node.op == "reduce":
            loop.sums.append(node)
        loop.writes.append(target)
        own = self.places.get(node)  # nodes are not compared by ==, which is an operation
        if node.op in ("map", "reduce") and own is not None and _equal(own, target.place):
            self.home[node] = loop
            self.ready[node] = loop.number + 1
        reads, _ = self._reads(node)
        loop.reads |= reads
        for inner in self._inlined(node):
            loop.inside.add(id(inner))
            self.loops_with.setdefault(inner, loop)

    def _find(self, target: Target, shared: Sequence[Node], since: int) -> Loop | None:
        """The newest loop that can write a target; only one that computes all that is shared."""
        node = target.node
        reads, level = self._reads(node)
        level = max(level, since)
        wanted = {id(other) for other in shared}
        size = node.args[0].size if node.op == "reduce" else node.size
        made = base(node.args[0])[0] if node.op == "reduce" else node
        first = self.loops_with.get(made)  # where it is on the way anyway
        candidates: list[Item] = [first] if first is not None and first.number >= level else []
        candidates += reversed(self.items[level:])
        for loop in candidates:
            if not isinstance(loop, Loop) or len(loop.writes) >= MOST_OUTPUTS:
                continue
            if not wanted <= loop.inside:
                continue
            if not (loop.reads | loop.inside) & (reads | {id(node)}):
                continue
            if len(loop.reads | reads) > MOST_READ:
                continue
            if self._fits(loop, target, size):
                self._add(loop, target)
                return loop
        return None

    def _fits(self, loop: Loop, target: Target, size: int) -> bool:
        """Whether a loop can write a target; it may get another space by it."""
        node, old = target.node, (loop.space, loop.axis)
        full = math.prod(loop.space)
        if node.op == "reduce":
            shape, axis = node.args[0].shape, node.param[1]
            if size != full:
                return False
            if loop.axis is None:
                loop.space, loop.axis = shape, axis
            elif loop.sides != sides(shape, axis):
                return False
        elif size != full and (loop.axis is None or size != math.prod(loop.reduced)):
            return False
        try:
            if loop.split and (size != full or self._needs_sum(loop, node)):
                raise _Unfit
            if size != full and not self._needs_sum(loop, node):
                raise _Unfit  # there is nothing to gain
            if (loop.space, loop.axis) != old:
                for other in loop.writes:
                    if loop.split and self._needs_sum(loop, other.node):
                        raise _Unfit
                    self.expression(loop, other)
            self.expression(loop, target)
        except _Unfit:
            loop.space, loop.axis = old
            return False
        return True

    def _needs_sum(self, loop: Loop, node: Node) -> bool:
        """Whether anything a map is computed from is a sum of this loop."""
        top = node.args[0] if node.op == "reduce" else node
        sums = set(loop.sums)
        return any(leaf in sums for leaf in self._leaves(top))

    # -- what a target is computed from

    def _leaves(self, node: Node) -> Iterator[Node]:
        """What the maps of a node read: all that is no map, and maps that are kept."""
        seen: set[int] = set()
        stack = [(node, True)]
        while stack:
            top, first = stack.pop()
            made, _ = base(top)
            if id(made) in seen:
                continue
            seen.add(id(made))
            if made.op == "map" and (first or made not in self.home):
                stack += [(arg, False) for arg in made.args]
            elif made.op != "number":
                yield made

    def _inlined(self, node: Node) -> Iterator[Node]:
        top = node.args[0] if node.op == "reduce" else node
        seen: set[int] = set()
        stack = [top]
        while stack:
            made, _ = base(stack.pop())
            if id(made) in seen or made.op != "map":
                continue
            seen.add(id(made))
            yield made
            if made not in self.home or made is node:
                stack += made.args

    def _reads(self, node: Node) -> tuple[set[int], int]:
        """What a target reads, and the first item that could."""
        top = node.args[0] if node.op == "reduce" else node
        reads: set[int] = set()
        level = 0
        for leaf, steps in self._accesses(top):
            reads.add(id(leaf))
            loop = self.home.get(leaf)
            on_the_way = loop is not None and (
                (not loop.split and self._local(leaf, steps))
                or (leaf.op == "map" and leaf not in self.cut and all(map(_spreads, steps)))
            )
            first = loop.number if loop is not None and on_the_way else self.ready[leaf]
            level = max(level, first)
        return reads, level

    def _local(self, leaf: Node, steps: Steps) -> bool:
        return leaf.op == "reduce" and all(_spreads(step) for step in steps)

    def _accesses(self, node: Node) -> Iterator[tuple[Node, Steps]]:
        """Leaves with the steps by which the maps above see them, as far as they matter here."""
        seen: set[tuple[int, bool]] = set()
        stack: list[tuple[Node, Steps, bool]] = [(node, (), True)]
        while stack:
            top, after, first = stack.pop()
            made, steps = base(top)
            steps = tidy(steps + after, made.shape)
            plain = same_entries(steps)
            if (id(made), plain) in seen:
                continue
            seen.add((id(made), plain))
            if made.op == "map" and (first or made not in self.home):
                for arg in made.args:
                    stack.append((arg, (*widened(arg.shape, made.shape), *steps), False))
            elif made.op != "number":
                yield self._copy_of(made, steps)

    def _prepare(self, node: Node) -> list[Node]:
        """Keep those maps below a target that no loop over its entries can do on the way.

        Returns those that another loop does on its way already, and that are not cheap: a
        target either joins that loop, or they are kept.
        """
        top = node.args[0] if node.op == "reduce" else node
        space = top.shape if node.op == "reduce" else self._space(node)
        whole: Steps = () if space == top.shape else (("reshape", space),)
        stack: list[tuple[Node, Steps, bool]] = [(top, whole, node.op != "reduce")]
        seen: set[tuple[int, Steps]] = set()
        shared: list[Node] = []
        while stack:
            above, after, first = stack.pop()
            made, steps = base(above)
            steps = tidy(steps + after, made.shape)
            if (id(made), steps) in seen:
                continue
            seen.add((id(made), steps))
            if made.op != "map" or (made in self.home and not first):
                self._see(made, steps)
                continue
            if not (first and steps == tidy(after, made.shape)):
                again = made in self.loops_with and same_entries(steps)
                if again and self._cost(made) > CHEAP:
                    shared.append(made)
                    continue
                if self._to_keep(made, steps):
                    self._kept(made)
                    self._see(made, steps)
                    continue
            for arg in made.args:
                stack.append((arg, (*widened(arg.shape, made.shape), *steps), False))
        return shared

    def _see(self, leaf: Node, steps: Steps) -> None:
        """Copy what lies in memory, where no strides can show it so."""
        if leaf.op == "number":
            return
        leaf, steps = self._copy_of(leaf, steps)
        layout = self.place(leaf).layout
        for k, step in enumerate(steps):
            seen = seen_through((step,), layout)
            if seen is None:
                view = leaf
                for earlier in steps[:k]:
                    view = leaf.graph.view(view, earlier)
                copy = leaf.graph.copied(view)
                self._kept(copy)
                self.copies[leaf, steps[:k]] = copy
                self._see(copy, steps[k:])
                return
            layout = seen

    def _copy_of(self, leaf: Node, steps: Steps) -> tuple[Node, Steps]:
        """A leaf's copy, that of the most steps, and what is left of them."""
        for k in reversed(range(len(steps))):
            copy = self.copies.get((leaf, steps[:k])) if self.copies else None
            if copy is not None and seen_through(steps, self.place(leaf).layout) is None:
                return self._copy_of(copy, tidy(steps[k:], copy.shape))
        return leaf, steps

    def _to_keep(self, node: Node, steps: Steps) -> bool:
        """Whether a map that a target reads so should lie in memory."""
        if same_entries(steps):
            shape = steps[-1][1] if steps else node.shape
            return node in self.windowed and not _same_axes(shape, node.shape)
        if not all(map(_spreads, steps)):
            return True
        layout = seen_through(steps, packed(node.shape))
        if layout is None or layout.strides[-1] == 0 or self._cost(node) <= CHEAP:
            return layout is None  # smaller than what it is seen as: done once for each row
        return node in self.loops_with or not self._of_sums(node)

    def _of_sums(self, node: Node) -> bool:
        """Whether a map is of a sum, and so done once for each of the loop that sums."""
        return any(leaf.op == "reduce" for leaf in self._leaves(node))

    def _cost(self, node: Node) -> int:
        """Operations and arrays read of a map that is done again."""
        heavy = 10 if node.size > SMALL else 1
        cost, seen = 0, set[int]()
        stack = [node]
        while stack and cost <= CHEAP:
            made, _ = base(stack.pop())
            if id(made) in seen or made.op == "number":
                continue
            seen.add(id(made))
            if made.size * 4 <= node.size:  # done once for each row or column
                continue
            if made.op != "map" or (made in self.home and made is not node):
                cost += 1
                continue
            cost += heavy if made.param in HEAVY else 1
            stack += made.args
        return cost

    # -- expressions

    def expression(
        self, loop: Loop, target: Target, known: dict[Any, Expression] | None = None
    ) -> Expression:
        """A target as an expression of what lies in memory, for every entry of the loop's space.

        known  expressions of the same loop, to be shared

        Raises `_Unfit` where the loop cannot go over it.
        """
        node = target.node
        top = node.args[0] if node.op == "reduce" else node
        full = top.size == math.prod(loop.space)
        shape = loop.space if full else loop.reduced
        if node.op != "reduce" and reshaped(target.place.layout, shape) is None:
            raise _Unfit
        if node.op == "reduce" and reshaped(target.place.layout, loop.reduced) is None:
            raise _Unfit
        known = {} if known is None else known
        return self._express(loop, top, (("reshape", shape),), shape, known, node)

    def _express(
        self,
        loop: Loop,
        node: Node,
        after: Steps,
        shape: Shape,
        known: dict[Any, Expression],
        target: Node,
    ) -> Expression:
        made, steps = base(node)
        steps = tidy(steps + after, made.shape)
        key = (id(made), steps)
        if key in known:
            return known[key]
        found: Expression
        if made.op == "number":
            found = Expression("number", made.kind, value=made.param)
        elif made.op == "map" and (
            made not in self.home or made is target or self._here(loop, made, steps)
        ):
            args = []
            for arg in made.args:
                wide = (*widened(arg.shape, made.shape), *steps)
                args.append(self._express(loop, arg, wide, shape, known, target))
            found = Expression(made.param, made.kind, tuple(args))
        else:
            found = self._read(loop, made, steps, shape)
        known[key] = found
        return found

    def _here(self, loop: Loop, node: Node, steps: Steps) -> bool:
        """Whether a map is computed in this very loop, for the same entries, though kept.

        A later loop may have come to keep it since.
        """
        if self.home[node] is not loop:
            return self.home[node].number > loop.number
        if node in self.cut:
            raise _Unfit
        spread = all(_spreads(step) for step in steps)
        if not same_entries(steps) and not (spread and node.size < math.prod(loop.space)):
            raise _Unfit  # of other entries: those are not there yet
        return True

    def _read(self, loop: Loop, node: Node, steps: Steps, shape: Shape) -> Expression:
        node, steps = self._copy_of(node, steps)
        home = self.home.get(node)
        if node.op == "reduce" and home is loop:
            layout = seen_through(steps, packed(node.shape))
            assert loop.axis is not None
            if layout is None or loop.split:
                raise _Unfit
            there = packed(loop.reduced)
            if layout == (there if shape != loop.space else broadcast(there, loop.space)):
                return Expression("sum", node.kind, node=node)
            raise _Unfit
        if self.ready[node] > loop.number:
            raise _Unfit
        place = self.place(node)
        layout = seen_through(steps, place.layout)
        if layout is None:
            raise _Unfit
        return Expression("read", node.kind, place=Place(place.owner, layout))


def _cut(order: Sequence[Node]) -> set[Node]:
    """Maps that lie in memory so that no more than DEEPEST are done one upon the other.

    A mean over a window of a thousand is a chain of a thousand additions.
    """
    depth: dict[Node, int] = {}
    found: set[Node] = set()
    for node in order:
        if node.op == "view":
            depth[node] = depth[node.args[0]]
        elif node.op == "map":
            depth[node] = 1 + max(depth[arg] for arg in node.args)
            if depth[node] >= DEEPEST:
                found.add(node)
                depth[node] = 0
        else:
            depth[node] = 0
    return found


def _equal(one: Place, other: Place) -> bool:
    return one.owner is other.owner and one.layout == other.layout


def _same_place(made: Place, wanted: Place) -> bool:
    """Whether a node's entries lie where a piece of a join belongs."""
    there = reshaped(wanted.layout, made.layout.shape)
    return made.owner is wanted.owner and there == made.layout


def _same_way(read: Layout, written: Layout) -> bool:
    """Whether a loop reads each entry where it writes it, before it does."""
    return read.size == written.size and reshaped(written, read.shape) == read


def _same_axes(one: Shape, other: Shape) -> bool:
    """Whether shapes differ by axes of one entry alone."""
    return [n for n in one if n != 1] == [n for n in other if n != 1]


def _spreads(step: Step) -> bool:
    """Whether a step shows an array with more axes, or repeated along them."""
    kind, what = step
    if kind == "index":
        return all(entry[0] in ("new", "all") for entry in what)
    return bool(kind in ("reshape", "broadcast"))


def pieces(join: Node, layout: Layout) -> Iterator[tuple[Node, Layout]]:
    """Each piece of a join, and where it belongs."""
    axis, start = join.param, 0
    for part in join.args:
        n = part.shape[axis]
        key: list[Step] = [("all", k) for k in layout.shape]
        key[axis] = ("cut", start, n, 1)
        yield part, indexed(layout, key)
        start += n


def _is_matrix(layout: Layout) -> bool:
    """Whether a BLAS can read the last two axes."""
    (rows, columns), (down, along) = layout.shape[-2:], layout.strides[-2:]
    by_rows = (along == 1 or columns == 1) and (down >= columns or rows == 1)
    by_columns = (down == 1 or rows == 1) and (along >= rows or columns == 1)
    return by_rows or by_columns


__all__ = ["Fusion"]
