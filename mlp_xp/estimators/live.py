"""An estimator's fitted attributes, and the same as the core takes them.

`coefs_` and `intercepts_` are the model, and may be written to or replaced. Training makes
them views of one flat vector. Where they do not live on the device that computes, they are
copies, and read-only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from ..network import Network, initial_statistics, join, split
from ..training import Recipe, Step
from ..types import Array, Layer, State
from .arrays import Place, dtype_name, place_of
from .recipe import network_of, recipe_of

# the attribute that holds a field of `types.Layer`, one entry a layer
ATTRIBUTES = {"W": "coefs_", "b": "intercepts_", "gain": "gains_", "P": "projections_"}
# of networks that are normalised or residual alone
OPTIONAL = ("gains_", "projections_", "running_")
# parameters that shape predictions
SHAPING = ("activation", "normalization", "residual", "loss", "precision")


class Live(NamedTuple):
    """The model on the device, and what was made for it: kept between calls, not pickled.

    parameters  of the estimator when the recipe was made
    layers      views of the attributes, or of their copies on the device
    theta       the flat vector that the attributes are views of; None where there is none yet
    lists       names and entries of the fitted attributes; others in their place make it stale
    predict     () → rows → predictions, or None: the device's fast way, made when it is wanted
    step        of the last `partial_fit` on the host, whose buffers the next one uses,
                without its data
    weighted    whether that step's data had weights
    """

    place: Place
    recipe: Recipe
    parameters: dict[str, Any]
    layers: Sequence[Layer]
    running: Array
    theta: Array | None = None
    lists: tuple[tuple[str, tuple[Array, ...]], ...] = ()
    predict: Callable[[], Callable[[Array], Array] | None] = lambda: None
    step: Step | None = None
    weighted: bool = False


def _names(network: Network) -> list[str]:
    fields = {slot.field for slot in network.slots}
    return [name for field, name in ATTRIBUTES.items() if field in fields]


def publish(est: Any, live: Live, state: State) -> None:
    """Make the attributes of a state."""
    recipe, place = live.recipe, live.place
    xp, back = place.device.xp, place.back
    layers = split(recipe.network, xp, state.theta)

    def attribute(field: str) -> list[Array]:
        values = [getattr(layer, field) for layer in layers]
        if field in ("W", "P"):
            return [None if v is None else back(xp.matrix_transpose(v)) for v in values]
        return [None if v is None else back(v[:, 0]) for v in values]

    names = _names(recipe.network)
    for field, name in ATTRIBUTES.items():
        if name in names:
            setattr(est, name, attribute(field))
    if recipe.network.n_statistics:
        est.running_ = back(state.running)
    lists = tuple((name, tuple(getattr(est, name))) for name in names)
    if not place.same:
        for _, arrays in lists:
            for array in arrays:  # to write to a copy of what is on the device would do nothing
                if isinstance(array, np.ndarray):
                    array.flags.writeable = False
    live = live._replace(layers=layers, theta=state.theta, running=state.running, lists=lists)
    est._live = live._replace(predict=_predictor(live))


def _predictor(live: Live) -> Callable[[], Callable[[Array], Array] | None]:
    make = live.place.device.predictor
    return (lambda: None) if make is None else cache(partial(make, live.recipe, live.layers))


def flat(live: Live) -> Array:
    """The flat vector: the one that the attributes are views of, or a new one."""
    if live.theta is not None:
        return live.theta
    return join(live.recipe.network, live.place.device.xp, live.layers)


def current(est: Any, place: Place) -> Live:
    """The model on the device, as the fitted attributes say it is now."""
    live: Live | None = est.__dict__.get("_live")
    if live is None or live.place.device.name != place.device.name:
        return _revive(est, place)
    for name in SHAPING:
        if getattr(est, name) is not live.parameters[name]:
            return _revive(est, place)
    for name, arrays in live.lists:
        now = getattr(est, name)
        if len(now) != len(arrays) or not all(map(is_, now, arrays)):
            return _revive(est, place)
    return live


def current_at_home(est: Any) -> Live:
    """The model where its fitted attributes are."""
    return current(est, place_of(est.coefs_[0], est.device))


def _check_fitted(est: Any, network: Network) -> None:
    """Raise ValueError where parameters were set since `fit` that want other fitted attributes."""
    wanted = {*_names(network), *(["running_"] if network.n_statistics else [])}
    other = [name for name in OPTIONAL if (name in wanted) != hasattr(est, name)]
    if other:
        raise ValueError(
            f"normalization is {est.normalization!r} and residual is {est.residual}, but the "
            f"network was fitted with others: such a one has {'no ' * hasattr(est, other[0])}"
            f"{other[0]}. Set them back, or fit anew, without warm_start."
        )


def _revive(est: Any, place: Place) -> Live:
    """The model as its attributes say that were loaded, or set by hand."""
    xp, dtype = place.device.xp, dtype_name(est.coefs_[0])
    sizes = [est.coefs_[0].shape[0], *(coef.shape[1] for coef in est.coefs_)]
    parameters = est._parameters()
    network = network_of(parameters, sizes)
    _check_fitted(est, network)
    fields: list[dict[str, Array]] = [{} for _ in sizes[1:]]
    for slot in network.slots:
        array = place.bring(getattr(est, ATTRIBUTES[slot.field])[slot.layer])
        matrix = slot.field in ("W", "P")
        array = xp.matrix_transpose(array) if matrix else xp.reshape(array, (-1, 1))
        fields[slot.layer][slot.field] = array
    running = initial_statistics(network).astype(dtype)
    running = place.bring(est.running_) if network.n_statistics else place.device.put(running)
    loss = est._loss(est._kind(), est.n_outputs_)
    recipe = recipe_of(parameters, network, loss, place.device, dtype)
    lists = tuple((name, tuple(getattr(est, name))) for name in _names(network))
    layers = [Layer(**field) for field in fields]
    live = Live(place, recipe, parameters, layers, running, lists=lists)
    if not place.same:  # what is written to them later would not reach the device
        publish(est, live, State(flat(live), (), running, 0))
    else:
        est._live = live._replace(predict=_predictor(live))
    revived: Live = est._live
    return revived
