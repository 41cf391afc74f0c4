"""What a quantized file could have better, for onnxruntime: each finding is one that `getac lower` mends.

Measured with onnxruntime 1.31 on AVX512-VNNI; ratios are against the same model in getac's form.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import onnx_ir as ir

from getac.errors import BadInputError
from getac.onnx_graph.edit import array_of, is_stored
from getac.onnx_graph.gemm_fusion import Dims, becomes_gemm, bias_added
from getac.onnx_graph.qoperators import is_qoperator
from getac.onnx_graph.rearranging import is_moved_across, rounded_by_pair
from getac.onnx_graph.shapes import infer_shapes

__all__ = ["Finding", "suboptimal"]

STANDARD = ("", "ai.onnx")
PRODUCTS = ("Gemm", "MatMul")
DYNAMIC = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul")
WORTH_PACKING = 4096  # weights; the nodes that unpack fewer take as much as they save
MULTIPLYING = ("QLinearConv", "QLinearMatMul", "QGemm")
NARROW = (ir.DataType.INT4, ir.DataType.UINT4)
WIDE = (ir.DataType.INT16, ir.DataType.UINT16)


@dataclass(frozen=True)
class Finding:
    """Something in a file that keeps onnxruntime from its best kernels, or the file from being small.

    Args:
        what: What was found, and what it costs.
        nodes: The nodes, in order.
    """

    what: str
    nodes: tuple[str, ...]


Check = Callable[[ir.Node], "str | None"]
Shaped = Callable[[], Dims]


def suboptimal(model: ir.Model) -> list[Finding]:
    """The findings of a model as it was read, each with all of its nodes."""
    found: dict[str, list[str]] = defaultdict(list)
    shapes = cache(partial(known_dims, model))  # few models ask for them
    checks: list[Check] = [*CHECKS, *(partial(check, shapes) for check in CHECKS_WITH_SHAPES)]
    for node in model.graph:
        for check in checks:
            what = check(node)
            if what is not None:
                found[what].append(node.name or node.op_type)
    return [Finding(what, tuple(nodes)) for what, nodes in found.items()]


def known_dims(model: ir.Model) -> Dims:
    """The dimensions of the values; none of a model whose shapes cannot be inferred, which others refuse."""
    try:
        return infer_shapes(model).dims
    except BadInputError:
        return {}


def signed_activation(node: ir.Node) -> str | None:
    if node.op_type != "QuantizeLinear" or is_stored(node.inputs[0]):
        return None
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None or zero.dtype is not ir.DataType.INT8:
        return None
    return "activations are INT8: layers behind a value with two readers do not fuse (UINT8 does)"


def wide_activation(node: ir.Node) -> str | None:
    zero = node.inputs[2] if node.op_type == "QuantizeLinear" and len(node.inputs) > 2 else None
    if zero is None or zero.dtype not in WIDE or is_stored(node.inputs[0]):
        return None
    return "activations have 16 bits: there is no integer kernel for them"


def weight_of(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear that makes a layer's weight; onnxruntime moves Transposes in front of it."""
    if node.op_type not in ("Conv", *PRODUCTS) or node.domain not in STANDARD or len(node.inputs) < 2:
        return None
    maker = maker_of(node.inputs[1])
    while maker is not None and maker.op_type == "Transpose":
        maker = maker_of(maker.inputs[0])
    if maker is None or maker.op_type != "DequantizeLinear" or not is_stored(maker.inputs[0]):
        return None
    return maker


def maker_of(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None else None


def missing_zero_point(node: ir.Node) -> str | None:
    weight = weight_of(node)
    if weight is None or node.op_type != "Gemm" or not comes_quantized(node):
        return None
    absent = len(weight.inputs) < 3 or weight.inputs[2] is None
    return "a Gemm's weight has no zero point: it does not fuse, and runs in floats" if absent else None


def missing_zero_point_of_product(shapes: Shaped, node: ir.Node) -> str | None:
    weight = weight_of(node)
    if weight is None or node.op_type != "MatMul" or not comes_quantized(node):
        return None
    absent = len(weight.inputs) < 3 or weight.inputs[2] is None
    if not absent or not becomes_gemm(node, shapes()):
        return None
    return "a MatMul's weight has no zero point: with the Add behind it, it becomes a Gemm of floats"


def bias_in_front_of_floats(shapes: Shaped, node: ir.Node) -> str | None:
    if weight_of(node) is None or node.op_type != "MatMul" or not comes_quantized(node):
        return None
    add = bias_added(node)
    if add is None or is_quantized(behind_clipping(add.outputs[0])) or not becomes_gemm(node, shapes()):
        return None
    return "a bias is added to a MatMul, and the sum not quantized: they become a Gemm of floats"


def clipped_integers(node: ir.Node) -> str | None:
    if weight_of(node) is None or node.op_type != "MatMul" or not comes_quantized(node):
        return None
    product = node.outputs[0]
    if is_quantized(product) or not is_quantized(behind_clipping(product)):
        return None
    return "a Relu or Clip between a MatMul and its quantizer: the product runs in floats"


def unsigned_weight(node: ir.Node) -> str | None:
    weight = weight_of(node)
    stored = weight.inputs[0] if weight is not None else None
    if is_qoperator(node) and node.op_type in MULTIPLYING and is_stored(node.inputs[3]):
        stored = node.inputs[3]
    if stored is None or stored.dtype is not ir.DataType.UINT8:
        return None
    return "weights are UINT8: kernels of INT8 weights are about twice as fast"


def spare_weight(node: ir.Node) -> str | None:
    weight = weight_of(node)
    stored = weight.inputs[0] if weight is not None else None
    if stored is None or stored.dtype is not ir.DataType.INT8 or array_of(stored).size < WORTH_PACKING:
        return None
    top = int(np.abs(array_of(stored).astype(np.int16)).max(initial=0))
    if top > 7:
        return None
    return f"weights of {2 if top <= 1 else 4} bits are stored in 8"


def float_bias(node: ir.Node) -> str | None:
    bias = node.inputs[2] if weight_of(node) is not None and len(node.inputs) > 2 else None
    if not is_stored(bias) or node.op_type != "Gemm" or not comes_quantized(node):
        return None
    if is_quantized(node.outputs[0]):
        return None
    return "a bias in floats, and the result not quantized: the Gemm runs in floats"


def float_result(node: ir.Node) -> str | None:
    if weight_of(node) is None or node.op_type != "Conv" or not comes_quantized(node):
        return None
    quantized = is_quantized(behind_clipping(node.outputs[0]))
    return None if quantized else "a Conv whose result is not quantized runs in floats"


def comes_quantized(node: ir.Node) -> bool:
    """Whether a layer's kernel finds a pair in front of it."""
    maker = maker_of(node.inputs[0])
    while maker is not None and is_moved_across(maker):
        maker = maker_of(maker.inputs[0])
    return maker is not None and maker.op_type == "DequantizeLinear"


def is_quantized(value: ir.Value) -> bool:
    return any(user.op_type == "QuantizeLinear" for user in value.consumers())


def behind_clipping(value: ir.Value) -> ir.Value:
    users = value.consumers()
    while len(users) == 1 and users[0].op_type in ("Relu", "Clip"):
        value = users[0].outputs[0]
        users = value.consumers()
    return value


def whole_table(node: ir.Node) -> str | None:
    data = node.inputs[0] if node.op_type == "Gather" else None
    maker = data.producer() if data is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or not is_stored(maker.inputs[0]):
        return None
    return "a whole table is dequantized at every run, for the rows that a Gather takes"


def narrow_weight(node: ir.Node) -> str | None:
    weight = weight_of(node)
    stored = weight.inputs[0] if weight is not None else None
    if stored is None or stored.dtype not in NARROW or not comes_quantized(node):
        return None
    return "weights of INT4 behind quantized activations: the layer does not fuse, and runs in floats"


def steps_of_rows(weight: ir.Node) -> bool:
    """Whether a dequantized matrix has a step for each row, or one for all."""
    steps = weight.inputs[1]
    if not is_stored(steps) or array_of(steps).ndim > 1:
        return False
    return array_of(steps).size == 1 or weight.attributes.get_int("axis", 1) in (0, -2)


def silent_transpose(shapes: Shaped, node: ir.Node) -> str | None:
    maker = maker_of(node.inputs[1]) if weight_of(node) is not None and node.op_type == "MatMul" else None
    if maker is None or maker.op_type != "Transpose" or "perm" in maker.attributes:
        return None
    if comes_quantized(node) and becomes_gemm(node, shapes()):
        return None  # the Gemm takes the Transpose in
    return "a weight's Transpose leaves its perm to the default: the layer runs in floats"


def alone_in_front_of_one(value: ir.Value) -> bool:
    """Whether a value goes into a Relu or Clip alone, and that into one node: it is taken for its layer's."""
    users = value.consumers()
    if len(users) != 1 or users[0].op_type not in ("Relu", "Clip"):
        return False
    clipped = users[0].outputs[0]
    return len(clipped.consumers()) == 1 and not clipped.is_graph_output()


def transposed_weight(node: ir.Node) -> str | None:
    weight = weight_of(node)
    if weight is None or node.op_type != "Gemm" or rounded_by_pair(node.inputs[0]):
        return None
    turned = node.inputs[1] is not weight.outputs[0]
    if turned == bool(node.attributes.get_int("transB", 0)) or not steps_of_rows(weight):
        return None
    return "a Gemm reads its weight transposed, and is no MatMulNBits: its weight is restored at every run"


def clipped_product(shapes: Shaped, node: ir.Node) -> str | None:
    weight = weight_of(node)
    if weight is None or node.op_type != "MatMul" or rounded_by_pair(node.inputs[0]):
        return None
    add, dims = bias_added(node), shapes()
    if add is not None and not (becomes_gemm(node, dims) and len(dims[node.outputs[0]]) == 2):
        return None  # nothing stands between, or a Reshape
    if not alone_in_front_of_one((add or node).outputs[0]):
        return None
    return "a Relu or Clip keeps a MatMul from becoming MatMulNBits: its weight is restored at every run"


def integer_operator(node: ir.Node) -> str | None:
    if not is_qoperator(node):
        return None
    zero = node.inputs[2] if node.op_type in MULTIPLYING and len(node.inputs) > 2 else None
    if zero is not None and zero.dtype is ir.DataType.INT8:
        return "operators on integers of INT8 (QLinearConv ...) take many times as long as those of UINT8"
    return "operators on integers (QLinearConv ...): as fast as Q/DQ pairs, but few other runtimes know them"


def dynamic(node: ir.Node) -> str | None:
    if node.op_type not in DYNAMIC:
        return None
    if node.op_type == "ConvInteger":
        return "convolutions whose activations are quantized while the model runs are slower than in floats"
    return "activations are quantized while the model runs; with data to calibrate on, they need not be"


CHECKS: tuple[Check, ...] = (
    signed_activation,
    wide_activation,
    missing_zero_point,
    unsigned_weight,
    spare_weight,
    narrow_weight,
    transposed_weight,
    float_bias,
    clipped_integers,
    float_result,
    whole_table,
    integer_operator,
    dynamic,
)
CHECKS_WITH_SHAPES: tuple[Callable[[Shaped, ir.Node], str | None], ...] = (
    missing_zero_point_of_product,
    bias_in_front_of_floats,
    clipped_product,
    silent_transpose,
)
