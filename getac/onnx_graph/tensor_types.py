"""Types of values as small, hashable records: built from numbers, read, and completed by each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir

__all__ = [
    "Kind",
    "TensorType",
    "completed",
    "declared_type",
    "dims_of",
    "dtype_of",
    "joined",
    "kind_of",
    "sizes_of",
    "tensor_type",
]

Dims = tuple[int | None, ...]


class TensorType(NamedTuple):
    """A tensor's type.

    Args:
        element: The type of its entries; None if it is not known.
        dims: Its sizes, None for those that are not known; None if the rank is not known.
    """

    element: ir.DataType | None
    dims: Dims | None

    def proto(self) -> onnx.TypeProto:
        kind = onnx.TypeProto()
        kind.tensor_type.elem_type = self.element or 0
        if self.dims is not None:
            kind.tensor_type.shape.SetInParent()  # a scalar has a shape, of no dimensions
            for size in self.dims:
                dim = kind.tensor_type.shape.dim.add()
                if size is not None:
                    dim.dim_value = size
        return kind


class OtherType(NamedTuple):
    """A sequence, an optional value, a sparse tensor: only passed on.

    Args:
        text: The type as ONNX serializes it.
    """

    text: bytes

    def proto(self) -> onnx.TypeProto:
        kind = onnx.TypeProto()
        kind.ParseFromString(self.text)
        return kind


Kind = TensorType | OtherType


def kind_of(proto: onnx.TypeProto | None) -> Kind | None:
    """The type that ONNX states; None if it states nothing."""
    if proto is None or proto.WhichOneof("value") is None:
        return None
    if not proto.HasField("tensor_type"):
        return OtherType(proto.SerializeToString(deterministic=True))
    tensor, dims = proto.tensor_type, None
    if tensor.HasField("shape"):
        dims = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return TensorType(ir.DataType(tensor.elem_type) if tensor.elem_type else None, dims)


def tensor_type(dtype: ir.DataType | np.dtype[np.generic], sizes: Sequence[int | None] | None) -> TensorType:
    """A tensor's type; None for a size that is not known, None for all where even the rank is not."""
    element = dtype if isinstance(dtype, ir.DataType) else ir.DataType.from_numpy(dtype)
    return TensorType(element, None if sizes is None else tuple(sizes))


def dtype_of(kind: Kind | None) -> ir.DataType | None:
    """The type of a tensor's entries; None where it is not known."""
    return kind.element if isinstance(kind, TensorType) else None


def dims_of(kind: Kind | None) -> Dims | None:
    """The sizes of a tensor, None for those that are unknown; None if the rank is unknown."""
    return kind.dims if isinstance(kind, TensorType) else None


def sizes_of(kind: Kind | None) -> tuple[int, ...] | None:
    """The sizes of a tensor all of whose sizes are known, else None."""
    dims = dims_of(kind)
    if dims is None or None in dims:
        return None
    return dims  # type: ignore[return-value]  # mypy does not see that None is not in it


def declared_type(value: ir.Value, symbols: Mapping[str, int]) -> Kind | None:
    """The type that the file states for a value, its symbolic sizes replaced where `symbols` has them."""
    if value.type is None:
        return None
    if not isinstance(value.type, ir.TensorType):
        return kind_of(ir.serde.serialize_type(value.type))
    if value.shape is None:
        return TensorType(value.type.dtype or None, None)
    return TensorType(value.type.dtype or None, tuple(_declared_size(dim, symbols) for dim in value.shape))


def _declared_size(dim: int | ir.SymbolicDim, symbols: Mapping[str, int]) -> int | None:
    if isinstance(dim, int):
        return dim if dim >= 0 else None
    return symbols.get(dim.value) if dim.value is not None else None


def completed(found: Kind | None, declared: Kind | None) -> Kind | None:
    """What was found, with what is missing taken from what was declared."""
    if found is None or declared is None:
        return found or declared
    if not (isinstance(found, TensorType) and isinstance(declared, TensorType)):
        return found
    dims = found.dims
    if dims is None or declared.dims is None:
        dims = declared.dims if dims is None else dims
    elif len(dims) == len(declared.dims):
        pairs = zip(dims, declared.dims, strict=True)
        dims = tuple(other if size is None else size for size, other in pairs)
    return TensorType(found.element or declared.element, dims)


def joined(one: Kind | None, other: Kind | None) -> Kind | None:
    """What two alternatives agree on."""
    if one is None or other is None or one == other:
        return one if one == other else None
    if not (isinstance(one, TensorType) and isinstance(other, TensorType)) or one.element != other.element:
        return None
    if one.dims is None or other.dims is None or len(one.dims) != len(other.dims):
        return TensorType(one.element, None)
    pairs = zip(one.dims, other.dims, strict=True)
    return TensorType(one.element, tuple(a if a == b else None for a, b in pairs))
