"""share-storage: equal tensors are stored once, also where one of integers is the other one transposed.

before   Gather(T_int, rows)       MatMul(x, DQ(W_int))                  W_int = T_int transposed
after    Gather(T_int, rows)       MatMul(x, DQ(Transpose(T_int)))       folded by onnxruntime at load

The head of a language model is often tied to its table of words: it is the largest tensor there. Zero points
are the same in all layers of a width: in a network of narrow layers they weigh some percent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import Array, array_of
from getac.onnx_graph.qdq import new_node
from getac.pipeline import Effect, Fact, State

__all__ = ["ShareStorage"]

LEAST_ENTRIES = 8  # of a tensor whose second copy is worth looking for
TRANSPOSED = (ir.DataType.INT8, ir.DataType.UINT8)

Key = tuple[ir.DataType, tuple[int, ...], bytes]


@dataclass(frozen=True)
class ShareStorage:
    """Merges stored tensors of equal bytes; 8-bit integers also where one is a table, transposed."""

    name: ClassVar[str] = "share-storage"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.LOWERED})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.LOWERED, Fact.SLICED, Fact.BATCH_NORMS_FOLDED})
    effect: ClassVar[Effect] = Effect.NONE

    def run(self, state: State) -> None:
        graph = state.model.graph
        first: dict[Key, ir.Value] = {}
        stored = [value for value in graph.initializers.values() if is_candidate(value)]
        for value in sorted(stored, key=is_table, reverse=True):  # tables first: others are made of them
            same = first.setdefault(key_of(value, array_of(value)), value)
            if same is not value:
                replace(graph, value, same)
        for value in first.values():
            turnable = value.dtype in TRANSPOSED and len(value.shape or ()) == 2
            other = first.get(key_of(value, array_of(value).T)) if turnable else None
            if other is not None and other is not value and is_table(other) and not is_table(value):
                transpose(graph, value, other)


def is_candidate(value: ir.Value) -> bool:
    large = value.const_value is not None and value.const_value.size >= LEAST_ENTRIES
    return large and value.dtype is not ir.DataType.STRING and not value.is_graph_output()


def is_table(value: ir.Value) -> bool:
    return any(user.op_type == "Gather" and index == 0 for user, index in value.uses())


def key_of(value: ir.Value, array: Array) -> Key:
    """What equal tensors have in common; two that have it are equal."""
    assert value.dtype is not None
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
    return value.dtype, array.shape, digest


def replace(graph: ir.Graph, value: ir.Value, other: ir.Value) -> None:
    for user, index in list(value.uses()):
        user.replace_input_with(index, other)
    graph.initializers.pop(str(value.name))


def transpose(graph: ir.Graph, value: ir.Value, other: ir.Value) -> None:
    """Makes a stored tensor of another one, in front of what first reads it."""
    assert value.dtype is not None
    node = new_node(graph, "Transpose", [other], f"{value.name}.transposed", value.dtype)
    node.attributes["perm"] = ir.AttrInt64s("perm", [1, 0])
    users = {user for user, _ in value.uses()}
    graph.insert_before(next(one for one in graph if one in users), node)
    replace(graph, value, node.outputs[0])
