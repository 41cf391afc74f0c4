"""Constants of a model: weights that hide in nodes become initializers, and all weights are numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from getac.errors import InvalidModelError

__all__ = ["check_weights", "constants_to_initializers"]

_MAX_FILLED = 1 << 28  # elements that ConstantOfShape nodes may become, all together
_CHUNK = 1 << 22  # elements looked at at once

_SPELLINGS = {
    "value": ir.AttributeType.TENSOR,
    "value_float": ir.AttributeType.FLOAT,
    "value_floats": ir.AttributeType.FLOATS,
    "value_int": ir.AttributeType.INT,
    "value_ints": ir.AttributeType.INTS,
}
_LAYERS = frozenset(
    {
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu", "Gather", "LSTM", "GRU", "RNN"),
        *("BatchNormalization", "LayerNormalization", "GroupNormalization", "InstanceNormalization"),
        *("RMSNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization"),
    }
)
_CARRIERS = frozenset({"DequantizeLinear", "Transpose", "Reshape", "Cast", "Identity"})
_MAY_BE_NAN = frozenset(
    {
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT16,
        ir.DataType.BFLOAT16,
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E4M3FNUZ,
        ir.DataType.FLOAT8E5M2,
        ir.DataType.FLOAT8E5M2FNUZ,
        ir.DataType.FLOAT8E8M0,
        ir.DataType.COMPLEX64,
        ir.DataType.COMPLEX128,
    }
)


def constants_to_initializers(model: ir.Model) -> None:
    """Turn Constant nodes of the main graph, and ConstantOfShape nodes of constant shape, into initializers.

    Text constants stay, and so does what lies in subgraphs. Filled tensors stay nodes where they would
    take more than 2^28 elements together; below that they are made when they are read, not now.

    Raises:
        InvalidModelError: A Constant without a value, or a ConstantOfShape of a negative size.
    """
    filled = 0
    for node in list(model.graph):
        if node.domain:
            continue
        tensor: ir.TensorProtocol | None = None
        if node.op_type == "Constant":
            tensor = _constant_value(node)
        elif node.op_type == "ConstantOfShape" and (shape := _constant_shape(node)) is not None:
            if filled + math.prod(shape) > _MAX_FILLED:
                continue
            filled += math.prod(shape)
            tensor = _filled(node, shape)
        if tensor is not None:
            _replace(model.graph, node, tensor)


def check_weights(model: ir.Model) -> None:
    """Check that the weights are numbers, one tensor at a time.

    Infinity is legitimate in masks (Add, Where); it is not where a layer reads it, directly or through
    DequantizeLinear, Transpose, Reshape, Cast or Identity.

    Raises:
        InvalidModelError: NaN in any initializer, or infinity in a layer's, with the tensor and the count.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype not in _MAY_BE_NAN:
                continue
            nan, infinite = _count_not_finite(tensor, value.name or "")
            if nan:
                raise _not_a_number(value, "NaN", nan, tensor.size)
            if infinite and _feeds_layer(value):
                raise _not_a_number(value, "Inf", infinite, tensor.size)


def _constant_value(node: ir.Node) -> ir.TensorProtocol | None:
    attribute = next(iter(node.attributes.values()), None)
    if attribute is None or len(node.attributes) != 1:
        found = ", ".join(node.attributes) or "none"
        raise InvalidModelError(
            f"a {node.op_type} needs exactly one value",
            where=f"node {node.name!r}",
            found=f"attributes: {found}",
        )
    if (expected := _SPELLINGS.get(attribute.name)) is None:
        return None
    if attribute.type != expected:
        raise InvalidModelError(
            f"the attribute {attribute.name!r} of a {node.op_type} has a wrong type",
            where=f"node {node.name!r}",
            required=expected.name,
            found=attribute.type.name,
        )
    if expected == ir.AttributeType.TENSOR:
        return attribute.as_tensor()
    return ir.tensor(np.asarray(attribute.value, np.float32 if "float" in attribute.name else np.int64))


def _constant_shape(node: ir.Node) -> tuple[int, ...] | None:
    source = node.inputs[0] if node.inputs else None
    if source is None or source.const_value is None or not source.is_initializer():
        return None
    shape = tuple(int(size) for size in source.const_value.numpy().reshape(-1))
    if any(size < 0 for size in shape):
        raise InvalidModelError(
            "a constant has a negative size", where=f"node {node.name!r}", found=str(shape)
        )
    return shape


def _filled(node: ir.Node, shape: tuple[int, ...]) -> ir.TensorProtocol:
    fill = _constant_value(node) if node.attributes else ir.tensor(np.zeros(1, np.float32))
    if fill is None or fill.size != 1:
        found = f"attributes: {', '.join(node.attributes)}"
        raise InvalidModelError("a ConstantOfShape needs one value", where=f"node {node.name!r}", found=found)
    array, dtype = fill.numpy().reshape(-1), fill.dtype

    def make() -> ir.TensorProtocol:
        return ir.Tensor(np.full(shape, array[0]), dtype=dtype)

    return ir.LazyTensor(make, dtype, shape=ir.Shape(shape), name=node.outputs[0].name or "")


def _replace(graph: ir.Graph, node: ir.Node, tensor: ir.TensorProtocol) -> None:
    """Put an initializer of the same name in the place of a node's only output."""
    old = node.outputs[0]
    new = ir.Value(
        name=old.name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
        doc_string=old.doc_string,
    )
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)
    tensor.name = old.name or ""
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    graph.register_initializer(new)


def _count_not_finite(tensor: ir.TensorProtocol, name: str) -> tuple[int, int]:
    nan = infinite = 0
    try:
        for part in _chunks(tensor.numpy()):
            nan += int(np.isnan(part).sum())
            infinite += int(np.isinf(part).sum())
    except (OSError, ValueError) as error:
        raise InvalidModelError(
            "a tensor's data cannot be read", where=f"tensor {name!r}", found=str(error)
        ) from error
    return nan, infinite


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK]


def _feeds_layer(value: ir.Value) -> bool:
    pending, seen = [value], {value}
    while pending:
        for node, index in pending.pop().uses():
            if node.op_type in _LAYERS and not (node.op_type == "Gather" and index):
                return True
            if node.op_type in _CARRIERS:
                pending += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)
    return False


def _not_a_number(value: ir.Value, kind: str, count: int, size: int) -> InvalidModelError:
    return InvalidModelError(
        f"the weights contain {kind}",
        where=f"tensor {value.name!r}",
        required="finite numbers",
        found=f"{count} of {size} values are {kind}",
        hint="the training may have diverged; use an earlier checkpoint",
    )
