"""store-embeddings: tables stay integers, and only the rows that are looked up become floats.

before   y = Gather(W, rows)
after    y = DQ(Gather(W_int, rows))                                     one step, or one per column
         y = Cast(Gather(W_int, rows)) * Gather(steps, rows)             one step per row

Never Gather(DQ(W_int), rows): that restores the whole table whenever the model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.embeddings import is_embedding, table_of
from getac.onnx_graph.edit import add_initializer, array_of
from getac.onnx_graph.qdq import cast, new_node, stored_integers
from getac.pipeline import Effect, Fact, State
from getac.quantizer import Quantizer

__all__ = ["StoreEmbeddings"]


@dataclass(frozen=True)
class StoreEmbeddings:
    """Stores the integers of every table that has a quantizer and is float32."""

    name: ClassVar[str] = "store-embeddings"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset(
        {Fact.SLICED, Fact.BATCH_NORMS_FOLDED, Fact.CALIBRATED, Fact.WEIGHTS_QUANTIZED}
    )
    effect: ClassVar[Effect] = Effect.KERNELS

    def run(self, state: State) -> None:
        tables: dict[ir.Value, Table] = {}
        for node in list(state.model.graph):
            record = state.quantizers.get(table_of(node)) if is_embedding(node) else None
            if record is None or record.block is not None or table_of(node).dtype is not ir.DataType.FLOAT:
                continue
            source = table_of(node)
            if source not in tables:
                tables[source] = Table.of(state.model.graph, source, record)
            tables[source].look_up(node)


@dataclass(frozen=True)
class Table:
    """A stored table: its integers, their zero point, and their steps as they broadcast against rows."""

    integers: ir.Value
    zero_point: int
    steps: ir.Value
    axis: int | None

    @classmethod
    def of(cls, graph: ir.Graph, source: ir.Value, record: Quantizer) -> Table:
        array = np.asarray(array_of(source), np.float32)
        integers, zero_point = stored_integers(array, record)
        steps = record.steps_for(array.shape) if record.axis == 0 else record.step
        name = source.name or "table"
        stored = add_initializer(graph, f"{name}.int", integers)
        return cls(stored, zero_point, add_initializer(graph, f"{name}.scale", steps), record.axis)

    @property
    def dtype(self) -> ir.DataType:
        assert self.integers.dtype is not None
        return self.integers.dtype

    def look_up(self, node: ir.Node) -> None:
        """The Gather of floats becomes what restores them, so that its output stays."""
        graph, rows, name = node.graph, node.inputs[1], node.outputs[0].name or "rows"
        assert isinstance(graph, ir.Graph)
        found = new_node(graph, "Gather", [self.integers, rows], f"{name}.int", self.dtype, axis=0)
        graph.insert_before(node, found)
        node.attributes.clear()
        restore = self.scale_rows if self.axis == 0 else self.dequantize
        restore(graph, node, found.outputs[0], rows)

    def scale_rows(self, graph: ir.Graph, node: ir.Node, found: ir.Value, rows: ir.Value | None) -> None:
        float_, name = ir.DataType.FLOAT, node.outputs[0].name or "rows"
        nodes = [cast(graph, found, f"{name}.cast", float_)]
        if self.zero_point:
            zero = add_initializer(graph, f"{name}.zero_point", np.asarray(self.zero_point, np.float32))
            nodes.append(new_node(graph, "Sub", [nodes[-1].outputs[0], zero], f"{name}.centred", float_))
        steps = new_node(graph, "Gather", [self.steps, rows], f"{name}.scale", float_, axis=0)
        graph.insert_before(node, [*nodes, steps])
        become(node, "Mul", [nodes[-1].outputs[0], steps.outputs[0]])

    def dequantize(self, graph: ir.Graph, node: ir.Node, found: ir.Value, rows: ir.Value | None) -> None:
        assert self.steps.shape is not None
        zeros = np.full(self.steps.shape.numpy(), self.zero_point, self.dtype.numpy())
        zero = add_initializer(graph, f"{node.outputs[0].name}.zero_point", zeros)
        become(node, "DequantizeLinear", [found, self.steps, zero])
        if self.axis is not None:
            node.attributes["axis"] = ir.AttrInt64("axis", -1)


def become(node: ir.Node, op_type: str, inputs: Sequence[ir.Value]) -> None:
    node.op_type = op_type
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
