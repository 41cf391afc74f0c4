"""spell-quantizers: the quantizers of a training become operators that every ONNX tool knows.

    before   y = FakeQuantize(x, d, q_m, t)                                        of the domain getac
    after    W_int -> Clip -> DequantizeLinear -> y                                where x is stored
    after    x -> QuantizeLinear -> Clip -> DequantizeLinear -> y                  where t = 1
    after    y = getac.SignedPowerUINT8(x, q_m, t, d ...)                          otherwise: a function of
             Sign(x) * DequantizeLinear(Clip(QuantizeLinear(Min(Abs(x), q_m)^t)))  the model

Signed activations of 8 bits are UINT8 around 128, weights INT8. There is no Clip where the lattice fills
the type of its integers. The results are those of training to the
last bit; where a tool rounds a power differently, one step aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.errors import InvalidModelError, UnsupportedModelError
from getac.onnx_graph.edit import array_of, is_stored
from getac.onnx_graph.fake_quantizer import DOMAIN, FakeQuantizer, is_fake_quantizer, read_fake_quantizer
from getac.onnx_graph.qdq import Storage, cast, quantizer_nodes, restoring_nodes
from getac.onnx_graph.quantized_power import quantized_power
from getac.pipeline import Fact, State
from getac.quantizer import Quantizer

__all__ = ["SpellQuantizers"]

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
OLDEST_OPSET = 21  # DequantizeLinear of INT16


@dataclass(frozen=True)
class SpellQuantizers:
    """Replaces the FakeQuantize nodes that an exported training has; the model's opset is 21 or later.

    Raises:
        UnsupportedModelError: An older opset, a node in a subgraph, more than 16 bits, x of another type.
        InvalidModelError: Parameters or weights that are no numbers, parameters of other shapes.
    """

    name: ClassVar[str] = "spell-quantizers"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, state: State) -> None:
        model = state.model
        nodes = [node for node in model.graph.all_nodes() if is_fake_quantizer(node)]
        if nodes:
            check(model, nodes)
        for node in nodes:
            spell(node, model)
        if not any(node.domain == DOMAIN for node in model.graph.all_nodes()):
            model.opset_imports.pop(DOMAIN, None)


def check(model: ir.Model, nodes: list[ir.Node]) -> None:
    opset = model.opset_imports.get("", 0)
    if opset < OLDEST_OPSET:
        raise UnsupportedModelError(
            "quantizers need a later opset", required=f"opset {OLDEST_OPSET}", found=f"opset {opset}"
        )
    for node in nodes:
        if node.graph is not model.graph:
            raise UnsupportedModelError(
                "a quantizer is in a subgraph", where=f"FakeQuantize node {node.name}"
            )


def spell(node: ir.Node, model: ir.Model) -> None:
    x, graph = node.inputs[0], model.graph
    assert x is not None
    how, dtype = read_fake_quantizer(node), float_type_of(node, x)
    if is_stored(x):
        nodes = weight_nodes(graph, x, how)
    else:
        nodes = [] if dtype is ir.DataType.FLOAT else [wide_cast(graph, x)]
        wide = nodes[-1].outputs[0] if nodes else x
        if how.exponent == 1 and np.ptp(how.high) == 0:
            record = record_of(how)
            nodes += quantizer_nodes(graph, wide, record, ir.DataType.FLOAT, Storage.exchanged(record))
        else:
            nodes.append(quantized_power(model, wide, how))
    if dtype is not ir.DataType.FLOAT:
        nodes.append(cast(graph, nodes[-1].outputs[0], f"{x.name}.rounded", dtype))
    put_in_place(node, nodes)


def record_of(how: FakeQuantizer) -> Quantizer:
    return Quantizer(how.step, -how.highest if how.signed else 0, how.highest, how.axis)


def wide_cast(graph: ir.Graph, x: ir.Value) -> ir.Node:
    """Training rounds in float32, whatever the type of x."""
    node = cast(graph, x, f"{x.name}.wide", ir.DataType.FLOAT)
    node.outputs[0].shape = x.shape
    return node


def weight_nodes(graph: ir.Graph, x: ir.Value, how: FakeQuantizer) -> list[ir.Node]:
    """Stored integers, their Clip and their DequantizeLinear; not yet in the graph."""
    record = record_of(how)
    storage = Storage.centred(record)
    weight = array_of(x).astype(np.float32)
    if np.isnan(weight).any():
        raise InvalidModelError(
            "a weight contains NaN", where=f"tensor {x.name}", required="numbers", hint="training diverged"
        )
    integers = how.integers(weight).astype(storage.integer.numpy())
    return restoring_nodes(graph, str(x.name), integers, record, storage)


def float_type_of(node: ir.Node, x: ir.Value) -> ir.DataType:
    """The type of x and y, float32 where the model does not say."""
    dtype = x.dtype or node.outputs[0].dtype or ir.DataType.FLOAT
    if dtype not in FLOATS:
        raise UnsupportedModelError(
            "a quantizer rounds a tensor of another type",
            where=f"FakeQuantize node {node.name} of {x.name}",
            required="float32, float16 or bfloat16",
            found=dtype.name,
        )
    return dtype


def put_in_place(node: ir.Node, nodes: list[ir.Node]) -> None:
    """The last of the nodes makes the value that a node made, under its name."""
    graph, old, new = node.graph, node.outputs[0], nodes[-1].outputs[0]
    assert isinstance(graph, ir.Graph)
    graph.insert_before(node, nodes)
    new.shape, name = old.shape, old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    read = [value for value in node.inputs if value is not None]
    graph.remove(node, safe=True)
    new.name = name
    for value in read:
        if value.is_initializer() and not (value.uses() or value.is_graph_output()):
            graph.initializers.pop(str(value.name), None)
