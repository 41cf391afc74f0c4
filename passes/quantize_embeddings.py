"""quantize-embeddings: gives every large table that rows are looked up in a quantizer, one step per row.

A head that is tied to the table reads it transposed, as a layer with the same steps:

    before   y = MatMul(x, Transpose(W))        W also the table of a Gather
    after    y = MatMul(x, W.transposed)        W.transposed: stored, with the quantizer of W transposed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.embeddings import is_embedding, table_of
from getac.errors import OptionError
from getac.onnx_graph.edit import add_initializer, array_of
from getac.pipeline import Effect, Fact, State
from getac.placement.placement import is_layer
from getac.quantizer import Quantizer

__all__ = ["QuantizeEmbeddings"]

LEAST_ENTRIES = 2**14  # 64 KiB of floats: smaller tables, such as those of token types, do not pay


@dataclass(frozen=True)
class QuantizeEmbeddings:
    """Gives every large table that rows are looked up in a quantizer, a step per row.

    Symmetric, at each row's greatest number; records that are there already stay.

    Args:
        bits: 2 to 8; None: tables without quantizers stay floats.

    Raises:
        OptionError: `bits` is outside its domain.
    """

    bits: int | None = 8

    name: ClassVar[str] = "quantize-embeddings"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset(
        {Fact.QUANTIZERS_FOLDED, Fact.SLICED, Fact.BATCH_NORMS_FOLDED, Fact.WEIGHTS_QUANTIZED}
    )
    effect: ClassVar[Effect] = Effect.ROUNDS

    def __post_init__(self) -> None:
        if self.bits is not None and not 2 <= self.bits <= 8:
            raise OptionError("stored embeddings have 2 to 8 bits", required="2 to 8", found=str(self.bits))

    def run(self, state: State) -> None:
        tables = dict.fromkeys(table_of(node) for node in state.model.graph if is_embedding(node))
        for table in tables:
            if table not in state.quantizers and self.is_worth_it(table):
                greatest = np.abs(array_of(table)).max(axis=1, initial=0)
                state.quantizers[table] = Quantizer.symmetric(greatest, self.bits or 8, axis=0)
            if table in state.quantizers:
                store_transposed(table, state)
        for node in state.model.graph:
            if is_layer(node):
                tie(node, list(tables), state)

    def is_worth_it(self, table: ir.Value) -> bool:
        size = table.const_value.size if table.const_value is not None else 0
        return self.bits is not None and table.dtype is ir.DataType.FLOAT and size >= LEAST_ENTRIES


def store_transposed(table: ir.Value, state: State) -> None:
    """Gives matrix products the transposed table as a weight of their own; the numbers are not copied."""
    graph = state.model.graph
    for node in [user for user, _ in table.uses() if user.op_type == "Transpose"]:
        uses = list(node.outputs[0].uses())
        if node.graph is not graph or not all(is_weight(*use) for use in uses):
            continue
        weight = add_initializer(graph, f"{table.name}.transposed", array_of(table).T)
        state.quantizers[weight] = state.quantizers[table].transposed()
        for user, index in uses:
            user.replace_input_with(index, weight)
        graph.remove(node, safe=True)


def is_weight(user: ir.Node, index: int) -> bool:
    return user.op_type == "MatMul" and user.domain in ("", "ai.onnx") and index == 1


def tie(node: ir.Node, tables: Sequence[ir.Value], state: State) -> None:
    """A layer whose weights are those of a table, transposed, gets the table's steps.

    Exporters store the two apart; here they become one set of integers again.
    """
    weight = node.inputs[1]
    if weight is None or weight in state.quantizers or weight.dtype is not ir.DataType.FLOAT:
        return
    numbers = array_of(weight)
    for table in tables:
        if table in state.quantizers and np.array_equal(array_of(table).T, numbers):
            state.quantizers[weight] = state.quantizers[table].transposed()
            return
