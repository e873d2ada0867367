"""Families of networks that a search varies: dense ones, and chains of layers.

A family is a row of `FAMILIES`: its dimensions, and what makes layers of a trial's choices and of
an example's shape. Layers are made as a line of text (`layers.text`), which is what `mlp-xp
train --layers` takes, so that a trial can be had again by hand. Whatever can be drawn fits the
shape: padding keeps the places, and no block halves what has one place left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .. import checks
from ..activations import ACTIVATIONS
from ..defaults import OF_MLP
from ..layers.base import Shape
from ..layers.dense import Dropout
from ..layers.recipes import steps_seen
from .space import (
    ACTIVATION,
    DENSE,
    DROPOUT,
    NORMALIZATION,
    TRAINING,
    Dimension,
    Drawn,
    arguments,
)

Pieces = list[str]

# Options of a dense network that are layers in a chain.
OF_LAYERS = ("normalization", "dropout")
WORDS = {"none": [], "batch": ["batchnorm"], "layer": ["layernorm"]}
POOLING = {"max": "pool", "average": "avgpool", "stride": "", "none": ""}


@dataclass(frozen=True)
class Family:
    """Networks that are varied alike.

    rows     their dimensions, without those of training
    usual    an example's shape → the choices of the first trial
    pieces   choices, an example's shape → the pieces of a line of layers, but the scores; None:
             the options of a dense network
    axes     what an example may have: 2 for sequences, 3 for images
    reads    the same in words
    blocks   an example's shape → how many blocks there may be, and why there are no more
    """

    rows: tuple[Dimension, ...]
    usual: Callable[[Shape], dict[str, Any]]
    pieces: Callable[[Drawn, Shape], Pieces] | None = None
    axes: tuple[int, ...] = ()
    reads: str = ""
    blocks: Callable[[Shape], tuple[int, str]] | None = None

    def dimensions(self, shape: Shape) -> tuple[Dimension, ...]:
        """All rows, within what fits the examples."""
        rows = (*self.rows, *TRAINING)
        if self.blocks is None:
            return rows
        most, why = self.blocks(shape)
        return tuple(
            replace(row, high=min(int(row.high), most), most=most, why=why)
            if row.name == "blocks"
            else row
            for row in rows
        )

    def options(self, drawn: Drawn, fixed: Drawn, shape: Shape) -> dict[str, Any]:
        """What was drawn, beside what is fixed, as options of a model."""
        if self.pieces is None:
            return arguments(drawn)
        line = ",".join(self.pieces({**fixed, **drawn}, shape))
        inside = {row.name for row in self.rows} - {"activation"}
        others = {name: value for name, value in drawn.items() if name not in inside}
        return {"layers": line, **arguments(others)}

    def check(self, name: str, fixed: Drawn) -> None:
        """Raise ValueError for fixed options that such networks do not have."""
        if self.pieces is None:
            return
        for option in OF_MLP:
            if option in fixed and option not in OF_LAYERS:
                raise ValueError(
                    f"{option} goes with dense networks, but layers is {name!r}: leave it out, or "
                    f"give limits of {', '.join(row.name for row in self.rows)}."
                )
        for row in self.rows:
            if row.name in fixed and row.name not in (*OF_LAYERS, "activation"):
                raise ValueError(
                    f"{row.name} is no option of a model: to hold it, give it limits, "
                    f"space={{{row.name!r}: …}}."
                )
        if "dropout" in fixed:
            Dropout(fixed["dropout"])
        tables: dict[str, Mapping[str, Any]] = {"normalization": WORDS, "activation": ACTIVATIONS}
        for option, table in tables.items():
            if option in fixed:
                checks.choose(option, table, fixed[option])

    def shape(self, name: str, n: int, known: Shape, told: Sequence[int] | None) -> Shape:
        """The shape of an example of n numbers, () where the networks ask for none.

        known  as the source of the data knows it, () where it does not
        told   as somebody has said
        """
        if self.pieces is None:
            if told is not None:
                raise ValueError(
                    f"shape is {told!r}, but dense networks take vectors: leave it out, "
                    "or say which layers read such examples (conv, recurrent, temporal)."
                )
            return ()
        if told is not None:
            return self._told(name, n, told)
        if math.prod(known) != n or not known:
            raise ValueError(
                f"shape is missing: an example has {n} numbers, which do not show how they lie, "
                f"but layers {name!r} read {self.reads}. Say it."
            )
        if len(known) == 2 and 3 in self.axes:
            image = _written((1, *known))
            raise ValueError(
                f"shape is missing: examples of {_written(known)} may be sequences of "
                f"{known[0]} features or images of one channel. Say {_written(known)} or {image}."
            )
        if len(known) == 3 and 3 not in self.axes:  # an image, column by column
            return known[0] * known[1], known[2]
        return known

    def _told(self, name: str, n: int, told: Sequence[int]) -> Shape:
        if isinstance(told, str) or not isinstance(told, Sequence):
            raise TypeError(
                f"shape is {told!r}, but expected the lengths of an example's axes, such as "
                "(1, 28, 28)."
            )
        shape = tuple(checks.integer(f"shape[{i}]", k, 1) for i, k in enumerate(told))
        if len(shape) not in self.axes:
            cure = ""
            if len(shape) == 3:
                cure = f" An image is read column by column as {shape[0] * shape[1]}x{shape[2]}."
            raise ValueError(
                f"shape is {_written(shape)}, but layers {name!r} read {self.reads}: expected as "
                f"many lengths.{cure}"
            )
        if math.prod(shape) != n:
            raise ValueError(
                f"shape is {_written(shape)}, {math.prod(shape)} numbers, but an example has {n}: "
                f"expected {self.reads} of as many."
            )
        return shape


def _written(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


# -- what families share -------------------------------------------------------------


def _dropout(chosen: Drawn) -> Pieces:
    return [f"dropout:{chosen['dropout']:g}"] if chosen["dropout"] else []


def _head(chosen: Drawn) -> Pieces:
    """A dense layer before the scores, or none."""
    return [f"dense:{chosen['dense']}", *_dropout(chosen)] if chosen["dense"] else []


def _has_dense(drawn: Drawn) -> bool:
    return bool(drawn["dense"])


BLOCKS = 8  # of dilated convolutions, unless more are asked for
WIDTHS = tuple(2**i for i in range(13))
HEAD = Dimension("dense", (0, 32, 64, 128, 256), allowed=(0, *WIDTHS))
SEEN = Dimension("readout", ("last", "mean"))  # what is made of all steps


# -- convolutions --------------------------------------------------------------------


def _convolutions(chosen: Drawn, shape: Shape) -> Pieces:
    """Blocks of a convolution, and of what halves each axis that can be halved."""
    places, pooling, pieces = list(shape[1:]), chosen["pooling"], Pieces()
    for i in range(chosen["blocks"]):
        channels = chosen["channels"] * chosen["growth"] ** i
        window = [1 if pooling == "none" else min(2, n) for n in places]
        alike = window[:1] if len(set(window)) == 1 else window
        strides = pooling == "stride" and max(window) > 1
        stride = f":stride={_written(alike)}" if strides else ""
        pieces.append(f"conv:{channels}x{chosen['kernel']}{stride}:padding=same")
        pieces += WORDS[chosen["normalization"]]
        if POOLING[pooling] and max(window) > 1:
            pieces.append(f"{POOLING[pooling]}:{_written(alike)}")
        up = pooling == "stride"  # ⌈n / 2⌉ places, where pooling leaves ⌊n / 2⌋
        places = [(n + up) // k if k > 1 else n for n, k in zip(places, window, strict=True)]
    pieces += ["globalpool"] if chosen["readout"] == "mean" else []
    return [*pieces, *(_head(chosen) or _dropout(chosen))]


def _halvings(shape: Shape) -> tuple[int, str]:
    n = max(shape[1:])
    return max(1, n.bit_length() - 1), f", for {n} places cannot be halved more often"


# The first trial is the recipe of docs/recipes.md. One block halves even 2 places.
CONVOLUTIONAL = Family(
    (
        Dimension("blocks", low=1, high=3, least=1),
        Dimension("channels", low=8, high=64, log=True, least=1),
        Dimension("growth", (1, 2), allowed=(1, 2, 3, 4)),
        Dimension("kernel", (3, 5), allowed=tuple(range(1, 12))),
        Dimension("pooling", ("max", "average", "stride"), allowed=tuple(POOLING)),
        Dimension("readout", ("flatten", "mean")),
        HEAD,
        ACTIVATION,
        NORMALIZATION,
        DROPOUT,
    ),
    usual=lambda shape: {
        "blocks": min(2, _halvings(shape)[0]),
        "channels": 16,
        "growth": 2,
        "kernel": 3,
        "pooling": "max",
        "readout": "flatten",
        "dense": 64,
        "activation": "relu",
        "normalization": "batch",
        "dropout": 0.3,
    },
    pieces=_convolutions,
    axes=(2, 3),
    reads="images, CHANNELSxHEIGHTxWIDTH, or sequences, FEATURESxTIME",
    blocks=_halvings,
)


# -- recurrent layers ----------------------------------------------------------------


def _recurrent(chosen: Drawn, shape: Shape) -> Pieces:
    """Recurrent layers one on the other, each with normalisation and dropout after it."""
    pieces = Pieces()
    for i in range(1, chosen["blocks"] + 1):
        piece = f"{chosen['kind']}:{chosen['units']}"
        if chosen["directions"] > 1:
            piece += f":directions={chosen['directions']}"
        if i < chosen["blocks"] or chosen["readout"] == "mean":
            piece += ":returns=all"
        pieces += [piece, *WORDS[chosen["normalization"]], *_dropout(chosen)]
    pieces += ["globalpool"] if chosen["readout"] == "mean" else []
    return [*pieces, *_head(chosen)]


RECURRENT = Family(
    (
        Dimension("kind", ("gru", "lstm", "elman")),
        Dimension("blocks", low=1, high=2, least=1),
        Dimension("units", low=16, high=128, log=True, least=1),
        Dimension("directions", (1, 2)),
        SEEN,
        HEAD,
        replace(ACTIVATION, when=_has_dense),
        NORMALIZATION,
        DROPOUT,
    ),
    usual=lambda shape: {
        "kind": "gru",
        "blocks": 1,
        "units": 64,
        "directions": 1,
        "readout": "last",
        "dense": 0,
        "activation": "relu",
        "normalization": "none",
        "dropout": 0.0,
    },
    pieces=_recurrent,
    axes=(2,),
    reads="sequences, FEATURESxTIME",
)


# -- temporal convolutions -----------------------------------------------------------


def _temporal(chosen: Drawn, shape: Shape) -> Pieces:
    """`layers.recipes.temporal_convolutions` in a line: block i dilated by 2ⁱ."""
    activation, pieces = chosen["activation"], Pieces()
    for i in range(chosen["blocks"]):
        dilation = f":dilation={2**i}" if i else ""
        convolution = f"conv:{chosen['channels']}x{chosen['kernel']}{dilation}:padding=causal"
        half = [convolution, *WORDS[chosen["normalization"]], *_dropout(chosen)]
        pieces += [f"residual({','.join((*half, *half))})", activation]
    pieces.append("globalpool" if chosen["readout"] == "mean" else "last")
    return [*pieces, *_head(chosen)]


def _dilations(shape: Shape) -> tuple[int, str]:
    time = shape[-1]
    return max(1, (time - 1).bit_length()), f", for block b reaches 2ᵇ⁻¹ of {time} steps"


def _seeing(shape: Shape) -> int:
    """Blocks of kernel 3 after which the last step sees the first, as far as there are so many."""
    blocks = 1
    while steps_seen(3, blocks) < shape[-1]:
        blocks += 1
    return min(blocks, BLOCKS, _dilations(shape)[0])


TEMPORAL = Family(
    (
        Dimension("blocks", low=1, high=BLOCKS, least=1),
        Dimension("channels", low=8, high=64, log=True, least=1),
        Dimension("kernel", (2, 3, 5), allowed=tuple(range(2, 12))),
        SEEN,
        HEAD,
        ACTIVATION,
        NORMALIZATION,
        DROPOUT,
    ),
    usual=lambda shape: {
        "blocks": _seeing(shape),
        "channels": 32,
        "kernel": 3,
        "readout": "last",
        "dense": 0,
        "activation": "relu",
        "normalization": "none",
        "dropout": 0.0,
    },
    pieces=_temporal,
    axes=(2,),
    reads="sequences, FEATURESxTIME",
    blocks=_dilations,
)

DENSE_NETWORKS = Family(
    DENSE,
    usual=lambda shape: {
        "depth": 2,
        "width": 256,
        "taper": 0.5,
        "activation": "relu",
        "residual": False,
    },
)
FAMILIES: Mapping[str, Family] = {
    "dense": DENSE_NETWORKS,
    "conv": CONVOLUTIONAL,
    "recurrent": RECURRENT,
    "temporal": TEMPORAL,
}
