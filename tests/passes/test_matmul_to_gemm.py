"""matmul-to-gemm: a matrix product of rank 2 and the addition of its bias are one Gemm."""

from __future__ import annotations

import numpy as np
import pytest

from getac.passes import InferShapes, MatMulToGemm
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer

F32 = np.float32


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def rewritten(model, quantized=()):
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    for node in model.graph:
        for value in node.outputs:
            if value.name in quantized:
                state.quantizers[value] = Quantizer(np.asarray(1, F32), 0, 255)
    Pipeline([InferShapes(), MatMulToGemm()]).run(state)
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("addition", ["Add(p, b)", "Add(b, p)"])
@pytest.mark.parametrize("bias", [normal(5), normal(1, 5)])
def test_a_product_and_its_bias(build, evaluate, addition, bias):
    model = build(
        f"(float[N,4] x) => (float[N,5] y) {{ p = MatMul(x, w) \n s = {addition} \n y = Relu(s) }}",
        w=normal(4, 5),
        b=bias,
    )
    x = normal(3, 4, seed=1)
    (before,) = evaluate(model, x=x)
    assert rewritten(model) == ["Gemm", "Relu"]
    assert (model.graph[0].name, model.graph[0].outputs[0].name) == ("matmul_0", "s")
    np.testing.assert_allclose(evaluate(model, x=x)[0], before, rtol=1e-6)
    assert rewritten(model) == ["Gemm", "Relu"]  # a second run changes nothing


def test_the_sum_may_be_an_output(build, evaluate):
    model = build(
        "(float[N,4] x) => (float[N,5] y) { p = MatMul(x, w) \n y = Add(p, b) }", w=normal(4, 5), b=normal(5)
    )
    assert rewritten(model) == ["Gemm"] and model.graph.outputs[0].name == "y"
    assert evaluate(model, x=normal(2, 4))[0].shape == (2, 5)


def test_a_chain(build):
    model = build(
        """(float[N,4] x) => (float[N,4] y) {
            a = MatMul(x, w)
            b = Add(a, v)
            c = MatMul(b, w)
            y = Add(c, v)
        }""",
        w=normal(4, 4),
        v=normal(4),
    )
    assert rewritten(model) == ["Gemm", "Gemm"]


@pytest.mark.parametrize(
    ("text", "tensors"),
    [
        ("(float[N,3,4] x) => (float[N,3,5] y) { p = MatMul(x, w) \n y = Add(p, b) }", {"b": normal(5)}),
        ("(float[N,4] x) => (float[N,5] y) { p = MatMul(x, w) \n y = Add(p, b) }", {"b": normal(1)}),
        ("(float[3,4] x) => (float[3,5] y) { p = MatMul(x, w) \n y = Add(p, b) }", {"b": normal(3, 5)}),
        ("(float[N,4] x) => (float[1,N,5] y) { p = MatMul(x, w) \n y = Add(p, b) }", {"b": normal(1, 1, 5)}),
        ("(float[N,4] x, float[5] b) => (float[N,5] y) { p = MatMul(x, w) \n y = Add(p, b) }", {}),
        (
            "(float[N,4] x) => (float[N,5] p, float[N,5] y) { p = MatMul(x, w) \n y = Add(p, b) }",
            {"b": normal(5)},
        ),
        ("(float[N,4] x) => (float[N,5] y) { p = MatMul(x, w) \n y = Add(p, p) }", {}),
        ("(float[N,4] x) => (float[N,5] y) { p = MatMul(x, w) \n y = Sub(p, b) }", {"b": normal(5)}),
    ],
    ids=["rank-3", "scalar", "matrix", "higher", "computed", "output", "itself", "sub"],
)
def test_what_is_no_gemm_stays(build, text, tensors):
    model = build(text, w=normal(4, 5), **tensors)
    before = [node.op_type for node in model.graph]
    assert rewritten(model) == before


def test_a_quantized_product_stays(build):
    """Its rounding stands between the product and the sum."""
    model = build(
        "(float[N,4] x) => (float[N,5] y) { p = MatMul(x, w) \n y = Add(p, b) }", w=normal(4, 5), b=normal(5)
    )
    assert rewritten(model, quantized=["p"]) == ["MatMul", "Add"]


def test_a_quantized_sum_keeps_its_record(build):
    model = build(
        "(float[N,4] x) => (float[N,5] y) { p = MatMul(x, w) \n s = Add(p, b) \n y = Relu(s) }",
        w=normal(4, 5),
        b=normal(5),
    )
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    record = Quantizer(np.asarray(0.5, F32), -128, 127)
    state.quantizers[model.graph[1].outputs[0]] = record
    Pipeline([InferShapes(), MatMulToGemm()]).run(state)
    assert model.graph[0].op_type == "Gemm"
    assert state.quantizers.get(model.graph[0].outputs[0]) == record


@pytest.mark.parametrize(
    ("text", "weight", "bias"),
    [
        ("(float[4,4] x) => (float[4] y) { p = MatMul(x, w) \n y = Add(p, b) }", normal(4), normal(4)),
        (
            "(float[N,4] x) => (float[3,N,5] y) { p = MatMul(x, w) \n y = Add(p, b) }",
            normal(3, 4, 5),
            normal(5),
        ),
        (
            "(float[N,4] x, bool c) => (float[N,5] y) { p = MatMul(x, w) \n y = If(c)<"
            "then_branch = t () => (float[N,5] r) { r = Add(p, b) },"
            " else_branch = e () => (float[N,5] q) { z = MatMul(x, w) \n q = Abs(z) }> }",
            normal(4, 5),
            normal(5),
        ),
    ],
    ids=["a vector", "a stack of matrices", "an addition in a branch"],
)
def test_what_is_no_gemm(build, text, weight, bias):
    before = build(text, w=weight, b=bias)
    assert rewritten(before)[0] == "MatMul"


def test_an_addition_of_another_domain(build):
    model = build(
        "(float[N,4] x) => (float[N,5] y) { p = MatMul(x, w) \n y = com.microsoft.Add(p, b) }",
        w=normal(4, 5),
        b=normal(5),
    )
    assert rewritten(model) == ["MatMul", "Add"]
