"""An estimator within a scikit-learn pipeline, as skl2onnx converts it.

skl2onnx asks an estimator that it does not know for `onnx_parser`, `onnx_shape_calculator` and
`onnx_converter`, so that nothing has to be imported first: `skl2onnx.to_onnx(pipeline, X)` finds
them. The first of these is where an estimator's class is registered. `probabilities` is an array,
never a list of dictionaries: the option zipmap may be False alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checks import DTYPES
from ..model import Model
from .deploy import Answer, Entry, answers, attributes, element, prepares, turned
from .functions import NotExportable
from .graph import OPSET, Graph

# dtype of an answer ↦ the name of skl2onnx's type
TYPES = {
    "bool": "BooleanTensorType",
    "float32": "FloatTensorType",
    "float64": "DoubleTensorType",
    "int64": "Int64TensorType",
    "str": "StringTensorType",
    "uint64": "UInt64TensorType",
}


def register(kind: type[Any]) -> None:
    """Make an estimator's class known to skl2onnx, with its one option, {"zipmap": False}."""
    from skl2onnx import update_registered_converter

    update_registered_converter(
        kind,
        f"MlpXp{kind.__name__}",
        lambda operator: operator.raw_operator.onnx_shape_calculator()(operator),
        lambda scope, operator, container: operator.raw_operator.onnx_converter()(
            scope, operator, container
        ),
        options={"zipmap": [False]},
        parser=_parser,
    )


def _parser(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """The operator with its outputs; `shape_calculator` corrects their types."""
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType

    operator = scope.declare_local_operator(f"MlpXp{type(model).__name__}", model)
    operator.inputs = inputs
    names = {"variable": FloatTensorType}
    if hasattr(model, "classes_"):
        names = {"label": Int64TensorType, "probabilities": FloatTensorType}
    for name, kind in names.items():
        operator.outputs.append(scope.declare_local_variable(name, kind()))
    return operator.outputs


def _dtype(model: Model, operator: Any) -> str:
    """float32, or the model's own where the pipeline gives it float64."""
    wide = any(type(put.type).__name__ == "DoubleTensorType" for put in operator.inputs)
    return model.dtype if wide else DTYPES[0]


def _written(model: Model, entry: Entry | None, g: Graph, operator: Any) -> list[Answer]:
    if model._prepared.table is not None or (entry is not None and entry.lengths):
        what = "a table's words" if entry is None else "sequences whose lengths differ"
        raise NotExportable(
            f"The estimator takes {what}, for which a pipeline of skl2onnx has no input: expected "
            "numbers. Its own to_onnx(path) writes it."
        )
    given = "float64" if g.dtype == np.float64 else "float32"
    parts = [g.cast(put.full_name, given) for put in operator.inputs]
    X = parts[0] if len(parts) == 1 else g("Concat", *parts, axis=1)
    X = prepares(g, model, X, given)
    return answers(g, model, X if entry is None else turned(g, X, entry))


def shape_calculator(model: Model, entry: Entry | None, operator: Any) -> None:
    """Tell skl2onnx the types of an operator's outputs."""
    from skl2onnx.common import data_types

    found = _written(model, entry, Graph(_dtype(model, operator)), operator)
    m = operator.inputs[0].get_first_dimension()
    for put, (_, output) in zip(operator.outputs, found, strict=True):
        shape = [m if axis == "m" else axis for axis in output.shape]
        put.type = getattr(data_types, TYPES[output.dtype])(shape)


def converter(model: Model, entry: Entry | None, scope: Any, operator: Any, container: Any) -> None:
    """Write an estimator's nodes and constants into skl2onnx's container."""
    opset = container.main_opset
    if opset < OPSET:
        raise NotExportable(
            f"target_opset is {opset}, but the formulas of mlp_xp are of opset {OPSET}: expected "
            f"at least that. Leave target_opset out, or write {OPSET}."
        )
    g = Graph(_dtype(model, operator), scope.get_unique_variable_name)
    for (value, _), put in zip(_written(model, entry, g, operator), operator.outputs, strict=True):
        g.output(value, put.full_name)
    for name, constant in g.constants.items():
        text = constant.dtype.kind == "U"
        flat = constant.reshape(-1).tolist()
        content = [cell.encode() for cell in flat] if text else flat
        dtype = element("str" if text else constant.dtype.name)
        container.add_initializer(name, dtype, list(constant.shape), content)
    for node in g.nodes:
        container.add_node(
            node.op,
            list(node.inputs),
            list(node.outputs),
            op_domain=node.domain,
            name=scope.get_unique_operator_name(node.op),
            **attributes(node.attributes),
        )


__all__ = ["converter", "register", "shape_calculator"]
