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

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise

from . import native
from .blas import controller

# Multiplications of the largest product below which a step of NumPy's calls runs on one
# thread. On two idle cores, µs a step on one thread and on two: 186 and 262 for 784-100-10,
# batch 32 (2.5 million), 1544 and 2216 for 64-[128]×8-10, batch 256 (4.2); 573 and 476 for
# 784-100-10, batch 200 (16).
SMALL = 8_000_000


@contextmanager
def _shared() -> Iterator[None]:
    """The BLAS's threads are the runtime's for a while."""
    blas, runtime = controller(), native.runtime()
    allowed = min((library.num_threads or 1 for library in blas.lib_controllers), default=1)
    before = runtime.use_threads(allowed)
    if before > allowed:  # within another such context
        runtime.use_threads(before)
    try:
        with blas.limit(limits=1):
            yield
    finally:
        runtime.use_threads(before)


def threads(sizes: Sequence[int], batch_size: int) -> AbstractContextManager[object]:
    """A context for the steps of a network of these sizes; 10 µs to enter."""
    if native.available():
        return _shared()
    if max(n_in * n_out for n_in, n_out in pairwise(sizes)) * batch_size >= SMALL:
        return nullcontext()
    limit: AbstractContextManager[object] = controller().limit(limits=1)
    return limit
