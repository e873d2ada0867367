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


class Shared:
    """While it is entered, the BLAS's threads are the runtime's: 3 µs.

    That is a third of what `threadpoolctl`'s own context takes, and a prediction for a few
    rows is made in twenty.
    """

    def __enter__(self) -> None:
        libraries, runtime = controller().lib_controllers, native.runtime()
        self.counts = [library.num_threads or 1 for library in libraries]
        allowed = min(self.counts, default=1)
        self.before = runtime.use_threads(allowed)
        if self.before > allowed:  # within another such context
            runtime.use_threads(self.before)
        for library, count in zip(libraries, self.counts, strict=True):
            if count > 1:
                library.set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        for library, count in zip(controller().lib_controllers, self.counts, strict=True):
            if count > 1:
                library.set_num_threads(count)
        native.runtime().use_threads(self.before)


def threads(sizes: Sequence[int], batch_size: int) -> AbstractContextManager[object]:
    """A context for the steps of a network of these sizes: 3 to 10 µs."""
    if native.available():
        return Shared()
    if max(n_in * n_out for n_in, n_out in pairwise(sizes)) * batch_size >= SMALL:
        return nullcontext()
    limit: AbstractContextManager[object] = controller().limit(limits=1)
    return limit
