"""recognize-quantizers: quantizers by what they do, in many spellings."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from getac.onnx_graph.read import load
from getac.passes import FoldQuantizers, Pipeline, RecognizeQuantizers, RemoveDead, State
from getac.runtime import open_session, run
from tools.onnx_text import model_of

F32 = np.float32
SHAPE = [6, 4]
WEIGHT = np.random.default_rng(5).normal(size=(4, 8)).astype(F32)
MIX = np.random.default_rng(6).normal(size=(4, 4)).astype(F32)


def as_tensors(tensors):
    return {
        name: value if isinstance(value, np.ndarray) else np.asarray(value, F32)
        for name, value in tensors.items()
    }


def recognized(body, tensors, seed=0, x=None):
    """The state after recognition and folding; every pass is held to the function of the model."""
    x = (np.random.default_rng(seed).normal(size=SHAPE) * 3).astype(F32) if x is None else x
    name = "raw" if "(raw" in body else "x"
    state = State(ir.from_proto(model_of(body, {name: x.shape}, as_tensors(tensors))))
    batch = {name: x}
    return Pipeline([RecognizeQuantizers(), RemoveDead(), FoldQuantizers()], verify=[batch]).run(state)


def kinds(state):
    return [node.op_type for node in state.model.graph]


def only_record(state):
    (record,) = state.quantizers.values()
    return record


def check(record, d, low, high, axis=None, rtol=0.0):
    np.testing.assert_allclose(record.step, np.asarray(d, F32), rtol=rtol)
    assert (record.low, record.high, record.axis) == (low, high, axis)


LAST_BITS = 4 * 2**-23


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
    "cut as integers": "a = Div(x, d)  c = Round(a)  i = Cast<to = 6>(c)  l = Cast<to = 6>(lo)"
    "  u = Cast<to = 6>(hi)  j = Clip(i, l, u)  f = Cast<to = 1>(j)  q = Mul(f, d)",
    "straight through": f"{DIVIDED.replace('q =', 'r =')}  s = Sub(r, x)  q = Add(x, s)",
    "floor of a half more": "a = Div(x, d)  b = Clip(a, lo, hi)  h = Add(b, half)  c = Floor(h)"
    "  q = Mul(c, d)",
    "zero point in floats": "a = Div(x, d)  z = Neg(lo)  s = Add(a, z)  m = Sub(hi, lo)  n = Min(s, m)"
    "  o = Max(n, none)  r = Round(o)  t = Add(r, lo)  q = Mul(t, d)",
    "log of d": "l = Log(d)  e = Exp(l)  a = Div(x, e)  b = Clip(a, lo, hi)  c = Round(b)  q = Mul(c, e)",
}


ROUNDS = {"by the inverse", "straight through", "log of d"}
"""Spellings whose own arithmetic rounds: their results are multiples of d up to the last bits."""


@st.composite
def ends(draw):
    """Symmetric, two's complement, unsigned, and any other."""
    high = draw(st.integers(1, 2000))
    return draw(st.sampled_from([-high, -high - 1, 0, -draw(st.integers(0, 2000))])), high


@pytest.mark.parametrize("spelling", SPELLINGS)
@settings(max_examples=25, deadline=None)
@given(d=st.floats(1e-3, 2).map(F32), ends=ends())
@example(d=F32(1), ends=(-8, 8))  # x + (r - x) is r, but for outliers
def test_parameters_are_recovered_in_every_spelling(spelling, d, ends):
    """Behind a float layer, where ties come by chance."""
    low, high = ends
    tensors = {"d": d, "lo": low, "hi": high, "half": 0.5, "none": 0.0, "w": WEIGHT, "v": MIX}
    state = recognized(f"x = MatMul(raw, v)  {SPELLINGS[spelling]}  y = MatMul(q, w)", tensors)
    assert kinds(state) == ["MatMul", *(["Clip"] if low == 0 else []), "MatMul"]
    check(only_record(state), d, low, high, rtol=LAST_BITS if spelling in ROUNDS else 0)


def test_an_unsigned_range_keeps_its_cut():
    state = recognized(f"{DIVIDED}  y = MatMul(q, w)", {"d": 0.1, "lo": 0, "hi": 15, "w": WEIGHT})
    assert kinds(state) == ["Clip", "MatMul"]
    check(only_record(state), 0.1, 0, 15)


def test_pact():
    body = "a = Abs(x)  b = Sub(x, top)  c = Abs(b)  e = Sub(a, c)  f = Add(e, top)  g = Mul(f, half)"
    body += "  h = Mul(g, k)  i = Round(h)  q = Div(i, k)  y = MatMul(q, w)"
    state = recognized(body, {"top": 3, "half": 0.5, "k": 5, "w": WEIGHT})
    check(only_record(state), 0.2, 0, 15, rtol=LAST_BITS)  # it divides by 1 / d


GETA = "s = Sign(x)  a = Abs(x)  b = Min(a, q_m)  c = Log(b)  f = Mul(c, t)  g = Exp(f)  h = Div(g, d)"
GETA += "  i = Round(h)  j = Mul(i, d)  q = Mul(s, j)  y = MatMul(q, w)"


def test_the_published_geta_quantizer():
    d, q_m = 0.05, 0.05 * 127
    state = recognized(GETA, {"d": d, "q_m": q_m, "t": 1.0, "w": WEIGHT})
    assert kinds(state) == ["MatMul"]
    check(only_record(state), d, -127, 127)  # rounded in float32 like the stored one


def test_one_with_an_exponent_stays_and_its_results_get_the_record():
    state = recognized(GETA, {"d": 0.05, "q_m": 3.0, "t": 0.8, "w": WEIGHT})
    assert "Pow" in kinds(state) or "Log" in kinds(state)
    (value,) = state.quantizers
    assert value.producer().op_type == "Mul" and value.consumers()[0].op_type == "MatMul"
    top = round(3.0**0.8 / 0.05)
    check(only_record(state), 0.05, -top, top)


# ---- what is almost a quantizer ----

QUANTIZED = f"{DIVIDED}  "
ALMOST = {
    # body up to z, tensors, the record behind z (None: none there)
    "floor": ("a = Div(x, d)  e = Floor(a)  c = Clip(e, lo, hi)  z = Mul(c, d)", {}, (0.5, -7, 7)),
    "ceil": ("a = Div(x, d)  e = Ceil(a)  c = Clip(e, lo, hi)  z = Mul(c, d)", {}, (0.5, -7, 7)),
    "fixed point": (
        "a = Mul(x, k)  e = Floor(a)  c = Clip(e, lo, hi)  z = Div(c, k)",
        {"k": 16},
        (1 / 16, -7, 7),
    ),
    "truncated": (
        "a = Div(x, d)  e = Cast<to = 6>(a)  f = Cast<to = 1>(e)  c = Clip(f, lo, hi)  z = Mul(c, d)",
        {},
        (0.5, -7, 7),
    ),
    "away from zero": (
        "s = Sign(x)  b = Abs(x)  a = Div(b, d)  e = Ceil(a)  c = Min(e, hi)  f = Mul(c, d)  z = Mul(f, s)",
        {},
        (0.5, -7, 7),
    ),
    "dead zone": (
        f"{DIVIDED}  b2 = Abs(x)  g = Greater(b2, t)  gf = Cast<to = 1>(g)  z = Mul(q, gf)",
        {"t": 1.3},
        (0.5, -7, 7),
    ),
    "one more beyond": (
        f"{DIVIDED}  g = Greater(x, t)  gf = Cast<to = 1>(g)  z = Add(q, gf)",
        {"t": 200},
        (0.5, -7, 9),
    ),
    "itself beyond": (f"{DIVIDED}  b2 = Abs(x)  g = Greater(b2, t)  z = Where(g, x, q)", {"t": 300}, None),
    "itself a little beyond": (
        f"{DIVIDED}  b2 = Abs(x)  g = Greater(b2, t)  z = Where(g, x, q)",
        {"t": 60},
        None,
    ),
    "a narrow bump": (
        f"{DIVIDED}  g = Greater(x, t)  h = Less(x, u)  i = And(g, h)  j = Cast<to = 1>(i)  z = Sub(q, j)",
        {"t": 3.0003, "u": 3.0004},
        (0.5, -7, 7),
    ),
    "zero far out": (
        f"{DIVIDED}  b2 = Abs(x)  g = Less(b2, t)  gf = Cast<to = 1>(g)  z = Mul(q, gf)",
        {"t": 1e9},
        (0.5, -7, 7),
    ),
}
FAR = np.asarray([1e12, 1e9, 5e4, 299, 301, 61, 59, 3.00035, 1.2, 1.4, 0.25, 1e-7], F32)


@pytest.mark.parametrize("name", ALMOST)
@pytest.mark.parametrize("scale", [1, -1])
def test_what_is_almost_a_quantizer_computes_what_it_did(name, scale):
    """Its operators stay; a record says at most what their results are. (The pipeline compares.)"""
    body, tensors, record = ALMOST[name]
    tensors = {"d": 0.5, "lo": -7, "hi": 7, "w": WEIGHT, **tensors}
    x = np.concatenate([FAR, np.linspace(-6, 6, 12, dtype=F32)]).reshape(6, 4) * F32(scale)
    state = recognized(f"{body}  y = MatMul(z, w)", tensors, x=x)
    z = next(node for node in state.model.graph if node.op_type == "MatMul").inputs[0]
    assert z.producer() is not None
    if record is None:
        assert z not in state.quantizers
    else:
        check(state.quantizers[z], *record)


@pytest.mark.parametrize("to", [2, 3, 4, 5])  # UINT8, INT8, UINT16, INT16
def test_integers_that_wrap_around_are_no_range(to):
    """A Cast to few bits without a Clip before it is no saturation."""
    body = f"a = Div(x, d)  c = Round(a)  i = Cast<to = {to}>(c)  f = Cast<to = 1>(i)  q = Mul(f, d)"
    state = recognized(f"{body}  y = MatMul(q, w)", {"d": 0.5, "w": WEIGHT}, x=np.abs(ON_TIES))
    assert "Cast" in kinds(state)


def test_a_threshold_of_an_outlier_may_follow_the_step():
    """A range that ends at 0.254 and a threshold at 20: seventy-nine times as far."""
    tensors = {"d": 0.002, "lo": -127, "hi": 127, "t": 20, "w": WEIGHT}
    x = np.asarray([25, -30, 19, 0.1] * 6, F32).reshape(6, 4)
    body = f"{DIVIDED}  b2 = Abs(x)  g = Greater(b2, t)  z = Where(g, x, q)  y = MatMul(z, w)"
    state = recognized(body, tensors, x=x)
    assert "Where" in kinds(state)


def test_what_is_made_of_a_quantizer_s_result_does_not_hide_it():
    """The sign of it has levels, too, and steps elsewhere."""
    body = f"{DIVIDED}  s = Sign(q)  m = MatMul(q, w)  n = MatMul(s, w)  y = Add(m, n)"
    state = recognized(body, {"d": 0.5, "lo": -7, "hi": 7, "w": WEIGHT})
    assert "Round" not in kinds(state)
    found = sorted((record.low, record.high) for record in state.quantizers.values())
    assert found == [(-7, 7), (-1, 1)]


@pytest.mark.parametrize("power", ["Pow(r2, t)", "Exp(r2)"])
def test_levels_behind_a_quantizer_of_something_else(power):
    """Integers are clipped before they are scaled by a step of the weight's: both are quantizers."""
    body = "s2 = Sign(x)  r2 = Abs(x)  g = " + power + "  a = Div(g, d)  b = Clip(a, none, hi)  c = Round(b)"
    body += "  e = Mul(c, d)  q = Mul(e, s2)  y = MatMul(q, w)"
    state = recognized(body, {"d": 0.5, "none": 0, "hi": 7, "t": 0.8, "w": WEIGHT})
    value = next(node for node in state.model.graph if node.name == "y").inputs[0]
    check(state.quantizers[value], 0.5, -7, 7)


@pytest.mark.parametrize("d", [1e-10, 1e-4, 1e6])
def test_steps_of_every_size(d):
    x = (np.random.default_rng(0).normal(size=SHAPE) * 99 * d).astype(F32)
    state = recognized(f"{DIVIDED}  y = MatMul(q, w)", {"d": d, "lo": -127, "hi": 127, "w": WEIGHT}, x=x)
    check(only_record(state), d, -127, 127)
    assert ("Round" in kinds(state)) == (d > 1e5)  # 1e8 is as far as is looked for levels of x


def test_a_range_between_two_levels_ends_at_the_nearer_one():
    body = "b = Clip(x, lo, hi)  a = Div(b, d)  c = Round(a)  q = Mul(c, d)  y = MatMul(q, w)"
    state = recognized(body, {"d": 0.5, "lo": -3.3, "hi": 2.8, "w": WEIGHT})
    assert kinds(state) == ["MatMul"]
    check(only_record(state), 0.5, -7, 6)


def test_a_zero_point_between_two_integers():
    """Its results are on a lattice of a fifth of the step; nothing says more than that."""
    body = "a = Div(x, d)  b = Add(a, z)  e = Round(b)  c = Clip(e, lo, hi)  f = Sub(c, z)  q = Mul(f, d)"
    state = recognized(f"{body}  y = MatMul(q, w)", {"d": 0.5, "lo": 0, "hi": 15, "z": 7.25, "w": WEIGHT})
    value = next(node for node in state.model.graph if node.name == "y").inputs[0]
    assert "Round" in kinds(state)
    check(state.quantizers[value], 0.125, -29, 31)


# ---- ties ----

HALF_UP = (
    "a = Div({x}, d)  h = Add(a, half)  e = Floor(h)  c = Clip(e, lo, hi)  q = Mul(c, d)  y = MatMul(q, w)"
)
HALVES = {"d": 0.5, "lo": -7, "hi": 7, "half": 0.5, "w": np.abs(WEIGHT)}
ON_TIES = (np.arange(-12, 12) * 0.25).astype(F32).reshape(SHAPE)


def reasons(state):
    return [(one.reason, one.hint) for one in state.refusals.get("recognize-quantizers", [])]


PAIR = "x = QuantizeLinear(raw, s, zp)  x2 = DequantizeLinear(x, s, zp)  "
PAIRED = {"s": np.asarray(0.25, F32), "zp": np.asarray(0, np.int8)}


@pytest.mark.parametrize(
    ("before", "more"),
    [
        ("x2 = Identity(raw)  ", {}),
        (PAIR, PAIRED),
        (PAIR.replace("x2 =", "x3 =") + "x2 = Neg(x3)  ", PAIRED),
        (PAIR.replace("x2 =", "x3 =") + "x2 = MatMul(x3, v)  ", {**PAIRED, "v": np.eye(4, dtype=F32)}),
    ],
)
def test_half_up_is_kept_where_ties_may_come(before, more):
    """From an input, behind a pair, and behind products of powers of two; what it makes gets a pair."""
    state = recognized(before + HALF_UP.format(x="x2"), {**HALVES, **more}, x=ON_TIES)
    assert "Floor" in kinds(state)
    value = next(node for node in state.model.graph if node.name == "y").inputs[0]
    check(state.quantizers[value], 0.5, -7, 7)
    ((reason, hint),) = reasons(state)
    assert "the middle between two levels otherwise than to the even one, and its input may hold" in reason
    assert hint == "it stays as it is, with a quantizer behind it that changes nothing"


@pytest.mark.parametrize("before", ["x2 = MatMul(raw, v)  ", "x3 = Tanh(raw)  x2 = Relu(x3)  "])
def test_half_up_is_a_quantizer_where_ties_come_by_chance(before):
    state = recognized(before + HALF_UP.format(x="x2"), {**HALVES, "v": MIX}, x=ON_TIES + F32(0.01))
    assert "Floor" not in kinds(state)
    ((reason, hint),) = reasons(state)
    assert reason == "it rounds the middle between two levels otherwise than to the even one"
    assert "by chance alone" in hint


def test_nothing_is_said_of_ties_that_go_to_the_even_level():
    assert reasons(recognized(f"{DIVIDED}  y = MatMul(q, w)", HALVES, x=ON_TIES)) == []


def test_a_step_that_only_lands_on_levels_makes_no_ties():
    """Multiples of d itself are no ties, whatever rule there is for them."""
    step = {**PAIRED, "s": np.asarray(0.5, F32)}
    state = recognized(PAIR + HALF_UP.format(x="x2"), {**HALVES, **step}, x=ON_TIES)
    assert "Floor" not in kinds(state)


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
@settings(max_examples=25, deadline=None)
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
    check(only_record(state), 1 / 15, -15, 15, rtol=LAST_BITS)  # 2 r - 1 rounds


GROUPS = "f = Cast<to = 1>(i)  m = Mul(f, s)  r = Reshape(m, to)  t = Transpose<perm = [1, 0]>(r)"
GROUPS += "  y = MatMul(x, t)"


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), block=st.sampled_from([8, 16]), zeros=st.booleans())
def test_groups_of_weights_that_are_scaled_before_they_are_reshaped(seed, block, zeros):
    """As torchao exports weights of 4 bits: (K, K / block, block), each of which has a step."""
    rng = np.random.default_rng(seed)
    integers = rng.integers(-8, 8, (24, 48 // block, block)).astype(np.int8)
    integers[..., :3] = (-8, 7, 1)
    steps = rng.uniform(0.01, 0.1, (24, 48 // block, 1)).astype(F32)
    tensors = {"i": integers, "s": steps, "to": np.asarray([24, 48])}
    body = GROUPS
    if zeros:
        tensors["z"] = np.full((24, 48 // block, 1), 2, F32)
        body = GROUPS.replace("m = Mul(f, s)", "e = Sub(f, z)  m = Mul(e, s)")
    state = recognized(body, tensors, x=rng.normal(size=(3, 48)).astype(F32))
    assert kinds(state) == ["MatMul"]
    record = only_record(state)
    assert (record.low, record.high, record.axis, record.block) == (
        -10 if zeros else -8,
        10 if zeros else 7,
        0,
        block,
    )
    np.testing.assert_array_equal(record.step, steps[..., 0].T)
    (weight,) = state.quantizers
    expected = ((integers - 2.0 * zeros).astype(F32) * steps).reshape(24, 48).T
    np.testing.assert_array_equal(weight.const_value.numpy(), expected)


SCALED = np.random.default_rng(3).integers(-127, 128, (4, 8)).astype(np.int8)
ROW = np.linspace(0.01, 0.02, 8, dtype=F32)


@pytest.mark.parametrize("product", ["Mul(m, s)", "Mul(s, m)"])
@pytest.mark.parametrize("steps", [ROW, ROW.reshape(1, 8), np.asarray(0.01, F32), np.asarray([0.01], F32)])
def test_steps_behind_a_product_belong_to_its_weight(product, steps):
    state = recognized(f"f = Cast<to = 1>(w)  m = MatMul(x, f)  y = {product}", {"w": SCALED, "s": steps})
    assert "Mul" not in kinds(state)
    np.testing.assert_array_equal(only_record(state).step, steps.reshape(only_record(state).step.shape))
    assert [value.name for value in state.model.graph.outputs] == ["y"]


@pytest.mark.parametrize(
    ("w", "steps", "shape"),
    [
        (SCALED, ROW.reshape(1, 1, 1, 8), [1, 1, 6, 8]),  # the output has more dimensions than the product
        (SCALED[:, 0], np.arange(1, 7, dtype=F32), [6]),  # a vector has no columns
        (SCALED[:, :1], ROW, [6, 8]),  # the output has more columns
        (SCALED, np.linspace(1, 2, 6, dtype=F32).reshape(6, 1), [6, 8]),  # steps of rows of x
    ],
)
def test_steps_that_are_no_row_stay_behind_the_product(w, steps, shape):
    model = model_of(
        "f = Cast<to = 1>(w)  m = MatMul(x, f)  y = Mul(m, s)", {"x": SHAPE}, {"w": w, "s": steps}
    )
    batch = {"x": np.random.default_rng(0).normal(size=SHAPE).astype(F32)}
    want = run(open_session(load(model), optimize=False), batch)["y"]
    state = State(load(model))
    Pipeline([RecognizeQuantizers(), RemoveDead(), FoldQuantizers()], verify=[batch]).run(state)
    got = run(open_session(state.model, optimize=False), batch)["y"]
    assert list(got.shape) == list(want.shape) == shape
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_product_that_is_an_output_keeps_its_steps_behind_it():
    proto = model_of(
        "f = Cast<to = 1>(w)  m = MatMul(x, f)  y = Mul(m, s)",
        {"x": SHAPE},
        {"w": SCALED, "s": ROW},
        ["y", "m"],
    )
    batch = {"x": np.random.default_rng(0).normal(size=SHAPE).astype(F32)}
    state = State(load(proto))
    Pipeline([RecognizeQuantizers(), RemoveDead(), FoldQuantizers()], verify=[batch]).run(state)
    assert [value.name for value in state.model.graph.outputs] == ["y", "m"]
    assert "Mul" in kinds(state)


def test_a_weight_that_is_drawn_anew_is_none():
    body = "r = RandomNormalLike<scale = 0.001>(w)  a = Add(w, r)  b = Div(a, d)  c = Round(b)  q = Mul(c, d)"
    model = model_of(f"{body}  y = MatMul(x, q)", {"x": SHAPE}, as_tensors({"w": WEIGHT, "d": 0.05}))
    state = State(load(model))
    Pipeline([RecognizeQuantizers(), RemoveDead(), FoldQuantizers()]).run(state)
    assert "RandomNormalLike" in kinds(state)
    assert not any(value.is_initializer() for value in state.quantizers)


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
