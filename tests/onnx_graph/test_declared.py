"""Outputs without a shape, which the format does not allow and onnxruntime does."""

from __future__ import annotations

import onnx

import getac
from tools.onnx_text import model_of

BODY = "c = Conv(x, w)  n = NonZero(c)  y = Relu(c)"


def test_outputs_get_the_shapes_that_are_computed(tmp_path):
    model = model_of(BODY, {"x": ["N", 3, 6, 6]}, {"w": (8, 3, 3, 3)}, outputs=["y", "n"])
    model.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    found = getac.optimize(model, "remove-dead", tmp_path / "out.onnx")
    assert [str(dim) for dim in found.model.graph.outputs[0].shape] == ["N", "8", "4", "4"]
    assert found.model.graph.outputs[1].shape is not None
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)


def test_lower_takes_such_a_model(tmp_path):
    model = model_of("y = Conv(x, w)", {"x": [2, 3, 6, 6]}, {"w": (8, 3, 3, 3)})
    assert not model.graph.output[0].type.tensor_type.HasField("shape")
    getac.lower(model, tmp_path / "out.onnx", bench=False)
    shape = onnx.load(tmp_path / "out.onnx").graph.output[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [2, 8, 4, 4]
