"""Estimators in files, and to and from scikit-learn's own.

A file is laid out as `storage` describes: parameters and counters as JSON, weights, moments
and the best weights of early stopping as tensors. `device`, `callbacks` and `processes` are not
kept: they belong to a session, not to a model. Arrays come back as NumPy's. A schedule that has
learnt from losses (`reduce_on_plateau`) between calls of `partial_fit` begins anew.

A file of `MLP` becomes an estimator that predicts the same, and an estimator an `MLP` that
does; neither trains on, for the penalty, the draws and the schedules are others.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import optimizers, schedules, storage
from ..activations import ACTIVATIONS
from ..devices import device as find_device
from ..guard import turn, unchanged
from ..hardware import Device
from ..headers import MISUSED, ModelFileError, mapping, parsed, refusal
from ..losses import LOSSES
from ..mlp import MLP
from ..network import Network, initial_statistics, join, split
from ..optimizers import Adam, Momentum, Optimizer
from ..prepared import NUMBERS, Preparation, as_labels
from ..storage import Tensors
from ..types import Layer
from .arrays import to_host
from .headers import (
    CURVES,
    check_facts,
    check_model,
    check_parameters,
    check_progress,
    rates_of,
)
from .live import current_at_home, flat
from .objective import LOG_LOSS
from .recipe import ACTIVATION_NAMES, family_of, optimizer_of, out_activation, schedule_of
from .solvers import Descent

SESSION = ("device", "callbacks", "processes")
COUNTERS = (
    "n_iter_",
    "t_",
    "n_layers_",
    "n_outputs_",
    "out_activation_",
    "loss_",
    "best_loss_",
    "best_validation_score_",
    "n_features_in_",
    "stopped_",
    "_no_improvement_count",
    "_dropout_seed",
    "metadata_",
    "_steps",
)
# parameters that are arguments of MLP, too
SHARED = ("normalization", "residual", "dropout", "clip_norm", "clip_value", "precision", "dtype")


# -- parameters as JSON ------------------------------------------------------------


def plain(name: str, value: Any) -> Any:
    """A parameter's value as JSON can hold it and `thing` can read it back."""
    for table in (ACTIVATIONS, LOSSES):
        for key, row in table.items():
            if isinstance(value, tuple) and value == row:
                return key
    if is_dataclass(value) and not isinstance(value, type) and _class(type(value).__name__):
        parts = {f.name: plain(name, getattr(value, f.name)) for f in fields(value)}
        return {"row": [type(value).__name__, parts]}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {"tuple": [plain(name, part) for part in value]}
    if isinstance(value, list | np.ndarray):
        return [plain(name, part) for part in value]
    if isinstance(value, dict):
        return {"dict": [[plain(name, k), plain(name, v)] for k, v in value.items()]}
    raise ValueError(
        f"{name} is {value!r}, which a file cannot hold: expected names, numbers, or rows of "
        "the library's tables."
    )


def _class(name: str) -> Any:
    """A class of optimisers or schedules by name; None if there is none of ours."""
    for module, base in ((optimizers, Optimizer), (schedules, schedules.Schedule)):
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, base):
            return found
    return None


def thing(value: Any) -> Any:
    """What `plain` made plain."""
    if isinstance(value, list):
        return [thing(part) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tuple":
        return tuple(thing(part) for part in content)
    if kind == "dict":
        return {thing(k): thing(v) for k, v in content}
    name, parts = content
    return _class(name)(**{key: thing(part) for key, part in parts.items()})


# -- files -------------------------------------------------------------------------


def save(est: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator, or leave `path` as it was."""
    before = turn(est)
    live = current_at_home(est)
    network = live.recipe.network
    est._validate_params()
    widths = est._hidden_sizes()
    if widths != [*network.sizes[1:-1]]:
        raise ValueError(
            f"hidden_layer_sizes is {widths}, but the network was fitted with "
            f"{[*network.sizes[1:-1]]}: expected the same, which a file can hold. Fit it anew."
        )
    get = live.place.device.get
    descent: Descent | None = getattr(est, "_optimizer", None)
    if descent is not None and not descent.fits(optimizer_of(est._parameters())):
        descent = None  # of another solver: `partial_fit` would not go on from it either
    tensors = weights_of(network, get(flat(live)))
    vectors = {"running": live.running} if network.n_statistics else {}
    if descent is not None:
        vectors |= {f"moment{i}": moment for i, moment in enumerate(descent.moments, 1)}
    if hasattr(est, "_best"):
        vectors |= {"best": est._best[0], "best_running": est._best[1]}
    tensors |= {name: np.ascontiguousarray(get(array)) for name, array in vectors.items()}
    values = {
        "config": config_of(est),
        "step": 0 if descent is None else descent.step,
        "epoch": est.n_iter_,
        "history": {name: getattr(est, name) for name in CURVES if hasattr(est, name)},
        "metadata": facts_of(est, descent),
    }
    content = storage.packed(values, tensors)
    unchanged(est, before)
    storage.write_atomically(path, content)


def config_of(est: Any) -> dict[str, Any]:
    """What an estimator is, and its parameters; ValueError for one that a file cannot hold."""
    parameters = est.get_params(deep=False)
    kept = {name: value for name, value in parameters.items() if name not in SESSION}
    return {
        "estimator": type(est).__name__,
        "parameters": {name: plain(name, value) for name, value in kept.items()},
    }


def facts_of(est: Any, descent: Descent | None) -> dict[str, Any]:
    """What is fitted beside the arrays."""
    facts = {name: getattr(est, name) for name in COUNTERS if hasattr(est, name)}
    if hasattr(est, "feature_names_in_"):
        facts["feature_names_in_"] = est.feature_names_in_.tolist()
    if descent is not None:
        facts |= {"learning_rate": descent.learning_rate, "began": descent.began}
        rates = descent.rates
        if rates is not None and rates.plan.schedule == schedule_of(est._parameters()):
            facts["rates"] = {
                "base": float(rates.base),
                "epochs": int(rates.plan.epochs),
                "steps_per_epoch": rates.steps_per_epoch,
                "plateau": None if rates.plateau is None else rates.plateau._asdict(),
            }
    if hasattr(est, "preparation_"):
        facts["preparation"] = est.preparation_.to_json()
    binarizer = getattr(est, "_label_binarizer", None)
    if binarizer is not None:
        classes = binarizer.classes_
        facts["classes"] = {"dtype": classes.dtype.str, "values": classes.tolist()}
        facts["targets"] = {"y_type_": binarizer.y_type_, "sparse_input_": binarizer.sparse_input_}
    return facts


def load(cls: type[Any], path: str | os.PathLike[str], device: str | Device | None) -> Any:
    """Read an estimator of the class."""
    header, tensors = storage.read(path)
    values = parsed(path, header)
    if "estimator" not in values["config"]:
        return _from_mlp(cls, path, device)
    found = values["config"]["estimator"]
    if found != cls.__name__:
        name = str(found)[:100]
        raise ModelFileError(f"{path} holds an {name}: expected {cls.__name__}. Use {name}.load.")
    est = _unfitted(cls, path, values["config"], device)
    facts, curves = values["metadata"], values["history"]
    check_facts(path, facts, classifies=not cls._is_regressor)
    check_progress(path, facts, curves)
    for name, value in {**facts, **curves}.items():
        if name in COUNTERS or name in CURVES:
            setattr(est, name, value)
    if "feature_names_in_" in facts:
        est.feature_names_in_ = np.array(facts["feature_names_in_"], dtype=object)
    if "classes" in facts:
        _set_targets(est, facts)
    check_model(path, est, facts, tensors)
    if "preparation" in facts:
        est.preparation_ = Preparation.from_json(facts["preparation"])
    _set_layers(est, tensors)
    put = find_device(device or "cpu").put
    if "running" in tensors:
        est.running_ = tensors["running"]
    if "learning_rate" in facts:
        n_moments = sum(name.startswith("moment") for name in tensors)
        moments = tuple(put(tensors[f"moment{i + 1}"]) for i in range(n_moments))
        rate, began = facts["learning_rate"], facts["began"]
        parameters = est._parameters()
        family, schedule = family_of(optimizer_of(parameters)), schedule_of(parameters)
        rates = rates_of(path, facts["rates"], schedule) if "rates" in facts else None
        est._optimizer = Descent(moments, values["step"], rate, began, rates, family)
    if "best" in tensors:
        est._best = (put(tensors["best"]), put(tensors["best_running"]))
    return est


def _unfitted(
    cls: type[Any],
    path: str | os.PathLike[str],
    config: dict[str, Any],
    device: str | Device | None,
) -> Any:
    """An estimator with the parameters of a file's config."""
    stored = mapping(path, "config['parameters']", config.get("parameters"))
    names = cls._parameter_constraints
    unknown = [name for name in stored if name not in names or name in SESSION]
    if unknown:
        raise refusal(path, "config['parameters']", unknown, "parameters that this mlp_xp knows")
    try:
        est = cls(**{name: thing(value) for name, value in stored.items()}, device=device)
    except (*MISUSED, RecursionError) as error:
        raise ModelFileError(
            f"{path} has parameters that this mlp_xp cannot read: {str(error)[:500]}"
        ) from None
    check_parameters(path, est)
    return est


def _set_layers(est: Any, tensors: Tensors) -> None:
    n = est.n_layers_ - 1
    est.coefs_ = [tensors[f"W{i + 1}"].T for i in range(n)]
    est.intercepts_ = [tensors[f"b{i + 1}"][:, 0] for i in range(n)]
    gains = [tensors.get(f"gain{i + 1}") for i in range(n)]
    projections = [tensors.get(f"P{i + 1}") for i in range(n)]
    if any(gain is not None for gain in gains):
        est.gains_ = [None if gain is None else gain[:, 0] for gain in gains]
    if any(P is not None for P in projections):
        est.projections_ = [None if P is None else P.T for P in projections]


def _set_targets(est: Any, facts: dict[str, Any]) -> None:
    from sklearn.preprocessing import LabelBinarizer

    kept = facts["classes"]
    binarizer = est._label_binarizer = LabelBinarizer()
    binarizer.classes_ = est.classes_ = np.array(kept["values"], dtype=np.dtype(kept["dtype"]))
    for name, value in facts["targets"].items():
        setattr(binarizer, name, value)


def weights_of(network: Network, theta: npt.NDArray[Any]) -> Tensors:
    """The parts of a flat vector on the host, by name."""
    layers = split(network, np, theta)
    parts = {slot.name: getattr(layers[slot.layer], slot.field) for slot in network.slots}
    return {name: np.ascontiguousarray(part) for name, part in parts.items()}


# -- an MLP ------------------------------------------------------------------------


def _from_mlp(cls: type[Any], path: str | os.PathLike[str], device: str | Device | None) -> Any:
    """An estimator that predicts as the model of an `MLP`'s file does."""
    model = MLP.load(path)
    config: dict[str, Any] = model.config
    kind = model.loss.kind
    expected = "MLPRegressor" if kind in NUMBERS else "MLPClassifier"
    if cls.__name__ != expected:
        raise ModelFileError(
            f"{path} holds a model for {kind} targets, which is no {cls.__name__}. Use "
            f"{expected}.load, MLP.load or mlp-xp predict."
        )
    if model.leading:
        raise ModelFileError(
            f"{path} holds {len(model.seeds)} networks, but an estimator is one. Use MLP.load."
        )
    network, theta = model.network, model._run.state.theta
    alike = len(set(config["activation"])) == 1
    options = {name: config[name] for name in SHARED}
    usual = config["loss"] == LOG_LOSS.get(kind)
    options["loss"] = "log_loss" if usual else config["loss"]
    if kind not in NUMBERS:
        options["label_smoothing"] = model.label_smoothing
    est = cls(
        hidden_layer_sizes=network.sizes[1:-1],
        activation=config["activation"][0] if alike else config["activation"],
        solver=model.optimizer,
        alpha=model.l2 * 200,  # an estimator divides it by the examples of a batch, 200
        random_state=model.seeds[0],
        device=device,
        **options,
    )
    prepared = model.preparation or Preparation(config["loss"])
    est.preparation_, est.metadata_ = prepared, model.metadata
    est.n_iter_, est.t_, est._steps = model.epochs_trained, 0, model.steps_trained
    est.n_features_in_, est.n_outputs_ = network.sizes[0], network.sizes[-1]
    est.n_layers_, est.out_activation_ = len(network.sizes), out_activation(model.loss)
    if prepared.features and prepared.table is None:
        est.feature_names_in_ = np.array(prepared.features, dtype=object)
    if kind not in NUMBERS:
        classes = prepared.classes or range(2 if kind == "binary" else network.sizes[-1])
        y_type = "multilabel-indicator" if kind == "multilabel" else kind
        dtype = as_labels(classes).dtype.str
        targets = {"y_type_": y_type, "sparse_input_": False}
        _set_targets(
            est, {"classes": {"dtype": dtype, "values": list(classes)}, "targets": targets}
        )
    _set_layers(est, weights_of(network, theta))
    if network.n_statistics:
        est.running_ = model._run.state.running
    return est


def to_mlp(est: Any, device: str | Device) -> MLP:
    """A model that predicts and evaluates as an estimator of a file does."""
    live, kind = current_at_home(est), est._kind()
    network, get = live.recipe.network, live.place.device.get
    loss = LOG_LOSS.get(kind, "squared_error") if est.loss == "log_loss" else est.loss
    name = next((key for key, row in LOSSES.items() if loss in (key, row)), None)
    if name is None:
        raise ValueError(f"The estimator's loss is {loss!r}, which is no row of LOSSES.")
    model = MLP(
        network.sizes,
        activation=list(network.activations),
        loss=name,
        normalization=network.normalization,
        dropout=list(network.dropout),
        residual=network.residual,
        dtype=est._dtype,
        precision=est.precision,
        device=device,
    )
    put, state = model.device.put, model._run.state
    theta, running, step = put(get(flat(live))), put(get(live.running)), getattr(est, "_steps", 0)
    model._run.state = state._replace(theta=theta, running=running, step=step)
    model._run.epoch, model.metadata = est.n_iter_, dict(getattr(est, "metadata_", {}))
    prepared = getattr(est, "preparation_", Preparation(name))
    features = tuple(getattr(est, "feature_names_in_", prepared.features))
    classes = None
    if kind in ("multiclass", "binary"):
        classes = tuple(est._label_binarizer.classes_.tolist())
        classes = classes * 2 if len(classes) == 1 else classes  # it was fitted to one
    model.preparation = replace(prepared, classes=classes, features=features)
    return model


# -- scikit-learn's own --------------------------------------------------------------


def _flat(network: Network, matrices: list[Any], vectors: list[Any]) -> npt.NDArray[Any]:
    """Lists in scikit-learn's shapes as our flat vector."""
    pairs = zip(matrices, vectors, strict=True)
    layers = [Layer(np.array(W).T, np.array(b)[:, None]) for W, b in pairs]
    theta: npt.NDArray[Any] = join(network, np, layers)
    return theta


def _lists(network: Network, theta: Any) -> tuple[list[Any], list[Any]]:
    """Our flat vector as lists in scikit-learn's shapes, C-ordered copies."""
    layers = split(network, np, to_host(theta))
    return [layer.W.T.copy() for layer in layers], [layer.b[:, 0].copy() for layer in layers]


def from_sklearn(cls: type[Any], theirs: Any) -> Any:
    """Ours, with the parameters and all that is fitted of scikit-learn's estimator."""
    if type(theirs).__name__ != cls.__name__ or not hasattr(theirs, "hidden_layer_sizes"):
        raise TypeError(
            f"from_sklearn got a {type(theirs).__name__}, but expected scikit-learn's "
            f"{cls.__name__}."
        )
    est = cls(**theirs.get_params(deep=False))
    if not hasattr(theirs, "coefs_"):
        return est
    private = ("_label_binarizer", "_no_improvement_count")
    for name, value in vars(theirs).items():
        if (name.endswith("_") and not name.startswith("_")) or name in private:
            setattr(est, name, list(value) if isinstance(value, list) else value)
    est.coefs_ = [coef.copy() for coef in theirs.coefs_]
    est.intercepts_ = [intercept.copy() for intercept in theirs.intercepts_]
    est._dropout_seed = 0  # as after a `fit` without dropout, should there be some from now on
    network = current_at_home(est).recipe.network
    if getattr(theirs, "early_stopping", False) and hasattr(theirs, "_best_coefs"):
        best = _flat(network, theirs._best_coefs, theirs._best_intercepts)
        est._best = (best, initial_statistics(network))
    descent: Any = getattr(theirs, "_optimizer", None)
    n = len(est.coefs_)
    if hasattr(descent, "velocities"):
        moment = _flat(network, descent.velocities[:n], descent.velocities[n:])
        steps = 0  # its formula does not count them
        est._optimizer = Descent(
            (moment,), steps, float(descent.learning_rate), family=Momentum.__name__
        )
    elif hasattr(descent, "ms"):
        # the core keeps Adam's moments without their constant factors
        m = _flat(network, descent.ms[:n], descent.ms[n:]) / (1 - descent.beta_1)
        s = _flat(network, descent.vs[:n], descent.vs[n:]) / (1 - descent.beta_2)
        est._optimizer = Descent(
            (m, s), descent.t, float(est.learning_rate_init), family=Adam.__name__
        )
    return est


def to_sklearn(est: Any) -> Any:
    """scikit-learn's estimator, with the parameters it has and all that is fitted."""
    from sklearn import neural_network

    if hasattr(est, "preparation_"):
        raise ValueError(
            "This estimator was read from a file of MLP or mlp-xp train, whose scales and class "
            "names scikit-learn's has no place for. Use ours, or fit a new one."
        )
    before, theirs = turn(est), getattr(neural_network, type(est).__name__)()
    own, known, default = est.get_params(deep=False), theirs.get_params(), type(est)()
    for name, value in known.items():
        if own[name] is not value:
            theirs.set_params(**{name: _word(name, own[name])})
    _check_parameters(theirs, est, [name for name in own if name not in known], default)
    if not hasattr(est, "coefs_"):
        return theirs
    live = current_at_home(est)
    network = live.recipe.network
    for name, value in vars(est).items():
        private = name in ("_label_binarizer", "_no_improvement_count", "_random_state")
        if (name.endswith("_") and not name.startswith("_")) or private:
            setattr(theirs, name, list(value) if isinstance(value, list) else value)
    if hasattr(est, "_label_binarizer"):
        theirs.classes_ = est._label_binarizer.classes_
    theirs.coefs_, theirs.intercepts_ = _lists(network, flat(live))
    best = est._best[0] if hasattr(est, "_best") else flat(live)
    theirs._best_coefs, theirs._best_intercepts = _lists(network, best)
    optimizer = optimizer_of(est._parameters())
    if hasattr(est, "_optimizer") and est._optimizer.fits(optimizer):
        theirs._optimizer = _their_optimizer(theirs, est._optimizer, network, optimizer)
    unchanged(est, before)
    return theirs


def _word(name: str, value: Any) -> Any:
    """scikit-learn's word for a value."""
    if name == "activation" and not isinstance(value, list):
        for word in ("identity", "logistic", "tanh", "relu"):
            if value == word or ACTIVATION_NAMES[word] is ACTIVATION_NAMES.get(value, value):
                return word
    return value


def _check_parameters(theirs: Any, est: Any, others: list[str], default: Any) -> None:
    """What scikit-learn has no word for: an error if it shapes predictions, else a warning."""
    shaping = ("normalization", "residual", "loss")
    changed = [name for name in others if getattr(est, name) != getattr(default, name)]
    lost = [name for name in changed if name in shaping]
    try:
        theirs._validate_params()
    except ValueError as error:
        raise ValueError(f"scikit-learn's estimator cannot be this one: {error}") from None
    if lost:
        raise ValueError(
            f"scikit-learn's estimator has no {' and no '.join(lost)}, but this one was made "
            "with it."
        )
    if est.precision != "float32":
        warnings.warn(
            f"scikit-learn's estimator does not round to {est.precision}: its predictions differ "
            "by that much.",
            stacklevel=4,
        )
    own = (*SESSION, "dtype", "precision", "progress")
    dropped = [name for name in changed if name not in own]
    if dropped:
        warnings.warn(
            f"scikit-learn's estimator trains without {', '.join(dropped)}; its predictions are "
            "the same.",
            stacklevel=4,
        )


def _their_optimizer(theirs: Any, descent: Descent, network: Network, optimizer: Optimizer) -> Any:
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

    params = theirs.coefs_ + theirs.intercepts_
    if isinstance(optimizer, Momentum):
        sgd = SGDOptimizer(
            params,
            theirs.learning_rate_init,
            theirs.learning_rate,
            theirs.momentum,
            theirs.nesterovs_momentum,
            theirs.power_t,
        )
        matrices, vectors = _lists(network, descent.moments[0])
        sgd.velocities, sgd.learning_rate = matrices + vectors, descent.learning_rate
        return sgd
    assert isinstance(optimizer, Adam)
    rate, beta_1, beta_2 = theirs.learning_rate_init, theirs.beta_1, theirs.beta_2
    adam = AdamOptimizer(params, rate, beta_1, beta_2, theirs.epsilon)
    factors = (1 - optimizer.beta1, 1 - optimizer.beta2)
    parts = [_lists(network, m) for m in descent.moments]
    adam.ms, adam.vs = (
        [factor * array for array in matrices + vectors]
        for factor, (matrices, vectors) in zip(factors, parts, strict=True)
    )
    adam.t = descent.step
    return adam
