"""Gives the quantizers of QONNX, which no runtime knows, their meaning in standard operators.

    Quant(x, s, z, b)   = (round(clip(x / s + z, low, high)) - z) s
    BipolarQuant(x, s)  = s if x >= 0, else -s

From b bits, low and high are 0 and 2^b - 1, or -2^(b-1) and 2^(b-1) - 1 where signed; `narrow` leaves out one
integer at the end that has one more. They are local functions of the model from here on, and recognised like
any other quantizer. QONNX 1.0 and Brevitas write them in the domains below; QONNX's own conversion of Q/DQ
leaves zero points in their type of integers.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper, parser

from getac.errors import UnsupportedModelError

__all__ = ["DOMAINS", "give_bodies"]

DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")

ROUNDINGS = {
    "ROUND": "r = Round(c)",
    "HALF_EVEN": "r = Round(c)",
    "CEIL": "r = Ceil(c)",
    "FLOOR": "r = Floor(c)",
    "UP": "g = Sign(c)  h = Abs(c)  i = Ceil(h)  r = Mul(g, i)",
    "DOWN": "g = Sign(c)  h = Abs(c)  i = Floor(h)  r = Mul(g, i)",
}

QUANT = """
  two = Constant<value = float {{2.0}}>()
  one = Constant<value = float {{1.0}}>()
  b = Cast<to = 1>(bits)
  z = Cast<to = 1>(zero)
  {bounds}
  a = Div(x, s)
  t = Add(a, z)
  u = Max(t, low)
  c = Min(u, high)
  {rounding}
  v = Sub(r, z)
  y = Mul(v, s)
"""

BOUNDS = {
    # (signed, narrow)
    (1, 0): "m = Sub(b, one)  p = Pow(two, m)  low = Neg(p)  high = Sub(p, one)",
    (1, 1): "m = Sub(b, one)  p = Pow(two, m)  high = Sub(p, one)  low = Neg(high)",
    (0, 0): "p = Pow(two, b)  low = Sub(one, one)  high = Sub(p, one)",
    (0, 1): "p = Pow(two, b)  low = Sub(one, one)  high = Sub(p, two)",
}

BIPOLAR = """
  zero = Constant<value = float {0.0}>()
  p = GreaterOrEqual(x, zero)
  n = Neg(s)
  y = Where(p, s, n)
"""


def give_bodies(proto: onnx.ModelProto) -> None:
    """Adds a function for every kind of quantizer that a model calls.

    Raises:
        UnsupportedModelError: A rounding mode without a meaning in standard operators.
    """
    own = {(function.domain, function.name) for function in proto.functions}
    version = next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 0)
    bodies: dict[tuple[str, str, str], onnx.FunctionProto] = {}
    for node in quantizers(proto.graph):
        if (node.domain, node.op_type) in own:
            continue
        text, inputs, node.overload = meaning(node)
        key = node.domain, node.op_type, node.overload
        if key not in bodies:
            bodies[key] = function(node, text, inputs, version)
    proto.functions.extend(bodies.values())


def quantizers(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        if node.domain in DOMAINS and node.op_type in ("Quant", "IntQuant", "BipolarQuant"):
            yield node


def meaning(node: onnx.NodeProto) -> tuple[str, list[str], str]:
    """The operators that a node stands for, what it reads, and a name for its attributes."""
    if node.op_type == "BipolarQuant":
        return BIPOLAR, ["x", "s"], "bipolar"
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    signed, narrow = int(given.get("signed", 1)), int(given.get("narrow", 0))
    mode = given.get("rounding_mode", b"ROUND").decode().upper()
    if mode not in ROUNDINGS:
        raise UnsupportedModelError(
            "a quantizer rounds in a way that standard operators cannot say",
            where=f"{node.op_type} node {node.name!r}",
            required=" or ".join(ROUNDINGS),
            found=mode,
        )
    text = QUANT.format(bounds=BOUNDS[signed != 0, narrow != 0], rounding=ROUNDINGS[mode])
    return text, ["x", "s", "zero", "bits"], f"{signed}{narrow}{mode}"


def function(node: onnx.NodeProto, text: str, inputs: list[str], version: int) -> onnx.FunctionProto:
    head = f'<domain: "{node.domain}", opset_import: ["" : {version}]> {node.op_type}'
    parsed = parser.parse_function(f"{head} ({', '.join(inputs)}) => (y) {{ {text} }}")
    parsed.overload = node.overload
    return parsed
