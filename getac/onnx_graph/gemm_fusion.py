"""Which products onnxruntime makes a Gemm of, with the bias that is added to them.

The Gemm runs on integers only if its result is quantized; the product alone does not ask for that.

Measured with onnxruntime 1.31.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from getac.onnx_graph.edit import array_of, is_stored
from getac.onnx_graph.shapes import Dim

__all__ = ["Dims", "becomes_gemm", "bias_added"]

Dims = Mapping[ir.Value, Sequence[Dim]]


def bias_added(node: ir.Node) -> ir.Node | None:
    """The Add of a stored tensor that alone reads a product."""
    users = node.outputs[0].consumers()
    add = users[0] if len(users) == 1 and users[0].op_type == "Add" else None
    return add if add is not None and any(is_stored(value) for value in add.inputs) else None


def becomes_gemm(node: ir.Node, dims: Dims) -> bool:
    """Whether a product and the Add behind it are fused; not where the shapes are unknown.

    More than two dimensions are flattened, which onnxruntime does if it knows their sizes.
    """
    add = bias_added(node)
    product, weight = dims.get(node.outputs[0]), dims.get(node.inputs[1]) if node.inputs[1] else None
    if add is None or product is None or weight is None or len(weight) != 2:
        return False
    shape = array_of(next(value for value in add.inputs if is_stored(value))).shape
    if len(product) == 2:
        return shape in rows(*product)
    return shape == (product[-1].size,) and all(dim.is_static for dim in product)


def rows(height: Dim, width: Dim) -> list[tuple[int, ...]]:
    """The shapes of a matrix's bias: a row for all, or one for each if their number is known."""
    one_each = [(height.size, width.size)] if height.is_static else []
    return [(width.size,), (1, width.size), *one_each]
