"""One thread trains a model at a time, and no other reads it meanwhile.

Steps write over the arrays that they are given. Two trainings of one model would write over
each other's, and an answer computed meanwhile would be of weights that never were together:
both are refused. The thread that trains may ask in callbacks, between steps.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

# threads, and what each of them trains: its `state` is replaced after every step. Whoever
# forks waits until products that were begun on several threads of a BLAS are over
TRAINING: list[tuple[int, Any]] = []


@contextmanager
def training(run: Any) -> Iterator[None]:
    """While it is entered, this thread's steps can be waited for."""
    entry = (threading.get_ident(), run)
    TRAINING.append(entry)
    try:
        yield
    finally:
        if entry in TRAINING:
            TRAINING.remove(entry)


# likewise threads that compute answers by NumPy's products, each with a mark of its own
ASKING: list[tuple[int, object]] = []


@contextmanager
def asking() -> Iterator[None]:
    """While it is entered, this thread's products can be waited for: 1 µs."""
    entry = (threading.get_ident(), object())
    ASKING.append(entry)
    try:
        yield
    finally:
        if entry in ASKING:
            ASKING.remove(entry)


F = TypeVar("F", bound=Callable[..., Any])


class ModelBusy(RuntimeError):
    """A model is being trained and can neither be trained nor asked by anyone else."""


class Guard:
    """Of one model.

    holder  the thread that trains it, and the process of that thread; None
    turn    how many trainings have begun and ended
    """

    holder: tuple[int, int] | None = None
    turn = 0


def _guard(model: Any) -> Guard:
    found: Guard = vars(model).setdefault("_guard", Guard())  # atomic: all threads get the same
    return found


def turn(model: Any) -> int:
    """A number that changes with every training; raises `ModelBusy` during another thread's.

    What was read between two calls with the same result was not written to meanwhile.
    """
    guard = model.__dict__.get("_guard")
    if guard is None:
        return 0
    holder = guard.holder
    if holder is not None and holder[0] != threading.get_ident():
        raise ModelBusy(_during(model, holder))
    found: int = guard.turn
    return found


def unchanged(model: Any, since: int) -> None:
    """Raise `ModelBusy` if the model was trained by another thread since that `turn`."""
    if turn(model) != since:
        raise ModelBusy(
            f"This {type(model).__name__} was trained by another thread while it was read. Ask "
            "again, or ask a copy of your own: copy.deepcopy(model)."
        )


def _during(model: Any, holder: tuple[int, int]) -> str:
    name = type(model).__name__
    if holder[1] != os.getpid():
        return (
            f"This process was forked while another thread was training this {name}, so that its "
            "weights are of no whole step: expected a model that nobody trains. Fork before fit "
            "or after it, or load the model from a file."
        )
    return (
        f"This {name} is being trained by another thread, which writes over its weights: expected "
        "one that nobody trains. Wait for fit to return, or use a copy that was made before: "
        "copy.deepcopy(model)."
    )


def _alone(nested: bool) -> Callable[[F], F]:
    def decorate(method: F) -> F:
        @wraps(method)
        def inside(self: Any, *args: Any, **kwargs: Any) -> Any:
            guard, mine = _guard(self), (threading.get_ident(), os.getpid())
            try:
                holder = vars(guard).setdefault("holder", mine)  # atomic
                if holder is not mine:
                    if holder[0] != mine[0]:
                        raise ModelBusy(_during(self, holder))
                    if not nested:
                        raise ModelBusy(
                            f"{method.__name__.lstrip('_')} was called from a callback of the fit "
                            f"that is training this {type(self).__name__}: expected calls that "
                            "leave it as it is. Return True from the callback to end that fit, "
                            "and call it afterwards, or train a copy: copy.deepcopy(model)."
                        )
                guard.turn += 1
                return method(self, *args, **kwargs)
            finally:  # without a call, in which Ctrl-C could be answered
                if guard.holder is mine:
                    guard.turn += 1
                    del guard.holder

        return cast(F, inside)

    return decorate


trains = _alone(nested=False)  # a method that no thread may call while the model is trained
changes = _alone(nested=True)  # one that callbacks of that training may call
