"""getac.lower around the passes: options, batches, the order of writing, and what the report notes."""

from __future__ import annotations

import inspect
import json
import stat

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import getac
from getac.errors import CalibrationError, GetacError, OptionError, UnsupportedModelError
from getac.lowering import lower
from getac.options import Options
from tools.zoo.registry import ZOO

F32 = np.float32
CONVOLUTIONS = (
    "(float[N,3,H,W] x) => (float[N,4,H,W] y) { c = Conv<pads=[1,1,1,1]>(x,w) d = Relu(c) y = Conv(d,v) }"
)
ADJACENCY = "(float[N,8] x, float[N,N] z) => (float[N,8] y) { a = MatMul(z, x) y = MatMul(a, w) }"
EVEN = "(float[N,4] x) => (float[M,3] y) { c = Reshape(x, s) y = MatMul(c, w) }"


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def written(path, text, **tensors):
    """A model from its text, in a file."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    for name, array in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    onnx.save(model, path)
    return path


@pytest.fixture
def convolutions(tmp_path):
    return written(tmp_path / "m.onnx", CONVOLUTIONS, w=normal(8, 3, 3, 3), v=normal(4, 8, 1, 1))


@pytest.fixture
def adjacency(tmp_path):
    return written(tmp_path / "m.onnx", ADJACENCY, w=normal(8, 8))


@pytest.fixture
def even(tmp_path):
    return written(tmp_path / "m.onnx", EVEN, s=np.int64([-1, 8]), w=normal(8, 3))


# ---- options ----


def test_the_keyword_arguments_are_the_options():
    own = {"model", "output", "calibration", "report", "plan"}
    signature = inspect.signature(lower).parameters
    defaults = {name: one.default for name, one in signature.items() if name not in own}
    assert {**defaults, "replayed": None} == vars(Options())  # a plan is what getac.apply is given


@pytest.mark.parametrize("keyword", ["sparsty", "replayed"])
def test_other_keywords_are_no_options(keyword):
    with pytest.raises(TypeError, match=rf"^lower\(\) got an unexpected keyword argument '{keyword}'$"):
        lower("m.onnx", **{keyword: None})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("sparsity", "0.5"),
        ("sparsity", None),
        ("sparsity", True),
        ("align", "4"),
        ("align", 2.5),
        ("align", None),
        ("weight_bits", "8"),
        ("weight_bits", 2.5),
        ("activation_bits", 2.5),
        ("seed", "x"),
        ("keep", "w"),
        ("keep", [1]),
    ],
)
def test_options_of_another_type(option, value):
    with pytest.raises(OptionError, match=option) as caught:
        lower("never read.onnx", **{option: value})
    assert caught.value.found == repr(value) or caught.value.found == str(value)


def test_numpy_numbers_are_numbers(convolutions):
    report = lower(convolutions, sparsity=F32(0.5), align=np.int64(1), weight_bits=np.int64(8), bench=False)
    assert report.units_removed == 4


@pytest.mark.parametrize("model", [None, 3, b"bytes", ["m.onnx"]])
def test_what_is_no_model(model):
    with pytest.raises(UnsupportedModelError, match="no ONNX model"):
        lower(model)


def test_what_is_no_data(convolutions):
    with pytest.raises(CalibrationError, match="no calibration data"):
        lower(convolutions, calibration=3)


@pytest.mark.parametrize("call", [lower, getac.inspect])
def test_a_glob_that_matches_nothing(convolutions, call):
    with pytest.raises(OptionError, match="keep matches no parameter") as caught:
        call(convolutions, keep=["w", "nope.*"])
    assert "'nope.*'" in caught.value.found and "v, w" in caught.value.found


def test_a_glob_that_matches(convolutions):
    assert lower(convolutions, keep=["w"], bench=False).units == 0


# ---- sizes and notes ----


def test_sizes_that_nobody_gave_are_in_the_report(convolutions):
    report = lower(convolutions, bench=False)
    height, width = report.sizes["H"], report.sizes["W"]
    assert report.sizes["N"] == 1 and report.before.macs == height * width * (8 * 3 * 9 + 4 * 8)
    assert report.notes == [
        f"MACs, BOPs and latency are at H = {height}, W = {width}: sizes made up because the model leaves"
        " them open; calibration data settles them"
    ]
    assert json.loads(report.as_json())["sizes"] == dict(report.sizes)


def test_sizes_that_data_settles_need_no_note(convolutions):
    report = lower(convolutions, calibration={"x": normal(4, 3, 9, 11)}, bench=False)
    assert report.sizes == {"N": 1, "H": 9, "W": 11} and not report.notes
    assert report.before.macs == 9 * 11 * (8 * 3 * 9 + 4 * 8)


def test_a_sparsity_out_of_reach_is_explained(convolutions):
    data = {"x": normal(4, 3, 9, 11)}
    (note,) = lower(convolutions, sparsity=0.5, align=64, calibration=data, bench=False).notes
    assert note.startswith("asked for 50% of the units, removed 0%: 8 units are open to removal; ")
    assert "axes are frozen" in note and "a multiple of 64 units (--align 1 lifts that)" in note
    (note,) = lower(convolutions, sparsity=0.5, keep=["w"], calibration=data, bench=False).notes
    assert "0 units are open to removal" in note
    assert not lower(convolutions, sparsity=0.5, calibration=data, bench=False).notes


def test_an_input_that_had_a_default_is_noted(tmp_path):
    text = "(float[N,8] x, float[8,8] w) => (float[N,8] y) { y = MatMul(x, w) }"
    path = written(tmp_path / "m.onnx", text, w=normal(8, 8))
    note, kernels = lower(path, tmp_path / "o.onnx", bench=False).notes
    assert kernels.startswith("MatMulNBits, which 1 of 1 layers run as, rounds activations")
    assert "inputs with a default are constants of the result: w;" in note
    assert [value.name for value in onnx.load(tmp_path / "o.onnx").graph.input] == ["x"]


# ---- batches ----


def test_a_batch_that_is_also_an_inner_dimension(adjacency):
    data = {"x": normal(20, 8), "z": normal(20, 20)}
    report = lower(adjacency, calibration=data)
    assert report.verification.passed and report.verification.samples == 20
    assert report.calibrated and report.latency is not None


def test_without_data_too(adjacency):
    assert lower(adjacency).latency is not None


def test_an_inner_batch_of_another_size(adjacency):
    with pytest.raises(CalibrationError, match="two sizes"):
        lower(adjacency, calibration={"x": normal(20, 8), "z": normal(20, 19)})


@pytest.mark.parametrize(("samples", "batch"), [(32, 8), (9, 8), (7, 6), (2, 2)])
def test_a_model_that_needs_an_even_batch(even, samples, batch):
    report = lower(even, calibration={"x": normal(samples, 4)})
    assert report.sizes["N"] == batch and report.latency is not None
    assert report.verification.samples == min(samples // batch, 4) * batch
    assert report.notes == [
        f"the model does not run on all batches: MACs, BOPs and latency are for N = {batch}"
    ]


def test_a_batch_that_is_larger_than_usual(tmp_path):
    path = written(tmp_path / "m.onnx", EVEN.replace("N,4", "N,1"), s=np.int64([-1, 16]), w=normal(16, 3))
    assert lower(path, calibration={"x": normal(40, 1)}, bench=False).sizes["N"] == 16
    with pytest.raises(UnsupportedModelError, match="no tried size"):
        lower(path, calibration={"x": normal(15, 1)}, bench=False)


# ---- writing ----


def test_nothing_is_written_if_the_measurement_fails(convolutions, tmp_path, monkeypatch):
    def fail(*_):
        raise GetacError("no clock")

    monkeypatch.setattr("getac.measure.measure_models", fail)
    with pytest.raises(GetacError, match="no clock"):
        lower(convolutions, tmp_path / "o.onnx", report=tmp_path / "r.json", plan=tmp_path / "p.json")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_stale_data_file_does_not_count(convolutions, tmp_path):
    (tmp_path / "o.onnx.data").write_bytes(bytes(10**6))
    (tmp_path / "m.onnx.data").write_bytes(bytes(10**6))
    report = lower(convolutions, tmp_path / "o.onnx", bench=False)
    assert report.after.file_bytes == (tmp_path / "o.onnx").stat().st_size
    assert report.before.file_bytes == convolutions.stat().st_size


def test_small_external_data_counts(tmp_path):
    onnx.save(ZOO["mlp_gemm"](), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    report = lower(tmp_path / "m.onnx", bench=False)
    assert report.before.file_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o600])
def test_a_file_that_is_replaced_keeps_its_mode(convolutions, tmp_path, mode):
    for name in ("o.onnx", "r.json"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    lower(convolutions, tmp_path / "o.onnx", report=tmp_path / "r.json", bench=False)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("o.onnx", "r.json")} == {mode}
