"""Packed weights are understood, in the forms of others too, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from getac.onnx_graph.packing.storage import storage_of
from getac.onnx_graph.packing.unpacking import computed_integers, unpack_weights
from getac.onnx_graph.packing.ways import Packing, Part
from getac.passes import FoldQuantizers, RemoveDead
from getac.pipeline import Pipeline, State
from getac.runtime import open_session, run

F32 = np.float32
LAYER = "d = DequantizeLinear<axis=0>(w, s, z) y = Gemm<transB=1>(x, d) }"
HEAD = "(float[N,8] x) => (float[N,4] y) { "
STEPS = {"s": np.array([0.5, 1, 2, 4], F32), "z": np.zeros(4, np.int8)}


def layer(model, name="gemm"):
    return next(node for node in model.graph if node.op_type.lower() == name)


def folded(model):
    state = State(model)
    Pipeline([FoldQuantizers(), RemoveDead()]).run(state)
    return state


def same_numbers(model, make_it):
    x = {"x": np.random.default_rng(0).normal(size=(3, 8)).astype(F32)}
    before = run(open_session(model, optimize=False), x)["y"]
    make_it(model)
    assert np.array_equal(run(open_session(model, optimize=False), x)["y"], before)


def test_words_of_shifted_bits(build):
    """4 bits each in uint32 words, as other tools write them."""
    integers = np.random.default_rng(0).integers(-7, 8, (4, 8))
    words = ((integers + 8).astype(np.uint32) << (4 * np.arange(8, dtype=np.uint32))).sum(1)
    text = f"""{HEAD}
        a = BitShift<direction="RIGHT">(p, shifts) b = BitwiseAnd(a, mask) c = Cast<to=3>(b) w = Sub(c, eight)
        {LAYER}"""
    tensors = {"p": words.astype(np.uint32).reshape(4, 1), "shifts": 4 * np.arange(8, dtype=np.uint32)}
    model = build(text, **tensors, **STEPS, mask=np.uint32(15), eight=np.int8(8))
    assert np.array_equal(computed_integers(layer(model).inputs[1].producer().inputs[0]), integers)
    same_numbers(model, lambda one: unpack_weights(one.graph))
    state = folded(model)
    record = state.quantizers[layer(model).inputs[1]]
    assert (record.low, record.high, record.axis) == (-7, 7, 0) and record.bits == 4
    assert state.refusals == {} and [node.op_type for node in model.graph] == ["Gemm"]


def test_a_common_factor_goes_into_the_steps(build):
    integers = np.random.default_rng(0).integers(-3, 4, (4, 8)).astype(np.int8)
    integers[0, :2] = -3, 3
    model = build(f"{HEAD} w = Mul(p, unit) {LAYER}", p=integers, unit=np.int8(16), **STEPS)
    record = folded(model).quantizers[layer(model).inputs[1]]
    assert record.bits == 3 and np.array_equal(record.step, 16 * STEPS["s"])


def test_unless_the_zero_point_has_it_not(build):
    integers = np.random.default_rng(0).integers(0, 8, (4, 8)).astype(np.int8)
    steps = {**STEPS, "z": np.full(4, 3, np.int8)}
    model = build(f"{HEAD} w = Mul(p, unit) {LAYER}", p=integers, unit=np.int8(4), **steps)
    state = folded(model)
    record = state.quantizers[layer(model).inputs[1]]
    assert np.array_equal(record.step, steps["s"])
    expected = (4 * integers - 3) * steps["s"][:, None]
    assert np.array_equal(layer(model).inputs[1].const_value.numpy(), expected)


@pytest.mark.parametrize(
    ("branch", "tensors"),
    [
        ("w = Cast<to=3>(x2)", {}),  # depends on an input
        (
            "r = Shape(p) c = Cast<to=3>(r) w = Expand(c, r)",
            {"p": np.zeros((4, 8), np.int8)},
        ),  # not in the table
    ],
)
def test_other_branches_stay(build, branch, tensors):
    head = "(float[N,8] x, float[4,8] x2) => (float[N,4] y) { "
    model = build(f"{head} {branch} {LAYER}", **tensors, **STEPS)
    before = list(model.graph)
    unpack_weights(model.graph)
    assert list(model.graph) == before


def test_an_output_in_the_middle_stays(build):
    text = f"(float[N,8] x) => (float[N,4] y, int8[4,8] w) {{ w = Mul(p, unit) {LAYER}"
    model = build(text, p=np.ones((4, 8), np.int8), unit=np.int8(4), **STEPS)
    unpack_weights(model.graph)
    assert model.graph.outputs[1].producer().op_type == "Mul"


def test_rows_that_are_looked_up_keep_their_readers(build):
    text = (
        "(int64[N] x) => (float[N,8] y) { t = Mul(p, unit) r = Gather(t, x) y = DequantizeLinear(r, s, z) }"
    )
    table = np.random.default_rng(0).integers(-7, 8, (10, 8)).astype(np.int8)
    model = build(text, p=table, unit=np.int8(4), s=F32(0.5), z=np.int8(0))
    unpack_weights(model.graph)
    assert np.array_equal(model.graph.initializers["t"].const_value.numpy(), 4 * table)


@pytest.mark.parametrize(
    ("branch", "tensors", "storage"),
    [
        ("", {"w": np.ones((4, 8), np.int8)}, "INT8"),
        ("a = Cast<to=3>(p) b = Mul(a, q) w = Add(b, q)", {"p": np.ones((4, 8), np.int8)}, "INT8 + INT8"),
        ("w = Cast<to=3>(x)", {}, ""),
    ],
)
def test_storage_in_words(build, branch, tensors, storage):
    model = build(f"{HEAD} {branch} {LAYER}", **tensors, **STEPS, q=np.int8(1))
    assert storage_of(layer(model)) == storage


def test_float_weights_and_computed_ones(build):
    model = build(f"{HEAD} y = Gemm<transB=1>(x, w) }}", w=np.ones((4, 8), F32))
    assert storage_of(layer(model)) == "FLOAT"
    model = build("(float[N,8] x, float[4,8] w) => (float[N,4] y) { y = Gemm<transB=1>(x, w) }")
    assert storage_of(layer(model)) == ""


def test_packings_in_words():
    parts = (Part(1, None, -8, 16, -16, ir.DataType.INT4), Part(0, 1, 0, 2, 0))
    assert str(Packing(0, parts)) == "INT4 + 1-bit"
    assert [str(Part(0, None, 0, count, 0)) for count in (2, 3, 4, 5, 16)] == [
        *("1-bit", "ternary", "2-bit", "base 5", "4-bit")
    ]
    assert onnx.TensorProto.INT4 == ir.DataType.INT4


def test_a_table_that_a_head_is_made_of(build):
    """Both readers get the integers of the packed table, the head's transposed."""
    text = """(int64[N] i, float[N,8] x) => (float[N,8] a, float[N,4] y) {
        high = Cast<to=3>(p) w = Add(high, low)
        r = Gather(w, i) a = DequantizeLinear(r, one, zero)
        t = Transpose<perm=[1,0]>(w) d = DequantizeLinear(t, one, zero) y = MatMul(x, d)
    }"""
    rng = np.random.default_rng(0)
    high, low = rng.integers(-8, 8, (4, 8)), rng.integers(0, 2, (4, 8)).astype(np.int8)
    packed = ir.tensor(high.astype(ir.DataType.INT4.numpy()), dtype=ir.DataType.INT4, name="p")
    model = build(text, p=ir.serde.serialize_tensor(packed), low=low, one=F32(0.5), zero=np.int8(0))
    feeds = {"i": np.array([2, 0, 3]), "x": rng.normal(size=(3, 8)).astype(F32)}
    before = run(open_session(model, optimize=False), feeds)
    unpack_weights(model.graph)
    assert np.array_equal(layer(model, "gather").inputs[0].const_value.numpy(), high + low)
    after = run(open_session(model, optimize=False), feeds)
    assert all(np.array_equal(before[name], after[name]) for name in before)
