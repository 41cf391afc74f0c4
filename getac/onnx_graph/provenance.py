"""Where a node comes from: the node of the file that it stands for, and the passes that touched it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Form", "Provenance", "forms_of", "named", "note_changes", "provenance_of", "same_form"]

_KEY = "getac.provenance"

Form = tuple[object, ...]
"""What a node is at one moment: its operator, inputs, outputs, attributes; compared by identity."""


@dataclass(frozen=True)
class Provenance:
    """The origin of a node.

    Args:
        source: The name of the node in the file that was read; of one that a pass made, the node that it was
            made for.
        passes: The passes that made or changed it, in order.
    """

    source: str
    passes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.source} (after {', '.join(self.passes)})" if self.passes else self.source


def provenance_of(node: ir.Node) -> Provenance:
    """A node that no pass has touched is its own source."""
    known = node.meta.get(_KEY)
    return known if isinstance(known, Provenance) else Provenance(node.name or node.op_type)


def named(node: ir.Node) -> str:
    """A node by its name, with the node of the file that it stands for and the passes that touched it."""
    name, origin = node.name or node.op_type, provenance_of(node)
    if not origin.passes:
        return name
    return f"{name}, from {origin}" if origin.source != name else str(origin)


def forms_of(graph: ir.Graph) -> dict[ir.Node, Form]:
    """Every node with its form, subgraphs included."""
    return {node: form_of(node) for node in graph.all_nodes()}


def form_of(node: ir.Node) -> Form:
    return (node.op_type, *node.inputs, None, *node.outputs, *node.attributes.values())


def same_form(one: Sequence[object], other: Sequence[object]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def note_changes(before: Mapping[ir.Node, Form], graph: ir.Graph, pass_name: str) -> None:
    """Writes a pass down in every node that it made or changed.

    A node whose stored inputs, operator and attributes are the same has not changed, whatever stands before.
    """
    made = []
    for node in graph.all_nodes():
        if node not in before:
            made.append(node)
        elif not same_form(own(before[node]), own(form_of(node))):
            old = provenance_of(node)
            node.meta[_KEY] = Provenance(old.source, (*old.passes, pass_name))
    replaced = makers_of(before)
    for node in reversed(made):  # a chain that was put in front of a layer is made for that layer
        node.meta[_KEY] = Provenance(source_of(node, replaced), (pass_name,))


def own(form: Form) -> Form:
    """A form without the activations that the node reads and makes."""
    return tuple(part for part in form if not isinstance(part, ir.Value) or part.is_initializer())


def makers_of(before: Mapping[ir.Node, Form]) -> dict[str, ir.Node]:
    """Name of a value -> the node that made it before."""
    outputs = {node: form[form.index(None, 1) :] for node, form in before.items()}
    return {
        value.name: node
        for node, values in outputs.items()
        for value in values
        if isinstance(value, ir.Value) and value.name
    }


def source_of(node: ir.Node, replaced: Mapping[str, ir.Node]) -> str:
    """The node that a new one stands in for, else the one that reads it, else the one that it reads."""
    users = [user for value in node.outputs for user, _ in value.uses()]
    producers = [value.producer() for value in node.inputs if value is not None]
    candidates = [replaced.get(str(value.name)) for value in node.outputs] + users + producers
    near = next((one for one in candidates if one is not None), None)
    return provenance_of(near).source if near is not None else (node.name or node.op_type)
