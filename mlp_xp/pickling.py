"""Through pickle: rows of the tables by their names, functions of a user's as they are.

Rows hold lambdas, which pickle cannot find again. Pickle carries a model to another process;
`storage` keeps it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

V = TypeVar("V")


class _ByValue:
    """Something pickled that comes back as what was pickled."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.content,)


def portable(argument: str, value: Any) -> Any:
    """The value if pickle takes it, else cloudpickle's word for it where that is installed."""
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        try:
            import cloudpickle
        except ImportError:
            raise pickle.PicklingError(
                f"{argument} holds {value!r}, which pickle does not take ({error}), but expected "
                "functions from the top level of a module. Move it there, or install "
                "cloudpickle, which takes lambdas and inner functions."
            ) from None
        return _ByValue(cloudpickle.dumps(value))
    return value


def reduced(
    argument: str, table: Mapping[str, Any], find: Callable[[str], Any], row: tuple[Any, ...]
) -> tuple[Any, ...]:
    """`__reduce__` of a row: find(its name), or its class and parts where it stands in no table."""
    for name, other in table.items():
        if other is row:
            return find, (name,)
    return type(row), tuple(portable(argument, part) for part in row)


def named(argument: str, table: Mapping[str, V], name: str) -> V:
    """The row that a pickle asks for."""
    if name not in table:
        raise pickle.UnpicklingError(
            f"The pickle names the {argument} {name!r}, but here its table has only "
            f"{', '.join(map(repr, table))}. A row of your own must be added in this process "
            "too: do it in the module that it imports."
        )
    return table[name]
