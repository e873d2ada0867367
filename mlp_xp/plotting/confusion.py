"""Which classes are taken for which, drawn by scikit-learn."""

from __future__ import annotations

from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from ..checks import Layout
from ..exchange import unmasked
from ..extras import missing
from ..model import Model
from ..prepared import as_labels
from ..report import counted
from .display import Display, ink, model_of

Host: TypeAlias = npt.NDArray[Any]


class ConfusionDisplay(Display):
    """Examples by their class (a row) and the class they were called (a column).

    matrix  (n_classes, n_classes) counts, or shares where they were normalised
    labels  of the classes
    display_  scikit-learn's ConfusionMatrixDisplay, once it is drawn

    Estimators need no more than scikit-learn's own ConfusionMatrixDisplay.from_estimator; this
    takes models too, wherever they compute, and one-hot targets.
    """

    def __init__(self, matrix: Any, labels: Any) -> None:
        self.matrix, self.labels = np.asarray(matrix), np.asarray(labels)
        if self.matrix.shape != (len(self.labels),) * 2:
            raise ValueError(
                f"matrix has shape {self.matrix.shape}, but there are {len(self.labels)} labels: "
                f"expected {(len(self.labels),) * 2}."
            )

    @classmethod
    def from_model(
        cls,
        model: Any,
        X: Any,
        Y: Any,
        *,
        layout: Layout | None = None,
        sample_weight: Any = None,
        normalize: str | None = None,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Predict and draw, by an `MLP`, a `Sequential` or a fitted classifier.

        X, Y       as the model's own `evaluate` takes them; labels (m,) or one-hot
        layout     of X and Y, for models
        normalize  None: counts; "true", "pred", "all": shares of rows, of columns, of all
        ax, options  as in `plot`

        ValueError for a model of numbers, of several labels at once, or of several networks.
        """
        found = model_of(model)
        if found.loss.kind not in ("multiclass", "binary") or found.leading:
            raise ValueError(
                "A confusion matrix is of one classifier, but the model has "
                f"{counted(len(found.seeds), 'networks')} and a loss for {found.loss.kind} targets."
            )
        truth, called, labels = answers(model, X, Y, layout)
        matrix = _sklearn().confusion_matrix(
            truth, called, labels=labels, sample_weight=sample_weight, normalize=normalize
        )
        return cls(matrix, labels).plot(ax, **options)

    def plot(self, ax: Any = None, **options: Any) -> Self:
        """Draw on matplotlib axes; None makes a figure.

        options  of ConfusionMatrixDisplay.plot, such as `values_format`, `cmap`, `colorbar`
        """
        n = len(self.labels)
        size = min(9.0, max(3.2, 1.2 + 0.42 * n))
        ax = self._begin(ax, size + 0.6, size)
        drawn = _sklearn().ConfusionMatrixDisplay(self.matrix, display_labels=self.labels)
        whole = np.issubdtype(self.matrix.dtype, np.integer)
        usual = {
            "cmap": "Blues",
            "values_format": "d" if whole else ".2f",
            "include_values": n <= 30,
            "xticks_rotation": 45 if max(len(str(label)) for label in self.labels) > 3 else 0,
        }
        self.display_ = drawn.plot(ax=ax, **{**usual, **options})
        if self.display_.im_.colorbar is not None:
            self.display_.im_.colorbar.ax.tick_params(colors=ink(ax))
        return self

    @property
    def alt(self) -> str:
        right, whole = np.trace(self.matrix), self.matrix.sum()
        apart = self.matrix - np.diag(np.diag(self.matrix))
        told = f"Confusion matrix of {len(self.labels)} classes: {right:.4g} of {whole:.4g} right"
        if not apart.any():
            return told + "."
        i, j = np.unravel_index(np.argmax(apart), apart.shape)
        return (
            f"{told}; most often {self.labels[i]} was called {self.labels[j]}, {apart[i, j]:.4g}."
        )


def answers(model: Any, X: Any, Y: Any, layout: Layout | None) -> tuple[Host, Host, Host]:
    """The labels (m,) of examples, what they are called, and all labels there are."""
    if not isinstance(model, Model):
        if layout is not None:
            raise TypeError(
                f"layout is {layout!r}, but an estimator knows how its X lies: leave layout out."
            )
        from ..estimators.arrays import to_host

        unmasked("Y", Y)
        labels = getattr(model, "_labels", np.asarray)  # a neural one may know one-hot rows
        return labels(to_host(Y)), to_host(model.predict(X)), to_host(model.classes_)
    with model.device.active():
        data = model._data(X, Y, None, layout)
        scores = model._scores_by(model._recipe, model._state(), data.rows)
        T, S = (np.asarray(model.device.get(array)) for array in (data.targets, scores))
    if model.loss.kind == "binary":
        truth, called, n = T.reshape(-1) > 0.5, S[0] > 0, 2
    else:
        truth, called, n = T if T.ndim == 1 else T.argmax(axis=1), S.argmax(axis=0), len(S)
    classes = model._prepared.classes
    labels = np.arange(n) if classes is None else as_labels(classes)
    return labels[truth.astype(int)], labels[called.astype(int)], labels


def _sklearn() -> Any:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise missing("ConfusionDisplay needs scikit-learn", "plot,sklearn", error) from None
    return metrics
