"""Stored arrays that nobody can write to: several models share them, and one of them may be a caller's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["read_only", "seal"]

Array = npt.NDArray[Any]

_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def seal(model: ir.Model) -> None:
    """Replaces every tensor whose array could be edited in place by one that shows the same numbers.

    Copies of a model share its tensors. An edit in place would change all of them, unseen by whoever compares
    one with the other; a pass that tries it fails instead. The arrays themselves stay as they are.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = sealed(value.const_value)
        for node in graph:
            seal_attributes(node)


def seal_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
            tensor = sealed(attribute.as_tensor())
            if tensor is not attribute.value:
                node.attributes[name] = ir.AttrTensor(name, tensor, attribute.doc_string)


def sealed(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The tensor itself where its array is its own affair: in a file, in a message, unpacked on demand."""
    if isinstance(tensor, ir.LazyTensor):
        return tensor if isinstance(tensor, SealedLazy) else SealedLazy.of(tensor)
    if not isinstance(tensor, ir.Tensor) or not (array := tensor.numpy()).flags.writeable:
        return tensor
    return ir.Tensor(
        read_only(array),
        dtype=tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def read_only(array: Array) -> Array:
    """A view that cannot be made writable again, unlike one whose flag is cleared."""
    bits = _BITS.get(array.itemsize)
    plain = array.view(bits) if bits is not None else array  # a buffer knows no bfloat16
    view: Array = np.asarray(plain.data.toreadonly()).view(array.dtype)
    return view


class SealedLazy(ir.LazyTensor):
    """A tensor that is made when it is read, and cannot be edited then."""

    @classmethod
    def of(cls, tensor: ir.LazyTensor) -> SealedLazy:
        return cls(
            lambda: tensor,
            dtype=tensor.dtype,
            shape=tensor.shape,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )

    def numpy(self) -> Array:
        return read_only(super().numpy())
