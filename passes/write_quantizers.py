"""write-quantizers: records become QuantizeLinear and DequantizeLinear, the form that every tool reads.

before   x (record) -> Conv(W (record))
after    x -> Q -> DQ -> Conv(DQ(W_int))

The inverse of fold-quantizers: for a pipeline that ends before the lowering, and to run a model between two
passes. Which of the pairs become integer kernels is the business of lower-integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from getac.onnx_graph.edit import naming
from getac.onnx_graph.qdq import keep_quantizers, store_integers
from getac.onnx_graph.shapes import open_shapes
from getac.pipeline import Fact, State

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
        if state.shapes is None and has_half_precision(graph):
            state.shapes = open_shapes(state.model, state.bindings)  # they know what is not float32
        with naming(graph):
            keep_quantizers(graph, state.quantizers, state.dtype_of)
            for value in list(graph.initializers.values()):
                if value in state.quantizers:
                    store_integers(graph, value, state.quantizers.pop(value))
        state.quantizers.clear()  # what is left belongs to values that are gone


def has_half_precision(graph: ir.Graph) -> bool:
    half = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return any(value.dtype in half for value in (*graph.inputs, *graph.initializers.values()))
