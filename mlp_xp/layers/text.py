"""Layers in a line of text, as `mlp-xp train --layers` takes them.

    conv:32x3,pool:2,conv:64x3,pool:2,dense:128

Pieces are parted by commas. Each is a kind, then its numbers after a colon, parted by "x", then
options as further `:name=value`, with the names that they have in Python:

    dense:N             conv:CHANNELSxKERNEL     pool:WINDOW         embedding:VALUESxN
    elman:N  gru:N      lstm:N                   avgpool:WINDOW      dropout:RATE
    globalpool  last  flatten  batchnorm  layernorm    reshape:AxBxC       residual(…,…)
    relu, tanh, …: an activation by its name

    conv:64x3:stride=2:padding=same   lstm:64:directions=2:returns=all   residual(conv:32x3,relu)

What anybody would write between is put there: a convolution is of images or of sequences as its
input is, an activation follows every convolution and every dense layer unless one is named, a
normalisation that follows goes before it, `flatten` comes before a dense layer of an image or of
a sequence, and the scores come last.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, NamedTuple

from ..activations import ACTIVATIONS
from ..meant import meant
from .base import Kind, Shape
from .convolution import Conv1d, Conv2d
from .dense import Activation, Dense, Dropout
from .embedding import Embedding
from .normalization import BatchNorm, LayerNorm
from .pooling import AvgPool, GlobalAvgPool, MaxPool
from .recurrent import GRU, LSTM, Elman
from .residual import Residual
from .shapes import Flatten, Last, Reshape


class Word(NamedTuple):
    """A word of the grammar.

    make      (shape of the input, its numbers, its options) → a layer
    numbers   what its numbers are, for errors: "CHANNELSxKERNEL"
    counts    how many numbers it may have
    decimals  whether they may have a point
    active    whether an activation follows it
    before    whether it goes before an activation that follows the layer before it
    vectors   whether it takes vectors only
    """

    make: Callable[[Shape, list[Any], dict[str, Any]], Kind]
    numbers: str = ""
    counts: tuple[int, ...] = (0,)
    decimals: bool = False
    active: bool = False
    before: bool = False
    vectors: bool = False


def _made(kind: Callable[..., Kind]) -> Callable[[Shape, list[Any], dict[str, Any]], Kind]:
    return lambda shape, numbers, options: _of(kind, *numbers, **options)


def _of(kind: Callable[..., Kind], *numbers: Any, **options: Any) -> Kind:
    """A layer; ValueError for an option that its kind does not have."""
    known = list(signature(kind).parameters)[len(numbers) :]
    for name in options:
        if name not in known:
            has = f"{', '.join(known) or 'none at all'}.{meant(known, name)}"
            raise ValueError(f"it has no option {name!r}, but {has}")
    return kind(*numbers, **options)


def _convolution(shape: Shape, numbers: list[Any], options: dict[str, Any]) -> Kind:
    """Of a sequence where the input is one, else of images."""
    channels, *kernel = numbers
    if len(shape) == 2:
        if len(kernel) > 1:
            raise ValueError(f"its input is a sequence, {shape}: expected one kernel, conv:32x3.")
        return _of(Conv1d, channels, *kernel, **options)
    return _of(Conv2d, channels, kernel[0] if len(kernel) == 1 else tuple(kernel), **options)


def _pool(
    kind: type[MaxPool | AvgPool],
) -> Callable[[Shape, list[Any], dict[str, Any]], Kind]:
    return lambda shape, numbers, options: _of(
        kind, numbers[0] if len(numbers) == 1 else tuple(numbers), **options
    )


WORDS: dict[str, Word] = {
    "dense": Word(_made(Dense), "N", (1,), active=True, vectors=True),
    "conv": Word(_convolution, "CHANNELSxKERNEL", (2, 3), active=True),
    "pool": Word(_pool(MaxPool), "WINDOW", (1, 2)),
    "avgpool": Word(_pool(AvgPool), "WINDOW", (1, 2)),
    "globalpool": Word(_made(GlobalAvgPool)),
    "last": Word(_made(Last)),
    "flatten": Word(_made(Flatten)),
    "reshape": Word(
        lambda shape, numbers, options: _of(Reshape, tuple(numbers), **options), "AxBxC", (1, 2, 3)
    ),
    "batchnorm": Word(_made(BatchNorm), before=True),
    "layernorm": Word(_made(LayerNorm), before=True),
    "dropout": Word(_made(Dropout), "RATE", (1,), decimals=True),
    "embedding": Word(_made(Embedding), "VALUESxN", (2,)),
    "elman": Word(_made(Elman), "N", (1,)),
    "gru": Word(_made(GRU), "N", (1,)),
    "lstm": Word(_made(LSTM), "N", (1,)),
}
PIECE = re.compile(r"(?P<word>[a-z_0-9]+)(?P<rest>:.*)?")


def layers_of(
    text: str, shape: Shape, n_outputs: int, activation: str = "relu"
) -> tuple[Kind, ...]:
    """The layers of a line, the last of which gives `n_outputs` scores.

    shape       of one example
    activation  what follows convolutions and dense layers that name none

    ValueError names the piece that is wrong.
    """
    layers, shape = _chain(text, shape, activation)
    if len(shape) > 1:
        layers.append(Flatten())
    return (*layers, Dense(n_outputs))


def shape_for(text: str, n: int, shape: Sequence[int] | None = None) -> Shape:
    """The shape of an example of n numbers, for the layers of a line.

    shape  as somebody has said; None: a square image of one channel where the line begins with a
           convolution or pooling and n is a square, else a vector
    """
    if shape is None:
        side = math.isqrt(n)
        images = text.startswith(("conv", "pool", "avgpool", "residual(conv")) and side * side == n
        return (1, side, side) if images else (n,)
    if math.prod(shape) != n:
        raise ValueError(
            f"shape is {'x'.join(map(str, shape))}, {math.prod(shape)} numbers, but an example "
            f"has {n}: expected channels, height and width, or features and time, of as many."
        )
    return tuple(shape)


def _chain(text: str, shape: Shape, activation: str) -> tuple[list[Kind], Shape]:
    layers: list[Kind] = []
    pending: Kind | None = None  # an activation that has still to come

    def put(kind: Kind, piece: str) -> None:
        nonlocal shape
        try:
            shape = kind.out_shape(shape)
        except ValueError as error:
            raise ValueError(f"layers has {piece!r}, which cannot stand there: {error}") from None
        layers.append(kind)

    for piece in _pieces(text):
        if piece in ACTIVATIONS:
            pending = None
            put(Activation(piece), piece)
            continue
        word, make = _read(piece, activation)
        if pending is not None and not word.before:
            put(pending, piece)
            pending = None
        if word.vectors and len(shape) > 1:
            put(Flatten(), piece)
        try:
            kind = make(shape)
        except (TypeError, ValueError) as error:
            raise ValueError(f"layers has {piece!r}, which cannot be: {error}") from None
        put(kind, piece)
        if word.active:
            pending = Activation(activation)
    if pending is not None:
        put(pending, activation)
    return layers, shape


def _pieces(text: str) -> list[str]:
    """What lies between the commas outside of brackets."""
    pieces, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth < 0:
            raise ValueError(f"layers has a ')' too many after {text[:i]!r}.")
        if letter == "," and depth == 0:
            pieces.append(text[start:i])
            start = i + 1
    if depth > 0:
        raise ValueError(f"layers lacks a ')': {text!r}.")
    pieces = [piece.strip() for piece in [*pieces, text[start:]]]
    if "" in pieces:
        raise ValueError(
            f"layers is {text!r}, in which nothing stands before or after a comma: expected "
            "pieces such as conv:32x3,pool:2,dense:128."
        )
    return pieces


def _read(piece: str, activation: str) -> tuple[Word, Callable[[Shape], Kind]]:
    """A piece as its word, and what makes the layer once its input's shape is known."""
    if piece.startswith("residual(") and piece.endswith(")"):
        inside = piece.removeprefix("residual(")[:-1]

        def block(shape: Shape) -> Kind:
            return Residual(tuple(_chain(inside, shape, activation)[0]))

        return Word(_made(Residual)), block
    found = PIECE.fullmatch(piece)
    word = WORDS.get(found["word"]) if found else None
    if found is None or word is None:
        known = [*WORDS, "residual(…)", *ACTIVATIONS]
        cure = meant(known, found["word"] if found else piece)
        raise ValueError(f"layers has {piece!r}, but expected one of {', '.join(known)}.{cure}")
    numbers: list[Any] = []
    options: dict[str, Any] = {}
    for part in (found["rest"] or "")[1:].split(":") if found["rest"] else []:
        name, is_option, value = part.partition("=")
        if is_option:
            options[name] = _value(value)
        else:
            numbers = [*numbers, *(_number(n, piece, word.decimals) for n in part.split("x"))]
    if len(numbers) not in word.counts:
        wanted = f"{found['word']}:{word.numbers}" if word.numbers else f"{found['word']} alone"
        raise ValueError(f"layers has {piece!r}, but expected {wanted}.")
    return word, lambda shape: word.make(shape, numbers, options)


def _number(text: str, piece: str, decimals: bool) -> int | float:
    try:
        return float(text) if decimals else int(text)
    except ValueError:
        kind = "a number" if decimals else "a whole number"
        raise ValueError(f"layers has {piece!r}, in which {text!r} is no {kind[2:]}.") from None


def _value(text: str) -> Any:
    """An option: true, false, a number, several ("2x1"), or a word."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"\d+(x\d+)+", text):
        return tuple(map(int, text.split("x")))
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return text


__all__ = ["WORDS", "layers_of", "shape_for"]
