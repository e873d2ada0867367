"""Models as PyTorch modules: a row for each kind of layer.

A row is (kind, what stands there) → modules, for examples that come first: (m, *shape). What
PyTorch has no module of is in `torch_modules`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import checks
from ..extras import missing
from ..kernels import EPSILON
from ..layers import stack
from ..layers.convolution import Conv1d, Conv2d
from ..layers.dense import Activation, Dense, Dropout
from ..layers.embedding import Embedding
from ..layers.normalization import BatchNorm, LayerNorm
from ..layers.pooling import AvgPool, GlobalAvgPool, MaxPool
from ..layers.recurrent import GRU, LSTM, Elman
from ..layers.residual import Residual
from ..layers.shapes import Flatten, Last, Reshape
from ..layers.stack import Part
from ..model import Model
from ..network import RUNNING_SHARE
from ..prepared import NO_SCALE
from .functions import NotExportable, activation_name
from .kinds import zeros_after
from .networks import layers_of

Host: TypeAlias = npt.NDArray[Any]

# activation ↦ the name of PyTorch's module, and its options
MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "identity": ("Identity", {}),
    "relu": ("ReLU", {}),
    "leaky_relu": ("LeakyReLU", {}),
    "elu": ("ELU", {}),
    "selu": ("SELU", {}),
    "gelu": ("GELU", {"approximate": "tanh"}),
    "silu": ("SiLU", {}),
    "softplus": ("Softplus", {}),
    "mish": ("Mish", {}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
}


class Place(NamedTuple):
    """A layer where it stands: see `kinds.Place`."""

    part: Part
    P: Mapping[str, Host]
    running: Mapping[str, Host]


Row: TypeAlias = Callable[[Any, Place], list[Any]]


def library() -> Any:
    """The module torch; ImportError with the cure where it is missing."""
    try:
        import torch
    except ImportError as error:
        raise missing("to_torch and from_torch need PyTorch", "torch", error) from None
    return torch


def filled(module: Any, **arrays: Host) -> Any:
    """A module with these parameters and buffers, in their dtype."""
    import torch

    for name, array in arrays.items():
        tensor = torch.tensor(np.ascontiguousarray(array))
        if name in dict(module.named_parameters(recurse=False)):
            tensor = torch.nn.Parameter(tensor)
        setattr(module, name, tensor)
    return module


def vectors(at: Place) -> dict[str, Host]:
    """gain and b of a normalisation, or b alone, by PyTorch's names."""
    names = {"gain": "weight", "b": "bias"}
    return {names[own]: at.P[own][:, 0] for own in names if own in at.P}


def _dense(nn: Any, at: Place) -> list[Any]:
    n_out, n_in = at.P["W"].shape
    return [filled(nn.Linear(n_in, n_out, "b" in at.P), weight=at.P["W"], **vectors(at))]


def _activation(nn: Any, at: Place) -> list[Any]:
    kind: Any = at.part.kind
    name, options = MODULES[activation_name(kind.row, f"layer {at.part.number}")]
    return [getattr(nn, name)(**options)]


def _dropout(nn: Any, at: Place) -> list[Any]:
    kind: Any = at.part.kind
    return [nn.Dropout(kind.rate)]


def _batch_norm(nn: Any, at: Place) -> list[Any]:
    shape = at.part.shape
    make = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    module = make(shape[0], eps=EPSILON, momentum=RUNNING_SHARE)
    mean, variance = (at.running[name][:, 0] for name in ("mean", "variance"))
    return [filled(module, **vectors(at), running_mean=mean, running_var=variance)]


def _layer_norm(nn: Any, at: Place) -> list[Any]:
    from . import torch_modules

    kind: Any = at.part.kind
    shape = at.part.shape
    if kind.over == "all" or len(shape) == 1:
        arrays = {name: array.reshape(shape) for name, array in vectors(at).items()}
        return [filled(nn.LayerNorm(shape, eps=EPSILON), **arrays)]
    return [filled(torch_modules.FeatureNorm(shape[0], eps=EPSILON), **vectors(at))]


def _convolution(nn: Any, at: Place) -> list[Any]:
    kind: Any = at.part.kind
    geometry = kind._geometry(at.part.shape)
    flat = len(at.part.shape) == 2
    axes = [geometry.columns] if flat else [geometry.rows, geometry.columns]
    before, after = [axis.before for axis in axes], [zeros_after(axis) for axis in axes]
    sides = kind.padding == "valid" or not isinstance(kind.padding, str) or before == after
    module = (nn.Conv1d if flat else nn.Conv2d)(
        geometry.n_in,
        geometry.n_out,
        [axis.kernel for axis in axes],
        [axis.stride for axis in axes],
        before if sides else 0,
        [axis.dilation for axis in axes],
        geometry.groups,
        "b" in at.P,
    )
    filled(module, weight=at.P["W"].reshape(module.weight.shape), **vectors(at))
    if sides:
        return [module]
    pads = [zeros for pair in zip(before[::-1], after[::-1], strict=True) for zeros in pair]
    return [(nn.ConstantPad1d if flat else nn.ConstantPad2d)(tuple(pads), 0.0), module]


def _pool(name: str) -> Row:
    def row(nn: Any, at: Place) -> list[Any]:
        kind: Any = at.part.kind
        make = getattr(nn, f"{name}Pool{len(at.part.shape) - 1}d")
        return [make(kind.window, kind.stride, kind.padding)]

    return row


def _global_pool(nn: Any, at: Place) -> list[Any]:
    make = getattr(nn, f"AdaptiveAvgPool{len(at.part.shape) - 1}d")
    return [make(1), nn.Flatten()]


def _reshape(nn: Any, at: Place) -> list[Any]:
    flat = [nn.Flatten()] if len(at.part.shape) > 1 else []
    out = at.part.out_shape
    return flat if len(out) == 1 else [*flat, nn.Unflatten(1, out)]


def _last(nn: Any, at: Place) -> list[Any]:
    from . import torch_modules

    return [torch_modules.Last()]


def _embedding(nn: Any, at: Place) -> list[Any]:
    from . import torch_modules

    kind: Any = at.part.kind
    module = torch_modules.Embedding(kind.n_values, kind.n)
    return [filled(module, weight=at.P["W"].T)]


def _recurrent(nn: Any, at: Place) -> list[Any]:
    """Rows of W, U and the biases are PyTorch's; our second direction is its `_reverse`."""
    from . import torch_modules

    kind: Any = at.part.kind
    elman = isinstance(kind, Elman)
    make = nn.RNN if elman else getattr(nn, type(kind).__name__)
    options = {"nonlinearity": kind.activation} if elman else {}
    d = kind.directions
    cell = make(at.part.shape[0], kind.n, bidirectional=d == 2, batch_first=True, **options)
    b = kind._input_bias(np, at.P)
    c = at.P.get("c", np.zeros_like(b))
    arrays = {}
    for i, end in enumerate(("_l0", "_l0_reverse")[:d]):
        for name, of in (("weight_ih", at.P["W"]), ("weight_hh", at.P["U"])):
            arrays[name + end] = np.split(of, d)[i]
        for name, of in (("bias_ih", b), ("bias_hh", c)):
            arrays[name + end] = np.split(of, d)[i][:, 0]
    return [torch_modules.Recurrent(filled(cell, **arrays), kind.returns)]


def _residual(nn: Any, at: Place) -> list[Any]:
    from . import torch_modules

    kind: Any = at.part.kind
    shape = at.part.shape
    along, beside = kind._ways(shape)
    layers = stacked(nn, along, stack.apart(along, at.P), at.running)
    if not kind._projects(shape):
        skip = stacked(nn, beside, stack.apart(beside, at.P), at.running)
        skip = skip if len(skip) else nn.Identity()
        return [torch_modules.Residual(layers, skip)]
    P = at.P["P"]
    makes = {1: nn.Linear, 2: nn.Conv1d, 3: nn.Conv2d}
    kernel = () if len(shape) == 1 else (1,)
    skip = makes[len(shape)](P.shape[1], P.shape[0], *kernel, bias=False)
    filled(skip, weight=P.reshape(skip.weight.shape))
    return [torch_modules.Residual(layers, skip)]


KINDS: dict[type[Any], Row] = {
    Dense: _dense,
    Activation: _activation,
    Dropout: _dropout,
    BatchNorm: _batch_norm,
    LayerNorm: _layer_norm,
    Conv1d: _convolution,
    Conv2d: _convolution,
    MaxPool: _pool("Max"),
    AvgPool: _pool("Avg"),
    GlobalAvgPool: _global_pool,
    Flatten: _reshape,
    Reshape: _reshape,
    Last: _last,
    Embedding: _embedding,
    Elman: _recurrent,
    GRU: _recurrent,
    LSTM: _recurrent,
    Residual: _residual,
}


def stacked(
    nn: Any,
    parts: Sequence[Part],
    pieces: Sequence[Mapping[str, Host]],
    running: Mapping[str, Host],
) -> Any:
    """Layers one after the other, as nn.Sequential."""
    modules = []
    for part, own in zip(parts, pieces, strict=True):
        row = KINDS.get(type(part.kind))
        if row is None:
            raise NotExportable(
                f"layer {part.number}, {part.kind}, is of a kind of your own, which PyTorch has no "
                f"module for: expected one of {', '.join(kind.__name__ for kind in KINDS)}. Give "
                "it a row in mlp_xp.export.to_torch.KINDS."
            )
        statistics = {s.name: running[part.name(s.name)] for s in part.statistics}
        modules += row(nn, Place(part, own, statistics))
    return nn.Sequential(*modules)


def to_torch(model: Any, *, network: int | None = None) -> Any:
    """A model as a `torch.nn.Module` that gives its scores.

    model    `MLP`, `Sequential`, or a fitted estimator whose examples are rows
    network  which of its networks, where it holds many

    The module takes rows (m, n_features), on the CPU in the model's dtype, and gives what
    `model.scores(X, layout="rows")` gives, (m, n_out), in eval mode, in which it comes: before
    any softmax or sigmoid, which PyTorch's losses for scores have in them too. What a
    `preparation` does to features it does first. It is an nn.Sequential of PyTorch's own
    modules, trained and saved as such; what PyTorch does not have is in
    `mlp_xp.export.torch_modules`.

    ImportError without PyTorch; `NotExportable`, a ValueError, names what has no counterpart:
    functions and layers of your own, words of tables, sequences that differ in length.
    """
    torch = library()
    entry = None
    if hasattr(model, "_exported"):
        model, entry = model._exported()
    if not isinstance(model, Model):
        raise TypeError(
            f"model is a {type(model).__name__}, but expected an MLP, a Sequential, or a fitted "
            "estimator of mlp_xp."
        )
    if entry is not None:
        raise NotExportable(
            "An estimator whose examples are no rows was given: expected a model. Pass its model_, "
            "which takes them with channels, or features, first."
        )
    chain, pieces, running = _one(model, network)
    if chain.lengths or model._prepared.table is not None:
        what = "sequences of different lengths" if chain.lengths else "a table's columns"
        raise NotExportable(
            f"The model takes {what}, for which a module of rows has no place: expected numbers, "
            "as many in each example. to_onnx writes it."
        )
    if model.precision != "float32":
        warnings.warn(
            f"The module does not round to {model.precision}: its scores differ from the model's "
            "by that much.",
            stacklevel=2,
        )
    nn, modules = torch.nn, []
    if model._prepared.inputs != NO_SCALE:
        from .torch_modules import Scaled

        parts = (np.reshape(part, (-1,)).astype(model.dtype) for part in model._prepared.inputs)
        modules.append(Scaled(*map(torch.tensor, parts)))
    if len(chain.shape) > 1:
        modules.append(nn.Unflatten(1, chain.shape))
    found = nn.Sequential(*modules, *stacked(nn, chain.parts, pieces, running))
    return found.to(getattr(torch, model.dtype)).eval()


def _one(model: Any, network: int | None) -> Any:
    """The layers of the network that was asked for."""
    every = layers_of(model)
    if network is None and len(every) > 1:
        raise NotExportable(
            f"The model holds {len(every)} networks, but a module is one: expected network=, a "
            f"whole number from 0 to {len(every) - 1}."
        )
    number = 0 if network is None else checks.integer("network", network, 0)
    if number >= len(every):
        raise ValueError(
            f"network is {network}, but the model holds {len(every)}: expected 0 to "
            f"{len(every) - 1}."
        )
    return every[number]


__all__ = ["KINDS", "MODULES", "to_torch"]
