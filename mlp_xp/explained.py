"""What a training step of a recipe does on a device: its program, as people read it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .compile.explain import Explanation, explain, named
from .compile.program import Program
from .compile.step import Apart, Batch, CompiledStep
from .devices import device
from .fast.tracing import Untraceable
from .hardware import Device
from .training import Data, Recipe
from .types import Namespace, State


def explain_step(
    recipe: Recipe,
    state: State,
    m: int,
    on: Device | None = None,
    target: type[Program] | None = None,
) -> Explanation:
    """What a training step on m examples does, as a device runs it: the CPU, if that is None.

    target  the class of the CPU's programs, None for the one that is usual here

    ValueError where a formula cannot be recorded.
    """
    where, step = on or device("cpu"), None
    dtype = str(state.theta.dtype).rpartition(".")[2]
    if where.stepper is not None:
        step = where.stepper(recipe, where, _blank(recipe, where.xp, dtype, m))
    if step is not None and not isinstance(step, CompiledStep):
        from .compile.explain_cuda import explain_launches

        return explain_launches(step, state, m)
    notes: tuple[str, ...] = ()
    if step is None:
        notes = (
            f"On {where.name!r} at precision {recipe.precision!r} the specification computes this, "
            "formula by formula: nothing is fused or compiled.",
        )
    absent, get, cpu = recipe.connected, where.get, device("cpu")
    connected = None if absent is None else get(absent)
    own = replace(
        recipe, decayed=get(recipe.decayed), classes=get(recipe.classes), connected=connected
    )
    step = CompiledStep(own, cpu, _blank(recipe, cpu.xp, dtype, m), target)
    moments = tuple(map(_zeros, state.moments))
    step._begin(State(_zeros(state.theta), moments, _zeros(state.running), 0))
    try:
        found = _on_the_cpu(step, m)
    except Untraceable as error:
        raise ValueError(f"The step cannot be explained, as {error}.") from None
    return replace(found, notes=notes)


def _on_the_cpu(step: CompiledStep, m: int) -> Explanation:
    """Of the programs that a step makes for its batches."""
    network, one = step.recipe.network, step.theta.ndim == 1
    made = step._made(m, one, network.n_dropped > 0)  # several networks have batches of their own
    if isinstance(made, Apart) and len(made.batches) == len(step.theta):
        program = made.batches[0].program
        return replace(explain(program, *named(program, network)), networks=len(made.batches))
    if isinstance(made, Apart):  # for a part of them each thread has a program like that of all
        made = Batch(step, m, one, network.n_dropped > 0)
    return explain(made.program, *named(made.program, network))


def _blank(recipe: Recipe, xp: Namespace, dtype: str, m: int) -> Data:
    """Examples of which nothing but their sizes counts."""
    n_in, n_out = recipe.network.sizes[0], recipe.network.sizes[-1]
    numbers = getattr(xp, dtype)
    labels = xp.zeros((m, n_out), dtype=numbers)
    if recipe.loss.kind == "multiclass":
        labels = xp.zeros(m, dtype=xp.int64)
    return Data(xp.zeros((m, n_in), dtype=numbers), labels, None)


def _zeros(array: Any) -> Any:
    return np.zeros(array.shape, str(array.dtype).rpartition(".")[2])


__all__ = ["explain_step"]
