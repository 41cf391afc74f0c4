"""Integers of 2 bits, of opset 25, as those of 4 bits: the widest step back that costs no number."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from getac.onnx_graph.external_data import WeightTable, placeholder_of
from getac.onnx_graph.functions import subgraphs

__all__ = ["widen_two_bits"]

WIDER = {onnx.TensorProto.INT2: onnx.TensorProto.INT4, onnx.TensorProto.UINT2: onnx.TensorProto.UINT4}
READERS = ("Cast", "DequantizeLinear")


def widen_two_bits(proto: onnx.ModelProto, weights: WeightTable) -> None:
    """Stores tensors of 2 bits as 4 bits, where only operators read them that do not care.

    Args:
        proto: A model without its big tensors; it is changed.
        weights: The big tensors.
    """
    stored = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.data_type in WIDER}
    for name in names_read_otherwise(proto.graph):
        stored.pop(name, None)
    for tensor in stored.values():
        wider = ir.DataType(WIDER[tensor.data_type])
        location = placeholder_of(tensor)
        if location is not None:
            weights[location] = widened(weights[location], wider)
            tensor.data_type = int(wider)
        else:
            tensor.CopyFrom(ir.serde.serialize_tensor(widened(ir.serde.deserialize_tensor(tensor), wider)))
    for info in (*proto.graph.input, *proto.graph.value_info):
        if info.name in stored:
            info.type.tensor_type.elem_type = stored[info.name].data_type


def widened(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    def make() -> ir.TensorProtocol:
        return ir.Tensor(tensor.numpy().astype(dtype.numpy()), dtype=dtype, name=tensor.name)

    return ir.LazyTensor(make, dtype, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name)


def names_read_otherwise(graph: onnx.GraphProto) -> set[str]:
    """The values that other operators read, or the graph gives out."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        if node.op_type not in READERS or node.domain not in ("", "ai.onnx"):
            names.update(node.input)
        for inner in subgraphs(node):
            names |= names_read_otherwise(inner)
    return names
