"""How many threads NumPy's BLAS uses while a network trains.

OpenBLAS shares a product out to all cores as soon as it has some hundred thousand
multiplications, and its threads then wait for each other spinning. For the small products
of a small network that gains little on an idle machine, and on a busy one, where one of
the threads may be put aside for some milliseconds, it is ten to twenty times slower than
one thread. So small steps run on one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import pairwise
from typing import Any

# Multiplications of the largest product below which a step runs on one thread. On two idle
# cores, µs a step on one thread and on two: 186 and 262 for 784-100-10, batch 32 (2.5 million),
# 1544 and 2216 for 64-[128]×8-10, batch 256 (4.2); 573 and 476 for 784-100-10, batch 200 (16).
SMALL = 8_000_000


@cache
def _blas() -> Any:
    """The BLAS libraries that are loaded: found once, in about a millisecond."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def threads(sizes: Sequence[int], batch_size: int) -> AbstractContextManager[object]:
    """A context for the steps of a network of these sizes; 10 µs to enter."""
    if max(n_in * n_out for n_in, n_out in pairwise(sizes)) * batch_size >= SMALL:
        return nullcontext()
    limit: AbstractContextManager[object] = _blas().limit(limits=1)
    return limit
