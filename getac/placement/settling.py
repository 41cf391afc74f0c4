"""The placement in which every layer on integers has a bias that INT32 holds, or none.

before   x -> Gemm(W, b) -> y                                      a bias that has no form in integers
after    x -> Gemm(W) -> Add(b) -> y

Layers other than Gemm go back to floats for it, and the placement is made again without them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from getac.layers import read_weights
from getac.onnx_graph.edit import add_initializer, array_of, unique_name
from getac.onnx_graph.qdq import new_node
from getac.placement.biases import IntegerBias, integer_bias
from getac.placement.clipping import carrier
from getac.placement.placement import Placement, is_layer, place
from getac.quantizer import Quantizer

__all__ = ["bias_of", "finer_readings", "settle"]

COARSE = "its bias would change results: integers that stand for it are too coarse"


def settle(
    graph: ir.Graph,
    quantizers: Mapping[ir.Value, Quantizer],
    calibrated: bool,
    floats: Mapping[ir.Node, str],
) -> tuple[Placement, dict[ir.Node, IntegerBias]]:
    """The placement, and the biases of its integer layers; a Gemm may lose its own to an Add.

    Args:
        calibrated, floats: As for `place`.
    """
    biases, in_floats = dict[ir.Node, IntegerBias](), dict(floats)
    placement = place(graph, quantizers, calibrated, in_floats)
    layers = [n for n in graph if n in placement.integer and is_layer(n) and bias_of(n) is not None]
    for node in layers:
        form = bias_form(node, quantizers, placement)
        if form is not None:
            biases[node] = form
        elif node.op_type == "Gemm":
            split_bias(node)
        else:
            in_floats[node] = COARSE
    if len(biases) < len(layers):
        placement = place(graph, quantizers, calibrated, in_floats)
    return placement, biases


def finer_readings(placement: Placement, biases: Mapping[ir.Node, IntegerBias]) -> dict[ir.Node, int]:
    """The layers that read their input in finer steps for their bias, and how many times finer."""
    integer = {node: form.finer.inputs for node, form in biases.items() if node in placement.integer}
    return {node: times for node, times in integer.items() if times > 1}


def bias_of(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def bias_form(
    node: ir.Node, quantizers: Mapping[ir.Value, Quantizer], placement: Placement
) -> IntegerBias | None:
    weight, x = node.inputs[1], node.inputs[0]
    assert weight is not None and x is not None
    results = quantizers.get(placement.source(carrier(node, quantizers)))
    return integer_bias(
        read_weights(node, quantizers[weight]),
        quantizers[placement.source(x)],
        results if node.op_type == "Conv" else None,
    )


def split_bias(gemm: ir.Node) -> None:
    """A Gemm becomes one without bias, and the Add of its bias, which makes what the Gemm made."""
    graph, bias = gemm.graph, bias_of(gemm)
    assert isinstance(graph, ir.Graph) and bias is not None
    name, result = str(gemm.name), gemm.outputs[0]
    row = array_of(bias).astype(np.float32) * np.float32(gemm.attributes.get_float("beta", 1.0))
    gemm.name = unique_name(graph, f"{name}.bias")
    product = new_node(graph, "Gemm", gemm.inputs[:2], f"{result.name}.product", ir.DataType.FLOAT)
    product.name = name
    product.attributes.update(gemm.attributes)
    product.meta.update(gemm.meta)
    graph.insert_before(gemm, product)
    gemm.op_type = "Add"
    gemm.attributes.clear()
    gemm.resize_inputs(2)
    gemm.replace_input_with(0, product.outputs[0])
    gemm.replace_input_with(1, add_initializer(graph, str(bias.name), row.reshape(-1)))
