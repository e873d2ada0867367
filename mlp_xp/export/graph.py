"""An ONNX graph while it is written: nodes and constants by name, before any library sees them.

The rows of `functions` and `kinds` write to one of these. What reads it makes protocol buffers
(`deploy`) or hands its nodes to skl2onnx (`pipelines`).

What an operator does stands at https://onnx.ai/onnx/operators. Those used are of opset 18, which
onnxruntime has had since 1.14 (2023), and mean the same in each later one up to 22, so that the
nodes fit into graphs of others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

OPSET = 18  # of the standard operators
ML_OPSET = 3  # of ai.onnx.ml, for words of tables
ML = "ai.onnx.ml"
IR_VERSION = 8  # of the file format that goes with opset 18

Operand: TypeAlias = Any  # a name, a number, a list of whole numbers, an array, or None


class Node(NamedTuple):
    """One operator at work: inputs and outputs by name, "" for an input left out."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    domain: str


class Graph:
    """Nodes in the order they run, and constants by name.

    dtype   of the network's numbers: "float32" or "float64"
    unique  name ↦ a name that nothing else in the graph has; by default it is numbered
    """

    def __init__(self, dtype: str, unique: Callable[[str], str] | None = None) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.nodes: list[Node] = []
        self.constants: dict[str, npt.NDArray[Any]] = {}
        self._taken: set[str] = set()
        self._shared: dict[tuple[Any, ...], str] = {}
        self.unique = unique or self._numbered

    def _numbered(self, name: str) -> str:
        found, number = name, 1
        while found in self._taken:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found

    def reserve(self, name: str) -> str:
        """A name for what comes from outside, such as an input."""
        self._taken.add(name)
        return name

    def constant(self, value: npt.NDArray[Any], name: str = "constant") -> str:
        """The name of an array; small ones that are equal are kept once."""
        value = np.ascontiguousarray(value) if value.ndim else value
        key = (value.dtype.str, value.shape, value.tobytes())
        shares = value.size <= 16 and value.dtype.kind in "fi"
        if shares and key in self._shared:
            return self._shared[key]
        found = self.unique(name)
        self.constants[found] = value
        if shares:
            self._shared[key] = found
        return found

    def parameter(self, value: npt.NDArray[Any], name: str) -> str:
        """The name of a parameter, in the graph's dtype."""
        return self.constant(np.asarray(value).astype(self.dtype), name)

    def _operand(self, value: Operand) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, float):
            return self.constant(np.array(value, self.dtype))
        return self.constant(np.asarray(value, None if hasattr(value, "dtype") else np.int64))

    def several(
        self, op: str, *inputs: Operand, n: int, domain: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node; the names of its first n outputs.

        inputs      names; a float is a constant of the graph's dtype, a list of whole numbers
                    one of int64; None leaves an input out
        attributes  as the operator's page has them
        """
        names = tuple(self._operand(value) for value in inputs)
        outputs = tuple(self.unique(op) for _ in range(n))
        self.nodes.append(Node(op, names, outputs, attributes, domain))
        return outputs

    def __call__(self, op: str, *inputs: Operand, domain: str = "", **attributes: Any) -> str:
        """Add a node of one output; its name."""
        return self.several(op, *inputs, n=1, domain=domain, **attributes)[0]

    def cast(self, A: str, dtype: Any) -> str:
        """A in another dtype."""
        return self("Cast", A, to=np.dtype(dtype))

    def output(self, A: str, name: str) -> None:
        """Call A by the name of an output of the whole graph."""
        self.nodes.append(Node("Identity", (A,), (name,), {}, ""))


__all__ = ["IR_VERSION", "ML", "ML_OPSET", "OPSET", "Graph", "Node", "Operand"]
