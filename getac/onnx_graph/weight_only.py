"""Weights of matrix products with float activations: integers that onnxruntime keeps in its kernel.

    DequantizeLinear(W_int, scale) -> MatMul        becomes MatMulNBits when the model is loaded

The DequantizeLinear must read the stored integers themselves, INT4 or INT8. Scales of blocks, one float to
each, would weigh as much as a bit per weight: where they are multiples of one number per column, the
multiples are stored in eight bits, and multiplied when the model is loaded.

    Cast(W_int) * scale -> MatMul                   folded to floats when the model is loaded

is the form of what MatMulNBits does not take, or would round too much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd

import numpy as np
import onnx_ir as ir

from getac.kernels.weight_ranges import factored
from getac.onnx_graph.edit import Array, add_initializer, insert_after, is_stored
from getac.onnx_graph.integer_lattice import RANGES
from getac.onnx_graph.qdq import barrier, cast, new_node, scaled_weight, stored_integers
from getac.onnx_graph.rearranging import may_be_crossed, rounded_by_pair
from getac.quantizer import Quantizer

__all__ = [
    "LEAST_BLOCK",
    "blocked_anew",
    "fits_kernel",
    "folded_weight",
    "keep_from_integers",
    "kernel_weight",
    "spell_followers",
    "with_whole_blocks",
]

LEAST_BLOCK = 16  # MatMulNBits takes blocks of powers of two from here on
BLOCKS = (32, 16)
MOST_BITS = 8
WIDTHS = ((ir.DataType.INT4, ir.DataType.UINT4), (ir.DataType.INT8, ir.DataType.UINT8))
FLOAT = ir.DataType.FLOAT


def fits_kernel(weight: Array, quantizer: Quantizer) -> bool:
    """Whether MatMulNBits takes a (K, N) matrix: 8 bits, steps per column or in blocks.

    Differences from zero points, or mirrored integers, are a bit more than each of its steps has.
    """
    block, bits = quantizer.block, quantizer.bits
    if block is None:
        steps = quantizer.axis == 1
    else:
        steps = quantizer.axis == 0 and block >= LEAST_BLOCK and block & (block - 1) == 0
    if not steps:
        return False
    return bits <= MOST_BITS or (bits == MOST_BITS + 1 and Kept.of(weight, quantizer) is not None)


def kernel_weight(layer: ir.Node, name: str, weight: Array, quantizer: Quantizer) -> ir.Value:
    """Stored integers -> DequantizeLinear in front of a MatMul, with one step per column or in blocks.

    Args:
        weight: (K, N), float32.
        quantizer: One that `fits_kernel`.
    """
    graph, kept = layer.graph, Kept.of(weight, quantizer)
    assert isinstance(graph, ir.Graph) and kept is not None
    stored = add_initializer(graph, f"{name}.int", kept.integers, kept.dtype)
    scale, made_by = scale_of(graph, name, quantizer)
    if kept.mirrored is not None:
        steps = np.where(kept.mirrored, -quantizer.step, quantizer.step)
        scale, made_by = add_initializer(graph, f"{name}.scale", steps), []
    inputs: list[ir.Value | None] = [stored, scale]
    if kept.zeros is not None:
        inputs.append(add_initializer(graph, f"{name}.zero_point", kept.zeros, kept.dtype))
    restored = new_node(graph, "DequantizeLinear", inputs, f"{name}.dq", FLOAT, **attributes(quantizer))
    graph.insert_before(layer, [*made_by, restored])
    return restored.outputs[0]


@dataclass(frozen=True)
class Kept:
    """A matrix as the kernel keeps it: q of (q - z) s.

    Args:
        integers: (K, N).
        dtype: Their type: INT4, UINT4, INT8 or UINT8.
        zeros: z, in the shape of the steps and the same type; None: 0.
        mirrored: Where s is negative, in the shape of the steps; None: nowhere.
    """

    integers: Array
    dtype: ir.DataType
    zeros: Array | None = None
    mirrored: Array | None = None

    @classmethod
    def of(cls, weight: Array, quantizer: Quantizer) -> Kept | None:
        """The form that takes the least room, in 4 bits or else in 8; None where there is none.

        all in -8 ... 7                                         INT4
        those of each step in -8 ... 7 or in -7 ... 8           INT4, the steps of the latter negative
        those of each step 16 neighbours, 0 among them          UINT4, with zero points
        """
        integers, rows = quantizer.integers(weight), quantizer.block or len(weight)
        starts, shape = np.arange(0, len(weight), rows), quantizer.step.shape
        least = np.minimum(np.minimum.reduceat(integers, starts), 0)
        greatest = np.maximum(np.maximum.reduceat(integers, starts), 0)
        for signed, unsigned in WIDTHS:
            low, high = RANGES[signed]
            mirrored = greatest > high
            if within(least, greatest, low, high):
                return cls(integers.astype(signed.numpy()), signed)
            if within(np.where(mirrored, -greatest, least), np.where(mirrored, -least, greatest), low, high):
                turned = np.where(spread(mirrored, rows, len(weight)), -integers, integers)
                return cls(turned.astype(signed.numpy()), signed, mirrored=mirrored.reshape(shape))
            if (greatest - least <= high - low).all():
                shifted = (integers - spread(least, rows, len(weight))).astype(unsigned.numpy())
                return cls(shifted, unsigned, (-least).reshape(shape).astype(unsigned.numpy()))
        return None


def within(least: Array, greatest: Array, low: int, high: int) -> bool:
    return bool((least >= low).all() and (greatest <= high).all())


def spread(numbers: Array, rows: int, total: int) -> Array:
    """What each block of rows has, for each of so many rows."""
    return np.asarray(np.repeat(numbers, rows, axis=0)[:total])


def attributes(quantizer: Quantizer) -> dict[str, int]:
    axis = {} if quantizer.axis is None else {"axis": quantizer.axis}
    return axis if quantizer.block is None else {**axis, "block_size": quantizer.block}


def scale_of(graph: ir.Graph, name: str, quantizer: Quantizer) -> tuple[ir.Value, list[ir.Node]]:
    """The scales, and the nodes that multiply them."""
    factors = None if quantizer.block is None else factored(quantizer.step, quantizer.axis or 0)
    if factors is None:
        return add_initializer(graph, f"{name}.scale", quantizer.step), []
    multiples = add_initializer(graph, f"{name}.scale.int", factors[0])
    unit = add_initializer(graph, f"{name}.scale.unit", factors[1])
    floats = cast(graph, multiples, f"{name}.scale.cast", FLOAT)
    product = new_node(graph, "Mul", [floats.outputs[0], unit], f"{name}.scale", FLOAT)
    return product.outputs[0], [floats, product]


def folded_weight(layer: ir.Node, name: str, weight: Array, quantizer: Quantizer) -> ir.Value:
    """Stored integers -> Cast -> Mul in front of a layer; the scales of blocks are spread over their rows.

    onnxruntime folds all of it into float weights when it loads the model.
    """
    if quantizer.block is None:
        return scaled_weight(layer, name, weight, quantizer)
    graph, axis = layer.graph, quantizer.axis or 0
    assert isinstance(graph, ir.Graph)
    integers, zero_point = stored_integers(weight, quantizer)
    floats = cast(graph, add_initializer(graph, f"{name}.int", integers), f"{name}.cast", FLOAT)
    nodes = [floats]
    if zero_point:
        zero = add_initializer(graph, f"{name}.zero_point", np.asarray(zero_point, np.float32))
        nodes.append(new_node(graph, "Sub", [floats.outputs[0], zero], f"{name}.centred", FLOAT))
    scale, made_by = scale_of(graph, name, quantizer)
    owners = add_initializer(graph, f"{name}.block", np.arange(weight.shape[axis]) // quantizer.block)
    spread = new_node(graph, "Gather", [scale, owners], f"{name}.steps", FLOAT, axis=axis)
    factors = [nodes[-1].outputs[0], spread.outputs[0]]
    product = new_node(graph, "Mul", factors, f"{name}.restored", FLOAT)
    graph.insert_before(layer, [*nodes, *made_by, spread, product])
    return product.outputs[0]


def with_whole_blocks(quantizer: Quantizer, inputs: int) -> Quantizer | None:
    """The same lattice of a (K, N) matrix in blocks that divide its K inputs, as OpenVINO wants them.

    None where these are smaller than MatMulNBits takes.
    """
    block = quantizer.block
    if block is None or inputs % block == 0:
        return quantizer
    if block > inputs:
        return replace(quantizer, step=quantizer.step[0], axis=1, block=None)
    size = gcd(block, inputs)
    if size < LEAST_BLOCK:
        return None
    steps = np.repeat(quantizer.step, block // size, axis=0)[: inputs // size]
    return replace(quantizer, step=steps, block=size)


def blocked_anew(weight: Array, whole: bool) -> Quantizer:
    """The 8-bit quantizer of a (K, N) matrix whose rows have steps of their own, which no kernel takes.

    Steps are a block's greatest magnitude / 127; entries move by half a step at most.

    Args:
        whole: Whether blocks must divide the K rows; where none does, a column has one step.
    """
    rows = len(weight)
    block = next((size for size in BLOCKS if not whole or rows % size == 0), None)
    maximum = np.maximum.reduceat(np.abs(weight), np.arange(0, rows, block or rows))
    if block is None:
        return Quantizer.symmetric(maximum[0], 8, axis=1)
    return replace(Quantizer.symmetric(maximum, 8, axis=0), block=block)


def spell_followers(layer: ir.Node, matrix: bool) -> None:
    """What onnxruntime would fuse into a product before it makes MatMulNBits of it is written otherwise.

    The Add of a row becomes the bias of MatMulNBits. With any other Add, onnxruntime 1.31 makes a Gemm of a
    product of matrices, and it takes a Relu or Clip, also behind a bias, for a part of a layer that waits
    for a QuantizeLinear, as it does the product itself in front of one. There is no MatMulNBits then, and the
    weight is restored at every run. A Sum of two, Max and Min compute the same in the same time; a Sum of one
    keeps a QuantizeLinear off.

    Args:
        matrix: Whether the product may be one of matrices; of more dimensions, no Gemm is made.
    """
    last, user = layer, follower(layer)
    if user is not None and user.op_type == "Add":
        if any(is_row(value) for value in user.inputs):
            last = user
        elif matrix:
            user.op_type = "Sum"
        user = follower(user)
    if user is not None and user.op_type in ("Relu", "Clip"):
        spell_clipping(user)
    graph, result = layer.graph, last.outputs[0]
    if is_quantized(result):
        assert isinstance(graph, ir.Graph)
        insert_after(last, new_node(graph, "Sum", [result], f"{result.name}.float", FLOAT))


def keep_from_integers(layer: ir.Node) -> None:
    """A Sum of one in front of a layer that reads integers, as they are restored or rearranged then.

    onnxruntime 1.31 would take the layer for one on integers, with kernels that have no blocks of weights.
    """
    if rounded_by_pair(layer.inputs[0]):
        barrier(layer, 0)


def is_quantized(value: ir.Value) -> bool:
    """Whether a value is rounded as it is, or rearranged."""
    return any(
        user.op_type == "QuantizeLinear" or (may_be_crossed(user) and any(map(is_quantized, user.outputs)))
        for user in value.consumers()
    )


def is_row(value: ir.Value | None) -> bool:
    return is_stored(value) and value is not None and value.shape is not None and len(value.shape) <= 1


def follower(node: ir.Node) -> ir.Node | None:
    """The only node that reads a node's result, past what onnxruntime removes."""
    users = node.outputs[0].consumers()
    if len(users) != 1 or users[0].graph is not node.graph:
        return None
    return follower(users[0]) if users[0].op_type in ("Identity", "Dropout") else users[0]


def spell_clipping(node: ir.Node) -> None:
    """A Relu or Clip is written as Max and Min."""
    graph, x = node.graph, node.inputs[0]
    assert isinstance(graph, ir.Graph)
    if x is None or x.dtype not in (None, FLOAT):
        return
    name, given = node.outputs[0].name, [*node.inputs[1:], None, None]
    if node.op_type == "Relu":
        given[0] = add_initializer(graph, f"{name}.zero", np.zeros((), np.float32))
    wanted = [(kind, bound) for kind, bound in zip(("Max", "Min"), given, strict=False) if bound is not None]
    if not wanted:
        return
    for kind, bound in wanted[:-1]:
        cut = new_node(graph, kind, [x, bound], f"{name}.cut", FLOAT)
        graph.insert_before(node, cut)
        x = cut.outputs[0]
    node.op_type, bound = wanted[-1]
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(0, x)
    node.replace_input_with(1, bound)
