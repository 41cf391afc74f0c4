"""flatten-products: products that run on integers are Gemms, and keep their open sizes."""

from __future__ import annotations

import numpy as np
import pytest

from getac.passes import FlattenProducts
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer
from getac.runtime import open_session, run

F32 = np.float32
RECORD = Quantizer(np.asarray(0.05, F32), -128, 127)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def flattened(model, quantized=("x",)):
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    values = {v.name: v for v in [*model.graph.inputs, *(o for node in model.graph for o in node.outputs)]}
    for name in quantized:
        state.quantizers[values[name]] = RECORD
    Pipeline([FlattenProducts()]).run(state)
    return state


@pytest.mark.parametrize(
    ("dims", "shapes"),
    [
        ("N,3,8", [(1, 3, 8), (5, 3, 8), (0, 3, 8)]),
        ("N,T,8", [(1, 3, 8), (5, 1, 8), (2, 7, 8), (2, 0, 8), (0, 4, 8), (0, 0, 8)]),
        ("2,T,8", [(2, 3, 8), (2, 0, 8)]),
        ("N,2,T,8", [(3, 2, 5, 8), (3, 2, 0, 8)]),
        ("2,3,8", [(2, 3, 8)]),
    ],
)
@pytest.mark.parametrize(
    ("body", "types"),
    [
        ("y = MatMul(x, w)", ["Reshape", "Gemm", "Reshape"]),
        ("m = MatMul(x, w) \n y = Add(m, b)", ["Reshape", "Gemm", "Reshape"]),
        ("m = MatMul(x, w) \n y = Add(r, m)", ["Reshape", "Gemm", "Reshape"]),
        ("m = MatMul(x, w) \n y = Relu(m)", ["Reshape", "Gemm", "Reshape", "Relu"]),
    ],
)
def test_a_product_computes_the_same_at_any_size(build, dims, shapes, body, types):
    out = dims.rsplit(",", 1)[0] + ",6"
    model = build(
        f"(float[{dims}] x) => (float[{out}] y) {{ {body} }}", w=normal(8, 6), b=normal(6), r=normal(1, 6)
    )
    before = model.clone()
    flattened(model)
    assert [n.op_type for n in model.graph if n.op_type not in ("Shape", "Concat")] == types
    for shape in shapes:
        feeds = {"x": normal(*shape, seed=1)}
        expected = run(open_session(before), feeds)["y"]
        np.testing.assert_allclose(run(open_session(model), feeds)["y"], expected, rtol=1e-5, atol=1e-5)


def test_products_of_one_input_share_what_is_around_them(build):
    text = "(float[N,T,8] x) => (float[N,T,6] y) { a = MatMul(x, v) \n b = MatMul(x, w) \n y = Add(a, b) }"
    model = build(text, v=normal(8, 6), w=normal(8, 6, seed=1))
    flattened(model)
    types = [node.op_type for node in model.graph]
    assert [types.count(one) for one in ("Gemm", "Shape", "Concat", "Reshape")] == [2, 1, 1, 3]


@pytest.mark.parametrize(
    ("text", "quantized"),
    [
        ("(float[N,3,8] x) => (float[N,3,6] y) { y = MatMul(x, w) }", ()),  # floats
        ("(float[N,8] x) => (float[N,6] y) { y = MatMul(x, w) }", ("x",)),  # a matrix already
        ("(float[N,3,8] x) => (float[N,3,6] z) { y = MatMul(x, w) \n z = Relu(y) }", ("x", "y")),
    ],
)
def test_what_stays(build, text, quantized):
    state = flattened(build(text, w=normal(8, 6)), quantized)
    assert "MatMul" in [node.op_type for node in state.model.graph] and not state.records[-1].changed


def test_a_result_that_two_read_keeps_both_readers(build):
    text = """(float[N,3,8] x) => (float[N,3,6] y, float[N,3,6] z) {
        m = MatMul(x, w) \n y = Add(m, b) \n z = Relu(m) }"""
    model = build(text, w=normal(8, 6), b=normal(6))
    before = model.clone()
    flattened(model)
    feeds = {"x": normal(2, 3, 8, seed=1)}
    expected, found = (run(open_session(one), feeds) for one in (before, model))
    for name in ("y", "z"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_second_run_changes_nothing(build):
    model = build("(float[N,3,8] x) => (float[N,3,6] y) { y = MatMul(x, w) }", w=normal(8, 6))
    state = flattened(model)
    Pipeline([FlattenProducts()]).run(state)
    assert not state.records[-1].changed
