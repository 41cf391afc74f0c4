"""share-storage: equal tensors are stored once."""

from __future__ import annotations

import numpy as np

from getac.executed import executed_kernels
from getac.passes import ShareStorage
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
