"""Gives the quantizers of QONNX, which no runtime knows, their meaning in standard operators.

    Quant(x, s, z, b)              = (round(clip(x / s + z, low, high)) - z) s
    BipolarQuant(x, s)             = s if x >= 0, else -s
    Trunc(x, s, z, b, c)           = (round(round(x / s + z) / 2^(b - c)) - z) s
    Trunc(x, s, z, b, s', c)       = (round(clip(round(x / s + z) / t, low, high)) - z / t) s',  t = s' / s

From b bits (in the last: c), low and high are 0 and 2^b - 1, or -2^(b-1) and 2^(b-1) - 1 where signed;
`narrow` leaves out one integer at the end that has one more. The outer round is that of the attribute
rounding_mode; t is rounded to a power of two. They are local functions of the model from here on, and
recognised like any other quantizer. QONNX 1.0 (whose operators these are) and Brevitas write them in the
domains below; QONNX's own conversion of Q/DQ leaves zero points in their type of integers.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper, parser

from getac.errors import UnsupportedModelError
from getac.onnx_graph.functions import subgraphs

__all__ = ["DOMAINS", "give_bodies"]

DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")

HALF = "half = Constant<value = float {0.5}>()"
ROUNDINGS = {
    "ROUND": "r = Round(c)",
    "HALF_EVEN": "r = Round(c)",
    "CEIL": "r = Ceil(c)",
    "FLOOR": "r = Floor(c)",
    "UP": "g = Sign(c)  h = Abs(c)  i = Ceil(h)  r = Mul(g, i)",
    "DOWN": "g = Sign(c)  h = Abs(c)  i = Floor(h)  r = Mul(g, i)",
    "ROUND_TO_ZERO": "g = Sign(c)  h = Abs(c)  i = Floor(h)  r = Mul(g, i)",
    "HALF_UP": f"{HALF}  g = Sign(c)  h = Abs(c)  k = Add(h, half)  i = Floor(k)  r = Mul(g, i)",
    "HALF_DOWN": f"{HALF}  g = Sign(c)  h = Abs(c)  k = Sub(h, half)  i = Ceil(k)  r = Mul(g, i)",
}

START = """
  two = Constant<value = float {{2.0}}>()
  one = Constant<value = float {{1.0}}>()
  b = Cast<to = 1>(bits)
  z = Cast<to = 1>(zero)
  a = Div(x, s)
  t = Add(a, z)
"""
CUT = "u = Max(v, low)  c = Min(u, high)"

QUANT = f"{START}  v = Identity(t)  {{bounds}}  {CUT}  {{rounding}}  w = Sub(r, z)  y = Mul(w, s)"

TRUNC = f"""{START}
  less = Cast<to = 1>(fewer)
  n = Round(t)
  m = Sub(b, less)
  p = Pow(two, m)
  c = Div(n, p)
  {{rounding}}
  w = Sub(r, z)
  y = Mul(w, s)
"""

TRUNC_TO_SCALE = f"""{START}
  n = Round(t)
  f = Div(to, s)
  logs = Log(f)
  base = Log(two)
  e = Div(logs, base)
  whole = Round(e)
  factor = Pow(two, whole)
  v = Div(n, factor)
  {{bounds}}
  {CUT}
  {{rounding}}
  point = Div(z, factor)
  w = Sub(r, point)
  y = Mul(w, to)
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
        UnsupportedModelError: A rounding mode that QONNX does not have.
    """
    own = {(function.domain, function.name) for function in proto.functions}
    version = next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 0)
    bodies: dict[tuple[str, str, str], onnx.FunctionProto] = {}
    for node in quantizers(proto):
        if (node.domain, node.op_type) in own:
            continue
        text, inputs, node.overload = meaning(node)
        key = node.domain, node.op_type, node.overload
        if key not in bodies:
            bodies[key] = function(node, text, inputs, version)
    proto.functions.extend(bodies.values())


def quantizers(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The quantizers of all graphs and functions of a model."""
    pending = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while pending:
        node = pending.pop()
        pending += [inner for graph in subgraphs(node) for inner in graph.node]
        if node.domain in DOMAINS and node.op_type in ("Quant", "IntQuant", "BipolarQuant", "Trunc"):
            yield node


def meaning(node: onnx.NodeProto) -> tuple[str, list[str], str]:
    """The operators that a node stands for, what it reads, and a name for its attributes."""
    if node.op_type == "BipolarQuant":
        return BIPOLAR, ["x", "s"], "bipolar"
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    signed, narrow = int(given.get("signed", 1) != 0), int(given.get("narrow", 0) != 0)
    mode = rounding_of(node, given.get("rounding_mode", b"FLOOR" if node.op_type == "Trunc" else b"ROUND"))
    body, inputs = QUANT, ["x", "s", "zero", "bits"]
    if node.op_type == "Trunc":
        to_scale = len(node.input) == 6
        body = TRUNC_TO_SCALE if to_scale else TRUNC
        inputs = [*inputs[:3], "before", "to", "bits"] if to_scale else [*inputs, "fewer"]
    text = body.format(bounds=BOUNDS[signed, narrow], rounding=ROUNDINGS[mode])
    return text, inputs, f"{signed}{narrow}{mode}{len(inputs)}"


def rounding_of(node: onnx.NodeProto, given: bytes) -> str:
    mode = given.decode().upper()
    if mode not in ROUNDINGS:
        raise UnsupportedModelError(
            "a quantizer rounds in a way that standard operators cannot say",
            where=f"{node.op_type} node {node.name!r}",
            required=" or ".join(ROUNDINGS),
            found=mode,
        )
    return mode


def function(node: onnx.NodeProto, text: str, inputs: list[str], version: int) -> onnx.FunctionProto:
    head = f'<domain: "{node.domain}", opset_import: ["" : {version}]> {node.op_type}'
    parsed = parser.parse_function(f"{head} ({', '.join(inputs)}) => (y) {{ {text} }}")
    parsed.overload = node.overload
    return parsed
