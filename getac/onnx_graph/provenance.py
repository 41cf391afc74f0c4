"""Where a node comes from: the node of the file that it stands for, and the passes that touched it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Form", "Provenance", "forms_of", "named", "note_changes", "provenance_of"]

_KEY = "getac.provenance"


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

    def after(self, pass_name: str) -> Provenance:
        return Provenance(self.source, (*self.passes, pass_name))


@dataclass(frozen=True)
class Form:
    """What a node is at one moment.

    Args:
        operator: Domain, type and overload.
        own: The attributes, and the inputs that are stored.
        inputs: All inputs.
        outputs: All outputs.
        notes: The node's name, and names, types and shapes of its outputs.
    """

    operator: tuple[str, str, str]
    own: tuple[object, ...]
    inputs: tuple[ir.Value | None, ...]
    outputs: tuple[ir.Value, ...]
    notes: tuple[object, ...]

    @classmethod
    def of(cls, node: ir.Node) -> Form:
        stored = (value for value in node.inputs if value is not None and value.is_initializer())
        return cls(
            operator=(node.domain, node.op_type, node.overload),
            own=(*node.attributes.values(), *stored),
            inputs=tuple(node.inputs),
            outputs=tuple(node.outputs),
            notes=(node.name, *map(noted, node.outputs)),
        )

    def same_own(self, other: Form) -> bool:
        """Whether operator, attributes and stored inputs are the same: not what else it reads and makes."""
        return self.operator == other.operator and identical(self.own, other.own)

    def same_as(self, other: Form) -> bool:
        return (
            self.same_own(other)
            and identical(self.inputs, other.inputs)
            and identical(self.outputs, other.outputs)
            and self.notes == other.notes
        )

    def content(self) -> tuple[object, ...]:
        """The same for nodes that are built alike, although none of their parts is the same object."""
        return self.operator, *map(content, self.own)


def noted(value: ir.Value) -> tuple[object, ...]:
    """What is declared of a value; shapes can be edited in place, so that their sizes are copied."""
    return value.name, value.type, None if value.shape is None else tuple(value.shape)


def identical(one: Sequence[object], other: Sequence[object]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def content(part: object) -> object:
    """An attribute or a stored input, so that it can be compared with another one."""
    if isinstance(part, ir.Value):
        return part.name
    if isinstance(part, ir.Attr):
        return part.name, part.type, part.ref_attr_name, content(part.value)
    if isinstance(part, ir.TensorProtocol):
        return part.dtype, tuple(part.shape), part.tobytes()
    if isinstance(part, ir.Graph):
        names = tuple(value.name for value in (*part.inputs, *part.outputs))
        nodes = ((Form.of(node).content(), *(v and v.name for v in node.inputs)) for node in part)
        return names, *nodes
    return part


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
    return {node: Form.of(node) for node in graph.all_nodes()}


def note_changes(before: Mapping[ir.Node, Form], graph: ir.Graph, pass_name: str) -> None:
    """Writes a pass down in every node that it made or changed.

    A node whose stored inputs, operator and attributes are the same has not changed, whatever stands before;
    nor has one that was built anew as it was.
    """
    makers = makers_of(before)
    made = []
    for node in graph.all_nodes():
        if node not in before:
            made.append(node)
        elif not before[node].same_own(Form.of(node)):
            node.meta[_KEY] = provenance_of(node).after(pass_name)
    for node in reversed(made):  # a chain that was put in front of a layer is made for that layer
        replaced = replaced_by(node, makers)
        if replaced is None:
            node.meta[_KEY] = Provenance(neighbour_of(node), (pass_name,))
        elif before[replaced].content() == Form.of(node).content():
            node.meta[_KEY] = provenance_of(replaced)
        else:
            node.meta[_KEY] = provenance_of(replaced).after(pass_name)


def makers_of(before: Mapping[ir.Node, Form]) -> dict[str, ir.Node]:
    """Name of a value -> the node that made it before."""
    return {value.name: node for node, form in before.items() for value in form.outputs if value.name}


def replaced_by(node: ir.Node, makers: Mapping[str, ir.Node]) -> ir.Node | None:
    """The node of before that made a value of the same name."""
    candidates = (makers.get(str(value.name)) for value in node.outputs)
    return next((one for one in candidates if one is not None), None)


def neighbour_of(node: ir.Node) -> str:
    """The source of the node that reads a new one, else of the one that it reads."""
    users = [user for value in node.outputs for user, _ in value.uses()]
    producers = [value.producer() for value in node.inputs if value is not None]
    near = next((one for one in [*users, *producers] if one is not None), None)
    return provenance_of(near).source if near is not None else (node.name or node.op_type)
