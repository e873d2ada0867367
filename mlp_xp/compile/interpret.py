"""A graph run node by node by NumPy, as its formula would have run: what programs are held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Node, live

NAMES: dict[str, Callable[..., Any]] = {
    "pow": np.power,
    "square": lambda x: x * x,
    "negative": np.negative,
    "abs": np.abs,
    "where": np.where,
}
REDUCED: dict[str, Callable[..., Any]] = {"sum": np.sum, "max": np.max, "min": np.min}


def run(roots: Sequence[Node], inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """The roots' arrays, from the inputs by their names."""
    found: dict[int, Any] = {}
    for node in live(roots):
        args = [found[id(arg)] for arg in node.args]
        found[id(node)] = _compute(node, args, inputs)
    return [np.asarray(found[id(root)]) for root in roots]


def _compute(node: Node, args: Sequence[Any], inputs: Mapping[str, npt.NDArray[Any]]) -> Any:
    if node.op == "input":
        return inputs[node.param]
    if node.op == "value":
        return node.param
    if node.op == "number":
        return np.full(node.shape, node.param, node.dtype)
    if node.op == "map":
        if node.param == "cast":
            return args[0].astype(node.dtype)
        if node.param == "copy":
            return args[0].copy()
        function = NAMES.get(node.param) or getattr(np, node.param)
        return function(*args)
    if node.op == "reduce":
        name, axis = node.param
        return REDUCED[name](args[0], axis=axis, keepdims=True)
    if node.op == "product":
        return np.matmul(*args)
    if node.op == "join":
        return np.concatenate(args, axis=node.param)
    if node.op == "call":
        return node.param(*args)
    return _view(node.param, args[0])


def _view(step: tuple[Any, ...], x: Any) -> Any:
    kind, what = step
    if kind == "reshape":
        return np.reshape(x, what)
    if kind == "permute":
        return np.transpose(x, what)
    if kind == "broadcast":
        return np.broadcast_to(x, what)
    keys: list[Any] = []
    for entry in what:
        if entry[0] == "new":
            keys.append(None)
        elif entry[0] == "all":
            keys.append(slice(None))
        elif entry[0] == "at":
            keys.append(entry[1])
        else:
            _, start, n, step = entry
            stop = start + n * step
            keys.append(slice(start, stop if stop >= 0 else None, step))
    return x[tuple(keys)]
