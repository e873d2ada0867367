"""A network as a drawing: units and their weights, or layers and what they give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from .display import BLUE, GREEN, PURPLE, VERMILLION, Display, ink, legend, model_of, parameters
from .outline import Block, Box, Item, Outline, boxes, in_words, outline, written

UNITS = 16  # of a layer, up to which units are drawn
COLOURS = {
    "dense": BLUE,
    "convolution": VERMILLION,
    "recurrent": GREEN,
    "embedding": PURPLE,
    "pooling": "#b97a00",  # Okabe and Ito's orange, darker: it is to stand out from white
    "shape": "#8a8a8a",
    "other": "#8a8a8a",
}
DASHED = (0, (4, 1.5))
# Lengths of a drawing of layers, in units of its axes, of which one is so many inches:
UNIT = 0.42
HIGHEST, LEGIBLE = 8, 0.1  # inches of a column of units, and of letters, however many there are
STEP, HIGH, LEAST = 1.45, 0.9, 3.0  # from box to box; a box's height, and its least width
LANE, SUM = 0.55, 0.24  # from a box to its skip connection; the radius of a sum
BESIDE = 0.75  # from a box to what is said at its side
NAME, THEN, SHAPE, COUNT, WORD = 0.38, 0.31, 0.34, 0.28, 0.4  # sizes of letters


class Column(NamedTuple):
    """Units of one layer, and what they come from.

    names   of the units, () where they have none
    W       (n_out, n_in), the weights from the column before; None of the inputs
    b       (n_out,), or None
    below   lines under the column
    skip    what is on the skip connection round the layer; None where there is none
    """

    n: int
    names: tuple[str, ...]
    W: npt.NDArray[Any] | None
    b: npt.NDArray[Any] | None
    below: tuple[str, ...]
    skip: str | None = None


class NetworkDisplay(Display):
    """A network of any architecture.

    found       its `outline.Outline`
    parameters  arrays by name, (n_out, n_in) each; what is not there is not coloured
    inputs      names of the features, () where they have none
    outputs     of the classes or numbers, likewise

    As "units" every unit is a circle and every weight a line, blue and whole if it is positive,
    vermillion and dashed if negative, the larger the thicker; a circle's filling is its bias. As
    "layers" every layer is a box: what acts after it below its name, at its side the shape of
    what it gives of one example and its number of parameters. A recurrent layer has a loop, a
    skip connection a line around what it skips.

    It has the fields of `Display`; `from_model` makes one.
    """

    def __init__(
        self,
        found: Outline,
        parameters: Mapping[str, npt.NDArray[Any]] | None = None,
        *,
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
    ) -> None:
        self.found, self.parameters = found, dict(parameters or {})
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    @classmethod
    def from_model(
        cls,
        model: Any,
        *,
        network: int = 0,
        ax: Any = None,
        kind: Literal["auto", "units", "layers"] = "auto",
    ) -> Self:
        """Draw an `MLP`, a `Sequential` or a fitted estimator.

        network   which of several networks
        ax, kind  as in `plot`
        """
        found = model_of(model)
        prepared = found._prepared
        features = prepared.features if prepared.table is None else ()
        outputs = prepared.target if prepared.classes is None else prepared.classes
        if found.loss.kind == "binary":
            outputs = outputs[-1:]  # the one output is the second class's
        display = cls(
            outline(found),
            parameters(found, network),
            inputs=tuple(map(str, features)),
            outputs=tuple(map(str, outputs)),
        )
        return display.plot(ax, kind=kind)

    def plot(self, ax: Any = None, *, kind: Literal["auto", "units", "layers"] = "auto") -> Self:
        """Draw on matplotlib axes.

        ax    axes; None makes a figure as large as the network wants
        kind  "units", "layers", or "auto": units where the network is dense and no layer has
              more than 16, else layers

        ValueError for units of a network that has other layers than dense ones.
        """
        if kind not in ("auto", "units", "layers"):
            raise ValueError(f"kind is {kind!r}, but expected 'auto', 'units' or 'layers'.")
        columns = self._columns()
        if kind == "units" and columns is None:
            raise ValueError(
                "kind is 'units', but the network is not one of dense layers alone: expected "
                "'layers' or 'auto'."
            )
        small = columns is not None and max(column.n for column in columns) <= UNITS
        if columns is not None and (kind == "units" or (kind == "auto" and small)):
            self._units(ax, columns)
        else:
            self._layers(ax)
        return self

    @property
    def alt(self) -> str:
        total = sum(box.parameters for box in boxes(self.found.items))
        total += sum(item.parameters for item in _blocks(self.found.items))
        return f"A network of {total:,} parameters: {in_words(self.found)}."

    # -- units

    def _columns(self) -> list[Column] | None:
        """The layers as units; None where they are not all dense, one after the other."""
        (n, *other) = self.found.shape
        n *= math.prod(other)
        columns = [Column(n, self.inputs if len(self.inputs) == n else (), None, None, ("input",))]
        for item in self.found.items:
            box, skip = item, None
            if isinstance(item, Block):
                if len(item.items) != 1 or item.skip not in ("", "P"):
                    return None
                box, skip = item.items[0], item.skip
            if isinstance(box, Box) and box.text == "Flatten":
                continue
            if not isinstance(box, Box) or not box.W:
                return None
            W, b = (self.parameters.get(name) for name in (box.W, box.b))
            below = (box.text, *box.then)
            bias = None if b is None else b[:, 0]
            columns.append(Column(box.shape[0], (), W, bias, below, skip))
        if len(self.outputs) == columns[-1].n:
            columns[-1] = columns[-1]._replace(names=self.outputs)
        return columns

    def _units(self, ax: Any, columns: Sequence[Column]) -> None:
        most = max(column.n for column in columns)
        limit = _largest([column.W for column in columns])
        filled = _largest([column.b for column in columns])
        unit = min(UNIT, HIGHEST / most)
        letter = max(WORD, LEGIBLE / unit)
        apart = max(2.4, 0.5 * most)  # of columns
        named = [max((_width(name, letter) for name in c.names), default=0.0) for c in columns]
        below = [max(_width(line, letter) for line in column.below) / 2 for column in columns]
        left = -max(0.6 + named[0], below[0]) - 0.3
        right = apart * (len(columns) - 1) + max(0.6 + named[-1], below[-1]) + 0.3
        signs = self._signs(limit, filled)
        wanted = sum(_width(label, letter) + 5 * letter for label, _ in signs)
        across = len(signs) if wanted < right - left else 1
        low = -most / 2 - 0.5 - 1.5 * letter * max(len(column.below) for column in columns)
        low -= 1.6 * letter * len(signs) / max(1, across)
        high = most / 2 + 0.3
        if any(column.skip is not None for column in columns):
            high += 0.1 * apart + 2 * letter
        ax = self._begin(ax, unit * (right - left), unit * (high - low), bare=True)
        size = _canvas(ax, left, right, low, high)
        style = {"fontsize": letter * size, "color": ink(ax)}
        rows = [np.linspace((c.n - 1) / 2, -(c.n - 1) / 2, c.n) for c in columns]
        for i, (column, y) in enumerate(zip(columns, rows, strict=True)):
            x = apart * i
            if column.W is not None:
                self._edges(ax, column.W / (limit or 1.0), (x - apart, x), (rows[i - 1], y), size)
            self._circles(ax, x, y, column, filled or 1.0)
            side, away = ("right", -0.45) if i == 0 else ("left", 0.45)
            for name, at in zip(column.names, y, strict=False):
                ax.text(x + away, at, name, ha=side, va="center", **style)
            words = "\n".join(column.below)
            ax.text(x, -most / 2 - 0.2, words, ha="center", va="top", linespacing=1.35, **style)
            if column.skip is not None:
                top = max(rows[i - 1][0], y[0]) + 0.4
                _over(ax, x - apart, x, top, column.skip, size, letter)
        for label, how in signs:
            ax.plot([], [], label=label, markeredgecolor=ink(ax), **how)
        if signs:
            legend(ax, loc="lower center", ncols=across, fontsize=letter * size, borderaxespad=0.1)

    def _edges(
        self,
        ax: Any,
        W: npt.NDArray[Any],
        x: tuple[float, float],
        y: tuple[npt.NDArray[Any], npt.NDArray[Any]],
        size: float,
    ) -> None:
        """A line a weight (n_out, n_in), given as shares of the largest; none for zeros."""
        from matplotlib.collections import LineCollection

        for colour, style, chosen in ((BLUE, "solid", W > 0), (VERMILLION, DASHED, W < 0)):
            out, into = np.nonzero(chosen)
            if not len(out):
                continue
            share = np.abs(W[out, into])
            ends = np.stack([np.full(len(out), x[0]), y[0][into]], axis=1)
            begins = np.stack([np.full(len(out), x[1]), y[1][out]], axis=1)
            lines = LineCollection(
                list(np.stack([ends, begins], axis=1)),
                colors=colour,
                linewidths=0.3 + 0.13 * size * share,
                alpha=0.12 + 0.88 * share,
                linestyles=style,
                zorder=1,
            )
            ax.add_collection(lines)

    def _circles(
        self, ax: Any, x: float, y: npt.NDArray[Any], column: Column, limit: float
    ) -> None:
        from matplotlib.colors import to_rgba
        from matplotlib.patches import Circle

        for i, at in enumerate(y):
            bias = 0.0 if column.b is None else float(column.b[i]) / limit
            paper = to_rgba(ax.get_facecolor())
            tint = to_rgba(BLUE if bias > 0 else VERMILLION)
            mixed = [(1 - abs(bias)) * p + abs(bias) * t for p, t in zip(paper, tint, strict=True)]
            ax.add_patch(
                Circle((x, at), 0.3, facecolor=(*mixed[:3], 1.0), edgecolor=ink(ax), zorder=2)
            )

    @staticmethod
    def _signs(weights: float, biases: float) -> list[tuple[str, dict[str, Any]]]:
        """What the legend says of numbers up to these sizes, and how."""
        found: list[tuple[str, dict[str, Any]]] = []
        if weights:
            found.append((f"weight, up to {weights:.2g}", {"color": BLUE}))
            found.append(("negative", {"color": VERMILLION, "linestyle": DASHED}))
        if biases:
            circle = {"color": BLUE, "marker": "o", "linestyle": "none"}
            found.append((f"bias, up to {biases:.2g}", circle))
        return found

    # -- layers

    def _layers(self, ax: Any) -> None:
        placed, skips, depth = _placed(self.found.items)
        last = min([*(y for _, y in placed), *(skip.bottom for skip in skips)])
        lanes = 0.4 + LANE * depth + (0.3 if any(skip.text for skip in skips) else 0.0)
        texts = [box for box, _ in placed]
        inside = [_width(box.text, NAME, "bold") for box in texts]
        inside += [_width(_after(box), THEN) for box in texts]
        wide = max(LEAST, max(inside) + 0.6)
        beside = [_width(written(box.shape), SHAPE) for box in texts]
        beside += [_width(_count(box), COUNT) for box in texts]
        left, right = -wide / 2 - lanes, wide / 2 + BESIDE + max(beside) + 0.3
        low, high = last - 0.9, 0.7
        ax = self._begin(ax, UNIT * (right - left), UNIT * (high - low), bare=True)
        size = _canvas(ax, left, right, low, high)
        style = {"color": ink(ax), "fontsize": SHAPE * size}
        ax.text(0, 0, f"input {written(self.found.shape)}", ha="center", va="center", **style)
        _arrows(ax, placed, skips, size)
        for box, y in placed:
            _box(ax, box, y, wide, size)
        for skip in skips:
            _skip(ax, skip, wide, size)


class Skip(NamedTuple):
    """A skip connection where it stands: from y above to the sum below, in a lane of its own."""

    top: float
    bottom: float
    lane: int
    text: str


def _blocks(items: Sequence[Item]) -> list[Block]:
    found = [item for item in items if isinstance(item, Block)]
    return found + [inner for block in found for inner in _blocks(block.items)]


def _placed(items: Sequence[Item]) -> tuple[list[tuple[Box, float]], list[Skip], int]:
    """Boxes and skip connections from top to bottom, and how many of these lie in each other."""
    placed: list[tuple[Box, float]] = []
    skips: list[Skip] = []
    y = 0.0

    def walk(items: Sequence[Item]) -> int:
        nonlocal y
        depth = 0
        for item in items:
            if isinstance(item, Box):
                y -= STEP
                placed.append((item, y))
                continue
            top = y - 0.5 * STEP
            y -= 0.25 * STEP
            inner = walk(item.items)
            y -= 0.75 * STEP
            skips.append(Skip(top, y, inner + 1, item.skip))
            depth = max(depth, inner + 1)
        return depth

    depth = walk(items)
    return placed, skips, depth


def _canvas(ax: Any, left: float, right: float, low: float, high: float) -> float:
    """Axes without a frame, where one unit is as long both ways; its length, in points."""
    ax.set_xlim(left, right)
    ax.set_ylim(low, high)
    ax.set_aspect("equal")
    ax.set_axis_off()
    bounds = ax.get_window_extent()
    unit = min(bounds.width / (right - left), bounds.height / (high - low))
    return float(72 * unit / ax.figure.dpi)


def _largest(arrays: Sequence[npt.NDArray[Any] | None]) -> float:
    """The largest size of a number in some arrays; 0 where there is none."""
    return max((float(np.abs(A).max()) for A in arrays if A is not None), default=0.0)


def _over(
    ax: Any, left: float, right: float, top: float, text: str, size: float, letter: float
) -> None:
    """A skip connection over two columns of units."""
    from matplotlib.patches import FancyArrowPatch

    ax.add_patch(
        FancyArrowPatch(
            (left, top),
            (right, top),
            connectionstyle="arc3,rad=-0.18",
            arrowstyle="-|>",
            mutation_scale=0.5 * size,
            color=ink(ax),
            linewidth=0.05 * size,
            alpha=0.8,
        )
    )
    word = f"skip, {text}" if text else "skip"
    height = top + 0.09 * (right - left)
    ax.text(
        (left + right) / 2,
        height + 0.1,
        word,
        ha="center",
        va="bottom",
        fontsize=0.9 * letter * size,
        color=ink(ax),
    )


def _after(box: Box) -> str:
    return " · ".join(box.then)


def _count(box: Box) -> str:
    return f"{box.parameters:,} parameters" if box.parameters else ""


def _width(text: str, size: float, weight: str = "normal") -> float:
    """Of a line of text whose letters have this size, in the same unit."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text:
        return 0.0
    path = TextPath((0, 0), text, size=size, prop=FontProperties(weight=weight))
    return float(path.get_extents().width)


def _box(ax: Any, box: Box, y: float, wide: float, size: float) -> None:
    """A layer: its words inside, at its side what it gives, and a loop if it is recurrent."""
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    colour = COLOURS[box.family]
    ax.add_patch(
        FancyBboxPatch(
            (-wide / 2, y - HIGH / 2),
            wide,
            HIGH,
            boxstyle="round,pad=0,rounding_size=0.16",
            facecolor=(colour, 0.16),
            edgecolor=colour,
            linewidth=0.06 * size,
        )
    )
    lift = 0.17 if box.then else 0.0
    style = {"ha": "center", "va": "center", "color": ink(ax)}
    ax.text(0, y + lift, box.text, fontsize=NAME * size, weight="bold", **style)
    if box.then:
        ax.text(0, y - 0.2, _after(box), fontsize=THEN * size, **style)
    x = wide / 2 + BESIDE
    style["ha"], count = "left", _count(box)
    ax.text(x, y + (0.17 if count else 0), written(box.shape), fontsize=SHAPE * size, **style)
    ax.text(x, y - 0.2, count, fontsize=COUNT * size, alpha=0.8, **style)
    if box.family == "recurrent":
        ax.add_patch(
            FancyArrowPatch(
                (wide / 2, y + 0.22),
                (wide / 2, y - 0.22),
                connectionstyle="arc3,rad=-1.5",
                arrowstyle="-|>",
                mutation_scale=0.45 * size,
                color=colour,
                linewidth=0.06 * size,
                shrinkA=0,
                shrinkB=0,
            )
        )


def _arrows(
    ax: Any, placed: Sequence[tuple[Box, float]], skips: Sequence[Skip], size: float
) -> None:
    """From each thing on the main line to the next below it."""
    stops = [(0.0, 0.32), *((y, HIGH / 2) for _, y in placed), *((s.bottom, SUM) for s in skips)]
    stops.sort(reverse=True)
    for (above, half), (below, other) in pairwise(stops):
        _arrow(ax, [(0, above - half), (0, below + other)], size)


def _arrow(ax: Any, points: Sequence[tuple[float, float]], size: float) -> None:
    """Straight lines from point to point, with a head at the last."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    ax.add_patch(
        FancyArrowPatch(
            path=Path(list(points)),
            arrowstyle="-|>",
            mutation_scale=0.4 * size,
            color=ink(ax),
            linewidth=0.045 * size,
            joinstyle="round",
            capstyle="butt",
        )
    )


def _skip(ax: Any, skip: Skip, wide: float, size: float) -> None:
    """A skip connection: a line round the boxes to the sum."""
    from matplotlib.patches import Circle

    x = -wide / 2 - LANE * skip.lane
    _arrow(ax, [(0, skip.top), (x, skip.top), (x, skip.bottom), (-SUM, skip.bottom)], size)
    ax.add_patch(
        Circle((0, skip.bottom), SUM, facecolor="none", edgecolor=ink(ax), linewidth=0.045 * size)
    )
    style = {"ha": "center", "va": "center", "color": ink(ax)}
    ax.text(0, skip.bottom, "+", fontsize=0.4 * size, **style)
    middle = (skip.top + skip.bottom) / 2
    ax.text(x - 0.22, middle, skip.text, rotation=90, fontsize=0.3 * size, **style)
