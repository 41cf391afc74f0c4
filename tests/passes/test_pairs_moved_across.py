"""Where rounded numbers are only moved about, one pair does: onnxruntime moves it up to the next kernel."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import getac
from getac.data.calibration import CalibrationData
from getac.executed import executed_kernels
from getac.onnx_graph.edit import array_of
from getac.onnx_graph.qdq import ROUNDED, keep_quantizers
from getac.onnx_graph.read import read_model
from getac.onnx_graph.signature import signature_of
from getac.passes import Calibrate, LowerIntegers, QuantizeWeights, RemoveDead
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer
from getac.runtime import open_session, run
from tools.onnx_text import model_of

F32 = np.float32
RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 16)).astype(F32)
NUMBERS = {
    "w": RNG.normal(size=(16, 16)).astype(F32),
    "v": RNG.normal(size=(16, 16)).astype(F32),
    "halves": np.array([-1, 2, 16]),
    "four": np.array([4]),
    "none": np.array([0]),
    "order": np.array([0, 2, 1, 3]),
}
MOVED = {
    "Reshape": "r = Reshape(a, halves)",
    "Transpose": "t = Transpose<perm=[1,0]>(a)  r = Transpose<perm=[1,0]>(t)",
    "Unsqueeze": "r = Unsqueeze(a, none)",
    "Squeeze": "t = Unsqueeze(a, none)  r = Squeeze(t, none)",
    "Slice": "r = Slice(a, none, four, none)",
}


def lowered(build, between, opset=21):
    """A product, what moves its result about, a product of that, and one of the result as it is."""
    body = f"a = MatMul(x, w)  {between}  y = MatMul(r, v)  s = MatMul(a, v)"
    model = build(f"(float[8,16] x) => (float y, float s) {{ {body} }}", **NUMBERS)
    model.opset_imports[""], model.ir_version = opset, 10 if opset == 21 else 13
    data = CalibrationData.open({"x": X}, signature_of(model))
    state = State(model, facts={Fact.QUANTIZERS_FOLDED}, calibration=data)
    Pipeline([QuantizeWeights(), Calibrate(), LowerIntegers(), RemoveDead()]).run(state)
    return model


def count(model, operator):
    return sum(node.op_type == operator for node in model.graph)


@pytest.mark.parametrize("operator", MOVED)
@pytest.mark.parametrize("opset", [21, 25])
def test_a_pair_behind_it_is_left_out(build, operator, opset):
    model = lowered(build, MOVED[operator], opset)
    assert count(model, "QuantizeLinear") == 2  # of x, and of a
    kernels = [node.op_type for node in executed_kernels(model)]
    assert not {"MatMul", "Gemm"} & set(kernels)
    found, written = (run(open_session(model, optimize=one), {"x": X})["y"] for one in (True, False))
    np.testing.assert_allclose(found, written, atol=1e-4 * np.abs(written).max())


@pytest.mark.parametrize(
    "between", ["r = Gather(a, order)", "t = Unsqueeze(a, none)  r = Flatten<axis=2>(t)"]
)
def test_what_onnxruntime_does_not_know_keeps_its_pair(build, between):
    model = lowered(build, between)
    assert count(model, "QuantizeLinear") == 3
    assert not {"MatMul", "Gemm"} & {node.op_type for node in executed_kernels(model)}


RECORD = Quantizer(np.asarray(2.0**-12, F32), -(2**15), 2**15 - 1)
CONVOLUTIONS = "b = Conv(a, w)  t = Transpose<perm=[0,1,3,2]>(b)  c = Reshape(t, shape)  y = Conv(c, w)"


def kept(build, body, **records):
    numbers = {"w": np.ones((4, 4, 1, 1), F32), "shape": np.array([0, 0, 0, -1])}
    model = build(f"(float[1,4,6,6] a) => (float y) {{ {body} }}", **numbers)
    values = {value.name: value for node in model.graph for value in (*node.inputs, *node.outputs) if value}
    keep_quantizers(
        model.graph, {values[name]: one for name, one in records.items()}, lambda value: ir.DataType.FLOAT
    )
    return model


def test_floats_that_are_moved_about_are_rounded_once(build):
    model = kept(build, CONVOLUTIONS, b=RECORD, t=RECORD, c=RECORD)
    assert count(model, "QuantizeLinear") == 1
    assert count(model, "Sum") == 1  # in front of the second convolution


def test_another_record_rounds_again(build):
    finer = Quantizer(RECORD.step / F32(3), RECORD.low, RECORD.high)
    model = kept(build, CONVOLUTIONS, b=RECORD, c=finer)
    scales = [float(array_of(n.inputs[1])) for n in model.graph if n.op_type == "QuantizeLinear"]
    assert scales == [float(RECORD.step), float(finer.step)]
    assert count(model, "Sum") == 2  # between the pairs, and in front of the convolution


def test_between_other_operators_wide_pairs_need_no_copies(build):
    assert count(kept(build, "b = Sin(a)  y = Cos(b)", b=RECORD), "Sum") == 0
    narrow = Quantizer(np.asarray(0.1, F32), -128, 127)
    assert count(kept(build, "b = Sin(a)  y = Cos(b)", b=narrow), "Sum") == 2


def test_what_is_on_its_lattice_by_itself_is_not_rounded(build):
    model = build("(float[4] a) => (float y) { b = Round(a)  y = Cos(b) }")
    b = model.graph[0].outputs[0]
    b.meta[ROUNDED] = RECORD
    keep_quantizers(model.graph, {b: RECORD}, lambda value: ir.DataType.FLOAT)
    assert count(model, "QuantizeLinear") == 0


# ---- outputs that onnxruntime would round ----


def lowered_file(tmp_path, body, outputs, numbers=None, **options):
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(F32) * 3
    source = model_of(body, {"x": x.shape}, numbers or {}, outputs=outputs)
    path = tmp_path / "lowered.onnx"
    getac.lower(source, path, bench=False, **options)
    return source, path, x


def assert_same_outputs(source, path, x, **tolerance):
    expected = run(open_session(source.SerializeToString(), optimize=False), {"x": x})
    for optimize in (False, True):
        found = run(open_session(path, optimize=optimize), {"x": x})
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, **tolerance, err_msg=f"{name}, {optimize=}")


@pytest.mark.parametrize("clipped", [True, False])
def test_an_output_is_not_rounded_by_a_wide_pair_behind_a_transpose(tmp_path, clipped):
    """onnxruntime would move the QuantizeLinear across both, the Transpose and the output."""
    body = (
        "a = Mul(x, x)  t = Transpose<perm=[0,1,3,2]>(a)  q = QuantizeLinear(t, s, z)"
        "  d = DequantizeLinear(q, s, z)  y = Sin(d)"
    )
    numbers = {"s": np.asarray(F32(1e-4)), "z": np.asarray(np.uint16(0 if clipped else 2**15))}
    source, path, x = lowered_file(tmp_path, body, ["a", "y"], numbers)
    assert_same_outputs(source, path, x, atol=1e-5)


def test_an_output_is_not_rounded_by_the_pair_of_a_layer(tmp_path):
    body = "a = Mul(x, x)  t = Transpose<perm=[0,1,3,2]>(a)  y = Conv(t, w)"
    weight = np.random.default_rng(1).normal(size=(4, 4, 1, 1)).astype(F32)
    samples = np.random.default_rng(2).uniform(-1, 1, (8, 4, 6, 6)).astype(F32)  # a tenth of what comes
    source, path, x = lowered_file(tmp_path, body, ["a", "y"], {"w": weight}, calibration={"x": samples})
    expected = run(open_session(source.SerializeToString(), optimize=False), {"x": x})["a"]
    np.testing.assert_allclose(run(open_session(path), {"x": x})["a"], expected, rtol=1e-6)
    kernels = {node.op_type for node in executed_kernels(read_model(path))}
    assert "QLinearConv" in kernels


def test_lowered_again_names_and_sizes_stay(tmp_path):
    body = (
        "h = Gemm(x, w, b)  r = Relu(h)  q = QuantizeLinear(r, s, z)  d = DequantizeLinear(q, s, z)"
        "  p = QuantizeLinear(x, s, m)  e = DequantizeLinear(p, s, m)  k = Gemm(d, v, b)  y = Add(k, e)"
    )
    numbers = {"w": NUMBERS["w"], "v": NUMBERS["v"], "b": RNG.normal(size=16).astype(F32)}
    numbers |= {"s": np.asarray(F32(0.05)), "z": np.asarray(np.uint8(0)), "m": np.asarray(np.uint8(128))}
    files = [tmp_path / f"{index}.onnx" for index in range(3)]
    source = model_of(body, {"x": (8, 16)}, numbers)
    for model, path in zip([source, *files], files, strict=False):
        getac.lower(model, path, bench=False, calibration={"x": X})
    names = [[value for node in onnx.load(path).graph.node for value in node.output] for path in files]
    assert names[0] == names[1] == names[2]
    assert len({path.stat().st_size for path in files}) == 1


def test_an_output_behind_a_pair_is_not_rounded_by_the_next_one(tmp_path):
    """What the first pair makes is an output, and read by a Transpose with another pair behind it."""
    body = (
        "q = QuantizeLinear(x, s, z)  a = DequantizeLinear(q, s, z)  t = Transpose<perm=[0,1,3,2]>(a)"
        "  p = QuantizeLinear(t, r, z)  d = DequantizeLinear(p, r, z)  y = Conv(d, w)"
    )
    numbers = {"s": np.asarray(F32(1e-3)), "r": np.asarray(F32(0.05)), "z": np.asarray(np.uint16(2**15))}
    numbers["w"] = np.random.default_rng(1).normal(size=(4, 4, 1, 1)).astype(F32)
    _, path, x = lowered_file(tmp_path, body, ["a", "y"], numbers)
    np.testing.assert_allclose(run(open_session(path), {"x": x})["a"], x, atol=6e-4)


def test_an_output_that_is_moved_about_has_no_pair_of_its_own(tmp_path):
    """Lowered again, too: with one, every second lowering took it away."""
    body = "a = Mul(x, x)  q = QuantizeLinear(a, s, z)  d = DequantizeLinear(q, s, z)  c = Conv(d, w)"
    body += "  p = QuantizeLinear(c, s, z)  e = DequantizeLinear(p, s, z)  y = Reshape(e, n)"
    numbers = {"s": np.asarray(F32(0.1)), "z": np.asarray(np.uint8(128)), "n": np.array([1, -1])}
    numbers["w"] = np.random.default_rng(1).integers(-9, 9, (4, 4, 1, 1)).astype(F32)
    _, path, x = lowered_file(tmp_path, body, ["y"], numbers)
    again = tmp_path / "again.onnx"
    getac.lower(path, again, bench=False)
    first, second = (onnx.load(file).graph.node for file in (path, again))
    assert [node.op_type for node in first] == [node.op_type for node in second]
    assert first[-1].op_type == "Reshape"
    found = [run(open_session(file), {"x": x})["y"] for file in (path, again)]
    np.testing.assert_array_equal(*found)
