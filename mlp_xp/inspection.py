"""Looking inside: every array of one step by name, and gradients checked numerically."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .architecture import by_name
from .checks import Layout
from .kernels import SPEC, Kernels
from .model import Model, positive
from .training import Recipe, batch, bits_for, gradient, objective, penalty
from .types import Array

CHUNK = 1 << 22  # entries of perturbed parameters evaluated at once


def inspect_step(
    model: Model, X: Any, Y: Any, sample_weight: Any = None, *, layout: Layout | None = None
) -> dict[str, Array]:
    """Every array of the next training step on (X, Y), by name; the model is unchanged.

    A0 is X, scaled if the model has a preparation. Layer l = 1 … L adds Zl, Al (its output),
    deltal = ∂J/∂Zl, and the gradients dWl, dbl, dgainl, dPl of the parameters it has; maskl
    where it drops. Layer l of a `Sequential` adds Al and dAl = ∂J/∂Al, with the examples last,
    and the gradients of its parameters, dW3_1 of one inside. "loss" is the objective. Shapes are
    those of the mathematics, whatever `layout` says of X and Y: (n_out, m) for Z, A and delta.
    All arrays are on the model's device, float64 or float32 as the model is.
    """
    _check(model)
    data = model._data(X, Y, sample_weight, layout)
    device, network, state = model.device, model.network, model._state()
    index = device.put(np.arange(data.m))
    X_, T, w = batch(model._recipe, device.xp, data, index)
    bits = bits_for(device, network, model.seeds, model.leading, state.step, data.m)
    recipe = replace(model._recipe, kernels=SPEC)  # a fast layer may leave Z out
    xp, theta = device.xp, state.theta
    found = gradient(recipe, xp, theta, X_, T, w, bits)
    layers = network.split(xp, theta)
    seen = {"loss": found.J, "A0": X_}
    seen |= network.look(
        SPEC, xp, layers, X_, bits, lambda S: SPEC.score(xp, recipe.loss, S, T, w)[1:]
    )
    for name, W in by_name(network, xp, found.g).items():
        seen[f"d{name}"] = W
    return seen


class GradientCheck(NamedTuple):
    """The result of `check_gradients`.

    passed          whether the worst error is within the tolerance
    worst           name of the worst parameter, such as "W2[3, 1]"
    error           its error: |backward - numerical| / max(|backward|, |numerical|, floor)
    backward, numerical  its two gradients
    checked, kinks  how many parameters were compared, and how many were passed over
                    because the objective has a kink within the step (relu at 0)
    """

    passed: bool
    worst: str
    error: float
    backward: float
    numerical: float
    checked: int
    kinks: int


def check_gradients(
    model: Model,
    X: Any,
    Y: Any,
    sample_weight: Any = None,
    *,
    step: float = 1e-5,
    tolerance: float = 1e-5,
    kernels: Kernels | None = None,
    layout: Layout | None = None,
) -> GradientCheck:
    """Compare the backward pass with central differences, in float64 on the model's device.

    step       half the distance between the two points of a difference, > 0
    tolerance  largest relative error that passes, > 0
    kernels    a kernel set to check instead of the device's own
    layout     which way X lies, "rows" or "columns", as in `MLP`

    In float64 nothing is rounded to the model's `precision`.

    The model's parameters and one training batch (X, Y) are used, with the dropout mask of
    the next step held fixed. Parameters are perturbed as independent networks along a
    leading axis, many in one forward pass. Where the second difference shows a kink, the
    parameter is passed over and counted. Of many networks the first is checked.
    """
    _check(model)
    step, tolerance = positive("step", step), positive("tolerance", tolerance)
    device, network, xp = model.device, model.network, model.device.xp
    data = model._data(X, Y, sample_weight, layout, "float64")
    state = model._state()
    theta_host = np.reshape(device.get(state.theta), (-1, network.n_parameters))[0]
    theta_host = theta_host.astype(np.float64)
    theta = device.put(theta_host)
    decayed = np.zeros(network.n_parameters)
    decayed[: network.n_weights] = 1
    connected = network.connections(model.seeds[0])
    recipe = replace(
        model._recipe,
        kernels=kernels or device.kernels,
        precision="float32",
        decayed=device.put(decayed),
        connected=None if connected is None else device.put(connected),
    )
    X_, T, w = batch(recipe, xp, data, device.put(np.arange(data.m)))
    bits = bits_for(device, network, model.seeds[:1], (), state.step, data.m)
    backward = device.get(gradient(recipe, xp, theta, X_, T, w, bits).g)
    present = np.arange(network.n_parameters)
    if connected is not None:
        present = np.flatnonzero(connected)

    def J(thetas: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return _objectives(recipe, model, thetas, X_, T, w, bits)

    centre = float(J(theta_host[None])[0])
    above, below = np.empty(len(present)), np.empty(len(present))
    many = max(1, min(CHUNK // network.n_parameters, 16 * network.at_once // data.m))
    for start in range(0, len(present), many):
        part = present[start : start + many]
        shift = np.zeros((len(part), network.n_parameters))
        shift[np.arange(len(part)), part] = step
        above[start : start + many] = J(theta_host + shift)
        below[start : start + many] = J(theta_host - shift)
    numerical = (above - below) / (2 * step)
    exact = backward[present]
    scale = np.maximum(np.abs(exact), np.abs(numerical))
    floor = max(1e-3 * float(np.max(scale)), 1e-7)
    error = np.abs(exact - numerical) / np.maximum(scale, floor)
    # At a kink within the step the error is half of |second difference| / step; where J is
    # smooth, that quotient is only step · J'' and explains no error.
    bend = np.abs(above - 2 * centre + below) / step
    kinks = (error > tolerance) & (bend >= np.abs(exact - numerical))
    error = np.where(kinks, -1.0, np.where(np.isfinite(error), error, np.inf))
    place = int(np.argmax(error))
    index = int(present[place])
    slot = next(slot for slot in network.slots if slot.start <= index < slot.stop)
    row, column = divmod(index - slot.start, slot.shape[1])
    return GradientCheck(
        passed=bool(error[place] <= tolerance) and not kinks.all(),
        worst=f"{slot.name}[{row}, {column}]",
        error=float(error[place]),
        backward=float(exact[place]),
        numerical=float(numerical[place]),
        checked=int(len(present) - kinks.sum()),
        kinks=int(kinks.sum()),
    )


def _check(model: Any) -> None:
    """TypeError for what is no model, such as an estimator."""
    if not isinstance(model, Model):
        cure = ""
        if isinstance(getattr(model, "model_", None), Model):
            cure = " Pass its model_, which a neural estimator has when it is fitted."
        raise TypeError(
            f"model is a {type(model).__name__}, but expected an MLP or a Sequential.{cure}"
        )


def _objectives(
    recipe: Recipe,
    model: Model,
    thetas: npt.NDArray[np.float64],
    X: Array,
    T: Array,
    w: Array | None,
    bits: Array | None,
) -> npt.NDArray[np.float64]:
    """The training objective of many parameter vectors (k, n_parameters): (k,)."""
    device, xp = model.device, model.device.xp
    theta = device.put(thetas)
    layers = recipe.network.split(xp, theta)
    scores = recipe.network.forward(recipe.kernels, xp, layers, X, bits=bits).scores
    J, _, _ = recipe.kernels.score(xp, recipe.loss, scores, T, w)
    return device.get(objective(recipe, xp, theta, J, penalty(recipe, xp, X.shape[-1], w))).astype(
        np.float64
    )


__all__ = ["GradientCheck", "check_gradients", "inspect_step"]
