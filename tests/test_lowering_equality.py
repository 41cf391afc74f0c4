"""A lowered layer computes what its fake-quantized form computes, whatever the bits, ranges and inputs.

The reference is the fake-quantized graph, run as it is written. What may differ:

- As written, nothing but the bias: its INT32 is half a step s_x s_w off at most. A bias on that lattice, or
  none, leaves every bit as it is.
- Optimised, an integer kernel sums integers where the graph sums rounded floats, so that a result within
  1e-6 of a tie may fall to its other side: one output step. With steps that are powers of two both are exact,
  and so are the ties: they go to even in both.

By itself no layer is further off. In a chain the next layer starts one step aside where that happened, so
that a deep network of few bits may end some steps off (`test_a_chain_departs_rarely_and_by_little`).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from getac.executed import executed_kernels
from tests.fake_quantized import (
    F32,
    SIGNATURES,
    Layer,
    Rounding,
    lowered,
    output,
    parameters,
    quantized,
    spelled,
)
from tests.traps.naive import adversarial

INTEGER = tuple(name for name in SIGNATURES if name != "ConvTranspose")
BITS = st.integers(2, 8)


def weights_of(operator, seed):
    shape = SIGNATURES[operator][2]
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(F32)


def range_of(weight, operator, per_channel):
    if not per_channel:
        return F32(np.abs(weight).max())
    axis = SIGNATURES[operator][3]
    return np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis))


def natural_range(layer, x):
    """The greatest result of the layer without a quantizer behind it."""
    free = Layer(layer.operator, layer.weight, layer.bias, layer.weights, layer.inputs, None)
    return float(np.abs(output(free.model(), x, optimize=False)).max())


@st.composite
def layers(draw):
    """A layer with random quantizers everywhere; its output saturates, or uses part of its lattice."""
    operator, seed = draw(st.sampled_from(INTEGER)), draw(st.integers(0, 999))
    weight = weights_of(operator, seed)
    weights = Rounding(draw(BITS), True, range_of(weight, operator, draw(st.booleans())))
    inputs = Rounding(draw(BITS), draw(st.booleans()), draw(st.floats(1e-3, 1e3)))
    units, biased = weight.shape[SIGNATURES[operator][3]], operator != "MatMul" and draw(st.booleans())
    size = draw(st.floats(0, 10)) * float(inputs.range)
    bias = np.random.default_rng(seed).uniform(-size, size, units).astype(F32) if biased else None
    layer = Layer(operator, weight, bias, weights, inputs, None)
    x = float(inputs.range) * np.random.default_rng(seed).uniform(-1, 1, layer.input_shape).astype(F32)
    greatest = max(natural_range(layer, x), float(inputs.step)) * draw(st.floats(0.2, 2))
    outputs = Rounding(draw(st.integers(4, 8)), draw(st.booleans()), greatest)
    return Layer(operator, weight, bias, weights, inputs, outputs)


def inputs_for(layer):
    return adversarial(float(layer.inputs.step), layer.input_shape).items()


@settings(max_examples=40)
@given(layers())
def test_an_integer_layer_is_within_one_step_of_training(layer):
    original, step = layer.model(), float(layer.outputs.step)
    result = lowered(original)
    kernels = {node.op_type for node in executed_kernels(result)}
    in_floats = layer.bias is not None and "Conv" in kernels  # no bias in integers rounds alike
    assert layer.kernels & kernels or in_floats
    steps = 1 + int(layer.bias_error / step)  # one, unless the output's lattice is finer than the bias's
    for name, x in inputs_for(layer):
        expected, plain, fast = reference_and_results(original, result, x)
        if layer.bias is None:
            np.testing.assert_array_equal(plain, expected, err_msg=name)
        assert np.abs(plain - expected).max() <= (steps + 0.001) * step, name
        assert np.abs(fast - plain).max() <= 1.001 * step, name
        assert np.abs(fast - expected).max() <= (steps + 0.001) * step, name


def reference_and_results(original, result, x):
    """The fake-quantized graph as written; ours as written, and as optimised."""
    return output(original, x, optimize=False), output(result, x, optimize=False), output(result, x, True)


@pytest.mark.parametrize("operator", INTEGER)
@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 8), (2, 8), (3, 5), (2, 2)])
def test_ties_are_broken_alike(operator, weight_bits, activation_bits):
    """Every step is a power of two, so that half of the results are ties, and all of them are exact."""
    rng, shape, axis = np.random.default_rng(0), SIGNATURES[operator][2], SIGNATURES[operator][3]
    high = 2 ** (weight_bits - 1) - 1
    weight = (rng.integers(-high, high + 1, shape) / 64).astype(F32)
    inputs = Rounding(activation_bits, True, (2 ** (activation_bits - 1) - 1) / 16)
    weights = Rounding(weight_bits, True, high / 64)
    outputs = Rounding(8, True, 127 * float(inputs.step * weights.step) * 2)
    bias = (rng.integers(-99, 99, shape[axis]) * float(inputs.step * weights.step)).astype(F32)
    layer = Layer(operator, weight, None if operator == "MatMul" else bias, weights, inputs, outputs)
    original = layer.model()
    result = lowered(original)
    for name, x in inputs_for(layer):
        expected, plain, fast = reference_and_results(original, result, x)
        np.testing.assert_array_equal(plain, expected, err_msg=name)
        np.testing.assert_array_equal(fast, expected, err_msg=name)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("operator", ["Gemm", "transposed Gemm", "MatMul"])
def test_a_product_with_a_float_output_is_exact(operator, bits):
    """The kernel multiplies an exact integer by s_x s_w: only floats are rounded, and the bias."""
    weight = weights_of(operator, bits)
    bias = None if operator == "MatMul" else weights_of("Gemm", 1)[0]
    weights = Rounding(bits, True, range_of(weight, operator, True))
    layer = Layer(operator, weight, bias, weights, Rounding(bits, True, 2.0), None)
    original = layer.model()
    result = lowered(original)
    for name, x in inputs_for(layer):
        expected, plain, fast = reference_and_results(original, result, x)
        bound = layer.bias_error + 1e-5 * np.abs(expected).max()
        assert np.abs(plain - expected).max() <= bound and np.abs(fast - plain).max() <= bound, name
        if bias is None:
            np.testing.assert_array_equal(plain, expected)


@pytest.mark.parametrize("exponent", [0.6, 1.3])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
def test_a_layer_behind_a_power_runs_on_integers(operator, bits, signed, exponent):
    """What the power leaves is a lattice like any other: a Q/DQ pair behind it loses nothing."""
    weight = weights_of(operator, bits)
    weights = Rounding(bits, True, range_of(weight, operator, False), exponent)
    inputs = Rounding(bits, signed, 2.0, exponent)
    layer = Layer(operator, weight, None, weights, inputs, Rounding(8, True, 3.0))
    original = layer.model()
    result = lowered(original)
    kernels = [node.op_type for node in executed_kernels(result)]
    assert layer.kernels.intersection(kernels) and kernels.count("Pow") == 1
    for name, x in inputs_for(layer):
        expected, plain, fast = reference_and_results(original, result, x)
        np.testing.assert_array_equal(plain, expected, err_msg=name)
        assert np.abs(fast - plain).max() <= 1.001 * float(layer.outputs.step), name


@pytest.mark.parametrize(
    ("bits", "target"),
    [*((bits, "portable") for bits in (2, 3, 4, 6, 8, 12, 16)), *((bits, "ort") for bits in (2, 5, 7))],
)
@pytest.mark.parametrize("operator", SIGNATURES)
def test_weights_alone_are_exact(operator, bits, target):
    """Float activations: folded float weights, or MatMulNBits, which rounds its input when it runs."""
    weight = weights_of(operator, bits)
    bias = (
        None if operator == "MatMul" else np.linspace(-1, 1, weight.shape[SIGNATURES[operator][3]], dtype=F32)
    )
    weights = Rounding(bits, True, range_of(weight, operator, True))
    layer = Layer(operator, weight, bias, weights, None, None)
    original = layer.model()
    result = lowered(original, target)
    rounding = "MatMulNBits" in [node.op_type for node in executed_kernels(result)]
    for name, x in adversarial(0.02, layer.input_shape).items():
        expected, plain, fast = reference_and_results(original, result, x)
        scale = np.abs(expected).max()
        assert np.abs(plain - expected).max() <= 1e-6 * scale, name
        assert np.abs(fast - expected).max() <= (0.02 if rounding else 1e-5) * scale, name


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_wide_quantizers_are_rounded_alike(operator):
    """More than 8 bits have no integer kernel: floats between the pairs of the file."""
    weight = weights_of(operator, 0)
    weights = Rounding(12, True, range_of(weight, operator, True))
    layer = Layer(operator, weight, None, weights, Rounding(12, True, 2.0), Rounding(12, True, 4.0))
    original = layer.model()
    result = lowered(original)
    for name, x in inputs_for(layer):
        expected, plain, fast = reference_and_results(original, result, x)
        np.testing.assert_array_equal(plain, expected, err_msg=name)
        assert np.abs(fast - expected).max() <= 1.001 * float(layer.outputs.step), name


CHAIN = """(float[N,8,8,8] x) => (float[N,8,8,8] y) {{
    {xq}
    {V0}
    a = Conv<pads=[1,1,1,1]>(xq, V0, b0)
    ar = Relu(a)
    {arq}
    {V1}
    b = Conv<pads=[1,1,1,1]>(arq, V1, b1)
    br = Relu(b)
    {brq}
    {V2}
    c = Conv<pads=[1,1,1,1]>(brq, V2, b2)
    {cq}
    e = Add(arq, cq)
    er = Relu(e)
    {y}
}}"""


def chain(bits, biased):
    """Three convolutions with a shortcut: weights of few bits, activations of 8."""
    rng, text = np.random.default_rng(bits), CHAIN
    roundings = {"xq": ("x", Rounding(8, True, 2.5)), "cq": ("c", Rounding(8, True, 3))}
    roundings |= {f"{name}q": (name, Rounding(8, False, 3)) for name in ("ar", "br")}
    roundings |= {"y": ("er", Rounding(8, False, 4))}
    tensors = {}
    for index in range(3):
        weight = rng.normal(0, 0.2, (8, 8, 3, 3)).astype(F32)
        roundings[f"V{index}"] = (f"W{index}", Rounding(bits, True, np.abs(weight).max()))
        tensors |= {f"W{index}": weight, f"b{index}": rng.normal(0, 0.3, 8).astype(F32)}
        if not biased:
            text = text.replace(f", b{index})", ")")
            del tensors[f"b{index}"]
    for x, rounding in roundings.values():
        tensors |= parameters(x, rounding)
    lines = {result: quantized(result, x, rounding, 0) for result, (x, rounding) in roundings.items()}
    return spelled(text.format(**lines), tensors), float(roundings["y"][1].step)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_chain_departs_rarely_and_by_little(bits, biased):
    """Without biases nothing departs as written; with them, INT32 moves a few results in a hundred."""
    original, step = chain(bits, biased)
    result = lowered(original)
    kinds = [node.op_type for node in executed_kernels(result)]
    assert kinds.count("QLinearConv") == 3 and "Conv" not in kinds
    x = np.random.default_rng(1).normal(size=(16, 8, 8, 8)).astype(F32)
    expected, plain, fast = reference_and_results(original, result, x)
    if not biased:
        np.testing.assert_array_equal(plain, expected)
    for found, reference in ((plain, expected), (fast, expected), (fast, plain)):
        off = np.rint(np.abs(found - reference) / step)
        assert off.max() <= 3 and (off > 0).mean() < (0.05 if biased and reference is expected else 0.01)
