"""What a formula computed: a graph of array operations, each there once.

    input    an array that is given at every run
    value    an array that is given once, of whatever is the same in all runs
    number   one number, in any shape
    map      an elementwise operation of arguments that broadcast; a name of `tracing`'s tables
    reduce   "sum", "max" or "min" along one axis, kept as length 1
    product  a matrix product over the last two axes
    view     another shape or part of the same entries: a step of `layout`
    join     pieces laid into one array: along an axis, one after the other
    call     a NumPy function of whole arrays, run as it is
    item     one of the results of a call

There is no control flow: a loop of a formula is in the graph as often as it ran.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from ..fast.tracing import QUESTIONS, Recorded, Untraceable, give_operators
from .layout import Layout, Shape, Step, applied, normal, packed

REAL = ("float32", "float64")
NAMES = (*REAL, "bool", "int64", "int32", "uint16", "uint8", "int8", "int16", "uint32", "uint64")
DTYPES = {name: np.dtype(name) for name in NAMES}
LARGEST = 1 << 16  # entries of a value that is told from others by what is in it


class Node(Recorded):
    """An array of the graph. Formulas compute with it as with an array."""

    __slots__ = ("args", "dtype", "graph", "kind", "number", "op", "param", "shape")
    device = "cpu"

    def __init__(
        self, graph: Graph, op: str, args: tuple[Node, ...], shape: Shape, dtype: str, param: Any
    ) -> None:
        self.graph, self.op, self.args = graph, op, args
        self.shape, self.dtype, self.param = shape, DTYPES[dtype], param
        self.kind = dtype  # its name, which takes NumPy a microsecond
        self.number = len(graph.nodes)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __repr__(self) -> str:
        below = ", ".join(f"%{arg.number}" for arg in self.args)
        what = "" if self.param is None or self.op == "value" else f" {self.param}"
        return f"%{self.number} = {self.op}{what}({below}) {self.dtype}{list(self.shape)}"

    def __bool__(self) -> NoReturn:
        raise Untraceable("a formula branches on a value")

    def __iter__(self) -> NoReturn:
        raise Untraceable("a formula iterates over a value")

    def __float__(self) -> NoReturn:
        raise Untraceable("a formula reads a value")

    __index__ = __int__ = __float__

    def __getitem__(self, key: Any) -> Node:
        try:
            return self.graph.view(self, ("index", normal(key, self.shape)))
        except TypeError as error:
            raise Untraceable(f"a formula indexes by {error}") from None

    def __neg__(self) -> Node:
        return self.graph.map("negative", self)

    def __pos__(self) -> Node:
        return self

    def __abs__(self) -> Node:
        return self.graph.map("abs", self)

    def __invert__(self) -> Node:
        return self.graph.map("logical_not", self)

    def __matmul__(self, other: Node) -> Node:
        return self.graph.product(self, other)

    @property
    def T(self) -> Node:
        return self.graph.turned(self)

    mT = T


def _operation(name: str, left: Any, right: Any) -> Node:
    return (left if isinstance(left, Node) else right).graph.map(name, left, right)


give_operators(Node, _operation)
Node.__hash__ = object.__hash__  # type: ignore[method-assign]  # `==` is an operation


class Graph:
    """All nodes of one trace. An operation on the same arguments is the same node.

    dtype  of the program's real numbers: "float32" or "float64"
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.nodes: list[Node] = []
        self._known: dict[Any, Node] = {}
        self._last: Node | None = None  # of `opaque`

    def _node(
        self,
        op: str,
        args: tuple[Node, ...],
        shape: Shape,
        dtype: str,
        param: Any = None,
        key: Any = None,
    ) -> Node:
        known = (op, tuple(map(id, args)), shape, dtype, key or param)
        found = self._known.get(known)
        if found is None:
            found = Node(self, op, args, tuple(shape), dtype, param)
            self._known[known] = found
            self.nodes.append(found)
        return found

    # -- leaves

    def input(self, name: str, shape: Shape, dtype: Any = None) -> Node:
        kind = _name(dtype, self.dtype)
        if kind not in DTYPES:
            raise Untraceable(f"an array of {kind}")
        return self._node("input", (), tuple(shape), kind, name)

    def value(self, array: npt.NDArray[Any]) -> Node:
        """An array that stays as it is."""
        array = np.asarray(array)
        if array.dtype.kind == "f" and str(array.dtype) != self.dtype:
            raise Untraceable(f"an array of {array.dtype} in a formula of {self.dtype}")
        key: Any = id(array)
        if array.size <= LARGEST:
            key = (array.tobytes(), str(array.dtype))
        return self._node("value", (), array.shape, str(array.dtype), array, key)

    def constant(self, number: Any, shape: Shape = (), dtype: Any = None) -> Node:
        dtype = _name(dtype, self.dtype)
        if dtype not in REAL:
            number = bool(number) if dtype == "bool" else int(number)
        return self._node("number", (), tuple(shape), dtype, number, (repr(number), "number"))

    def lifted(self, argument: Any, like: Any) -> Node:
        """An argument of an operation: a node, an array, or a number in the dtype of the rest."""
        if isinstance(argument, Node):
            return argument
        if isinstance(argument, np.ndarray | np.generic) and np.ndim(argument) > 0:
            return self.value(np.asarray(argument))
        if isinstance(argument, bool | np.bool):
            return self.constant(bool(argument), (), "bool")
        if isinstance(argument, int | float | np.number):
            if like not in REAL and not isinstance(argument, int | np.integer):
                raise Untraceable(f"a formula takes {argument} beside an array of {like}")
            return self.constant(float(argument) if like in REAL else argument, (), like)
        raise Untraceable(f"a formula takes a {type(argument).__name__} beside its arrays")

    # -- elementwise

    def map(self, name: str, *given: Any) -> Node:
        """FUNCTIONS or QUESTIONS of `tracing`, "where", or "cast" (see there)."""
        kinds = [
            a.kind if isinstance(a, Node) else str(a.dtype)
            for a in given
            if isinstance(a, Node | np.ndarray)
        ]
        like = next((kind for kind in kinds if kind != "bool"), self.dtype)
        args = [self.lifted(argument, like) for argument in given]
        return self._map(name, args)

    def _map(self, name: str, args: list[Node]) -> Node:
        shape = np.broadcast_shapes(*(arg.shape for arg in args))
        real = [arg.kind for arg in args if arg.kind != "bool"]
        if name in ("logical_and", "logical_or", "logical_not"):
            if real:
                raise Untraceable(f"{name} of numbers")
            dtype = "bool"
        elif name == "where":
            dtype = self._one(name, args[1:])
            if args[0].kind != "bool":
                raise Untraceable("where of numbers")
        else:
            dtype = self._one(name, args)
            if name in QUESTIONS:
                dtype = "bool"
            elif dtype == "bool":
                raise Untraceable(f"{name} of truth values")
            elif dtype not in REAL and not (name in WHOLE and dtype in WIDE):
                raise Untraceable(f"{name} of {dtype}")
        simpler = self._simpler(name, args, tuple(shape))
        if simpler is not None:
            return simpler
        if name == "pow":
            exponent = args[1]
            small = exponent.op == "number" and exponent.param in (1, 2, 3, 4)
            if small and args[0].shape == shape:
                found = args[0]
                for _ in range(int(exponent.param) - 1):
                    found = self.map("multiply", found, args[0])
                return found
        return self._node("map", tuple(args), tuple(shape), dtype, name)

    def _one(self, name: str, args: Sequence[Node]) -> str:
        found = {arg.kind for arg in args}
        if len(found) != 1:
            raise Untraceable(f"{name} of {' and '.join(sorted(found))}")
        return found.pop()

    def _simpler(self, name: str, args: Sequence[Node], shape: Shape) -> Node | None:
        """What costs nothing: x · 1, x + 0, x - 0, x / 1, and operations on numbers."""
        if all(arg.op == "number" for arg in args) and name in FOLDED:
            found = FOLDED[name](*(np.asarray(arg.param, arg.dtype) for arg in args))
            return self.constant(found.item(), shape, found.dtype)
        if name in ("multiply", "add", "subtract", "divide") and len(args) == 2:
            nothing = 1 if name in ("multiply", "divide") else 0
            a, b = args
            if b.op == "number" and b.param == nothing and a.shape == shape:
                return a
            commutes = name in ("multiply", "add")
            if commutes and a.op == "number" and a.param == nothing and b.shape == shape:
                return b
        return None

    def cast(self, x: Node, dtype: Any) -> Node:
        dtype = _name(dtype, self.dtype)
        if x.kind == dtype:
            return x
        if x.op == "number":
            return self.constant(x.param, x.shape, dtype)
        if dtype not in (self.dtype, "int64", "bool"):
            raise Untraceable(f"astype to {dtype}")
        return self._node("map", (x,), x.shape, dtype, "cast")

    def copied(self, x: Node) -> Node:
        """The same entries, in memory of their own."""
        return self._node("map", (x,), x.shape, x.kind, "copy")

    def again(self, node: Node, args: tuple[Node, ...]) -> Node:
        """The same operation of other arguments, of the same shapes."""
        return self._node(node.op, args, node.shape, node.kind, node.param)

    # -- the others

    def reduce(self, name: str, x: Node, axis: int, keepdims: bool) -> Node:
        if x.kind != self.dtype:
            raise Untraceable(f"{name} of {x.dtype}")
        axis = axis % x.ndim
        shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        found = x
        if x.shape[axis] != 1:
            found = self._node("reduce", (x,), shape, x.kind, (name, axis))
        if keepdims:
            return found
        return self.view(found, ("reshape", (*x.shape[:axis], *x.shape[axis + 1 :])))

    def product(self, A: Node, B: Node) -> Node:
        if A.ndim < 2 or B.ndim < 2 or A.shape[-1] != B.shape[-2]:
            raise Untraceable(f"a product of {A.shape} and {B.shape}")
        lead = np.broadcast_shapes(A.shape[:-2], B.shape[:-2])
        if A.kind != self.dtype or B.kind != self.dtype:
            raise Untraceable(f"a product of {A.dtype} and {B.dtype}")
        return self._node("product", (A, B), (*lead, A.shape[-2], B.shape[-1]), A.kind)

    def view(self, x: Node, step: Step) -> Node:
        layout = applied(step, packed(x.shape))
        assert layout is not None  # an array in the usual order takes any shape
        shape = layout.shape
        if x.op == "number":
            return self.constant(x.param, shape, x.kind)
        if shape == x.shape and layout.whole:
            return x
        if step[0] != "permute" and layout.whole and layout.size == x.size:
            step = ("reshape", shape)  # a new axis
        if step[0] == "reshape" and x.op == "view" and x.param[0] == "reshape":
            return self.view(x.args[0], step)
        return self._node("view", (x,), shape, x.kind, step)

    def turned(self, x: Node) -> Node:
        """The last two axes exchanged."""
        axes = (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
        return self.view(x, ("permute", axes))

    def join(self, parts: Sequence[Node], axis: int) -> Node:
        """One after the other along an axis."""
        axis = axis % parts[0].ndim
        parts = [part for part in parts if part.shape[axis] > 0] or list(parts[:1])
        if len(parts) == 1:
            return parts[0]
        if len({part.kind for part in parts}) != 1:
            raise Untraceable("arrays of several dtypes are joined")
        lead = [(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts]
        if len(set(lead)) != 1:
            raise Untraceable(f"arrays of {lead} are joined")
        n = sum(part.shape[axis] for part in parts)
        shape = (*parts[0].shape[:axis], n, *parts[0].shape[axis + 1 :])
        return self._node("join", tuple(parts), shape, parts[0].kind, axis)

    def call(self, function: Callable[..., Any], args: Sequence[Any], options: Any) -> Any:
        """A NumPy function as it is. Shapes are found by calling it once, on zeros."""
        nodes = tuple(arg for arg in args if isinstance(arg, Node))

        def run(*arrays: Any) -> Any:
            given = iter(arrays)
            return function(*(next(given) if isinstance(a, Node) else a for a in args), **options)

        try:
            found = run(*(np.zeros(node.shape, node.dtype) for node in nodes))
        except Exception as error:
            raise Untraceable(f"a formula calls {function!r}: {error}") from error
        if not isinstance(found, np.ndarray | np.generic):
            raise Untraceable(f"{function!r} gives a {type(found).__name__}")
        found = np.asarray(found)
        plain = [_told(a) if not isinstance(a, Node) else None for a in args]
        told = [(name, _told(option)) for name, option in options.items()]
        key = (getattr(function, "__name__", repr(function)), *plain, *told)
        return self._node("call", nodes, found.shape, str(found.dtype), run, key)

    def opaque(self, function: Callable[[Any], Any], x: Node) -> Node:
        """A function of a whole array that gives one like it and does something beside.

        It is not called before the program runs, and then in the order of the trace.
        """
        before = () if self._last is None else (self._last,)
        self._last = self._node("call", (x, *before), x.shape, x.kind, Opaque(function), function)
        return self._last


class Opaque(NamedTuple):
    """What an opaque node calls, whatever it comes after."""

    function: Callable[[Any], Any]

    def __call__(self, x: Any, *_: Any) -> Any:
        return self.function(x)


def _told(argument: Any) -> Any:
    """What tells an argument of a call from others: of a long array NumPy shows the ends alone."""
    if isinstance(argument, np.ndarray):
        return argument.shape, str(argument.dtype), argument.tobytes()
    return repr(argument)


def _name(dtype: Any, usual: str) -> str:
    """A dtype's name."""
    if dtype is None:
        return usual
    return dtype if isinstance(dtype, str) else str(np.dtype(dtype))


# what is done with numbers at once
FOLDED: dict[str, Callable[..., Any]] = {
    name: getattr(np, name) for name in ("negative", "add", "subtract", "multiply", "divide")
}
# maps of whole numbers: of those that do not overflow where C goes on
WHOLE, WIDE = {"add", "subtract", "multiply", "negative", "abs"}, ("int64", "int32")


def live(roots: Sequence[Node]) -> list[Node]:
    """All that the roots need, each after what it needs itself."""
    seen: set[int] = set()
    order: list[Node] = []
    stack: list[tuple[Node, Iterator[Node]]] = []
    for root in roots:
        if id(root) not in seen:
            seen.add(id(root))
            stack.append((root, iter(root.args)))
        while stack:
            node, below = stack[-1]
            for arg in below:
                if id(arg) not in seen:
                    seen.add(id(arg))
                    stack.append((arg, iter(arg.args)))
                    break
            else:
                order.append(node)
                stack.pop()
    return order


def base(node: Node) -> tuple[Node, tuple[Step, ...]]:
    """What a view is of, and the steps from there to it."""
    steps: list[Step] = []
    while node.op == "view":
        steps.append(node.param)
        node = node.args[0]
    return node, tuple(reversed(steps))


def seen_through(steps: Sequence[Step], layout: Layout) -> Layout | None:
    """The layout after all steps; None where one of them needs a copy."""
    found: Layout | None = layout
    for step in steps:
        if found is None:
            return None
        found = applied(step, found)
    return found
