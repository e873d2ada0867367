"""The multilayer perceptron: a `Model` of fully connected layers, told by their sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from . import checks
from .activations import ACTIVATIONS, Activation
from .hardware import Device
from .initializers import INITIALIZERS, MATCHED, Initializer, glorot_uniform
from .losses import Loss
from .model import Model, name_in, positive
from .network import AXES, Network, Normalization
from .optimizers import Optimizer


class MLP(Model):
    """A multilayer perceptron.

    sizes            n_features, widths of the hidden layers, n_outputs: (64, 32, 10)
    activation       name, `Activation`, or pair of functions (f(xp, Z), slope(xp, Z)); one
                     for all hidden layers, or a list or tuple of one a layer
    loss             name or `Loss`: "cross_entropy", "binary_cross_entropy", "multilabel",
                     "squared_error", "absolute_error", "huber", "poisson"
    normalization    "none", "batch" or "layer", before every hidden activation; "batch" sees
                     nothing of X in batches of one example
    dropout          rate of the hidden layers, one number or a list of one a layer
    residual         skip connections round the hidden layers
    density          share of connections that exist in the hidden layers
    initializer      name or `Initializer`; "auto" takes the activation's match
    optimizer        name or `Optimizer`
    learning_rate    instead of the optimiser's own
    l2               adds ½ l2 Σ W² to the objective; weights only
    weight_decay     decoupled decay, instead of the optimiser's own; weights only
    clip_norm        largest norm of a gradient, or None
    clip_value       largest entry of a gradient, or None
    label_smoothing  share of every target spread over the classes, in training
    dtype            "float32" or "float64"
    precision        of the operands of matrix products, on every device: "float32"; "tf32" and
                     "bfloat16" round them to 11 and 8 significant bits. Sums, weights and
                     moments stay float32
    device           "cpu", "cuda", "cuda:1", "auto", or a `Device`
    seed             a whole number: the same weights, shuffles and dropout everywhere; None
                     draws one; a list of numbers trains as many independent networks at
                     once, each as if it were alone, and puts one more axis in front of
                     every result

    Where a method takes X, `layout` says which of its lines are examples: "columns", then X
    is (n_features, m) and Y and answers (n_out, m), or "rows", then they are (m, n_features)
    and (m, n_out). Left out, it is the one that `fit` was last given, which `model.layout`
    holds and no file does; else "columns", but then an X with as many examples as features
    is refused. Rows of a data frame (pandas, polars, Arrow) are its examples, and `fit` on
    one says "rows".

    A model may have a `preparation`, which every method applies.
    """

    network: Network

    def __init__(
        self,
        sizes: Iterable[int],
        *,
        activation: Any = "relu",
        loss: str | Loss = "cross_entropy",
        normalization: Normalization = "none",
        dropout: float | Sequence[float] = 0.0,
        residual: bool = False,
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
        widths = checks.sizes(sizes)
        n_hidden = len(widths) - 2
        activations = _activations(activation, n_hidden)
        rates = checks.per_layer("dropout", dropout, n_hidden)
        checks.choose("normalization", dict.fromkeys(("none", *AXES)), normalization)
        network = Network(
            sizes=widths,
            activations=activations,
            dropout=tuple(map(checks.dropout, rates)),
            normalization=normalization,
            residual=checks.flag("residual", residual),
            density=positive("density", density, most=1.0),
        )
        config = {
            "sizes": list(widths),
            "activation": [name_in(ACTIVATIONS, a) for a in activations],
            "normalization": normalization,
            "dropout": list(network.dropout),
            "residual": network.residual,
            "density": network.density,
            "initializer": initializer if isinstance(initializer, str) else None,
        }
        self._begin(
            network,
            _initializers(initializer, activations),
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

    def layer_rows(self) -> list[dict[str, Any]]:
        """One a layer: see `description`."""
        from .description import dense

        return dense(self.network, self.loss.kind)


def _activations(choice: Any, n_hidden: int) -> tuple[Activation, ...]:
    """One activation a hidden layer, from a name, an `Activation`, a pair, or a list of them."""
    if isinstance(choice, list) or (type(choice) is tuple and not all(map(callable, choice))):
        rows = checks.per_layer("activation", choice, n_hidden)
        return tuple(checks.activation(row, ACTIVATIONS) for row in rows)
    return (checks.activation(choice, ACTIVATIONS),) * n_hidden


def _initializers(choice: Any, activations: Sequence[Activation]) -> list[Initializer]:
    """One initialiser a layer, the output layer's last."""
    if choice == "auto":
        names = [name_in(ACTIVATIONS, activation) or "" for activation in activations]
        return [MATCHED.get(name, glorot_uniform) for name in names] + [glorot_uniform]
    if not callable(choice):
        choice = checks.choose("initializer", {"auto": glorot_uniform, **INITIALIZERS}, choice)
    return [choice] * (len(activations) + 1)
