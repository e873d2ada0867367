"""Weights as pictures: of pixels, of filters, or as a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .. import checks
from ..layers.base import Shape
from ..layers.chain import Chain
from ..layers.convolution import Conv2d
from ..layers.dense import Activation, Dense, Dropout
from ..layers.shapes import Flatten
from ..model import Model
from .display import SIGNED, Display, ink, library, model_of, parameters

MOST = 64  # units that have a picture each
PLANES = 4  # channels that lie side by side in one
LEAST = 8  # dots across a picture


class WeightsDisplay(Display):
    """A parameter as a picture: blue is positive, red negative, white zero.

    W      (n_out, n_in), the parameter
    name   what it is called
    shape  (height, width) or (channels, height, width) of a unit's inputs, to draw a picture of
           every unit, the channels side by side; None draws the matrix

    It has the fields of `Display`; `from_model` makes one.
    """

    def __init__(self, W: Any, *, name: str = "W", shape: Sequence[int] | None = None) -> None:
        self.W, self.name = np.asarray(W, np.float64), name
        if self.W.ndim != 2:
            raise ValueError(f"W has shape {self.W.shape}, but expected (n_out, n_in).")
        self.shape = None if shape is None else tuple(shape)
        if self.shape is not None and (
            len(self.shape) not in (2, 3) or math.prod(self.shape) != self.W.shape[1]
        ):
            raise ValueError(
                f"shape is {self.shape}, but a unit of {name} has {self.W.shape[1]} inputs: "
                "expected (height, width) or (channels, height, width) of as many numbers."
            )

    @classmethod
    def from_model(
        cls,
        model: Any,
        name: str | None = None,
        *,
        shape: Sequence[int] | None = None,
        network: int = 0,
        ax: Any = None,
        most: int = MOST,
    ) -> Self:
        """Draw a parameter of an `MLP`, a `Sequential` or a fitted estimator.

        name      as in `model.parameters`: "W1", "W3_1"; None: the first
        shape     (height, width) or (channels, height, width) of a unit's inputs; None: what a
                  `Sequential` knows of convolutions and of images, else the matrix is drawn
        network   which of several networks
        ax, most  as in `plot`

        ValueError for a name that there is not, IndexError for a network.
        """
        found = model_of(model)
        known = parameters(found, network)
        name = next(iter(known)) if name is None else name
        W = checks.choose("name", known, name)
        shape = shape_of(found, name) if shape is None else shape
        return cls(W, name=name, shape=shape).plot(ax, most=most)

    def plot(self, ax: Any = None, *, most: int = MOST) -> Self:
        """Draw on matplotlib axes.

        ax    axes; None makes a figure
        most  units that have a picture each: the first of them
        """
        picture = self.W if self.shape is None else self._pictures(most)
        rows, columns = picture.shape
        width = min(7.0, max(3.0, 4.2 * math.sqrt(columns / rows)))
        height = min(7.0, max(2.2, width * rows / columns)) if self.shape else 4.0
        ax = self._begin(ax, width + 1.2, height)
        limit = float(np.nanmax(np.abs(self.W), initial=0.0)) or 1.0
        image = ax.imshow(
            picture,
            cmap=library().colormaps[SIGNED].with_extremes(bad="#a0a0a0"),
            vmin=-limit,
            vmax=limit,
            interpolation="nearest",
            aspect="equal" if self.shape else "auto",
        )
        bar = self.figure_.colorbar(image, ax=ax, shrink=0.9)
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=ink(ax))
        ax.spines[:].set_visible(False)
        n = len(self.W)
        of = f"first {most} of {n}" if self.shape is not None and most < n else f"{n}"
        title = f"{self.name}: {of} units"
        if self.shape is None:
            ax.set_xlabel("input")
            ax.set_ylabel("unit")
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.yaxis.get_major_locator().set_params(integer=True)
        else:
            ax.set_xticks([])
            ax.set_yticks([])
            title += f", {'×'.join(map(str, self.shape))} inputs each"
        ax.set_title(title, fontsize="medium")
        return self

    def _pictures(self, most: int) -> npt.NDArray[np.float64]:
        """Units in rows and columns, a line of NaN between them."""
        assert self.shape is not None
        channels, height, width = (1, *self.shape)[-3:]
        units: npt.NDArray[Any] = (
            self.W[:most].reshape(-1, channels, height, width).transpose(0, 2, 1, 3)
        )
        larger = -(-LEAST // min(height, channels * width))  # so that lines are thin beside dots
        units = np.kron(units.reshape(-1, height, channels * width), np.ones((larger, larger)))
        n, high, wide = units.shape
        square = max(1, round(math.sqrt(n * high / wide)))
        columns = min(range(square, 2 * square + 1), key=lambda c: (-n % c, c))
        rows = -(-n // columns)
        tiles = np.full((rows * columns, high + 1, wide + 1), np.nan)
        tiles[:n, :high, :wide] = units
        tiles = tiles.reshape(rows, columns, high + 1, wide + 1).transpose(0, 2, 1, 3)
        return tiles.reshape(rows * (high + 1), -1)[:-1, :-1]

    @property
    def alt(self) -> str:
        n_out, n_in = self.W.shape
        as_what = "as a matrix"
        if self.shape is not None:
            as_what = f"as pictures of {'×'.join(map(str, self.shape))}"
        return (
            f"{self.name}, {n_out} units of {n_in} inputs, {as_what}: from {self.W.min():.3g} to "
            f"{self.W.max():.3g}, mean size {np.abs(self.W).mean():.3g}."
        )


def shape_of(model: Model, name: str) -> Shape | None:
    """The inputs of a unit as an image, where the parameter is a filter or sees an image."""
    network = model.network
    if not isinstance(network, Chain):
        return None
    seen: Shape | None = network.shape
    for part in network.parts:
        if part.name("W") == name:
            shape: Shape | None = seen
            if isinstance(part.kind, Conv2d):
                kernel = part.kind.kernel
                size = (kernel, kernel) if isinstance(kernel, int) else kernel
                shape = (part.shape[0] // part.kind.groups, *size)
            elif not isinstance(part.kind, Dense):
                return None
            return shape if shape and len(shape) == 3 and shape[0] <= PLANES else None
        if not isinstance(part.kind, Flatten | Activation | Dropout):
            seen = None  # what comes next sees no image any more
    return None
