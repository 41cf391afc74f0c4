"""recognize-quantizers: quantizers by what they do, in many spellings."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from getac.onnx_graph.read import load
from getac.passes import FoldQuantizers, Pipeline, RecognizeQuantizers, RemoveDead, State
from tools.onnx_text import model_of

F32 = np.float32
SHAPE = [6, 4]
WEIGHT = np.random.default_rng(5).normal(size=(4, 8)).astype(F32)


def recognized(body, tensors, seed=0):
    """The state after recognition and folding; every pass is held to the function of the model."""
    numbers = {
        name: np.asarray(value, F32) if np.ndim(value) == 0 else value for name, value in tensors.items()
    }
    state = State(ir.from_proto(model_of(body, {"x": SHAPE}, numbers)))
    batch = {"x": (np.random.default_rng(seed).normal(size=SHAPE) * 3).astype(F32)}
    return Pipeline([RecognizeQuantizers(), RemoveDead(), FoldQuantizers()], verify=[batch]).run(state)


def kinds(state):
    return [node.op_type for node in state.model.graph]


def only_record(state):
    (record,) = state.quantizers.values()
    return record


def check(record, d, low, high, axis=None):
    np.testing.assert_allclose(record.step, d, rtol=1e-6)
    assert (record.low, record.high, record.axis) == (low, high, axis)


# ---- activations ----

DIVIDED = "a = Div(x, d)  b = Clip(a, lo, hi)  c = Round(b)  q = Mul(c, d)"
SPELLINGS = {
    "QCDQ in floats": DIVIDED,
    "rounded before it is cut": "a = Div(x, d)  c = Round(a)  b = Clip(c, lo, hi)  q = Mul(b, d)",
    "cut before it is divided": "e = Mul(lo, d)  f = Mul(hi, d)  g = Max(x, e)  h = Min(g, f)  a = Div(h, d)"
    "  c = Round(a)  q = Mul(c, d)",
    "by the inverse": "i = Reciprocal(d)  a = Mul(x, i)  b = Clip(a, lo, hi)  c = Round(b)  q = Div(c, i)",
    "through integers": "a = Div(x, d)  b = Clip(a, lo, hi)  c = Round(b)  i = Cast<to = 6>(c)"
    "  f = Cast<to = 1>(i)  q = Mul(f, d)",
    "straight through": f"{DIVIDED.replace('q =', 'r =')}  s = Sub(r, x)  q = Add(x, s)",
    "floor of a half more": "a = Div(x, d)  b = Clip(a, lo, hi)  h = Add(b, half)  c = Floor(h)"
    "  q = Mul(c, d)",
    "zero point in floats": "a = Div(x, d)  z = Neg(lo)  s = Add(a, z)  m = Sub(hi, lo)  n = Min(s, m)"
    "  o = Max(n, none)  r = Round(o)  t = Add(r, lo)  q = Mul(t, d)",
    "log of d": "l = Log(d)  e = Exp(l)  a = Div(x, e)  b = Clip(a, lo, hi)  c = Round(b)  q = Mul(c, e)",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_parameters_are_recovered_in_every_spelling(spelling, data):
    d = data.draw(st.floats(1e-3, 2).map(F32))
    bits = data.draw(st.integers(2, 12))
    low, high = data.draw(
        st.sampled_from(
            [(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1), (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)]
        )
    )
    tensors = {"d": d, "lo": low, "hi": high, "half": 0.5, "none": 0.0, "w": WEIGHT}
    state = recognized(f"{SPELLINGS[spelling]}  y = MatMul(q, w)", tensors)
    assert kinds(state) == ["MatMul"]
    check(only_record(state), d, low, high)


def test_an_unsigned_range_keeps_its_cut():
    state = recognized(f"{DIVIDED}  y = MatMul(q, w)", {"d": 0.1, "lo": 0, "hi": 15, "w": WEIGHT})
    assert kinds(state) == ["Clip", "MatMul"]
    check(only_record(state), 0.1, 0, 15)


def test_pact():
    body = "a = Abs(x)  b = Sub(x, top)  c = Abs(b)  e = Sub(a, c)  f = Add(e, top)  g = Mul(f, half)"
    body += "  h = Mul(g, k)  i = Round(h)  q = Div(i, k)  y = MatMul(q, w)"
    state = recognized(body, {"top": 3, "half": 0.5, "k": 5, "w": WEIGHT})
    check(only_record(state), 0.2, 0, 15)


GETA = "s = Sign(x)  a = Abs(x)  b = Min(a, q_m)  c = Log(b)  f = Mul(c, t)  g = Exp(f)  h = Div(g, d)"
GETA += "  i = Round(h)  j = Mul(i, d)  q = Mul(s, j)  y = MatMul(q, w)"


def test_the_published_geta_quantizer():
    d, q_m = 0.05, 0.05 * 127
    state = recognized(GETA, {"d": d, "q_m": q_m, "t": 1.0, "w": WEIGHT})
    assert kinds(state) == ["MatMul"]
    check(only_record(state), d, -127, 127)


def test_one_with_an_exponent_stays_and_its_results_get_the_record():
    state = recognized(GETA, {"d": 0.05, "q_m": 3.0, "t": 0.8, "w": WEIGHT})
    assert "Pow" in kinds(state) or "Log" in kinds(state)
    (value,) = state.quantizers
    assert value.producer().op_type == "Mul" and value.consumers()[0].op_type == "MatMul"
    top = round(3.0**0.8 / 0.05)
    check(only_record(state), 0.05, -top, top)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("q = Round(x)  y = MatMul(q, w)", "no greatest or no least level"),
        ("a = Mul(x, x)  b = Div(a, x)  q = Round(b)  y = MatMul(q, w)", "no greatest"),
        ("s = ReduceMax<keepdims = 1>(x)  a = Div(x, s)  q = Round(a)  y = MatMul(q, w)", "no greatest"),
        ("s = Softmax(x)  q = Round(s)  y = MatMul(q, w)", "no greatest"),
        ("a = Clip(x, lo, hi)  b = Tanh(a)  c = Add(b, per)  q = Floor(c)  y = MatMul(q, w)", None),
    ],
)
def test_what_is_no_quantizer_is_said_to_be_none(body, reason):
    tensors = {"w": WEIGHT, "lo": -7, "hi": 7, "per": np.linspace(0.1, 0.4, 4).astype(F32)}
    state = recognized(body, tensors)
    assert state.quantizers == {}
    refusals = state.refusals.get("recognize-quantizers", [])
    assert len(refusals) == (reason is not None)  # a Floor may mean something else
    for refusal in refusals:
        assert reason in refusal.reason
        assert refusal.hint == "it stays as it is, in floats"


def test_integers_that_are_scaled_by_channel_are_quantized_before_that():
    tensors = {"per": np.linspace(0.1, 0.4, 4).astype(F32), "lo": -7, "hi": 7, "w": WEIGHT}
    body = "a = Div(x, per)  b = Clip(a, lo, hi)  c = Round(b)  q = Mul(c, per)  y = MatMul(q, w)"
    state = recognized(body, tensors)
    assert kinds(state) == ["Div", "Mul", "MatMul"]
    check(only_record(state), 1, -7, 7)


def test_who_reads_the_value_unrounded_still_does():
    state = recognized(f"{DIVIDED}  m = MatMul(q, w)  n = MatMul(x, w)  y = Add(m, n)", {
        "d": 0.1, "lo": -7, "hi": 7, "w": WEIGHT
    })  # fmt: skip
    assert sorted(kinds(state)) == ["Add", "Identity", "MatMul", "MatMul"]
    (value,) = state.quantizers
    assert value.producer().op_type == "Identity"


def test_a_rounded_output_stays_one():
    state = recognized(DIVIDED.replace("q =", "y ="), {"d": 0.1, "lo": -7, "hi": 7})
    assert [value.name for value in state.model.graph.outputs] == ["y"]


def test_a_second_run_changes_nothing():
    tensors = {"d": 0.1, "lo": -7, "hi": 7, "w": WEIGHT}
    state = State(ir.from_proto(model_of(f"{DIVIDED}  y = MatMul(q, w)", {"x": SHAPE}, {
        name: np.asarray(value, F32) for name, value in tensors.items()
    })))  # fmt: skip
    Pipeline([RecognizeQuantizers(), RemoveDead(), RecognizeQuantizers()]).run(state)
    assert [record.changed for record in state.records] == [True, True, False]


# ---- weights ----

WEIGHTS = {
    "symmetric": ("a = Div(w, d)  b = Clip(a, lo, hi)  c = Round(b)  q = Mul(c, d)", -7, 7),
    "transposed": ("a = Div(w, d)  b = Clip(a, lo, hi)  c = Round(b)  e = Mul(c, d)  f = Transpose(e)"
                   "  q = Transpose(f)", -7, 7),
    "binary": ("s = Sign(w)  q = Mul(s, d)", -1, 1),
    "ternary": ("p = Greater(w, d)  m = Neg(d)  n = Less(w, m)  e = Cast<to = 1>(p)  f = Cast<to = 1>(n)"
                "  g = Sub(e, f)  q = Mul(g, d)", -1, 1),
}  # fmt: skip


@pytest.mark.parametrize("spelling", WEIGHTS)
@settings(max_examples=5, deadline=None)
@given(d=st.floats(0.05, 0.3).map(F32))
def test_steps_of_weights_are_recovered(spelling, d):
    body, low, high = WEIGHTS[spelling]
    weight = np.linspace(-2.2, 2.2, 32, dtype=F32).reshape(4, 8)
    state = recognized(f"{body}  y = MatMul(x, q)", {"d": d, "lo": low, "hi": high, "w": weight})
    assert kinds(state) == ["MatMul"]
    check(only_record(state), d, low, high)


def test_steps_per_channel():
    steps = np.linspace(0.02, 0.05, 8, dtype=F32)
    body = "a = Div(w, d)  b = Clip(a, lo, hi)  c = Round(b)  q = Mul(c, d)  y = MatMul(x, q)"
    weight = np.random.default_rng(0).normal(size=(4, 8)).astype(F32)
    state = recognized(body, {"d": steps, "lo": -7, "hi": 7, "w": weight})
    record = only_record(state)
    assert record.axis == 1
    stored = next(iter(state.quantizers)).const_value.numpy()
    np.testing.assert_array_equal(stored, np.rint(weight / steps).clip(-7, 7) * steps)


def test_dorefa():
    body = "t = Tanh(w)  a = Abs(t)  m = ReduceMax<keepdims = 0>(a)  n = Div(t, m)  o = Mul(n, half)"
    body += "  p = Add(o, half)  g = Mul(p, k)  r = Round(g)  s = Div(r, k)  u = Mul(s, two)  q = Sub(u, one)"
    tensors = {"half": 0.5, "two": 2, "one": 1, "k": 15, "w": np.linspace(-1, 1, 32, dtype=F32).reshape(4, 8)}
    state = recognized(f"{body}  y = MatMul(x, q)", tensors)
    check(only_record(state), 1 / 15, -15, 15)


def test_weights_on_no_lattice_are_said_to_be_none():
    state = recognized("r = Round(w)  s = Mul(r, v)  y = MatMul(x, s)", {"w": WEIGHT * 9, "v": WEIGHT})
    (refusal,) = state.refusals["recognize-quantizers"]
    assert "on no lattice of at most 16 bits" in refusal.reason


# ---- spelled as quantizers ----

BITS = st.integers(2, 8)
STEPS = st.floats(1e-3, 1).map(F32)


def folded(proto):
    state = State(load(proto))
    return Pipeline([RecognizeQuantizers(), RemoveDead(), FoldQuantizers()]).run(state)


@settings(max_examples=10, deadline=None)
@given(step=STEPS, zero=st.integers(-128, 127), signed=st.booleans())
def test_q_and_dq_of_activations(step, zero, signed):
    point = np.asarray(zero if signed else zero + 128, np.int8 if signed else np.uint8)
    body = "a = QuantizeLinear(x, s, z)  q = DequantizeLinear(a, s, z)  y = MatMul(q, w)"
    proto = model_of(body, {"x": SHAPE}, {"s": np.asarray(step), "z": point, "w": WEIGHT})
    check(only_record(folded(proto)), step, -128 - zero, 127 - zero)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), block=st.sampled_from([None, 1, 2, 3]), rounded=st.booleans())
def test_q_and_dq_of_weights(seed, block, rounded):
    """Stored integers, or floats that are rounded when the graph runs; steps per channel or in blocks."""
    rng = np.random.default_rng(seed)
    rows = (8,) if block is None else (-(-4 // block), 8)
    steps = rng.uniform(0.01, 0.1, rows).astype(F32)
    axis = "axis = 1" if block is None else f"axis = 0, block_size = {block}"
    tensors = {"s": steps, "z": np.zeros(rows, np.int8), "w": WEIGHT}
    body = f"i = QuantizeLinear<{axis}>(w, s, z)  " if rounded else ""
    if not rounded:
        tensors["i"] = rng.integers(-128, 128, (4, 8)).astype(np.int8)
    proto = model_of(f"{body}q = DequantizeLinear<{axis}>(i, s, z)  y = MatMul(x, q)", {"x": SHAPE}, tensors)
    record = only_record(folded(proto))
    np.testing.assert_array_equal(record.step, steps)
    assert (record.low, record.high, record.axis, record.block) == (-128, 127, 0 if block else 1, block)


@settings(max_examples=10, deadline=None)
@given(step=STEPS, bits=BITS, signed=st.booleans(), narrow=st.booleans(), integers=st.booleans())
def test_quant_of_qonnx(step, bits, signed, narrow, integers):
    zero = np.asarray(0, np.int8 if integers else F32)  # its own conversion of Q/DQ leaves integers
    parameters = [("s", step), ("z", zero), ("b", F32(bits)), ("w", WEIGHT)]
    inputs = [numpy_helper.from_array(np.asarray(array), name) for name, array in parameters]
    given = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": "ROUND"}
    domain = "qonnx.custom_op.general"
    nodes = [
        helper.make_node("Quant", ["x", "s", "z", "b"], ["q"], "n", domain=domain, **given),
        helper.make_node("MatMul", ["q", "w"], ["y"], "m"),
    ]
    ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", SHAPE), ("y", [6, 8]))]
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(domain, 1)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], inputs)
    record = only_record(folded(helper.make_model(graph, opset_imports=imports, ir_version=10)))
    if signed:
        check(record, step, -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1)
    else:
        check(record, step, 0, 2**bits - 1 - narrow)
