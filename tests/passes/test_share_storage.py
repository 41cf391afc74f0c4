"""share-storage: equal tensors are stored once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from getac.executed import executed_kernels
from getac.passes import FoldQuantizers, PackWeights, RemoveDead, ShareStorage
from getac.pipeline import Fact, Pipeline, State
from getac.runtime import open_session, run

F32 = np.float32
TIED = """(int64[N] i, float[N,64] x) => (float[N,64] a, float[N,300] y) {
    r = Gather(t, i)
    c = Cast<to=1>(r)
    a = Mul(c, s)
    d = DequantizeLinear<axis=1>(w, s300)
    y = MatMul(x, d)
}"""
GEMM = """(float[N,64] x) => (float[N,300] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0>(w, ws, wz)
    bd = DequantizeLinear<axis=0>(b, bs)
    y = Gemm<transB=1>(d, wd, bd)
}"""


def integers(*shape, seed=0):
    return np.random.default_rng(seed).integers(-127, 128, shape, np.int8)


def shared(model):
    state = State(model, facts={Fact.LOWERED}, quantizers={})
    Pipeline([ShareStorage()], language={}).run(state)
    return state


def tied(build, table, weight):
    return build(TIED, t=table, w=weight, s=F32(0.01), s300=np.linspace(0.01, 0.02, 300, dtype=F32))


def test_a_tied_head_is_made_of_the_table(build):
    table = integers(300, 64)
    model = tied(build, table, table.T.copy())
    feeds = {"i": np.array([3, 4]), "x": np.random.default_rng(1).normal(size=(2, 64)).astype(F32)}
    before = run(open_session(model), feeds)
    shared(model)
    assert sorted(model.graph.initializers) == ["s", "s300", "t"]
    assert "MatMulNBits" in [node.op_type for node in executed_kernels(model)]  # all the same
    after = run(open_session(model), feeds)
    for name in ("a", "y"):
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("target", ["portable", "ort"])
@pytest.mark.parametrize(("bits", "dtype"), [(2, "INT4"), (3, "INT4"), (4, "INT4"), (6, "INT8")])
def test_a_tied_head_of_few_bits_is_made_of_the_packed_table(build, bits, dtype, target):
    """A head of 4 bits or fewer is INT4, which its kernel wants; its table is INT8."""
    high, kind = 2 ** (bits - 1) - 1, ir.DataType[dtype]
    table = np.random.default_rng(0).integers(-high, high + 1, (300, 64)).astype(np.int8)
    head = ir.tensor(np.ascontiguousarray(table.T).astype(kind.numpy()), dtype=kind, name="w")
    model = tied(build, table, ir.serde.serialize_tensor(head))
    feeds = {"i": np.array([3, 4]), "x": np.random.default_rng(1).normal(size=(2, 64)).astype(F32)}
    before, running = run(open_session(model), feeds), sorted(one.op_type for one in executed_kernels(model))
    shared(model)
    Pipeline([PackWeights(target)]).run(State(model))
    large = [value for value in model.graph.initializers.values() if value.const_value.size >= 300 * 64 / 5]
    assert 8 * sum(value.const_value.nbytes for value in large) <= (bits + 0.02) * 300 * 64
    assert sorted(one.op_type for one in executed_kernels(model)) == running and "MatMulNBits" in running
    after = run(open_session(model), feeds)
    assert all(np.array_equal(before[name], after[name]) for name in ("a", "y"))


def test_other_numbers_stay_apart(build):
    model = tied(build, integers(300, 64), integers(64, 300, seed=1))
    assert not shared(model).records[-1].changed


def test_zero_points_of_a_width_are_one_tensor(build):
    text = """(float[N,4] x) => (float[N,16] y) {
        v = DequantizeLinear<axis=1>(a, s, z) \n w = DequantizeLinear<axis=1>(b, s, o)
        p = MatMul(x, v) \n q = MatMul(x, w) \n y = Add(p, q) }"""
    zeros, steps = np.zeros(16, np.int8), np.ones(16, F32)
    model = build(text, a=integers(4, 16), b=integers(4, 16, seed=1), s=steps, z=zeros, o=zeros)
    shared(model)
    assert sorted(model.graph.initializers) == ["a", "b", "s", "z"]


def test_types_are_told_apart(build):
    text = """(float[16] x) => (float[16] y) {
        c = Cast<to=1>(a) \n d = Cast<to=1>(b) \n e = Add(c, d) \n y = Add(x, e) }"""
    model = build(text, a=np.zeros(16, np.int8), b=np.zeros(16, np.uint8))
    assert not shared(model).records[-1].changed


def gemm(build, units=300, **tensors):
    steps = np.random.default_rng(2).uniform(0.01, 0.02, units).astype(F32)
    known = {
        **{"s": F32(0.03), "z": np.uint8(128), "ws": steps, "wz": np.zeros(units, np.int8)},
        **{"w": integers(units, 64), "b": np.arange(units, dtype=np.int32), "bs": F32(0.03) * steps},
    }
    return build(GEMM.replace("300", str(units)), **{**known, **tensors})


def test_the_scale_of_a_bias_is_multiplied_at_load(build):
    model = gemm(build)
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 64)).astype(F32)}
    before = [run(open_session(model, optimize=one), feeds)["y"] for one in (False, True)]
    running = sorted(node.op_type for node in executed_kernels(model))
    shared(model)
    assert "bs" not in model.graph.initializers
    (node,) = [node for node in model.graph if node.op_type == "Mul"]
    assert (node.name, node.outputs[0].name, [value.name for value in node.inputs]) == (
        *("bs", "bs"),
        ["s", "ws"],
    )
    assert sorted(node.op_type for node in executed_kernels(model)) == running == ["QGemm", "QuantizeLinear"]
    after = [run(open_session(model, optimize=one), feeds)["y"] for one in (False, True)]
    assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))


def test_the_bias_of_such_a_scale_is_read_again(build):
    model = gemm(build)
    stored = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    shared(model)
    state = State(model)
    Pipeline([FoldQuantizers(), RemoveDead()]).run(state)
    assert not state.refusals
    (node,) = model.graph
    np.testing.assert_array_equal(node.inputs[2].const_value.numpy(), stored["b"].astype(F32) * stored["bs"])


def test_a_second_run_multiplies_nothing(build):
    model = gemm(build)
    shared(model)
    assert not shared(model).records[-1].changed


@pytest.mark.parametrize("units", [4, 300])
def test_other_or_few_scales_stay_stored(build, units):
    """One unit in the last place is another number; few are shorter than a node."""
    model = gemm(build, units)
    if units == 300:
        scale = model.graph.initializers["bs"]
        other = np.nextafter(scale.const_value.numpy(), F32(1))
        scale.const_value = ir.tensor(other, name="bs")
    assert not shared(model).records[-1].changed


def test_a_scale_with_other_readers_stays(build):
    text = GEMM.replace("y = Gemm<transB=1>(d, wd, bd)", "g = Gemm<transB=1>(d, wd, bd) y = Add(g, bs)")
    tensors = {name: value.const_value.numpy() for name, value in gemm(build).graph.initializers.items()}
    assert not shared(build(text, **tensors)).records[-1].changed
