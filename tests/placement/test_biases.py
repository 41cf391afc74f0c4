"""In what form biases are added: INT32 where it rounds alike."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from getac.kernels.integers import PAIR_LIMIT
from getac.layers import Weights
from getac.placement.biases import Finer, integer_bias, ways
from getac.quantizer import Quantizer

F32 = np.float32


def layer(high, bias, units=4, inputs=32, on_lattice=True):
    rng = np.random.default_rng(1)
    record = Quantizer(np.full(units, 0.013, F32), -high, high, 0)
    weight = record.quantize(rng.normal(size=(units, inputs)).astype(F32) * F32(0.006 * high))
    if not on_lattice:
        weight = weight + F32(0.004)
    return Weights(weight, None if bias is None else np.asarray(bias, F32), 0, record)


def activation(low, high, step=0.11):
    return Quantizer(np.asarray(step, F32), low, high)


BIAS = [0.3217, -0.1711, 0.0531, 0.2893]


def test_weights_that_are_rounded_here_have_rounded_biases():
    form = integer_bias(layer(7, BIAS, on_lattice=False), activation(0, 15), None)
    assert form is not None and form.finer == Finer(weights=16) and form.stretch is None
    np.testing.assert_array_equal(form.bias, np.asarray(BIAS, F32))


def test_a_bias_on_the_lattice_stays():
    bias = np.arange(4) * F32(0.013) * F32(0.11)
    assert integer_bias(layer(127, bias), activation(0, 255), None) is not None


def test_a_bias_beside_it_has_no_form_in_front_of_floats():
    assert integer_bias(layer(127, BIAS), activation(0, 255), None) is None


def results(weights, inputs, outputs, form, x):
    """What the integers of a form give."""
    stretched = form.put_in(weights)
    scale = np.float64(inputs.step) / form.finer.inputs * stretched.quantizer.step / form.finer.weights
    sums = x * form.finer.inputs @ (stretched.quantizer.integers(stretched.weight) * form.finer.weights).T
    bias = np.rint(form.bias / scale)
    np.testing.assert_allclose(bias * scale, form.bias, rtol=1e-5)
    return outputs.integers(((sums + bias) * scale).astype(F32))


@pytest.mark.parametrize(
    ("high", "levels", "step"), [(1, 3, 0.06), (1, 7, 0.06), (7, 15, 0.21), (31, 15, 0.9)]
)
def test_few_levels_have_a_bias_that_rounds_alike(high, levels, step):
    weights, inputs, outputs = layer(high, BIAS), activation(0, levels), activation(0, levels, step=step)
    form = integer_bias(weights, inputs, outputs)
    assert form is not None
    integers = weights.quantizer.integers(weights.weight)
    x = np.random.default_rng(2).integers(0, levels + 1, (20000, integers.shape[1]))
    wanted = outputs.integers((x @ integers.T * (0.11 * 0.013) + np.asarray(BIAS)).astype(F32))
    np.testing.assert_array_equal(results(weights, inputs, outputs, form, x), wanted)
    assert 0 < (wanted > 0).mean() < 1


def test_steps_of_weights_are_stretched_before_inputs_are_read_finer():
    """The one costs nothing, the other a Mul; weights of 8 bits leave nothing to the first."""
    inputs, outputs = activation(0, 15), activation(0, 15, step=0.2)
    few = integer_bias(layer(7, BIAS), inputs, outputs)
    many = integer_bias(layer(127, BIAS), inputs, activation(0, 15, step=2.5))
    assert few is not None and few.finer == Finer(16, 1)
    assert many is not None and many.finer.weights == 1 < many.finer.inputs <= 8
    for form in (few, many):
        assert form.stretch is not None and 0 <= np.abs(form.stretch - 1).max() < 0.01


def test_finer_integers_fit_their_types_and_a_sum_of_two_products():
    for high, levels in product((1, 3, 7, 15, 31, 127), (1, 3, 7, 15, 31, 63, 127, 255)):
        found = list(ways(Quantizer(np.asarray(1, F32), -high, high), activation(0, levels)))
        assert found[0].inputs == 1 and len(set(found)) == len(found)
        for one in found:
            assert high * one.weights <= 127 and levels * one.inputs <= 255
            plain = one == Finer()  # 8 bits take the risk that they take anywhere
            assert plain or 2 * high * one.weights * levels * one.inputs <= PAIR_LIMIT


def test_eight_bits_bear_a_rounded_bias_and_four_do_not():
    wide = integer_bias(layer(127, BIAS, inputs=64), activation(0, 255), activation(0, 255, step=1.1))
    narrow = integer_bias(layer(127, BIAS, inputs=64), activation(0, 255), activation(0, 15, step=0.05))
    assert wide is not None and wide.finer == Finer() and narrow is None


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_is_written_is_on_its_lattice_when_it_is_read_again(bits):
    weights, inputs = layer(2 ** (bits - 1) - 1, BIAS), activation(0, 15)
    outputs = activation(0, 15, step=0.02 * 2**bits)
    form = integer_bias(weights, inputs, outputs)
    assert form is not None
    again = integer_bias(form.put_in(weights), inputs, outputs)
    assert again is not None and again.finer == form.finer
    np.testing.assert_allclose(again.bias, form.bias, rtol=1e-6)
    assert again.stretch is None or (again.stretch == 1).all()


def test_one_level_is_what_any_bias_gives():
    single = activation(0, 0)
    assert integer_bias(layer(7, BIAS), activation(0, 15), single) is not None
    assert integer_bias(layer(7, BIAS), single, activation(0, 15)) is not None


def test_steps_whose_product_vanishes_in_float32_still_count():
    weights = layer(7, np.asarray(BIAS) * 1e-8)
    tiny = replace(weights.quantizer, step=np.asarray([1e-38, 0.013, 0.013, 0.013], F32))
    numbers = weights.weight / weights.quantizer.step[:, None] * tiny.step[:, None]
    weights = replace(weights, weight=numbers, quantizer=tiny)
    form = integer_bias(weights, activation(0, 15, step=1e-8), activation(0, 15, step=2e-8))
    assert form is not None and np.isfinite(form.bias).all()
