"""Weights that are stored as integers and restored by arithmetic, which onnxruntime folds when it loads them.

    stored integers -> Cast -> (Sub of a zero point) -> Mul by steps -> weight of a layer

getac writes float layers in this form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from getac.errors import BadInputError
from getac.onnx_graph.edit import Array, array_of, is_stored
from getac.onnx_graph.integer_lattice import RANGES, Refused, range_of, source_of
from getac.placement.placement import LAYERS
from getac.quantizer import Quantizer

__all__ = ["ScaledIntegers", "scaled_integers"]


@dataclass(frozen=True)
class ScaledIntegers:
    """What a product is made of: the integers around 0, their record, and the type of the product."""

    source: ir.Value
    integers: Array
    record: Quantizer
    dtype: ir.DataType


def scaled_integers(product: ir.Node) -> ScaledIntegers | None:
    """The integers behind a Mul that makes the weights of layers, None where it is something else."""
    scaled, scale = product.inputs
    if not (is_stored(scale) and all(is_weight_of(*use) for use in product.outputs[0].uses())):
        return None
    centre, shift = centre_of(scaled)
    if centre is None or centre.op_type != "Cast" or centre.inputs[0] is None:
        return None
    dtype = ir.DataType(centre.attributes.get_int("to", 0))
    source, between = source_of(centre.inputs[0])
    narrow = source.dtype is not None and source.dtype in RANGES and source.dtype is not ir.DataType.INT32
    if not (narrow and is_stored(source) and dtype.is_floating_point() and shift == np.rint(shift)):
        return None
    assert source.dtype is not None
    try:
        low, high = range_of(source.dtype, between)
        integers = array_of(source).astype(np.int64).clip(low, high) - int(shift)
        step, axis = along_one(array_of(scale).astype(np.float32), integers.ndim)
        record = Quantizer(step, low - int(shift), high - int(shift), axis)
    except (Refused, BadInputError):
        return None
    return ScaledIntegers(source, integers, record, dtype)


def is_weight_of(user: ir.Node, index: int) -> bool:
    return user.op_type in LAYERS and user.domain in ("", "ai.onnx") and index == 1


def centre_of(value: ir.Value | None) -> tuple[ir.Node | None, float]:
    """What makes a value before its zero point is subtracted, and the zero point."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Sub" or not is_stored(node.inputs[1]):
        return node, 0.0
    before, zero = node.inputs[0], array_of(node.inputs[1])
    if before is None or zero.size != 1:
        return None, 0.0
    return before.producer(), float(zero.reshape(-1)[0])


def along_one(scale: Array, rank: int) -> tuple[Array, int | None]:
    """The steps and their dimension; raises Refused where they differ along two, or change the shape."""
    if scale.size == 1 and scale.ndim <= rank:
        return scale.reshape(()), None
    long = [dimension for dimension, size in enumerate(scale.shape, rank - scale.ndim) if size > 1]
    if len(long) != 1 or scale.ndim > rank:
        raise Refused("steps along several dimensions")
    return scale.reshape(-1), long[0]
