"""What the schemas' shape inference lets pass, although no runtime can run it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

from getac.onnx_graph.tensor_types import Kind, dims_of, sizes_of

__all__ = ["Contradiction", "check_sizes"]

_WINDOWED = frozenset(
    {"AveragePool", "Conv", "ConvInteger", "ConvTranspose", "LpPool", "MaxPool", "QLinearConv"}
)
_Dims = Sequence[int | None] | None


class Contradiction(Exception):
    """The operator cannot run on inputs of these sizes."""


def check_sizes(node: onnx.NodeProto, inputs: Sequence[Kind | None], outputs: Sequence[Kind | None]) -> None:
    """Raises Contradiction for windows that do not fit, wrong channel counts and lost elements."""
    if node.domain != "":
        return
    for kind in outputs:
        smallest = min((size for size in dims_of(kind) or () if size is not None), default=1)
        if smallest < 0 or (smallest == 0 and node.op_type in _WINDOWED):
            found = _text(dims_of(inputs[0]))
            raise Contradiction(f"its input {found} is too small, the output would be {smallest} long")
    if node.op_type == "Conv":
        _check_channels(node, dims_of(inputs[0]), dims_of(inputs[1]))
    if node.op_type == "Reshape":
        _check_count(sizes_of(inputs[0]), sizes_of(outputs[0]))


def _check_channels(node: onnx.NodeProto, data: _Dims, weight: _Dims) -> None:
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    if data is None or weight is None or min(len(data), len(weight)) < 2:
        return
    channels, outputs, per_group = data[1], weight[0], weight[1]
    if groups < 1 or (outputs is not None and outputs % groups):
        raise Contradiction(f"its {outputs} output channels cannot be split into {groups} groups")
    if channels is not None and per_group is not None and channels != per_group * groups:
        found = f"its input {_text(data)} has {channels} channels"
        raise Contradiction(f"{found}, its weight {_text(weight)} needs {per_group * groups}")


def _check_count(before: tuple[int, ...] | None, after: tuple[int, ...] | None) -> None:
    if before is not None and after is not None and math.prod(before) != math.prod(after):
        raise Contradiction(f"{_text(before)} and {_text(after)} do not have equally many elements")


def _text(dims: _Dims) -> str:
    if dims is None:
        return "of unknown rank"
    return "x".join("?" if size is None else str(size) for size in dims) or "scalar"
