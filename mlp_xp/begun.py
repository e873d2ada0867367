"""Work that a thread of its own does, whatever else has come to its end.

The pools of `concurrent.futures` take no work any more when the main thread has ended, while
other threads, and what `atexit` calls, still train.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Begun(Generic[T]):
    """Work that is being done; done here and now where there can be no more threads."""

    def __init__(self, name: str, work: Callable[[], T]) -> None:
        self.future: Future[T] = Future()
        self.thread = threading.Thread(target=_done, args=(self.future, work), name=name)
        self.apart = True
        try:
            self.thread.start()
        except RuntimeError:  # as at the end of a program, from Python 3.12 on
            self.apart = False
            _done(self.future, work)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it is done, within so many seconds."""
        if self.apart:
            self.thread.join(seconds)
        return self.future.done()

    def result(self) -> T:
        """What came of it, or its error."""
        self.wait()
        return self.future.result()


def _done(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
        del future  # which would be in a circle with the error's traceback


__all__ = ["Begun"]
