"""PyTorch modules as models: a row for each kind of module.

A row is (module, shape of one example) → layers, each with its parameters and running moments.
What gives another answer than ours in evaluation, by an option that we do not have, is refused by
the module's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..kernels import EPSILON
from ..layers.base import Kind, Shape
from ..layers.convolution import Conv1d, Conv2d
from ..layers.dense import Activation, Dense, Dropout
from ..layers.embedding import Embedding
from ..layers.normalization import BatchNorm, LayerNorm
from ..layers.pooling import AvgPool, GlobalAvgPool, MaxPool
from ..layers.recurrent import GRU, LSTM, Elman
from ..layers.residual import Residual
from ..layers.shapes import Flatten, Last, Reshape
from ..layers.stack import numbered
from ..layers.windows import Axis
from ..mlp import MLP
from ..model import Model
from ..prepared import Preparation, Scale
from ..sequential import Sequential
from .functions import NotExportable
from .to_torch import MODULES, library

Host: TypeAlias = npt.NDArray[Any]


class Piece(NamedTuple):
    """A layer with its parameters and running moments, by their names within it."""

    kind: Kind
    P: Mapping[str, Host] = {}
    running: Mapping[str, Host] = {}


Row: TypeAlias = Callable[[Any, Shape], list[Piece]]


def host(tensor: Any) -> Host:
    """A tensor as a NumPy array."""
    found: Host = tensor.detach().cpu().double().numpy()
    return found


def column(tensor: Any, n: int, otherwise: float) -> Host:
    """A vector (n,) as (n, 1); one that is missing is filled."""
    return np.full((n, 1), otherwise) if tensor is None else host(tensor).reshape(-1, 1)


def refused(module: Any, why: str, cure: str) -> NotExportable:
    return NotExportable(f"{_brief(module)} {why}: {cure}")


def _brief(module: Any) -> str:
    text = " ".join(repr(module).split())
    return text if len(text) <= 120 else f"{type(module).__name__}(…)"


def _only(module: Any, **expected: Any) -> None:
    """Refuse options that we do not have."""
    for name, value in expected.items():
        found = getattr(module, name)
        if found != value:
            raise refused(module, f"has {name}={found!r}", f"expected {value!r}.")


def pair_or_one(value: Any) -> Any:
    """PyTorch's (3,) and (3, 3) as 3."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        several = tuple(value)
        return several[0] if len(set(several)) == 1 else several
    return value


def _linear(module: Any, shape: Shape) -> list[Piece]:
    P = {"W": host(module.weight)}
    if module.bias is not None:
        P["b"] = host(module.bias)[:, None]
    if len(shape) != 1:
        raise refused(
            module,
            f"follows examples of {shape}, of which it takes the last axis",
            "expected vectors. Put nn.Flatten() before it.",
        )
    return [Piece(Dense(module.out_features, module.bias is not None), P)]


def _activation(name: str) -> Row:
    def row(module: Any, shape: Shape) -> list[Piece]:
        return [] if name == "identity" else [Piece(Activation(name))]

    return row


def _with_options(name: str, **expected: Any) -> Row:
    def row(module: Any, shape: Shape) -> list[Piece]:
        _only(module, **expected)
        return [Piece(Activation(name))]

    return row


def _batch_norm(module: Any, shape: Shape) -> list[Piece]:
    _only(module, eps=EPSILON, track_running_stats=True)
    n = module.num_features
    P = {"gain": column(module.weight, n, 1), "b": column(module.bias, n, 0)}
    moments = (column(module.running_mean, n, 0), column(module.running_var, n, 1))
    return [Piece(BatchNorm(), P, dict(zip(("mean", "variance"), moments, strict=True)))]


def _layer_norm(module: Any, shape: Shape) -> list[Piece]:
    _only(module, eps=EPSILON)
    n = prod(module.normalized_shape)
    if tuple(module.normalized_shape) != shape:
        raise refused(
            module,
            f"follows examples of {shape}, whose first axis is not among those it takes",
            "expected the whole shape. mlp_xp.export.torch_modules.FeatureNorm is over the "
            "features alone.",
        )
    P = {"gain": column(module.weight, n, 1), "b": column(module.bias, n, 0)}
    return [Piece(LayerNorm("features" if len(shape) == 1 else "all"), P)]


def _feature_norm(module: Any, shape: Shape) -> list[Piece]:
    _only(module, eps=EPSILON)
    n = shape[0]
    P = {"gain": column(module.weight, n, 1), "b": column(module.bias, n, 0)}
    return [Piece(LayerNorm(), P)]


def _convolution(module: Any, shape: Shape) -> list[Piece]:
    _only(module, padding_mode="zeros")
    W = host(module.weight)
    P = {"W": W.reshape(W.shape[0], -1)}
    if module.bias is not None:
        P["b"] = host(module.bias)[:, None]
    kind = (Conv1d if len(module.kernel_size) == 1 else Conv2d)(
        module.out_channels,
        pair_or_one(module.kernel_size),
        pair_or_one(module.stride),
        pair_or_one(module.dilation),
        pair_or_one(module.padding),
        module.groups,
        module.bias is not None,
    )
    return [Piece(kind, P)]


def _max_pool(module: Any, shape: Shape) -> list[Piece]:
    _only(module, ceil_mode=False, return_indices=False)
    if pair_or_one(module.dilation) != 1:
        raise refused(module, f"has dilation={module.dilation!r}", "expected 1.")
    options = (module.kernel_size, module.stride, module.padding)
    return [Piece(MaxPool(*map(pair_or_one, options)))]


def _avg_pool(module: Any, shape: Shape) -> list[Piece]:
    options = [pair_or_one(v) for v in (module.kernel_size, module.stride, module.padding)]
    _only(module, ceil_mode=False)
    if options[2] != 0:
        _only(module, count_include_pad=True)
    if getattr(module, "divisor_override", None) is not None:
        raise refused(module, "has a divisor_override", "expected None.")
    return [Piece(AvgPool(*options))]


def _global_pool(module: Any, shape: Shape) -> list[Piece]:
    if pair_or_one(module.output_size) != 1:
        size = module.output_size
        raise refused(module, f"has output_size={size!r}", "expected 1, or nn.AvgPool2d(window).")
    return [Piece(GlobalAvgPool()), Piece(Reshape((shape[0], *(1 for _ in shape[1:]))))]


def _flatten(module: Any, shape: Shape) -> list[Piece]:
    _only(module, start_dim=1)
    if module.end_dim not in (-1, len(shape)):
        raise refused(module, f"has end_dim={module.end_dim}", "expected all axes of an example.")
    return [Piece(Flatten())] if len(shape) > 1 else []


def _unflatten(module: Any, shape: Shape) -> list[Piece]:
    if module.dim not in (1, -1) or len(shape) != 1:
        raise refused(module, f"follows examples of {shape}", "expected the axis 1 of vectors.")
    return [Piece(Reshape(tuple(module.unflattened_size)))]


def _recurrent(module: Any, shape: Shape) -> list[Piece]:
    cell = module.cell
    _only(cell, num_layers=1, batch_first=True, bias=True)
    if getattr(cell, "proj_size", 0):
        raise refused(cell, f"has proj_size={cell.proj_size}", "expected 0.")
    n, d = cell.hidden_size, 2 if cell.bidirectional else 1
    ends = ("_l0", "_l0_reverse")[:d]

    def joined(name: str) -> Host:
        return np.concatenate([host(getattr(cell, name + end)) for end in ends])

    P = {"W": joined("weight_ih"), "U": joined("weight_hh")}
    b, c = joined("bias_ih")[:, None], joined("bias_hh")[:, None]
    name = type(cell).__name__
    if name == "GRU":
        return [Piece(GRU(n, module.returns, d), {**P, "b": b, "c": c})]
    both = b + c
    if name == "RNN":
        return [Piece(Elman(n, module.returns, d, cell.nonlinearity), {**P, "b": both})]
    i, f, g, o = (both.reshape(d, 4, n)[:, k] for k in range(4))
    P["b"] = np.stack([i, g, o], axis=1).reshape(-1, 1)
    return [Piece(LSTM(n, module.returns, d), {**P, "b_forget": f.reshape(-1, 1)})]


def _embedding(module: Any, shape: Shape) -> list[Piece]:
    kind = Embedding(module.num_embeddings, module.embedding_dim)
    return [Piece(kind, {"W": host(module.weight).T})]


def _residual(module: Any, shape: Shape) -> list[Piece]:
    along, beside = (pieces_of([way], shape) for way in (module.layers, module.skip))
    along = along or [Piece(Activation("identity"))]
    kind = Residual(tuple(p.kind for p in along), tuple(p.kind for p in beside))
    P: dict[str, Host] = {}
    running: dict[str, Host] = {}
    for number, piece in enumerate([*along, *beside], 1):
        P |= {numbered(name, number): array for name, array in piece.P.items()}
        running |= {numbered(name, number): array for name, array in piece.running.items()}
    return [Piece(kind, P, running)]


# names of PyTorch's modules ↦ rows
ROWS: dict[str, Row] = {
    **{module: _activation(name) for name, (module, options) in MODULES.items()},
    "LeakyReLU": _with_options("leaky_relu", negative_slope=0.01),
    "ELU": _with_options("elu", alpha=1.0),
    "GELU": _with_options("gelu", approximate="tanh"),
    "Softplus": _with_options("softplus", beta=1.0, threshold=20.0),
    "Dropout": lambda module, shape: [Piece(Dropout(module.p))],
    "Linear": _linear,
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "LayerNorm": _layer_norm,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "MaxPool1d": _max_pool,
    "MaxPool2d": _max_pool,
    "AvgPool1d": _avg_pool,
    "AvgPool2d": _avg_pool,
    "AdaptiveAvgPool1d": _global_pool,
    "AdaptiveAvgPool2d": _global_pool,
    "Flatten": _flatten,
    "Unflatten": _unflatten,
}
# and those of our own
OWN: dict[str, Row] = {
    "FeatureNorm": _feature_norm,
    "Embedding": _embedding,
    "Recurrent": _recurrent,
    "Last": lambda module, shape: [Piece(Last())],
    "Residual": _residual,
}
INSTEAD = {
    "Softmax": "Leave it out: loss='cross_entropy' has the softmax in it.",
    "LogSoftmax": "Leave it out: loss='cross_entropy' has the softmax in it.",
    "Embedding": "mlp_xp.export.torch_modules.Embedding has the features first.",
    **dict.fromkeys(
        ("RNN", "GRU", "LSTM"), "mlp_xp.export.torch_modules.Recurrent(…) gives one array."
    ),
}


def row_of(module: Any) -> Row:
    """The row of a module; one that is unknown is named."""
    kind = type(module)
    table = ROWS if kind.__module__.startswith("torch.nn.") else {}
    table = OWN if kind.__module__ == f"{__package__}.torch_modules" else table
    found = table.get(kind.__name__)
    if found is None:
        known = ", ".join(sorted({*ROWS, *OWN}))
        cure = INSTEAD.get(kind.__name__, "Compute what it does before or after, or write a layer.")
        raise refused(module, "has no layer here", f"expected nn.Sequential of {known}. {cure}")
    _check_hooks(module)
    return found


def modules_of(module: Any) -> list[Any]:
    """What is in an nn.Sequential, and in those within it; any other module is itself."""
    plain = library().nn.Sequential
    if not isinstance(module, plain) or type(module).forward is not plain.forward:
        return [module]
    _check_hooks(module)
    return [one for inside in module for one in modules_of(inside)]


def _check_hooks(module: Any) -> None:
    hooks = module._forward_pre_hooks or module._forward_hooks
    if hooks or "forward" in vars(module):
        what = "hooks" if hooks else "a forward pass of its own"
        raise refused(
            module,
            f"has {what}, which may change what it takes or gives",
            "expected none. Remove them first.",
        )


def pieces_of(modules: Sequence[Any], shape: Shape) -> list[Piece]:
    """Modules one after the other as layers."""
    found: list[Piece] = []
    flat = [one for module in modules for one in modules_of(module)]
    pad = None
    for module in flat:
        if pad is None and _pads(module):
            pad = module
            continue
        pieces = row_of(module)(module, shape)
        if pad is not None:
            pieces = [_padded(pad, pieces, shape), *pieces[1:]]
            pad = None
        for piece in pieces:
            _check_fit(module, piece, shape)
            found.append(piece)
            shape = piece.kind.out_shape(shape)
    if pad is not None:
        raise refused(pad, "stands at the end", "expected a convolution after it.")
    return found


def _check_fit(module: Any, piece: Piece, shape: Shape) -> None:
    """Refuse a module whose parameters are not for such examples."""
    needed = {p.name: p.shape for p in piece.kind.parameters(shape)}
    if any(array.shape != needed.get(name) for name, array in piece.P.items()):
        raise refused(
            module,
            f"does not take examples of {shape}, which come to it here",
            "expected modules that fit each other. shape=(…) says what one example is.",
        )


def _pads(module: Any) -> bool:
    return type(module).__name__.startswith(("ConstantPad", "ZeroPad"))


def _padded(pad: Any, pieces: list[Piece], shape: Shape) -> Piece:
    """A convolution whose zeros stand in a module before it, with a padding of ours."""
    kind: Any = pieces[0].kind if pieces else None
    ends = list(zip(pad.padding[::2], pad.padding[1::2], strict=True))  # the last axis comes first
    bare = isinstance(kind, Conv1d | Conv2d) and pair_or_one(kind.padding) in (0, "valid")
    if bare and pad.value == 0 and len(ends) == len(shape) - 1:
        both = tuple(before for before, _ in reversed(ends))
        for padding in ("same", "causal", pair_or_one(both)):
            try:
                found = replace(kind, padding=padding)
                geometry = found._geometry(shape)
            except ValueError:
                continue
            axes = [geometry.columns, geometry.rows]
            if all(_lies(axis, *end) for axis, end in zip(axes, ends, strict=False)):
                return pieces[0]._replace(kind=found)
    raise refused(
        pad,
        "has zeros that no padding of ours puts before the module after it",
        "expected as many at both ends, or those of 'same' or 'causal', before a convolution "
        "without padding.",
    )


def _lies(axis: Axis, before: int, after: int) -> bool:
    """Whether its windows see what they would with so many zeros at both ends."""
    n_out = (before + axis.n + after - axis.span) // axis.stride + 1
    return (axis.before, axis.n_out) == (before, n_out)


# -- models ----------------------------------------------------------------------


def from_torch(module: Any, shape: int | Sequence[int] | None = None, **options: Any) -> Model:
    """A model that gives the scores of an nn.Sequential, and can be trained on from it.

    module   nn.Sequential of modules that mlp_xp has layers of, in any depth; what `to_torch`
             gave, too
    shape    of one example, (channels, height, width) or (features, time); None: the vectors
             that the first nn.Linear takes, or what a first nn.Unflatten makes
    options  of `MLP` and `Sequential`: loss, optimizer, learning_rate, device, seed …

    Returns an `MLP`, which the fast paths know, where the modules are one: fully connected
    layers, each with the same normalisation or none, an activation and perhaps dropout. Else a
    `Sequential`. The loss is "cross_entropy" if none is given: the module's last layer is to
    give scores, without softmax.

    ImportError without PyTorch; `NotExportable`, a ValueError, names a module that has no layer
    here, or an option of it that none has.
    """
    torch = library()
    if not isinstance(module, torch.nn.Module):
        raise TypeError(
            f"from_torch got a {type(module).__name__}, but expected a torch.nn.Sequential."
        )
    modules = modules_of(module)
    scale = None
    if modules and type(modules[0]).__name__ == "Scaled":
        first = modules.pop(0)
        scale = Scale(host(first.offset).tolist(), host(first.divisor).tolist())
    given, modules = _shape(modules, shape)
    pieces = pieces_of(modules, given)
    wide = any(p.dtype == torch.float64 for p in module.parameters())
    options = {"dtype": "float64" if wide else "float32", **options}
    model = _as_mlp(given, pieces, options) or _as_sequential(given, pieces, options)
    if scale is not None:
        model.preparation = Preparation(str(model.config["loss"]), inputs=scale)
    return model


def _shape(modules: list[Any], shape: int | Sequence[int] | None) -> tuple[Shape, list[Any]]:
    """The shape of one example, and the modules without one that makes it of rows."""
    given = (shape,) if isinstance(shape, int) else None if shape is None else tuple(shape)
    if modules and type(modules[0]).__name__ == "Unflatten":
        made = tuple(modules[0].unflattened_size)
        if given in (None, made):
            return made, modules[1:]
    if given is not None:
        return given, modules
    n = _features(modules)
    if n is not None:
        return (n,), modules
    for module in modules:
        if not _pads(module):
            row_of(module)
    raise ValueError(
        "shape is None, but the first module does not show what one example looks like: expected "
        "shape=(channels, height, width), (features, time) or a number of features."
    )


def _features(modules: Sequence[Any]) -> int | None:
    """The length of vectors that the first module which shows it takes; None if none does."""
    for i, module in enumerate(modules):
        name = type(module).__name__
        if name == "Flatten" and i == 0:  # of images, which may come as vectors
            continue
        if name == "Linear":
            found: int = module.in_features
            return found
        if name == "Residual":
            return _features(modules_of(module.layers))
        if name not in {
            *(name for name, _ in MODULES.values()),
            "Dropout",
            "BatchNorm1d",
            "LayerNorm",
        }:
            return None
    return None


def _as_sequential(shape: Shape, pieces: Sequence[Piece], options: dict[str, Any]) -> Model:
    model = Sequential(shape, [piece.kind for piece in pieces], **options)
    parts = model.network.parts
    P: dict[str, Host] = {}
    running: dict[str, Host] = {}
    for part, piece in zip(parts, pieces, strict=True):
        P |= {part.name(name): array for name, array in piece.P.items()}
        running |= {part.name(name): array for name, array in piece.running.items()}
    return _filled(model, P, [running[name] for name, _ in model.network.statistics])


def _as_mlp(shape: Shape, pieces: Sequence[Piece], options: dict[str, Any]) -> Model | None:
    """An MLP, where the pieces are (Dense, normalisation, Activation, Dropout) … Dense."""
    if len(shape) != 1 or not pieces:
        return None
    sizes, activations, dropout = list(shape), [], []
    words: set[str] = set()
    P: dict[str, Host] = {}
    running: list[Host] = []
    rest = list(pieces)
    while True:
        number = len(sizes)
        dense = rest.pop(0)
        if not isinstance(dense.kind, Dense):
            return None
        sizes.append(dense.kind.units)
        P[f"W{number}"] = dense.P["W"]
        zeros = np.zeros((dense.kind.units, 1))
        b = P[f"b{number}"] = dense.P.get("b", zeros)
        if not rest:
            break
        norm = rest.pop(0) if isinstance(rest[0].kind, BatchNorm | LayerNorm) else None
        words.add({BatchNorm: "batch", LayerNorm: "layer"}[type(norm.kind)] if norm else "none")
        if norm is not None:
            P[f"gain{number}"], P[f"b{number}"] = norm.P["gain"], norm.P["b"]
            if isinstance(norm.kind, BatchNorm):  # a bias before it only moves the mean
                running += [norm.running["mean"] - b, norm.running["variance"]]
            elif b.any():
                return None
        if not rest or not isinstance(rest[0].kind, Activation):
            return None
        active: Any = rest.pop(0).kind
        activations.append(active.row)
        rate = 0.0
        if rest and isinstance(rest[0].kind, Dropout):
            dropped: Any = rest.pop(0).kind
            rate = dropped.rate
        dropout.append(rate)
        if not rest:
            return None
    if len(words) > 1:
        return None
    word: Any = words.pop() if words else "none"
    model = MLP(sizes, activation=activations, normalization=word, dropout=dropout, **options)
    return _filled(model, P, running)


def _filled(model: Any, P: Mapping[str, Host], running: Sequence[Host]) -> Model:
    """The model with these parameters and running moments, in all its networks."""
    lead = model.leading
    model.set_parameters(**{k: np.broadcast_to(v, (*lead, *v.shape)) for k, v in P.items()})
    if running:
        flat = np.concatenate([array.reshape(-1) for array in running]).astype(model.dtype)
        put = model.device.put(np.ascontiguousarray(np.broadcast_to(flat, (*lead, flat.size))))
        model._run.state = model._run.state._replace(running=put)
    found: Model = model
    return found


__all__ = ["OWN", "ROWS", "from_torch"]
