"""In what form biases are added: INT32 where it rounds alike."""

from __future__ import annotations

import numpy as np
import pytest

from getac.layers import Weights
from getac.placement.biases import integer_bias
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
    assert form is not None and form.factor == 16
    np.testing.assert_array_equal(form.bias, np.asarray(BIAS, F32))


def test_a_bias_on_the_lattice_stays():
    bias = np.arange(4) * F32(0.013) * F32(0.11)
    assert integer_bias(layer(127, bias), activation(0, 255), None) is not None


def test_a_bias_beside_it_has_no_form_in_front_of_floats():
    assert integer_bias(layer(127, BIAS), activation(0, 255), None) is None


@pytest.mark.parametrize("levels", [3, 7])
def test_few_levels_have_a_bias_that_rounds_alike(levels):
    weights, inputs, outputs = layer(1, BIAS), activation(0, levels), activation(0, levels, step=0.06)
    form = integer_bias(weights, inputs, outputs)
    assert form is not None
    integers = weights.quantizer.integers(weights.weight)
    rng = np.random.default_rng(2)
    x = rng.integers(0, levels + 1, (20000, integers.shape[1]))
    scale = 0.11 * 0.013
    sums = x @ integers.T
    wanted = outputs.integers(((sums * scale) + np.asarray(BIAS)).astype(F32))
    finer = np.rint(form.bias / scale * form.factor)
    got = outputs.integers(((sums * form.factor + finer) * (scale / form.factor)).astype(F32))
    np.testing.assert_array_equal(got, wanted)


def test_eight_bits_bear_a_rounded_bias_and_four_do_not():
    wide = integer_bias(layer(127, BIAS, inputs=64), activation(0, 255), activation(0, 255, step=1.1))
    narrow = integer_bias(layer(127, BIAS, inputs=64), activation(0, 255), activation(0, 15, step=0.1))
    assert wide is not None and wide.factor == 1 and narrow is None
