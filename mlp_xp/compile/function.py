"""A formula of arrays, compiled for the shapes that it is called with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fast import native
from ..fast.tracing import Untraceable
from .fuse import Fusion
from .graph import Graph, Node
from .program import Plan, Program, planned
from .trace import trace

Buffer = npt.NDArray[Any]
MOST = 16  # programs kept in a thread


class _Own(threading.local):
    """What a function has for each thread: others may call it at the same time."""

    def __init__(self) -> None:
        self.programs: dict[Any, tuple[Program, list[Node]]] = {}


class Function:
    """formula(xp, *arrays) → arrays, computed in place of memory that is made once.

    formula  of `xp` and arrays of any shapes, without branches on what is in them
    dtype    of its real numbers: "float32" or "float64"
    key      what tells the formula from others, so that its plans are made once in a process

    Raises `Untraceable` or `CannotCompile` where it cannot be: at the first call with new
    shapes.
    """

    def __init__(self, formula: Callable[..., Sequence[Any]], dtype: str, key: Any = None) -> None:
        self.formula, self.dtype, self.key = formula, dtype, key
        self.own = _Own()

    def __call__(self, *arrays: Buffer) -> Sequence[Buffer]:
        """The results, which lie where those of the last call of this thread did."""
        arrays = tuple(np.asarray(array, order="C") for array in arrays)
        program, inputs = self.program(arrays)
        for node, array in zip(inputs, arrays, strict=True):
            program.give(node, array)
        return program.run()

    def program(self, arrays: Sequence[Buffer]) -> tuple[Program, list[Node]]:
        """The program for arrays of these shapes and dtypes, and its inputs."""
        key = tuple((array.shape, array.dtype.char) for array in arrays)
        programs = self.own.programs
        found = programs.get(key)
        if found is None:
            if len(programs) >= MOST:
                programs.pop(next(iter(programs)))
            whole = None if self.key is None else (self.key, self.dtype, key)
            found = programs[key] = self._made(arrays, whole)
        return found

    def _made(self, arrays: Sequence[Buffer], key: Any) -> tuple[Program, list[Node]]:
        def make() -> Plan:
            graph = Graph(self.dtype)
            given = [graph.input(f"x{i}", x.shape, x.dtype) for i, x in enumerate(arrays)]
            roots = list(trace(self.formula, graph, *given))
            return Plan(Fusion(roots, [None] * len(roots)))

        plan = make() if key is None else planned(key, make)
        program = Program(plan, {f"x{i}": array for i, array in enumerate(arrays)})
        program.finish()
        return program, [plan.inputs[f"x{i}"] for i in range(len(arrays))]


def or_specified(
    formula: Callable[..., Sequence[Any]], dtype: str, key: Any = None
) -> Callable[..., Sequence[Buffer]]:
    """The formula compiled; NumPy's calls where it cannot be."""
    if not native.available():
        return partial(formula, np)
    compiled: Function | None = Function(formula, dtype, key)

    def call(*arrays: Buffer) -> Sequence[Buffer]:
        nonlocal compiled
        if compiled is not None:
            try:
                return compiled(*arrays)
            except (Untraceable, native.CannotCompile) as error:
                native.warn("A formula is not compiled", error, stacklevel=4)
                compiled = None
        return formula(np, *arrays)

    return call


__all__ = ["Function", "or_specified"]
