"""What scores say, class by class: precision, recall, F1, and which classes are mixed up.

    precision  of the examples that were called c, the share that are c
    recall     of the examples that are c, the share that were called c
    F1         2 · precision · recall / (precision + recall)

A share of nothing is None, and "-" in a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
MOST = 20  # classes in a table; of more it shows the worst
WORST = 10
MIXED = 5  # pairs of classes that are named
UNEVEN = 10  # times as many examples of the largest class as of the smallest
RARE = 5  # examples of a class from which it is not rare
NAMED = 10  # rare classes that are named

LABELS = {
    "accuracy": "accuracy",
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "loss": "loss",
}


def described(found: Mapping[str, Any]) -> str:
    """A score as a line."""
    known = {label: found.get(key) for key, label in LABELS.items()}
    return ", ".join(f"{label} {v:.4g}" for label, v in known.items() if isinstance(v, int | float))


def counted(n: int, things: str) -> str:
    """How many, of what a plural in -s names: 1 example, 1,000 examples."""
    return f"{n:,} {things if n != 1 else things.removesuffix('s')}"


# -- classes -----------------------------------------------------------------------


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _row(name: Any, right: int, called: int, examples: int) -> dict[str, Any]:
    return {
        "class": name,
        "precision": _share(right, called),
        "recall": _share(right, examples),
        "f1": _share(2 * right, called + examples),
        "examples": int(examples),
        "predicted": int(called),
    }


def rows(counts: Sequence[Numbers], names: Sequence[Any]) -> list[dict[str, Any]]:
    """A row a class or label, of how many were called it rightly, called it, and are it."""
    columns = zip(*counts, strict=True)
    return [_row(name, *map(int, column)) for name, column in zip(names, columns, strict=True)]


def by_class(truth: Numbers, predicted: Numbers, names: Sequence[Any]) -> list[dict[str, Any]]:
    """A row a class.

    truth, predicted  (m,) numbers of classes
    names             of the classes, by number
    """
    parts = (truth[truth == predicted], predicted, truth)
    return rows([np.bincount(part, minlength=len(names)) for part in parts], names)


def by_label(truth: Numbers, predicted: Numbers, names: Sequence[Any]) -> list[dict[str, Any]]:
    """A row a label, of (m, n_labels) true and false."""
    return rows([part.sum(axis=0) for part in (truth & predicted, predicted, truth)], names)


def confused(truth: Numbers, predicted: Numbers, names: Sequence[Any]) -> list[dict[str, Any]]:
    """The pairs of classes that are mixed up most often, most often first."""
    wrong = truth != predicted
    pairs, counts = np.unique(
        truth[wrong].astype(np.int64) * len(names) + predicted[wrong], return_counts=True
    )
    return mixed(pairs, counts, names)


def mixed(pairs: Numbers, counts: Numbers, names: Sequence[Any]) -> list[dict[str, Any]]:
    """`confused`, of how many were of each pair: the number of the one · n + that of the other."""
    order = np.argsort(-counts, kind="stable")[:MIXED]
    return [
        {
            "class": names[pair // len(names)],
            "taken_for": names[pair % len(names)],
            "examples": int(count),
        }
        for pair, count in zip(pairs[order].tolist(), counts[order], strict=True)
    ]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def lines(classes: Sequence[Mapping[str, Any]], mixed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of `by_class` and pairs of `confused` as people read them."""
    shown, title = list(classes), "class"
    if len(classes) > MOST:
        there = [row for row in classes if row["f1"] is not None]
        shown = sorted(there, key=lambda row: row["f1"])[:WORST]
        title = f"class (the {len(shown)} worst of {len(classes):,} by F1)"
    table = [[title, "precision", "recall", "F1", "examples"]]
    for row in shown:
        shares = (_cell(row[key]) for key in ("precision", "recall", "f1"))
        table.append([str(row["class"]), *shares, f"{row['examples']:,}"])
    found = aligned(table)
    if mixed:
        pairs = [f"{pair['class']} taken for {pair['taken_for']}" for pair in mixed]
        times = [f"{pair['examples']:,}" for pair in mixed]
        times[0] += " times" if times[0] != "1" else " time"
        told = (f"{pair} ({n})" for pair, n in zip(pairs, times, strict=True))
        found.append("most confused: " + ", ".join(told))
    return found


def aligned(table: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Rows of cells as lines: these columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


# -- numbers -----------------------------------------------------------------------


def by_target(truth: Numbers, predicted: Numbers, names: Sequence[str]) -> list[dict[str, Any]]:
    """R², the root of the mean squared error and the mean absolute error of each target.

    truth, predicted  (m, n_targets), in the targets' units
    """
    error = predicted.astype(np.float64) - truth
    squares, sizes = np.sum(error * error, axis=0), np.sum(np.abs(error), axis=0)
    spread = np.sum((truth - truth.mean(axis=0, dtype=np.float64)) ** 2, axis=0)
    spread[truth.min(axis=0) == truth.max(axis=0)] = 0  # whatever their mean has been rounded to
    return targets(squares, sizes, spread, len(error), names)


def targets(
    squares: Numbers, sizes: Numbers, spread: Numbers, m: int, names: Sequence[str]
) -> list[dict[str, Any]]:
    """`by_target`, of the sums over m examples.

    squares  (n_targets,) of the errors' squares
    sizes    of their absolute values
    spread   of the squares of what the targets are apart from their mean
    """
    return [
        {
            "target": name,
            "r2": 1 - float(squares[i] / spread[i]) if spread[i] else None,
            "rmse": float(np.sqrt(squares[i] / m)),
            "mae": float(sizes[i] / m),
        }
        for i, name in enumerate(names)
    ]


def target_lines(targets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of `by_target` as people read them."""
    table = [["target", *(LABELS[key] for key in ("r2", "rmse", "mae"))]]
    for row in targets:
        numbers = ("-" if row[key] is None else f"{row[key]:.4g}" for key in ("r2", "rmse", "mae"))
        table.append([str(row["target"]), *numbers])
    return aligned(table)


# -- before training -------------------------------------------------------------------


def constant(low: Numbers, high: Numbers, names: Sequence[Any]) -> str:
    """What is to be said of targets that are one number in all examples; "" where none is.

    low, high  the least and the largest number of each
    names      of the targets
    """
    parts = zip(low, high, names, strict=True)
    said = [f"{name} ({least:g})" for least, most, name in parts if least == most]
    listed = ", ".join(said[:NAMED]) + (f" … ({len(said)} in all)" if len(said) > NAMED else "")
    theirs = "one number in all examples to train on: nothing is learnt from it"
    return f"target {listed} is {theirs}. Is this the wrong column?" if said else ""


def balance(
    counts: Sequence[int] | Numbers, names: Sequence[Any], m: int, exclusive: bool = True
) -> str:
    """What is to be said of how many of m examples the classes have; "" where nothing is.

    counts     by class
    exclusive  whether an example is of one class; labels that are independent of each other
               need not be of one size
    """
    sizes, said = np.asarray(counts), []
    low, high = int(np.argmin(sizes)), int(np.argmax(sizes))
    if exclusive and sizes[high] > UNEVEN * sizes[low]:
        large, small = (f"{100 * sizes[c] / m:.3g} % are of class {names[c]}" for c in (high, low))
        said.append(f"classes are uneven: {large} ({sizes[high]:,}), {small} ({sizes[low]:,})")
    rare = np.flatnonzero(sizes < RARE)
    if len(rare):
        listed = ", ".join(f"{names[c]} ({sizes[c]})" for c in rare[:NAMED])
        more = f" … ({len(rare)} in all)" if len(rare) > NAMED else ""
        kind = ("class" if exclusive else "label") + ("es" if exclusive else "s") * (len(rare) > 1)
        said.append(f"fewer than {RARE} examples to train on of {kind} {listed}{more}")
    return "; ".join(said)
