"""A formula of arrays, compiled for the shapes that it is called with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .fuse import Fusion
from .graph import Graph, Node
from .numpy_program import best
from .program import Program
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
    target   the class of its programs

    Raises `Untraceable` or `CannotCompile` where it cannot be: at the first call with new
    shapes.
    """

    def __init__(
        self,
        formula: Callable[..., Sequence[Any]],
        dtype: str,
        target: type[Program] | None = None,
    ) -> None:
        self.formula, self.dtype, self.target = formula, dtype, target or best()
        self.own = _Own()

    def __call__(self, *arrays: Buffer) -> Sequence[Buffer]:
        """The results, which lie where those of the last call of this thread did."""
        arrays = tuple(map(np.ascontiguousarray, arrays))
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
            found = programs[key] = self._made(arrays)
        return found

    def _made(self, arrays: Sequence[Buffer]) -> tuple[Program, list[Node]]:
        graph = Graph(self.dtype)
        inputs = [graph.input(f"x{i}", array.shape, array.dtype) for i, array in enumerate(arrays)]
        roots = list(trace(self.formula, graph, *inputs))
        fusion = Fusion(roots, [None] * len(roots))
        program = self.target(fusion, dict(zip(inputs, arrays, strict=True)))
        program.finish()
        return program, inputs


__all__ = ["Function"]
