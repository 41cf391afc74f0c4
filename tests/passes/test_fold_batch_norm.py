"""fold-batch-norm: the layer computes what both did, or the normalisation stays and the reason is told."""

from __future__ import annotations

import numpy as np
import pytest

from getac.passes import FoldBatchNorm
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer

BOUND = {np.float32: 1e-6, np.float16: 4e-3}  # relative to the largest output


def norm(channels, dtype=np.float32, seed=1, tag=""):
    rng = np.random.default_rng(seed)
    return {
        f"gamma{tag}": rng.uniform(0.5, 1.5, channels).astype(dtype),
        f"beta{tag}": rng.normal(size=channels).astype(dtype),
        f"mean{tag}": rng.normal(size=channels).astype(dtype),
        f"var{tag}": rng.uniform(0.5, 1.5, channels).astype(dtype),
    }


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def fold(model, quantizers=None):
    state = State(model, facts={Fact.QUANTIZERS_FOLDED}, quantizers=quantizers or {})
    return Pipeline([FoldBatchNorm()]).run(state)


def operators(model):
    return [node.op_type for node in model.graph]


def check(build, evaluate, text, x, tensors, channels=8, dtype=np.float32):
    model = build(text, **tensors, **norm(channels, dtype))
    (before,) = evaluate(model, x=x)
    state = fold(model)
    assert "BatchNormalization" not in operators(model)
    assert state.refusals == {}
    assert state.records[-1].changed
    assert [value.name for value in model.graph.outputs] == ["z"]
    (after,) = evaluate(model, x=x)
    assert after.dtype == before.dtype
    np.testing.assert_allclose(after, before, rtol=0, atol=BOUND[dtype] * np.abs(before).max())
    again = fold(model)
    assert not again.records[-1].changed
    return model


CONV = """(float[2,6,5,5] x) => (float[2,8,3,3] z)
    {{ y = Conv<group={group}>({inputs}) z = BatchNormalization(y, gamma, beta, mean, var) }}"""


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_convolution(build, evaluate, group, bias):
    text = CONV.format(group=group, inputs="x, W, c" if bias else "x, W")
    tensors = {"W": normal(8, 6 // group, 3, 3)} | ({"c": normal(8, seed=2)} if bias else {})
    model = check(build, evaluate, text, normal(2, 6, 5, 5), tensors)
    assert operators(model) == ["Conv"]
    assert len(model.graph.node(0).inputs) == 3


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolution(build, evaluate, group, bias):
    text = f"""(float[2,4,5,5] x) => (float[2,8,7,7] z) {{
        y = ConvTranspose<group={group}>({"x, W, c" if bias else "x, W"})
        z = BatchNormalization(y, gamma, beta, mean, var) }}"""
    tensors = {"W": normal(4, 8 // group, 3, 3)} | ({"c": normal(8, seed=2)} if bias else {})
    check(build, evaluate, text, normal(2, 4, 5, 5), tensors)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (1.0, 0.5), (0.25, 1.0), (2.0, 3.0)])
def test_gemm_whose_alpha_scales_the_product_only(build, evaluate, transposed, alpha, beta):
    text = f"""(float[3,6] x) => (float[3,8] z) {{
        y = Gemm<transB={transposed}, alpha={alpha}, beta={beta}>(x, W, c)
        z = BatchNormalization(y, gamma, beta, mean, var) }}"""
    weight = normal(8, 6) if transposed else normal(6, 8)
    check(build, evaluate, text, normal(3, 6), {"W": weight, "c": normal(8, seed=2)})


@pytest.mark.parametrize("shape", [(), (1,), (1, 8), (1, 1)])
def test_gemm_bias_that_is_broadcast(build, evaluate, shape):
    text = """(float[3,6] x) => (float[3,8] z) {
        y = Gemm<beta=0.5>(x, W, c) z = BatchNormalization(y, gamma, beta, mean, var) }"""
    check(
        build, evaluate, text, normal(3, 6), {"W": normal(6, 8), "c": normal(*shape, seed=2) + np.float32(1)}
    )


@pytest.mark.parametrize("shape", [(8, 1), (8, 8)])
def test_refuses_a_gemm_bias_per_row(build, evaluate, shape):
    text = """(float[8,6] x) => (float[8,8] z) {
        y = Gemm(x, W, c) z = BatchNormalization(y, gamma, beta, mean, var) }"""
    model = build(text, W=normal(6, 8), c=normal(*shape), **norm(8))
    state = fold(model)
    assert "gemm_0 differs from row to row" in refusal(state)
    assert not state.records[-1].changed
    evaluate(model, x=normal(8, 6))


def test_float16(build, evaluate):
    text = """(float16[2,6,5,5] x) => (float16[2,8,3,3] z) {
        y = Conv(x, W) z = BatchNormalization(y, gamma, beta, mean, var) }"""
    weight = (0.1 * normal(8, 6, 3, 3)).astype(np.float16)
    model = check(
        build, evaluate, text, normal(2, 6, 5, 5, dtype=np.float16), {"W": weight}, dtype=np.float16
    )
    assert all(value.dtype.name == "FLOAT16" for value in model.graph.node(0).inputs)


def test_epsilon(build, evaluate):
    text = """(float[3,6] x) => (float[3,8] z) {
        y = Gemm(x, W) z = BatchNormalization<epsilon=0.5>(y, gamma, beta, mean, var) }"""
    check(build, evaluate, text, normal(3, 6), {"W": normal(6, 8)})


def test_a_shared_weight_is_scaled_for_each_layer_alone(build, evaluate):
    text = """(float[2,6,5,5] x) => (float[2,8,3,3] z, float[2,8,3,3] w, float[2,8,3,3] plain) {
        y1 = Conv(x, W, c) y2 = Conv(x, W, c) plain = Conv(x, W, c)
        z = BatchNormalization(y1, gamma, beta, mean, var)
        w = BatchNormalization(y2, gamma2, beta2, mean2, var2) }"""
    tensors = {"W": normal(8, 6, 3, 3), "c": normal(8)}
    model = build(text, **tensors, **norm(8), **norm(8, seed=5, tag="2"))
    x = normal(2, 6, 5, 5)
    before = evaluate(model, x=x)
    fold(model)
    assert operators(model) == ["Conv"] * 3
    for old, new in zip(before, evaluate(model, x=x), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-6 * np.abs(old).max())
    assert np.array_equal(model.graph.initializers["W"].const_value.numpy(), tensors["W"])


def test_a_chain_folds_both(build, evaluate):
    text = """(float[3,6] x) => (float[3,8] z) {
        y = Gemm(x, W) a = BatchNormalization(y, gamma, beta, mean, var)
        z = BatchNormalization(a, gamma, beta, mean, var) }"""
    model = check(build, evaluate, text, normal(3, 6), {"W": normal(6, 8)})
    assert operators(model) == ["Gemm"]


def test_an_inner_value_keeps_the_name_of_the_normalised_one(build, evaluate):
    text = """(float[3,6] x) => (float[3,8] z) {
        y = Gemm(x, W) a = BatchNormalization(y, gamma, beta, mean, var) z = Relu(a) }"""
    model = check(build, evaluate, text, normal(3, 6), {"W": normal(6, 8)})
    assert model.graph.node(0).outputs[0].name == "a"


def test_the_record_of_the_normalised_value_moves_to_the_layer(build):
    text = """(float[3,6] x) => (float[3,8] z) {
        y = Gemm(x, W) a = BatchNormalization(y, gamma, beta, mean, var) z = Relu(a) }"""
    model = build(text, W=normal(6, 8), **norm(8))
    quantizer = Quantizer.ranged(-1, 1, 8)
    state = fold(model, {model.graph.node(1).outputs[0]: quantizer, model.graph.inputs[0]: quantizer})
    assert operators(model) == ["Gemm", "Relu"]
    assert state.quantizers == {model.graph.node(0).outputs[0]: quantizer, model.graph.inputs[0]: quantizer}


def refusal(state):
    (only,) = state.refusals["fold-batch-norm"]
    assert only.where
    return only.reason


TAIL = "z = BatchNormalization(y, gamma, beta, mean, var)"
REFUSED = {
    "after Concat": (
        f"(float[2,3] x) => (float[2,6] z) {{ y = Concat<axis=1>(x, x) {TAIL} }}",
        "follows Concat",
    ),
    "of the input": (f"(float[2,6] y) => (float[2,6] z) {{ {TAIL} }}", "follows a graph input"),
    "of a layer of another domain": (
        f"(float[2,6] x) => (float[2,6] z) {{ y = com.microsoft.Gemm(x, W) {TAIL} }}",
        "follows Gemm",
    ),
    "used twice": (
        f"(float[2,6] x) => (float[2,6] z, float[2,6] w) {{ y = Gemm(x, W) {TAIL} w = Relu(y) }}",
        "output of gemm_0 is also used elsewhere",
    ),
    "an output too": (
        f"(float[2,6] x) => (float[2,6] z, float[2,6] y) {{ y = Gemm(x, W) {TAIL} }}",
        "output of gemm_0 is also used elsewhere",
    ),
    "weight computed": (
        f"(float[2,6] x) => (float[2,6] z) {{ V = Relu(W) y = Gemm(x, V) {TAIL} }}",
        "computed when the graph runs",
    ),
    "scale computed": (
        """(float[2,6] x) => (float[2,6] z)
        { s = Relu(gamma) y = Gemm(x, W) z = BatchNormalization(y, s, beta, mean, var) }""",
        "computed when the graph runs",
    ),
    "training": (
        """(float[2,6] x) => (float[2,6] z) { y = Gemm(x, W)
        z = BatchNormalization<training_mode=1>(y, gamma, beta, mean, var) }""",
        "training mode",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(build, case):
    text, reason = REFUSED[case]
    model = build(text, W=normal(6, 6), **norm(6))
    before = operators(model)
    state = fold(model)
    assert reason in refusal(state)
    assert operators(model) == before
    assert not state.records[-1].changed


def test_refuses_a_quantized_weight(build):
    text = f"(float[2,6] x) => (float[2,6] z) {{ y = Gemm(x, W) {TAIL} }}"
    model = build(text, W=normal(6, 6), **norm(6))
    state = fold(model, {model.graph.initializers["W"]: Quantizer.ranged(-1, 1, 8)})
    assert "gemm_0 is already quantized" in refusal(state)


def test_refuses_numbers_that_would_not_be_finite(build):
    text = f"(float[2,6] x) => (float[2,6] z) {{ y = Gemm(x, W) {TAIL} }}"
    tensors = norm(6) | {"var": np.full(6, -1, np.float32)}
    state = fold(build(text, W=normal(6, 6), **tensors))
    assert "gemm_0 would not be finite" in refusal(state)


def test_refuses_a_weight_that_float16_cannot_hold(build):
    text = f"(float16[2,6] x) => (float16[2,6] z) {{ y = Gemm(x, W) {TAIL} }}"
    tensors = norm(6, np.float16) | {"gamma": np.full(6, 60000, np.float16)}
    state = fold(build(text, W=np.full((6, 6), 100, np.float16), **tensors))
    assert "would not be finite" in refusal(state)
    assert not state.records[-1].changed
