"""A program as people read it: its groups in order, with their formulas and what they move.

    1  product  t1[100, 32] = W1[100, 784] @ rows.T[784, 32]    5.02 Mflop
       reads W1 313.6 kB, rows 100.4 kB; writes t1 12.8 kB
    2  loop over [100, 32]
       t2[100, 32] = maximum(t1 + b1, 0)

x' is what x becomes, [a > b] is 1 where that holds and 0 elsewhere, and names u1, u2 … stand for
what several formulas of a loop have in common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..architecture import Architecture
from .graph import Node
from .items import Call, Expression, Item, Loop, Place, Product
from .layout import Layout, packed
from .program import Program

if TYPE_CHECKING:
    from .cuda_program import CudaProgram

# operators, and how tightly they bind
INFIX = {
    "logical_or": ("or", 1),
    "logical_and": ("and", 2),
    **{"greater": (">", 4), "greater_equal": (">=", 4), "less": ("<", 4), "less_equal": ("<=", 4)},
    **{"equal": ("==", 4), "not_equal": ("!=", 4)},
    **{"add": ("+", 6), "subtract": ("-", 6), "multiply": ("*", 7), "divide": ("/", 7)},
}
ATOM = 10
LEAST = 2  # operations in what is given a name of its own where it is needed twice


class Part(NamedTuple):
    """A named piece of a flat vector: entries start … stop along its last axis, of a shape."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Group:
    """One item of a program.

    kind      "product", "loop" or "call"
    space     of the loop, or of what is written
    formulas  a line each
    reads     bytes, by name
    writes    bytes, by name
    flops     of a product
    launches  on CUDA: what it is there, in words
    """

    kind: str
    space: tuple[int, ...]
    formulas: tuple[str, ...]
    reads: Mapping[str, int]
    writes: Mapping[str, int]
    flops: int = 0
    launches: tuple[str, ...] = ()


class Launched(NamedTuple):
    """A launch of a program on CUDA.

    name     of the kernel, or of cuBLAS's function
    does     what it computes, in the notation; "" where a group's formulas say so
    blocks   and threads of each; 0 of cuBLAS's
    arrays   bytes of those that it is given, by name
    flops    of a product of cuBLAS
    """

    name: str
    does: str
    blocks: int
    threads: int
    arrays: Mapping[str, int]
    flops: int


@dataclass(frozen=True)
class Explanation:
    """What a program does, and what that takes.

    target    "C", "NumPy" or "CUDA"
    groups    in order; none of a step whose kernels were written by hand
    calls     of kernels, of a BLAS and of NumPy's functions, a run; on CUDA launches
    given     bytes of the arrays that are given, by name
    buffers   bytes of those that the program makes, by name
    memory    bytes in which these lie, together with what the loops need
    networks  each with such a program of its own: then all numbers are of one of them
    launches  on CUDA, in order
    notes     what else is to be known, a sentence each
    """

    target: str
    groups: tuple[Group, ...]
    calls: int
    given: Mapping[str, int]
    buffers: Mapping[str, int]
    memory: int
    networks: int = 1
    launches: tuple[Launched, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """In products; of kernels written by hand, in those of cuBLAS alone."""
        return sum(part.flops for part in self.groups or self.launches)

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return sum(sum(group.reads.values()) + sum(group.writes.values()) for group in self.groups)

    def __str__(self) -> str:
        lines: list[str] = []
        for number, group in enumerate(self.groups, 1):
            lines += _said(number, group)
        if not self.groups:
            for number, launch in enumerate(self.launches, 1):
                lines += _launched(number, launch)
        lines.append("")
        if self.networks > 1:
            lines.append(
                f"{self.networks} networks, each with such a program of its own, which a thread "
                "takes from beginning to end; of one of them:"
            )
        lines += [*self._counted(), *self.notes]
        return "\n".join(lines)

    def _counted(self) -> list[str]:
        """What all groups or launches come to."""
        cuda, lines = self.target == "CUDA", []
        kinds = [group.kind for group in self.groups]
        if kinds:
            counts = ", ".join(
                _count(kinds.count(kind), kind)
                for kind in ("product", "loop", "call")
                if kind in kinds
            )
            lines.append(f"{_count(len(kinds), 'group')}: {counts}")
        if cuda:
            names = Counter(launch.name for launch in self.launches)
            each = [name if n == 1 else f"{n} {name}" for name, n in names.items()]
            lines.append(f"{_count(self.calls, 'launch')} a step: {', '.join(each)}")
        else:
            whose = "NumPy" if self.target == "NumPy" else "kernels and products"
            lines.append(f"{_count(self.calls, 'call')} a run, of {whose}")
        if kinds:
            lines.append(f"{_flops(self.flops)} in products, {_bytes(self.moved)} read and written")
        elif self.flops:
            lines.append(f"{_flops(self.flops)} in products of cuBLAS")
        return [
            *lines,
            f"given: {_sizes(self.given)}",
            f"buffers: {_count(len(self.buffers), 'array')} of {_bytes(sum(self.buffers.values()))}"
            f" in {_bytes(self.memory)} of memory",
        ]

    def document(self) -> dict[str, Any]:
        """The same as JSON has it."""
        groups = [
            {
                "kind": group.kind,
                "space": list(group.space),
                "formulas": list(group.formulas),
                "reads": dict(group.reads),
                "writes": dict(group.writes),
                "flops": group.flops,
                "launches": list(group.launches),
            }
            for group in self.groups
        ]
        return {
            "target": self.target,
            "groups": groups,
            "calls": self.calls,
            "flops": self.flops,
            "bytes_moved": self.moved,
            "given": dict(self.given),
            "buffers": dict(self.buffers),
            "memory": self.memory,
            "networks": self.networks,
            "launches": [
                {**launch._asdict(), "arrays": dict(launch.arrays)} for launch in self.launches
            ],
            "notes": list(self.notes),
        }


def explain(
    program: Program | CudaProgram,
    parts: Mapping[Node, Sequence[Part]] | None = None,
    names: Mapping[Node, str] | None = None,
) -> Explanation:
    """What a program does.

    parts  names of the pieces of arrays
    names  of nodes; an input has its own
    """
    called = _Names(parts or {}, names or {})
    groups = tuple(_group(program, item, called) for item in program.fusion.items)
    given = {called.of(node): array.nbytes for node, array in program.given.items()}
    owners = sorted(program.plan.starts, key=lambda node: program.plan.starts[node])
    buffers = {called.of(node): node.size * node.dtype.itemsize for node in owners}
    calls, memory = program.n_calls, program.plan.n_bytes
    return Explanation(program.target, groups, calls, given, buffers, memory)


def named(
    program: Program | CudaProgram, network: Architecture
) -> tuple[dict[Node, list[Part]], dict[Node, str]]:
    """The names of a step's arrays and of their pieces, as `explain` takes them."""
    slots = [Part(slot.name, slot.start, slot.stop, slot.shape) for slot in network.slots]
    theta = next(node for node in program.given if node.param == "theta")
    parts = {theta: slots}
    names: dict[Node, str] = {program.fusion.wanted[-1]: "J"}
    for node in program.fusion.order:
        if node.op == "join" and node.shape == theta.shape:
            parts[node] = [slot._replace(name=f"d{slot.name}") for slot in slots]
            names[node] = "gradient"
    return parts, names


# -- names


class _Names:
    """What arrays are called: an input as it is, all else t1, t2 … as it comes."""

    def __init__(self, parts: Mapping[Node, Sequence[Part]], names: Mapping[Node, str]) -> None:
        self.parts, self.names, self.count = parts, dict(names), {"t": 0, "c": 0}

    def of(self, node: Node) -> str:
        if node not in self.names:
            if node.op == "input":
                self.names[node] = str(node.param)
            else:
                letter = "c" if node.op == "value" else "t"
                self.count[letter] += 1
                self.names[node] = f"{letter}{self.count[letter]}"
        return self.names[node]

    def piece(self, place: Place) -> str:
        """The name of a view of an array, without what is repeated."""
        layout, owner = _narrow(place.layout), place.owner
        low, high = _extent(layout)
        if layout.size == owner.size:
            return self.of(owner) + _turned(layout)
        n = owner.shape[-1] if owner.shape else 1
        for part in self.parts.get(owner, ()):
            k = layout.size // max(1, part.stop - part.start)
            whole = k * (part.stop - part.start) == layout.size and k in (1, owner.size // n)
            if part.start == low % n and whole:
                return part.name + _turned(layout)
            if n == owner.size and part.start <= low <= high < part.stop:
                inside = layout._replace(offset=layout.offset - part.start)
                key = _key(inside, part.shape or (part.stop - part.start,))
                if key is not None:
                    return f"{part.name}[{key}]" + _turned(layout)
        key = _key(layout, owner.shape) or f"{low}:{high + 1}"
        return f"{self.of(owner)}[{key}]" + _turned(layout)


def _key(layout: Layout, shape: Sequence[int]) -> str | None:
    """A view's entries as NumPy's indices of an array of this shape; None where none are."""
    strides = packed(tuple(shape)).strides
    starts, left = [], layout.offset
    for n, stride in zip(shape, strides, strict=True):
        starts.append(left // stride if n > 1 else 0)
        left -= starts[-1] * stride
    found = [":" if n == 1 else str(start) for n, start in zip(shape, starts, strict=True)]
    used: set[int] = set()
    for n, stride in zip(layout.shape, layout.strides, strict=True):
        if n == 1:
            continue
        axes = [i for i, s in enumerate(strides) if s and s <= abs(stride) and stride % s == 0]
        if not axes:
            return None
        axis = axes[0]
        step, rest = stride // strides[axis], n
        while step == 1 and rest > shape[axis] and rest % shape[axis] == 0 and axis > 0:
            found[axis], rest = ":", rest // shape[axis]  # several axes in one
            used.add(axis)
            axis -= 1
        last = starts[axis] + (rest - 1) * step
        if axis in used or not 0 <= last < shape[axis]:
            return None
        used.add(axis)
        every = "" if step == 1 else f":{step}"
        stop = last + 1 if step > 0 else last - 1
        found[axis] = f"{starts[axis]}:{stop if stop >= 0 else ''}{every}"
        if rest == shape[axis] and step == 1:
            found[axis] = ":"
    return ", ".join(found)


def _narrow(layout: Layout) -> Layout:
    """With length 1 along the axes on which nothing changes."""
    pairs = zip(layout.shape, layout.strides, strict=True)
    return layout._replace(shape=tuple(1 if stride == 0 and n else n for n, stride in pairs))


def _extent(layout: Layout) -> tuple[int, int]:
    low = high = layout.offset
    for n, stride in zip(layout.shape, layout.strides, strict=True):
        low, high = low + min(0, (n - 1) * stride), high + max(0, (n - 1) * stride)
    return low, high


def _turned(layout: Layout) -> str:
    """Whether the last two axes are exchanged."""
    if len(layout.shape) < 2 or min(layout.shape[-2:]) == 1:
        return ""
    down, along = layout.strides[-2:]
    return ".T" if abs(down) < abs(along) else ""


# -- groups


def _group(program: Program | CudaProgram, item: Item, names: _Names) -> Group:
    fusion = program.fusion
    if isinstance(item, Loop):
        return _loop(program, item, names)
    out = fusion.place(item.node)
    reads = [(names.piece(place), place) for place in item.operands]
    written = names.piece(out)
    shape = out.layout.shape
    shown = [f"{name}{_shape(place.layout.shape)}" for name, place in reads]
    if isinstance(item, Product):
        if item.windows is not None:
            turned = "ᵀ" if item.windows.turned else ""
            shown[1] = f"{len(item.windows.layouts)} windows{turned} of {shown[1]}"
        formula = f"{written}{_shape(shape)} = {shown[0]} @ {shown[1]}"
        flops = 2 * out.layout.size * item.operands[0].layout.shape[-1]
        kind = "product"
    else:
        formula = f"{written}{_shape(shape)} = {_function(item)}({', '.join(shown)})"
        kind, flops = "call", 0
    moved = {name.removesuffix(".T"): _size(place) for name, place in reads}
    return Group(kind, shape, (formula,), moved, {written: _size(out)}, flops)


def _function(item: Call) -> str:
    function = item.node.param
    for cell in getattr(function, "__closure__", None) or ():
        name = getattr(cell.cell_contents, "__name__", "")
        if callable(cell.cell_contents) and name:
            return str(name)
    return "function"


def _loop(program: Program | CudaProgram, loop: Loop, names: _Names) -> Group:
    text = _Text(program, loop, names)
    reads = {names.piece(place).removesuffix(".T"): _size(place) for place in text.reads()}
    writes = {text.name(target): _size(target.place) for target in loop.writes}
    return Group("loop", loop.space, tuple(text.lines()), reads, writes)


@dataclass
class _Text:
    """The formulas of a loop."""

    program: Program | CudaProgram
    loop: Loop
    names: _Names
    known: dict[int, str] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        shared: dict[Any, Expression] = {}
        fusion = self.program.fusion
        self.targets = [(t, fusion.expression(self.loop, t, shared)) for t in self.loop.writes]
        self.kept = shared
        self.sums = {t.node: (t, e) for t, e in self.targets if t.node.op == "reduce"}
        self.maps = {id(e): t for t, e in self.targets if t.node.op != "reduce" and e.args}
        self.uses: dict[int, int] = {}
        seen: set[int] = set()
        stack = [e for _, e in self.targets]
        for _, expression in self.targets:
            self.uses[id(expression)] = self.uses.get(id(expression), 0) + 1
        while stack:
            top = stack.pop()
            if id(top) in seen:
                continue
            seen.add(id(top))
            for arg in top.args:
                self.uses[id(arg)] = self.uses.get(id(arg), 0) + 1
                stack.append(arg)

    def reads(self) -> Iterator[Place]:
        for expression in self.kept.values():
            if expression.place is not None:
                yield expression.place

    def name(self, target: Any) -> str:
        """What a target is called: an input's new value with a prime."""
        piece = self.names.piece(target.place)
        return f"{piece}'" if target.place.owner.op == "input" else piece

    def lines(self) -> list[str]:
        self.found: list[str] = []
        self.done: set[Any] = set()
        for target, expression in self.targets:
            self._define(target, expression)
        return self.found

    def _define(self, target: Any, expression: Expression) -> None:
        if target in self.done:
            return
        self.done.add(target)
        name = self.name(target)
        if "[" not in name:
            name += _shape(target.node.shape)
        if target.node.op == "reduce":
            how, axis = target.node.param
            if self.loop.axis is not None and target.node.args[0].shape != self.loop.space:
                axis = self.loop.axis
            self.found.append(f"{name} = {how}({self._write(expression)[0]}, axis={axis})")
            return
        known = self.known.get(id(expression))
        if known is not None:
            self.found.append(f"{name} = {known}")
            return
        text, _ = self._body(expression)
        self.known[id(expression)] = self.name(target)
        self.found.append(f"{name} = {text}")

    def _write(self, expression: Expression) -> tuple[str, int]:
        """The text of a value, and how tightly it holds together."""
        if id(expression) in self.known:
            return self.known[id(expression)], ATOM
        target = self.maps.get(id(expression))
        if target is not None and target not in self.done:
            self._define(target, expression)
            return self.known[id(expression)], ATOM
        if expression.op == "sum":
            assert expression.node is not None
            of, value = self.sums[expression.node]
            self._define(of, value)
            return self.name(of), ATOM
        if self.uses.get(id(expression), 0) > 1 and _operations(expression) >= LEAST:
            text, _ = self._body(expression)
            self.count += 1
            self.known[id(expression)] = f"u{self.count}"
            self.found.append(f"u{self.count} = {text}")
            return f"u{self.count}", ATOM
        return self._body(expression)

    def _body(self, expression: Expression) -> tuple[str, int]:
        op = expression.op
        if op == "number":
            text = _number(expression)
            return text, 8 if text.startswith("-") else ATOM
        if op == "read":
            assert expression.place is not None
            return self.names.piece(expression.place), ATOM
        if op == "sum":
            return self._write(expression)
        args = [self._write(arg) for arg in expression.args]
        if op == "copy":
            return args[0]
        if op in INFIX:
            sign, tight = INFIX[op]
            left = _held(args[0], tight)
            again = (
                op in ("add", "multiply", "logical_and", "logical_or")
                and expression.args[1].op == op
            )
            right = _held(args[1], tight + (not again))
            return f"{left} {sign} {right}", tight
        if op == "negative":
            return f"-{_held(args[0], 8)}", 8
        if op == "logical_not":
            return f"not {_held(args[0], 3)}", 3
        if op == "square":
            return f"{_held(args[0], ATOM)}**2", 9
        if op == "cast":
            if expression.args[0].dtype == "bool":
                return f"[{args[0][0]}]", ATOM
            return f"{expression.dtype}({args[0][0]})", ATOM
        return f"{op}({', '.join(text for text, _ in args)})", ATOM


def _held(written: tuple[str, int], tight: int) -> str:
    text, own = written
    return text if own >= tight else f"({text})"


def _operations(expression: Expression) -> int:
    return sum(_operations(arg) for arg in expression.args) + bool(expression.args)


def _number(expression: Expression) -> str:
    value = expression.value
    if expression.dtype in ("float32", "float64"):
        return f"{float(np.dtype(expression.dtype).type(value)):.7g}"
    return str(value)


# -- text


def _said(number: int, group: Group) -> list[str]:
    lead = f"{number:3}  "
    reads, writes = _sizes(group.reads) or "nothing", _sizes(group.writes)
    if group.kind == "loop":
        first = f"loop over {_shape(group.space) or 'one entry'}"
        rest = [f"  {line}" for line in group.formulas]
    else:
        first = f"{group.kind}  {group.formulas[0]}"
        first += f"  {_flops(group.flops)}" if group.flops else ""
        rest = []
    rest.append(f"reads {reads}; writes {writes}")
    rest += [f"launches {', '.join(group.launches)}"] if group.launches else []
    return [lead + first, *(f"     {line}" for line in rest)]


def _launched(number: int, launch: Launched) -> list[str]:
    first = f"{number:3}  {launch.name}"
    if launch.flops:
        first += f"  {_flops(launch.flops)}"
    if launch.blocks:
        first += f"  {in_blocks(launch)}"
    lines = [f"  {launch.does}"] if launch.does else []
    lines += [f"of {_sizes(launch.arrays)}"] if launch.arrays else []
    return [first, *(f"     {line}" for line in lines)]


def in_blocks(launch: Launched) -> str:
    """By how many threads a launch is done."""
    return f"{_count(launch.blocks, 'block')} of {launch.threads} threads"


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]" if shape else ""


def _size(place: Place) -> int:
    return _narrow(place.layout).size * place.owner.dtype.itemsize


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {_bytes(n)}" for name, n in sizes.items())


def _scaled(n: float, unit: str) -> str:
    for prefix in ("", "k", "M"):
        if n < 999.95:
            return f"{n:.4g} {prefix}{unit}"
        n /= 1000
    return f"{n:.4g} G{unit}"


def _bytes(n: float) -> str:
    return _scaled(n, "B")


def _flops(n: float) -> str:
    return _scaled(n, "flop")


def _count(n: int, what: str) -> str:
    plural = "es" if what.endswith("ch") else "s"
    return f"{n} {what}" + ("" if n == 1 else plural)


__all__ = ["Explanation", "Group", "Part", "explain", "named"]
