"""A `description` in words: `MLP.summary`, what `mlp-xp show` prints, a notebook's HTML.

A table of the layers, and four facts: what a model takes, what it answers, how it was trained,
and its score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import Any

import numpy as np

from .description import Document
from .report import aligned, counted, described

WIDTH = 88  # columns of a line of text
NAMED = 20  # names that are listed in it
WORDS = ("layer", "activation", "normalisation", "skip")  # columns that are no numbers


def title(doc: Document) -> str:
    """A line."""
    several = f"{doc['networks']} networks of " if doc["networks"] > 1 else ""
    rounded = "" if doc["precision"] == "float32" else f", {doc['precision']} products"
    part = "" if doc["density"] == 1 else f", {100 * doc['density']:.3g} % of the hidden weights"
    number = f"{several}{doc['parameters']:,} parameters{part}"
    return _printable(f"{doc['model']}: {number}, {doc['dtype']}{rounded}")


def _of_kinds(layers: Sequence[Document], n: int) -> list[list[str]]:
    """The layers of a `Sequential`, below a header: their kinds, and the shapes they give."""
    rows = [["", "input", f"{n:,}", ""]]
    for layer in layers:
        shape, count = "×".join(map(str, layer["shape"])), layer["parameters"]
        rows.append([layer["name"], layer["kind"], shape, f"{count:,}" if count else ""])
    header = ["", "layer", "gives", "parameters"]
    return [[_printable(cell) for cell in row] for row in [header, *rows]]


def table(doc: Document) -> list[list[str]]:
    """The layers, below a header; columns that say nothing are left out."""
    if "kind" in doc["layers"][0]:
        return _of_kinds(doc["layers"], doc["layers"][0]["inputs"])
    rows = [["input", f"{doc['layers'][0]['inputs']:,}", "", "", "", "", ""]]
    for layer in doc["layers"]:
        rows.append(
            [
                layer["name"],
                f"{layer['units']:,}",
                layer["activation"],
                "" if layer["normalization"] == "none" else layer["normalization"],
                f"{layer['dropout']:g}" if layer["dropout"] else "",
                "yes" if layer["skip"] else "",
                f"{layer['parameters']:,}",
            ]
        )
    names = ["layer", "units", "activation", "normalisation", "dropout", "skip", "parameters"]
    kept = [i for i in range(len(names)) if any(row[i] for row in rows)]
    return [[_printable(row[i]) for i in kept] for row in [names, *rows]]


def _listed(names: Sequence[Any]) -> str:
    shown = ", ".join(str(name) for name in names[:NAMED])
    return shown + (f" … ({len(names):,} in all)" if len(names) > NAMED else "")


def _expects(features: Document) -> list[str]:
    scaling, names = features["scaling"], features["names"]
    if "columns" in features:
        return _columns(features)
    first = counted(features["number"], "features")
    if scaling is None:
        told = f"{first}, taken as they are"
        return [f"{told}: {_listed(names)}" if names else told]
    offset, divisor = (np.ravel(scaling[part]) for part in ("offset", "divisor"))
    if len(offset) == len(divisor) == 1:
        less = f"less {offset[0]:.4g} and " if offset[0] else ""
        told = f"{first}, each {less}divided by {divisor[0]:.4g}"
        return [f"{told}: {_listed(names)}" if names else told]
    offset, divisor = np.broadcast_arrays(offset, divisor)
    if len(names) != len(offset) or len(names) > NAMED:
        told = f"{first}, each less a number and divided by one of its own"
        return [f"{told}: {_listed(names)}" if names else told]
    width = max(map(len, names))
    parts = zip(names, offset, divisor, strict=True)
    return [first, *(f"  {name:<{width}}  ({_less(o)}) / {d:.4g}" for name, o, d in parts)]


def _columns(features: Document) -> list[str]:
    """Of a table."""
    columns, used = features["columns"], counted(len(features["names"]), "columns")
    become = "becomes" if used == "1 column" else "become"
    numbers = counted(features["number"], "numbers")
    scaled = "" if features["scaling"] is None else ", each less a number and divided by another"
    lines = [f"a table, of which {used} {become} {numbers}{scaled}"]
    shown = columns[:NAMED]
    width = max((len(column["name"]) for column in shown), default=0)
    lines += [f"  {column['name']:<{width}}  {column['becomes']}" for column in shown]
    return lines + ([f"  … {len(columns):,} in all"] if len(columns) > NAMED else [])


def _less(offset: float, x: str = "x") -> str:
    return f"{x} - {offset:.4g}" if offset >= 0 else f"{x} + {-offset:.4g}"


def _answers(answers: Document) -> list[str]:
    kind, names, classes = answers["kind"], answers["names"], answers["classes"]
    of = f"{names[0]}, " if len(names) == 1 else ""
    if kind in ("multiclass", "binary"):
        n = 2 if kind == "binary" else answers["number"]
        if classes is None:
            return [f"{of}one of {n:,} classes, numbered from 0"]
        return [f"{of}one of {len(classes):,} classes: {_listed(classes)}"]
    what = {"multilabel": "labels", "count": "counts"}.get(kind, "numbers")
    told = counted(answers["number"], what) + (", each 0 or 1" if what == "labels" else "")
    lines = [f"{told}: {_listed(names)}" if names else told]
    if answers["scaling"] is not None:
        offset, divisor = (np.ravel(answers["scaling"][key]) for key in ("offset", "divisor"))
        offset, divisor = np.broadcast_arrays(offset, divisor)
        units = [f"{_less(-o, f'{d:.4g} x')}" for o, d in zip(offset, divisor, strict=True)]
        if len(units) == 1:
            lines[0] += f", {units[0]} of an output x"
        elif len(names) == len(units) <= NAMED:
            width = max(map(len, names))
            lines[0] = f"{told}, of outputs x:"
            lines += [f"  {name:<{width}}  {unit}" for name, unit in zip(names, units, strict=True)]
        else:
            lines[0] += "; each is an output times a number, and another, of its own"
    return lines


def _seed(seed: Any) -> str:
    if seed is None:
        return "no seed"
    return f"seeds {_listed(seed)}" if isinstance(seed, list) else f"seed {seed}"


def _trained(training: Document) -> list[str]:
    if not training["steps"] and not training["epochs"]:
        return [f"not yet: initial weights, {_seed(training['seed'])}"]
    size = training.get("batch_size")
    lines = [
        counted(training["epochs"], "epochs")
        + (f" in batches of {size:,}" if isinstance(size, int) else "")
        + f", {counted(training['steps'], 'steps')}, {_seed(training['seed'])}"
    ]
    optimizer = training["optimizer"] or {}
    rate = optimizer.get("rate")
    parts = [(optimizer.get("name") or "own") + (f" at rate {rate:g}" if rate else "")]
    if training.get("schedule"):
        parts.append(f"schedule {training['schedule']}")
    if training.get("early_stopping"):
        parts.append(f"early stopping after {counted(training['early_stopping'], 'epochs')}")
    if training.get("class_weight"):
        parts.append("classes weighted")
    decay = optimizer.get("weight_decay")
    settings = ("l2", "alpha", "clip_norm", "clip_value", "label_smoothing")
    extra = {"weight decay": decay, **{name: training.get(name) for name in settings}}
    parts += [f"{name.replace('_', ' ')} {value:g}" for name, value in extra.items() if value]
    lines.append(", ".join(parts))
    final = training.get("final_loss")
    at_end = f", {final:.4g} in the last epoch" if isinstance(final, float) else ""
    lines.append(f"loss {training['loss']}{at_end}")
    if "data" in training:
        sizes = training.get("examples")
        n = sizes.get("training") if isinstance(sizes, Mapping) else None
        of = f"{counted(n, 'examples')} of " if isinstance(n, int) else ""
        date = training.get("date")
        lines.append(f"on {of}{training['data']}" + (f", {str(date)[:10]}" if date else ""))
    if "known_until_step" in training:
        lines.append(
            f"that is known until step {training['known_until_step']:,}; it was trained on since"
        )
    return lines


def _scores(scores: Document, steps: int) -> list[str]:
    lines = []
    for on, found in scores.items():
        if on == "validation":
            lines += _of_validation(found)
            continue
        n, data = found.get("examples"), found.get("data")
        where = f" on {counted(n, 'examples')}" if isinstance(n, int) else ""
        where += f" of {data}" if data else ""
        lines.append(f"{on.replace('_', '-')} {described(found)}{where}")
        used = found.get("trained_on")
        if on == "held_out" and isinstance(used, int) and used:
            equal = "equals one" if used == 1 else "equal some"
            lines.append(f"about {used:,} of them {equal} that it was trained on")
        if found.get("steps") != steps:
            lines.append(f"that was at step {found['steps']:,}; it was trained on since")
    return lines or ["not known; mlp-xp evaluate measures one"]


def _of_validation(found: Document) -> list[str]:
    """The last epoch's, the best of several networks', and the best of all epochs' if known."""
    best = {"loss": np.min, "score": np.max}
    told = [f"{key} {pick(found[key]):.4g}" for key, pick in best.items() if _known(found.get(key))]
    if not told:
        return []
    several = "the best network" if isinstance(found.get("loss"), list) else "the last epoch"
    line = f"validation {', '.join(told)}, of {several}"
    if _known(found.get("best_score")):
        line += f"; best score {found['best_score']:.4g}"
    return [line]


def _known(value: Any) -> bool:
    return value is not None and None not in np.ravel(value).tolist()


def facts(doc: Document) -> list[tuple[str, list[str]]]:
    """What is to be said beside the layers: a word, and lines."""
    told = [
        ("takes", _expects(doc["features"])),
        ("answers", _answers(doc["answers"])),
        ("trained", _trained(doc["training"])),
        ("score", _scores(doc["scores"], doc["training"]["steps"])),
    ]
    return [(word, [_printable(line) for line in lines]) for word, lines in told]


def _printable(text: str) -> str:
    """Without what a file's names could do to a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


# -- views -------------------------------------------------------------------------------


def as_text(doc: Document) -> str:
    """For a terminal."""
    rows = table(doc)
    left = [i for i, name in enumerate(rows[0]) if name in WORDS]
    lines = [title(doc), "", *aligned(rows, left), ""]
    told = facts(doc)
    margin = max(len(word) for word, _ in told) + 2
    for word, parts in told:
        for i, part in enumerate(parts):
            inside = " " * (len(part) - len(part.lstrip()))
            broken = wrap(part.strip(), WIDTH - margin - len(inside)) or [""]
            for j, line in enumerate(broken):
                lead = word if i == j == 0 else ""
                lines.append(f"{lead:<{margin}}{inside}{'  ' if j else ''}{line}".rstrip())
    return "\n".join(lines)


def as_html(doc: Document) -> str:
    """For a notebook: one element that needs nothing from elsewhere."""
    space = "padding: 0 1.5em 0 0; vertical-align: top; white-space: pre-wrap"
    header, *rows = table(doc)
    sides = ["left" if name in WORDS else "right" for name in header]

    def row(tag: str, cells: Sequence[str]) -> str:
        parts = zip(sides, cells, strict=True)
        return "".join(
            f'<{tag} style="text-align: {side}; {space}">{escape(cell)}</{tag}>'
            for side, cell in parts
        )

    body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in rows)
    left = f'style="text-align: left; {space}"'
    told = "".join(
        f"<tr><th {left}>{escape(word)}</th><td {left}>{escape(chr(10).join(lines))}</td></tr>"
        for word, lines in facts(doc)
    )
    return (
        f"<div><p><strong>{escape(title(doc))}</strong></p>"
        f"<table><thead><tr>{row('th', header)}</tr></thead><tbody>{body}</tbody></table>"
        f"<table><tbody>{told}</tbody></table></div>"
    )
