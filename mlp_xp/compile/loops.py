"""A loop as text: one kernel in C, which takes sizes, strides and numbers as arguments.

Equal loops of other sizes are the same text. A kernel goes over entries in one of three ways:

    flat     every entry once; what changes fastest is the innermost loop
    rows     a sum along the innermost axis: once over a row for each sum that needs another,
             while the row is in the cache
    columns  a sum along another axis: as many columns at once as stay in the cache, their sums
             beside them

What does not change in the innermost loop is computed before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..fast.c_source import CTYPES as REALS
from ..fast.c_source import MOST_PARTS
from ..fast.tracing import FUNCTIONS, QUESTIONS, REDUCTIONS, Untraceable, literal
from .fuse import HEAVY, Fusion
from .graph import Node
from .items import Expression, Loop, Place, Target
from .layout import Layout, Shape, broadcast, reshaped

COLUMNS = 128  # columns at once
CTYPES = {
    **REALS,
    "int64": "long long",
    "int32": "int",
    "uint16": "unsigned short",
    "bool": "unsigned char",
}
INLINE = {-1.0, 0.0, 0.5, 1.0, 2.0, 3.0}  # numbers that stand in the text
OUTER, AXIS, INNER = 1, 2, 4  # what a value changes along

Argument: TypeAlias = "int | float | Place | str"


class Kernel(NamedTuple):
    """A loop's text and what it is called with.

    body       of the function
    arguments  whole numbers, floating numbers, and places; "partial" is room for split sums
    finish     the number of sums to be added up afterwards
    work       in entries, as one of a simple loop
    along      of a loop that can be done in pieces, for its entries, of which the first argument
               tells the number, lie together: the arguments that are others for a later piece
    """

    body: str
    arguments: list[Argument]
    finish: int
    work: int
    along: tuple[int, ...] = ()


@dataclass
class Access:
    """An array that a kernel goes over, as strides for each loop."""

    name: str
    place: Place
    dtype: str
    outer: tuple[int, ...]
    axis: int
    inner: int
    written: bool = False
    argument: int = 0

    @property
    def mask(self) -> int:
        found = OUTER if any(self.outer) else 0
        return found | (AXIS if self.axis else 0) | (INNER if self.inner else 0)


class _Dims(NamedTuple):
    """Extents of the loops: several outer, the axis (1 where there is none), the innermost."""

    outer: tuple[int, ...]
    axis: int
    inner: int


@dataclass
class Scope:
    """Statements at one depth, and the names of what they compute."""

    lines: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    values: dict[int, str] = field(default_factory=dict)  # the same, by expression


def kernel(fusion: Fusion, loop: Loop) -> Kernel:
    """The text of a loop."""
    return LoopText(fusion, loop).kernel()


class LoopText:
    """What is the same in every language: which arrays a loop goes over, how, and its values."""

    def __init__(self, fusion: Fusion, loop: Loop) -> None:
        self.loop, self.dtype = loop, fusion.order[0].graph.dtype
        known: dict[Any, Expression] = {}
        self.targets: list[tuple[Target, Expression]] = [
            (target, fusion.expression(loop, target, known)) for target in loop.writes
        ]
        self.count = 0
        self.arguments: list[Argument] = []
        self.head: list[str] = []
        self.constants: dict[tuple[str, str], str] = {}
        self.beside: dict[int, str] = {}  # values of a column, computed once for all its rows
        self.ones: int | None = None  # how many entries are 1 of what is 1 and then 0
        self.counted: list[int] = []  # the argument that says so
        self.masks: dict[int, int] = {}
        self.half = ""  # that array's entries, in the part of the loop that is written
        self.sums = {id(node): i for i, node in enumerate(loop.sums)}
        self._levels()
        self._loops()

    # -- what there is

    def _levels(self) -> None:
        """In which pass over the axis each sum is made, and each output written."""
        level: dict[int, int] = {}
        by_node = {id(t.node): e for t, e in self.targets if t.node.op == "reduce"}

        def of(expression: Expression) -> int:
            key = id(expression)
            if key not in level:
                if expression.op == "sum":
                    level[key] = of(by_node[id(expression.node)]) + 1
                else:
                    level[key] = max(map(of, expression.args), default=0)
            return level[key]

        self.level = of
        self.due = [of(expression) for _, expression in self.targets]
        over = [i for i, (target, _) in enumerate(self.targets) if target.place.owner.op == "input"]
        if any(self.due):
            read = [{x.place.owner for x in _reads(e) if x.place} for _, e in self.targets]
            for i in over * len(over):  # what waits for another is itself read as late
                owner = self.targets[i][0].place.owner
                later = (due for due, reads in zip(self.due, read, strict=True) if owner in reads)
                self.due[i] = max(self.due[i], *later, 0)

    def _loops(self) -> None:
        """Strides of all arrays over as few loops as they allow."""
        loop = self.loop
        reads: dict[tuple[Any, ...], Layout] = {}
        self.keys: dict[int, tuple[Any, ...]] = {}
        ones: list[Layout] = []
        for _, expression in self.targets:
            for leaf in _reads(expression):
                assert leaf.place is not None
                layout = leaf.place.layout
                wide = broadcast(layout, loop.space) if layout.shape != loop.space else layout
                key = (leaf.place.owner, wide.strides, wide.offset)
                self.keys[id(leaf)] = key
                if self._is_ones(leaf.place.owner, wide):
                    ones.append(wide)
                else:
                    reads[key] = wide
        writes: list[tuple[Target, Layout]] = []
        for target, _ in self.targets:
            full = target.node.op != "reduce" and target.node.size == math.prod(loop.space)
            there = reshaped(target.place.layout, loop.space if full else loop.reduced)
            assert there is not None
            writes.append((target, there if full else broadcast(there, loop.space)))
        layouts = [*reads.values(), *ones, *(layout for _, layout in writes)]
        order = self._collapse(layouts)
        self.accesses: dict[tuple[Any, ...], Access] = {}
        for key, layout in reads.items():
            place = Place(key[0], layout)
            self.accesses[key] = self._access(place, key[0].kind, order(layout))
        self.outputs: list[Access] = []
        for target, layout in writes:
            key = (target.place.owner, layout.strides, layout.offset)
            access = self.accesses.get(key)
            if access is None:
                place = Place(target.place.owner, layout)
                access = self._access(place, target.node.kind, order(layout))
                self.accesses[key] = access
            access.written = True
            self.outputs.append(access)

    def _is_ones(self, owner: Node, layout: Layout) -> bool:
        """Whether an array need not be read, for it is 1 up to some entry, and then 0."""
        n = first_ones(owner)
        along = len(layout.shape) - 1
        rows = self.loop.axis in (None, along) and layout.strides[along:] == (1,)
        if n is None or not rows or layout.offset or any(layout.strides[:along]):
            return False
        if self.ones not in (None, n):
            return False
        self.ones = n
        return True

    def _access(self, place: Place, dtype: str, strides: Any) -> Access:
        if dtype not in CTYPES:
            raise Untraceable(f"a formula reads an array of {dtype}")
        return Access(f"x{len(self.accesses)}", place, dtype, *strides)

    def _collapse(self, layouts: Sequence[Layout]) -> Any:
        space, axis = self.loop.space, self.loop.axis
        if axis is None:
            groups = _together(space, range(len(space)), layouts)
            groups = _fastest_last(space, groups, layouts)
            outer, inner = groups[:-1], groups[-1:]
        else:
            outer = _together(space, range(axis), layouts)
            after = _together(space, range(axis + 1, len(space)), layouts)
            outer, inner = outer + after[:-1], after[-1:]
        n_inner = math.prod(space[d] for group in inner for d in group)
        self.kind = "flat" if axis is None else "rows" if n_inner == 1 else "columns"
        self.dims = _Dims(
            tuple(math.prod(space[d] for d in group) for group in outer),
            1 if axis is None else space[axis],
            n_inner,
        )

        def order(layout: Layout) -> tuple[tuple[int, ...], int, int]:
            last = [_stride(layout, group) for group in inner]
            along = 0 if axis is None or space[axis] == 1 else layout.strides[axis]
            return tuple(_stride(layout, g) for g in outer), along, last[0] if last else 0

        return order

    # -- text

    def argument(self, what: Argument) -> str:
        self.arguments.append(what)
        return f"a[{len(self.arguments) - 1}]"

    def kernel(self) -> Kernel:
        dims, kind = self.dims, self.kind
        self.head = ["  const I *a = (const I *)w[2];"]
        for i, n in enumerate(dims.outer):
            self.head.append(f"  const I e{i} = {self.argument(n)};")
        if kind != "flat":
            self.head.append(f"  const I along = {self.argument(dims.axis)};")
        if kind != "rows":
            self.head.append(f"  const I n = {self.argument(dims.inner)};")
        for access in self.accesses.values():
            self._declare(access)
        self.top, self.outer = Scope(), Scope()
        body = {"flat": self._flat, "rows": self._rows, "columns": self._columns}[kind]()
        size = math.prod(dims.outer) * dims.axis * dims.inner
        heavy = _heavy(expression for _, expression in self.targets)
        text = "\n".join([*self.head, *(f"  {line}" for line in self.top.lines), body])
        finish = len(self.loop.sums) * math.prod(dims.outer) if self.loop.split else 0
        # about as many entries of one array that is read and one that is written
        work = size * (len(self.accesses) + 2 * heavy) // 2
        return Kernel(text, self.arguments, finish, work, self._along())

    def _along(self) -> tuple[int, ...]:
        """As of `Kernel`: arrays that it goes along, and how many entries are 1."""
        accesses = self.accesses.values()
        strides = {access.inner for access in accesses}
        if self.kind != "flat" or self.dims.outer or not strides <= {0, 1}:
            return ()
        found = [access.argument for access in accesses if access.inner]
        return (*found, *self.counted)

    def _declare(self, access: Access) -> None:
        """A pointer and its strides."""
        kind = CTYPES[access.dtype]
        const = "" if access.written else "const "
        at, access.argument = self.argument(access.place), len(self.arguments) - 1
        name = access.name
        self.head.append(f"  {const}{kind} *restrict {name} = ({const}{kind} *){at};")
        for i, stride in enumerate(access.outer):
            if stride:
                self.head.append(f"  const I {name}_{i} = {self.argument(stride)};")
        innermost = access.axis if self.kind == "rows" else access.inner
        if innermost not in (0, 1):
            self.head.append(f"  const I {name}_n = {self.argument(innermost)};")
        if self.kind == "columns" and access.axis:
            self.head.append(f"  const I {name}_r = {self.argument(access.axis)};")

    def _places(self) -> list[str]:
        """Where each array begins in an iteration of the outer loops."""
        dims = self.dims
        lines = []
        if len(dims.outer) == 1:
            lines.append("const I i0 = o;")
        else:
            left = "o"
            for i in reversed(range(1, len(dims.outer))):
                lines.append(f"const I i{i} = {left} % e{i}, o{i} = {left} / e{i};")
                left = f"o{i}"
            lines.append(f"const I i0 = {left};")
        for access in self.accesses.values():
            terms = [f"i{i} * {access.name}_{i}" for i, s in enumerate(access.outer) if s]
            if terms:
                const = "" if access.written else "const "
                kind = CTYPES[access.dtype]
                lines.append(
                    f"{const}{kind} *restrict p{access.name} = {access.name} + {' + '.join(terms)};"
                )
        return lines

    def _pointer(self, access: Access) -> str:
        return f"p{access.name}" if any(access.outer) else access.name

    def _entry(self, access: Access) -> str:
        """An array's entry in the innermost loop."""
        if self.kind == "flat":
            stride, at, pointer = access.inner, "i", self._pointer(access)
        elif self.kind == "rows":
            stride, at, pointer = access.axis, "i", self._pointer(access)
        else:
            stride, at, pointer = access.inner, "j", self._pointer(access)
            if access.axis:
                pointer = f"({pointer} + r * {access.name}_r)"
        if stride == 0:
            return f"{pointer}[0]" if access.axis == 0 or self.kind == "rows" else f"*{pointer}"
        return f"{pointer}[{at}]" if stride == 1 else f"{pointer}[{at} * {access.name}_n]"

    def mask(self, expression: Expression) -> int:
        """What a value changes along."""
        found = self.masks.get(id(expression))
        if found is None:
            found = self.masks[id(expression)] = self._mask(expression)
        return found

    def _mask(self, expression: Expression) -> int:
        if expression.op == "read":
            access = self.accesses.get(self.keys[id(expression)])
            if access is None:  # ones, and then zeros
                return AXIS if self.kind == "rows" else INNER
            return access.mask
        if expression.op == "sum":
            return OUTER | (INNER if self.kind == "columns" else 0)
        found = 0
        for arg in expression.args:
            found |= self.mask(arg)
        return found

    def write(self, expression: Expression, inner: Scope, row: Scope | None = None) -> str:
        """The name of an expression's value, computed as far out as it can be."""
        if id(expression) in self.beside:
            return self.beside[id(expression)]
        scopes = [known for known in (self.top, self.outer, row, inner) if known is not None]
        for known in scopes:
            if id(expression) in known.values:
                return known.values[id(expression)]
        if expression.op == "number":
            return self._number(expression)
        if expression.op == "sum":
            return self._sum(f"sum{self.sums[id(expression.node)]}")
        scope = self._scope(self.mask(expression), inner, row)
        if expression.op == "read":
            access = self.accesses.get(self.keys[id(expression)])
            if access is None:
                return self.half
            text = self._entry(access)
        else:
            args = [self.write(arg, inner, row) for arg in expression.args]
            if self.half:
                simpler = _simpler(expression.op, args)
                if simpler is not None:
                    return simpler
            text = _formula(expression, args)
        for known in scopes:
            if text in known.names:
                return known.names[text]
        name = f"v{self.count}"
        self.count += 1
        kind = "T" if expression.dtype == self.dtype else "I"
        if expression.dtype in ("bool", "uint16", "int32"):
            kind = "bool" if expression.dtype == "bool" else "int"
        scope.lines.append(f"const {kind} {name} = {text};")
        scope.names[text] = scope.values[id(expression)] = name
        return name

    def _sum(self, name: str) -> str:
        return f"{name}[j - from]" if self.kind == "columns" else name

    def _scope(self, mask: int, inner: Scope, row: Scope | None) -> Scope:
        """Where a value is computed that changes along this."""
        if mask == 0:
            return self.top
        if mask == OUTER:
            return self.outer
        return row if row is not None and not mask & INNER else inner

    def _number(self, expression: Expression) -> str:
        value, dtype = expression.value, expression.dtype
        if dtype == "bool":
            return "true" if value else "false"
        real = dtype == self.dtype
        if real and (value in INLINE or not math.isfinite(value)):
            return literal(value)
        key = (dtype, repr(value))
        if key not in self.constants:
            name = f"c{len(self.constants)}"
            if real:
                self.head.append(f"  const T {name} = {self._real(float(value))};")
            else:
                kind = "I" if dtype == "int64" else "int"
                self.head.append(f"  const {kind} {name} = ({kind}){self.argument(int(value))};")
            self.constants[key] = name
        return self.constants[key]

    def _real(self, value: float) -> str:
        """A number that is an argument."""
        return f"(T)*(const double *)&{self.argument(value)}"

    # -- the three ways

    def _around(self, lines: Sequence[str], parts: str) -> str:
        """Lines within the loop over the outer axes."""
        dims = self.dims
        if not dims.outer:
            return "\n".join(f"  {line}" for line in lines)
        total = " * ".join(f"e{i}" for i in range(len(dims.outer)))
        begin, end = ("FROM(all)", "UNTIL(all)") if parts == "outer" else ("0", "all")
        inside = "\n".join(f"    {line}" for line in lines)
        return f"  const I all = {total};\n  for (I o = {begin}; o < {end}; o++) {{\n{inside}\n  }}"

    def _flat(self) -> str:
        outer = bool(self.dims.outer) and math.prod(self.dims.outer) >= 8
        bounds = ("0", "n") if outer else ("FROM(n)", "UNTIL(n)")
        loops = list[str]()
        for half, begin, end in self._halves(*bounds):
            self.half, scope = half, Scope()
            ends = [self.write(expression, scope) for _, expression in self.targets]
            given = zip(self.outputs, ends, strict=True)
            lines = [*scope.lines, *(f"{self._entry(to)} = {name};" for to, name in given)]
            loops += _loop("i", begin, end, lines)
        places = self._places() if self.dims.outer else []
        lines = [*places, *self.outer.lines, *loops]
        return self._around(lines, "outer" if outer else "inner")

    def _halves(self, begin: str, end: str) -> list[tuple[str, str, str]]:
        """The innermost loop, in two where an array is 1 first and then 0."""
        if self.ones is None:
            return [("", begin, end)]
        n = self.argument(self.ones)
        self.counted = [len(self.arguments) - 1]
        self.head += [
            f"  const I ones = {n}, middle = ones < ({begin}) ? ({begin}) : "
            f"ones > ({end}) ? ({end}) : ones;"
        ]
        return [(literal(1), begin, "middle"), (literal(0), "middle", end)]

    def _passes(self) -> list[tuple[list[int], list[int]]]:
        """For each pass over the axis: the sums it makes, and the targets it writes."""
        sums: dict[int, list[int]] = {}
        ends: dict[int, list[int]] = {}
        for place, (target, expression) in enumerate(self.targets):
            if target.node.op == "reduce":
                sums.setdefault(self.level(expression), []).append(place)
            elif self._over_axis(target):
                ends.setdefault(self.due[place], []).append(place)
        last = max([*sums, *ends])
        return [(sums.get(k, []), ends.get(k, [])) for k in range(last + 1)]

    def _over_axis(self, target: Target) -> bool:
        """Whether a target has entries along the axis."""
        return target.node.op != "reduce" and target.node.size == math.prod(self.loop.space)

    def _reduced_targets(self, level: int) -> list[int]:
        """The targets without the axis that can be had after so many passes."""
        return [
            place
            for place, (target, _) in enumerate(self.targets)
            if target.node.op != "reduce"
            and not self._over_axis(target)
            and self.due[place] == level
        ]

    def _rows(self) -> str:
        split = self.loop.split
        lines = self._places() if self.dims.outer else []
        bounds = ("FROM(along)", "UNTIL(along)") if split else ("0", "along")
        halves = self._halves(*bounds)
        for number, (sums, ends) in enumerate(self._passes()):
            self.outer.lines = []
            begin, loops = list[str](), list[str]()
            for half, first, last in halves:
                self.half, scope = half, Scope()
                inside, begin, plain = list[str](), list[str](), list[str]()
                for place in sums:
                    target, expression = self.targets[place]
                    name, value = f"sum{self.sums[id(target.node)]}", self.write(expression, scope)
                    start, combine = REDUCTIONS[target.node.param[0]]
                    begin.append(f"T {name} = {start};")
                    if target.node.param[0] == "sum":
                        plain.append(name)
                        inside.append(f"{name} += {value};")
                    else:
                        inside.append(f"{name} = {combine.format(name, value)};")
                written = [
                    (self.outputs[place], self.write(self.targets[place][1], scope))
                    for place in ends
                ]
                inside += [f"{self._entry(access)} = {name};" for access, name in written]
                if inside:
                    reduced = plain if len(plain) == len(sums) else None
                    loops += _loop("i", first, last, [*scope.lines, *inside], reduced)
            lines += self.outer.lines + begin + loops
            self.outer.lines = []
            after = []
            for place in sums:
                name = f"sum{self.sums[id(self.targets[place][0].node)]}"
                after.append((place, name))
            after += [
                (place, self.write(self.targets[place][1], Scope()))
                for place in self._reduced_targets(number + 1)
            ]
            lines += self.outer.lines
            if not split:
                lines += [f"{self._entry(self.outputs[place])} = {name};" for place, name in after]
        if split:
            lines += self._partials()
        self.outer.lines = []
        few = split or not self.dims.outer
        if not self.dims.outer and not split:
            lines = ["if (part) return;", *lines]
        return self._around(lines, "inner" if few else "outer")

    def _partials(self) -> list[str]:
        """Each part leaves its sums; those of parts that are not there are nothing."""
        room, lines = self.argument("partial"), list[str]()
        outer = math.prod(self.dims.outer)
        at = "o" if self.dims.outer else "0"
        lines.append(f"T *partial = (T *){room};")
        for number, node in enumerate(self.loop.sums):
            start, _ = REDUCTIONS[node.param[0]]
            place = f"partial[({number * outer} + {at}) * {MOST_PARTS} + "
            lines.append(f"{place}part] = sum{number};")
            lines.append(
                f"if (part == 0) for (I i = parts; i < {MOST_PARTS}; i++) {place}i] = {start};"
            )
        return lines

    def _columns(self) -> str:
        outer = bool(self.dims.outer) and math.prod(self.dims.outer) >= 8
        arrays, lines = list[str](), list[str]()
        for number, (sums, ends) in enumerate(self._passes()):
            inner, row = Scope(), Scope()
            lines += self._beside(sums, ends, arrays)
            inside, begin = list[str](), list[str]()
            for place in sums:
                target, expression = self.targets[place]
                name = f"sum{self.sums[id(target.node)]}"
                value = self.write(expression, inner, row)
                start, combine = REDUCTIONS[target.node.param[0]]
                arrays.append(f"T {name}[{COLUMNS}];")
                begin.append(f"{name}[j - from] = {start};")
                inside.append(f"const T so{name} = {name}[j - from];")
                inside.append(f"{name}[j - from] = {combine.format(f'so{name}', value)};")
            written = [
                (self.outputs[place], self.write(self.targets[place][1], inner, row))
                for place in ends
            ]
            inside += [f"{self._entry(access)} = {name};" for access, name in written]
            if begin:
                lines += _over_columns(begin)
            if inside:
                lines.append("for (I r = 0; r < along; r++) {")
                lines += [f"  {line}" for line in row.lines]
                lines += [f"  {line}" for line in _over_columns([*inner.lines, *inside])]
                lines.append("}")
            column = Scope()
            after = []
            for place in sums:
                name = f"sum{self.sums[id(self.targets[place][0].node)]}[j - from]"
                after.append((place, name))
            after += [
                (place, self.write(self.targets[place][1], column))
                for place in self._reduced_targets(number + 1)
            ]
            if after:
                ends_here = [f"{self._entry(self.outputs[p])} = {name};" for p, name in after]
                lines += _over_columns([*column.lines, *ends_here])
        begin_at, end_at = ("0", "n") if outer else ("FROM(n)", "UNTIL(n)")
        block = [
            *(self._places() if self.dims.outer else []),
            *self.outer.lines,
            *arrays,
            f"for (I from = {begin_at}; from < {end_at}; from += {COLUMNS}) {{",
            f"  const I until = from + {COLUMNS} < {end_at} ? from + {COLUMNS} : {end_at};",
            *(f"  {line}" for line in lines),
            "}",
        ]
        return self._around(block, "outer" if outer else "inner")

    def _beside(self, sums: Sequence[int], ends: Sequence[int], arrays: list[str]) -> list[str]:
        """Compute what is the same along the axis and costs much once for each column."""
        column, found = Scope(), list[str]()
        for place in (*sums, *ends):
            for expression in _costly(self.targets[place][1]):
                mask = self.mask(expression)
                if mask & AXIS or not mask & INNER or id(expression) in self.beside:
                    continue
                name = self.write(expression, column)
                array = f"col{self.count}"
                self.count += 1
                arrays.append(f"T {array}[{COLUMNS}];")
                found.append(f"{array}[j - from] = {name};")
                self.beside[id(expression)] = f"{array}[j - from]"
        return _over_columns([*column.lines, *found]) if found else []


def first_ones(node: Node) -> int | None:
    """How many entries are 1 of an array of one axis in which only zeros follow; else None."""
    array = node.param
    if node.op != "value" or array.ndim != 1 or array.dtype.kind != "f" or array.size == 0:
        return None
    n = int(np.count_nonzero(array))
    return n if np.all(array[:n] == 1) else None


def _simpler(op: str, args: Sequence[str]) -> str | None:
    """What an operation with 1 or 0 comes to."""
    one, nothing = literal(1), literal(0)
    if op == "multiply" and nothing in args:
        return nothing
    if op == "multiply" and one in args:
        return args[0] if args[1] == one else args[1]
    if op in ("add", "subtract") and args[1] == nothing:
        return args[0]
    if op == "add" and args[0] == nothing:
        return args[1]
    return None


def _over_columns(lines: Iterable[str]) -> list[str]:
    return _loop("j", "from", "until", lines)


def _loop(
    index: str, begin: str, end: str, lines: Iterable[str], sums: Sequence[str] | None = ()
) -> list[str]:
    """The innermost loop, for the compiler to make vectors of.

    sums  variables that add up; None where there are others, which it makes no vectors of
    """
    also = f" reduction(+:{','.join(sums)})" if sums else ""
    return [
        *([] if sums is None else [f"#pragma omp simd{also}"]),
        f"for (I {index} = {begin}; {index} < {end}; {index}++) {{",
        *(f"  {line}" for line in lines),
        "}",
    ]


def _formula(expression: Expression, args: Sequence[str]) -> str:
    """What an operation is in C."""
    op, dtype = expression.op, expression.dtype
    if op == "where":
        return f"({args[0]} ? {args[1]} : {args[2]})"
    if op == "copy":
        return f"({args[0]})"
    if op == "cast":
        if dtype == "bool":
            return f"({args[0]} != 0)"
        if expression.args[0].dtype == "bool":  # compilers make vectors of a choice
            kind = "T" if dtype in ("float32", "float64") else "I"
            return f"({args[0]} ? ({kind})1 : ({kind})0)"
        return f"(T){args[0]}" if dtype in ("float32", "float64") else f"(I){args[0]}"
    pattern = FUNCTIONS.get(op) or QUESTIONS.get(op)
    if pattern is None:
        raise Untraceable(f"{op} has no text")
    return pattern.format(*args)


def _reads(expression: Expression) -> Iterable[Expression]:
    seen: set[int] = set()
    stack = [expression]
    while stack:
        top = stack.pop()
        if id(top) in seen:
            continue
        seen.add(id(top))
        if top.op == "read":
            yield top
        stack += top.args


def _costly(expression: Expression) -> Iterable[Expression]:
    """The outermost costly operations first."""
    stack, seen = [expression], set[int]()
    while stack:
        top = stack.pop()
        if id(top) in seen:
            continue
        seen.add(id(top))
        if top.op in HEAVY:
            yield top
        stack += top.args


def _heavy(expressions: Iterable[Expression]) -> int:
    """How many costly operations there are."""
    seen: set[int] = set()
    stack = list(expressions)
    count = 0
    while stack:
        top = stack.pop()
        if id(top) in seen:
            continue
        seen.add(id(top))
        count += top.op in HEAVY
        stack += top.args
    return count


def _together(space: Shape, dims: Iterable[int], layouts: Sequence[Layout]) -> list[list[int]]:
    """Neighbouring axes that all arrays go over as if they were one."""
    groups: list[list[int]] = []
    for dim in dims:
        if space[dim] == 1:
            continue
        if groups:
            last = groups[-1][-1]
            joint = all(
                layout.strides[last] == layout.strides[dim] * space[dim] for layout in layouts
            )
            if joint:
                groups[-1].append(dim)
                continue
        groups.append([dim])
    return groups


def _stride(layout: Layout, group: Sequence[int]) -> int:
    return layout.strides[group[-1]]


def _fastest_last(
    space: Shape, groups: list[list[int]], layouts: Sequence[Layout]
) -> list[list[int]]:
    """With the axis last along which most entries lie together, each counted once."""
    if len(groups) < 2:
        return groups
    sizes = [
        math.prod(n for n, step in zip(layout.shape, layout.strides, strict=True) if step != 0)
        for layout in layouts
    ]
    together = [
        sum(
            size for size, layout in zip(sizes, layouts, strict=True) if _stride(layout, group) == 1
        )
        for group in groups
    ]
    best = max(range(len(groups)), key=lambda i: (together[i], i))
    return [*groups[:best], *groups[best + 1 :], groups[best]]
