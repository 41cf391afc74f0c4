"""What a model's callers see of it: the inputs and outputs, their names, types and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Contradiction", "Interface", "described", "dims", "same_sizes"]


@dataclass(frozen=True)
class Contradiction:
    """Where two interfaces differ: in the inputs or in the outputs, and how."""

    kind: str
    required: str
    found: str


@dataclass(frozen=True)
class Port:
    """An input or output at one moment."""

    name: str
    type: ir.TypeProtocol | None
    dims: tuple[object, ...] | None
    text: str

    @classmethod
    def of(cls, value: ir.Value) -> Port:
        return cls(str(value.name), value.type, dims(value), described(value))

    def takes(self, other: Port) -> bool:
        """Whether the other is the same, as far as both are known."""
        same_type = self.type is None or other.type is None or self.type == other.type
        return self.name == other.name and same_type and same_sizes(self.dims, other.dims)


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a model at one moment, in order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @classmethod
    def of(cls, graph: ir.Graph) -> Interface:
        return cls(tuple(map(Port.of, graph.inputs)), tuple(map(Port.of, graph.outputs)))

    def contradiction(self, later: Interface) -> Contradiction | None:
        """How the later one breaks what callers of this one rely on; None if it does not."""
        pairs = (("inputs", self.inputs, later.inputs), ("outputs", self.outputs, later.outputs))
        for kind, before, after in pairs:
            if [one.name for one in before] != [one.name for one in after]:
                return Contradiction(kind, listed(before), listed(after))
            for one, other in zip(before, after, strict=True):
                if not one.takes(other):
                    return Contradiction(kind, one.text, other.text)
        return None


def listed(ports: Sequence[Port]) -> str:
    return ", ".join(one.name for one in ports) or "none"


def same_sizes(one: tuple[object, ...] | None, other: tuple[object, ...] | None) -> bool:
    """Whether no size contradicts another; a dynamic one fits any."""
    if one is None or other is None:
        return True
    pairs = list(zip(one, other, strict=False))
    return len(one) == len(other) and not any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs
    )


def dims(value: ir.Value) -> tuple[object, ...] | None:
    return None if value.shape is None else tuple(value.shape)


def described(value: ir.Value) -> str:
    sizes = "?" if value.shape is None else ", ".join(map(str, value.shape))
    return f"{value.name}: {value.dtype.name.lower() if value.dtype else '?'}[{sizes}]"
