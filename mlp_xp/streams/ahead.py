"""The next item is made by a thread while one is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar, cast

from ..begun import Begun

T = TypeVar("T")

PATIENCE = 0.1  # seconds between two looks at whether somebody wants to stop
END: Any = object()


def ahead(
    items: Iterator[T],
    check: Callable[[], object] = lambda: None,
    stop: threading.Event | None = None,
) -> Iterator[T]:
    """The items, each made while the one before is used; never two ahead.

    check  called while an item is waited for, at least every `PATIENCE` seconds
    stop   set when no more are wanted, for items that take long to make

    The item after the next is begun when the next is asked for: what makes them may write them
    into two buffers by turns.
    """
    make = partial(next, items, END)
    coming = Begun("stream", make)
    try:
        while True:
            while not coming.wait(PATIENCE):
                check()
            item = coming.result()
            if item is END:
                return
            coming = Begun("stream", make)
            yield cast(T, item)
    finally:
        if stop is not None:
            stop.set()
        coming.wait()


__all__ = ["ahead"]
