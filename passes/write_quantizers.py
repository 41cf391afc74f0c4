"""write-quantizers: records become QuantizeLinear and DequantizeLinear, the form that every tool reads.

before   x (record) -> Conv(W (record))
after    x -> Q -> DQ -> Conv(DQ(W_int))

The inverse of fold-quantizers: for a pipeline that ends before the lowering, and to run a model between two
passes. Which of the pairs become integer kernels is the business of lower-integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import add_initializer, array_of, is_stored
from getac.onnx_graph.qdq import Storage, keep_quantizer, new_node
from getac.pipeline import Fact, State
from getac.quantizer import Quantizer

__all__ = ["WriteQuantizers"]


@dataclass(frozen=True)
class WriteQuantizers:
    """Writes every record that is left back into the graph, in a form that onnxruntime does not rewrite.

    Activations of one record and weights of INT8, UINT8 or their 16-bit types; needs opset 21 for 16 bits.
    A graph output stays the value before its quantizer.
    """

    name: ClassVar[str] = "write-quantizers"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.SLICED, Fact.LOWERED, Fact.BATCH_NORMS_FOLDED})

    def run(self, state: State) -> None:
        graph, dtypes = state.model.graph, state.shapes.dtypes if state.shapes is not None else {}
        for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
            if value in state.quantizers:
                keep_quantizer(graph, value, state.quantizers.pop(value), dtype_of(value, dtypes))
        for value in list(graph.initializers.values()):
            if value in state.quantizers:
                store_integers(graph, value, state.quantizers.pop(value))
        state.quantizers.clear()  # what is left belongs to values that are gone


def dtype_of(value: ir.Value, dtypes: Mapping[ir.Value, ir.DataType]) -> ir.DataType:
    return value.dtype or dtypes.get(value, ir.DataType.FLOAT)


def store_integers(graph: ir.Graph, weight: ir.Value, quantizer: Quantizer) -> None:
    """W (record) becomes DequantizeLinear(W_int); whatever reads W reads that."""
    users = list(weight.uses())
    if not (is_stored(weight) and users) or weight.is_graph_output():
        return
    name, dtype = str(weight.name), weight.dtype or ir.DataType.FLOAT
    storage = weight_storage(quantizer)
    integers = quantizer.integers(array_of(weight).astype(np.float32)) + storage.zero_point
    step = quantizer.step.astype(dtype.numpy())
    zeros = np.full(step.shape, storage.zero_point, storage.integer.numpy())
    inputs = [
        add_initializer(graph, f"{name}.int", integers.astype(storage.integer.numpy())),
        add_initializer(graph, f"{name}.scale", step, dtype),
        add_initializer(graph, f"{name}.zero_point", zeros),
    ]
    attributes = {} if quantizer.axis is None else {"axis": quantizer.axis}
    attributes |= {} if quantizer.block is None else {"block_size": quantizer.block}
    restored = new_node(graph, "DequantizeLinear", inputs, f"{name}.dq", dtype, **attributes)
    restored.outputs[0].shape = weight.shape
    graph.insert_before(graph[0], restored)
    for user, index in users:
        user.replace_input_with(index, restored.outputs[0])
    graph.initializers.pop(name)


def weight_storage(quantizer: Quantizer) -> Storage:
    """Around 0 where the lattice fits, else from its least integer on."""
    signed = ((ir.DataType.INT8, 7), (ir.DataType.INT16, 15))
    for integer, bits in signed:
        if -(1 << bits) <= quantizer.low and quantizer.high < 1 << bits:
            return Storage(integer, 0)
    return Storage.unsigned(quantizer)
