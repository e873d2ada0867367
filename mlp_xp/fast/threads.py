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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from ..guard import ASKING, TRAINING
from . import native, quota
from .blas import libraries, of_scipy

# Multiplications of the largest product below which a step of NumPy's calls runs on one
# thread. On two idle cores, µs a step on one thread and on two: 186 and 262 for 784-100-10,
# batch 32 (2.5 million), 1544 and 2216 for 64-[128]×8-10, batch 256 (4.2); 573 and 476 for
# 784-100-10, batch 200 (16).
SMALL = 8_000_000
PATIENCE = 5.0  # seconds that a fork waits for a step of another thread


def _setter(library: Any) -> Callable[[int], None]:
    """Past `threadpoolctl`'s own arbiter, by which only the first thread to ask is heard."""
    found: Callable[[int], None] = getattr(
        library, "_real_set_num_threads", library.set_num_threads
    )
    return found


Lowered: TypeAlias = list[tuple[Callable[[int], None], int]]


class _Library(NamedTuple):
    """A BLAS, and how its number of threads is set."""

    of: Any
    set: Callable[[int], None]


@cache
def _libraries(
    which: Callable[[], list[Any]] = libraries,
) -> tuple[list[_Library], list[_Library]]:
    """Those whose number of threads is the process's, and those that have one a thread."""
    shared, own = list[_Library](), list[_Library]()
    for library in which():
        openmp = getattr(library, "threading_layer", None) == "openmp"
        (own if openmp else shared).append(_Library(library, _setter(library)))
    return shared, own


def _lower(libraries: list[_Library]) -> tuple[Lowered, int]:
    """One thread for all: how those are set that had more, with their numbers; and the least."""
    lowered: Lowered = []
    allowed = quota.MANY
    for library, set_ in libraries:
        count = library.num_threads or 1
        if count > 1:
            set_(1)
            lowered.append((set_, count))
        if count < allowed:
            allowed = count
    return lowered, allowed


class _Held:
    """The process's BLAS on one thread for as long as any thread of Python wants it so.

    Who comes while it is held is told the number of before, and the last one restores it: were
    it whoever measured it first, a fit that began during another's would leave it at one.
    """

    def __init__(self, which: Callable[[], list[Any]] = libraries) -> None:
        self.which = which
        self.lock, self.depth = threading.RLock(), 0
        self.lowered: Lowered = []
        self.allowed = 1
        self.inherited = False

    def enter(self) -> int:
        """The number of threads that it had."""
        with self.lock:
            if self.depth == 0:
                if self.inherited:
                    for set_, _ in self.lowered:
                        set_(1)
                else:
                    self.lowered, self.allowed = _lower(_libraries(self.which)[0])
            self.depth += 1
            return self.allowed

    def leave(self) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                self.inherited = False
                for set_, count in self.lowered:
                    set_(count)

    def forked(self) -> None:
        """In the child of a fork nobody else holds it; its numbers are restored after the next."""
        self.lock, self.inherited, self.depth = threading.RLock(), self.depth > 0, 0


HELD, HELD_OF_SCIPY = _Held(), _Held(of_scipy)


class _Fork:
    """No fork while a training in another thread is within a product on several threads.

    OpenBLAS stops its threads at a fork, and waits for them for ever if they are at work. So
    whoever forks sets it to one thread, and waits until every training has ended the step, or
    the evaluation, in which it was, and every answer is given. Tables of the runtime see to it
    themselves.
    """

    def __init__(self) -> None:
        self.waited = threading.local()

    def before(self) -> None:
        me, until = threading.get_ident(), time.monotonic() + PATIENCE
        others = [entry for entry in TRAINING if entry[0] != me]
        self.waited.held = bool(others or ASKING)
        if not self.waited.held:
            return
        HELD.enter()
        seen = [(entry, entry[1].state) for entry in others]
        asked = [entry for entry in ASKING if entry[0] != me]
        while any(entry in ASKING for entry in asked) or any(
            entry in TRAINING and entry[1].state is state for entry, state in seen
        ):
            if time.monotonic() > until:  # it does something else, in a callback of the user's
                return
            time.sleep(0.0005)

    def after_in_parent(self) -> None:
        if self.waited.held:
            HELD.leave()

    def after_in_child(self) -> None:
        HELD.forked()
        HELD_OF_SCIPY.forked()
        me = threading.get_ident()
        TRAINING[:] = [entry for entry in TRAINING if entry[0] == me]
        ASKING[:] = [entry for entry in ASKING if entry[0] == me]


FORK = _Fork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=FORK.before,
        after_in_parent=FORK.after_in_parent,
        after_in_child=FORK.after_in_child,
    )


class Alone:
    """While it is entered, the BLAS runs on one thread: 3 µs.

    That is a third of what `threadpoolctl`'s own context takes, and a prediction for a few
    rows is made in twenty.
    """

    def __enter__(self) -> int:
        """The number of threads that it had, or that there are processors for."""
        allowed = HELD.enter()
        self.own, least = _lower(_libraries()[1])
        return min(allowed, least, quota.processors())

    def __exit__(self, *error: object) -> None:
        for set_, count in self.own:
            set_(count)
        HELD.leave()


@contextmanager
def scipy_alone() -> Iterator[None]:
    """While it is entered, SciPy's BLAS runs on one thread: it is another than NumPy's.

    What SciPy's L-BFGS asks of it is microseconds of work for which two threads wait on each
    other: a fit of 4 ms took 120 beside two busy processes.
    """
    HELD_OF_SCIPY.enter()
    try:
        yield
    finally:
        HELD_OF_SCIPY.leave()


class Shared(Alone):
    """While it is entered, the BLAS's threads are the runtime's."""

    def __enter__(self) -> int:
        runtime, allowed = native.runtime(), Alone.__enter__(self)
        self.before = runtime.use_threads(allowed)
        if self.before > allowed:  # as somebody has asked for
            runtime.use_threads(self.before)
        return allowed

    def __exit__(self, *error: object) -> None:
        Alone.__exit__(self, *error)
        native.runtime().use_threads(self.before)


def threads(sizes: Sequence[int], batch_size: int) -> AbstractContextManager[object]:
    """A context for the steps of a network of these sizes: 3 to 10 µs."""
    if native.available():
        return Shared()
    if max(n_in * n_out for n_in, n_out in pairwise(sizes)) * batch_size >= SMALL:
        return nullcontext()
    return Alone()
