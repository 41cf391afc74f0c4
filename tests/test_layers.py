"""Layers in normal form: scalar factors multiplied in, one step per output unit."""

from __future__ import annotations

import numpy as np
import pytest

from getac.layers import read_weights, set_normal_form
from getac.onnx_graph.edit import add_initializer
from getac.quantizer import Quantizer

F32 = np.float32


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def record(size=None, axis=None, low=-127):
    step = F32(0.01) if size is None else np.linspace(0.01, 0.02, size).astype(F32)
    return Quantizer(np.asarray(step), low, 127, axis)


def gemm(build, attributes, weight, bias=None):
    inputs, tensors = ("x, w, b", {"w": weight, "b": bias}) if bias is not None else ("x, w", {"w": weight})
    return build(f"(float[N,3] x) => (float[N,2] y) {{ y = Gemm<{attributes}>({inputs}) }}", **tensors)


@pytest.mark.parametrize("alpha", [1.0, 0.5, -2.0])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [normal(2), normal(1, 2), normal(1), normal(5, 1), normal(5, 2), None])
def test_a_gemm_in_normal_form_computes_the_same(build, evaluate, alpha, transposed, bias):
    weight = normal(2, 3) if transposed else normal(3, 2)
    model = gemm(build, f"alpha={alpha}, beta=3.0, transB={transposed}", weight, bias)
    x = normal(5, 3, seed=1)
    (before,) = evaluate(model, x=x)
    node = model.graph[0]
    weights = read_weights(node, record(2, axis=1 - transposed))
    set_normal_form(node, weights)
    node.replace_input_with(1, add_initializer(model.graph, "normal", weights.weight))
    assert node.attributes["transB"].value == 1 and {"alpha", "beta"}.isdisjoint(node.attributes)
    np.testing.assert_allclose(evaluate(model, x=x)[0], before, rtol=1e-5, atol=1e-6)
    assert weights.axis == 0 and weights.quantizer.axis == 0 and weights.weight.shape == (2, 3)


def test_factors_scale_the_steps_and_a_negative_one_turns_the_lattice(build):
    node = gemm(build, "alpha=-2.0", normal(3, 2)).graph[0]
    found = read_weights(node, Quantizer(np.array([0.01, 0.02], F32), -128, 127, 1)).quantizer
    np.testing.assert_allclose(found.step, [0.02, 0.04])
    assert (found.low, found.high, found.axis) == (-127, 128, 0)


@pytest.mark.parametrize(
    ("text", "shape", "axis", "units"),
    [
        ("y = Conv<group=2>(x, w)", (6, 2, 3, 3), 0, 6),
        ("y = ConvTranspose(x, w)", (4, 6, 3, 3), 1, 6),
        ("y = ConvTranspose<group=2>(x, w)", (4, 3, 3, 3), 1, 3),
    ],
)
def test_convolutions_and_one_step_for_every_unit(build, text, shape, axis, units):
    model = build(f"(float[N,4,8,8] x) => (float[N,M,H,W] y) {{ {text} }}", w=normal(*shape))
    found = read_weights(model.graph[0], record())
    assert (found.axis, found.quantizer.axis, found.bias) == (axis, axis, None)
    np.testing.assert_array_equal(found.quantizer.step, np.full(units, 0.01, F32))
    np.testing.assert_array_equal(found.weight, normal(*shape))


def test_a_matmul_has_its_units_in_the_last_dimension(build):
    model = build("(float[N,3] x) => (float[N,2] y) { y = MatMul(x, w) }", w=normal(3, 2))
    found = read_weights(model.graph[0], record(2, axis=1))
    assert (found.axis, found.quantizer.axis) == (1, 1)
    set_normal_form(model.graph[0], found)
    assert not model.graph[0].attributes


def test_a_step_per_unit_stays(build):
    model = build("(float[N,3] x) => (float[N,2] y) { y = Gemm<transB=1>(x, w) }", w=normal(2, 3))
    np.testing.assert_array_equal(
        read_weights(model.graph[0], record(2, axis=0)).quantizer.step, record(2).step
    )


def test_a_column_of_as_many_rows_as_units_is_no_row(build, evaluate):
    column = np.array([[1], [-1]], F32)
    model = build("(float[2,3] x) => (float[2,2] y) { y = Gemm(x, w, b) }", w=normal(3, 2), b=column)
    (before,) = evaluate(model, x=normal(2, 3))
    node = model.graph[0]
    weights = read_weights(node, record(2, axis=1))
    set_normal_form(node, weights)
    node.replace_input_with(1, add_initializer(model.graph, "normal", weights.weight))
    np.testing.assert_array_equal(weights.bias, column)
    np.testing.assert_allclose(evaluate(model, x=normal(2, 3))[0], before, rtol=1e-5)
