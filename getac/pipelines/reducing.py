"""The smallest part of a model on which a pipeline still fails: delta debugging over nodes.

Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002): ever smaller runs of nodes
are left out for as long as the failure stays. What a node that is left out made becomes an input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import onnx_ir as ir

from getac.onnx_graph.shapes import Shapes, infer_shapes

__all__ = ["part_of", "reduce_model"]

Nodes = Sequence[int]
MAX_TRIES = 500


def reduce_model(
    model: ir.Model, fails: Callable[[ir.Model], bool], max_tries: int = MAX_TRIES
) -> tuple[ir.Model, int]:
    """A part of the model with as few nodes as were found on which `fails` is still true.

    Args:
        fails: Whether a model shows the failure; false for one that fails in another way.
        max_tries: How many parts may be tried.

    Returns:
        The part, and how many were tried; the model itself where nothing can be left out.
    """
    shapes = infer_shapes(model)
    tried = 0

    def still_fails(nodes: Nodes) -> bool:
        nonlocal tried
        tried += 1
        part = part_of(model, nodes, shapes)
        return part is not None and fails(part)

    nodes: Nodes = range(len(model.graph))
    chunks = 2
    while len(nodes) > 1 and tried < max_tries:
        smaller = next((rest for rest in without_chunks(nodes, chunks) if still_fails(rest)), None)
        if smaller is not None:
            nodes, chunks = smaller, max(chunks - 1, 2)
        elif chunks >= len(nodes):
            break
        else:
            chunks = min(chunks * 2, len(nodes))
    return part_of(model, nodes, shapes) or model, tried


def without_chunks(nodes: Nodes, chunks: int) -> list[list[int]]:
    """The nodes without each of so many runs of about equal length; long ends first."""
    bounds = [round(i * len(nodes) / chunks) for i in range(chunks + 1)]
    parts = [[*nodes[:start], *nodes[end:]] for start, end in pairwise(bounds)]
    return [part for part in reversed(parts) if part]


def part_of(model: ir.Model, nodes: Nodes, shapes: Shapes) -> ir.Model | None:
    """A copy with these nodes alone, by position; None where a value's type is not known at a cut.

    Inputs are what the nodes read and do not make; outputs are what they make and do not read, and the
    model's own outputs.
    """
    kept = set(nodes)
    known = {node_output.name: node_output for node in model.graph for node_output in node.outputs}
    copy = model.clone()
    graph = copy.graph
    gone = [node for position, node in enumerate(graph) if position not in kept]
    ours = [node for position, node in enumerate(graph) if position in kept]
    branches = [branch for node in ours for branch in branches_of(node)]
    readers = {*ours, *(inner for branch in branches for inner in branch)}
    returned = {value for branch in branches for value in branch.outputs}
    made = {value for node in gone for value in node.outputs}
    cut = {value for value in made if any(user in readers for user in value.consumers())}
    if made & returned or not all(retype(value, known.get(value.name), shapes) for value in cut):
        return None
    graph.outputs[:] = [value for node in ours for value in node.outputs if is_result(value, readers)]
    if not graph.outputs:
        return None
    for value in graph.outputs:
        retype(value, known.get(value.name), shapes)
    inputs = [replaced_by_input(value) for value in sorted(cut, key=lambda value: str(value.name))]
    for node in reversed(gone):
        graph.remove(node, safe=True)
    used = {value for node in graph.all_nodes() for value in node.inputs} | returned
    graph.inputs[:] = [*(value for value in graph.inputs if value in used), *inputs]
    for name, value in list(graph.initializers.items()):
        if value not in used:
            graph.initializers.pop(name)
    return copy


def branches_of(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs inside a node, those inside them included."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
            yield from attribute.as_graph().subgraphs()


def is_result(value: ir.Value, ours: set[ir.Node]) -> bool:
    used = any(user in ours for user in value.consumers())
    return bool(value.name) and (not used or value.is_graph_output())


def retype(value: ir.Value, original: ir.Value | None, shapes: Shapes) -> bool:
    """Declares a value as inference knows it; False where it does not."""
    dims = shapes.dims.get(original) if original is not None else None
    dtype = shapes.dtypes.get(original, value.dtype) if original is not None else value.dtype
    if dims is None or dtype is None:
        return False
    value.type = ir.TensorType(dtype)
    value.shape = ir.Shape([dim.constant if dim.is_static else str(dim) for dim in dims])
    return True


def replaced_by_input(value: ir.Value) -> ir.Value:
    """A graph input of the same name that everything reads in the value's place."""
    new = ir.Value(name=value.name, shape=value.shape, type=value.type)
    for user, index in list(value.uses()):
        user.replace_input_with(index, new)
    value.name = f"{value.name}.left_out"
    return new
