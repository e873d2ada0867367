"""The training step of any recipe, compiled: `training.train_step` itself, traced for one batch.

Nothing here knows what the step consists of. A batch is gathered into the program's inputs, or
fetched where it lies by the products that read it; the scalars of the step are put where it reads
them, and its calls are made. The arrays of the state a step is given become those of the state it
returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..fast import aligned, blas, calls, native, sparse
from ..fast.calls import Table, address, parts_of
from ..fast.tracing import Untraceable
from ..hardware import Device
from ..optimizers import Optimizer
from ..training import Data, Recipe, batch, columns, train_step
from ..types import State
from .fuse import Fusion
from .graph import Graph, Node
from .numpy_program import NumpyProgram, best
from .program import IDLE, WHICH, Plan, Program, planned
from .trace import trace
from .windows import SUMS, Manner

Buffer = npt.NDArray[Any]
T = TypeVar("T")
Kind: TypeAlias = tuple[int, bool, bool]  # of batches: m, whether all networks share, drop
DTYPES = ("float32", "float64")
# a plan's inputs, in the order in which people are told of them
INPUTS = (
    *("theta", "running", "rate", "rows", "targets", "weights"),
    *("moment", "scalar", "bits", "connected"),
)
# Parameters from which on several networks are programs of their own; of smaller ones each thread
# has a program for its share. On two cores, µs a step as one program, as two, and as many: 64 of
# 20-16-3 (387 parameters) 172, 100 and 107, 16 of 64-64-64-10 530 as one and 276 as many, 8 of
# 784-100-10 1,130 and 570; but a program takes a quarter of a millisecond to make, in every `fit`.
LARGE = 1000


class _Given:
    """An optimiser whose scalars are inputs of the program; perhaps rate · weight_decay too."""

    def __init__(self, optimizer: Optimizer, scalars: tuple[Node, ...], shrinks: bool) -> None:
        self.rate = optimizer.rate
        self.weight_decay = 1.0 if shrinks else optimizer.weight_decay
        self.n_moments, self.update = optimizer.n_moments, optimizer.update
        self._scalars = scalars

    def scalars(self, rate: Any, step: int) -> tuple[Node, ...]:
        return self._scalars


class Idle(NamedTuple):
    """A step's programs, each for the kind of batches that it was made for, and their memory."""

    programs: dict[Kind, Batch]
    block: Buffer


class StepPlan(NamedTuple):
    """A step's plan: its results are the new state's arrays by their names, and the loss.

    late  those that cannot be written before the end, as something still reads the old ones
    """

    plan: Plan
    changed: tuple[str, ...]
    late: frozenset[str]


def traced(
    recipe: Recipe,
    data: Data,
    shapes: Mapping[str, tuple[tuple[int, ...], str]],
    plans: Callable[[Fusion], Plan],
    manner: Manner = SUMS,
) -> StepPlan:
    """A step for arrays of these shapes and dtypes, given by their names.

    Examples are given as "rows" or, as columns, as "X"; what decays, by a "rate", or as
    "shrink", which is rate · weight_decay. `manner` as of a `Fusion`.
    """
    graph = Graph(shapes["theta"][1])
    known = {name: graph.input(name, *shape) for name, shape in shapes.items()}
    n_moments = recipe.optimizer.n_moments
    moments = tuple(known[f"moment{i}"] for i in range(n_moments))
    scalars = tuple(node for name, node in known.items() if name.startswith("scalar"))
    before = State(known["theta"], moments, known["running"], 0)

    def formula(xp: Any) -> State:
        given = cast(Any, _Given(recipe.optimizer, scalars, "shrink" in known))
        own = replace(recipe, optimizer=given, connected=known.get("connected"))
        rows = known["rows"] if "rows" in known else xp.matrix_transpose(known["X"])
        X, T = columns(own, xp, data._replace(rows=rows), rows, known["targets"])
        weights, bits = known.get("weights"), known.get("bits")
        rate = known.get("shrink", known.get("rate"))
        return train_step(own, xp, before, X, T, weights, bits, rate)

    after = trace(formula, graph)
    changed = {"theta": after.theta}
    changed |= {f"moment{i}": moment for i, moment in enumerate(after.moments)}
    if recipe.network.n_statistics > 0:
        changed["running"] = after.running
    # the loss last: what it sums of the parameters can go along with their update
    roots = [*changed.values(), after.loss]
    fusion = Fusion(roots, [*(known[name] for name in changed), None], manner)
    late = frozenset(node.param for node in fusion.overwritten())
    if late:
        kept = [None if name in late else known[name] for name in changed]
        fusion = Fusion(roots, [*kept, None], manner)
    return StepPlan(plans(fusion), tuple(changed), late)


def key_of(recipe: Recipe, data: Data, shapes: Mapping[str, Any]) -> Any:
    """What decides a plan, beside arrays that follow from it: `decayed`, `classes`."""
    read = ("network", "loss", "optimizer", "kernels", "l2", "l2_shared", "label_smoothing")
    values = tuple(getattr(recipe, name) for name in (*read, "clip_norm", "clip_value"))
    kind = (type(recipe), type(recipe.optimizer), data.targets.ndim)
    return ("step", *kind, *values, tuple(shapes.items()))


def in_order(inputs: Mapping[str, T]) -> dict[str, T]:
    """A plan's inputs by their names, those of a kind as they were."""
    names = sorted(inputs, key=lambda name: INPUTS.index(name.rstrip("0123456789")))
    return {name: inputs[name] for name in names}


def bits_of(step: CompiledStep, m: int, dropped: bool) -> Buffer:
    """Memory for the bits of a batch's dropout."""
    n = step.recipe.network.n_dropped * m if dropped else 0
    return np.zeros((*step.theta.shape[:-1], n), np.uint16)


def _hollow(shape: tuple[int, ...], dtype: Any) -> Buffer:
    """An array that has a place and strides, but no memory: never read or written."""
    place, steps = np.zeros(1, dtype), np.cumprod((1, *shape[:0:-1]))[::-1]
    return np.lib.stride_tricks.as_strided(place, shape, steps * place.itemsize)


class Batch:
    """A step's program for batches of m examples.

    index, bits  memory for which examples, and for what is dropped; of its own if None
    lends        whether others work in its memory before its results are read
    """

    def __init__(
        self,
        step: CompiledStep,
        m: int,
        shared: bool,
        dropped: bool,
        index: Buffer | None = None,
        bits: Buffer | None = None,
        lends: bool = False,
    ) -> None:
        self.step, self.read = step, cast("Data | None", None)
        self.made = made = step.planned(m, shared, dropped)
        node = made.plan.inputs["rows"]
        taken = step.target.native and made.plan.taken(node)
        self.hollow = taken and hasattr(step.data.rows, "csr")  # rows may never want their memory
        self.inputs = {
            name: _hollow(*shape) if name == "rows" and self.hollow else aligned.zeros(*shape)
            for name, shape in step.examples(m, shared).items()
        }
        rows = self.inputs["rows"]
        self.index = np.zeros(rows.shape[:-1], np.int64) if index is None else index
        self.bits = bits_of(step, m, dropped) if bits is None else bits
        self.fetches = taken and made.plan.fetched(node)
        self.kept = np.zeros(4, np.int64)  # how sparse rows are: see `runtime.c`
        own = {**self.inputs, "bits": self.bits} if dropped else self.inputs
        given = in_order({**step.given(), **own})
        self.program = step.target(made.plan, given, self._gather(), step.block)
        step.block = self.program.block
        *arrays, self.loss = self._copied(self.program.roots) if lends else self.program.roots
        self.program.finish()
        reading = self.program.addresses[node] if taken else []
        self.reading = [(*place, place[0][place[1][0], 0]) for place in reading]
        self.after = [
            (name, array)
            for name, array in zip(made.changed, arrays, strict=True)
            if name in made.late
        ]
        self._write_to(step)

    def _write_to(self, step: CompiledStep) -> None:
        given = step.given()
        self.late = [(given[name], array) for name, array in self.after]

    @property
    def size(self) -> int:
        """Bytes of its own, beside the program's memory."""
        return sum(array.nbytes for array in (*self.inputs.values(), self.bits, self.index))

    def leave(self) -> None:
        """Let go of everything that is its step's."""
        self.let_go()
        self.program.leave(self.step.given())
        self.program.roots, self.late = [], []
        del self.step

    def enter(self, step: CompiledStep) -> None:
        """Become the program of another step of the same kind."""
        self.step = step
        for name, array in step.given().items():
            self.program.give(self.made.plan.inputs[name], array)
        self._write_to(step)

    def _copied(self, results: Sequence[Buffer]) -> list[Buffer]:
        """Memory outside of the program's, to which it copies those that lie in it."""
        found, first = list[Buffer](), np.zeros(1, np.int64)
        for result in results:
            if np.may_share_memory(result, self.program.block):
                inside, result = result, np.zeros(result.shape, result.dtype)
                gather = native.entry(native.runtime(), "gather")
                self.program.calls.kernel(gather, result, inside, first, 1, result.nbytes)
            found.append(result)
        return found

    def _gather(self) -> Any:
        self.places: dict[str, tuple[Table, int]] = {}

        def before(calls: Any) -> None:
            if not self.step.target.native:
                return
            for name, buffer in self.inputs.items():
                if name == "rows" and self.fetches:
                    continue
                size = buffer.nbytes // max(1, self.index.size)
                parts = parts_of(buffer.nbytes // 4)
                arguments = (buffer, None, self.index.reshape(-1), 0, size)
                gather = native.entry(native.runtime(), "gather")
                self.places[name] = calls.kernel(gather, *arguments, parts=parts)

        return before

    def take(self, index: Buffer) -> None:
        """Put the examples at `index` where the program reads them."""
        np.copyto(self.index, index)
        self.read_by_numpy(index)

    def read_by_numpy(self, index: Buffer) -> None:
        """What the program's own call does not gather."""
        if self.read is not self.step.data:
            self._read(self.step.data)
        for name in self.taken:
            source, buffer = getattr(self.step.data, name), self.inputs[name]
            if hasattr(source, "toarray"):  # sparse rows: only the batch is made dense
                np.copyto(buffer, source[index].toarray())
            elif source.dtype == buffer.dtype:
                np.take(source, index, axis=0, out=buffer, mode="clip")
            else:
                np.copyto(buffer, source[index])

    def let_go(self) -> None:
        """Forget the data that were read."""
        self.read = None

    def _read(self, data: Data) -> None:
        """Take the batch from these data: by NumPy where they do not lie as a kernel reads them."""
        product = self._of_sparse(data)
        if self.hollow and not product:
            self._fill()
        self.read = data
        read = [*self.places, *(["rows"] if self.fetches else [])]
        there = {name: where for name in read if (where := self._where(name))}
        self.taken = [name for name in self.inputs if name not in there]
        if product:
            self.taken.remove("rows")
        for name, (table, row) in self.places.items():
            count = self.index.size if name in there else 0
            table.words[row, [3, 5]] = (there.get(name, 0), count)
        start, which = address(self.inputs["rows"]), 0
        if product:
            start, which = address(self.kept), address(self.index)
        elif self.fetches and "rows" in there:
            start, which = there["rows"], address(self.index)
        for words, (row, word), offset, own in self.reading:
            words[row, [0, word, WHICH]] = product or own, start + offset, which

    def _fill(self) -> None:
        """Give rows their memory."""
        hollow = self.inputs["rows"]
        rows = self.inputs["rows"] = aligned.zeros(hollow.shape, hollow.dtype)
        self.program.give(self.made.plan.inputs["rows"], rows)
        if "rows" in self.places:
            table, row = self.places["rows"]
            table.words[row, 2] = address(rows)
        self.hollow = False

    def _of_sparse(self, data: Data) -> int:
        """The product with rows as they are kept; 0 where they are not sparse, or are copied."""
        csr, dtype = getattr(data.rows, "csr", None), self.inputs["rows"].dtype
        if not self.reading or csr is None or csr.dtype != dtype or not sparse.few(csr):
            return 0
        told = sparse.kept(csr)
        if told is None:
            return 0
        self.kept[:] = told
        return sparse.kernel(str(dtype))

    def _where(self, name: str) -> int:
        """Where data lie, if a kernel can read them there, else 0."""
        array, buffer = getattr(self.read, name), self.inputs[name]
        direct = isinstance(array, np.ndarray) and array.flags.c_contiguous
        return address(array) if direct and array.dtype == buffer.dtype else 0


class Apart:
    """Steps of several networks for batches of m examples: several programs, one call of all.

    As `Batch`, whose loops are over all networks; here each thread takes some of them from
    beginning to end. Of large ones it takes one after the other, for what they read and write
    is gone from the cache when the next loop over all wants it, and their products are too small
    for several threads; of small ones as many as there are for each thread, in few calls.

    What a thread takes has one memory to work in: there it finds in its cache what it needs.

    n_programs  at most the number of networks
    """

    def __init__(
        self, step: CompiledStep, m: int, shared: bool, dropped: bool, n_programs: int
    ) -> None:
        n, dtype = len(step.theta), step.theta.dtype
        self.step, self.index = step, np.zeros((n, m), np.int64)
        self.bits, self.program = bits_of(step, m, dropped), self
        self.batches, groups = list[Batch](), list[list[calls.Calls]]()
        for part in _parts(range(n_programs), min(n_programs, native.threads())):
            block, made = np.zeros(0, np.uint8), list[Batch]()
            for i in part:
                own = slice(n * i // n_programs, n * (i + 1) // n_programs)
                one = step.part(own)
                one.block = block
                index, bits = self.index[own], self.bits[own]
                if one.theta.ndim == 1:
                    made.append(Batch(one, m, True, dropped, index[0], bits[0], lends=True))
                else:
                    index = index[0] if shared else index
                    made.append(Batch(one, m, shared, dropped, index, bits, lends=True))
                block = one.block
            self.batches += made
            groups.append([program.program.calls for program in made])
        self.late = [pair for batch in self.batches for pair in batch.late]
        self.losses = [batch.loss.reshape(-1) for batch in self.batches]
        self.calls = calls.each(str(dtype), groups)
        self.read: Data | None = None

    def take(self, index: Buffer) -> None:
        """Put the examples at `index` where the programs read them."""
        self.index[...] = index
        if self.read is not self.step.data or self.batches[0].taken:
            self.read = self.step.data
            for made in self.batches:
                made.read_by_numpy(made.index)

    def let_go(self) -> None:
        """As of `Batch`: each network's step has the data of all."""
        self.read = None
        for made in self.batches:
            made.step.data = self.step.data
            made.let_go()

    def run(self) -> None:
        assert self.calls is not None
        self.calls.calls[0]()

    @property
    def loss(self) -> Buffer:
        """Of each network."""
        return np.concatenate(self.losses)


def _parts(all_of_them: Sequence[int], n: int) -> Iterator[Sequence[int]]:
    """In n parts, one after the other."""
    m = len(all_of_them)
    for i in range(n):
        yield all_of_them[m * i // n : m * (i + 1) // n]


def _own(array: Buffer) -> Buffer:
    """The array itself where it may be written to, else a copy."""
    return np.require(array, requirements=["C", "W"])


class CompiledStep:
    """A `training.Step`: one program for every batch size that comes.

    target                   the class of its programs
    theta, moments, running  the first state's arrays, updated in place
    """

    def __init__(
        self, recipe: Recipe, device: Device, data: Data, target: type[Program] | None = None
    ) -> None:
        self.recipe, self.device, self.target = recipe, device, target or best()
        self.compiles = True
        self.block = np.zeros(0, np.uint8)  # memory of all programs: only one runs at a time
        self.programs: dict[Kind, Batch | Apart] = {}
        self.waiting: dict[Kind, Batch] = {}  # of a step that has ended: what may be taken over
        self.theta = np.zeros(0)
        self.data = data

    @property
    def data(self) -> Data:
        """The examples; others of the same kind may replace them, and they are let go."""
        return self._data

    @data.setter
    def data(self, data: Data) -> None:
        self._data = data
        for program in self.programs.values():
            program.let_go()

    def end(self) -> None:
        """Let the examples go, and leave the programs to the next step of their kind.

        Those that it ran: of examples whose number changes from fit to fit they would pile up.
        """
        self.data, self.waiting = None, {}  # type: ignore[assignment]  # as before the first
        programs = {k: made for k, made in self.programs.items() if isinstance(made, Batch)}
        alike, self.programs = len(programs) == len(self.programs), {}
        batches = list(programs.values())
        whole = alike and all(made.program.calls.whole for made in batches)
        size = self.block.nbytes + sum(made.size for made in batches)
        if batches and whole and size <= IDLE and not batches[0].made.plan.idle:
            for made in batches:
                made.leave()
            batches[0].made.plan.idle.append(Idle(programs, self.block))

    def _begin(self, state: State) -> None:
        """Take the first state's arrays."""
        self.theta, self.running = _own(state.theta), _own(state.running)
        self.moments = tuple(map(_own, state.moments))
        leading = self.theta.shape[:-1]
        shape = (*leading, 1) if leading else ()
        n = len(self.recipe.optimizer.scalars(1.0, 1))
        self.scalars = tuple(np.zeros(shape, self.theta.dtype) for _ in range(n))
        self.rate = np.zeros(shape, self.theta.dtype)
        connected = self.recipe.connected
        self.connected = None if connected is None else np.ascontiguousarray(connected)

    def given(self) -> dict[str, Buffer]:
        """What its programs read and write beside examples, by the names in their plans."""
        found = {"theta": self.theta, "running": self.running, "rate": self.rate}
        found |= {f"moment{i}": moment for i, moment in enumerate(self.moments)}
        found |= {f"scalar{i}": scalar for i, scalar in enumerate(self.scalars)}
        return found if self.connected is None else {**found, "connected": self.connected}

    def examples(self, m: int, shared: bool) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and dtype of a batch's rows, targets and weights."""
        data, sizes, dtype = self.data, self.recipe.network.sizes, self.theta.dtype
        own = () if shared else self.theta.shape[:-1]  # one batch for all networks, or one each
        found: dict[str, tuple[tuple[int, ...], Any]] = {"rows": ((*own, m, sizes[0]), dtype)}
        labels = data.targets.ndim == 1
        found["targets"] = (
            ((*own, m), np.dtype(np.int64)) if labels else ((*own, m, sizes[-1]), dtype)
        )
        return found if data.weights is None else {**found, "weights": ((*own, m), dtype)}

    def planned(self, m: int, shared: bool, dropped: bool) -> StepPlan:
        """The plan for such batches."""
        recipe, data, target = self.recipe, self.data, self.target
        given = {name: (array.shape, array.dtype) for name, array in self.given().items()}
        given |= self.examples(m, shared)
        if dropped:
            bits = bits_of(self, m, dropped)
            given["bits"] = (bits.shape, bits.dtype)
        told = {name: (shape, str(dtype)) for name, (shape, dtype) in in_order(given).items()}
        key = (target, blas.wanted(), key_of(recipe, data, told))
        of = (target.plans, target.manner(told["theta"][1]))
        made: StepPlan = planned(key, lambda: traced(recipe, data, told, *of))
        return made

    def _adopt(self, state: State) -> None:
        """Take over a state that is not the one returned last."""
        if not self.programs:
            self._begin(state)
            return
        mine = (self.theta, self.running, *self.moments)
        for target, source in zip(mine, (state.theta, state.running, *state.moments), strict=True):
            np.copyto(target, source)

    def part(self, own: slice) -> CompiledStep:
        """A step of some networks, or of one, on their part of the arrays."""
        alone = own.stop == own.start + 1
        n = len(self.theta)

        def some(array: Buffer) -> Buffer:
            return array[own.start] if alone else array[own]

        def number(scalar: Buffer) -> Buffer:
            return scalar.reshape(n)[own].reshape(() if alone else (-1, 1))

        recipe = self.recipe
        if recipe.connected is not None:
            recipe = replace(recipe, connected=some(recipe.connected))
        one = CompiledStep(recipe, self.device, self.data, self.target)
        one.theta, one.running = some(self.theta), some(self.running)
        one.moments = tuple(map(some, self.moments))
        one.scalars = tuple(map(number, self.scalars))
        one.rate = number(self.rate)
        one.connected = None if self.connected is None else some(self.connected)
        return one

    def _n_programs(self) -> int:
        """Of how many programs a step of several networks is made."""
        if self.theta.ndim == 1 or not self.target.native:
            return 1
        n, threads = len(self.theta), native.threads()
        if n < threads:
            return 1
        return n if self.theta.shape[-1] >= LARGE else threads

    def _made(self, m: int, shared: bool, dropped: bool) -> Batch | Apart:
        """A program of all networks, or one of each; that of a step that has ended, if it waits."""
        n_programs = self._n_programs()
        if n_programs > 1:
            found = Apart(self, m, shared, dropped, n_programs)
            if found.calls is not None:
                return found
        kind = (m, shared, dropped)
        if not self.programs:
            idle: list[Idle] = self.planned(*kind).plan.idle
            with suppress(IndexError):  # another thread may have been first
                self.waiting, self.block = idle.pop()
        waited = self.waiting.pop(kind, None)
        if waited is not None:
            waited.enter(self)
            return waited
        return Batch(self, m, shared, dropped)

    def _program(self, state: State, key: tuple[int, bool, bool]) -> Batch | Apart | None:
        """The program for such batches; None where a formula cannot be traced or compiled."""
        if not self.compiles:
            return None
        if state.theta is not self.theta:
            self._adopt(state)
        if key not in self.programs:
            try:
                self.programs[key] = self._made(*key)
            except native.CannotCompile as error:
                native.warn("A step is not compiled", error, stacklevel=6)
                self.target = NumpyProgram
                return self._program(state, key)
            except Untraceable as error:
                self.compiles = False
                native.warn("A step is not compiled", error, stacklevel=6)
                return None
        return self.programs[key]

    def __call__(self, state: State, index: Buffer, bits: Buffer | None, rate: Any) -> State:
        program = self._program(state, (index.shape[-1], index.ndim == 1, bits is not None))
        if program is None:
            xp = self.device.xp
            X, T, weights = batch(self.recipe, xp, self.data, index)
            return train_step(self.recipe, xp, state, X, T, weights, bits, rate)
        program.take(index)
        if bits is not None:
            np.copyto(program.bits, bits)
        optimizer, step = self.recipe.optimizer, state.step + 1
        for target, scalar in zip(self.scalars, optimizer.scalars(rate, step), strict=True):
            target[...] = scalar
        self.rate[...] = rate
        program.program.run()
        for array, new in program.late:
            np.copyto(array, new)
        return State(self.theta, self.moments, self.running, step, program.loss.copy())


def stepper(recipe: Recipe, device: Device, data: Data) -> CompiledStep | None:
    """The step of a recipe, compiled; None where that cannot be or may mean something else.

    At another precision than float32 the rounding is the specification's alone.
    """
    known = str(getattr(data.rows, "dtype", "")) in DTYPES and type(data) is Data
    if recipe.precision != "float32" or not known:
        return None
    return CompiledStep(recipe, device, data)


__all__ = ["CompiledStep", "StepPlan", "key_of", "stepper", "traced"]
