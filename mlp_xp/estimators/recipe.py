"""From an estimator's parameters to the core's rows: losses, optimisers, networks.

Where scikit-learn's objective differs from the core's, it is written here, as a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import HasMethods, Interval, Options, StrOptions

from .. import checks
from ..activations import ACTIVATIONS
from ..hardware import Device
from ..kernels import PRECISIONS, at_precision
from ..losses import LOSSES, Kind, Loss
from ..network import AXES, Network
from ..optimizers import OPTIMIZERS, Adam, Momentum, Nesterov, Optimizer
from ..schedules import SCHEDULES, Schedule
from ..training import Recipe
from .objective import LIKE_SCIKIT_LEARN, LOG_LOSS

STOCHASTIC = {"adam", "sgd"} | set(OPTIMIZERS)
# scikit-learn's words beside the core's
ACTIVATION_NAMES = {"logistic": ACTIVATIONS["sigmoid"], **ACTIVATIONS}
SGD_RATES = ("constant", "invscaling", "adaptive")


def _within(low: float, high: float | None, closed: str, kind: type = Real) -> Any:
    return Interval(kind, low, high, closed=closed)


# Checked by scikit-learn's own machinery, so that its errors are the ones raised.
CONSTRAINTS: dict[str, list[Any]] = {
    "hidden_layer_sizes": ["array-like", _within(1, None, "left", Integral)],
    "activation": [StrOptions(set(ACTIVATION_NAMES)), tuple, list],
    "solver": [StrOptions(STOCHASTIC | {"lbfgs"}), Optimizer],
    "alpha": [_within(0, None, "left")],
    "batch_size": [StrOptions({"auto"}), _within(1, None, "left", Integral)],
    "learning_rate": [StrOptions({*SGD_RATES, *SCHEDULES}), Schedule],
    "learning_rate_init": [_within(0, None, "neither")],
    "power_t": [_within(0, None, "left")],
    "max_iter": [_within(1, None, "left", Integral)],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [_within(0, None, "left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean", StrOptions({"optimizer"})],
    "momentum": [_within(0, 1, "both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [_within(0, 1, "left")],
    "beta_1": [_within(0, 1, "left")],
    "beta_2": [_within(0, 1, "left")],
    "epsilon": [_within(0, None, "neither")],
    "n_iter_no_change": [_within(1, None, "left", Integral), Options(Real, {np.inf})],
    "max_fun": [_within(1, None, "left", Integral)],
    "device": [None, str, Device],
    "processes": [object],  # `ranks.find` says what they may be
    "dtype": [None, StrOptions(set(checks.DTYPES))],
    "precision": [StrOptions(set(PRECISIONS))],
    "dropout": [_within(0, 1, "left"), tuple, list],
    "normalization": [StrOptions({"none", *AXES})],
    "residual": ["boolean"],
    "clip_norm": [None, _within(0, None, "neither")],
    "clip_value": [None, _within(0, None, "neither")],
    "callbacks": [tuple, list, HasMethods("__call__")],
    "progress": ["boolean"],
}


# -- losses ----------------------------------------------------------------------


def loss_row(choice: Any, kind: Kind, n_outputs: int) -> Loss:
    """The loss for targets of a kind; "log_loss" is the kind's own.

    A pair of functions (value(xp, S, T), delta(xp, S, T)) predicts as the kind's own does.
    """
    own = LOG_LOSS.get(kind, "squared_error")
    if isinstance(choice, tuple) and not isinstance(choice, Loss):
        if len(choice) != 2 or not all(map(callable, choice)):
            widths = all(isinstance(n, Integral) for n in choice)  # a regressor's loss comes first
            cure = f" Widths have a name: hidden_layer_sizes={choice}." if widths else ""
            raise ValueError(
                f"loss is {choice!r}, but expected a name, a Loss, or a pair of functions "
                f"(value, delta).{cure}"
            )
        return Loss(*choice, predict=LOSSES[own].predict, kind=kind)
    if isinstance(choice, Loss):
        row = next((row for row in LOSSES.values() if row == choice), choice)
    else:
        name = own if choice == "log_loss" else choice
        row = LIKE_SCIKIT_LEARN.get(name, LOSSES[name])
        if name == "squared_error" and n_outputs == 1:
            row = LOSSES[name]  # then mean and sum are the same
    fits = {"real", "count"} if kind == "real" else {kind}
    if row.kind not in fits:
        raise ValueError(
            f"loss {choice!r} takes {row.kind} targets, but y holds {kind} targets. "
            "'log_loss' chooses by the targets."
        )
    return row


def out_activation(loss: Loss) -> str:
    """scikit-learn's word for what makes predictions of scores."""
    words = {"multiclass": "softmax", "binary": "logistic", "multilabel": "logistic"}
    return words.get(loss.kind, "exp" if loss.kind == "count" else "identity")


# -- networks --------------------------------------------------------------------


def network_of(parameters: Mapping[str, Any], sizes: Sequence[int]) -> Network:
    """The network that an estimator's parameters describe."""
    n_hidden = len(sizes) - 2
    choice = parameters["activation"]
    if isinstance(choice, list):  # a tuple is one row, or one pair of functions
        choices = checks.per_layer("activation", choice, n_hidden)
    else:
        choices = (choice,) * n_hidden
    rates = checks.per_layer("dropout", parameters["dropout"], n_hidden)
    return Network(
        sizes=tuple(int(n) for n in sizes),
        activations=tuple(checks.activation(choice, ACTIVATION_NAMES) for choice in choices),
        dropout=tuple(map(checks.dropout, rates)),
        normalization=parameters["normalization"],
        residual=bool(parameters["residual"]),
    )


# -- descent ---------------------------------------------------------------------


def optimizer_of(parameters: Mapping[str, Any]) -> Optimizer:
    """The optimiser of a solver: of "lbfgs" one without moments, which makes no step.

    "adam" and "sgd" take scikit-learn's parameters, the core's other names the learning
    rate only; an `Optimizer` brings everything with it.
    """
    solver, rate = parameters["solver"], float(parameters["learning_rate_init"])
    if isinstance(solver, Optimizer):
        return solver
    if solver == "adam":
        beta1, beta2 = float(parameters["beta_1"]), float(parameters["beta_2"])
        epsilon = float(parameters["epsilon"])
        return Adam(rate=rate, beta1=beta1, beta2=beta2, epsilon=epsilon, epsilon_hat=True)
    if solver == "sgd":
        row = Nesterov if parameters["nesterovs_momentum"] else Momentum
        return row(rate=rate, momentum=float(parameters["momentum"]))
    if solver == "lbfgs":
        return Optimizer()
    return OPTIMIZERS[solver](rate=rate)


def family_of(optimizer: Optimizer) -> str:
    """The class whose moments an optimiser has: Momentum of Nesterov, Adam of AdamW."""
    classes = [c for c in type(optimizer).__mro__ if issubclass(c, Optimizer)]
    return classes[-2:][0].__name__


def schedule_of(parameters: Mapping[str, Any]) -> Schedule | None:
    """The core's schedule, or None where the rate is scikit-learn's affair."""
    choice = parameters["learning_rate"]
    if isinstance(choice, Schedule):
        return choice
    return None if choice in SGD_RATES else SCHEDULES[choice]


def recipe_of(
    parameters: Mapping[str, Any], network: Network, loss: Loss, device: Device, dtype: str
) -> Recipe:
    """What is minimised and how."""
    decayed = np.zeros(network.n_parameters, dtype)
    decayed[: network.n_weights] = 1
    precision = checks.precision(parameters["precision"], dtype)
    return Recipe(
        network=network,
        loss=loss,
        optimizer=optimizer_of(parameters),
        kernels=at_precision(device.kernels, precision),
        decayed=device.put(decayed),
        connected=None,
        classes=device.put(np.arange(network.sizes[-1])),
        l2=float(parameters["alpha"]),
        l2_shared=True,
        label_smoothing=float(parameters.get("label_smoothing", 0.0)),
        clip_norm=checks.clip_norm(parameters["clip_norm"], dtype),
        clip_value=parameters["clip_value"],
        precision=precision,
    )
