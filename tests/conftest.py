"""What many tests need: a model from its text, and the numbers that it computes."""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch starts: the workers share the cores

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import settings
from onnx import numpy_helper

settings.register_profile("getac", derandomize=True, database=None, deadline=None)
settings.load_profile("getac")


@pytest.fixture(scope="session")
def build() -> Callable[..., ir.Model]:
    """Makes an opset 21 model from ONNX's text form; stored tensors are given by name."""

    def make(text: str, **tensors: np.ndarray | onnx.TensorProto) -> ir.Model:
        model = onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> graph ' + text
        )
        for name, tensor in tensors.items():
            if not isinstance(tensor, onnx.TensorProto):
                tensor = numpy_helper.from_array(np.asarray(tensor), name)
            model.graph.initializer.append(tensor)
        for index, node in enumerate(model.graph.node):
            node.name = f"{node.op_type.lower()}_{index}"
        return ir.serde.deserialize_model(model)

    return make


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., list[np.ndarray]]:
    """Runs a model under onnxruntime as it is written, without optimisations; returns its outputs."""

    def run(model: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
        proto = ir.serde.serialize_model(model)
        onnx.checker.check_model(proto, full_check=True)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        return session.run(None, feeds)

    return run
