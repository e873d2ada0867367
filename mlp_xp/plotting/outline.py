"""What a network is, as boxes and the skip connections round them: what there is to draw.

A box is a layer with all that acts after it on each number by itself: its normalisation, its
activation, its dropout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..activations import ACTIVATIONS
from ..description import OUTPUTS, name_of
from ..layers.base import Shape
from ..layers.chain import Chain
from ..layers.convolution import Conv1d, Conv2d
from ..layers.dense import Activation, Dense, Dropout
from ..layers.embedding import Embedding
from ..layers.normalization import BatchNorm, LayerNorm
from ..layers.pooling import AvgPool, GlobalAvgPool, MaxPool
from ..layers.recurrent import GRU, LSTM, Elman
from ..layers.residual import Residual
from ..layers.shapes import Flatten, Last, Reshape
from ..layers.stack import Part
from ..layers.table import brief
from ..model import Model
from ..network import Network

FAMILIES: dict[str, tuple[type[Any], ...]] = {
    "dense": (Dense,),
    "convolution": (Conv1d, Conv2d),
    "recurrent": (Elman, GRU, LSTM),
    "embedding": (Embedding,),
    "pooling": (MaxPool, AvgPool, GlobalAvgPool, Last),
    "shape": (Flatten, Reshape),
}
AFTER = (Activation, Dropout, BatchNorm, LayerNorm)  # act on what is there, and keep its shape


class Box(NamedTuple):
    """One layer.

    text        the kind and its options that are not the usual ones
    then        what acts after it
    family      a key of `FAMILIES`, or "other"
    shape       of one example of what it gives
    parameters  how many, with those of what acts after it
    W, b        names of the weights and the bias of a dense layer; "" for what it has not
    """

    text: str
    then: tuple[str, ...]
    family: str
    shape: Shape
    parameters: int
    W: str = ""
    b: str = ""


class Block(NamedTuple):
    """Boxes with a skip connection round them.

    skip        what is on it: "" is the input itself
    parameters  of the skip connection alone
    """

    items: tuple[Item, ...]
    skip: str
    parameters: int = 0

    @property
    def shape(self) -> Shape:
        return self.items[-1].shape


Item: TypeAlias = "Box | Block"


class Outline(NamedTuple):
    """A network: the shape of one example, and what it goes through."""

    shape: Shape
    items: tuple[Item, ...]


def outline(model: Model) -> Outline:
    """What there is to draw of a model; the loss's own function ends the last box."""
    network = model.network
    if isinstance(network, Chain):
        found = Outline(network.shape, tuple(_items(network.parts)))
    elif isinstance(network, Network):
        found = Outline(network.sizes[:1], tuple(_dense(network)))
    else:
        raise TypeError(f"the network is {network!r}, but expected one of MLP or of Sequential.")
    last, function = found.items[-1], OUTPUTS[model.loss.kind]
    if function == "identity" or not isinstance(last, Box):
        return found
    return found._replace(items=(*found.items[:-1], last._replace(then=(*last.then, function))))


def boxes(items: Sequence[Item]) -> Iterator[Box]:
    """All boxes, those of blocks too."""
    for item in items:
        if isinstance(item, Block):
            yield from boxes(item.items)
        else:
            yield item


def in_words(found: Outline) -> str:
    """A line for a text alternative."""
    return "; ".join([f"input {written(found.shape)}", *map(_told, found.items)])


def _told(item: Item) -> str:
    if isinstance(item, Block):
        inside = "; ".join(map(_told, item.items))
        return f"({inside}) plus {item.skip or 'its own input'}"
    numbers = f", {item.parameters:,} parameters" if item.parameters else ""
    return f"{', '.join((item.text, *item.then))}: {written(item.shape)}{numbers}"


def written(shape: Shape) -> str:
    return "×".join(map(str, shape))


# -- chains ------------------------------------------------------------------------------


def _items(parts: Sequence[Part], outside: Sequence[int] = ()) -> Iterator[Item]:
    """What stands in a stack; what acts after a box is taken into it."""
    held: Box | None = None
    for part in parts:
        numbers = (*outside, part.number)
        count = sum(math.prod(p.shape) for p in part.parameters)
        if isinstance(part.kind, AFTER) and held is not None:
            held = held._replace(
                then=(*held.then, _word(part.kind)), parameters=held.parameters + count
            )
            continue
        if held is not None:
            yield held
            held = None
        if isinstance(part.kind, Residual):
            yield _block(part, part.kind, numbers)
        else:
            names = {p.name: _name(p.name, numbers) for p in part.parameters}
            dense = isinstance(part.kind, Dense) and len(part.shape) == 1
            own = {key: names.get(key, "") for key in ("W", "b")} if dense else {}
            held = Box(_word(part.kind), (), _family(part.kind), part.out_shape, count, **own)
    if held is not None:
        yield held


def _block(part: Part, kind: Residual, numbers: Sequence[int]) -> Block:
    inside = kind.inside(part.shape)
    along, beside = inside[: len(kind.layers)], inside[len(kind.layers) :]
    skip, projected = ", ".join(_word(other.kind) for other in beside), 0
    projects = [p for p in part.parameters if p.name == "P"]
    if projects:
        skip, projected = "P", math.prod(projects[0].shape)
    aside = sum(math.prod(p.shape) for other in beside for p in other.parameters)
    return Block(tuple(_items(along, numbers)), skip, projected + aside)


def _name(own: str, numbers: Sequence[int]) -> str:
    """As `stack.numbered` calls it, from inside to outside."""
    return f"{own}{'_'.join(map(str, numbers))}"


def _word(kind: Any) -> str:
    if isinstance(kind, Activation):
        return name_of(ACTIVATIONS, kind.row)
    return brief(kind).removesuffix("()")


def _family(kind: Any) -> str:
    return next((name for name, kinds in FAMILIES.items() if isinstance(kind, kinds)), "other")


# -- dense networks ------------------------------------------------------------------------


def _dense(network: Network) -> Iterator[Item]:
    counts = {field: [0] * (network.n_hidden + 1) for field in ("P", "other")}
    for slot in network.slots:
        field = "P" if slot.field == "P" else "other"
        counts[field][slot.layer] += slot.stop - slot.start
    names = {"batch": "BatchNorm", "layer": "LayerNorm"}
    for i, n in enumerate(network.sizes[1:]):
        then: list[str] = []
        hidden = i < network.n_hidden
        if hidden:
            then += [names[network.normalization]] if network.normalization in names else []
            then.append(name_of(ACTIVATIONS, network.activations[i]))
            then += [f"Dropout({network.dropout[i]:g})"] if network.dropout[i] else []
        box = Box(
            f"Dense({n})", tuple(then), "dense", (n,), counts["other"][i], f"W{i + 1}", f"b{i + 1}"
        )
        if hidden and network.residual:
            projected = counts["P"][i]
            yield Block((box,), "P" if projected else "", projected)
        else:
            yield box
