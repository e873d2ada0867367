"""A model of layers of any kind: convolutions, recurrent layers, skip connections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

from . import checks
from .activations import ACTIVATIONS
from .checks import Layout
from .hardware import Device
from .initializers import INITIALIZERS, Initializer
from .layers import options
from .layers.base import Kind, Shape
from .layers.chain import Chain
from .layers.residual import kinds
from .layers.table import brief, from_json, to_json
from .losses import Loss
from .model import Model, positive
from .optimizers import Optimizer


class Sequential(Model):
    """Layers one after the other, trained, asked, saved and looked into like an `MLP`.

    shape            of one example: a number of features, (channels, height, width), or
                     (features, time); (time,) of whole numbers for an `Embedding`
    layers           rows of `mlp_xp.layers`, [Conv2d(32, kernel=3), Activation("relu"), …];
                     the last gives the scores: Dense(n_outputs)
    lengths          whether sequences end before the last step: an example is then a vector of
                     features · time numbers and its length
    density          share of connections that exist in every W but the last
    initializer      name or `Initializer` of all of them; "auto" takes the match of the
                     activation after a layer

    All other arguments are those of `MLP`. Its name and its form are what Keras, PyTorch and
    thinc have taught people to expect; it is no option of `MLP`, because that is told by sizes
    and has activations, dropout and normalisation as arguments, which are layers here.

    X may have the examples' shape: (m, *shape) with layout="rows", (*shape, m) with "columns",
    lists of lists too; without `layout`, an X that lies both ways is refused. (m, n_features) and
    (n_features, m) are taken as ever, and answers are as those of `MLP`.
    Layers are counted from 1 in names of parameters: W1, b1, W3 …, W4_2 for what is in a layer.
    """

    network: Chain

    def __init__(
        self,
        shape: int | Sequence[int],
        layers: Sequence[Kind],
        *,
        loss: str | Loss = "cross_entropy",
        lengths: bool = False,
        density: float = 1.0,
        initializer: str | Initializer = "auto",
        optimizer: str | Optimizer = "adam",
        learning_rate: float | None = None,
        l2: float = 0.0,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        label_smoothing: float = 0.0,
        dtype: str = "float32",
        precision: str = "float32",
        device: str | Device = "cpu",
        seed: int | Sequence[int] | None = 0,
    ) -> None:
        network = Chain(
            _shape(shape),
            kinds("layers", layers),
            options.flag("lengths", lengths),
            positive("density", density, most=1.0),
        )
        config = {
            "shape": list(network.shape),
            "layers": [to_json(kind) for kind in network.layers],
            "lengths": network.lengths,
            "density": network.density,
            "initializer": initializer if isinstance(initializer, str) else None,
        }
        self._begin(
            network,
            _initializers(initializer, network),
            config,
            loss=loss,
            optimizer=optimizer,
            learning_rate=learning_rate,
            l2=l2,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            clip_value=clip_value,
            label_smoothing=label_smoothing,
            dtype=dtype,
            precision=precision,
            device=device,
            seed=seed,
        )

    @classmethod
    def of_config(cls, config: dict[str, Any], optimizer: Optimizer, device: Device) -> Self:
        """A model of what a file says."""
        layers = from_json(config.pop("layers"))
        return cls(layers=layers, **config, optimizer=optimizer, device=device)

    def layer_rows(self) -> list[dict[str, Any]]:
        """One a layer: see `description`."""
        from .description import counts, name_of

        found, sizes = [], self.network.sizes
        for part, n in zip(self.network.parts, counts(self.network), strict=True):
            activation = getattr(part.kind, "activation", "")
            found.append(
                {
                    "name": f"{part.number}",
                    "kind": brief(part.kind),
                    "inputs": sizes[part.number - 1],
                    "units": math.prod(part.out_shape),
                    "shape": list(part.out_shape),
                    "activation": activation
                    if isinstance(activation, str)
                    else name_of(ACTIVATIONS, activation),
                    "normalization": "none",
                    "dropout": getattr(part.kind, "rate", 0.0),
                    "skip": False,
                    "parameters": n,
                }
            )
        return found

    def _table(self, argument: str, X: Any, layout: Layout | None) -> Any:
        """X of the examples' shape as a table; a table as it is."""
        shape = self.network.shape
        if len(shape) == 1:
            return X
        if isinstance(X, list | tuple):
            X = checks.as_array(argument, X, self.device)
        given: tuple[int, ...] = tuple(getattr(X, "shape", ()))
        if len(given) < 3:
            return X
        rows, n = layout == "rows", math.prod(shape)
        if self.network.lengths:
            raise ValueError(
                f"{argument} has shape {given}, but lengths is True: expected a table of {n + 1} "
                f"features, the {n} numbers of {shape} of each example and then its length."
            )
        if layout is None and given[1:] == given[:-1] == shape and n > 1:
            raise ValueError(
                f"{argument} has shape {given}, as many examples as an example has along each "
                "axis, so nothing shows which way it lies: expected layout='rows' (examples "
                "first) or layout='columns' with it. Given to fit, it holds for every later call."
            )
        one = given[1:] if rows else given[:-1]
        if one != shape:
            wanted = f"(m, {_inside(shape)})" if rows else f"({_inside(shape)}, m)"
            hint = "" if rows else " Pass layout='rows' if the examples come first."
            if given == shape:
                hint = f" One example x is {'x[None]' if rows else 'x[..., None]'}."
            elif (1, *one) == shape:
                hint = f" One channel is an axis too: pass X[{':, ' if rows else ''}None]."
            raise ValueError(
                f"{argument} has shape {given}, but examples are {shape}: expected {wanted}, or a "
                f"table of {n} features.{hint}"
            )
        return X.reshape((given[0], n) if rows else (n, given[-1]))


def network_of(config: Mapping[str, Any]) -> Chain:
    """The network of a file's config; ValueError or the like for what is none."""
    layers = from_json(config["layers"])
    return Chain(_shape(config["shape"]), layers, bool(config["lengths"]), config["density"])


def _inside(shape: Shape) -> str:
    return ", ".join(map(str, shape))


def _shape(value: Any) -> Shape:
    if isinstance(value, Sequence) and not isinstance(value, str):
        found = tuple(checks.integer(f"shape[{i}]", n, 1) for i, n in enumerate(value))
    else:
        found = (checks.integer("shape", value, 1),)
    if not 1 <= len(found) <= 3:
        raise ValueError(
            f"shape is {found}, but expected (n_features,), (features, time) or "
            "(channels, height, width)."
        )
    return found


def _initializers(choice: Any, network: Chain) -> list[Initializer]:
    """One for each parameter that is drawn."""
    if choice == "auto":
        return network.matching()
    if not callable(choice):
        choice = checks.choose("initializer", {"auto": None, **INITIALIZERS}, choice)
    return [choice] * len(network.drawn)


__all__ = ["Sequential"]
