"""`mlp-xp export`: a model's file as one that other programs run."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..checks import DTYPES
from ..export.graph import OPSET
from ..report import counted
from ..storage import write_atomically
from .common import Arguments, a_name, check_output, open_model, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and what is made of it."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="file of a model")
    graph = f"ONNX graph to write (opset {OPSET})"
    add("--onnx", required=True, type=a_name, metavar="FILE", help=graph)
    add("--dtype", choices=DTYPES, help="of weights and products (default: the model's)")
    wide = "of X, which the model scales in it (default: as --dtype)"
    add("--input-dtype", choices=DTYPES, help=wide)


def export(args: Arguments) -> dict[str, Any]:
    """Write the file, and say what it takes and answers."""
    from ..export.deploy import library, properties, protobuf, written  # only when it is asked for

    library()  # before the model is read: its error names the cure
    check_output(args.onnx, args.model)
    model, _ = open_model(args.model, "cpu")
    graph, inputs, outputs = whole = written(model, dtype=args.dtype, input_dtype=args.input_dtype)
    content = protobuf(whole, properties(model)).SerializeToString()
    write_atomically(args.onnx, content)
    operators = counted(len(graph.nodes), "operators")
    say(args, f"{args.onnx}: {len(content):,} bytes, {operators}, opset {OPSET}")
    for title, values in (("takes", inputs), ("answers", outputs)):
        for value in values:
            say(args, f"  {title:<8} {_line(value)}")
    return {
        "model": args.model,
        "onnx": os.fspath(args.onnx),
        "opset": OPSET,
        "bytes": len(content),
        "operators": len(graph.nodes),
        "inputs": [value._asdict() for value in inputs],
        "outputs": [value._asdict() for value in outputs],
    }


def _line(value: Any) -> str:
    shape = ", ".join(map(str, value.shape))
    dtype = "text" if value.dtype == "str" else value.dtype
    return f"{value.name} ({shape}{',' if len(value.shape) == 1 else ''}) {dtype}"


__all__ = ["add_arguments", "export"]
