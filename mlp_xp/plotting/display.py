"""What all displays have in common: axes to draw on, a text alternative, files, notebooks.

A display draws on the axes that it is given, or on a figure of its own that pyplot does not
know: nothing global is read or changed but matplotlib's style, and nothing is shown. Lines and
letters take the colour of the axes' own labels, so a dark style is followed; the colours of data
are Okabe and Ito's that stand out from white and from black, and differ in more than colour.
"""

from __future__ import annotations

import base64
import os
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..extras import missing
from ..model import Model

# Okabe & Ito 2008, "Color Universal Design"
BLUE, VERMILLION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SIGNED = "RdBu"  # blue is positive, as in `BLUE`


def library() -> Any:
    """The module matplotlib; ImportError with the cure where it is missing."""
    try:
        import matplotlib
    except ImportError as error:
        raise missing("mlp_xp.plotting needs matplotlib", "plot", error) from None
    return matplotlib


def model_of(model: Any) -> Model:
    """The `Model` of a model or of a fitted estimator, which predicts the same."""
    if isinstance(model, Model):
        return model
    exported = getattr(model, "_exported", None)
    if exported is None or isinstance(model, type):
        raise TypeError(
            f"model is {model!r}, but expected an MLP, a Sequential or a fitted estimator of "
            "mlp_xp."
        )
    found: Model = exported()[0]
    return found


def parameters(model: Model, network: int = 0) -> dict[str, npt.NDArray[Any]]:
    """The parameters of one of a model's networks by name, (n_out, n_in) each, on the host."""
    n = len(model.seeds)
    if not -n <= network < n:
        raise IndexError(f"network is {network}, but the model has {n}: expected 0 … {n - 1}.")
    host = {name: np.asarray(model.device.get(W)) for name, W in model.parameters.items()}
    return {name: W[network] for name, W in host.items()} if model.leading else host


class Display:
    """A picture that has been drawn, or can be.

    ax_      the matplotlib axes, an array of them where there are several panels
    figure_  the matplotlib figure they are on
    """

    ax_: Any
    figure_: Any

    @property
    def alt(self) -> str:
        """What the picture shows, in words: its text alternative."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.alt}>"

    def plot(self, ax: Any = None) -> Any:
        """Draw; each display says with which options."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write the picture by matplotlib's `savefig`, in the format of the path's suffix.

        It is drawn before, if it is not yet.
        SVG, PNG and PDF carry the text alternative: as title, description, and subject.
        """
        if not hasattr(self, "figure_"):
            self.plot()
        keys = {"svg": "Title", "png": "Description", "pdf": "Subject"}
        form = str(options.get("format") or Path(path).suffix[1:]).lower()
        metadata = {keys[form]: self.alt} if form in keys else {}
        given = options.pop("metadata", None) or {}
        self.figure_.savefig(path, metadata={**metadata, **given} or None, **options)

    def _repr_html_(self) -> str | None:
        """For a notebook, where the figure is the display's own; pyplot shows its figures."""
        if not hasattr(self, "figure_") or self.figure_.canvas.manager is not None:
            return None
        drawn = BytesIO()
        metadata = {"Title": self.alt, "Date": None}
        self.figure_.savefig(drawn, format="svg", bbox_inches="tight", metadata=metadata)
        data = base64.b64encode(drawn.getvalue()).decode()
        image = f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(self.alt)}"'
        return f'<div>{image} style="max-width: 100%; height: auto"></div>'

    def _begin(
        self, ax: Any, width: float, height: float, columns: int = 1, bare: bool = False
    ) -> Any:
        """Axes to draw on, an array of them for several columns.

        ax             the caller's axes, as many as columns; None makes a figure
        width, height  of that figure, in inches
        bare           whether the axes fill it
        """
        library()
        if ax is None:
            from matplotlib.figure import Figure

            figure = Figure((width, height), layout=None if bare else "constrained")
            ax = figure.add_axes((0, 0, 1, 1)) if bare else figure.subplots(1, columns)
        axes = np.ravel(np.asarray(ax, object))
        if len(axes) != columns:
            raise ValueError(f"ax holds {len(axes)} axes, but expected one for each of {columns}.")
        self.ax_ = axes[0] if columns == 1 else axes
        self.figure_ = axes[0].figure.figure  # of a subfigure, the whole
        return self.ax_


def ink(ax: Any) -> Any:
    """The colour of lines and letters on these axes."""
    return ax.xaxis.label.get_color()


def plain(ax: Any) -> None:
    """Axes with a faint grid and no frame on top and right."""
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def legend(ax: Any, **options: Any) -> None:
    """A legend in the ink of the axes, without a frame."""
    ax.legend(frameon=False, labelcolor=ink(ax), **options)
