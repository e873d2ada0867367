"""`mlp-xp predict`: a table of answers, one line an example, that other programs can read.

identifiers          --id: columns of the data, as they stand there
prediction           or prediction_NAME for each of several targets
one for each class   --proba: the probability, named by the class or label
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Dataset
from ..identifiers import Column, columns
from ..model import Model
from ..prepared import NUMBERS, Preparation
from ..readers import DataError
from ..report import counted
from ..storage import write_atomically
from ..streams.ahead import ahead
from ..streams.feed import picked
from ..streams.source import not_finite
from ..tally import answers
from .common import (
    Arguments,
    Document,
    a_name,
    add_data_arguments,
    check_features,
    check_output,
    open_model,
    probabilities,
    read_data,
    say,
    usage_error,
)
from .stream_options import add_stream_arguments, check_memory, check_streamed, stream_of

BLOCK = 4096  # lines that are written at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, DATA and their options."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="file of a model")
    add("data", metavar="DATA", help="a file, digits or fashion-mnist")
    add("--proba", action="store_true", help="a column a class of probabilities")
    add(
        "--id",
        action="append",
        default=[],
        metavar="COLUMN",
        help="copy this column of DATA to the front; repeat it for several",
    )
    add("--no-header", action="store_true", help="no line with the columns' names")
    add("--out", type=a_name, metavar="FILE", help="write there, not to standard output")
    add_data_arguments(parser)
    add_stream_arguments(parser)


def predict(args: Arguments) -> Document:
    """Write the table; its columns are the document."""
    check_memory(args)
    model, prepared = open_model(args.model, args.device)
    if args.proba and model.loss.kind in NUMBERS:
        usage_error("--proba takes a model of classes, but this one predicts numbers.")
    if args.out:
        check_output(args.out, args.model, args.labels, data=args.data)
    names = list(dict.fromkeys(args.id))
    if args.memory is not None:
        return _predict_stream(args, model, prepared, names)
    data = read_data(args.data, args, prepared, labelled=False, ids=tuple(names))
    check_features(model, data, args.model)
    X = data.X if data.X_test is None else data.X_test
    identifiers = _identifiers(names, data, args.data, len(X))
    answer = answers(model, X)
    document: dict[str, Any] = {"model": args.model, "data": data.name}
    if names:
        document["ids"] = dict(zip(names, map(list, identifiers), strict=True))
    document["predictions"] = answer.tolist()
    blocks = [np.reshape(answer, (len(answer), -1))]
    header = [*names, *_predictions(prepared, blocks[0].shape[1])]
    if args.proba:
        blocks.append(probabilities(model, X))
        classes = _classes(prepared, blocks[1].shape[1])
        header += map(str, classes)
        document |= {"classes": prepared.classes, "probabilities": blocks[1].tolist()}
    _check_names(header, names, args.no_header)
    whole: list[Any] = [*identifiers, *(column for block in blocks for column in block.T)]
    text = _csv([] if args.no_header else [header], whole)
    if args.out:
        write_atomically(args.out, "".join(text).encode())
        say(args, f"{counted(len(answer), 'predictions')} written to {args.out}")
        return {**document, "out": args.out}
    if not args.json:
        for block in text:
            _check_letters(block, sys.stdout.encoding or "utf-8")
            sys.stdout.write(block)
    return document


def _predict_stream(
    args: Arguments, model: Model, prepared: Preparation, names: Sequence[str]
) -> Document:
    """Write the table block by block: neither it nor the document has all answers at once."""
    check_streamed(model, args.model)
    if args.json and not args.out:
        usage_error("--json without --out prints all predictions at once: with --memory add --out.")
    if len(names) > 1:
        usage_error(
            f"--id {names[1]}: with --memory one column can be copied, leave the others out."
        )
    # a target is read beside the features, whatever it holds: here what is copied
    data = stream_of(args, args.data, names, prepared.features, labelled=False)
    if names and not data.source.target:
        usage_error(f"--id {names[0]}: {args.data} has no named columns, so nothing can be copied.")
    pick = picked(data, model)

    def blocks() -> Iterator[str]:
        header: list[Sequence[str]] = []
        for start, raw in ahead(data.blocks()):
            rows = raw.rows if pick is None else raw.rows[:, pick]
            try:
                parts = [np.reshape(answers(model, rows), (len(rows), -1))]
            except ValueError as error:
                raise not_finite(data.source, raw.rows, start) or error from None
            parts += [probabilities(model, rows)] if args.proba else []
            if start == 0:
                titles = [*names, *_predictions(prepared, parts[0].shape[1])]
                for part in parts[1:]:
                    titles += map(str, _classes(prepared, part.shape[1]))
                _check_names(titles, names, args.no_header)
                header = [] if args.no_header else [titles]
            columns: list[Any] = [raw.targets] if names else []
            columns += [column for part in parts for column in part.T]
            yield from _csv(header, columns)
            header = []

    document: dict[str, Any] = {"model": args.model, "data": Path(args.data).name}
    if args.out:
        write_atomically(args.out, (text.encode() for text in blocks()))
        say(args, f"{counted(data.m, 'predictions')} written to {args.out}")
        return {**document, "examples": data.m, "out": args.out}
    for text in blocks():
        _check_letters(text, sys.stdout.encoding or "utf-8")
        sys.stdout.write(text)
    return document


def _identifiers(names: Sequence[str], data: Dataset, source: str, m: int) -> list[Column]:
    """The columns of these names, m cells each."""
    if not names:
        return []
    if data.table is None:
        usage_error(
            f"--id {names[0]}: {data.name} has no named columns, so there is nothing to copy: "
            "expected a table with a header. Answers come in the order of the examples."
        )
    found = columns(data, source, names)
    for name, cells in zip(names, found, strict=True):
        if len(cells) != m:
            raise DataError(
                f"--id {name}: {data.name} has {counted(len(cells), 'cells')} of it, but "
                f"{counted(m, 'examples')}."
            )
    return found


def _predictions(prepared: Preparation, n: int) -> list[str]:
    """Names of the columns of answers."""
    if n == 1:
        return ["prediction"]
    targets = prepared.target if len(prepared.target) == n else range(1, n + 1)
    return [f"prediction_{target}" for target in targets]


def _classes(prepared: Preparation, n: int) -> Sequence[Any]:
    """Of the columns of probabilities: classes, or labels that are independent of each other."""
    if prepared.classes is not None:
        return prepared.classes
    return prepared.target if len(prepared.target) == n else range(n)


def _check_names(header: Sequence[str], identifiers: Sequence[str], nameless: bool) -> None:
    """Every column has a name of its own, or nobody could tell them apart."""
    ours = header[len(identifiers) :]
    both = next((name for name in identifiers if name in ours), None)
    if both is not None and not nameless:
        usage_error(
            f"--id {both}: the answers have a column {both!r} of their own, so two would have "
            "one name. Give --no-header, or rename that column of the data."
        )


def _check_letters(text: str, encoding: str) -> None:
    """Standard output has all letters of the answers: a name must not arrive as another."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError as error:
        raise DataError(
            f"the table holds {error.object[error.start]!a}, but standard output is in "
            f"{encoding}, which has no such letter: write UTF-8 with --out FILE, or set "
            "PYTHONIOENCODING=utf-8."
        ) from None


def _csv(first: Iterable[Sequence[str]], columns: Sequence[Column]) -> Iterable[str]:
    """Lines of CSV, quoted where a cell needs it, some thousands at once."""
    spare = io.StringIO()
    writer = csv.writer(spare, lineterminator="\n")
    writer.writerows(first)
    for start in range(0, len(columns[0]), BLOCK):
        part = (map(str, column[start : start + BLOCK]) for column in columns)
        writer.writerows(zip(*part, strict=True))
        yield spare.getvalue()
        spare.seek(0)
        spare.truncate()
