"""What a program is at one moment, to notice whether a pass changed it."""

from __future__ import annotations

import sys
import weakref
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir

from getac.onnx_graph.interface import Contradiction, Interface
from getac.onnx_graph.provenance import Form, forms_of, identical, noted

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule

__all__ = ["GraphSnapshot", "ModuleSnapshot", "Snapshot", "is_program", "same_kind", "snapshot"]


@dataclass(frozen=True)
class GraphSnapshot:
    """Which objects an ONNX graph is made of, compared by identity, and what is declared of them.

    The parts are kept alive, since a new object may get the `id` of a freed one. Stored tensors are held
    weakly: a pass that replaces weights should not need memory for the old and the new ones. Their numbers
    are not looked at, since nobody can edit them in place (`onnx_graph.read_only`).
    """

    ports: tuple[object, ...]
    notes: tuple[object, ...]
    nodes: Mapping[ir.Node, Form]
    tensors: tuple[weakref.ref[object], ...]
    interface: Interface

    @classmethod
    def of(cls, model: ir.Model) -> GraphSnapshot:
        """Nodes, edges and attributes, subgraphs included, and the stored tensors."""
        graph = model.graph
        stored = [value for one in model.graphs() for value in one.initializers.values()]
        ports = (*graph.inputs, None, *graph.outputs, None, *stored)
        tensors = (value if value.const_value is None else value.const_value for value in stored)
        return cls(
            ports=ports,
            notes=(tuple(model.opset_imports.items()), *(noted(one) for one in ports if one is not None)),
            nodes=forms_of(graph),
            tensors=tuple(map(weakref.ref, tensors)),
            interface=Interface.of(graph),
        )

    def same_as(self, later: Snapshot) -> bool:
        return (
            isinstance(later, GraphSnapshot)
            and identical(self.ports, later.ports)
            and self.notes == later.notes
            and identical(tuple(self.nodes), tuple(later.nodes))
            and all(map(Form.same_as, self.nodes.values(), later.nodes.values()))
            and identical([one() for one in self.tensors], [one() for one in later.tensors])
        )

    def contradiction(self, later: Snapshot) -> Contradiction | None:
        """How the later one has other inputs or outputs."""
        return self.interface.contradiction(later.interface) if isinstance(later, GraphSnapshot) else None


@dataclass(frozen=True)
class ModuleSnapshot:
    """The nodes of a torch.fx module with their arguments, and its stored tensors with their contents.

    Nothing else tells of every edit in place: one under `tensor.data` leaves the tensor's version as it was.
    """

    nodes: Mapping[object, tuple[object, ...]]
    stored: Mapping[str, tuple[object, ...]]
    tensors: tuple[weakref.ref[object], ...]

    @classmethod
    def of(cls, module: GraphModule) -> ModuleSnapshot:
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        return cls(
            nodes={node: (node.op, node.target, node.args, node.kwargs) for node in module.graph.nodes},
            stored={name: (one.dtype, tuple(one.shape), checksum(one)) for name, one in tensors.items()},
            tensors=tuple(map(weakref.ref, tensors.values())),
        )

    def same_as(self, later: Snapshot) -> bool:
        return (
            isinstance(later, ModuleSnapshot)
            and list(self.nodes.items()) == list(later.nodes.items())
            and self.stored == later.stored
            and identical([one() for one in self.tensors], [one() for one in later.tensors])
        )

    def contradiction(self, later: Snapshot) -> Contradiction | None:
        return None  # torch.fx declares no types; verification compares what comes out


Snapshot: TypeAlias = GraphSnapshot | ModuleSnapshot


def snapshot(program: ir.Model | GraphModule) -> Snapshot:
    return GraphSnapshot.of(program) if isinstance(program, ir.Model) else ModuleSnapshot.of(program)


def is_program(program: object) -> bool:
    """Whether it is something that passes can edit; torch is asked only if somebody has imported it."""
    fx = sys.modules.get("torch.fx")
    return isinstance(program, ir.Model) or (fx is not None and isinstance(program, fx.GraphModule))


def same_kind(program: object, before: Snapshot) -> bool:
    """Whether it is an ONNX model still, or a module still."""
    return isinstance(program, ir.Model) == isinstance(before, GraphSnapshot)


def checksum(tensor: Tensor) -> int:
    import torch  # whoever has a module has imported it

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return zlib.crc32(flat.view(torch.uint8).numpy().data) if flat.numel() else 0
