"""Any network as layers, with its parameters on the host.

A dense network is told by sizes; here it becomes the `Chain` of layers that does the same, so
that what is written elsewhere is written once, for kinds of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..layers.base import Kind
from ..layers.chain import Chain
from ..layers.dense import Activation, Dense, Dropout
from ..layers.normalization import BatchNorm, LayerNorm
from ..layers.residual import Residual
from ..model import Model
from ..network import Network, folded, split
from ..types import Layer

Host: TypeAlias = npt.NDArray[Any]


class Layers(NamedTuple):
    """One network as layers.

    chain    shapes and kinds
    pieces   each layer's parameters by their names there
    running  running moments by the names of `chain.statistics`, (n, 1) each
    """

    chain: Chain
    pieces: list[dict[str, Host]]
    running: Mapping[str, Host]


def layers_of(model: Model, *, fold: bool = False) -> list[Layers]:
    """Each of the networks that a model holds: one, or as many as it has seeds.

    fold  whether a dense network's batch normalisation becomes a part of its weights, as the
          model's own `predictor` has it
    """
    state, get = model._state(), model.device.get
    theta, running = get(state.theta), get(state.running)
    one = not model.leading
    pairs = [(theta, running)] if one else list(zip(theta, running, strict=True))
    return [_layers(model.network, theta, running, fold) for theta, running in pairs]


def _layers(network: Any, theta: Host, running: Host, fold: bool) -> Layers:
    if not isinstance(network, Network):
        return Layers(network, network.split(np, theta), network._moments(running))
    layers = split(network, np, theta)
    if fold and network.normalization == "batch":
        layers = folded(network, np, layers, running)
        network, running = replace(network, normalization="none"), running[:0]
    chain = as_chain(network)
    return Layers(chain, _pieces(network, layers), chain._moments(running))


def as_chain(network: Network) -> Chain:
    """The layers that a dense network is: product, normalisation, activation, dropout, skip."""
    kinds: list[Kind] = []
    normalised = network.normalization != "none"
    options = zip(network.sizes[1:-1], network.activations, network.dropout, strict=True)
    for n, activation, rate in options:
        inside: list[Kind] = [Dense(n, bias=not normalised)]
        if normalised:
            inside.append(BatchNorm() if network.normalization == "batch" else LayerNorm())
        inside.append(Activation(activation))
        if rate > 0:
            inside.append(Dropout(rate))
        kinds += [Residual(tuple(inside))] if network.residual else inside
    return Chain((network.sizes[0],), (*kinds, Dense(network.sizes[-1])))


def _pieces(network: Network, layers: list[Layer]) -> list[dict[str, Host]]:
    """The parameters as `as_chain` asks for them."""
    pieces: list[dict[str, Host]] = []
    for layer, rate in zip(layers[:-1], network.dropout, strict=True):
        product = {"W": layer.W} if layer.gain is not None else {"W": layer.W, "b": layer.b}
        inside = [product]
        if layer.gain is not None:
            inside.append({"gain": layer.gain, "b": layer.b})
        inside.append({})
        if rate > 0:
            inside.append({})
        if not network.residual:
            pieces += inside
            continue
        block = {f"{name}{i}": own[name] for i, own in enumerate(inside, 1) for name in own}
        pieces.append(block if layer.P is None else {**block, "P": layer.P})
    last = layers[-1]
    return [*pieces, {"W": last.W, "b": last.b}]


__all__ = ["Layers", "as_chain", "layers_of"]
