"""onnxruntime, which only asks a model."""

from __future__ import annotations

import os

from cases import Arrays, Case, parameters
from contest import Peer, batches_of, nothing, rotating
from timing import Session


def _onnxruntime_inference(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, name = [], [], "x"
    layers = parameters(case, arrays)
    for i, (W, b) in enumerate(layers):
        constants += [numpy_helper.from_array(W, f"W{i}"), numpy_helper.from_array(b, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [name, f"W{i}", f"b{i}"], [f"z{i}"], transB=1))
        last = "Softmax" if case.n_outputs > 1 else "Sigmoid"
        kind = "Relu" if i < len(layers) - 1 else last
        name = f"a{i}"
        nodes.append(helper.make_node(kind, [f"z{i}"], [name]))
    dtype = TensorProto.FLOAT if case.dtype == "float32" else TensorProto.DOUBLE
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", dtype, [None, case.sizes[0]])],
        [helper.make_tensor_value_info(name, dtype, [None, case.n_outputs])],
        constants,
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    batches = [{"x": arrays["rows"][piece]} for piece in batches_of(case, arrays)]
    run, first = rotating(batches, lambda batch: session.run(None, batch))
    return Session(run, nothing, lambda: first()[0])


ROWS = {
    "onnxruntime": Peer(("onnxruntime", "onnx"), "onnxruntime", inference=_onnxruntime_inference),
}
