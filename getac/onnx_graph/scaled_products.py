"""Steps behind a product with stored integers: they belong to its weight.

before   MatMul(x, Cast(W_int)) -> Mul(s)
after    MatMul(x, Mul(Cast(W_int), s))
"""

from __future__ import annotations

import onnx_ir as ir

from getac.onnx_graph.branches import Branches
from getac.onnx_graph.edit import Array, add_initializer, array_of, is_stored, unique_name

__all__ = ["INTEGERS", "scale_weight"]

INTEGERS = {getattr(ir.DataType, f"{sign}INT{bits}") for sign in ("", "U") for bits in (2, 4, 8, 16)}
STANDARD = ("", "ai.onnx")


def scale_weight(node: ir.Node, branches: Branches) -> None:
    """Moves the steps of a Mul to the weight of the product that it scales, where they are one per column."""
    graph, product, steps = node.graph, *product_and_steps(node, branches)
    if product is None or steps is None or not isinstance(graph, ir.Graph):
        return
    array, weight = array_of(steps) if is_stored(steps) else branches.result(steps), product.inputs[1]
    if not is_row(array, product):
        return
    row = add_initializer(graph, f"{steps.name}.row", array.reshape(-1) if array.ndim else array)
    scaled = ir.node("Mul", [weight, row], name=unique_name(graph, f"{product.name}.weight"))
    scaled.outputs[0].name, scaled.outputs[0].type = scaled.name, node.outputs[0].type
    graph.insert_before(product, scaled)
    product.replace_input_with(1, scaled.outputs[0])
    made, name = product.outputs[0], node.outputs[0].name
    made.shape = node.outputs[0].shape
    ir.convenience.replace_all_uses_with(node.outputs[0], made, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    made.name = name


def product_and_steps(node: ir.Node, branches: Branches) -> tuple[ir.Node | None, ir.Value | None]:
    """What a Mul, in either order, scales and by what: a MatMul by stored integers for nobody else."""
    if node.op_type != "Mul" or node.domain not in STANDARD:
        return None, None
    for made, steps in (node.inputs, node.inputs[::-1]):
        product = made.producer() if made is not None else None
        if product is None or product.op_type != "MatMul" or steps is None or not branches.is_constant(steps):
            continue
        weight, made = product.inputs[1], product.outputs[0]
        cast = weight.producer() if weight is not None else None
        integers = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
        mine = product.graph is node.graph and len(made.uses()) == 1 and not made.is_graph_output()
        if integers is not None and integers.dtype in INTEGERS and mine:
            return product, steps
    return None, None


def is_row(steps: Array, product: ir.Node) -> bool:
    """Whether steps are one for all or one per column of a product, and leave it its shape."""
    x, weight = product.inputs
    cast = weight.producer() if weight is not None else None
    integers = cast.inputs[0] if cast is not None else None
    shape = integers.shape if integers is not None else None
    if x is None or shape is None or len(shape) < 2 or steps.size not in {1, shape[-1]}:
        return False
    rank = max(len(x.shape), len(shape)) if x.shape is not None and len(x.shape) > 1 else 1
    return steps.ndim <= rank and (not steps.ndim or steps.shape[-1] == steps.size)
