"""On how many threads a network on the CPU trains.

OpenBLAS shares a product out to all cores as soon as it has some hundred thousand
multiplications, and its threads then wait for each other spinning. For the small products
of a small network that gains little on an idle machine, and on a busy one, where one of
the threads may be put aside for some milliseconds, it is ten to twenty times slower than
one thread. So small steps run on one thread of the BLAS; and compiled ones always do, for
`runtime.c` shares their products out itself, with the rest of the step, to as many threads
as the BLAS was allowed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

from . import native
from .blas import controller

# Multiplications of the largest product below which a step of NumPy's calls runs on one
# thread. On two idle cores, µs a step on one thread and on two: 186 and 262 for 784-100-10,
# batch 32 (2.5 million), 1544 and 2216 for 64-[128]×8-10, batch 256 (4.2); 573 and 476 for
# 784-100-10, batch 200 (16).
SMALL = 8_000_000


class _Held:
    """The BLAS on one thread for as long as any thread of Python wants it so: 3 µs.

    Its number of threads is the process's. Who comes while it is held is told the number of
    before, and the last one restores it: were it whoever measured it first, a fit that began
    during another's would leave it at one. `threadpoolctl`'s own context does so, and takes
    three times as long, where a prediction for a few rows is made in twenty.
    """

    def __init__(self) -> None:
        self.lock, self.depth = threading.RLock(), 0
        self.counts: list[int] = []
        self.inherited = False

    def __enter__(self) -> int:
        """The number of threads that it had."""
        with self.lock:
            if self.depth == 0:
                libraries = controller().lib_controllers
                if not self.inherited:
                    self.counts = [library.num_threads or 1 for library in libraries]
                for library, count in zip(libraries, self.counts, strict=True):
                    if count > 1:
                        library.set_num_threads(1)
            self.depth += 1
            return min(self.counts, default=1)

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                self.inherited = False
                for library, count in zip(controller().lib_controllers, self.counts, strict=True):
                    if count > 1:
                        library.set_num_threads(count)

    def forked(self) -> None:
        """In the child of a fork nobody else holds it; its numbers are restored after the next."""
        self.lock, self.inherited, self.depth = threading.RLock(), self.depth > 0, 0


HELD = _Held()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=HELD.forked)


class Shared:
    """While it is entered, the BLAS's threads are the runtime's."""

    def __enter__(self) -> None:
        runtime, allowed = native.runtime(), HELD.__enter__()
        self.before = runtime.use_threads(allowed)
        if self.before > allowed:  # as somebody has asked for
            runtime.use_threads(self.before)

    def __exit__(self, *error: object) -> None:
        HELD.__exit__()
        native.runtime().use_threads(self.before)


def threads(sizes: Sequence[int], batch_size: int) -> AbstractContextManager[object]:
    """A context for the steps of a network of these sizes: 3 to 10 µs."""
    if native.available():
        return Shared()
    if max(n_in * n_out for n_in, n_out in pairwise(sizes)) * batch_size >= SMALL:
        return nullcontext()
    return HELD
