"""quantize-dynamically: what came with dynamic ranges leaves with them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

import getac
from getac.executed import executed_kernels
from getac.runtime import open_session, run
from tests.passes.test_drop_dynamic_quantizers import WEIGHT, fused, product
from tools.onnx_text import model_of

F32 = np.float32
X = {"x": np.random.default_rng(0).normal(size=(4, 16)).astype(F32)}


def outputs(model):
    return next(iter(run(open_session(model), X).values()))


@pytest.mark.parametrize("order", [("q_s", "w_s"), ("w_s", "q_s")])
def test_the_function_is_that_of_before_and_so_is_the_kernel(tmp_path, order):
    model = fused(*product(*order))
    report = getac.lower(model, tmp_path / "lowered.onnx", bench=False)
    np.testing.assert_array_equal(outputs(tmp_path / "lowered.onnx"), outputs(model.SerializeToString()))
    assert [node.op_type for node in executed_kernels(tmp_path / "lowered.onnx")] == ["DynamicQuantizeMatMul"]
    assert [layer.kernel for layer in report.layers] == ["integer (DynamicQuantizeMatMul)"]


def test_with_data_ranges_are_fixed(tmp_path):
    model = fused(*product("q_s", "w_s"))
    getac.lower(model, tmp_path / "lowered.onnx", calibration=X, bench=False)
    kinds = {node.op_type for node in executed_kernels(tmp_path / "lowered.onnx")}
    assert "QGemm" in kinds
    assert not kinds & {"DynamicQuantizeMatMul", "DynamicQuantizeLinear"}


def test_names_that_are_taken_stay(tmp_path):
    """A norm in front has parameters of the names that the integers of its result would get."""
    model = fused(*product("q_s", "w_s"))
    model.graph.input[0].name = "given"
    model.graph.node.insert(0, helper.make_node("Mul", ["given", "x.scale"], ["x"], "x.quantized"))
    model.graph.initializer.append(numpy_helper.from_array(np.full(16, 0.5, F32), "x.scale"))
    getac.lower(model, tmp_path / "lowered.onnx", bench=False)
    feeds = {"given": X["x"]}
    found, expected = (
        run(open_session(one), feeds) for one in (tmp_path / "lowered.onnx", model.SerializeToString())
    )
    np.testing.assert_array_equal(*(next(iter(one.values())) for one in (found, expected)))


def test_weights_alone_stay_so(tmp_path):

    body = "v = DequantizeLinear<axis = 1>(w, w_s, w_z)  y = MatMul(x, v)"
    tensors = {name: WEIGHT[name] for name in ("w", "w_s", "w_z")}
    getac.lower(model_of(body, {"x": [4, 16]}, tensors), tmp_path / "lowered.onnx", bench=False)
    assert [node.op_type for node in executed_kernels(tmp_path / "lowered.onnx")] == ["MatMulNBits"]
