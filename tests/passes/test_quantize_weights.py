"""quantize-weights: one symmetric step per output unit, at its greatest weight."""

from __future__ import annotations

import numpy as np
import pytest

from getac.errors import OptionError
from getac.passes import QuantizeWeights
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer

F32 = np.float32


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(F32)


def quantized(model, **options):
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    Pipeline([QuantizeWeights(**options)]).run(state)
    return {value.name: record for value, record in state.quantizers.items()}


@pytest.mark.parametrize(
    ("operator", "shape", "axis"),
    [
        ("Conv", (6, 4, 3, 3), 0),
        ("Conv<group=4>", (4, 1, 3, 3), 0),
        ("ConvTranspose", (4, 6, 3, 3), 1),
        ("Gemm", (4, 6), 1),
        ("Gemm<transB=1>", (6, 4), 0),
        ("MatMul", (4, 6), 1),
    ],
)
def test_the_greatest_weight_of_a_unit_is_the_outermost_point(build, operator, shape, axis):
    weight = normal(*shape)
    record = quantized(build(f"(float x) => (float y) {{ y = {operator}(x, w) }}", w=weight))["w"]
    rest = tuple(i for i in range(len(shape)) if i != axis)
    assert (record.low, record.high, record.axis, record.block) == (-127, 127, axis, None)
    np.testing.assert_array_equal(record.step, np.abs(weight).max(axis=rest) / F32(127))
    assert np.abs(record.quantize(weight) - weight).max() <= record.step.max() / 2 * 1.0001


def noise(record, weight):
    return float(np.square(record.quantize(weight) - weight).mean())


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_fewer_bits_have_the_range_of_least_error(build, bits):
    weight = normal(64, 32)
    model = build("(float x) => (float y) { y = Gemm(x, w) }", w=weight)
    record = quantized(model, bits=bits, block=None)["w"]
    assert (record.high, record.axis, record.block) == (2 ** (bits - 1) - 1, 1, None)
    assert noise(record, weight) < noise(Quantizer.symmetric(np.abs(weight).max(axis=0), bits, 1), weight)


@pytest.mark.parametrize(
    ("options", "block"),
    [
        ({"bits": 4}, 32),
        ({"bits": 2}, 32),
        ({"bits": 5}, None),
        ({"bits": 8, "block": 16}, 16),
        ({"bits": 4, "block": 128}, 128),
        ({"bits": 4, "block": None}, None),
    ],
)
@pytest.mark.parametrize("operator", ["Gemm", "Gemm<transB=1>", "MatMul"])
def test_matrices_that_floats_are_multiplied_with_have_blocks_of_inputs(build, operator, options, block):
    weight = normal(70, 33)
    model = build(f"(float x) => (float y) {{ y = {operator}(x, w) }}", w=weight)
    record = quantized(model, target="ort", **options)["w"]
    inputs = 1 if "transB" in operator else 0
    assert (record.block, record.axis) == (block, inputs if block else 1 - inputs)
    assert record.fits(weight.shape)


def test_smaller_blocks_have_less_error(build):
    weight = normal(256, 32)
    model = "(float x) => (float y) { y = MatMul(x, w) }"
    errors = [
        noise(quantized(build(model, w=weight), bits=4, block=b)["w"], weight) for b in (16, 32, 128, None)
    ]
    assert errors == sorted(errors) and errors[0] < 0.8 * errors[-1]


def test_no_blocks_where_a_layer_runs_on_integers_or_is_no_matrix(build):
    text = "(float x) => (float[N,6,8,8] y) { y = Conv(x, w) }"
    assert quantized(build(text, w=normal(6, 64, 3, 3)), bits=4)["w"].block is None
    model = build(
        "(float x) => (float y) { a = Gemm(x, w) \n y = Gemm(a, v) }", w=normal(64, 64), v=normal(64, 8)
    )
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    state.quantizers[model.graph.inputs[0]] = Quantizer(np.asarray(0.5, F32), 0, 255)
    Pipeline([QuantizeWeights(4)]).run(state)
    assert all(record.block is None for record in state.quantizers.values())


@pytest.mark.parametrize(
    ("inputs", "asked", "found"),
    [
        *((16, "auto", 16), (24, "auto", None), (48, "auto", 16), (64, "auto", 32), (100, "auto", None)),
        *((64, 64, 64), (96, 64, 32), (40, 16, None), (256, 256, 256), (8, 16, None)),
    ],
)
@pytest.mark.parametrize("operator", ["Gemm<transB=1>", "MatMul"])
def test_portable_blocks_divide_the_inputs(build, operator, inputs, asked, found):
    """OpenVINO loads no others."""
    shape = (33, inputs) if operator != "MatMul" else (inputs, 33)
    model = build(f"(float[N,{inputs}] x) => (float[N,33] y) {{ y = {operator}(x, w) }}", w=normal(*shape))
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    Pipeline([QuantizeWeights(4, asked)]).run(state)
    assert state.quantizers[model.graph.initializers["w"]].block == found
    refusals = state.refusals.get("quantize-weights", [])
    assert len(refusals) == (asked not in ("auto", found))
    if refusals:
        assert refusals[0].reason == f"blocks of {asked} do not divide its {inputs} inputs, as OpenVINO wants"
        assert refusals[0].hint == (f"its blocks have {found}" if found else "it has a step per output unit")


@pytest.mark.parametrize("block", [8, 33, 512, "none", 0])
def test_other_blocks_are_refused(block):
    with pytest.raises(OptionError, match="blocks of weights have other sizes"):
        QuantizeWeights(4, block)


def test_records_that_are_there_stay(build):
    model = build("(float x) => (float y) { y = Gemm(x, w) }", w=normal(4, 6))
    mine = Quantizer(np.asarray(0.5, F32), 0, 15)
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    state.quantizers[model.graph.initializers["w"]] = mine
    Pipeline([QuantizeWeights()]).run(state)
    assert list(state.quantizers.values()) == [mine]


def test_a_unit_of_zeros_has_some_step(build):
    weight = normal(6, 4)
    weight[2] = 0
    record = quantized(build("(float x) => (float y) { y = Gemm<transB=1>(x, w) }", w=weight))["w"]
    assert record.step[2] == 1 and not record.integers(weight)[2].any()


def test_only_float32_weights_of_layers(build):
    text = "(float x, float[4,6] z) => (float y) { a = Gemm(x, h) \n b = MatMul(a, z) \n y = Add(b, w) }"
    assert quantized(build(text, h=normal(4, 4).astype(np.float16), w=normal(6))) == {}


def test_a_shared_weight_has_one_quantizer(build):
    text = "(float x) => (float y) { a = Gemm(x, w) \n y = Gemm(a, w) }"
    assert list(quantized(build(text, w=normal(4, 4)))) == ["w"]


@pytest.mark.parametrize("bits", [1, 9, 0, -8])
def test_other_bits_are_refused(bits):
    with pytest.raises(OptionError, match="stored weights have 2 to 8 bits"):
        QuantizeWeights(bits)
