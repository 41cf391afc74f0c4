"""Runs a float32 model in float64: what differs there, too, is a bug and no rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from tools.law import Feeds, Outputs

__all__ = ["DOUBLE_TOLERANCE", "in_double", "opened_in_double"]

DOUBLE_TOLERANCE = 1e-9
"""float64 rounds at 1e-16; cancellation and deep graphs may lose some digits of it, not all."""

RESIZE_SCALES = 2  # the input of Resize that stays float32 whatever the others are


def opened_in_double(model: onnx.ModelProto | ir.Model) -> Callable[[Feeds], Outputs]:
    """Opens the model in float64, in the reference implementation of ONNX: not every kernel of onnxruntime
    has the type."""
    proto = model if isinstance(model, onnx.ModelProto) else ir.serde.serialize_model(model)
    evaluator = ReferenceEvaluator(in_double(proto))

    def run(feeds: Feeds) -> Outputs:
        wide = {
            name: feed.astype(np.float64) if feed.dtype == np.float32 else feed
            for name, feed in feeds.items()
        }
        with np.errstate(over="ignore", invalid="ignore"):  # it computes both branches of a sigmoid
            return [np.asarray(output) for output in evaluator.run(None, wide)]

    return run


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every float32 tensor is float64, the numbers the same."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    scales = {
        node.input[RESIZE_SCALES]
        for node in graph.node
        if node.op_type == "Resize" and len(node.input) > RESIZE_SCALES
    }
    for tensor in graph.initializer:
        if tensor.name not in scales:
            widen(tensor)
    for spec in (*graph.input, *graph.output):
        if spec.type.tensor_type.elem_type == TensorProto.FLOAT:
            spec.type.tensor_type.elem_type = TensorProto.DOUBLE
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR and node.output[0] not in scales:
                widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return wide


def widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
