"""A property that is computed once, without the lock of `functools.cached_property`.

Until Python 3.12 that one has a lock, which all objects share: the child of a fork, made while
another thread trains and asks for such a property, would wait for it for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class cached_property(Generic[T]):  # noqa: N801  # as functools has it
    """An attribute that is made when it is asked for, and kept with the object."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self.make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, of: None, owner: type) -> Self: ...
    @overload
    def __get__(self, of: object, owner: type) -> T: ...
    def __get__(self, of: object | None, owner: type) -> Self | T:
        if of is None:
            return self
        found = vars(of)[self.name] = self.make(of)
        return found


__all__ = ["cached_property"]
