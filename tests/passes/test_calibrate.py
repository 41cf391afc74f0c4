"""calibrate: every activation of an integer kernel gets the range that the data shows."""

from __future__ import annotations

import numpy as np
import pytest

from getac.data.calibration import CalibrationData
from getac.errors import CalibrationError, OptionError
from getac.onnx_graph.signature import signature_of
from getac.passes import Calibrate
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer

F32 = np.float32
NET = """(float[N,4] x) => (float[N,3] y) {
    a = Gemm<transB=1>(x, v)
    b = Relu(a)
    y = Gemm<transB=1>(b, w)
}"""


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


@pytest.fixture
def model(build):
    return build(NET, v=normal(6, 4), w=normal(3, 6))


def calibrated(model, arrays, before=None, **options):
    data = None if arrays is None else CalibrationData.open(arrays, signature_of(model))
    state = State(model, facts={Fact.QUANTIZERS_FOLDED}, calibration=data)
    values = {value.name: value for node in model.graph for value in (*node.inputs, *node.outputs)}
    state.quantizers.update({values[name]: record for name, record in (before or {}).items()})
    Pipeline([Calibrate(**options)]).run(state)
    return {value.name: record for value, record in state.quantizers.items()}


def test_ranges_span_what_was_seen(model):
    x = normal(20, 4, seed=1)
    found = calibrated(model, {"x": x})
    hidden = np.maximum(x @ normal(6, 4).T, 0)
    assert found.keys() == {"x", "b"}  # not a: the Relu is implied by a range from 0 on
    assert (found["b"].low, found["b"].high) == (0, 255)
    assert found["b"].step == pytest.approx(hidden.max() / 255, rel=1e-5)
    assert found["x"].step == pytest.approx((x.max() - x.min()) / 255, rel=1e-5)
    assert found["x"].low < 0 and found["x"].high - found["x"].low == 255
    assert found["x"].axis is None


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_bits(model, bits):
    found = calibrated(model, {"x": normal(20, 4)}, bits=bits)
    assert {record.high - record.low for record in found.values()} == {2**bits - 1}


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_other_methods_cut_outliers_off(model, method):
    x = normal(4000, 4)
    x[0, 0] = 100
    whole, cut = (calibrated(model, {"x": x}, method=name, bits=4)["x"] for name in ("minmax", method))
    assert float(cut.step) < 0.5 * float(whole.step)


def test_records_that_are_there_stay_and_need_no_data(model):
    mine = {name: Quantizer(np.asarray(0.5, F32), 0, 255) for name in ("x", "b")}
    assert calibrated(model, None, mine) == mine
    found = calibrated(model, {"x": normal(8, 4)}, {"x": mine["x"]})
    assert found["x"] == mine["x"] and found["b"] != mine["b"]


def test_values_that_move_share_a_record(build):
    model = build(
        """(float[N,4,8,8] x) => (float[N,5] y) {
            a = Conv(x, v)
            m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
            f = Flatten(m)
            y = Gemm(f, w)
        }""",
        v=normal(4, 4, 1, 1),
        w=normal(64, 5),
    )
    found = calibrated(model, {"x": normal(8, 4, 8, 8)})
    assert found["a"] is found["m"] is found["f"]


def test_progress_counts_samples(model):
    seen = []
    calibrated(model, {"x": normal(19, 4)}, progress=lambda *counts: seen.append(counts))
    assert seen == [(8, 19), (16, 19), (19, 19)]


def test_a_model_without_layers_needs_nothing(build):
    assert calibrated(build("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }"), None) == {}


def test_no_data_is_refused(model):
    with pytest.raises(CalibrationError, match="activations need calibration data"):
        calibrated(model, None)


def test_activations_that_are_not_finite_are_named(build):
    model = build(NET.replace("Relu(a)", "Exp(a)"), v=100 * normal(6, 4), w=normal(3, 6))
    with pytest.raises(CalibrationError, match="not finite") as caught:
        calibrated(model, {"x": normal(20, 4)})
    assert caught.value.where == "b" and "NaN or infinite" in str(caught.value)


@pytest.mark.parametrize("bits", [1, 9, 16])
def test_other_bits_are_refused(bits):
    with pytest.raises(OptionError, match="2 to 8 bits"):
        Calibrate(bits=bits)


def test_other_methods_are_refused():
    with pytest.raises(OptionError, match="unknown method") as caught:
        Calibrate("average")
    assert "minmax or percentile or mse" in str(caught.value) and "average" in str(caught.value)


def test_a_scalar_input_first(build):
    """Then a mapping is one batch, and the progress counts mappings."""
    model = build(
        "(float low, float[N,4] x) => (float[N,3] y)"
        " { a = MatMul(x, v) \n b = Clip(a, low) \n y = MatMul(b, w) }",
        v=normal(4, 6),
        w=normal(6, 3),
    )
    seen = []
    arrays = [{"low": np.asarray(-1, F32), "x": normal(5, 4)} for _ in range(3)]
    calibrated(model, arrays, progress=lambda done, samples: seen.append((done, samples)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_activation_that_is_always_zero_is_listed(model):
    data = CalibrationData.open({"x": np.zeros((8, 4), F32)}, signature_of(model))
    state = State(model, facts={Fact.QUANTIZERS_FOLDED}, calibration=data)
    Pipeline([Calibrate()]).run(state)
    listed = state.refusals["calibrate"]
    assert {refusal.where for refusal in listed} == {"x", "b"}
    assert "zero on all of the calibration data" in listed[0].reason
