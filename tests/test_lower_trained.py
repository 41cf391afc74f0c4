"""A trained network with quantizers, spelled out, through getac.lower: the integers are those of training."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import getac
from getac.executed import executed_kernels
from getac.kernels.integers import spare_bits
from getac.onnx_graph.read import read_model
from getac.passes import FoldQuantizers, RemoveDead
from getac.pipeline import Pipeline, State
from getac.runtime import open_session, run
from tests.fake_quantized import spelled
from tests.unpacked import weight_integers

F32 = np.float32
NET = """(float[N,3,10,10] x) => (float[N,6] z) {
    a = getac.FakeQuantize<signed=1>(x, d0, q0, t0)
    V1 = getac.FakeQuantize<signed=1, axis=0>(W1, d1, q1, t1)
    c1 = Conv(a, V1)
    b1 = BatchNormalization(c1, gamma, beta, mean, var)
    r1 = Relu(b1)
    e = getac.FakeQuantize<signed=0>(r1, d2, q2, t2)
    V2 = getac.FakeQuantize<signed=1>(W2, d3, q3, t3)
    c2 = Conv(e, V2, B2)
    r2 = Relu(c2)
    f = getac.FakeQuantize<signed=0>(r2, d4, q4, t4)
    g = GlobalAveragePool(f)
    h = Flatten(g)
    i = getac.FakeQuantize<signed=0>(h, d5, q5, t5)
    V3 = getac.FakeQuantize<signed=1, axis=0>(W3, d6, q6, t6)
    z = Gemm<transB=1>(i, V3, B3)
}"""


def quantizer(bits, signed, q_m, t=1.0):
    """d, q_m and t of a quantizer with this number of bits."""
    q_m = np.asarray(q_m, F32)
    d = np.power(q_m, F32(t)) / F32(2 ** (bits - 1) - 1 if signed else 2**bits - 1)
    return d.astype(F32), q_m, F32(t)


ONE_LAYER = """(float[N,3,8,8] x) => (float[N,6,6,6] z) {
    a = getac.FakeQuantize<signed=SIGNED>(x, d0, q0, t0)
    V = getac.FakeQuantize<signed=1 AXIS>(W, d1, q1, t1)
    c = Conv(a, V)
    z = getac.FakeQuantize<signed=1>(c, d2, q2, t2)
}"""


def trained(weight_bits, activation_bits, exponent=1.0, weight_exponent=1.0):
    """The network with random parameters, in the operators of training."""
    rng = np.random.default_rng(0)
    weights = {"W1": (8, 3, 3, 3), "W2": (12, 8, 3, 3), "W3": (6, 12)}
    tensors = {n: rng.normal(0, np.prod(s[1:]) ** -0.5, s).astype(F32) for n, s in weights.items()}
    tensors |= {"B2": rng.normal(0, 0.2, 12).astype(F32), "B3": rng.normal(0, 0.2, 6).astype(F32)}
    tensors |= {"gamma": rng.uniform(-1.5, 1.5, 8).astype(F32), "beta": rng.normal(0, 0.3, 8).astype(F32)}
    tensors |= {"mean": rng.normal(0, 0.1, 8).astype(F32), "var": rng.uniform(0.5, 1.5, 8).astype(F32)}
    ranges = {
        0: (activation_bits, True, 2.5, exponent),
        1: (weight_bits, True, np.abs(tensors["W1"]).max(axis=(1, 2, 3)), weight_exponent),
        2: (activation_bits, False, 3.0, exponent),
        3: (weight_bits, True, np.abs(tensors["W2"]).max(), weight_exponent),
        4: (activation_bits, False, 3.0, exponent),
        5: (activation_bits, False, 1.5, exponent),
        6: (weight_bits, True, np.abs(tensors["W3"]).max(axis=1), weight_exponent),
    }
    for index, how in ranges.items():
        names = (f"d{index}", f"q{index}", f"t{index}")
        tensors |= dict(zip(names, quantizer(*how), strict=True))
    return spelled(NET, tensors)


def outputs(model, x, optimize=True):
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return run(open_session(source, optimize=optimize), {"x": x})["z"]


def inputs(count=16):
    return np.random.default_rng(1).normal(size=(count, 3, 10, 10)).astype(F32)


def integer_kernels(path):
    return [kernel.op_type for kernel in executed_kernels(read_model(path))]


def stored_integers(path):
    """The distinct layers' weights, sorted by size; INT8."""
    arrays = weight_integers(onnx.load(path)).values()
    return sorted((a for a in arrays if a.dtype == np.int8), key=lambda a: a.size)


def activation_bits_of(path):
    """The bits of the records that a file has on activations."""
    state = Pipeline([FoldQuantizers(), RemoveDead()]).run(State(read_model(path)))
    assert state.refusals == {}
    return [record.bits for value, record in state.quantizers.items() if not value.is_initializer()]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(2, 17))
def test_one_layer_of_every_lattice_is_at_most_one_step_off(tmp_path, bits, signed, per_channel):
    weight = np.random.default_rng(bits).normal(0, 0.2, (6, 3, 3, 3)).astype(F32)
    greatest = np.abs(weight).max(axis=(1, 2, 3) if per_channel else None)
    tensors, path = {"W": weight}, tmp_path / "lowered.onnx"
    how = [(bits, signed, 2.0), (bits, True, greatest), (bits, True, 2.5)]
    for index, one in enumerate(how):
        tensors |= dict(zip((f"d{index}", f"q{index}", f"t{index}"), quantizer(*one), strict=True))
    text = ONE_LAYER.replace("SIGNED", str(int(signed))).replace(" AXIS", ", axis=0" if per_channel else "")
    original, x = spelled(text, tensors), np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(F32)
    report = getac.lower(original, path, bench=False)
    assert report.verification.passed
    assert ("QLinearConv" in integer_kernels(path)) == (bits <= 8)
    expected, found = outputs(original, x, optimize=False), outputs(str(path), x)
    off = np.abs(found - expected) / float(tensors["d2"])
    assert off.max() < 1.01 and (off > 0.01).mean() < 0.01


def check_weights(path, bits, activation_bits):
    """The integers of training, which integer layers spread over INT8."""
    high = 2 ** (bits - 1) - 1
    spread = {
        2 ** spare_bits(-high, high, 2**width - 1) for width in (activation_bits, 8)
    }  # a calibrated one
    for weight in stored_integers(path):
        assert np.abs(weight.astype(int)).max() / high in {1, *spread}
        factor = np.abs(weight.astype(int)).max() // high
        assert not (weight.astype(int) % factor).any()


def difference(original, path):
    """Relative to the greatest output."""
    expected, found = outputs(original, inputs(), optimize=False), outputs(str(path), inputs())
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("weight_exponent", [1.0, 0.8])
@pytest.mark.parametrize(
    ("weight_bits", "activation_bits", "bound"), [(8, 8, 0.02), (5, 7, 0.03), (4, 4, 0.2)]
)
def test_layers_run_on_the_integers_of_training(
    tmp_path, weight_bits, activation_bits, bound, weight_exponent
):
    """The bound is that of INT32 biases, which move some activations by one step."""
    original = trained(weight_bits, activation_bits, weight_exponent=weight_exponent)
    path = tmp_path / "lowered.onnx"
    report = getac.lower(original, path, bench=False, sparsity=0.0)
    assert report.verification.passed
    kernels = integer_kernels(path)
    assert kernels.count("QLinearConv") == 2 and kernels.count("QGemm") == 1
    assert not {"Conv", "Gemm", "FusedConv", "FusedGemm", "BatchNormalization"} & set(kernels)
    check_weights(path, weight_bits, activation_bits)
    assert difference(original, path) < bound


@pytest.mark.parametrize("bits", [8, 4])
def test_powers_of_activations_are_floats_between_integer_layers(tmp_path, bits):
    original, path = trained(bits, bits, exponent=0.7), tmp_path / "lowered.onnx"
    report = getac.lower(original, path, bench=False, sparsity=0.0)
    assert report.verification.passed
    check_weights(path, bits, bits)
    kernels = integer_kernels(path)  # a Conv has no quantizer behind it, and needs one for its kernel
    assert kernels.count("QGemm") == 1 and kernels.count("Conv") == 2 and kernels.count("Pow") == 4
    assert difference(original, path) < {8: 1e-4, 4: 1e-2}[bits]  # the Gemm's bias
    report = getac.lower(original, path, bench=False, sparsity=0.0, calibration={"x": inputs()})
    assert report.verification.passed
    check_weights(path, bits, bits)
    assert integer_kernels(path).count("QLinearConv") == 2
    assert difference(original, path) < {8: 0.03, 4: 0.2}[bits]


@pytest.mark.parametrize("exponent", [1.0, 0.7])
@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 4), (3, 2)])
def test_a_lowered_file_can_be_lowered_again(tmp_path, weight_bits, activation_bits, exponent):
    original = trained(weight_bits, activation_bits, exponent)
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    getac.lower(original, once, bench=False, sparsity=0.0)
    report = getac.lower(once, twice, bench=False, sparsity=0.0)
    assert report.verification.passed
    assert sorted(integer_kernels(once)) == sorted(integer_kernels(twice))
    for one, other in zip(stored_integers(once), stored_integers(twice), strict=True):
        np.testing.assert_array_equal(one, other)
    assert activation_bits_of(once) == activation_bits_of(twice)
    assert set(activation_bits_of(once)) == {activation_bits}
    np.testing.assert_allclose(outputs(str(twice), inputs()), outputs(str(once), inputs()), rtol=0, atol=1e-6)


def test_more_than_eight_bits_stay_in_floats_and_are_rounded_alike(tmp_path):
    for bits in (12, 16):
        original, path = trained(bits, bits), tmp_path / f"{bits}.onnx"
        report = getac.lower(original, path, bench=False, sparsity=0.0)
        assert report.verification.passed and "QLinearConv" not in integer_kernels(path)
        assert set(activation_bits_of(path)) == {bits}
        expected, found = outputs(original, inputs(), optimize=False), outputs(str(path), inputs())
        assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-2 * 2 ** (8 - bits)
