"""scikit-learn estimators of layers of any kind: `NeuralClassifier` and `NeuralRegressor`.

One pair, not one for each family: what a network is stands in its layers, and one that reads
images with convolutions and then a GRU would be of two families. They are a thin face over
`Sequential`, whose words they take (`epochs`, `optimizer`, `l2`): scikit-learn has no such
estimator whose parameters they could share, as `MLPClassifier` shares those of its own.
`model_` is the `Sequential`, with everything that it can do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from sklearn import get_config
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from .. import checks
from ..checkpoints import fixed_seed
from ..devices import device as find_device
from ..exchange import hosted, unmasked
from ..export.estimators import Exportable
from ..fitting import Callback
from ..hardware import Device
from ..headers import MISUSED
from ..initializers import Initializer
from ..layers.base import Kind, Shape
from ..layers.dense import Dense
from ..layers.residual import kinds
from ..layers.shapes import Flatten
from ..layers.stack import resolve
from ..layers.text import layers_of
from ..losses import LOSSES, Loss
from ..optimizers import Optimizer
from ..prepared import NUMBERS, Preparation, as_labels
from ..readers import names_in
from ..schedules import SCHEDULES, Schedule
from ..sequential import Sequential
from ..storage import ModelFileError
from .data import numbers, unless_refused
from .layouts import INSIDE, LAYOUTS, Rows, rows_of
from .shares import Shares, generator

Host = npt.NDArray[Any]


class Targets(NamedTuple):
    """y as the network learns it, its loss, and what its classes are called."""

    values: Host
    loss: Loss
    n_outputs: int
    classes: tuple[Any, ...] | None


class BaseNeural(Exportable, Shares):
    """Parameters, rows and fitting; the classes add targets and answers."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "layers": [str, list, tuple],
        "layout": [StrOptions(set(LAYOUTS))],
        "shape": [None, tuple, list],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [None, Interval(Integral, 1, None, closed="left")],
        "early_stopping": [None, "boolean", Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
        "progress": ["boolean"],
    }

    def __init__(
        self,
        layers: str | Sequence[Kind] = "dense:100",
        *,
        layout: str = "features",
        shape: Sequence[int] | None = None,
        loss: str | Loss = "auto",
        epochs: int = 30,
        batch_size: int | None = None,
        optimizer: str | Optimizer = "adam",
        learning_rate: float | None = None,
        schedule: str | Schedule = "one_cycle",
        l2: float = 0.0,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        label_smoothing: float = 0.0,
        density: float = 1.0,
        initializer: str | Initializer = "auto",
        early_stopping: int | bool | None = None,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        dtype: str = "float32",
        precision: str = "float32",
        device: str | Device = "cpu",
        processes: Any = None,
        callbacks: Callback | Sequence[Callback] = (),
        progress: bool = False,
    ) -> None:
        self.layers = layers
        self.layout = layout
        self.shape = shape
        self.loss = loss
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.l2 = l2
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.label_smoothing = label_smoothing
        self.density = density
        self.initializer = initializer
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.dtype = dtype
        self.precision = precision
        self.device = device
        self.processes = processes
        self.callbacks = callbacks
        self.progress = progress

    # -- fitting -------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        validation_data: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: float = 30.0,
    ) -> Self:
        """Fit the layers to examples X with targets y.

        Parameters
        ----------
        X : array, or list of sequences, as `layout` says
        y : array (n_samples,), or (n_samples, n_outputs)
        sample_weight : array (n_samples,), or None for equal weights
        validation_data : (X, y) to measure after every epoch, which `early_stopping` watches;
            None sets `validation_fraction` of the examples aside where it has to
        checkpoint, every : as in `Sequential.fit`

        Returns
        -------
        self
        """
        if not get_config()["skip_parameter_validation"]:
            self._validate_params()
        if checkpoint is not None:
            fixed_seed(self.random_state)
        before = getattr(self, "model_", None)

        def begun() -> bool:
            model = getattr(self, "model_", None)
            return model is not None and model is not before and model.steps_trained > 0

        with unless_refused(self, begun):
            given = rows_of(self, X, reset=True)
            if y is None:
                name = type(self).__name__
                raise ValueError(f"{name} requires y to be passed, but the target y is None.")
            targets = self._targets(y, given)
            random = generator(self.random_state, self.processes, find_device(self.device))
            fixed = isinstance(self.random_state, int | np.integer)
            seed = int(self.random_state if fixed else random.randint(2**31 - 1))
            self.model_ = Sequential(
                given.shape,
                self._layers(given.shape, targets.n_outputs),
                lengths=given.lengths,
                loss=targets.loss,
                **{name: getattr(self, name) for name in OF_THE_MODEL},
                seed=seed,
            )
            loss = str(self.model_.config["loss"] or "")
            names = self._names() if self.layout == "features" else ()
            self.model_.preparation = Preparation(loss, classes=targets.classes, features=names)
            self._others: dict[tuple[int, bool], Sequential] = {}
            keeping = {"checkpoint": checkpoint, "every": every}
            values = targets.values
            return self._train(given, values, sample_weight, validation_data, random, keeping)

    def _train(
        self,
        given: Rows,
        values: Host,
        sample_weight: Any,
        validation_data: Any,
        random: np.random.RandomState,
        keeping: dict[str, Any],
    ) -> Self:
        table, weights, validation = given.table, None, None
        if sample_weight is not None:
            given_weights = hosted("sample_weight", numbers("sample_weight", sample_weight))
            weights = _check_sample_weight(given_weights, table)
        if validation_data is not None:
            if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
                raise ValueError(
                    "validation_data takes (X, y), but a "
                    f"{type(validation_data).__name__} was given."
                )
            X, y = validation_data
            held = rows_of(self, X, reset=False, like=given)
            if (held.shape, held.lengths) != (given.shape, given.lengths):
                raise ValueError(
                    f"validation_data has examples of {held.shape}, but X of {given.shape}: "
                    "expected as many steps at most, and lists of sequences with such lists."
                )
            validation = (held.table, self._known_targets(y, held))
        elif self.early_stopping:
            stratify = values if self.model_.loss.kind == "multiclass" else None
            index = np.arange(len(table))
            from sklearn.model_selection import train_test_split

            kept, aside = train_test_split(
                index,
                test_size=self.validation_fraction,
                random_state=random,
                stratify=stratify,
            )
            validation = (table[aside], values[aside])
            table, values = table[kept], values[kept]
            weights = None if weights is None else weights[kept]
        size = self.batch_size
        try:
            self.model_.fit(
                table,
                values,
                epochs=self.epochs,
                batch_size=None if size is None else min(size, len(table)),
                validation_data=validation,
                sample_weight=weights,
                schedule=self.schedule,
                early_stopping=self.early_stopping or None,
                callbacks=self.callbacks,
                progress=self.progress,
                layout="rows",
                processes=self.processes,
                **keeping,
            )
        finally:  # after Ctrl-C, too
            self.history_ = self.model_.history
            self.n_iter_ = self.model_.epochs_trained
        return self

    def _layers(self, shape: Shape, n_outputs: int) -> tuple[Kind, ...]:
        """The given layers, and what makes scores of what they give."""
        if isinstance(self.layers, str):
            return layers_of(self.layers, shape, n_outputs)
        layers = kinds("layers", self.layers)
        out = resolve(layers, shape)[-1].out_shape if layers else shape
        flat = (Flatten(),) if len(out) > 1 else ()
        return (*layers, *flat, Dense(n_outputs))

    # -- asking --------------------------------------------------------------

    def _model(self, given: Rows) -> Sequential:
        """The model for sequences of this length, with the same parameters.

        For shorter ones it is that of longer ones, where it has weights for each step and was
        fitted to sequences that end before the last.
        """
        if given.shape == self.model_.network.shape and (
            given.lengths == self.model_.network.lengths
        ):
            return self.model_
        key = given.shape[-1], given.lengths
        other = self._others.get(key)  # once: another thread may put its own there
        if other is None:
            mine = self.model_
            config = {**mine.config, "shape": given.shape, "lengths": given.lengths}
            del config["layers"], config["optimizer"]
            other = Sequential(
                layers=mine.network.layers,
                **{**config, "loss": mine.loss, "initializer": "zeros"},
                device=mine.device,
            )
            slots = [slot._replace(start=0) for slot in other.network.slots]
            if slots != [slot._replace(start=0) for slot in mine.network.slots]:
                ends = mine.network.lengths
                if not ends or given.shape[-1] > mine.network.shape[-1]:
                    raise ValueError(
                        f"X has sequences of {given.shape[-1]} steps, but the layers were fitted "
                        f"to {mine.network.shape[-1]} and have weights for each: expected "
                        f"{'no more' if ends else 'as many'}. A recurrent layer or GlobalAvgPool "
                        "in the place of Flatten takes any number."
                    )
                other = mine
            other.preparation = mine.preparation
            self._others = {key: other}
        other._run = self.model_._run
        return other

    def _asked(self, X: Any, method: str) -> Host:
        check_is_fitted(self, "model_")
        given = rows_of(self, X, reset=False, like=None)
        model = self._model(given)
        if model.network.shape != given.shape:
            like = given._replace(shape=model.network.shape, lengths=True)
            given = rows_of(self, X, reset=False, like=like)
        found: Host = model.device.get(getattr(model, method)(given.table, layout="rows"))
        return found

    def _exported(self) -> tuple[Sequential, Any]:
        from ..export.deploy import Entry

        check_is_fitted(self, "model_")
        chain, order = self.model_.network, INSIDE[self.layout]
        if self.layout == "features":
            return self.model_, None
        shape = tuple(chain.shape[order.index(axis)] for axis in range(len(order)))
        tokens = self.layout == "tokens"
        table = self.shape is not None and not tokens
        return self.model_, Entry(shape, order, table, whole=tokens, lengths=chain.lengths)

    def _names(self) -> tuple[str, ...]:
        """Of the columns of a frame, where it was fitted on one."""
        return tuple(getattr(self, "feature_names_in_", ()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `model_` as `load` reads it, and `Sequential.load` and `mlp-xp predict`."""
        check_is_fitted(self, "model_")
        self._check_training()
        described = {
            "layout": self.layout,
            "shape": None if self.shape is None else [int(n) for n in self.shape],
            "looks": list(self._looks),
            "n_features": int(self.n_features_in_),
            "names": list(self._names()),
            "training": self._training(),
        }
        if hasattr(self, "classes_"):
            described["classes"] = self.classes_.dtype.str
        self.model_.save(path, {**self.model_.metadata, "estimator": described})

    def _check_training(self) -> None:
        """Raise what `fit` would of the parameters that `_training` tells."""
        self._validate_params()
        schedule = self.schedule
        if not isinstance(schedule, Schedule):
            schedule = checks.choose("schedule", SCHEDULES, schedule)
        checks.schedule(schedule)

    def _training(self) -> dict[str, Any]:
        """How `fit` trains, as a file holds it; without a schedule of the user's own class."""
        from .keeping import plain

        found = {}
        for name in TRAINING:
            if name == "loss" and self.loss != "auto":
                continue  # the model's file has it
            try:
                found[name] = plain(name, getattr(self, name))
            except ValueError:
                continue
        return found

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | Device = "cpu") -> Self:
        """Read an estimator that `save` wrote: it predicts; `fit` begins anew, as it did before.

        `callbacks`, `progress`, `processes` and schedules of one's own class are in no file.
        """
        model = Sequential.load(path, device=device)
        described = model.metadata.pop("estimator", None)
        takes = cls._takes(model)
        if described is None or not takes:
            what = "no estimator's layout" if takes else f"a model for {model.loss.kind} targets"
            raise ModelFileError(
                f"{path} holds {what}, but what {cls.__name__}.save writes was expected. Use "
                "Sequential.load."
            )
        try:
            return cls._described(model, described, device)
        except (*MISUSED, RecursionError) as error:
            raise ModelFileError(
                f"{path} describes an estimator that this mlp_xp cannot read: {str(error)[:500]}"
            ) from None

    @classmethod
    def _described(cls, model: Sequential, described: Any, device: str | Device) -> Self:
        """An estimator of a model, and of what `save` wrote of it."""
        from .keeping import thing

        config, training = model.config, described.get("training", {})  # older files have none
        if not set(training) <= set(TRAINING):
            raise ValueError(f"its parameters are {sorted(training)}, but expected {TRAINING}.")
        training = {name: thing(value) for name, value in training.items()}
        if training.get("loss", "auto") != "auto":
            raise ValueError(f"its loss is {training['loss']!r}, but expected 'auto'.")
        end = -2 if isinstance(model.network.layers[-2:][0], Flatten) else -1
        est = cls(
            list(model.network.layers[:end]),
            layout=described["layout"],
            shape=None if described["shape"] is None else tuple(described["shape"]),
            optimizer=model.optimizer,
            **{name: config[name] for name in OF_THE_MODEL if name in config and name in KEPT},
            **{"loss": config["loss"], **training},
            random_state=model.seeds[0],
            device=device,
        )
        est._check_training()
        est.model_, est._others, est._looks = model, {}, tuple(described["looks"])
        est.n_features_in_ = checks.integer("its n_features", described["n_features"], 1)
        est.n_iter_, est.history_ = model.epochs_trained, model.history
        names = names_in("its names", described.get("names"))
        if names:
            est.feature_names_in_ = np.array(names, dtype=object)
        est._name_classes(model)
        if "classes" in described:  # the dtype they had
            labels = est.classes_.astype(described["classes"])
            if labels.dtype.kind not in "biufUO" or labels.tolist() != est.classes_.tolist():
                raise ValueError(f"its classes have dtype {described['classes']!r}.")
            est.classes_ = labels
        return est

    @classmethod
    def _takes(cls, model: Sequential) -> bool:
        """Whether a model is for such targets."""
        raise NotImplementedError

    def _name_classes(self, model: Sequential) -> None:
        """`classes_` of a model, of a classifier."""

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_others" in state:
            state["_others"] = {}
        return state

    # -- of the classes

    def _loss(self, usual: str, kinds: tuple[str, ...], targets: str) -> Loss:
        """The loss that was asked for; "auto" is the usual one of such targets.

        kinds    of losses that they may have
        targets  what they are, in words
        """
        choice = self.loss
        if not isinstance(choice, Loss):
            choice = checks.choose("loss", {"auto": LOSSES[usual], **LOSSES}, choice)
        if choice.kind not in kinds:
            raise ValueError(
                f"loss {self.loss!r} takes {choice.kind} targets, but y holds {targets}. "
                "'auto' chooses by the targets."
            )
        return choice

    def _targets(self, y: Any, given: Rows) -> Targets:
        raise NotImplementedError

    def _known_targets(self, y: Any, given: Rows) -> Host:
        """Targets of examples that are not trained on."""
        raise NotImplementedError


OF_THE_MODEL = (
    "optimizer",
    "learning_rate",
    "l2",
    "weight_decay",
    "clip_norm",
    "label_smoothing",
    "density",
    "initializer",
    "dtype",
    "precision",
    "device",
)


TRAINING = (
    "loss",
    "epochs",
    "batch_size",
    "schedule",
    "early_stopping",
    "validation_fraction",
)
KEPT = {"l2", "clip_norm", "label_smoothing", "density", "initializer", "dtype", "precision"}


class NeuralClassifier(ClassifierMixin, BaseNeural):  # type: ignore[misc]  # untyped base
    """A classifier of layers of any kind: convolutional, recurrent, residual, dense.

    Parameters
    ----------
    layers : the layers before the scores: a list of rows of `mlp_xp.layers`, or a line of text as
        `mlp-xp train --layers` takes it, "conv:32x3,pool:2,dense:128". What makes scores of
        their output, Flatten() where it is no vector and Dense(n_classes), is added
    layout : how X lies.
        "features"        (n_samples, n_features)
        "channels_last"   (n_samples, height, width, channels), or without channels for one
        "channels_first"  (n_samples, channels, height, width), likewise
        "sequences"       (n_samples, time, features), or a list of (time, features) arrays
                          whose lengths differ
        "tokens"          (n_samples, time) of whole numbers, or a list of lists, for Embedding
    shape : of one example in the order of `layout`, where X is a table (n_samples, n_features),
        as scikit-learn's scalers and pipelines want it: (28, 28, 1)
    loss : name or `Loss`; "auto" is cross_entropy, of several labels multilabel. With
        "cross_entropy" rows of 0 and 1 are one-hot, and answered with the classes' numbers
    epochs, batch_size, schedule, processes, callbacks, progress : as in `Sequential.fit`
    optimizer, learning_rate, l2, weight_decay, clip_norm, label_smoothing, density,
        initializer, dtype, precision, device : as in `Sequential`
    early_stopping : epochs without a better validation loss after which to stop, True for ten
    validation_fraction : share of the examples set aside for that
    random_state : a whole number is the seed of `Sequential`: the same model everywhere

    Attributes
    ----------
    model_ : the `Sequential`, with its preparation: it answers with the same classes
    classes_, n_features_in_, feature_names_in_, n_iter_ : as scikit-learn's
    history_ : the lists of `Sequential.history`, by name
    """

    def _targets(self, y: Any, given: Rows) -> Targets:
        unmasked("y", y)
        y = hosted("y", y)
        check_classification_targets(y)
        if type_of_target(y) == "multilabel-indicator":
            values = check_array(y, accept_sparse=False)
            check_consistent_length(given.table, values)
            self.classes_ = np.arange(values.shape[1])
            loss = self._loss("multilabel", ("multilabel", "multiclass"), "columns of 0 and 1")
            return Targets(values, loss, values.shape[1], None)
        labels = column_or_1d(y, warn=True)
        check_consistent_length(given.table, labels)
        if labels.dtype.kind in "Mm":
            raise TypeError(
                f"y has dtype {labels.dtype}, but expected numbers or text, which a file can hold "
                "as names of classes. Pass y.astype(str)."
            )
        self.classes_ = np.unique(labels)
        classes = tuple(self.classes_.tolist())
        if len(classes) < 2:
            raise ValueError(
                "Classifier can't train when only one class is present: y holds only "
                f"{classes[0]!r}."
            )
        kinds = ("multiclass", "binary") if len(classes) == 2 else ("multiclass",)
        loss = self._loss("cross_entropy", kinds, f"{len(classes)} classes")
        return Targets(labels, loss, 1 if loss.kind == "binary" else len(classes), classes)

    @classmethod
    def _takes(cls, model: Sequential) -> bool:
        return model.loss.kind not in NUMBERS

    def _name_classes(self, model: Sequential) -> None:
        classes = None if model.preparation is None else model.preparation.classes
        n_out = model.network.sizes[-1]
        self.classes_ = np.arange(n_out) if classes is None else as_labels(classes)

    def _known_targets(self, y: Any, given: Rows) -> Host:
        unmasked("y", y)
        values: Host = np.asarray(hosted("y", y))
        check_consistent_length(given.table, values)
        return values

    def predict(self, X: Any) -> Host:
        """Class labels (n_samples,), or labels 0 and 1 (n_samples, n_labels)."""
        P = self.predict_proba(X)
        if self.model_.loss.kind == "multilabel":
            return (P > 0.5).astype(np.int64)
        found: Host = self.classes_[np.argmax(P, axis=1)]
        return found

    def predict_proba(self, X: Any) -> Host:
        """Probabilities (n_samples, n_classes)."""
        P = self._asked(X, "predict_proba")
        return np.hstack([1 - P, P]) if self.model_.loss.kind == "binary" else P

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Accuracy of predict(X) with respect to y; one-hot where it was fitted to such."""
        check_is_fitted(self, "model_")
        weights = hosted("sample_weight", numbers("sample_weight", sample_weight))
        return float(super().score(X, self._labels(y), weights))

    def _labels(self, y: Any) -> Any:
        """One-hot rows as the numbers of their classes, where it was fitted to such."""
        unmasked("y", y)
        y, prepared = hosted("y", y), self.model_.preparation
        numbered = prepared is None or prepared.classes is None
        one_hot = numbered and self.model_.loss.kind == "multiclass"
        if not one_hot or type_of_target(y) != "multilabel-indicator":
            return y
        n, rows = len(self.classes_), np.asarray(y)
        if rows.shape[1] != n or np.any(rows.sum(axis=1) != 1):
            raise ValueError(
                f"y has shape {rows.shape}, but expected labels, or rows of {n} of which one "
                "is 1: it was fitted to such."
            )
        return self.classes_[rows.argmax(axis=1)]


class NeuralRegressor(RegressorMixin, BaseNeural):  # type: ignore[misc]  # untyped base
    """A regressor of layers of any kind: convolutional, recurrent, residual, dense.

    Parameters are those of `NeuralClassifier`; loss "auto" is squared_error. Targets are taken
    as they are: scikit-learn's TransformedTargetRegressor scales them.

    Attributes
    ----------
    model_, n_features_in_, feature_names_in_, n_iter_, history_ : as those of `NeuralClassifier`
    """

    def _targets(self, y: Any, given: Rows) -> Targets:
        values = self._known_targets(y, given)
        n_outputs = 1 if values.ndim == 1 else values.shape[1]
        return Targets(values, self._loss("squared_error", NUMBERS, "numbers"), n_outputs, None)

    @classmethod
    def _takes(cls, model: Sequential) -> bool:
        return model.loss.kind in NUMBERS

    def _known_targets(self, y: Any, given: Rows) -> Host:
        values = check_array(
            hosted("y", numbers("y", y)), ensure_2d=False, dtype="numeric", input_name="y"
        )
        if values.ndim == 2 and values.shape[1] == 1:
            values = column_or_1d(values, warn=True)
        check_consistent_length(given.table, values)
        return np.asarray(values, np.float64)

    def predict(self, X: Any) -> Host:
        """Values: (n_samples,), or (n_samples, n_outputs)."""
        return self._asked(X, "predict")

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """R² of predict(X) with respect to y."""
        weights = hosted("sample_weight", numbers("sample_weight", sample_weight))
        return float(super().score(X, hosted("y", numbers("y", y)), weights))


__all__ = ["NeuralClassifier", "NeuralRegressor"]
