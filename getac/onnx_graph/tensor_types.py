"""TypeProtos of tensors: built from numbers, read, and completed by each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

__all__ = ["completed", "declared_type", "dims_of", "joined", "sizes_of", "tensor_type"]


def tensor_type(
    dtype: ir.DataType | np.dtype[np.generic], sizes: Sequence[int | None] | None
) -> onnx.TypeProto:
    """A tensor's type; None for a size that is not known, None for all where even the rank is not."""
    element = dtype if isinstance(dtype, ir.DataType) else ir.DataType.from_numpy(dtype)
    kind = onnx.TypeProto()
    kind.tensor_type.elem_type = element.value
    if sizes is not None:
        dims = kind.tensor_type.shape.dim
        kind.tensor_type.shape.SetInParent()  # a scalar has a shape, of no dimensions
        for size in sizes:
            dim = dims.add()
            if size is not None:
                dim.dim_value = size
    return kind


def dims_of(kind: onnx.TypeProto | None) -> list[int | None] | None:
    """The sizes of a tensor, None for those that are unknown; None if the rank is unknown."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.tensor_type.shape.dim]


def sizes_of(kind: onnx.TypeProto | None) -> tuple[int, ...] | None:
    """The sizes of a tensor all of whose sizes are known, else None."""
    dims = dims_of(kind)
    if dims is None:
        return None
    sizes = tuple(size for size in dims if size is not None)
    return sizes if len(sizes) == len(dims) else None


def declared_type(value: ir.Value, symbols: Mapping[str, int]) -> onnx.TypeProto | None:
    """The type that the file states for a value, its symbolic sizes replaced where `symbols` has them."""
    if value.type is None:
        return None
    if not isinstance(value.type, ir.TensorType):
        return ir.serde.serialize_type(value.type)
    if value.shape is None:
        return tensor_type(value.type.dtype, None)
    return tensor_type(value.type.dtype, [_declared_size(dim, symbols) for dim in value.shape])


def _declared_size(dim: int | ir.SymbolicDim, symbols: Mapping[str, int]) -> int | None:
    if isinstance(dim, int):
        return dim if dim >= 0 else None
    return symbols.get(dim.value) if dim.value is not None else None


def completed(found: onnx.TypeProto | None, declared: onnx.TypeProto | None) -> onnx.TypeProto | None:
    """What was found, with what is missing taken from what was declared."""
    if found is None or declared is None or found.WhichOneof("value") is None:
        return declared if found is None or found.WhichOneof("value") is None else found
    if not (found.HasField("tensor_type") and declared.HasField("tensor_type")):
        return found
    result = onnx.TypeProto()
    result.CopyFrom(found)
    tensor, fallback = result.tensor_type, declared.tensor_type
    tensor.elem_type = tensor.elem_type or fallback.elem_type
    if not tensor.HasField("shape") and fallback.HasField("shape"):
        tensor.shape.CopyFrom(fallback.shape)
    elif len(tensor.shape.dim) == len(fallback.shape.dim):
        for dim, other in zip(tensor.shape.dim, fallback.shape.dim, strict=True):
            if not dim.HasField("dim_value") and other.HasField("dim_value"):
                dim.dim_value = other.dim_value
    return result


def joined(one: onnx.TypeProto | None, other: onnx.TypeProto | None) -> onnx.TypeProto | None:
    """What two alternatives agree on."""
    if one is None or other is None:
        return None
    if one == other:
        return one
    if not (one.HasField("tensor_type") and other.HasField("tensor_type")):
        return None
    element = one.tensor_type.elem_type
    if element != other.tensor_type.elem_type:
        return None
    dims, others = dims_of(one), dims_of(other)
    if dims is None or others is None or len(dims) != len(others):
        return tensor_type(ir.DataType(element), None)
    agreed = [a if a == b else None for a, b in zip(dims, others, strict=True)]
    return tensor_type(ir.DataType(element), agreed)
