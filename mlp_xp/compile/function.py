"""A formula of arrays, compiled for the shapes that it is called with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fast import native
from ..fast.tracing import Untraceable
from .fuse import Fusion
from .graph import Graph, Node
from .numpy_program import best
from .program import IDLE, Plan, Program, planned
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
    target   the class of its programs

    Raises `Untraceable` or `CannotCompile` where it cannot be: at the first call with new
    shapes.
    """

    def __init__(
        self,
        formula: Callable[..., Sequence[Any]],
        dtype: str,
        key: Any = None,
        target: type[Program] | None = None,
    ) -> None:
        self.formula, self.dtype, self.key, self.target = formula, dtype, key, target or best()
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
        key = tuple((array.shape, array.dtype) for array in arrays)
        programs = self.own.programs
        found = programs.get(key)
        if found is None:
            if len(programs) >= MOST:
                programs.pop(next(iter(programs)))
            whole = None if self.key is None else (self.key, self.target, self.dtype, key)
            found = programs[key] = self._made(arrays, whole)
        return found

    def plan(self, arrays: Sequence[Buffer]) -> Plan:
        """What is to be done with arrays of these shapes and dtypes."""
        graph = Graph(self.dtype)
        given = [graph.input(f"x{i}", x.shape, x.dtype) for i, x in enumerate(arrays)]
        roots = list(trace(self.formula, graph, *given))
        target = self.target
        return target.plans(Fusion(roots, [None] * len(roots), target.manner(self.dtype)))

    def _made(self, arrays: Sequence[Buffer], key: Any) -> tuple[Program, list[Node]]:
        plan = planned(key, lambda: self.plan(arrays))
        inputs = [plan.inputs[f"x{i}"] for i in range(len(arrays))]
        with suppress(IndexError):
            return plan.idle.pop(), inputs
        program = self.target(plan, {f"x{i}": array for i, array in enumerate(arrays)})
        program.finish()
        return program, inputs

    def end(self) -> None:
        """Let this thread's arrays go, and leave its programs to the next function of the key."""
        for program, inputs in self.own.programs.values():
            apart = all(place.owner.op != "input" for place in program.fusion.roots)
            whole = program.calls.whole and program.block.nbytes <= IDLE
            if apart and whole and not program.plan.idle:
                program.leave(node.param for node in inputs)
                program.plan.idle.append(program)
        self.own.programs.clear()


class OrSpecified:
    """A formula compiled, or NumPy's calls on memory made once; as it is where it must be."""

    def __init__(self, formula: Callable[..., Sequence[Any]], dtype: str, key: Any = None) -> None:
        self.formula = formula
        self.compiled: Function | None = Function(formula, dtype, key)

    def __call__(self, *arrays: Buffer) -> Sequence[Buffer]:
        if self.compiled is not None:
            try:
                return self.compiled(*arrays)
            except (Untraceable, native.CannotCompile) as error:
                native.warn("A formula is not compiled", error, stacklevel=3)
                self.compiled = None
        return self.formula(np, *arrays)

    def end(self) -> None:
        """As `Function.end`."""
        if self.compiled is not None:
            self.compiled.end()


__all__ = ["Function", "OrSpecified"]
