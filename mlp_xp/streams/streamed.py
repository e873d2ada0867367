"""`Stream`: examples that are read in blocks, and the order in which they come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from .. import checks
from ..cached import cached_property
from ..draws import Purpose, permutation
from ..readers import DataError
from ..training import shuffled
from .ahead import ahead
from .scan import Found, scan
from .source import SHARE, Raw, Source, in_words

if TYPE_CHECKING:
    from ..model import Model


class Stream:
    """Examples in a file or an array that need not fit into memory: what `stream` returns.

    name, m    of the source, and how many examples there are
    width      features of each
    features   names of the columns, () where they have none
    target     names of the targets, likewise
    n_targets  () for one a row, (n,) for more, None for none
    memory     bytes that rows may take, being read and waiting
    units      numbers of the source's units that belong to it
    """

    def __init__(
        self, source: Source, memory: int, seed: int, units: Sequence[int] | None = None
    ) -> None:
        self.source, self.memory, self.seed = source, memory, seed
        self.units = np.arange(len(source.sizes)) if units is None else np.asarray(units)
        self.sizes = np.asarray(source.sizes, np.int64)[self.units]
        self.starts = np.concatenate([[0], np.cumsum(source.sizes)])[self.units]
        self.m = int(self.sizes.sum())
        self.name, self.width, self.target = source.name, source.width, source.target
        self.features = source.features if len(source.features) == source.width else ()
        self.n_targets = source.n_targets
        self.most = memory // SHARE // source.row_bytes
        if self.most < 1:
            raise ValueError(
                f"memory is {in_words(memory)}, but to read a row of {self.name} takes "
                f"{in_words(source.row_bytes)} at once: expected at least "
                f"{in_words(source.row_bytes * SHARE)}."
            )

    def __len__(self) -> int:
        return self.m

    def __repr__(self) -> str:
        to = "" if self.n_targets is None else ", with targets"
        return f"<Stream {self.name}: {self.m:,} × {self.width}{to}, {in_words(self.memory)}>"

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"{self.name} is a stream, which is never in memory as a whole: `fit`, `evaluate` and "
            "`predict` of MLP and Sequential take it. Estimators and all else take arrays: use "
            "MLP in their place, or load the data."
        )

    # -- reading ---------------------------------------------------------------

    def blocks(
        self, order: npt.NDArray[np.int64] | None = None, past: int = 0
    ) -> Iterator[tuple[int, Raw]]:
        """Rows as they are in the file, with the number of the first in it.

        order  in which units come, None for the file's own
        past   rows of that order to leave out; a unit that has no others is not read
        """
        self._check_unchanged()
        for i in range(len(self.units)) if order is None else order:
            if past >= self.sizes[i]:
                past -= int(self.sizes[i])
                continue
            row = int(self.starts[i])
            for raw in self.source.read(int(self.units[i]), self.most):
                n = len(raw.rows)
                if past < n:
                    yield row + past, raw.at(slice(past, None))
                row, past = row + n, max(past - n, 0)
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        changed = self.source.changed()
        if changed is not None:
            raise DataError(
                f"{changed} has changed since it was opened: open the stream anew when nobody "
                "writes to it."
            )

    @cached_property
    def found(self) -> Found:
        """Moments, classes and the like of all rows: one pass, the first time it is asked for.

        Raises `DataError` for what is not finite.
        """
        return scan(self.source, ahead(self.blocks()))

    def split(self, share: float, seed: int = 0) -> tuple[Stream, Stream]:
        """Two streams of the same source: a random share of its units held out, and the rest.

        share  of the units, in (0, 1); at least one goes to either

        Returns what is left, and what is held out. Rows that lie together in the file stay
        together: where it is sorted, units are not alike, and a share of them is no sample.
        """
        share, n = checks.number("share", share, 0, 1), len(self.units)
        if n < 2:
            raise DataError(
                f"{self.name} is one unit of {self.m:,} rows, which cannot be divided: write it in "
                "smaller row groups or chunks, or in two files."
            )
        order = permutation(checks.seed("seed", seed), Purpose.SPLIT, 0, n)
        held = min(max(round(share * n), 1), n - 1)
        parts = (self.units[np.sort(part)].tolist() for part in (order[held:], order[:held]))
        left, out = (Stream(self.source, self.memory, self.seed, part) for part in parts)
        return left, out

    # -- order -----------------------------------------------------------------

    def unit_order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The order in which an epoch reads the units."""
        return permutation(self.seed, Purpose.UNITS, epoch, len(self.units))

    def window(self, row: int, networks: int, batch_size: int) -> int:
        """How many rows are shuffled together: all, or as many whole batches as there is room for.

        row  bytes of an example, its target and its weight as the network takes them

        A quarter of the memory is for what is being read. Where not all rows fit there are two
        windows, one being used and one being filled. The order of a window takes 16 bytes a row
        for each network.
        """
        room = self.memory - 2 * (self.memory // SHARE) - self.source.kept
        drawn = 16 * networks
        if self.m * (row + drawn) <= room:
            return self.m
        size = room // (2 * row + drawn) // batch_size * batch_size
        if size < 1:
            least = math.ceil((2 * row + drawn) * batch_size * SHARE / (SHARE - 2))
            raise ValueError(
                f"memory is {in_words(self.memory)}, but a batch of {batch_size} examples of "
                f"{self.name} does not fit twice: expected at least "
                f"{in_words(least + self.source.kept + SHARE)}, or a smaller batch_size."
            )
        return size

    def order(
        self, model: Model, epoch: int = 0, batch_size: int | None = None
    ) -> npt.NDArray[np.int64]:
        """The order in which `model.fit` takes the rows in an epoch, (m,) or (n_networks, m).

        epoch       counted from 0 over the life of the model
        batch_size  as `fit` is given it

        The indices are of the rows as they follow each other in the file; of a part of a
        `split`, in what it has. Fitting X[order], y[order] with shuffle=False does the same.
        """
        from .feed import Feed

        feed = Feed(self, model)
        size = feed.window(feed.batch_size(batch_size), len(model.seeds))
        rows = np.arange(self.m)
        if size < self.m:
            first = np.concatenate([[0], np.cumsum(self.sizes)])
            rows = np.concatenate([rows[first[i] : first[i + 1]] for i in self.unit_order(epoch)])
        parts = [
            rows[start : start + size][order]
            for start, order in self.orders(model.seeds, model.leading, epoch, size)
        ]
        return np.concatenate(parts, axis=-1)

    def orders(
        self, seeds: Sequence[int], leading: tuple[int, ...], epoch: int, size: int, past: int = 0
    ) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """The first row of each window, and the order in it.

        past  rows of the epoch; a window that has no others is left out
        """
        for number, start in enumerate(range(0, self.m, size)):
            n = min(size, self.m - start)
            if past < start + n:
                yield start, shuffled(seeds, leading, epoch, n, number)


Check = Callable[[], object]

__all__ = ["Stream"]
