"""write-quantizers: integers in the narrowest type that holds them, and the numbers of before."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from getac.onnx_graph.edit import array_of
from getac.passes import WriteQuantizers
from getac.pipeline import Pipeline, State
from getac.quantizer import Quantizer

F32 = np.float32
LATTICES = [
    (-127, 127, ir.DataType.INT8, 0),
    (0, 255, ir.DataType.UINT8, 0),
    (-100, 155, ir.DataType.UINT8, 100),
    (-255, 255, ir.DataType.INT16, 0),
    (0, 65535, ir.DataType.UINT16, 0),
]


@pytest.mark.parametrize(("low", "high", "dtype", "zero_point"), LATTICES)
def test_a_weight(build, evaluate, low, high, dtype, zero_point):
    record = Quantizer(np.asarray(0.01, F32), low, high)
    numbers = np.linspace(low, high, 8, dtype=F32).reshape(2, 4) * F32(0.01)
    model = build("(float[N,2] x) => (float[N,4] y) { y = MatMul(x, w) }", w=numbers)
    weight = model.graph.initializers["w"]
    Pipeline([WriteQuantizers()]).run(State(model, quantizers={weight: record}))
    assert "w" not in model.graph.initializers
    stored, zeros = (model.graph.initializers[f"w.{part}"] for part in ("int", "zero_point"))
    assert stored.dtype is zeros.dtype is dtype and array_of(zeros) == zero_point
    x = np.eye(2, dtype=F32)
    [y] = evaluate(model, x=x)
    np.testing.assert_array_equal(y, record.quantize(numbers))
