"""The front of the library: a network that can be trained, asked, saved and looked into.

Columns, as in the mathematics: X is (n_features, n_examples). A table of rows enters with
layout="rows", which costs nothing, and is answered in rows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from . import checks
from .architecture import Architecture, by_name
from .checks import Layout
from .devices import device as find_device
from .exchange import check_ready, given_back
from .fitting import (
    EPOCHS,
    Callback,
    EarlyStopping,
    Plan,
    Run,
    check_batches,
    copied,
    moved,
    train,
)
from .guard import changes, trains, turn
from .hardware import Device, on_device
from .initializers import Initializer
from .kernels import at_precision
from .losses import LOSSES, Loss
from .optimizers import OPTIMIZERS, Optimizer
from .pickling import portable
from .prepared import AS_GIVEN, NO_SCALE, Preparation, names_of
from .ranks import find as find_ranks
from .ranks import shares
from .rates import LearningRates
from .rates import search as search_rates
from .report import counted
from .schedules import SCHEDULES, Schedule
from .streams.answers import answers, written
from .streams.feed import Feed, check_alone
from .streams.streamed import Stream
from .training import (
    Data,
    Predicts,
    Recipe,
    Score,
    evaluate,
    scorer,
    scores_of,
    stacked,
)
from .types import Array, State

if TYPE_CHECKING:
    from .checkpoints import Checkpoints

DEFAULT_BATCH = 128
OWN = ("_recipe", "_guard", "_scores_by")  # what every model makes for itself


class Model:
    """A network that can be trained: what `MLP` and `Sequential` have in common.

    Each says what its `network` is and calls `_begin`.
    """

    network: Architecture

    def _begin(
        self,
        network: Architecture,
        initializers: Sequence[Initializer],
        described: dict[str, Any],
        *,
        loss: str | Loss,
        optimizer: str | Optimizer,
        learning_rate: float | None,
        l2: float,
        weight_decay: float | None,
        clip_norm: float | None,
        clip_value: float | None,
        label_smoothing: float,
        dtype: str,
        precision: str,
        device: str | Device,
        seed: int | Sequence[int] | None,
    ) -> None:
        """Check what every model takes, and lay out the state.

        described  the config's part about the network
        """
        self.network, self.initializers = network, initializers
        self.loss = _loss(loss)
        checks.choose("dtype", dict.fromkeys(checks.DTYPES), dtype)
        _check_outputs(self.loss, loss, self.network.sizes[-1])
        self.dtype, self.precision = dtype, checks.precision(precision, dtype)
        self.device = find_device(device)
        self.seeds, self.leading = _seeds(seed)
        self.optimizer = _optimizer(optimizer, learning_rate, weight_decay)
        self.l2 = checks.number("l2", l2, 0, math.inf)
        self.clip_norm = None if clip_norm is None else positive("clip_norm", clip_norm)
        self.clip_value = None if clip_value is None else positive("clip_value", clip_value)
        self.label_smoothing = checks.number(
            "label_smoothing", label_smoothing, 0, 1, open_high=True
        )
        if self.label_smoothing and self.loss.kind in ("real", "count"):
            raise ValueError("label_smoothing needs a loss for classes, not for numbers.")
        self.config = {
            **described,
            "loss": name_in(LOSSES, self.loss),
            "optimizer": _optimizer_config(self.optimizer),
            "l2": self.l2,
            "clip_norm": self.clip_norm,
            "clip_value": self.clip_value,
            "label_smoothing": self.label_smoothing,
            "dtype": dtype,
            "precision": self.precision,
            "seed": list(self.seeds) if self.leading else self.seeds[0],
        }
        self.metadata: dict[str, Any] = {}
        self._prepared = AS_GIVEN
        self.layout: Layout | None = None
        self.reset()

    # -- state ---------------------------------------------------------------

    @on_device
    @trains
    def reset(self) -> None:
        """Back to the initial weights, with no history."""
        theta = [
            self.network.initialise(seed, self.initializers, self.dtype) for seed in self.seeds
        ]
        running = [self.network.initial_statistics() for _ in self.seeds]
        absent = [self.network.connections(seed) for seed in self.seeds]
        decayed = np.zeros(self.network.n_parameters, self.dtype)
        decayed[: self.network.n_weights] = 1
        self._recipe = Recipe(
            network=self.network,
            loss=self.loss,
            optimizer=self.optimizer,
            kernels=at_precision(self.device.kernels, self.precision),
            decayed=self._put(decayed),
            connected=self._put(stacked(absent, self.leading)) if self.network.sparse else None,  # type: ignore[arg-type]
            classes=self.device.put(np.arange(self.network.sizes[-1])),
            l2=self.l2,
            label_smoothing=self.label_smoothing,
            clip_norm=checks.clip_norm(self.clip_norm, self.dtype),
            clip_value=self.clip_value,
            precision=self.precision,
        )
        self._scores_by = scorer(self.device)
        start = self._put(stacked(theta, self.leading))
        zeros = self.device.xp.zeros_like
        moments = tuple(zeros(start) for _ in range(self.optimizer.n_moments))
        self._run = Run(State(start, moments, self._put(stacked(running, self.leading)), 0))
        self.device.synchronize()  # the model may be used on any stream

    def _table(self, argument: str, X: Any, layout: Layout | None) -> Any:
        """X as a table, where a model takes examples of other shapes too."""
        return X

    def _put(self, array: npt.NDArray[Any]) -> Array:
        return self.device.put(array.astype(self.dtype, copy=False))

    def _state(self) -> State:
        """The state reached, of a whole step: `ModelBusy` while another thread trains.

        A training writes to arrays of its own, so what was reached before it began stays whole.
        """
        state = self._run.state
        turn(self)
        return state

    @property
    def history(self) -> dict[str, list[Any]]:
        """One list a quantity, one entry an epoch: epoch, loss, validation_loss, rate, …

        Those of validation have one for each epoch that was measured.
        """
        return self._run.history

    @property
    def epochs_trained(self) -> int:
        """Whole epochs since the initial weights."""
        return self._run.epoch

    @property
    def steps_trained(self) -> int:
        """Updates since the initial weights."""
        return self._run.state.step

    @property
    def n_parameters(self) -> int:
        """Parameters of one network, absent connections included."""
        return self.network.n_parameters

    @property
    @on_device
    def parameters(self) -> dict[str, Array]:
        """W1, b1, gain1, P1, W2 … by name, on the device, (…, n_out, n_in) each: a copy."""
        xp = self.device.xp
        return by_name(self.network, xp, xp.asarray(self._state().theta, copy=True))

    @on_device
    @changes
    def set_parameters(self, **parameters: Any) -> None:
        """Replace parameters by name: arrays of the shapes in `parameters`, any kind of float.

        The optimiser's moments stay. The zeros of absent connections must be zeros.
        """
        xp, network = self.device.xp, self.network
        known = {slot.name: slot for slot in network.slots}
        parts = by_name(network, xp, self._run.state.theta)
        for name, value in parameters.items():
            slot = checks.choose("the parameter's name", known, name)
            shape = (*self.leading, *slot.shape)
            parts[name] = checks.parameter(name, value, shape, self.device, self.dtype)
        flat = [xp.reshape(parts[slot.name], (*self.leading, -1)) for slot in network.slots]
        theta = xp.concat(flat, axis=-1)
        absent = self._recipe.connected
        if absent is not None and bool(xp.any((absent == 0) & (theta != 0))):
            raise ValueError(
                "The parameters hold numbers where the network has no connection: expected 0 "
                "there. `parameters` shows where."
            )
        self._run.state = self._run.state._replace(theta=theta)

    @property
    def preparation(self) -> Preparation | None:
        """What is done to X before the first layer and to answers after the last, or None.

        A model of `mlp-xp train` has one: it takes raw features, labels and numbers, and
        answers with the same. One that was trained on named columns finds those of later tables
        by name. Set it to give a model one; ValueError if it does not fit.
        """
        return None if self._prepared == AS_GIVEN else self._prepared

    @preparation.setter
    def preparation(self, value: Preparation | None) -> None:
        if not isinstance(value, Preparation | None):
            raise TypeError(
                f"preparation is a {type(value).__name__}, but expected what mlp_xp.prepare finds, "
                "or None."
            )
        if value is not None:
            value.check(self.network.sizes, self.dtype, self.loss.kind)
        self._prepared = AS_GIVEN if value is None else value

    # -- training ------------------------------------------------------------

    @on_device
    @trains
    @shares
    def fit(
        self,
        X: Any,
        Y: Any = None,
        *,
        epochs: int = EPOCHS,
        batch_size: int | None = None,
        validation_data: tuple[Any, ...] | Stream | None = None,
        sample_weight: Any = None,
        schedule: str | Schedule = "constant",
        early_stopping: EarlyStopping | int | bool | None = None,
        shuffle: bool = True,
        callbacks: Callback | Sequence[Callback] | None = (),
        progress: bool = True,
        layout: Layout | None = None,
        checkpoint: str | os.PathLike[str] | Checkpoints | None = None,
        every: float = 30.0,
        processes: Any = None,
    ) -> Self:
        """Train on examples X (n_features, m) with targets Y, or on a `Stream`; returns the model.

        Y                labels (m,) or one-hot (n_out, m) for cross_entropy; else (n_out, m),
                         or (m,) for one output
        batch_size       examples a step, the last batch of an epoch being what is left;
                         None: 128, or all if there are fewer
        validation_data  (X, Y) or (X, Y, sample_weight), or a `Stream`, measured after every epoch
        sample_weight    (m,) ≥ 0
        schedule         name or `Schedule` of the learning rate over this call
        early_stopping   patience in epochs, or `EarlyStopping`; True is its own patience
        callbacks        function or functions (model, Epoch), called after every epoch; what
                         is true ends the training after that epoch
        progress         a progress bar on standard error
        layout           "rows" for X (m, n_features) and Y (m, n_out), or "columns": of this
                         call, its validation data, and all later calls that are given none
        checkpoint       a folder that keeps what is needed to go on: where it holds a checkpoint
                         of this training, that is gone on from, to the bit (`checkpoints`)
        every            seconds between two checkpoints, at least; 0: after every epoch. Of
                         a stream within epochs, too; 0: as soon as the last one is written
        processes        "mpi": the processes that `mpiexec` started share every batch (`ranks`);
                         the result is on all of them, rank 0 alone shows progress, calls
                         callbacks and keeps checkpoints. A Dask scheduler's address, such as
                         "tcp://host:8786", or a `distributed.Client`: all workers of that cluster
                         do, and the result is here (`ranks_dask`). None: this process alone

        A second call goes on where the first ended, with the optimiser's moments. Meanwhile
        callbacks may ask the model, and other threads are refused (`guard.ModelBusy`). Raises
        `TrainingDiverged` if the loss stops being finite, keeping the last good weights, and
        `checkpoints.CheckpointError` for a folder that is another training's; after a
        KeyboardInterrupt the model holds the weights of the last step.
        """
        kind, dtype, widths = self.loss.kind, self.dtype, self.network.sizes
        lies = checks.layout(X, layout, self.layout)
        data: Data | Feed
        if isinstance(X, Stream):
            check_alone(Y, sample_weight)
            data = Feed(X, self)
            data.check()
        else:
            _check_targets(Y)
            X, args = self._table("X", X, lies), (widths, kind, self.device, dtype)
            data = checks.data(
                X, Y, sample_weight, *args, several=True, prepared=self._prepared, layout=lies
            )
            self.network.check_rows("X", self.device, data.rows)
        names = X.features if isinstance(X, Stream) else names_of(X)
        prepared = self._prepared.finding(names, self.config["loss"])
        validation = None
        if validation_data is not None:
            validation = self._validation(validation_data, lies, prepared)
        if not isinstance(schedule, Schedule):
            schedule = checks.choose("schedule", SCHEDULES, schedule)
        plan = Plan(
            epochs=checks.integer("epochs", epochs, 1),
            batch_size=_batch_size(batch_size, data.m),
            seeds=self.seeds,
            leading=self.leading,
            schedule=checks.schedule(schedule),
            shuffle=checks.flag("shuffle", shuffle),
            early_stopping=checks.early_stopping(early_stopping),
            callbacks=checks.functions("callbacks", callbacks),
            progress=checks.flag("progress", progress),
        )
        every = checks.number("every", every, 0, float("inf"))
        check_batches(self._recipe, plan.batch_size, stacklevel=6)
        self.layout, self._prepared = lies, prepared
        ranks = find_ranks(processes, self.device)
        if ranks is not None:
            from .checkpoints_models import described

            recipe = described(self, plan, data, validation)
            ranks.check(self.device, {"epochs": plan.epochs, **recipe})
            if ranks.rank > 0:
                checkpoint, plan = None, replace(plan, callbacks=(), progress=False)
        with self._keeper(checkpoint, every, plan, data, validation) as keeper:
            train(self._recipe, self.device, self._run, plan, data, validation, self, keeper, ranks)
        return self

    def _keeper(
        self,
        checkpoint: Any,
        every: float,
        plan: Plan,
        data: Data | Feed,
        validation: Data | Feed | None,
    ) -> AbstractContextManager[Any]:
        """What keeps checkpoints of a training; None where none are asked for."""
        if checkpoint is None:
            return nullcontext()
        from .checkpoints_models import ModelKeeper

        return ModelKeeper(self, checkpoint, every, plan, data, validation)

    def _validation(
        self, given: tuple[Any, ...] | Stream, layout: Layout | None, prepared: Preparation
    ) -> Data | Feed:
        if isinstance(given, Stream):
            return Feed(given, self, prepared)
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            raise ValueError(
                "validation_data takes (X, Y), (X, Y, sample_weight) or a stream, "
                f"but a {type(given).__name__} was given."
            )
        X, Y, w = (*given, None)[:3]
        names = ("validation X", "validation Y", "validation sample_weight")
        args = (self.network.sizes, self.loss.kind, self.device, self.dtype, names)
        lies = checks.layout(X, None, layout)
        X = self._table(names[0], X, lies)
        data = checks.data(X, Y, w, *args, prepared=prepared, layout=lies)
        self.network.check_rows(names[0], self.device, data.rows)
        return data

    @on_device
    def find_learning_rate(
        self,
        X: Any,
        Y: Any,
        *,
        lowest: float = 1e-6,
        highest: float = 10.0,
        steps: int = 100,
        batch_size: int | None = None,
        layout: Layout | None = None,
    ) -> LearningRates:
        """Train a copy of the weights at rates rising from `lowest` to `highest`.

        Smith 2017, "Cyclical Learning Rates for Training Neural Networks", §3.3. Stops when
        the loss is four times its least; of counts, what it is above the least possible. The
        model itself is left as it is.
        """
        data = self._data(X, Y, None, layout)
        lowest, highest = positive("lowest", lowest), positive("highest", highest)
        if lowest >= highest:
            raise ValueError(f"lowest is {lowest}, but expected less than highest, {highest}.")
        steps = checks.integer("steps", steps, 3)
        size, rates = _batch_size(batch_size, data.m), np.geomspace(lowest, highest, steps)
        of = self._recipe, self.device, self._state()
        return search_rates(*of, data, rates, size, self.seeds, self.leading)

    # -- asking --------------------------------------------------------------

    @on_device
    def scores(self, X: Any, *, layout: Layout | None = None) -> Array:
        """What the last layer gives: (n_out, m), before any softmax, sigmoid or scale."""
        lies = checks.layout(X, layout, self.layout)
        return given_back(self._laid(self._scores(X, lies), lies), X, self.device)

    def _scores(self, X: Any, layout: Layout | None) -> Array:
        X, args = self._table("X", X, layout), (self.network.sizes[0], self.device, self.dtype)
        rows = checks.examples("X", X, *args, self._prepared, layout)
        self.network.check_rows("X", self.device, rows)
        return self._scores_by(self._recipe, self._state(), rows)

    def _laid(self, answer: Array, layout: Layout | None) -> Array:
        """An answer (n_out, m) as its question lay."""
        return self.device.xp.matrix_transpose(answer) if layout == "rows" else answer

    @on_device
    def predict_proba(
        self, X: Any, *, layout: Layout | None = None, out: str | os.PathLike[str] | None = None
    ) -> Any:
        """Probabilities (n_out, m): of each class; of class 1 for binary; of each label.

        Of a stream, and with `out`, as `predict` does: blocks are (n, n_out).
        """
        if self.loss.kind in ("real", "count"):
            raise ValueError("predict_proba needs a loss for classes; use predict.")
        if isinstance(X, Stream):
            return self._streamed(X, self.predict_proba, out)
        _check_out(out)
        lies = checks.layout(X, layout, self.layout)
        P = self.loss.predict(self.device.xp, self._scores(X, lies))
        return given_back(self._laid(P, lies), X, self.device)

    @on_device
    def predict(
        self, X: Any, *, layout: Layout | None = None, out: str | os.PathLike[str] | None = None
    ) -> Any:
        """Class labels (m,), labels 0 or 1 for multilabel, or values: (n_out, m).

        (m,) too where the network has one output. With a `preparation` the labels are its
        classes, and the values in the targets' units. An X of PyTorch, JAX, CuPy or another
        array library is answered with an array of that library, where X lies.

        A `Stream` is answered block by block, in the file's order: an iterator of (n,) or
        (n, n_out) arrays of the host. With out, the path of a .npy file, all of them are written
        there, and the path is returned.
        """
        if isinstance(X, Stream):
            return self._streamed(X, self.predict, out)
        _check_out(out)
        return given_back(self._answer(X, checks.layout(X, layout, self.layout)), X, self.device)

    def _streamed(
        self, stream: Stream, ask: Callable[..., Any], out: str | os.PathLike[str] | None
    ) -> Any:
        """What `ask` says of a stream: blocks, or the path of a file with all of them."""
        blocks = answers(self, stream, ask)
        return blocks if out is None else written(blocks, stream.m, len(self.leading), out)

    def _answer(self, X: Any, lies: Layout | None) -> Array:
        """What `predict` says, on the device."""
        xp, kind, S = self.device.xp, self.loss.kind, self._scores(X, lies)
        if kind == "multiclass":
            return self._prepared.named(xp.argmax(S, axis=-2), self.device)
        if kind == "binary":
            return self._prepared.named(xp.astype(S[..., 0, :] > 0, xp.int64), self.device)
        if kind == "multilabel":
            answer = xp.astype(S > 0, xp.int64)
        else:
            answer = self._prepared.outputs.undo(self.loss.predict(xp, S), self.device)
        return answer[..., 0, :] if answer.shape[-2] == 1 else self._laid(answer, lies)

    @on_device
    def predictor(self, batch_size: int) -> Callable[[Array], Array]:
        """A function for many small batches: X (n_features, m) → probabilities, or values.

        m is at most `batch_size`. The answer (n_out, m) is that of `predict_proba`, or of
        `predict` where the loss is for numbers, in columns whatever the layout of other
        calls. What makes it several times faster on one
        example: X must be an array of the model's device and dtype and is not checked, the
        weights are those of now, and an answer may lie where the last one of the same thread
        did: copy what you keep. Threads may share a predictor. A `preparation` is applied in
        the model's dtype.
        """
        size, xp = checks.integer("batch_size", batch_size, 1), self.device.xp
        recipe, state = self._recipe, copied(self.device, self._state())
        fast = None
        if self.device.predictor is not None:
            network = self.network
            layers: Sequence[Any] = network.split(xp, state.theta)
            if recipe.precision == "float32":
                network, layers = network.predicting(xp, layers, state.running)
            plain = replace(recipe, network=network)
            with self.device.active():
                fast = self.device.predictor(plain, layers, size)
        if fast is None and isinstance(self._scores_by, Predicts):
            fast = self._scores_by.predictor(recipe, state, size)

        def predict(X: Array) -> Array:
            try:
                found = None if fast is None else fast(X.T)
                if found is not None:
                    return found
                with self.device.active():
                    S = scores_of(recipe, xp, state, xp.matrix_transpose(X))
                    return recipe.loss.predict(xp, S)
            except (AttributeError, TypeError, ValueError):  # afterwards, for then it costs nothing
                check_ready(X, self.device, self.dtype)
                raise

        scales = (self._prepared.inputs, self._prepared.outputs)
        return predict if scales == (NO_SCALE, NO_SCALE) else self._prepares(predict)

    def _prepares(self, predict: Callable[[Array], Array]) -> Callable[[Array], Array]:
        device, dtype, outputs = self.device, self.dtype, self._prepared.outputs
        scaled = self._prepared.inputs.on(device, dtype)

        def whole(X: Array) -> Array:
            try:
                with device.active():
                    return outputs.undo(predict(scaled(X)), device)
            except (AttributeError, TypeError, ValueError):
                check_ready(X, device, dtype)
                raise

        return whole

    @on_device
    def evaluate(
        self, X: Any, Y: Any = None, sample_weight: Any = None, *, layout: Layout | None = None
    ) -> Score:
        """Loss and score on (X, Y), or on a `Stream`: accuracy for classes, R² for numbers.

        The loss is the objective: the weighted mean, with the L2 penalty, without smoothing of
        labels. With a `preparation` that scales targets, the loss is that of the scaled ones.
        """
        recipe, state = self._recipe, self._state()
        if isinstance(X, Stream):
            check_alone(Y, sample_weight)
            found = Feed(X, self).evaluate(recipe, self.device, state, self._scores_by)
        else:
            _check_targets(Y)
            data = self._data(X, Y, sample_weight, layout)
            found = evaluate(recipe, self.device.xp, state, data, self._scores_by)
            found = Score(*map(self.device.get, found))
        return found if self.leading else Score(*map(float, found))

    def _data(
        self,
        X: Any,
        Y: Any,
        sample_weight: Any,
        layout: Layout | None,
        dtype: str | None = None,
    ) -> Data:
        """Examples that are not trained on, checked and on the device."""
        args = (self.network.sizes, self.loss.kind, self.device, dtype or self.dtype)
        lies = checks.layout(X, layout, self.layout)
        X = self._table("X", X, lies)
        data = checks.data(X, Y, sample_weight, *args, prepared=self._prepared, layout=lies)
        self.network.check_rows("X", self.device, data.rows)
        return data

    # -- keeping -------------------------------------------------------------

    @on_device
    def save(self, path: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> None:
        """Write the model, its optimiser state and history as safetensors, atomically.

        metadata  a dict of what JSON can hold, to come back as `model.metadata`; None keeps
                  the model's own. Its entry "preparation" is the model's
        """
        from .storage import save

        save(self, path, metadata)

    @on_device
    def to_onnx(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        dtype: str | None = None,
        input_dtype: str | None = None,
    ) -> Any:
        """The model as an ONNX graph (opset 18), for onnxruntime and others that run such.

        path         of a file to write, atomically; None writes none
        dtype        "float32" or "float64" of weights and products; None: the model's
        input_dtype  likewise of X, which a `preparation` scales in it; None: as `dtype`

        Rows in and rows out: the input X is (m, n_features), whatever m; of a model for a table
        it is one input (m, 1) for each column, by its name, numbers as float64 and words as
        text ("" is a gap). The outputs, by skl2onnx's names: `label` (m,) and `probabilities`
        (m, n_classes) for classes, `label` and `probabilities` (m, n_labels) for multilabel,
        `variable` (m, n_outputs) for numbers. Many networks have one more axis in front of each.

        Returns an `onnx.ModelProto`. ImportError without the extra mlp_xp[onnx];
        `export.functions.NotExportable`, a ValueError, names what has no counterpart: an
        activation, a loss or a kind of layer of your own, and dates in tables.
        """
        from .export.deploy import to_onnx

        return to_onnx(self, path, dtype=dtype, input_dtype=input_dtype)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | Device = "cpu") -> Self:
        """Read a model; training goes on from it bit for bit on the same machine.

        One of `mlp-xp train` comes with its `preparation`: it takes what the command took and
        answers what `mlp-xp predict` prints. An estimator's file is refused, and so is one of
        another class: `Model.load` takes all of them.
        """
        from .storage import ModelFileError, load

        model = load(path, device=device)
        if not isinstance(model, cls):
            found = type(model).__name__
            raise ModelFileError(
                f"{path} holds a {found}, but a {cls.__name__} was expected. Use {found}.load."
            )
        return model

    @on_device
    def __getstate__(self) -> dict[str, Any]:
        """All but what `reset` makes, arrays on the host."""
        kept = {name: value for name, value in vars(self).items() if name not in OWN}
        kept["_run"] = replace(self._run, state=moved(self._state(), self.device.get))
        for argument in ("optimizer", "initializers"):
            kept[argument] = portable(argument.rstrip("s"), kept[argument])
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        """The same model on the device of that name; `DeviceUnavailable` says why it cannot."""
        vars(self).update(kept)
        self.reset()
        with self.device.active():
            self._run = kept["_run"]
            # joblib hands large arrays over as files, which do not last: copy them
            self._run.state = moved(self._run.state, lambda A: self.device.put(np.array(A)))
            self.device.synchronize()

    @on_device
    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A model of its own on the same device, with the same functions."""
        shared = ("_recipe", "_scores_by", "_run", "network", "initializers", "optimizer", "device")
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        run, state = self._run, self._state()
        for name, value in list(vars(self).items()):
            if name == "_guard":
                continue
            setattr(other, name, value if name in shared else deepcopy(value, memo))
        state = copied(self.device, state)
        other._run = replace(run, state=state, history=deepcopy(run.history, memo))
        self.device.synchronize()
        return other

    def __copy__(self) -> Self:
        """A deep copy: two models with one state would train each other."""
        return deepcopy(self)

    def __repr__(self) -> str:
        shape = self.network.written
        several = f", {counted(len(self.seeds), 'networks')}" if self.leading else ""
        products = "" if self.precision == "float32" else f", {self.precision} products"
        numbers = f"{self.n_parameters:,} parameters, {self.dtype}{products}"
        prepares = "" if self.preparation is None else ", with a preparation"
        return f"<{type(self).__name__} {shape}, {numbers}{several}{prepares}>"

    def layer_rows(self) -> list[dict[str, Any]]:
        """What each layer is, for the summary: see `description`."""
        raise NotImplementedError

    def summary(self) -> str:
        """Layers, what it takes and answers, how it was trained: the text of `mlp-xp show`."""
        from .description import describe
        from .summary import as_text

        return as_text(describe(self))

    @on_device
    def explain(self, batch_size: int = DEFAULT_BATCH) -> str:
        """What a training step computes, group by group: formulas, bytes, products, memory.

        It is the step as it runs on the model's device, for a batch of this size: on CUDA with
        its launches, by name, and of a dense network, whose kernels are written by hand, these
        alone. Several networks are one program, or one each.
        """
        from .explained import explain_step

        m = checks.integer("batch_size", batch_size, 1)
        return str(explain_step(self._recipe, self._state(), m, self.device))

    def _repr_html_(self) -> str:
        """The summary for a notebook, which needs nothing from elsewhere."""
        from .description import describe
        from .summary import as_html

        return as_html(describe(self))


# -- arguments ---------------------------------------------------------------


def name_in(table: dict[str, Any], row: Any) -> str | None:
    """The name under which a row stands in its table; None if it does not."""
    return next((name for name, value in table.items() if value is row), None)


def positive(argument: str, value: Any, most: float = math.inf) -> float:
    checked = checks.number(argument, value, 0, most)
    if checked == 0:
        raise ValueError(f"{argument} is 0, but expected more.")
    return checked


def _seeds(seed: int | Sequence[int] | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The seeds, and the leading axes of the parameters: () for a single seed."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
    if isinstance(seed, np.ndarray):
        seed = seed.tolist()
    if isinstance(seed, list | tuple | range):
        seeds = tuple(checks.seed(f"seed[{i}]", s) for i, s in enumerate(seed))
        if not seeds:
            raise ValueError("seed is an empty list, but expected at least one number.")
        return seeds, (len(seeds),)
    return (checks.seed("seed", seed),), ()


def _loss(choice: str | Loss) -> Loss:
    if isinstance(choice, Loss):
        return choice
    if callable(choice) or isinstance(choice, tuple):
        raise ValueError(
            f"loss is {choice!r}, but expected a name, or a row of your own: "
            "mlp_xp.Loss(value, delta, predict, kind)."
        )
    return checks.choose("loss", LOSSES, choice)


def _optimizer(
    choice: str | Optimizer, rate: float | None, weight_decay: float | None
) -> Optimizer:
    optimizer = choice
    if not isinstance(optimizer, Optimizer):
        optimizer = checks.choose("optimizer", OPTIMIZERS, choice)()
    if rate is not None:
        optimizer = replace(optimizer, rate=positive("learning_rate", rate))
    if weight_decay is not None:
        decay = checks.number("weight_decay", weight_decay, 0, math.inf)
        optimizer = replace(optimizer, weight_decay=decay)
    return checks.optimizer(optimizer)


def _optimizer_config(optimizer: Optimizer) -> dict[str, Any]:
    name = name_in(OPTIMIZERS, type(optimizer))
    return {"name": name, **{f.name: getattr(optimizer, f.name) for f in fields(optimizer)}}


def _check_outputs(loss: Loss, name: object, n_out: int) -> None:
    if loss.kind == "multiclass" and n_out < 2:
        raise ValueError(
            f"loss {name!r} has {n_out} output, but expected one for each of two classes or "
            "more. For one output use 'binary_cross_entropy' or 'squared_error'."
        )
    if loss.kind == "binary" and n_out != 1:
        raise ValueError(
            f"loss {name!r} has {n_out} outputs, but expected 1. For several classes use "
            "'cross_entropy', for several independent labels 'multilabel'."
        )


def _check_targets(Y: object) -> None:
    """Arrays have no targets in themselves, as a stream has."""
    if Y is None:
        raise TypeError("Y is missing: expected X and Y, or a stream that was given a target.")


def _check_out(out: object) -> None:
    """Arrays are answered with arrays; a file is for streams."""
    if out is not None:
        raise TypeError("out is for a stream, but X is in memory: np.save the answer.")


def _batch_size(given: int | None, m: int) -> int:
    if given is None:
        return min(DEFAULT_BATCH, m)
    size = checks.integer("batch_size", given, 1)
    if size > m:
        raise ValueError(
            f"batch_size is {size}, but there are {m} examples: expected at most {m}. "
            "Leave it out to have it chosen."
        )
    return size
