"""Formulas to expressions of CUDA and C: activations, losses, optimisers become kernels unedited.

A formula `f(xp, Z)` is called once with a `Tracer` for xp and `Value`s for its arrays. What
it computes is recorded as a graph of elementwise operations and of reductions over the
units (axis -2), and written as statements that are the same in CUDA and in C. Whatever
cannot be recorded raises `Untraceable`, and the caller computes with the formula itself.

Numbers beside arrays take the arrays' dtype, as in the array API; maximum and minimum hand
NaN on, as there, and unlike CUDA's fmax.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from ..losses import Loss, smooth


class Untraceable(TypeError):
    """A formula does what a kernel cannot."""


REAL, TRUTH = "T", "bool"  # the two types of a value: T is the kernel's floating dtype

# xp.name → expression of its arguments, of type T
FUNCTIONS: dict[str, str] = {
    **{
        name: f"{name}({{0}})"
        for name in ("exp", "log", "log1p", "expm1", "sqrt", "tanh", "sinh", "cosh", "sin", "cos")
    },
    **{name: f"{name}({{0}})" for name in ("tan", "floor", "ceil", "log2", "trunc", "asinh")},
    "atan": "atan({0})",
    "abs": "fabs({0})",
    "negative": "-{0}",
    "square": "{0} * {0}",
    "reciprocal": "(T)1 / {0}",
    "sign": "({0} != {0} ? {0} : (T)(({0} > (T)0) - ({0} < (T)0)))",
    "maximum": "({0} > {1} || {0} != {0} ? {0} : {1})",
    "minimum": "({0} < {1} || {0} != {0} ? {0} : {1})",
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "pow": "pow({0}, {1})",
}
# xp.name → expression of its arguments, of type bool
QUESTIONS: dict[str, str] = {
    "greater": "{0} > {1}",
    "greater_equal": "{0} >= {1}",
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "equal": "{0} == {1}",
    "not_equal": "{0} != {1}",
    "isnan": "{0} != {0}",
    "isfinite": "{0} - {0} == (T)0",
    "logical_and": "{0} && {1}",
    "logical_or": "{0} || {1}",
    "logical_not": "!{0}",
}
# what a reduction begins with, and how it takes in a value or another part
REDUCTIONS: dict[str, tuple[str, str]] = {
    "sum": ("(T)0", "{0} + {1}"),
    "max": ("-INF", FUNCTIONS["maximum"]),
    "min": ("INF", FUNCTIONS["minimum"]),
}


def literal(number: float) -> str:
    """A number as it is written, rounded to T by the compiler."""
    if math.isnan(number):
        return "(INF - INF)"
    if math.isinf(number):
        return "INF" if number > 0 else "(-INF)"
    return f"(T){float(number)!r}" if number >= 0 else f"(T)({float(number)!r})"


class Recorded:
    """What stands for an array while a formula is recorded.

    Functions of NumPy itself, not of `xp`, would see one object without axes in it, of which a
    `np.dot` is no product of matrices: only what tells of shapes answers.
    """

    __slots__ = ()
    __array_ufunc__ = None  # NumPy arrays and scalars must not take it apart

    def __array_function__(self, function: Any, _: Any, given: Any, options: Any) -> Any:
        if function in (np.shape, np.ndim, np.size) and len(given) == 1 and not options:
            return getattr(self, function.__name__)
        raise Untraceable(f"a formula calls NumPy's {function.__name__}, where xp should stand")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise Untraceable("a formula makes an array of NumPy of a value")


class Value(Recorded):
    """One number of an array in a formula: a leaf, or an operation on other values.

    pattern    expression with a place for each argument
    kind       REAL or TRUTH
    dtype      as the formula sees it
    reduction  "sum", "max" or "min" over the units instead
    single     whether an axis of length one stands in the place of the units
    """

    ndim = 2

    def __init__(
        self,
        pattern: str,
        *arguments: Value,
        kind: str = REAL,
        reduction: str | None = None,
        dtype: Any = None,
        single: bool = False,
    ) -> None:
        self.pattern, self.arguments, self.kind = pattern, arguments, kind
        self.reduction, self.single = reduction, single
        if dtype is None and kind == REAL:
            dtype = next((a.dtype for a in arguments if a.dtype is not None), None)
        self.dtype: Any = np.dtype(bool) if kind == TRUTH else dtype

    @property
    def shape(self) -> tuple[Value, Value]:
        """The units and examples, known when the kernel runs."""
        return Value(literal(1) if self.single else "((T)n)"), Value("((T)m)")

    @property
    def reduced(self) -> bool:
        """Whether it is the same for all units: nothing below it but reductions and numbers."""
        if self.reduction is not None:
            return True
        if not self.arguments:
            return not self.pattern.isidentifier()  # a leaf, or a number
        return all(argument.reduced for argument in self.arguments)

    def __bool__(self) -> NoReturn:
        raise Untraceable("a formula branches on a value")

    def __iter__(self) -> NoReturn:
        raise Untraceable("a formula iterates over a value")

    def __getitem__(self, key: object) -> NoReturn:
        raise Untraceable("a formula indexes a value")

    def __hash__(self) -> int:
        return id(self)

    def __neg__(self) -> Value:
        return _operation("negative", self)

    def __pos__(self) -> Value:
        return self

    def __abs__(self) -> Value:
        return _operation("abs", self)

    def __invert__(self) -> Value:
        return _operation("logical_not", self)


def _operation(name: str, *arguments: Any) -> Value:
    """FUNCTIONS or QUESTIONS of values and numbers."""
    values = tuple(_value(argument) for argument in arguments)
    logical = name.startswith("logical")
    if any((value.kind == TRUTH) != logical for value in values):
        raise Untraceable(f"{name} of values of another kind")
    if name in QUESTIONS:
        return Value(QUESTIONS[name], *values, kind=TRUTH, single=_single(values))
    if name == "pow" and isinstance(arguments[1], int) and 0 < arguments[1] <= 4:
        pattern, values = " * ".join(["{0}"] * arguments[1]), values[:1]
        return Value(pattern, *values, single=_single(values))
    return Value(FUNCTIONS[name], *values, single=_single(values))


def _single(values: Iterable[Value]) -> bool:
    """Whether the units are an axis of length one; arrays with and without do not mix."""
    found = {value.single for value in values if not value.reduced}
    if len(found) == 2:
        raise Untraceable("arrays of different axes meet")
    return True in found


def _value(argument: Any) -> Value:
    if isinstance(argument, Value):
        return argument
    if isinstance(argument, bool | int | float):
        return Value(literal(argument))
    raise Untraceable(f"a formula takes a {type(argument).__name__} beside its arrays")


# Python's operators and what they are in the array API
OPERATORS = {
    **{"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "pow"},
    **{"gt": "greater", "ge": "greater_equal", "lt": "less", "le": "less_equal"},
    **{"eq": "equal", "ne": "not_equal", "and": "logical_and", "or": "logical_or"},
}


def give_operators(kind: type, operation: Callable[..., Any]) -> None:
    """Let objects of a class be computed with: operation(name, left, right)."""

    def method(name: str, swapped: bool) -> Callable[[Any, Any], Any]:
        def apply(self: Any, other: Any) -> Any:
            return operation(name, *((other, self) if swapped else (self, other)))

        return apply

    for short, name in OPERATORS.items():
        setattr(kind, f"__{short}__", method(name, False))
        if name not in QUESTIONS or short in ("and", "or"):
            setattr(kind, f"__r{short}__", method(name, True))


give_operators(Value, _operation)


class Tracer:
    """The namespace a formula is traced with."""

    float32, float64 = np.dtype(np.float32), np.dtype(np.float64)

    def __getattr__(self, name: str) -> Any:
        if name in FUNCTIONS or name in QUESTIONS:
            return lambda *arguments: _operation(name, *arguments)
        raise Untraceable(f"a formula calls xp.{name}, which has no kernel")

    def where(self, condition: Any, x: Any, y: Any) -> Value:
        condition = _value(condition)
        if condition.kind != TRUTH:
            raise Untraceable("where of numbers")
        values = (condition, _value(x), _value(y))
        return Value("({0} ? {1} : {2})", *values, single=_single(values))

    def zeros_like(self, x: Value) -> Value:
        return Value(literal(0), dtype=x.dtype)

    def ones_like(self, x: Value) -> Value:
        return Value(literal(1), dtype=x.dtype)

    def full_like(self, x: Value, number: float) -> Value:
        return Value(literal(number), dtype=x.dtype)

    def astype(self, x: Value, dtype: Any, copy: bool = True) -> Value:
        if np.dtype(dtype).kind != "f":
            raise Untraceable(f"astype to {dtype}")
        # of a truth value: compilers make vectors of a choice, not of a conversion
        pattern = "({0} ? (T)1 : (T)0)" if x.kind == TRUTH else "(T){0}"
        return Value(pattern, x, dtype=np.dtype(dtype), single=x.single)

    def expand_dims(self, x: Value, *, axis: int) -> Value:
        if axis != -2 or x.single or x.reduced:
            raise Untraceable(f"expand_dims along axis {axis}")
        return Value("{0}", x, kind=x.kind, single=True)

    def finfo(self, dtype: Any) -> Any:
        return np.finfo(dtype)

    def sum(self, x: Value, *, axis: int, keepdims: bool = False) -> Value:
        return _reduced("sum", x, axis, keepdims)

    def max(self, x: Value, *, axis: int, keepdims: bool = False) -> Value:
        return _reduced("max", x, axis, keepdims)

    def min(self, x: Value, *, axis: int, keepdims: bool = False) -> Value:
        return _reduced("min", x, axis, keepdims)


def _reduced(name: str, x: Value, axis: int, keepdims: bool) -> Value:
    if axis != -2 or x.kind == TRUTH:
        raise Untraceable(f"{name} along axis {axis}")
    if x.single:  # over one unit
        return Value("{0}", x, single=keepdims)
    return Value("", x, reduction=name)


XP = Tracer()


def leaves(*names: str, dtype: Any) -> list[Value]:
    """Arrays of a formula, each a variable of the kernel."""
    return [Value(name, dtype=np.dtype(dtype)) for name in names]


def trace(formula: Callable[..., Any], *arguments: Any) -> Any:
    """formula(xp, *arguments) as Values; raises `Untraceable`, whatever went wrong."""
    try:
        return formula(XP, *arguments)
    except Untraceable:
        raise
    except Exception as error:
        raise Untraceable(f"a formula cannot be traced ({error})") from error


def traced_loss(loss: Loss, smoothing: float, dtype: Any) -> tuple[Value, Value]:
    """The value and the delta of a score s and a target t, which is smoothed."""
    s, t = leaves("s", "t", dtype=dtype)
    if smoothing > 0:
        t = trace(lambda xp, T: smooth(loss.kind, T, smoothing), t)
    value, delta = merged(trace(loss.value, s, t), trace(loss.delta, s, t))
    if not value.reduced:
        raise Untraceable("the value of a loss is not a sum over the units")
    return value, delta


def merged(*roots: Any) -> list[Value]:
    """The same values, each computed once however many roots lead to it."""
    known: dict[Any, Value] = {}
    new: dict[Value, Value] = {}

    def merge(value: Value) -> Value:
        if value not in new:
            arguments = tuple(merge(argument) for argument in value.arguments)
            key = (value.pattern, value.reduction, *map(id, arguments))
            fresh = Value(
                value.pattern,
                *arguments,
                kind=value.kind,
                reduction=value.reduction,
                dtype=value.dtype,
            )
            new[value] = known.setdefault(key, fresh)
        return new[value]

    return [merge(_value(root)) for root in roots]


class Writer:
    """Statements that compute values, each once."""

    def __init__(self) -> None:
        self.names: dict[Value, str] = {}
        self.count = 0

    def write(self, value: Value, lines: list[str]) -> str:
        """The name of the variable that holds `value`, its statements added to `lines`."""
        if value in self.names:
            return self.names[value]
        if value.reduction is not None:
            raise Untraceable("a reduction where every unit is computed alone")
        arguments = [self.write(argument, lines) for argument in value.arguments]
        if not arguments:
            return value.pattern
        name = f"v{self.count}"
        self.count += 1
        lines.append(f"const {value.kind} {name} = {value.pattern.format(*arguments)};")
        self.names[value] = name
        return name

    def inner(self) -> Writer:
        """A writer for a loop's body: knows what is known here, and keeps its own."""
        other = Writer()
        other.names, other.count = dict(self.names), self.count
        return other


def elementwise(outputs: Mapping[str, Value]) -> str:
    """Statements that assign each output; no reductions.

    The outputs come last, because they may lie where the inputs do.
    """
    writer, lines = Writer(), list[str]()
    results = [writer.write(value, lines) for value in merged(*outputs.values())]
    lines += [f"{target} = {result};" for target, result in zip(outputs, results, strict=True)]
    return "\n".join(lines)


def reductions(roots: Iterable[Value]) -> Iterator[list[Value]]:
    """All reductions below the roots, those first on which others depend."""
    level: dict[Value, int] = {}

    def depth(value: Value) -> int:
        if value not in level:
            below = max((depth(argument) for argument in value.arguments), default=0)
            level[value] = below + (value.reduction is not None)
        return level[value]

    highest = max(depth(root) for root in roots)
    for wanted in range(1, highest + 1):
        yield [value for value, n in level.items() if n == wanted and value.reduction]
