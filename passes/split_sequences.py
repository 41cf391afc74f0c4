"""split-sequences: the parts of a sequence that is only indexed are outputs of a Split.

    before   s = SplitToSequence(x, 16)     a = SequenceAt(s, 0)     b = SequenceAt(s, 1)
    after    a, b = Split(x, [16, 16])

    before   s = SplitToSequence(x)         a = SequenceAt(s, 0)     (single indices, the dimension goes)
    after    a = Gather(x, 0)

torch's exporter writes chunk, split and unbind so. Sequences have neither shapes nor rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.onnx_graph.edit import add_initializer, swap_output_name
from getac.onnx_graph.shapes import Shapes, open_shapes
from getac.pipeline import Fact, Refusal, State

__all__ = ["SplitSequences"]


@dataclass(frozen=True)
class SplitSequences:
    """Replaces sequences whose parts have known sizes and are read at known positions."""

    name: ClassVar[str] = "split-sequences"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SHAPES})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.SHAPES})
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact) - {Fact.AXES, Fact.CHOSEN}

    def run(self, state: State) -> None:
        graph = state.model.graph
        assert state.shapes is not None
        sequences = [node for node in graph if is_split(node)]
        for node in sequences:
            parts = Parts.of(node, state.shapes)
            if isinstance(parts, str):
                state.refuse(self.name, Refusal(node.name or node.op_type, parts))
            else:
                parts.replace(state)
        if sequences:
            state.shapes = open_shapes(state.model, state.bindings)


def is_split(node: ir.Node) -> bool:
    return node.op_type == "SplitToSequence" and node.domain in ("", "ai.onnx")


@dataclass(frozen=True)
class Parts:
    """A sequence and who reads it.

    Args:
        sizes: The sizes of the parts; None: single indices of a dimension that goes.
        readers: Each SequenceAt, with its position from the front.
    """

    node: ir.Node
    axis: int
    sizes: tuple[int, ...] | None
    readers: tuple[tuple[ir.Node, int], ...]

    @classmethod
    def of(cls, node: ir.Node, shapes: Shapes) -> Parts | str:
        """Reads a SplitToSequence, or says why it cannot be replaced."""
        x = node.inputs[0]
        dims = shapes.dims.get(x) if x is not None else None
        if dims is None:
            return "the shape of its input is not known"
        axis = node.attributes.get_int("axis", 0) % len(dims)
        if not dims[axis].is_static:
            return "the size that it splits is not fixed"
        given = node.inputs[1] if len(node.inputs) > 1 else None
        sizes = part_sizes(given, shapes, dims[axis].size)
        if sizes is None:
            return "the sizes of its parts are computed"
        readers = readers_of(node, shapes, len(sizes))
        if readers is None:
            return "its sequence is read in another way than at a fixed position"
        goes = given is None and not node.attributes.get_int("keepdims", 1)
        return cls(node, axis, None if goes else sizes, readers)

    def replace(self, state: State) -> None:
        x, graph = self.node.inputs[0], self.node.graph
        assert x is not None and isinstance(graph, ir.Graph)
        parts = self._split(graph, x) if self.sizes is not None else None
        for reader, position in self.readers:
            part = parts[position] if parts is not None else gathered(reader, x, position, self.axis)
            take_place(graph, reader, part, state)
        graph.remove(self.node, safe=True)

    def _split(self, graph: ir.Graph, x: ir.Value) -> tuple[ir.Value, ...]:
        assert self.sizes is not None
        sizes = add_initializer(graph, f"{self.node.name}.sizes", np.array(self.sizes, np.int64))
        split = ir.Node(
            "",
            "Split",
            [x, sizes],
            [ir.AttrInt64("axis", self.axis)],
            num_outputs=len(self.sizes),
            name=self.node.name,
        )
        for position, output in enumerate(split.outputs):
            output.name, output.type = f"{self.node.name}.{position}", x.type
        graph.insert_after(self.node, split)
        return tuple(split.outputs)


def part_sizes(given: ir.Value | None, shapes: Shapes, size: int) -> tuple[int, ...] | None:
    """The sizes of the parts; None where they are computed when the graph runs."""
    if given is None:
        return (1,) * size
    numbers = shapes.constants.get(given)
    if numbers is None:
        return None
    if numbers.ndim:
        return tuple(int(number) for number in numbers)
    each = int(numbers)
    return tuple(min(each, size - start) for start in range(0, size, each))


def readers_of(node: ir.Node, shapes: Shapes, parts: int) -> tuple[tuple[ir.Node, int], ...] | None:
    """The nodes that read single parts; None where the sequence is used in another way."""
    sequence = node.outputs[0]
    if sequence.is_graph_output():
        return None
    readers: list[tuple[ir.Node, int]] = []
    for reader, _ in sequence.uses():
        where = reader.inputs[1] if reader.op_type == "SequenceAt" else None
        position = shapes.constants.get(where) if where is not None else None
        if position is None or reader.graph is not node.graph:
            return None
        readers.append((reader, int(position) % parts))
    return tuple(readers)


def gathered(reader: ir.Node, x: ir.Value, position: int, axis: int) -> ir.Value:
    """Reads a single index of x, where the sequence was read."""
    graph = reader.graph
    assert isinstance(graph, ir.Graph)
    index = add_initializer(graph, f"{reader.name}.index", np.array(position, np.int64))
    gather = ir.node("Gather", [x, index], {"axis": axis}, name=f"{reader.name}.part")
    gather.outputs[0].name, gather.outputs[0].type = f"{reader.name}.value", x.type
    graph.insert_before(reader, gather)
    return gather.outputs[0]


def take_place(graph: ir.Graph, reader: ir.Node, part: ir.Value, state: State) -> None:
    """Gives all uses of a SequenceAt the part that it read."""
    old = reader.outputs[0]
    for user, index in list(old.uses()):
        user.replace_input_with(index, part)
    if old in state.quantizers:
        state.quantizers[part] = state.quantizers.pop(old)
    if old.is_graph_output():
        swap_output_name(graph, old, part)
    graph.remove(reader, safe=True)
