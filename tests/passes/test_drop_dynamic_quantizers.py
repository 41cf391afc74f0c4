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


# What is not the product of one quantizer's integers and their scales


def integers(zero="q_z", scale=WEIGHT["w_s"], first=DYNAMIC, step="q_s", **more):
    """x -> `first` -> MatMulInteger -> Cast, times `step` and a stored scale."""
    tensors = {**WEIGHT, "w_s": np.asarray(scale, F32), **more}
    names = ["q", "w", *([zero, "w_z"] if zero else [])]
    return fused(
        *first if isinstance(first, tuple) else (first,),
        helper.make_node("MatMulInteger", names, ["i"], "product"),
        helper.make_node("Cast", ["i"], ["f"], "cast", to=TensorProto.FLOAT),
        *([helper.make_node("Mul", [step, "w_s"], ["s"], "scales")] if step else []),
        helper.make_node("Mul", ["f", "s" if step else "w_s"], ["y"], "restore"),
        tensors=tensors,
    )


OTHER = helper.make_node("DynamicQuantizeLinear", ["minus"], ["o", "o_s", "o_z"], "other")
BOTH = (DYNAMIC, helper.make_node("Neg", ["x"], ["minus"], "neg"), OTHER)
REFUSED = {
    "no zero point": (integers(zero=None), "does not take off the zero point"),
    "another's zero point": (integers(zero="o_z", first=BOTH), "does not take off the zero point"),
    "another's scale": (integers(step="o_s", first=BOTH), "something else than the scales"),
    "no scale of activations": (integers(step=None), "something else than the scales"),
    "a scale per row": (integers(scale=np.full((4, 1), 0.1)), "shape (4, 1) is none of its 8 output units"),
    "a scale per entry": (integers(scale=np.full((4, 8), 0.1)), "shape (4, 8) is none of its 8 output units"),
    "more dimensions": (integers(scale=np.full((1, 1, 8), 0.1)), "adds dimensions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_functions_are_refused(case):
    model, reason = REFUSED[case]
    before = [n.op_type for n in model.graph.node]
    state = dropped(model)
    assert [one.reason for one in state.refusals["drop-dynamic-quantizers"] if reason in one.reason]
    assert kinds(state) == before


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (8,), (1, 8)])
def test_shapes_of_scales_that_are_rows(shape):
    model = integers(scale=np.linspace(0.01, 0.02, np.prod(shape, dtype=int)).reshape(shape))
    state = dropped(model)
    assert kinds(state) == ["DequantizeLinear", "MatMul"]
    check(model, state, {"x": RNG.normal(size=(4, 16)).astype(F32)})


def test_a_zero_point_for_each_column_and_one_scale():
    model = integers(scale=0.01, w_z=RNG.integers(-3, 4, 8).astype(np.int8))
    state = dropped(model)
    assert kinds(state) == ["DequantizeLinear", "MatMul"]
    check(model, state, {"x": RNG.normal(size=(4, 16)).astype(F32)})


# Integers behind a QuantizeLinear


STEP = {"a": np.asarray(0.05, F32), "a_z": np.asarray(100, np.uint8)}
GREATEST = helper.make_node("ReduceMax", ["x"], ["m"], "greatest", keepdims=0)
STATIC = helper.make_node("QuantizeLinear", ["x", "a", "a_z"], ["q"], "quantize")


@pytest.mark.parametrize("scale", [0.01, WEIGHT["w_s"]])
@pytest.mark.parametrize("apart", [True, False])
def test_a_product_behind_a_quantize_linear(scale, apart):
    """The two scales are multiplied in the graph, or in the file already."""
    given = scale if apart else np.asarray(scale, F32) * STEP["a"]
    model = integers("a_z", given, STATIC, "a" if apart else None, **STEP)
    feeds = {"x": RNG.normal(size=(4, 16)).astype(F32)}
    (want,) = run(open_session(model.SerializeToString()), feeds).values()
    state = dropped(model)
    assert kinds(state) == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"]
    assert not state.refusals
    (got,) = run(open_session(state.model, optimize=False), feeds).values()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    Pipeline([FoldQuantizers()]).run(state)
    assert kinds(state) == ["MatMul"] and {record.bits for record in state.quantizers.values()} == {8}


def test_a_convolution_behind_a_quantize_linear(tmp_path):
    w = RNG.integers(-127, 128, (6, 3, 3, 3)).astype(np.int8)
    scale = RNG.uniform(0.01, 0.02, (6, 1, 1)).astype(F32) * STEP["a"]
    nodes = [
        STATIC,
        helper.make_node("ConvInteger", ["q", "w", "a_z"], ["i"], "product", pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["i"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"], "restore"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 6, 6, 6])],
        [numpy_helper.from_array(array, name) for name, array in {"w": w, "s": scale, **STEP}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    feeds = {"x": RNG.normal(size=(2, 3, 6, 6)).astype(F32)}
    (want,) = run(open_session(model.SerializeToString()), feeds).values()
    state = dropped(model)
    assert kinds(state) == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv"]
    (got,) = run(open_session(state.model, optimize=False), feeds).values()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    along_columns = numpy_helper.from_array(np.full((6,), 0.1, F32), "s")
    model.graph.initializer[1].CopyFrom(along_columns)
    state = dropped(model)
    assert "none of its 6 output units" in state.refusals["drop-dynamic-quantizers"][0].reason


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (integers(None, 0.01, STATIC, None, **STEP), "does not take off the zero point that QuantizeLinear"),
        (integers("b_z", 0.01, STATIC, None, **STEP, b_z=np.asarray(3, np.uint8)), "does not take off"),
        (
            integers("a_z", 0.01, (STATIC, GREATEST), "m", **STEP),
            "something else than the scales",
        ),
        (
            integers("a_z", 0.01, helper.make_node("Cast", ["x"], ["q"], "quantize", to=2), None, **STEP),
            "neither QuantizeLinear nor DynamicQuantizeLinear",
        ),
    ],
)
def test_other_products_of_integers_are_refused(model, reason):
    state = dropped(model)
    assert reason in state.refusals["drop-dynamic-quantizers"][0].reason and "MatMulInteger" in kinds(state)


def test_the_fused_product_has_the_numbers_of_its_quantizer():
    names = ["q", "w", "a", "w_s", "a_z", "w_z"]
    node = helper.make_node("MatMulIntegerToFloat", names, ["y"], "n", domain="com.microsoft")
    model = fused(STATIC, node, tensors={**WEIGHT, **STEP})
    feeds = {"x": RNG.normal(size=(4, 16)).astype(F32)}
    (want,) = run(open_session(model.SerializeToString()), feeds).values()
    state = dropped(model)
    (got,) = run(open_session(state.model, optimize=False), feeds).values()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    for index, name, text in ((2, "w_s", "another scale"), (4, "b", "zero point")):
        node.input[index] = name
        state = dropped(fused(STATIC, node, tensors={**WEIGHT, **STEP, "w_s": np.full(1, 0.1, F32)}))
        assert text in state.refusals["drop-dynamic-quantizers"][0].reason
        node.input[index] = names[index]
