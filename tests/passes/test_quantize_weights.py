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
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_greatest_weight_of_a_unit_is_the_outermost_point(build, operator, shape, axis, bits):
    weight = normal(*shape)
    record = quantized(build(f"(float x) => (float y) {{ y = {operator}(x, w) }}", w=weight), bits=bits)["w"]
    rest = tuple(i for i in range(len(shape)) if i != axis)
    high = 2 ** (bits - 1) - 1
    assert (record.low, record.high, record.axis) == (-high, high, axis)
    np.testing.assert_array_equal(record.step, np.abs(weight).max(axis=rest) / F32(high))
    assert np.abs(record.quantize(weight) - weight).max() <= record.step.max() / 2 * 1.0001


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
