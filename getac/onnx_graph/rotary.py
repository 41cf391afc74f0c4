"""RotaryEmbedding (opset 23) in operators of opset 21, in a form whose heads the analysis follows.

    halves        X1, X2 = Split(X)                     Y = Concat(X1 cos - X2 sin, X1 sin + X2 cos)
    interleaved   X1, X2 = Split(Reshape(X, d/2 x 2))   Y = the same, with the pairs side by side again

A pair of head dimensions is turned by the angle of its position, so both go together, with their angle. The
function body in the operator's own definition cuts at computed sizes, at which heads would freeze.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from getac.onnx_graph.emitter import Emitter, Types, dimensions, element_type
from getac.onnx_graph.functions import Names

__all__ = ["expand_rotary"]

_FLAT, _SPLIT = 3, 4  # ranks of (batch, length, heads x d) and (batch, heads, length, d)


def expand_rotary(
    node: onnx.NodeProto, version: int, types: Types, names: Names
) -> list[onnx.NodeProto] | None:
    """The nodes that a RotaryEmbedding node stands for; ONNX RotaryEmbedding-23.

    Returns:
        None where the rank is not known, or the head dimension of a node that turns only some of it.
    """
    x, cos, sin, positions = (*node.input, "", "")[:4]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    shape, heads = dimensions(types, x), attributes.get("num_heads", 0)
    if shape is None or not (len(shape) == _SPLIT or (len(shape) == _FLAT and heads)):
        return None
    turned = attributes.get("rotary_embedding_dim", 0)
    if turned:
        width = shape[-1]
        if not isinstance(width, int):
            return None
        turned = turned if turned < (width // heads if len(shape) == _FLAT else width) else 0
    e = Emitter(node.name or node.op_type, element_type(types, x), names)
    rotation = _Rotation(e, len(shape) == _FLAT, heads, turned, bool(attributes.get("interleaved", 0)))
    rotation.emit(x, cos, sin, positions, node.output[0])
    return e.made


@dataclass(frozen=True)
class _Rotation:
    """One node's way to turn.

    Args:
        turned: How many head dimensions are turned; 0: all.
    """

    e: Emitter
    flat: bool
    heads: int
    turned: int
    interleaved: bool

    def emit(self, x: str, cos: str, sin: str, positions: str, y: str) -> None:
        e, last = self.e, "" if self.flat else y
        split = e("Reshape", x, e.integers(0, 0, self.heads, -1)) if self.flat else x
        angles = self._angles(cos, positions), self._angles(sin, positions)
        if self.turned:
            part, rest = (e("Slice", split, *map(e.integers, cut)) for cut in self._cuts())
            result = e("Concat", self._turn(part, angles), rest, axis=-1, output=last)
        else:
            result = self._turn(split, angles, last)
        if self.flat:
            e("Reshape", result, e.integers(0, 0, -1), output=y)

    def _cuts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Start, end and axis of the dimensions that are turned, and of those that stay."""
        return (0, self.turned, 3), (self.turned, (1 << 63) - 1, 3)

    def _angles(self, table: str, positions: str) -> str:
        """(batch, length, d/2), for all heads."""
        picked = self.e("Gather", table, positions, axis=0) if positions else table
        return self.e("Unsqueeze", picked, self.e.integers(2 if self.flat else 1))

    def _turn(self, x: str, angles: tuple[str, str], output: str = "") -> str:
        e, (cos, sin) = self.e, angles
        x1, x2 = self._pairs(x)
        real = e("Sub", e("Mul", x1, cos), e("Mul", x2, sin))
        imaginary = e("Add", e("Mul", x1, sin), e("Mul", x2, cos))
        if not self.interleaved:
            return e("Concat", real, imaginary, axis=-1, output=output)
        columns = (e("Unsqueeze", part, e.integers(-1)) for part in (real, imaginary))
        return e("Reshape", e("Concat", *columns, axis=-1), e.integers(0, 0, 0, -1), output=output)

    def _pairs(self, x: str) -> tuple[str, str]:
        """The first and the second of each pair of head dimensions."""
        e = self.e
        if not self.interleaved:
            return e.halves(x)
        first, second = e.halves(e("Reshape", x, e.integers(0, 0, 0, -1, 2)))
        return e("Squeeze", first, e.integers(-1)), e("Squeeze", second, e.integers(-1))
