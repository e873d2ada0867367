"""Calls of kernels and of a BLAS, as `runtime.c` works them off.

Neighbours are one table, and one call of the runtime. What is no kernel stands between two
tables as a call of Python's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..begun import Begun
from . import blas, c_source, native

Buffer = npt.NDArray[Any]

WORDS = 16  # of a call: see runtime.c
# Work below which a call is not shared out, in multiplications and in entries: about that of a
# microsecond. A call that one thread makes by itself costs more than its own time, for the others
# then wait for what it has written: with four times as much, 64-100-10 with batches of 200 took
# 1.26 of the time on two threads, 784-100-10 with 32 1.07.
LEAST_PRODUCT, LEAST_ENTRIES = 50_000, 5_000


def parts_of(entries: int) -> int:
    """Into how many parts a call over so many entries may be cut."""
    return _parts(entries, LEAST_ENTRIES)


def parts_of_product(rows: int, inner: int, columns: int) -> int:
    """Into how many parts a product may be cut; one with a vector is the BLAS's, in one."""
    return _parts(rows * inner * columns, LEAST_PRODUCT) if columns > 1 else 1


def _parts(work: int, least: int) -> int:
    return max(1, min(c_source.MOST_PARTS, work // least))


def address(array: Buffer) -> int:
    """Where an array lies."""
    return int(array.__array_interface__["data"][0])


MOST_UNITS, LEAST_UNIT = 4, 3  # libraries at once, and kernels in one
_known: dict[tuple[str, str], int] = {}  # where each kernel begins, by dtype and body


def _compiled(dtype: str, bodies: Sequence[str]) -> dict[Any, int]:
    """Where kernels begin, given by their bodies.

    What did not come with the package and is new is compiled side by side.
    """
    new = []
    for body in bodies:
        if (dtype, body) not in _known:
            place = native.brought(c_source.kernel_name(dtype, body))
            if place is None:
                new.append(body)
            else:
                _known[dtype, body] = place
    if new:
        new.sort(key=lambda body: (-len(body), body))  # units of about as much
        n_units = min(MOST_UNITS, -(-len(new) // LEAST_UNIT))
        units = [new[i::n_units] for i in range(n_units)]
        sources = [c_source.unit(dtype, unit) for unit in units]
        libraries = [Begun("compile", partial(native.library, source)) for source in sources]
        for library in libraries:
            library.wait()
        for unit, library in zip(units, libraries, strict=True):
            for body in unit:
                _known[dtype, body] = native.entry(
                    library.result(), c_source.kernel_name(dtype, body)
                )
    return {body: _known[dtype, body] for body in bodies}


class Table:
    """Calls of kernels, one after the other.

    rows   of each call: the kernel, by its address or its body; its parts; its arguments
    words  the same as the runtime takes it, from `Calls.finish` on
    """

    def __init__(self) -> None:
        self.rows: list[list[Any]] = []
        self.words = np.zeros((0, WORDS), np.int64)

    def __call__(self) -> None:
        """Stands among the calls until they are finished."""
        raise AssertionError("calls run before they are finished")


def each(name: str, groups: Sequence[Sequence[Calls]]) -> Calls | None:
    """One call of groups of calls, which threads share out among them; None where some are not
    one table.

    It counts as the parts of all, by which sleeping helpers are woken.
    """
    all_of_them = [one for group in groups for one in group]
    if not all(one.whole for one in all_of_them):
        return None
    parts = min(c_source.MOST_PARTS, sum(one.parts for one in all_of_them))
    calls, found = Calls(name), np.array([one.whole for one in all_of_them], np.int64)
    begin = np.cumsum([0, *map(len, groups)], dtype=np.int64)
    function, n = native.entry(native.runtime(), "each"), len(groups)
    calls.kernel(function, found, n, begin, parts=parts)
    calls.finish()
    return calls


class Calls:
    """Calls in the order they are made, for arrays of one dtype by its name.

    whole  where the table lies that all of them are, and how many; None of several
    parts  into how many all of them may be cut, beyond one each, and one for all
    """

    whole: tuple[int, int] | None = None
    parts = 1

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[Callable[[], object]] = []
        self.kept: list[Any] = []  # the tables, and what they point at

    def kernel(
        self, function: str | int, *arguments: Buffer | int | None, parts: int = 1
    ) -> tuple[Table, int]:
        """Call a kernel, given by its body or its address; where its row stands."""
        if len(arguments) > WORDS - 2:
            raise ValueError("a kernel takes more arguments than a call has words")
        if not self.calls or not isinstance(self.calls[-1], Table):
            self.calls.append(Table())
        table = self.calls[-1]
        assert isinstance(table, Table)
        words = [function, parts, *map(self._word, arguments)]
        table.rows.append(words + [0] * (WORDS - len(words)))
        return table, len(table.rows) - 1

    def _word(self, argument: Buffer | int | None) -> int:
        """An argument as a kernel takes it: a number, or where an array lies."""
        if isinstance(argument, np.ndarray):
            self.kept.append(argument)
            return address(argument)
        return int(argument or 0)

    def product(
        self, A: Buffer, B: Buffer, out: Buffer, constant: bool = False
    ) -> tuple[Table, int] | None:
        """out ← A B, by the runtime or the BLAS; None where neither can.

        constant  whether A is only read, by all calls
        """
        (rows, inner), columns = A.shape, B.shape[1]
        (turned_a, pitch_a), (turned_b, pitch_b) = blas.layout(A), blas.layout(B)
        pitch = out.strides[0] // out.itemsize if rows > 1 else columns
        shape = (turned_a, turned_b, rows, columns, inner)
        operands = (A, pitch_a, B, pitch_b, out, pitch)
        parts = parts_of_product(rows, inner, columns)
        own = blas.own(self.name, (turned_a, turned_b), (rows, columns, inner))
        if own is not None and columns > 1:
            return self.kernel(own, int(constant), *shape, *operands, parts=parts)
        functions = blas.product(self.name, vector=columns == 1)
        if functions is None:
            return None
        return self.kernel(functions[0], functions[1], *shape, *operands, parts=parts)

    def windows(
        self,
        A: Buffer,
        B: Buffer,
        out: Buffer,
        rows: Buffer,
        runs: Buffer,
        turned: bool,
        constant: bool = False,
    ) -> tuple[Table, int]:
        """out ← A X, or A Xᵀ, by the runtime, where X lies in windows of B (`blas.fetches`).

        rows    where each row of X begins, in entries from the beginning of B
        runs    how many runs of places there are, of how many each, and where each begins
        turned  whether it is Xᵀ
        """
        n, columns = out.shape
        turned_a, pitch_a = blas.layout(A)
        shape = (turned_a, turned, n, columns, A.shape[1])
        operands = (A, pitch_a, B, 1, out, out.strides[0] // out.itemsize if n > 1 else columns)
        parts = parts_of_product(n, A.shape[1], max(columns, 2))
        own = blas.own(self.name, (False, False), (n, columns, A.shape[1]))
        assert own is not None, "whoever asks for windows has asked `blas.fetches`"
        return self.kernel(own, int(constant), *shape, *operands, runs, rows, parts=parts)

    def finish(self) -> None:
        """Compile the kernels and make the tables; raises `CannotCompile`."""
        tables = [call for call in self.calls if isinstance(call, Table)]
        rows = [row for table in tables for row in table.rows]
        bodies = list(dict.fromkeys(row[0] for row in rows if isinstance(row[0], str)))
        where: dict[Any, int] = _compiled(self.name, bodies)
        run = native.runtime().run
        for place, table in enumerate(self.calls):
            if isinstance(table, Table):
                words = [[where.get(row[0], row[0]), *row[1:]] for row in table.rows]
                table.words = np.array(words, np.int64)
                self.parts += int(np.sum(table.words[:, 1] - 1))
                self.kept.append(table.words)
                where_it_is = (address(table.words), len(words))
                self.calls[place] = partial(run, *where_it_is)
                self.whole = where_it_is if len(self.calls) == 1 else None
