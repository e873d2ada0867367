"""Tables that are read by groups of rows: Parquet, and Dask's data frames by partitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import missing
from ..readers import DataError, Rows, check_targets, listed
from .source import Files, Raw, Source, at, computed, in_words, unreadable

INSTEAD = (
    "a stream takes numbers. Write it as numbers, leave it out with drop= (--drop), or, where the "
    "table fits into memory, take load_table (leave --memory out)"
)


BUFFER = 1 << 16  # bytes of a column that are read at once
PAGE, PAGE_ROWS = 1 << 20, 20_000  # what writers put into a page at most, if they are not told
HEAVY = 2  # parts of the memory, of which one may be what a row group takes to be read


def chosen(
    name: str,
    names: Sequence[str],
    features: Sequence[str] | None,
    target: Sequence[str],
    drop: Sequence[str],
    weight: str | None,
) -> tuple[str, ...]:
    """The columns that are features: those named, or all that are nothing else."""
    beside = [] if weight is None else [weight]
    for column in (*(features or ()), *target, *drop, *beside):
        if column not in names:
            raise DataError(f"{name} has no column {column!r}; its columns are {listed(names)}.")
    check_targets(name, target, drop)
    for column in features or ():
        if column in drop:
            raise DataError(f"{name}: {column!r} is named in features and in drop: choose one.")
    others = [c for c in names if c not in target and c not in drop and c not in beside]
    found = tuple(others if features is None else features)
    if not found:
        raise DataError(f"{name} has no column beside its targets to predict them from.")
    return found


def repeated(name: str, names: Sequence[str]) -> None:
    """Raise `DataError` where two columns have one name."""
    twice = next((column for i, column in enumerate(names) if column in names[:i]), None)
    if twice is not None:
        raise DataError(f"{name} has two columns {twice!r}: rename one.")


class Parquet(Source):
    """One Parquet file or several of the same columns; its units are row groups."""

    def __init__(
        self,
        paths: Sequence[Path],
        features: Sequence[str] | None,
        target: Sequence[str],
        drop: Sequence[str],
        weight: str | None,
        memory: int,
    ) -> None:
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise missing(f"reading {paths[0]} needs pyarrow", "stream", error) from None
        self.open = parquet.ParquetFile
        self.paths, self.files = list(paths), Files(paths)
        self.name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} … ({len(paths)} files)"
        self.groups: list[tuple[int, int]] = []  # of a file, and in it
        sizes, schema, held = [], None, 0
        for i, path in enumerate(paths):
            try:
                with self.open(path) as file:
                    metadata, found = file.metadata, file.schema_arrow
                    groups = [metadata.row_group(j) for j in range(metadata.num_row_groups)]
                    used = {*(features or found.names), *target, weight} - set(drop)
                    held = max(held, *(_held(group, used) for group in groups), 0)
                    rows = [int(group.num_rows) for group in groups]
            except Exception as error:
                raise unreadable(str(path), "as Parquet", error) from error
            if schema is None:
                schema = found
            _check_alike(paths[0], schema, path, found)
            if min(rows, default=0) < 0:
                raise DataError(f"{path} announces a row group of {min(rows)} rows.")
            self.groups += [(i, j) for j, n in enumerate(rows) if n]
            sizes += [n for n in rows if n]
        assert schema is not None
        repeated(self.name, schema.names)
        self.sizes, self.target, self.weight = sizes, tuple(target), weight
        if not sizes:
            raise DataError(f"{self.name} has no rows.")
        self.kept = held
        if held > memory // HEAVY:
            raise DataError(
                f"{self.name}: to unpack the pages of all columns of a row group takes "
                f"{in_words(held)}, but memory is {in_words(memory)}: expected at least "
                f"{in_words(HEAVY * held)}. Or write the file in smaller row groups, with "
                "use_dictionary=False, or name fewer features."
            )
        self.features = chosen(self.name, schema.names, features, target, drop, weight)
        self.weighted = weight is not None
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self._know(schema)

    def _know(self, schema: Any) -> None:
        """Check what the columns hold, and how wide they are."""
        kinds = {name: schema.field(name).type for name in schema.names}
        beside = () if self.weight is None else (self.weight,)
        wide = self.wide = {
            name: self._width(name, kinds[name], name in self.target)
            for name in (*self.features, *self.target, *beside)
        }
        dtypes = [_dtype(self.name, name, kinds[name]) for name in self.features]
        self.dtype = np.result_type(*dtypes)
        self.widths = [wide[name] for name in self.features]
        self.width = sum(abs(n) for n in self.widths)
        if self.target:
            total = sum(abs(wide[name]) for name in self.target)
            alone = len(self.target) == 1 and wide[self.target[0]] == -1
            self.n_targets = () if alone else (total,)
            if not alone:
                for name in self.target:
                    _dtype(self.name, name, kinds[name])
        if self.weight is not None:
            _dtype(self.name, self.weight, kinds[self.weight])

    def _width(self, name: str, kind: Any, is_target: bool) -> int:
        """Numbers a cell holds: -1 for a plain one, n for a list of n."""
        from pyarrow import types

        if types.is_fixed_size_list(kind):
            return int(kind.list_size)
        if types.is_list(kind) or types.is_large_list(kind):
            first = next(self._batches(0, 1, [name])).column(0)
            return _list_width(self.name, name, first, 0, None)
        words = types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind)
        if not (words and is_target):
            _dtype(self.name, name, kind)
        return -1

    def _batches(self, unit: int, most: int, columns: Sequence[str]) -> Iterator[Any]:
        i, j = self.groups[unit]
        what = f"row group {j}"
        try:
            # so that of a large group pages are held, not its whole columns
            file = self.open(self.paths[i], buffer_size=BUFFER, pre_buffer=False)
        except Exception as error:
            raise unreadable(str(self.paths[i]), what, error) from error
        try:
            yield from file.iter_batches(most, row_groups=[j], columns=list(columns))
        except MemoryError:
            raise
        except Exception as error:
            raise unreadable(str(self.paths[i]), what, error) from error
        finally:
            file.close()

    def read(self, unit: int, most: int) -> Iterator[Raw]:
        beside = () if self.weight is None else (self.weight,)
        columns = (*self.features, *self.target, *beside)
        start, read = int(self.starts[unit]), 0
        for batch in self._batches(unit, most, list(dict.fromkeys(columns))):
            cells = {name: batch.column(batch.schema.get_field_index(name)) for name in columns}
            yield self._raw(cells, start + read)
            read += batch.num_rows
        if read != self.sizes[unit]:
            i, j = self.groups[unit]
            raise DataError(
                f"{self.paths[i]} announces {self.sizes[unit]:,} rows in its row group {j}, but "
                f"{read:,} are there: the file is damaged. Write or fetch it again."
            )

    def _raw(self, cells: dict[str, Any], start: int) -> Raw:
        n = len(next(iter(cells.values())))
        block = np.empty((self.width, n), self.dtype)  # by columns, as Arrow has them
        first = 0
        for name, width in zip(self.features, self.widths, strict=True):
            found = _cells(self.name, name, cells[name], start, width)
            block[first : first + abs(width)] = found
            first += abs(width)
        y = self._targets(cells, start) if self.target else None
        w = None
        if self.weight is not None:
            w = _cells(self.name, self.weight, cells[self.weight], start, -1)
        return Raw(block.T, y, w)

    def _targets(self, cells: dict[str, Any], start: int) -> Rows:
        parts = [
            _cells(self.name, name, cells[name], start, self.wide[name]) for name in self.target
        ]
        if self.n_targets == ():
            return parts[0]
        return np.concatenate([np.atleast_2d(part) for part in parts]).T

    def column(self, j: int) -> str:
        ends = np.cumsum([abs(n) for n in self.widths])
        i = int(np.searchsorted(ends, j, side="right"))
        inside = f"[{j - int(ends[i]) + self.widths[i]}]" if self.widths[i] > 0 else ""
        return f"{self.features[i]!r}{inside}"

    def changed(self) -> str | None:
        return self.files.changed()


def _held(group: Any, used: set[str | None]) -> int:
    """Bytes that a row group's columns take while they are read, about.

    Of each a page and its dictionary, packed and unpacked, or all where that is less.
    """
    total = 0
    for column in (group.column(j) for j in range(group.num_columns)):
        if column.path_in_schema.partition(".")[0] not in used:
            continue
        size = int(column.total_uncompressed_size)
        page = min(PAGE, size * PAGE_ROWS // max(int(column.num_values), 1))
        parts = 2 * page + 2 * BUFFER + (2 * PAGE if column.has_dictionary_page else 0)
        total += min(2 * size, parts)
    return total


def _check_alike(first: Path, schema: Any, path: Path, found: Any) -> None:
    """Raise `DataError` where a file has not the columns of the first, in name, order and kind."""
    if found.names != schema.names:
        raise DataError(
            f"{path} has other columns than {first}: expected the same, {listed(schema.names)}, "
            f"but it has {listed(found.names)}."
        )
    for column, kind, other in zip(schema.names, schema.types, found.types, strict=True):
        if other != kind:
            raise DataError(
                f"{path}, column {column!r} holds {other}, but {kind} in {first}: expected the "
                "same kind in all files. Write it anew with that."
            )


def _dtype(name: str, column: str, kind: Any) -> np.dtype[Any]:
    """The dtype of a column's numbers; `DataError` for what holds none."""
    from pyarrow import types

    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    cell = kind.value_type if lists else kind
    if types.is_integer(cell) or types.is_floating(cell) or types.is_boolean(cell):
        found: np.dtype[Any] = np.dtype(cell.to_pandas_dtype())
        return found
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind)
    what = f"text ({kind})" if text else f"{kind}"
    raise DataError(f"{name}, column {column!r} holds {what}, but {INSTEAD}.")


def _list_width(name: str, column: str, cells: Any, start: int, width: int | None) -> int:
    """The length of all lists; `DataError` where they differ from each other, or from `width`."""
    import pyarrow.compute as compute

    lengths = compute.list_value_length(cells).to_numpy(zero_copy_only=False)
    wanted = int(lengths[0]) if width is None else width
    if (lengths != wanted).any():
        i = int(np.argmax(lengths != wanted))
        raise DataError(
            f"{at(name, start + i, repr(column))}: a list of {lengths[i]:g} numbers, but those "
            f"before have {wanted}: expected lists of one length."
        )
    if wanted < 1:
        raise DataError(f"{at(name, start, repr(column))}: a list of no numbers.")
    return wanted


def _cells(name: str, column: str, cells: Any, start: int, width: int) -> Rows:
    """A column's numbers or words, (n,); of lists (width, n)."""
    if cells.null_count:
        i = int(np.argmax(cells.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(
            f"{at(name, start + i, repr(column))}: the cell is empty, but a stream takes no gaps. "
            "Fill them in before, or leave such rows out."
        )
    if width > 0:
        _list_width(name, column, cells, start, width)
        inner = cells.flatten()
        if inner.null_count:
            i = int(np.argmax(inner.is_null().to_numpy(zero_copy_only=False))) // width
            raise DataError(f"{at(name, start + i, repr(column))}: a list has a gap in it.")
        return np.asarray(inner.to_numpy(zero_copy_only=False).reshape(-1, width).T)
    if hasattr(cells, "dictionary_decode"):
        cells = cells.dictionary_decode()
    found = np.asarray(cells.to_numpy(zero_copy_only=False))
    return found.astype(str) if found.dtype.kind == "O" else found


class Frames(Source):
    """A data frame of Dask, computed partition by partition.

    limit  bytes of what may be read at once
    """

    name = "the Dask data frame"

    def __init__(
        self,
        frame: Any,
        features: Sequence[str] | None,
        target: Sequence[str],
        drop: Sequence[str],
        weight: str | None,
        limit: int,
    ) -> None:
        names = [str(column) for column in frame.columns]
        repeated(self.name, names)
        self.features = chosen(self.name, names, features, target, drop, weight)
        self.target, self.weight, self.limit = tuple(target), weight, limit
        beside = () if weight is None else (weight,)
        self.frame = frame[list(dict.fromkeys((*self.features, *self.target, *beside)))]
        kinds = self.frame.dtypes
        for column in (*self.features, *beside):
            if not _is_number(kinds[column]):
                raise DataError(
                    f"{self.name}, column {column!r} holds {kinds[column]}, but {INSTEAD}."
                )
        self.dtype = np.result_type(*(_plain(kinds[column]) for column in self.features))
        self.width, self.weighted = len(self.features), weight is not None
        self.n_targets = None if not target else () if len(target) == 1 else (len(target),)
        lengths = computed(frame.map_partitions(len))
        self.parts = [i for i, n in enumerate(lengths) if n]
        self.sizes = [int(n) for n in lengths if n]
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        if not self.sizes:
            raise DataError(f"{self.name} has no rows.")

    def read(self, unit: int, most: int) -> Iterator[Raw]:
        number, start = self.parts[unit], int(self.starts[unit])
        try:
            frame = computed(self.frame.partitions[number])
        except MemoryError:
            raise
        except Exception as error:  # whatever the tasks of a graph raise
            raise unreadable(self.name, f"partition {number}", error) from error
        size = int(frame.memory_usage().sum())
        if size > 2 * self.limit:
            raise DataError(
                f"{self.name}: its partition {number} takes {in_words(size)}, but with the memory "
                f"given at most {in_words(2 * self.limit)} can be read at once. Give more memory, "
                "or call repartition(partition_size=…)."
            )
        if len(frame) != self.sizes[unit]:
            raise DataError(
                f"{self.name}: partition {number} had {self.sizes[unit]:,} rows, but has "
                f"{len(frame):,} now."
            )
        for i in range(0, len(frame), most):
            piece = frame.iloc[i : i + most]
            cells = {name: self._column(piece[name], start + i) for name in piece.columns}
            rows = np.empty((self.width, len(piece)), self.dtype)
            for j, name in enumerate(self.features):
                rows[j] = cells[name]
            y = None
            if self.target:
                found = [cells[name] for name in self.target]
                y = found[0] if len(found) == 1 else np.column_stack(found)
            yield Raw(rows.T, y, None if self.weight is None else cells[self.weight])

    def _column(self, series: Any, start: int) -> Rows:
        gaps = series.isna().to_numpy()
        if gaps.any():
            raise DataError(
                f"{at(self.name, start + int(np.argmax(gaps)), repr(series.name))}: the cell is "
                "empty, but a stream takes no gaps. Fill them in before, or leave such rows out."
            )
        if _is_number(series.dtype):
            return np.asarray(series.to_numpy(_plain(series.dtype)))
        return np.asarray(series.astype(str).to_numpy(object).astype(str))


def _is_number(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in "biuf"


def _plain(dtype: Any) -> np.dtype[Any]:
    """The dtype of NumPy of one of pandas's."""
    found: np.dtype[Any] = np.dtype(getattr(dtype, "numpy_dtype", dtype))
    return found


__all__ = ["Frames", "Parquet"]
