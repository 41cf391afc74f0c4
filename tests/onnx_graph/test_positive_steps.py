"""Scales that are negative or 0: records with positive steps, and the numbers stay."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from getac.onnx_graph.positive_steps import make_steps_positive
from getac.passes import FoldQuantizers, Pipeline, State
from getac.runtime import open_session, run

F32 = np.float32
RNG = np.random.default_rng(2)
TYPES = {
    "int4": (np.dtype(ml_dtypes.int4), -8, 7),
    "uint4": (np.dtype(ml_dtypes.uint4), 0, 15),
    "int8": (np.dtype(np.int8), -128, 127),
    "uint8": (np.dtype(np.uint8), 0, 255),
    "int16": (np.dtype(np.int16), -(2**15), 2**15 - 1),
}
LAYOUTS = {"tensor": ("", ()), "column": ("<axis=1>", (5,)), "block": ("<axis=0, block_size=4>", (3, 5))}


def weight(dtype, layout, zeros):
    """A DequantizeLinear whose scales are negative for the most part; all integers of the type occur."""
    kind, low, high = TYPES[dtype]
    shape = LAYOUTS[layout][1]
    integers = RNG.integers(low, high + 1, (10, 5))
    integers.reshape(-1)[:2] = low, high
    tensors = {"w": integers.astype(kind), "s": np.asarray(RNG.uniform(-0.2, 0.1, shape), F32)}
    tensors["s"] = np.where(np.arange(tensors["s"].size).reshape(shape) == 0, F32(-0.1), tensors["s"])
    return tensors | ({"z": RNG.integers(low, high + 1, shape).astype(kind)} if zeros else {})


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES)
def test_stored_integers_are_mirrored(build, evaluate, dtype, layout, zeros):
    text = f"v = DequantizeLinear{LAYOUTS[layout][0]}(w, s{', z' if zeros else ''}) y = MatMul(x, v)"
    model = build(f"(float[2,10] x) => (float[2,5] y) {{ {text} }}", **weight(dtype, layout, zeros))
    x = RNG.normal(size=(2, 10)).astype(F32)
    want = evaluate(model, x=x)
    make_steps_positive(model.graph)
    node = model.graph.node(0)
    assert (node.inputs[1].const_value.numpy() > 0).all()
    np.testing.assert_array_equal(evaluate(model, x=x), want)
    state = Pipeline([FoldQuantizers()]).run(State(model))
    assert [n.op_type for n in model.graph] == ["MatMul"] and not state.refusals
    (record,) = state.quantizers.values()
    assert record.low <= 0 <= record.high and (record.step > 0).all()
    np.testing.assert_array_equal(evaluate(model, x=x), want)


@pytest.mark.parametrize("zero", [None, 3, 200])
def test_an_activation_is_mirrored(build, evaluate, zero):
    tensors = {"s": np.asarray(-0.05, F32)} | ({} if zero is None else {"z": np.asarray(zero, np.uint8)})
    more = "" if zero is None else ", z"
    text = f"q = QuantizeLinear(x, s{more}) a = DequantizeLinear(q, s{more}) y = Neg(a)"
    model = build(f"(float[2,64] x) => (float[2,64] y) {{ {text} }}", **tensors)
    x = (RNG.normal(size=(2, 64)) * 8).astype(F32)  # clipped on both sides
    want = run(open_session(model, optimize=False), {"x": x})["y"]
    state = Pipeline([FoldQuantizers()]).run(State(model))
    assert not state.refusals
    (record,) = state.quantizers.values()
    assert (record.low, record.high) == (-255 + (zero or 0), zero or 0) and float(record.step) == F32(0.05)
    np.testing.assert_allclose(-record.quantize(x), want, atol=1e-6)


def test_a_block_of_zeros_may_have_the_scale_0(build, evaluate):
    tensors = {"w": RNG.integers(-8, 8, (8, 3)).astype(ml_dtypes.int4), "s": np.full((2, 3), 0.1, F32)}
    tensors["s"][1] = 0
    text = "v = DequantizeLinear<axis=0, block_size=4>(w, s) y = MatMul(x, v)"
    model = build(f"(float[2,8] x) => (float[2,3] y) {{ {text} }}", **tensors)
    x = RNG.normal(size=(2, 8)).astype(F32)
    want = evaluate(model, x=x)
    state = Pipeline([FoldQuantizers()]).run(State(model))
    (value,) = state.quantizers
    assert not value.const_value.numpy()[4:].any()
    np.testing.assert_array_equal(evaluate(model, x=x), want)


def test_an_int32_bias_keeps_its_zero_point_0(build, evaluate):
    tensors = {"b": np.array([5, -7, 9], np.int32), "s": np.array([-0.1, 0.2, 0], F32)}
    text = "c = DequantizeLinear<axis=0>(b, s) y = Add(x, c)"
    model = build(f"(float[2,3] x) => (float[2,3] y) {{ {text} }}", **tensors)
    x = RNG.normal(size=(2, 3)).astype(F32)
    want = evaluate(model, x=x)
    make_steps_positive(model.graph)
    assert not model.graph.node(0).inputs[2].const_value.numpy().any()
    np.testing.assert_array_equal(evaluate(model, x=x), want)


@pytest.mark.parametrize(
    "text",
    [
        "q = QuantizeLinear(x, s) a = DequantizeLinear(q, t) y = Neg(a)",
        "q = QuantizeLinear(x, s) k = Clip(q, z) a = DequantizeLinear(k, s) y = Neg(a)",
        "q = QuantizeLinear(x, s) a = DequantizeLinear(q, s) k = Cast<to=1>(q) y = Add(a, k)",
    ],
)
def test_integers_that_are_read_otherwise_stay(build, text):
    tensors = {"s": np.asarray(-0.1, F32), "t": np.asarray(-0.2, F32), "z": np.asarray(9, np.uint8)}
    model = build(f"(float[2,4] x) => (float[2,4] y) {{ {text} }}", **tensors)
    before = onnx.printer.to_text(ir.to_proto(model))
    make_steps_positive(model.graph)
    assert onnx.printer.to_text(ir.to_proto(model)) == before


def test_scales_of_another_shape_stay(build):
    tensors = {"w": np.ones((4, 5), np.int8), "s": np.full(3, -0.1, F32)}
    text = "v = DequantizeLinear<axis=1>(w, s) y = Add(x, v)"
    model = build(f"(float[4,5] x) => (float[4,5] y) {{ {text} }}", **tensors)
    make_steps_positive(model.graph)
    assert (model.graph.node(0).inputs[1].const_value.numpy() < 0).all()
