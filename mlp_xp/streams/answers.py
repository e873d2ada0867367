"""Predictions of a stream: block by block, or into a .npy file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..readers import Rows
from .ahead import ahead
from .feed import picked
from .source import not_finite
from .streamed import Stream

if TYPE_CHECKING:
    from ..model import Model


def answers(model: Model, stream: Stream, ask: Callable[..., Any]) -> Iterator[Rows]:
    """What `ask` (a method of the model) says of the rows, in the file's order, some at a time."""
    pick = picked(stream, model)  # before the first block is asked for

    def blocks() -> Iterator[Rows]:
        for start, raw in ahead(stream.blocks()):
            rows = raw.rows if pick is None else raw.rows[:, pick]
            try:
                yield np.asarray(model.device.get(ask(rows, layout="rows")))
            except ValueError as error:
                raise not_finite(stream.source, raw.rows, start) or error from None

    return blocks()


def written(blocks: Iterator[Rows], m: int, axis: int, out: str | os.PathLike[str]) -> Path:
    """Blocks of answers as one .npy file, beside and then renamed, never whole in memory.

    axis  of the examples: 0, or 1 where several networks answer
    """
    place = Path(out)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        first = next(blocks)
        shape = (*first.shape[:axis], m, *first.shape[axis + 1 :])
        if axis:  # examples do not follow each other in memory
            found = np.lib.format.open_memmap(part, "w+", first.dtype, shape)
            start = 0
            for block in _all(first, blocks):
                found[:, start : start + block.shape[axis]] = block
                start += block.shape[axis]
            found.flush()
        else:
            with open(part, "wb") as file:
                header = {"descr": first.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)
                for block in _all(first, blocks):
                    file.write(block.astype(first.dtype, copy=False).tobytes())
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)
    return place


def _all(first: Rows, others: Iterator[Rows]) -> Iterator[Rows]:
    yield first
    yield from others


__all__ = ["answers", "written"]
