"""A whole model as an ONNX graph: rows in, and what `predict` and `predict_proba` say out.

    X              (m, n_features) in the model's dtype; a table's columns one by one, (m, 1)
    label          (m,) classes, in the model's own words; (m, n_labels) where they are independent
    probabilities  (m, n_classes): of both where there are two
    variable       (m, n_outputs) numbers, in the targets' units

which are skl2onnx's names. Many networks have one more axis in front of every answer.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..checks import DTYPES, choose
from ..extras import missing
from ..layers.base import Kind
from ..layers.chain import Chain
from ..model import Model
from ..prepared import NUMBERS, as_labels
from ..storage import write_atomically
from .functions import PREDICTIONS, loss_name
from .graph import IR_VERSION, ML, ML_OPSET, OPSET, Graph
from .kinds import NARROW, Present, reshaped, stacked
from .networks import Layers, layers_of
from .tables import Input, scaled, table_inputs, tabled, unscaled


class Written(NamedTuple):
    """A model as a graph.

    inputs, outputs  in order; "m" is the number of examples
    """

    graph: Graph
    inputs: list[Input]
    outputs: list[Input]


class Entry(NamedTuple):
    """How the examples of an estimator of layers lie.

    shape    of one example as the caller has it
    order    which of these axes is the network's first, second …
    table    whether X is (m, n_features), each row an example of that shape
    whole    whether X holds whole numbers
    lengths  whether the lengths of sequences are an input of their own, (m,)
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    table: bool = False
    whole: bool = False
    lengths: bool = False


class Answer(NamedTuple):
    """One answer of a network: its name in the graph, and what it is to be called."""

    value: str
    output: Input


# -- a graph ---------------------------------------------------------------------


def written(
    model: Model,
    *,
    dtype: str | None = None,
    input_dtype: str | None = None,
    entry: Entry | None = None,
) -> Written:
    """A model as a graph.

    dtype        "float32" or "float64" of weights and products; None: the model's
    input_dtype  likewise of X, which is scaled in it; None: as `dtype`. A table's numbers are
                 float64
    entry        how X lies, where it is not rows
    """
    dtype = model.dtype if dtype is None else dtype
    choose("dtype", dict.fromkeys(DTYPES), dtype)
    given = dtype if input_dtype is None else input_dtype
    choose("input_dtype", dict.fromkeys(DTYPES), given)
    g, prepared = Graph(dtype), model._prepared
    if prepared.table is not None:
        inputs = table_inputs(prepared.table)
        names = [g.reserve(put.name) for put in inputs]
        X = tabled(g, prepared.table, names, prepared.missing)
        return finished(g, inputs, answers(g, model, prepares(g, model, X, "float64")))
    shape: tuple[int, ...] = (model.network.sizes[0],)
    if entry is not None:
        given = "int64" if entry.whole else given
        shape = (prod(entry.shape),) if entry.table else entry.shape
    inputs, lengths = [Input(g.reserve("X"), given, ("m", *shape))], None
    X = prepares(g, model, "X", given)
    if entry is not None:
        X = turned(g, X, entry)
        if entry.lengths:
            inputs.append(Input(g.reserve("lengths"), "int64", ("m",)))
            lengths = g("Unsqueeze", g.cast("lengths", g.dtype), [1])
    return finished(g, inputs, answers(g, model, X, lengths))


def prepares(g: Graph, model: Model, X: str, given: str) -> str:
    """Rows of a dtype, scaled in it, in the graph's."""
    X = scaled(g, X, model._prepared.inputs, given)
    return X if given == g.dtype.name else g.cast(X, g.dtype)


def turned(g: Graph, X: str, entry: Entry) -> str:
    """Examples with their axes as the network has them."""
    if entry.table and len(entry.shape) > 1:
        X = reshaped(g, X, entry.shape)
    if entry.order == tuple(range(len(entry.order))):
        return X
    return g("Transpose", X, perm=[0, *(axis + 1 for axis in entry.order)])


def finished(g: Graph, inputs: list[Input], found: Sequence[Answer]) -> Written:
    """The graph with its answers as outputs; one whose name an input has gets a number."""
    outputs = []
    for value, output in found:
        name = g.unique(output.name)
        g.output(value, name)
        outputs.append(output._replace(name=name))
    return Written(g, inputs, outputs)


def answers(g: Graph, model: Model, X: str, lengths: str | None = None) -> list[Answer]:
    """What a model says of its prepared rows (m, n_features), or of examples (m, *shape).

    lengths  (m, 1) of sequences, where they do not stand at the end of the rows
    """
    _warn(model, g)
    each = [_of_one(g, model, network, X, lengths) for network in layers_of(model, fold=True)]
    if not model.leading:
        return each[0]
    several = []
    for alike in zip(*each, strict=True):
        parts = [g("Unsqueeze", answer.value, [0]) for answer in alike]
        output = alike[0].output
        output = output._replace(shape=(len(parts), *output.shape))
        several.append(Answer(g("Concat", *parts, axis=0), output))
    return several


def _warn(model: Model, g: Graph) -> None:
    if model.precision != "float32":
        warnings.warn(
            f"The graph does not round to {model.precision}: its predictions differ from the "
            "model's by that much.",
            stacklevel=5,
        )
    chain = model.network if isinstance(model.network, Chain) else None
    if chain is None or g.dtype == np.float32:
        return
    narrow = sorted({type(kind).__name__ for kind in _every(chain.parts) if type(kind) in NARROW})
    if narrow:
        warnings.warn(
            f"The graph is in float64, in which onnxruntime has no {', no '.join(narrow)} on "
            "the CPU: to_onnx(path, dtype='float32') writes one that it runs.",
            stacklevel=5,
        )


def _every(parts: Iterable[Any]) -> Iterator[Kind]:
    """All kinds of layers, also those within layers."""
    for part in parts:
        yield part.kind
        inside = getattr(part.kind, "inside", None)
        if inside is not None:
            yield from _every(inside(part.shape))


def _of_one(g: Graph, model: Model, network: Layers, X: str, lengths: str | None) -> list[Answer]:
    chain, pieces, running = network
    A, present = _entered(g, chain, X, lengths)
    S = stacked(g, chain.parts, pieces, running, A, present)
    n_out, kind, name = chain.sizes[-1], model.loss.kind, loss_name(model.loss)
    P = PREDICTIONS[name](g, S)
    dtype = g.dtype.name
    if kind in NUMBERS:
        P = unscaled(g, P, model._prepared.outputs)
        return [Answer(P, Input("variable", dtype, ("m", n_out)))]
    if kind == "binary":
        P = g("Concat", g("Sub", 1.0, P), P, axis=1)
    probabilities = Answer(P, Input("probabilities", dtype, ("m", max(n_out, 2))))
    if kind == "multilabel":
        label = g.cast(g("Greater", S, 0.0), np.int64)
        probabilities = Answer(P, Input("probabilities", dtype, ("m", n_out)))
        return [Answer(label, Input("label", "int64", ("m", n_out))), probabilities]
    if kind == "binary":
        number = g("Squeeze", g.cast(g("Greater", S, 0.0), np.int64), [1])
    else:
        number = g("ArgMax", S, axis=1, keepdims=0)
    label, dtype = _named(g, number, model._prepared.classes)
    return [Answer(label, Input("label", dtype, ("m",))), probabilities]


def _named(g: Graph, numbers: str, classes: Sequence[Any] | None) -> tuple[str, str]:
    """The labels of class numbers, and their dtype."""
    known = as_labels(() if classes is None else classes)
    counted = known.dtype.kind == "i" and (known == np.arange(len(known))).all()
    if classes is None or counted:
        return numbers, "int64"
    dtype = "str" if known.dtype.kind == "U" else known.dtype.name
    return g("Gather", g.constant(known, "classes"), numbers, axis=0), dtype


def _entered(g: Graph, chain: Chain, X: str, lengths: str | None) -> tuple[str, Present | None]:
    """Rows as (m, *shape), and where sequences have steps: `Chain._entered` in a graph."""
    n, time = prod(chain.shape), chain.shape[-1]
    if chain.lengths and lengths is None:
        lengths = g("Slice", X, [n], [n + 1], [1])
        X = g("Slice", X, [0], [n], [1])
    A = X if len(chain.shape) == 1 else reshaped(g, X, chain.shape)
    if not chain.lengths:
        return A, None
    steps = g.constant(np.arange(time, dtype=g.dtype)[None, :], "steps")
    there = g.cast(g("Less", steps, lengths), g.dtype)
    count = g.cast(g("ReduceSum", there, [1], keepdims=0), np.int32)
    present = Present(there, g("Unsqueeze", there, [1]), count)
    return g("Mul", A, there if len(chain.shape) == 1 else present.channels), present


# -- a file ----------------------------------------------------------------------


def to_onnx(
    model: Model,
    path: str | os.PathLike[str] | None = None,
    *,
    dtype: str | None = None,
    input_dtype: str | None = None,
    entry: Entry | None = None,
) -> Any:
    """A model as an `onnx.ModelProto`, written to a path if one is given, atomically.

    The arguments are those of `written`.
    """
    whole = written(model, dtype=dtype, input_dtype=input_dtype, entry=entry)
    return kept(whole, path, properties(model))


def kept(whole: Written, path: str | os.PathLike[str] | None, about: dict[str, str]) -> Any:
    """A graph as an `onnx.ModelProto`, written to a path if one is given."""
    proto = protobuf(whole, about)
    if path is not None:
        write_atomically(path, proto.SerializeToString())
    return proto


def properties(model: Model) -> dict[str, str]:
    """What a file says of the model beside its graph: text by name, lists as JSON."""
    prepared = model._prepared
    found: dict[str, Any] = {"network": model.network.written, "loss": loss_name(model.loss)}
    for name in ("classes", "features", "target"):
        value = getattr(prepared, name)
        if value:
            found[name] = json.dumps(list(value), ensure_ascii=False)
    return found


def library() -> Any:
    """The module onnx; ImportError with the cure where it is missing."""
    try:
        import onnx
    except ImportError as error:
        raise missing("to_onnx needs the package onnx", "onnx", error) from None
    return onnx


def protobuf(whole: Written, about: dict[str, str]) -> Any:
    """A graph as an `onnx.ModelProto`."""
    from .. import __version__

    onnx = library()
    helper = onnx.helper
    g, inputs, outputs = whole
    nodes = [
        helper.make_node(
            node.op, node.inputs, node.outputs, domain=node.domain, **attributes(node.attributes)
        )
        for node in g.nodes
    ]
    constants = [tensor(value, name) for name, value in g.constants.items()]
    graph = helper.make_graph(nodes, "mlp_xp", values(inputs), values(outputs), constants)
    opsets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == ML for node in g.nodes):
        opsets.append(helper.make_opsetid(ML, ML_OPSET))
    model = helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=IR_VERSION,
        producer_name="mlp_xp",
        producer_version=__version__,
    )
    helper.set_model_props(model, about)
    return model


def element(dtype: str) -> int:
    """The standard's number of a dtype; "str" is text."""
    from onnx import TensorProto, helper

    if dtype == "str":
        return int(TensorProto.STRING)
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def attributes(given: Any) -> dict[str, Any]:
    """A node's attributes, a dtype as the standard's number of it."""
    return {
        name: element(value.name) if isinstance(value, np.dtype) else value
        for name, value in given.items()
    }


def tensor(value: Any, name: str) -> Any:
    """A constant; text as the standard has it."""
    from onnx import TensorProto, helper, numpy_helper

    if value.dtype.kind == "U":
        text = [cell.encode() for cell in value.reshape(-1).tolist()]
        return helper.make_tensor(name, TensorProto.STRING, value.shape, text)
    return numpy_helper.from_array(value, name)


def values(given: Sequence[Input]) -> list[Any]:
    from onnx import helper

    return [
        helper.make_tensor_value_info(put.name, element(put.dtype), list(put.shape))
        for put in given
    ]


__all__ = ["Answer", "Entry", "Written", "answers", "prepares", "to_onnx", "turned", "written"]
