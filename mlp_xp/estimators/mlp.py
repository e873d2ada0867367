"""The scikit-learn face: `MLPClassifier` and `MLPRegressor`, rows in and rows out.

The same parameters, attributes, random draws and results as scikit-learn's estimators of
these names, on the core's kernels; and what those do not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn import get_config
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels

from ..exchange import is_foreign, unmasked
from ..fitting import Callback
from ..hardware import Device
from ..losses import Kind, Loss
from ..network import Normalization
from ..optimizers import Optimizer
from ..schedules import Schedule
from ..types import Array
from .arrays import Place, to_host
from .base import BaseMLP, Targets
from .data import numbers
from .live import Live
from .recipe import CONSTRAINTS, loss_row

KINDS: dict[str, Kind] = {"multiclass": "multiclass", "multilabel-indicator": "multilabel"}


class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]  # untyped base
    """Multi-layer perceptron classifier: scikit-learn's, faster, on any device.

    With scikit-learn's parameters alone it is the same model to rounding: the same draws of
    `random_state`, batches, loss, updates and stopping. float32 input trains in float32.

    Parameters
    ----------
    hidden_layer_sizes : widths of the hidden layers
    activation : "relu", "tanh", "logistic", "identity", another name of
        `mlp_xp.ACTIVATIONS`, an `Activation`, a pair of functions (f(xp, Z), slope(xp, Z)),
        or a list of one a hidden layer
    solver : "adam", "sgd", "lbfgs"; another name of `mlp_xp.OPTIMIZERS`, which takes
        `learning_rate_init` and its own constants; or an optimiser of the core, taken as it is
    alpha : L2 penalty, divided by the weight of the batch
    batch_size : examples a step; "auto" is min(200, n_samples)
    learning_rate : "constant", "invscaling", "adaptive", for "sgd" only; or, for any
        stochastic solver, another name of `mlp_xp.SCHEDULES` or a schedule, over one `fit`
    learning_rate_init, power_t, momentum, nesterovs_momentum, beta_1, beta_2, epsilon :
        constants of "sgd" and "adam"
    max_iter : epochs, or iterations of "lbfgs"
    max_fun : calls of the objective by "lbfgs"
    shuffle : a new order of the examples in every epoch
    random_state : for the weights, the set aside examples, the orders and dropout
    tol, n_iter_no_change : stop when the loss, or the score with `early_stopping`, has not
        improved by `tol` for so many epochs
    verbose : print the loss of every epoch
    warm_start : go on from the weights of the last `fit`; "optimizer": also with the
        optimiser's moments, step count and learning rate
    early_stopping : watch the score of examples set aside (`validation_fraction`) or given to
        `fit`, and end with the weights that were best
    loss : "log_loss"; "cross_entropy", "binary_cross_entropy" or "multilabel" to insist on a
        kind of target; a `Loss`, or a pair of functions (value(xp, S, T), delta(xp, S, T))
    class_weight : weights by class, "balanced", or None
    label_smoothing : share of every target spread over the classes, in training
    dropout : rate of the hidden layers, or a list of one a layer
    normalization : "none", "batch" or "layer", before every hidden activation
    residual : skip connections round the hidden layers
    clip_norm, clip_value : largest norm, or entry, of a gradient
    device : "cpu", "cuda", a `Device`; None is where X is
    dtype : "float32" or "float64"; None is X's
    precision : "float32"; "tf32" and "bfloat16" round the operands of matrix products to 11
        and 8 significant bits, and need float32 input or dtype="float32"
    processes : as of `Sequential.fit`: "mpi", or a Dask cluster's address or client, whose
        processes share every batch of a stochastic solver. No file holds it
    callbacks : functions (estimator, `Epoch`) after every epoch; a true result ends the fit
    progress : a progress bar on standard error

    Attributes
    ----------
    classes_, coefs_, intercepts_, loss_, loss_curve_, best_loss_, validation_scores_,
    best_validation_score_, n_iter_, t_, n_layers_, n_outputs_, out_activation_,
    n_features_in_, feature_names_in_ : as scikit-learn's
    gains_, projections_, running_ : of normalised and residual networks
    validation_loss_curve_ : mean loss of the watched examples, without the penalty
    stopped_ : whether the patience of `n_iter_no_change` has ended

    Notes
    -----
    Arrays of another library (CuPy, PyTorch) stay where they are, and so do fitted attributes
    and predictions. A warm start with `early_stopping` ends with the best weights of all
    fits; scikit-learn's overwrites its copy of them.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **CONSTRAINTS,
        "loss": [
            StrOptions({"log_loss", "cross_entropy", "binary_cross_entropy", "multilabel"}),
            tuple,
        ],
        "class_weight": [None, StrOptions({"balanced"}), dict],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: Any = "relu",
        *,
        solver: str | Optimizer = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Schedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool | str = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: str | Loss | tuple[Any, Any] = "log_loss",
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        dropout: float | Sequence[float] = 0.0,
        normalization: Normalization = "none",
        residual: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        device: str | Device | None = None,
        dtype: str | None = None,
        precision: str = "float32",
        processes: Any = None,
        callbacks: Callback | Sequence[Callback] = (),
        progress: bool = False,
    ) -> None:
        self._set(locals())

    # -- targets ---------------------------------------------------------------

    def _targets(self, y: Any, redefine: bool, exact: bool = False) -> Targets:
        if redefine or not hasattr(self, "_label_binarizer"):
            self._label_binarizer = _binarizer(y)
        kind, classes = self._kind(), self._label_binarizer.classes_
        if kind == "multilabel":
            self._check_classes(y, exact)
            values = self._label_binarizer.transform(y)
            if not np.isin(values, (0, 1)).all():
                raise ValueError(
                    f"y has columns of labels that run from {values.min():g} to {values.max():g}, "
                    "but expected 0 and 1: pass y > 0, or one class an example, (n_samples,)."
                )
            return Targets(values, kind, int(values.shape[1]))
        if y.ndim == 2:
            raise ValueError(
                f"y has shape {y.shape}, but this {type(self).__name__} was not fitted with "
                "multilabel input: expected one class an example, (n_samples,)."
            )
        place = self._find(y, classes)
        if place is None or exact:
            self._check_classes(y, exact)
            place = np.searchsorted(classes, y)
        if kind == "multiclass":
            return Targets(place.astype(np.int64, copy=False), kind, len(classes))
        return Targets((place == 1).reshape(-1, 1), kind, 1)

    def _find(self, y: Any, classes: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
        """The number of every label's class, or None where a label is of no class."""
        if y.dtype.kind not in "iub" or classes.dtype.kind not in "iub":
            return None
        same = y.astype(classes.dtype, copy=False)  # of int64 beside uint64 NumPy makes floats
        place = np.minimum(np.searchsorted(classes, same), len(classes) - 1)
        return place if (classes[place] == y).all() else None

    def _check_classes(self, y: Any, exact: bool) -> None:
        known, classes = self._label_binarizer.classes_, unique_labels(y)
        if exact and set(classes) != set(known):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous "
                f"call to fit. Previously got {known}, `y` has {classes}"
            )
        if len(np.setdiff1d(classes, known, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {known}. "
                f"'y' has {classes}."
            )

    def _name_targets(self, place: Place) -> None:
        """`classes_` beside the other fitted arrays, unless they are text."""
        classes = self._label_binarizer.classes_
        numbers = classes.dtype.kind in "biuf"
        self.classes_ = place.home.put(classes) if numbers else classes

    def _first_classes(self, y: Any, classes: Any) -> None:
        """The classes of all calls of `partial_fit`, which do not change."""
        y = to_host(y) if is_foreign(y) else y
        known = getattr(self, "_label_binarizer", None)
        several = known is None and type_of_target(y).startswith("multilabel")
        if several:
            self._label_binarizer = LabelBinarizer().fit(y)
        elif known is None and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        elif known is None:
            self._label_binarizer = LabelBinarizer().fit(to_host(classes))
        elif classes is not None:
            given = unique_labels(to_host(classes))
            if not np.array_equal(known.classes_, given):
                raise ValueError(
                    f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                    f"{known.classes_!r}"
                )

    def _kind(self) -> Kind:
        return KINDS.get(self._label_binarizer.y_type_, "binary")

    def _loss(self, kind: Kind, n_outputs: int) -> Loss:
        return loss_row(self.loss, kind, n_outputs)

    def _weights(self, sample_weight: Any, y: Any, rows: Any) -> npt.NDArray[Any] | None:
        weights = super()._weights(sample_weight, y, rows)
        if self.class_weight is None:
            return weights
        if isinstance(self.class_weight, dict):
            if y.ndim == 2:
                raise ValueError(
                    "class_weight holds a weight for each class, but y has several labels an "
                    "example: expected 'balanced', or the weights of examples as sample_weight."
                )
            numbers("class_weight", list(self.class_weight.values()))
        by_class = compute_sample_weight(self.class_weight, y)
        return super()._weights(by_class if weights is None else weights * by_class, y, rows)

    # -- learning ----------------------------------------------------------------

    @available_if(lambda est: est._check_solver())  # type: ignore[untyped-decorator]  # scikit-learn's
    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        classes: Any = None,
        *,
        validation_data: Any = None,
    ) -> Self:
        """Update the model with a single epoch over the given examples.

        Parameters
        ----------
        X, y, sample_weight : as for `fit`
        classes : all classes of all calls, in the first call; multilabel targets need none
        validation_data : (X, y) or (X, y, sample_weight) to watch. With `early_stopping`,
            `stopped_` becomes true when its score has not improved for `n_iter_no_change`
            calls, and the best weights are back

        Returns
        -------
        self
        """
        if not hasattr(self, "coefs_") and not get_config()["skip_parameter_validation"]:
            self._validate_params()
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit, which sees a part of "
                "the examples only. Pass the weights: compute_class_weight('balanced', ...)."
            )
        if y is not None:  # else `_fit` says what is wrong
            self._first_classes(y, classes)
        return self._fit(X, y, sample_weight, validation_data, once=True)

    # -- predicting --------------------------------------------------------------

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (n_samples, n_classes), in the order of `classes_`."""
        return self._answer(X, "predict_proba", lambda live, P: live.place.back(_rows(live, P)))

    def predict_log_proba(self, X: Any) -> Array:
        """log(predict_proba(X))."""

        def log(live: Live, P: Array) -> Array:
            return live.place.back(live.place.device.xp.log(_rows(live, P)))

        return self._answer(X, "predict_log_proba", log)

    def predict(self, X: Any) -> Array:
        """Classes (n_samples,), or labels 0 and 1 (n_samples, n_classes) for multilabel."""
        return self._answer(X, "predict", self._choose)

    def _choose(self, live: Live, P: Array) -> Array:
        """The classes of probabilities (n_outputs, m)."""
        place, xp, kind = live.place, live.place.device.xp, self._kind()
        if kind == "multilabel":
            if isinstance(self.coefs_[0], np.ndarray):
                host = place.device.get(xp.matrix_transpose(P))
                return self._label_binarizer.inverse_transform(host)
            return xp.matrix_transpose(xp.astype(P > 0.5, xp.int64))
        if kind == "multiclass":
            chosen = xp.argmax(P, axis=-2)
        else:
            chosen = xp.astype(P[0, :] > 0.5, xp.int64)
            if len(self._label_binarizer.classes_) == 1:
                chosen = xp.zeros_like(chosen)
        if isinstance(self.classes_, np.ndarray):
            return self.classes_[place.device.get(chosen)]
        return xp.take(self.classes_, chosen)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Accuracy of predict(X) with respect to y."""
        unmasked("y", y)
        sample_weight = numbers("sample_weight", sample_weight)
        if not is_foreign(X):
            return float(super().score(X, y, sample_weight))
        from sklearn.metrics import accuracy_score

        arrays = (y, self.predict(X), sample_weight)
        truth, found, weights = (None if a is None else to_host(a) for a in arrays)
        return float(accuracy_score(truth, found, sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _binarizer(y: npt.NDArray[Any]) -> LabelBinarizer:
    """scikit-learn's, fitted to labels; to whole numbers without its checks, a tenth of a fit."""
    found = LabelBinarizer()
    classes = np.unique(y) if y.ndim == 1 and y.dtype.kind in "iub" else y
    if classes.shape[0] > y.shape[0] // 2:  # of so many some versions warn
        return found.fit(y)
    found.y_type_ = "multiclass" if len(classes) > 2 else "binary"
    found.classes_, found.sparse_input_ = classes, False
    return found


def _rows(live: Live, P: Array) -> Array:
    """Probabilities (m, n_classes): of both classes where there is one output."""
    return (live.place.device.xp.concat([1 - P, P], axis=0) if P.shape[0] == 1 else P).T


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]  # untyped base
    """Multi-layer perceptron regressor: scikit-learn's, faster, on any device.

    With scikit-learn's parameters alone it is the same model to rounding: the same draws of
    `random_state`, batches, loss, updates and stopping. float32 input trains in float32.

    Parameters
    ----------
    loss : "squared_error", "poisson", "absolute_error", "huber", a `Loss`, or a pair of
        functions (value(xp, S, T), delta(xp, S, T)). As in scikit-learn, the squared error of
        several outputs is reported as their mean and descended as their sum

    All others are those of `MLPClassifier`, without `class_weight` and `label_smoothing`.

    Attributes
    ----------
    As those of `MLPClassifier`, without `classes_`.
    """

    _is_regressor: ClassVar[bool] = True
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **CONSTRAINTS,
        "loss": [StrOptions({"squared_error", "poisson", "absolute_error", "huber"}), tuple],
    }

    def __init__(
        self,
        loss: str | Loss | tuple[Any, Any] = "squared_error",
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: Any = "relu",
        *,
        solver: str | Optimizer = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Schedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool | str = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float | Sequence[float] = 0.0,
        normalization: Normalization = "none",
        residual: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        device: str | Device | None = None,
        dtype: str | None = None,
        precision: str = "float32",
        processes: Any = None,
        callbacks: Callback | Sequence[Callback] = (),
        progress: bool = False,
    ) -> None:
        self._set(locals())

    def _targets(self, y: Any, redefine: bool, exact: bool = False) -> Targets:
        values = y if y.ndim == 2 else y.reshape(-1, 1)
        if self._loss("real", values.shape[1]).kind == "count" and y.min() < 0:
            raise ValueError(
                f"y holds {y.min():g}, but loss='poisson' takes y >= 0: counts, or rates."
            )
        return Targets(values, "real", int(values.shape[1]))

    def _kind(self) -> Kind:
        return "real"

    def _loss(self, kind: Kind, n_outputs: int) -> Loss:
        return loss_row(self.loss, kind, n_outputs)

    @available_if(lambda est: est._check_solver())  # type: ignore[untyped-decorator]  # scikit-learn's
    def partial_fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, validation_data: Any = None
    ) -> Self:
        """Update the model with a single epoch over the given examples.

        Parameters
        ----------
        X, y, sample_weight : as for `fit`
        validation_data : as for `MLPClassifier.partial_fit`

        Returns
        -------
        self
        """
        if not hasattr(self, "coefs_") and not get_config()["skip_parameter_validation"]:
            self._validate_params()
        return self._fit(X, y, sample_weight, validation_data, once=True)

    def predict(self, X: Any) -> Array:
        """Values (n_samples,), or (n_samples, n_outputs)."""
        return self._answer(X, "predict", _values)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """R² of predict(X) with respect to y."""
        y, sample_weight = numbers("y", y), numbers("sample_weight", sample_weight)
        if not is_foreign(X):
            return float(super().score(X, y, sample_weight))
        arrays = (y, self.predict(X), sample_weight)
        truth, found, weights = (None if a is None else to_host(a) for a in arrays)
        from sklearn.metrics import r2_score

        return float(r2_score(truth, found, sample_weight=weights))


def _values(live: Live, P: Array) -> Array:
    return live.place.back(P[0, :] if P.shape[0] == 1 else P.T)


__all__ = ["MLPClassifier", "MLPRegressor"]
