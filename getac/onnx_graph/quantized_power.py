"""A quantizer with an exponent as a function of the model: one node, whose body any ONNX tool can run.

y = Sign(x) d round(Min(Abs(x), q_m)^t / d)        unsigned: Relu(x) in place of Abs(x), and no Sign
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from getac.errors import UnsupportedModelError
from getac.onnx_graph.edit import add_initializer
from getac.onnx_graph.fake_quantizer import DOMAIN, FakeQuantizer
from getac.onnx_graph.qdq import Storage, new_node
from getac.quantizer import Quantizer

__all__ = ["quantized_power"]

BODY = """<domain: "getac", opset_import: ["" : 21]>
{name} <axis: int = 1> (x, range, exponent, scale, zero_point, greatest) => (y) {{
    magnitude = {magnitude}(x)
    inside = Min(magnitude, range)
    power = Pow(inside, exponent)
    integers = QuantizeLinear <axis: int = @axis> (power, scale, zero_point)
    {cut}
    {rounded} = DequantizeLinear <axis: int = @axis> (kept, scale, zero_point)
    {sign}
}}"""

CUTS = {
    ir.DataType.UINT8: "kept = Clip(integers, , greatest)",
    # onnxruntime has no Clip of 16-bit integers
    ir.DataType.UINT16: f"""wide = Cast <to = {int(ir.DataType.INT32)}> (integers)
    least_of_wide = Clip(wide, , greatest)
    kept = Cast <to = {int(ir.DataType.UINT16)}> (least_of_wide)""",
}


def quantized_power(model: ir.Model, x: ir.Value, how: FakeQuantizer) -> ir.Node:
    """The call of the function, which the model is given if it does not have it; not yet in the graph.

    Args:
        x: float32; its rank is known if the quantizer has an axis.
    """
    name, graph = x.name or "value", model.graph
    record = Quantizer(how.step, 0, how.highest, how.axis)
    storage = Storage.unsigned(record)
    wide = storage.integer if storage.integer is ir.DataType.UINT8 else ir.DataType.INT32
    tensors = {
        "range": along(how, x),
        "exponent": np.asarray(how.exponent),
        "scale": how.step,
        "zero_point": np.zeros(how.step.shape, storage.integer.numpy()),
        "greatest": np.asarray(record.high, wide.numpy()),
    }
    stored = [add_initializer(graph, f"{name}.{part}", array) for part, array in tensors.items()]
    function = function_of(how.signed, storage.integer)
    model.functions.setdefault(function.identifier(), function)
    model.opset_imports[DOMAIN] = 1
    attributes = {} if how.axis is None else {"axis": how.axis}
    call = new_node(graph, function.name, [x, *stored], f"{name}.power", ir.DataType.FLOAT, **attributes)
    call.domain = DOMAIN
    return call


def along(how: FakeQuantizer, x: ir.Value) -> np.ndarray:
    """q_m, shaped to broadcast against x."""
    if how.axis is not None and x.shape is None:
        raise UnsupportedModelError(
            "a quantizer per channel rounds a tensor of unknown rank",
            where=f"value {x.name}",
            hint="export the model with the shapes of its values",
        )
    return how.range if x.shape is None else np.asarray(how.along(how.range, len(x.shape)))


def function_of(signed: bool, integer: ir.DataType) -> ir.Function:
    text = BODY.format(
        name=f"{'Signed' if signed else 'Unsigned'}Power{integer.name}",
        magnitude="Abs" if signed else "Relu",
        cut=CUTS[integer],
        rounded="rounded" if signed else "y",
        sign="sign = Sign(x)\n    y = Mul(sign, rounded)" if signed else "",
    )
    return ir.serde.deserialize_function(onnx.parser.parse_function(text))
