"""What a training step launches on CUDA: kernels and products of cuBLAS, with their arrays.

Of a step that was traced, group by group, with the formulas of each; of one whose kernels were
written by hand (`fast.program`), launch by launch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import cupy

from ..architecture import Architecture
from ..fast.cublas import Product
from ..fast.cupy import CupyStep
from ..fast.graph import GraphStep
from ..fast.launches import KernelWarning, Launch, Unless
from ..fast.program import Program
from ..types import Array, State
from .cuda_step import TracedProgram
from .explain import Explanation, Group, Launched, explain, in_blocks, named

# what the kernels of a step compute
DOES = {
    "gather": "X = rows[index].T",
    "weigh": "the sum of the batch's weights",
    "draw_bits": "bits of dropout",
    "take_batch": "targets, weights and scalars of this step",
    "as_bfloat16": "an operand, rounded to bfloat16",
    "multiply": "W A, or W.T delta",
    "layer_forward": "V, A = f(W A + b)",
    "layer_forward_batch": "V, A = f(gain * N + b), N = (Z - mean) / deviation over the batch",
    "layer_forward_layer": "V, A = f(gain * N + b), N = (Z - mean) / deviation over the layer",
    "score": "S = W A + b, delta = dJ/dS, the loss of each example; of a narrow layer below delta",
    "layer_backward": "delta = (W.T delta) * slope",
    "layer_backward_batch": "delta = dJ/dZ through slope and normalisation, db, dgain",
    "layer_backward_layer": "delta = dJ/dN through slope, db, dgain",
    "layer_norm_backward": "delta = dJ/dZ through normalisation",
    "totals": "db, the sum of delta over the batch",
    "gradients": "dW = delta A.T, db",
    "regularise": "l2, absent connections and clipping, and the gradient's norm",
    "close": "J, and the scalars of the update",
    "update": "theta', moments'",
    "copied": "what could not be written before all was read",
    "end_step": "J to the losses of the epoch",
}
REPLAYED = (
    "Replayed as a CUDA graph, of 16 steps and for what is left of an epoch of 8, 4, 2 and 1, once "
    "ten replayed steps have equalled as many eager ones."
)


def explain_launches(step: CupyStep, state: State, m: int) -> Explanation:
    """What a step of m examples launches.

    ValueError where a formula of a traced step cannot be recorded.
    """
    step._begin(state)
    traced = step.kind is TracedProgram
    with warnings.catch_warnings():
        if traced:  # of one by hand the other parts are launched all the same
            warnings.simplefilter("error", KernelWarning)
        try:
            program: Any = step.kind(step, m, not step.leading)
        except KernelWarning as warning:
            raise ValueError(f"The step cannot be explained: {warning}") from None
    found = _traced(program) if traced else _by_hand(program)
    if isinstance(step, GraphStep) and program.replayable:
        return replace(found, notes=(REPLAYED,))
    return found


def _traced(step: TracedProgram) -> Explanation:
    program = step.program
    parts, names = named(program, step.recipe.network)
    found = explain(program, parts, names)

    def launches(group: Group, number: int) -> Group:
        plan = program.plan
        if number in program.by_item:
            each = _launches(program.calls[program.by_item[number]])
            return replace(group, launches=tuple(map(_said, each)))
        if number in plan.within:
            return replace(
                group, launches=(f"nothing, as group {plan.within[number] + 1} does it",)
            )
        return replace(group, launches=("nothing, as it is written once",))

    numbers = [item.number for item in program.fusion.items]
    groups = tuple(map(launches, found.groups, numbers))
    whole = tuple(_launches(step.calls))
    return replace(found, groups=groups, calls=len(whole), launches=whole)


def _by_hand(program: Program) -> Explanation:
    step, data = program.step, program.step.data
    given = {"theta": step.theta, "running": step.running, "rows": data.rows}
    given |= {f"moment{i}": moment for i, moment in enumerate(step.moments)}
    given |= {"targets": data.targets, "inbox": step.inbox, "now": step.now}
    if program.drawn:
        given["seeds"] = step.seeds
    if step.recipe.connected is not None:
        given["connected"] = step.recipe.connected
    given = {name: array for name, array in given.items() if array.size}
    made = {"gradient": step.g, "X": program.X, "losses": program.values, "bits": program.bits}
    names = _Names(step.recipe.network, given, made)
    launches = tuple(_launches(program.calls, names))
    sizes = {name: array.nbytes for name, array in given.items()}
    memory = sum(names.buffers.values())
    return Explanation("CUDA", (), len(launches), sizes, names.buffers, memory, launches=launches)


class _Names:
    """What the arrays of launches are called: pieces of flat vectors by their layers, else t1, t2 …

    buffers  bytes of those that the program has made, by name
    """

    def __init__(
        self, network: Architecture, given: Mapping[str, Array], made: Mapping[str, Array]
    ) -> None:
        self.slots = {slot.start: slot for slot in network.slots}
        self.known = {**given, **{name: array for name, array in made.items() if array.size}}
        self.buffers = {name: array.nbytes for name, array in made.items() if array.size}
        self.count = 0

    def of(self, array: Array) -> tuple[str, int]:
        """The name, and how many bytes a launch may touch."""
        at = array.data.ptr
        for name, whole in self.known.items():
            entry, rest = divmod(at - whole.data.ptr, whole.itemsize)
            if rest or not 0 <= entry < whole.size:
                continue
            slot = self.slots.get(entry)
            if name not in ("theta", "gradient") or slot is None or array.size == whole.size:
                return name, array.nbytes
            letter, networks = "d" if name == "gradient" else "", whole.size // whole.shape[-1]
            return letter + slot.name, networks * (slot.stop - slot.start) * whole.itemsize
        self.count += 1
        name = f"t{self.count}"
        self.known[name], self.buffers[name] = array, array.nbytes
        return name, array.nbytes


def _launches(
    calls: Iterable[Callable[[], object]], names: _Names | None = None
) -> Iterator[Launched]:
    """What each call launches.

    names  of the arrays, where these are wanted
    """
    for call in calls:
        made = call.launch if isinstance(call, Unless) else call
        if isinstance(made, Launch):
            _, *sizes, _ = made.launch
            grid, block = math.prod(sizes[:3]), math.prod(sizes[3:])
            found = Launched(made.name, DOES.get(made.name, ""), grid, block, {}, 0)
            arrays = made.kept
        elif isinstance(made, Product):
            arrays = A, B, out = made.arrays
            does = f"{list(A.shape)} @ {list(B.shape)}"
            found = Launched(made.name, does, 0, 0, {}, 2 * out.size * A.shape[-1])
        else:
            arrays, found = (), Launched("CuPy", "as the specification has it", 0, 0, {}, 0)
        if names is not None:
            given = [one for one in arrays if isinstance(one, cupy.ndarray) and one.size]
            found = found._replace(arrays=dict(map(names.of, given)))
            if found.name == "gradients" and "theta" in found.arrays:
                found = found._replace(does=f"{found.does}, and with them {DOES['update']}")
        yield found


def _said(launch: Launched) -> str:
    return f"{launch.name} ({in_blocks(launch)})" if launch.blocks else launch.name
