"""drop-dynamic-quantizers: what onnxruntime's dynamic quantization writes, and its fused operators."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from getac.passes import DropDynamicQuantizers, FoldQuantizers, Pipeline, RemoveDead, State
from getac.runtime import open_session, run
from tools.onnx_text import model_of

F32 = np.float32
RNG = np.random.default_rng(3)


def dropped(model):
    return Pipeline([DropDynamicQuantizers(), RemoveDead()]).run(State(ir.from_proto(model)))


def kinds(state):
    return [node.op_type for node in state.model.graph]


def check(model, state, feeds):
    """Equal up to the rounding of activations to 8 bits, which is left out."""
    (want,) = run(open_session(model.SerializeToString()), feeds).values()
    (got,) = run(open_session(state.model, optimize=False), feeds).values()
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()
    assert not np.array_equal(got, want)


@pytest.fixture
def quantized(tmp_path):
    """onnxruntime's own dynamic quantization of a small model."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def make(body, inputs, tensors, **options):
        onnx.save(model_of(body, inputs, tensors), tmp_path / "float.onnx")
        logging.disable(logging.WARNING)
        quantize_dynamic(
            tmp_path / "float.onnx", tmp_path / "dynamic.onnx", weight_type=QuantType.QInt8, **options
        )
        logging.disable(logging.NOTSET)
        return onnx.load(tmp_path / "dynamic.onnx")

    return make


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_perceptron_of_onnxruntime(quantized, per_channel):
    body, tensors = "a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, v)", {"w": (16, 32), "v": (32, 8)}
    model = quantized(body, {"x": [4, 16]}, tensors, per_channel=per_channel)
    assert [n.op_type for n in model.graph.node].count("MatMulInteger") == 2
    state = dropped(model)
    assert kinds(state) == ["DequantizeLinear", "MatMul", "Relu", "DequantizeLinear", "MatMul"]
    check(model, state, {"x": RNG.normal(size=(4, 16)).astype(F32)})
    Pipeline([FoldQuantizers()]).run(state)
    assert kinds(state) == ["MatMul", "Relu", "MatMul"]
    assert sorted(record.axis is not None for record in state.quantizers.values()) == [per_channel] * 2


def test_convolutions_of_onnxruntime(quantized):
    model = quantized("y = Conv<pads = [1, 1, 1, 1]>(x, w)", {"x": [2, 3, 6, 6]}, {"w": (8, 3, 3, 3)})
    assert "ConvInteger" in [n.op_type for n in model.graph.node]
    state = dropped(model)
    assert kinds(state) == ["DequantizeLinear", "Conv"]
    check(model, state, {"x": RNG.normal(size=(2, 3, 6, 6)).astype(F32)})


WEIGHT = {
    "w": RNG.integers(-127, 128, (16, 8)).astype(np.int8),
    "w_s": RNG.uniform(0.01, 0.02, 8).astype(F32),
    "w_z": np.zeros(8, np.int8),
    "b": RNG.normal(size=8).astype(F32),
}


def fused(*nodes, tensors=WEIGHT):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


DYNAMIC = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "q_s", "q_z"], "quantize")


@pytest.mark.parametrize("bias", [True, False])
def test_the_fused_operators(bias):
    last = ["b"] if bias else []
    whole = fused(
        helper.make_node(
            "DynamicQuantizeMatMul", ["x", "w", "w_s", "w_z", *last], ["y"], "n", domain="com.microsoft"
        )
    )
    names = ["q", "w", "q_s", "w_s", "q_z", "w_z", *last]
    half = fused(DYNAMIC, helper.make_node("MatMulIntegerToFloat", names, ["y"], "n", domain="com.microsoft"))
    for model in (whole, half):
        state = dropped(model)
        assert kinds(state) == ["DequantizeLinear", "MatMul", *(["Add"] if bias else [])]
        check(model, state, {"x": RNG.normal(size=(4, 16)).astype(F32)})


def product(*factors):
    return [
        DYNAMIC,
        helper.make_node("MatMulInteger", ["q", "w", "q_z", "w_z"], ["i"], "product"),
        helper.make_node("Cast", ["i"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [factors[0], factors[1]], ["s"], "scales"),
        helper.make_node("Mul", ["f", "s"], ["y"], "restore"),
    ]


def test_the_scales_may_stand_in_any_order():
    for factors in (("q_s", "w_s"), ("w_s", "q_s")):
        state = dropped(fused(*product(*factors)))
        assert kinds(state) == ["DequantizeLinear", "MatMul"]


def test_a_product_with_something_else_is_refused():
    state = dropped(fused(*product("w_s", "b")))
    assert "MatMulInteger" in kinds(state)
    assert [one.reason for one in state.refusals["drop-dynamic-quantizers"]] == [
        "it is multiplied by something else than the scales of its operands"
    ]


def test_a_second_run_changes_nothing():
    state = dropped(fused(*product("q_s", "w_s")))
    Pipeline([DropDynamicQuantizers()]).run(state)
    assert not state.records[-1].changed
