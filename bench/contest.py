"""What a contestant is, and what all of them share.

All do the same work with the same numbers: relu, Adam at 1e-3 (0.9, 0.999), cross-entropy
(binary for one output); each step gathers its batch by a shuffled index out of resident
examples and computes the loss, which is read at the end only. A peer may have several
settings; the harness tries all and times the fastest, saying which.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from cases import Arrays, Case
from timing import Session

from mlp_xp.bench import last_level_cache

Make = Callable[[Case, Arrays, str, str], Session]  # case, inputs, device, setting


# How many steps all are led down the same path, and how far their losses may be apart then.
# On a CPU, right ones are 4e-7 apart after 100 steps of 784-100-10. Through more layers they
# part by rounding alone: 64-[128]×8-10 is 2e-7 apart after 32 steps and 1e-3 after 100,
# 784-2048-2048-10 is 1e-4 after 16 and 8e-3 after 64, 784-4096-4096-10 3e-4 after 16.
STEPS_TOGETHER, STEPS_DEEP = 100, 16
APART = {"float32": 1e-3, "tf32": 5e-3, "bfloat16": 2e-2}


def steps_together(case: Case) -> int:
    """How many steps of a case are taken before losses are compared with each other's."""
    return STEPS_TOGETHER if len(case.sizes) == 3 else STEPS_DEEP


def apart(case: Case, losses: dict[str, float]) -> dict[str, str]:
    """Whose loss after `steps_together` is too far from the median of all, and how far."""
    middle = float(np.median(list(losses.values()))) if losses else 1.0
    found = {name: abs(loss - middle) / abs(middle) for name, loss in losses.items()}
    n, most = steps_together(case), APART[case.precision]
    return {
        name: f"its loss after {n} steps is {off:.2g} from the others', more than {most:g}"
        for name, off in found.items()
        if not off <= most
    }


class Peer(NamedTuple):
    """One contestant.

    modules   imported before anything is measured; one that is missing is said so
    library   whose names and events `timing.DEVICES` holds
    training, inference, kernels
              (case, inputs, device, setting) → Session, or None where it has none
    startup   a program that trains one epoch on the digits, or ""
    settings  kind and device → settings to try
    devices   where it runs
    epsilon_hat  whether its Adam is the one at the end of §2 of the paper
    path      whether its runs go on from batch to batch, so that its loss after many steps
              can be held to that of the others: what lesser precisions are told apart by
    """

    modules: tuple[str, ...]
    library: str
    training: Make | None = None
    inference: Make | None = None
    kernels: Make | None = None
    startup: str = ""
    settings: dict[tuple[str, str], tuple[str, ...]] = {}  # noqa: RUF012 — never changed
    devices: tuple[str, ...] = ("cpu",)
    epsilon_hat: bool = False
    path: bool = True

    def make(self, kind: str) -> Make | None:
        """How a kind of case is begun."""
        makers = {
            "training": self.training,
            "devices": self.training,
            "inference": self.inference,
            "kernels": self.kernels,
        }
        return makers.get(kind)

    def tried(self, kind: str, device: str) -> tuple[str, ...]:
        """The settings to try for a kind of case on a device."""
        return self.settings.get(("training" if kind == "devices" else kind, device), ("",))


def nothing() -> None:
    """A CPU's work is done when the call returns."""


def batches_of(case: Case, arrays: Arrays) -> list[Any]:
    """Slices of the examples, one batch each."""
    m = arrays["rows"].shape[0] // case.batch * case.batch
    return [slice(start, start + case.batch) for start in range(0, m, case.batch)]


def rotating(batches: list[Any], call: Callable[[Any], Any]) -> tuple[Any, Any]:
    """`run` that calls with one batch after another, and `first`: the first batch's answer."""
    ring = cycle(batches)

    def run(n: int) -> None:
        for _ in range(n):
            call(next(ring))

    return run, lambda: call(batches[0])


def copies_of(arrays: Arrays, cold: bool) -> list[Arrays]:
    """A kernel's inputs so many times that they do not fit the cache; `rows` never does."""
    size = sum(array.nbytes for name, array in arrays.items() if name != "rows")
    n = min(256, max(1, 2 * last_level_cache() // size)) if cold else 1
    copies = []
    for i in range(n):
        copy = {name: array if name == "rows" else array.copy() for name, array in arrays.items()}
        if "index" in copy:
            copy["index"] = (copy["index"] + 997 * i) % len(arrays["rows"])
        copies.append(copy)
    return copies
