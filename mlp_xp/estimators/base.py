"""What the two estimators share: the border to scikit-learn, fitted attributes, fitting.

`coefs_` and `intercepts_` are the model: what is trained and predicted with is made from
them, so they may be replaced or written to at any time, as with scikit-learn's. They are
views of one flat vector where they live on the device that computes.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn import get_config
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import (
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import check_is_fitted

from ..activations import ACTIVATIONS
from ..checks import number
from ..export.estimators import Exportable
from ..fitting import Run, copied
from ..guard import trains, turn, unchanged
from ..hardware import Device
from ..losses import LOSSES, Kind, Loss
from ..meant import meant
from ..network import Network, initial_statistics, join
from ..optimizers import OPTIMIZERS
from ..schedules import SCHEDULES
from ..training import CHUNK, Data, Step, stepper
from ..types import Array, Layer, State
from .arrays import HOST, Place, SparseRows, check_together, dtype_name, follow, place_of
from .data import (
    check_data,
    check_place,
    check_rows,
    check_weights,
    to_device,
    unless_refused,
)
from .live import OPTIONAL, Live, current, flat, publish
from .recipe import (
    CONSTRAINTS,
    network_of,
    out_activation,
    recipe_of,
    schedule_of,
)
from .shares import Shares, generator, ranks_of
from .solvers import (
    Descent,
    Problem,
    Validation,
    begin,
    descend,
    in_pieces,
    minimise,
    scores,
    stays_sparse,
)

if TYPE_CHECKING:
    from ..ranks import Ranks

# parameters that take a name of a table
NAMES: dict[str, dict[str, Any]] = {
    "activation": ACTIVATIONS,
    "loss": LOSSES,
    "solver": OPTIMIZERS,
    "learning_rate": SCHEDULES,
}


Keeping: TypeAlias = tuple[Any, float]  # the folder of checkpoints, and seconds between two


class Targets(NamedTuple):
    """y on the host: labels (m,), or (m, n_out), and what kind of targets they are."""

    values: npt.NDArray[Any]
    kind: Kind
    n_outputs: int


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether parameters are the same; arrays only if they are the same object."""
    for name, value in one.items():
        new = other[name]
        if new is not value and (isinstance(new, np.ndarray) or type(new) is not type(value)):
            return False
        if new is not value and new != value:
            return False
    return True


class BaseMLP(Exportable, Shares):
    """Parameters, fitting and what is fitted; the classes add targets and predictions."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS
    _is_regressor: ClassVar[bool] = False
    _live: Live

    # what scikit-learn's __init__ convention makes an attribute of every parameter
    def _set(self, parameters: dict[str, Any]) -> None:
        for name, value in parameters.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    def _parameters(self) -> dict[str, Any]:
        """`get_params(deep=False)`, without its look at the signature."""
        return {name: getattr(self, name) for name in self._parameter_constraints}

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        turn(self)
        for name in ("_live", "_guard"):
            state.pop(name, None)
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    # -- fitting -------------------------------------------------------------

    def _validate_params(self) -> None:
        """scikit-learn's check, and what a name of another library is called here."""
        constraints, name = self._parameter_constraints, type(self).__name__
        try:
            validate_parameter_constraints(constraints, self._parameters(), caller_name=name)
        except InvalidParameterError as error:
            for name, table in NAMES.items():
                value = getattr(self, name, None)
                if isinstance(value, str) and f"The {name!r} parameter" in str(error):
                    choices = [c.options for c in constraints[name] if isinstance(c, StrOptions)]
                    known = [row for row in table if row in set().union(*choices)]
                    raise InvalidParameterError(f"{error}{meant(known, value)}") from None
            raise

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
        """Fit the model to examples X with targets y.

        Parameters
        ----------
        X : array or CSR matrix (n_samples, n_features)
        y : array (n_samples,) or (n_samples, n_outputs)
        sample_weight : array (n_samples,), or None for equal weights
        validation_data : (X, y) or (X, y, sample_weight) to watch, or the share of the
            examples to set aside for it; its loss after every epoch is in
            `validation_loss_curve_`, and `early_stopping` watches its score
        checkpoint : a folder that keeps what is needed to go on: where it holds a checkpoint of
            this training, that is gone on from, to the bit
        every : seconds between two checkpoints, at least; 0: after every epoch

        Returns
        -------
        self
        """
        if not get_config()["skip_parameter_validation"]:
            self._validate_params()
        every = number("every", every, 0, float("inf"))
        keeping = None if checkpoint is None else (checkpoint, every)
        return self._fit(X, y, sample_weight, validation_data, once=False, keeping=keeping)

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic."
            )
        return True

    @trains
    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation_data: Any,
        *,
        once: bool,
        keeping: Keeping | None = None,
    ) -> Self:
        if keeping is not None:
            from .checkpoints import check_asked

            check_asked(self)
        place = place_of(X, self.device)
        ranks = ranks_of(self, place.device)
        if self.processes is not None and ranks is None:
            from .ranks import fit_on_cluster

            fit_on_cluster(self, X, y, sample_weight, validation_data, once, keeping)
            self._warn_of_loss()
            return self
        with place.device.active(), nullcontext() if ranks is None else ranks.together():
            return self._fit_there(
                X, y, sample_weight, validation_data, place, once, keeping, ranks
            )

    def _fit_there(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation_data: Any,
        place: Place,
        once: bool,
        keeping: Keeping | None,
        ranks: Ranks | None,
    ) -> Self:
        """Take what is given, then train; what is refused changes nothing."""
        with unless_refused(self):
            live, problem, state = self._begin(
                X, y, sample_weight, validation_data, place, once, ranks
            )
        step = None
        if self.solver == "lbfgs":
            state = minimise(self, problem, state)
        else:
            state, step = self._descend(live, problem, state, once, keeping, ranks)
        kept = None
        if step is not None and place.device is HOST and hasattr(step, "end"):
            if once:
                kept, step.data = step, None  # type: ignore[attr-defined]  # of the caller's
            else:
                step.end()
        live = live._replace(step=kept, weighted=problem.weights is not None)
        # trained in place: the attributes are views of it
        if state.theta is self._live.theta and state.running is self._live.running:
            self._live = live
        else:
            publish(self, live, state)
        xp = place.device.xp
        if not bool(xp.all(xp.isfinite(state.theta))):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                "values and need to be preprocessed."
            )
        self._warn_of_loss()
        return self

    def _begin(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation_data: Any,
        place: Place,
        once: bool,
        ranks: Ranks | None,
    ) -> tuple[Live, Problem, State]:
        """The model, the data and the state to begin with.

        In scikit-learn's order of checks and of random draws.
        """
        hidden = self._hidden_sizes()
        first = not hasattr(self, "coefs_") or (not self.warm_start and not once)
        if hasattr(self, "preparation_") and not first:
            raise ValueError(
                f"This {type(self).__name__} was read from a file of MLP or mlp-xp train, which "
                "train by other rules: it predicts, but does not go on. Use MLP.load(path).fit, "
                "or mlp-xp train --resume; fit without warm_start begins a new model."
            )
        lenient = bool(get_config()["array_api_dispatch"])
        y = follow("y", y, X, place, lenient)
        sample_weight = follow("sample_weight", sample_weight, X, place, lenient)
        if not first:
            check_place(self, X, "partial_fit" if once else "fit")
        rows, y = check_data(self, X, y, place, first)
        targets = self._targets(y, first and not once, exact=bool(self.warm_start))
        weights = self._weights(sample_weight, y, rows)
        sizes = [int(rows.shape[1]), *hidden, targets.n_outputs]
        self.n_outputs_ = targets.n_outputs
        if first:
            self._name_targets(place)
        loss = self._loss(targets.kind, targets.n_outputs)
        self._random_state = generator(self.random_state, ranks, place.device)
        parameters = self._parameters()
        if first:
            network = network_of(parameters, sizes)
            self._initialise(network, loss, place, dtype_name(rows))
        live = current(self, place)
        if live.recipe.network.sizes != tuple(sizes):
            raise ValueError(
                f"The fitted network has layers of {live.recipe.network.sizes}, but X, y and "
                f"hidden_layer_sizes ask for {tuple(map(int, sizes))}: expected the same, to "
                "go on from it. warm_start=False starts anew."
            )
        if not _equal(live.parameters, parameters):
            network = network_of(parameters, sizes)
            recipe = recipe_of(parameters, network, loss, place.device, self._dtype)
            live = live._replace(recipe=recipe, parameters=parameters, step=None)
        stochastic = self.solver != "lbfgs"
        if stochastic and not hasattr(self, "loss_curve_"):  # the last fit was by lbfgs
            self._forget()
        problem = self._problem(live, rows, targets, y, weights, validation_data, once)
        state = State(flat(live), (), live.running, 0)
        self._live = live
        if not stochastic:
            self._check_deterministic(live.recipe.network)
        return live, problem, state

    def _warn_of_loss(self) -> None:
        if not np.isfinite(getattr(self, "loss_", 0.0)):  # none where Ctrl-C came before it
            warnings.warn(
                f"The loss is {self.loss_}: nothing was learnt from batches with such a loss. "
                "Scale X and y to a size of about one.",
                RuntimeWarning,
                stacklevel=5,
            )

    def _descend(
        self,
        live: Live,
        problem: Problem,
        state: State,
        once: bool,
        keeping: Keeping | None,
        ranks: Ranks | None,
    ) -> tuple[State, Step]:
        """The state reached, and the step that led there."""
        keep = once or self.warm_start == "optimizer"
        begun: Descent | None = getattr(self, "_optimizer", None) if keep else None
        if begun is None or not begun.fits(problem.recipe.optimizer):
            self._optimizer = begin(problem.recipe, problem.device, state.theta)
            live = live._replace(step=None)  # its buffers hold other moments
        schedule = schedule_of(live.parameters)
        self._scikit_rate = schedule is None and self.solver == "sgd"
        self.stopped_ = False
        if self.early_stopping and self.validation_scores_ is None:  # asked for since the last fit
            copy = copied(problem.device, state)
            self._expect_scores(copy.theta, copy.running)
        descent: Descent = self._optimizer
        run = Run(state._replace(moments=descent.moments, step=descent.step))
        sharing = None
        if ranks is not None:
            from .ranks import Sharing

            sharing = Sharing(ranks, self, problem, run)
        step = self._step(live, problem) if sharing is None else sharing.stepper(problem)
        descent.moments = ()  # held by the run alone, which lets go of them with the first step
        keeping = keeping if sharing is None or sharing.shows else None
        with self._keeper(keeping, problem, run) as keeper:
            return descend(self, problem, run, step, schedule, once, keeper, sharing), step

    def _keeper(
        self, keeping: Keeping | None, problem: Problem, run: Run
    ) -> AbstractContextManager[Any]:
        """What keeps checkpoints of a training; None where none are asked for."""
        if keeping is None:
            return nullcontext()
        from .checkpoints import EstimatorKeeper

        return EstimatorKeeper(self, *keeping, problem, run)

    def _step(self, live: Live, problem: Problem) -> Step:
        """The step of the last `partial_fit` on other data, or a new one."""
        device, data, weighted = problem.device, problem.data, problem.weights is not None
        if live.step is not None and live.weighted == weighted:
            live.step.data = data  # type: ignore[attr-defined]
            return live.step
        if device is not HOST and isinstance(data.rows, SparseRows):
            device = device._replace(stepper=None)  # it may want to gather on the device
        return stepper(problem.recipe, device, data)

    def _hidden_sizes(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if not all(isinstance(n, Integral) for n in sizes):
            raise TypeError(f"hidden_layer_sizes is {sizes}, but expected whole numbers.")
        if any(n <= 0 for n in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return sizes

    def _check_deterministic(self, network: Network) -> None:
        if network.n_dropped or network.normalization == "batch":
            raise ValueError(
                "solver='lbfgs' needs an objective that is the same at every call, but dropout "
                "or normalization='batch' was asked for. Use a stochastic solver."
            )
        if self.precision != "float32":
            raise ValueError(
                f"solver='lbfgs' computes in float64, but precision is {self.precision!r}: "
                "expected 'float32'. Use a stochastic solver."
            )

    # -- data ----------------------------------------------------------------

    def _weights(self, sample_weight: Any, y: Any, rows: Any) -> npt.NDArray[Any] | None:
        """Weights on the host in the dtype of the rows, or None."""
        return None if sample_weight is None else check_weights(sample_weight, rows)

    def _problem(
        self,
        live: Live,
        rows: Any,
        targets: Targets,
        y: Any,
        weights: npt.NDArray[Any] | None,
        validation_data: Any,
        once: bool,
    ) -> Problem:
        """The data of one call, with some of it set aside where that was asked for."""
        place, recipe = live.place, live.recipe
        device = place.device
        data = self._data(rows, targets, weights, device)
        index, validation = np.arange(data.m), None
        share = validation_data if isinstance(validation_data, float) else None
        stops = self.early_stopping and self.solver != "lbfgs"
        if once and (share is not None or (stops and validation_data is None)):
            raise ValueError(
                "partial_fit does not support early_stopping=True without examples to watch: "
                "pass validation_data=(X, y)."
            )
        if stops and validation_data is None:
            share = self.validation_fraction
        if share is not None:
            index, held = self._split(index, targets, share)
            validation = self._held(data, held, y, device)
        elif validation_data is not None:
            validation = self._given(validation_data, place)
        if validation is not None and not hasattr(self, "validation_loss_curve_"):
            self.validation_loss_curve_: list[float] = []
        return Problem(device, recipe, data, index, validation, weights)

    def _split(
        self, index: npt.NDArray[np.int64], targets: Targets, share: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Examples to learn from and to watch, drawn as scikit-learn draws them."""
        n_held = math.ceil(share * len(index)) if 0 < share < 1 else 0
        if targets.kind != "binary" and 0 < n_held < len(index):
            order = self._random_state.permutation(len(index))
            held, kept = index[order[:n_held]], index[order[n_held:]]
        else:
            from sklearn.model_selection import train_test_split  # 13 ms

            stratify = targets.values.astype(bool) if targets.kind == "binary" else None
            kept, held = train_test_split(
                index, random_state=self._random_state, test_size=share, stratify=stratify
            )
        if len(held) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        return kept, held

    def _data(
        self, rows: Any, targets: Targets, weights: npt.NDArray[Any] | None, device: Device
    ) -> Data:
        values = targets.values
        if values.ndim == 2:
            dtype = dtype_name(rows)
            with np.errstate(over="ignore"):  # an overflow in the cast is reported below
                values = np.ascontiguousarray(values, dtype=dtype)
            narrowed = values.dtype.itemsize < targets.values.dtype.itemsize
            if narrowed and not np.isfinite(values).all():
                raise ValueError(
                    f"y runs from {targets.values.min():g} to {targets.values.max():g}, which does "
                    f"not fit {dtype}, the dtype of X: scale y, or pass X as float64."
                )
        put = device.put
        return Data(rows, put(values), None if weights is None else put(weights))

    def _held(
        self, data: Data, held: npt.NDArray[np.int64], y: npt.NDArray[Any], device: Device
    ) -> Validation:
        at, xp = device.put(held), device.xp
        rows = data.rows
        rows = rows[at] if isinstance(rows, SparseRows) else xp.take(rows, at, axis=0)
        weights = None if data.weights is None else xp.take(data.weights, at)
        held_out = Data(rows, xp.take(data.targets, at, axis=0), weights)
        return Validation(held_out, y[held], device)

    def _given(self, validation_data: Any, place: Place) -> Validation:
        if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
            raise ValueError(
                "validation_data takes (X, y), (X, y, sample_weight), or a share of the examples "
                f"between 0.0 and 1.0, but a {type(validation_data).__name__} was given."
            )
        X, y, w = (*validation_data, None)[:3]
        check_together("X of validation_data", X, self.coefs_[0], place)
        lenient = bool(get_config()["array_api_dispatch"])
        y, w = (follow(name, v, X, place, lenient) for name, v in (("y", y), ("weights", w)))
        rows, y = check_data(self, X, y, place_of(X, self.device), False)
        targets = self._targets(y, False)
        if targets.n_outputs != self.n_outputs_:
            raise ValueError(
                f"y of validation_data stands for {targets.n_outputs} output(s), but the network "
                f"has {self.n_outputs_}: expected as many as in the y that is learnt."
            )
        data = self._data(rows, targets, self._weights(w, y, rows), place.device)
        return Validation(data, y, place.device)

    # -- the model -----------------------------------------------------------

    def _initialise(self, network: Network, loss: Loss, place: Place, dtype: str) -> None:
        """Initial weights, drawn as scikit-learn draws them, and empty histories."""
        self.n_iter_ = 0
        self.t_ = 0
        self.n_layers_ = len(network.sizes)
        self.out_activation_ = out_activation(loss)
        # of another network, or of the file of another model
        for name in (*OPTIONAL, "_best", "preparation_", "metadata_", "_steps"):
            self.__dict__.pop(name, None)
        draw = self._random_state.uniform
        # Glorot & Bengio 2010; scikit-learn takes a smaller bound before a logistic
        factor = 2.0 if self.activation == "logistic" else 6.0
        fields: list[dict[str, Any]] = [{} for _ in network.sizes[1:]]
        for slot in network.slots:
            if slot.field != "W":
                continue
            n_out, n_in = slot.shape
            bound = np.sqrt(factor / (n_in + n_out))
            fields[slot.layer]["W"] = draw(-bound, bound, (n_in, n_out)).T
            fields[slot.layer]["b"] = draw(-bound, bound, n_out)[:, None]
        for slot in network.slots:  # after scikit-learn's own, so as not to move them
            n_out, n_in = slot.shape
            if slot.field == "P":
                bound = np.sqrt(factor / (n_in + n_out))
                fields[slot.layer]["P"] = draw(-bound, bound, (n_in, n_out)).T
            elif slot.field == "gain":
                fields[slot.layer]["gain"] = np.ones(slot.shape)
        self._dropout_seed = int(self._random_state.randint(2**31)) if network.n_dropped else 0
        theta = join(network, np, [Layer(**field) for field in fields]).astype(dtype)
        running = initial_statistics(network).astype(dtype)
        device, parameters = place.device, self._parameters()
        recipe = recipe_of(parameters, network, loss, device, dtype)
        put = device.put
        live = Live(place, recipe, parameters, (), put(running))
        publish(self, live, State(put(theta), (), live.running, 0))
        self.__dict__.pop("_optimizer", None)
        if self.solver != "lbfgs":
            self._forget()
            if self.early_stopping:
                self._expect_scores(put(theta.copy()), put(running.copy()))

    def _forget(self) -> None:
        """No epoch has been seen yet."""
        self.loss_curve_: list[float] = []
        self._no_improvement_count = 0
        self.__dict__.pop("validation_loss_curve_", None)
        self.best_loss_: float | None = np.inf
        self.validation_scores_: list[float] | None = None
        self.best_validation_score_: float | None = None

    def _expect_scores(self, theta: Array, running: Array) -> None:
        """No score has been seen yet: these weights are the best."""
        self.best_loss_ = None
        self.validation_scores_ = []
        self.best_validation_score_ = -np.inf
        self._best = (theta, running)

    @property
    def _dtype(self) -> str:
        return dtype_name(self.coefs_[0])

    # -- predicting ----------------------------------------------------------

    def _answer(self, X: Any, method: str, make: Callable[[Live, Array], Any]) -> Any:
        """make(the model, its predictions (n_outputs, m) on the device), for checked rows."""
        if not hasattr(self, "coefs_"):
            check_is_fitted(self)
            raise NotFittedError(f"This {type(self).__name__} instance is not fitted yet.")
        before = turn(self)
        try:
            if hasattr(self, "preparation_") and self.preparation_.table is not None:
                X = self.preparation_.rows("X", X)
            place = place_of(X, self.device)
            check_place(self, X, method)
            with place.device.active():
                rows, live = check_rows(self, X, place), current(self, place)
                if not hasattr(self, "preparation_"):
                    return make(live, self._predictions(live, rows))
                device, prepared = place.device, self.preparation_
                rows = rows.toarray() if hasattr(rows, "tocsr") else rows
                rows = prepared.inputs.apply(rows.T, device).T
                return make(live, prepared.outputs.undo(self._predictions(live, rows), device))
        finally:
            unchanged(self, before)

    def _predictions(self, live: Live, rows: Any) -> Array:
        """What the scores of rows stand for: (n_outputs, m)."""
        device = live.place.device
        if not isinstance(rows, np.ndarray) or device is not HOST:
            rows = to_device(rows, device, dtype_name(live.layers[0].W))
        predict = None if stays_sparse(live.recipe, rows) else live.predict()
        if predict is not None:
            if isinstance(rows, np.ndarray) and rows.shape[0] <= CHUNK:
                return predict(rows)
            return in_pieces(device.xp, predict, rows)
        S = scores(live.recipe, device, live.layers, live.running, rows)
        return live.recipe.loss.predict(device.xp, S)

    # -- what the classes add --------------------------------------------------

    def _targets(self, y: Any, redefine: bool, exact: bool = False) -> Targets:
        raise NotImplementedError

    def _name_targets(self, place: Place) -> None:
        """Set fitted attributes that come from y alone."""

    def _kind(self) -> Kind:
        raise NotImplementedError

    def _loss(self, kind: Kind, n_outputs: int) -> Loss:
        raise NotImplementedError

    # -- keeping ---------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, weights and the optimiser's state as safetensors, atomically."""
        from .keeping import save

        check_is_fitted(self, "coefs_")
        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | Device | None = None) -> Self:
        """Read what `save` wrote; `partial_fit` goes on from it as if it had not been written.

        Of a file of `MLP` or `mlp-xp train` it is an estimator that predicts the same, with
        that model's scales and class names (`preparation_`). It cannot go on from it.
        """
        from .keeping import load

        est: Self = load(cls, path, device)
        return est

    @classmethod
    def from_sklearn(cls, est: Any) -> Self:
        """Our estimator with the parameters and the fitted state of scikit-learn's."""
        from .keeping import from_sklearn

        ours: Self = from_sklearn(cls, est)
        return ours

    def to_sklearn(self) -> Any:
        """scikit-learn's estimator with our parameters and fitted state."""
        from .keeping import to_sklearn

        return to_sklearn(self)

    def _exported(self) -> tuple[Any, None]:
        from .keeping import to_mlp

        check_is_fitted(self, "coefs_")
        before = turn(self)
        model = to_mlp(self, "cpu")
        unchanged(self, before)
        return model, None
