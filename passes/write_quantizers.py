"""write-quantizers: records become QuantizeLinear and DequantizeLinear, the form that every tool reads.

before   x (record) -> Conv(W (record))
after    x -> Q -> DQ -> Conv(DQ(W_int))

The inverse of fold-quantizers: for a pipeline that ends before the lowering, and to run a model between two
passes. Which of the pairs become integer kernels is the business of lower-integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import add_initializer, array_of, is_stored
from getac.onnx_graph.qdq import keep_quantizers, new_node, stored_integers
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
        graph = state.model.graph
        keep_quantizers(graph, state.quantizers, state.dtype_of)
        for value in list(graph.initializers.values()):
            if value in state.quantizers:
                store_integers(graph, value, state.quantizers.pop(value))
        state.quantizers.clear()  # what is left belongs to values that are gone


def store_integers(graph: ir.Graph, weight: ir.Value, quantizer: Quantizer) -> None:
    """W (record) becomes DequantizeLinear(W_int); whatever reads W reads that."""
    users = list(weight.uses())
    if not (is_stored(weight) and users) or weight.is_graph_output():
        return
    name, dtype = str(weight.name), weight.dtype or ir.DataType.FLOAT
    integers, zero_point = stored_integers(array_of(weight).astype(np.float32), quantizer)
    step = quantizer.step.astype(dtype.numpy())
    zeros = np.full(step.shape, zero_point, integers.dtype)
    inputs = [
        add_initializer(graph, f"{name}.int", integers),
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
