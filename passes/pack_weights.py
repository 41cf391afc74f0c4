"""pack-weights: stored integers take as few bits as their values need, and come back when a model is loaded.

    before   W_int8 -> DequantizeLinear -> Conv                         16 k, with -7 <= k <= 7
    after    W_int4 -> Cast(INT8) -> Mul(16) -> DequantizeLinear -> Conv
    after    bytes -> Cast(INT32) -> Gather(table) -> Reshape -> DequantizeLinear -> Conv

onnxruntime folds what is new before it looks for integer kernels: the same ones run, on the same integers.
The values alone decide, so it does not matter which tool stored them. What a MatMul of float activations
reads stays: onnxruntime makes a MatMulNBits of it, which wants its integers as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from getac.errors import OptionError
from getac.onnx_graph.edit import array_of, is_stored
from getac.onnx_graph.packed import Packer
from getac.onnx_graph.packing import PACKED_TYPES, Target, packings
from getac.onnx_graph.raising import raise_opset, why_not_raise
from getac.pipeline import Effect, Fact, Refusal, State

__all__ = ["PackWeights"]

TWO_BITS = frozenset({ir.DataType.INT2, ir.DataType.UINT2})
SINCE_21 = frozenset({ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8})
TWO_BITS_OPSET = 25


@dataclass(frozen=True)
class PackWeights:
    """Stores weights in the fewest bytes that hold them exactly.

    Args:
        target: Who loads the model: "portable" (opset 21), or "ort" (onnxruntime alone; opset 25 where that
            helps, and less memory while it loads).
    """

    target: str = "portable"

    name: ClassVar[str] = "pack-weights"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.LOWERED, Fact.SLICED, Fact.BATCH_NORMS_FOLDED})
    effect: ClassVar[Effect] = Effect.NONE

    def __post_init__(self) -> None:
        targets = [target.value for target in Target]
        if self.target not in targets:
            raise OptionError("no such target", required=" or ".join(targets), found=repr(self.target))

    def run(self, state: State) -> None:
        model, target = state.model, Target(self.target)
        why_not = why_not_raise(model, TWO_BITS_OPSET) if target is Target.ORT else "it has to stay portable"
        types = SINCE_21 if why_not else SINCE_21 | TWO_BITS
        if model.graph.opset_imports.get("", 0) < 21:
            types = frozenset()
        if why_not and target is Target.ORT:
            state.refuse(self.name, Refusal("the graph", why_not, "integers of 2 bits are stored in bytes"))
        packer = Packer(model.graph)
        weights = [value for value in model.graph.initializers.values() if is_packable(value)]
        for value in sorted(weights, key=lambda value: -array_of(value).nbytes):  # the largest pay for tables
            array = array_of(value)
            options = {packing: packer.nbytes(value, packing) for packing in packings(array, target, types)}
            best = min(options, key=lambda packing: options[packing], default=None)
            if best is not None and options[best] < array.nbytes:
                packer.pack(value, best)
        packer.finish()
        stored = {value.dtype for value in model.graph.initializers.values()}
        if TWO_BITS & stored and not why_not:
            raise_opset(model, TWO_BITS_OPSET)


def is_packable(value: ir.Value) -> bool:
    """Whether a stored tensor is one of integers that are weights, wherever it is read."""
    return (
        is_stored(value)
        and value.dtype in PACKED_TYPES
        and not value.is_graph_output()
        and array_of(value).size > 0
        and bool(value.uses())
        and all(reads_weights(user, index) for user, index in value.uses())
    )


def reads_weights(node: ir.Node, index: int) -> bool:
    if node.domain not in ("", "ai.onnx") or index != 0:
        return False
    if node.op_type == "DequantizeLinear":
        return not any(is_float_product(user) for user, _ in node.outputs[0].uses())
    return node.op_type == "Gather" or (node.op_type == "Cast" and makes_floats(node))


def makes_floats(cast: ir.Node) -> bool:
    return ir.DataType(cast.attributes.get_int("to", 0)).is_floating_point()


def is_float_product(node: ir.Node) -> bool:
    """Whether a MatMul multiplies activations that are not quantized."""
    x = node.inputs[0] if node.op_type == "MatMul" else None
    producer = x.producer() if x is not None else None
    return node.op_type == "MatMul" and (producer is None or producer.op_type != "DequantizeLinear")
