"""A fused graph as calls of NumPy, where there is no C compiler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fast import native
from .graph import Node
from .items import Call, Item, Loop, Place, Product
from .numpy_loops import Do, LoopCalls, View, entries
from .program import Plan, Program
from .windows import Manner

Buffer = npt.NDArray[Any]


class NumpyPlan(Plan):
    """A `Plan` whose loops are calls of NumPy.

    room  where the room of a loop begins, at the end of the block
    """

    def _write(self) -> None:
        self.loops = {loop.number: LoopCalls(self.fusion, loop) for loop in self._loops()}

    def _plan(self) -> None:
        super()._plan()
        self.room = self.n_bytes
        self.n_bytes += max((loop.n_room for loop in self.loops.values()), default=0)

    def _touched(self, item: Item) -> list[Place]:
        places = self.fusion.read_by(item)
        if isinstance(item, Loop):
            return places + [target.place for target in item.writes]
        return [*places, self.fusion.place(item.node)]


class NumpyProgram(Program):
    """A `Program` whose calls are NumPy's, on views of its memory that are made once."""

    target = "NumPy"
    native = False
    plans = NumpyPlan
    plan: NumpyPlan

    @staticmethod
    def manner(dtype: str) -> Manner:
        return Manner(sums=False)

    def __init__(self, *arguments: Any) -> None:
        self.using: dict[Node, list[tuple[int, Do]]] = {}  # calls that read an input
        super().__init__(*arguments)

    # -- calls

    def _loop(self, loop: Loop) -> None:
        for do in self.plan.loops[loop.number].calls:
            self._do(do)

    def _product(self, item: Product) -> None:
        A, B, C = map(_view, (*item.operands, self.fusion.place(item.node)))
        self._do(Do(np.matmul, (A, B, C)))

    def _call(self, item: Call) -> None:
        out, function = self.array(self.fusion.place(item.node)), item.node.param

        def call(*arrays: Buffer) -> None:
            np.copyto(out, function(*arrays))

        self._do(Do(call, tuple(map(_view, item.operands))))

    def _do(self, do: Do) -> None:
        for owner in {view.owner for view in do.views}:
            if owner is not None and owner.op == "input":
                self.using.setdefault(owner, []).append((len(self.calls.calls), do))
        self.calls.calls.append(self._bound(do))

    def _bound(self, do: Do) -> Callable[[], object]:
        options = {name: self._array(argument) for name, argument in do.options.items()}
        return partial(do.function, *map(self._array, do.arguments), **options)

    def _array(self, argument: Any) -> Any:
        if not isinstance(argument, View):
            return argument
        if argument.owner is None:
            return entries(self.block[self.plan.room :], argument)
        return entries(self.whole(argument.owner), argument)

    def give(self, node: Node, array: Buffer) -> None:
        if self.given[node] is array:
            return
        self.given[node] = array
        for place, do in self.using.get(node, ()):
            self.calls.calls[place] = self._bound(do)

    def finish(self) -> None:
        """There is nothing to compile."""
        self.n_calls = len(self.calls.calls)


def _view(place: Place) -> View:
    return View(place.owner, 0, place.layout, str(place.owner.dtype))


def best() -> type[Program]:
    """Compiled programs where there is a compiler, else NumPy's calls."""
    return Program if native.available() else NumpyProgram


__all__ = ["NumpyProgram", "best"]
