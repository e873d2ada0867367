"""Docstrings as reStructuredText: what is aligned becomes a list of terms.

    sizes       n_features, widths of the hidden layers, n_outputs
    activation  name, `Activation`, or pair of functions; one for all hidden
                layers, or a list of one a layer

and so does numpydoc's `name : what it is` below `Parameters` and a line of dashes.
"""

from __future__ import annotations

import re
from typing import Any

ROW = re.compile(r"(?P<indent> *)(?P<term>\S(?:.*?\S)?) {2,}(?P<text>\S.*)")
ENTRY = re.compile(r"(?P<indent> *)(?P<term>\w[\w, ]*) : (?P<text>\S.*)")
DASHES = re.compile(r"-{3,}")


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """The event `autodoc-process-docstring`."""
    if isinstance(obj, dict):  # a table of rows: the docstring is that of dict
        lines[:] = ["By name: " + ", ".join(f"``{key}``" for key in obj) + "."]
    lines[:] = Text(lines).converted()


class Text:
    """A docstring's lines, read from the first to the last."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = joined(lines)
        self.i = 0
        self.found: list[str] = []

    def converted(self) -> list[str]:
        while self.i < len(self.lines):
            line = self.lines[self.i]
            if DASHES.fullmatch(line):
                self.found[-1:] = ["", f".. rubric:: {self.found[-1]}", ""]
                self.i += 1
            elif self._announced() and indent(line) > indent(self.found[-2]):
                self._code()
            elif (ROW.fullmatch(line) or ENTRY.fullmatch(line)) and self._begins():
                self._terms()
            else:
                self.found.append(escaped(line))
                self.i += 1
        return self.found

    def _begins(self) -> bool:
        """Whether a list may begin here: after a blank line, or what is less indented."""
        return not self.found or not self.found[-1] or indent(self.found[-1]) < indent(self._line())

    def _line(self, ahead: int = 0) -> str:
        place = self.i + ahead
        return self.lines[place] if place < len(self.lines) else ""

    def _announced(self) -> bool:
        """Whether a blank line and, before it, a colon stand at the end."""
        return len(self.found) > 1 and not self.found[-1] and self.found[-2].endswith(":")

    def _code(self) -> None:
        """Lines deeper than what announces them are shown as they are."""
        outside = indent(self.found[-2])
        self.found[-2] += ":"
        while self.i < len(self.lines) and (not self._line() or indent(self._line()) > outside):
            self.found.append(self._line())
            self.i += 1

    def _terms(self) -> None:
        """Terms and their texts, which go on where lines are deeper."""
        depth = indent(self._line())
        space = " " * depth
        if self.found and self.found[-1]:
            self.found.append("")
        while self._line() and indent(self._line()) == depth:
            line = self._line()
            row = ROW.fullmatch(line) or ENTRY.fullmatch(line)
            term, text = (row["term"], [row["text"]]) if row else (line.strip(), [])
            self.i += 1
            if term.endswith(",") and not ROW.fullmatch(self._line()):  # names go on below
                term += f" {self._line().strip()}"
                self.i += 1
            while self._line() and indent(self._line()) > depth:
                inner = ROW.fullmatch(self._line())
                if inner and indent(self._line()) == depth + 4:
                    text += ["", *self._inner(depth + 4), ""]
                    continue
                text.append(self._line().strip())
                self.i += 1
            self.found.append(f"{space}``{term}``")
            self.found += [f"{space}    {part}".rstrip() for part in map(escaped, text)]
        self.found.append("")

    def _inner(self, depth: int) -> list[str]:
        """The terms of a list within a text, as lines of that text."""
        outside, self.found = self.found, []
        self._terms()
        inside, self.found = self.found, outside
        return [line[depth:] for line in inside]


def joined(lines: list[str]) -> list[str]:
    """Lines without what is blank at their ends, and numpydoc's names together with their text."""
    found: list[str] = []
    section = False
    for line in lines:
        section = section or bool(DASHES.fullmatch(line.strip()))
        if section and found and re.fullmatch(r"\w[\w, ]*(,| :)", found[-1]):
            found[-1] += f" {line.strip()}"
        else:
            found.append(line.rstrip())
    return found


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def escaped(line: str) -> str:
    """What is no mark-up here, though it would be: names that end in _, bars, stars."""
    parts = re.split(r"(``.*?``|`[^`]*`)", line)
    parts[::2] = [re.sub(r"(?<=\w)_(?!\w)|[|*\\]", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)
