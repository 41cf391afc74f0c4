"""A model with weights of every number of bits from 2 to 16, lowered for both targets."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import getac
from getac.errors import OptionError
from getac.onnx_graph.read import read_model
from getac.runtime import open_session, run
from tools.zoo.resnet import resnet18

F32 = np.float32
WIDTH = 256
BITS = range(2, 17)
TARGETS = ("portable", "ort")
STORED = {
    "portable": (
        *("ternary", "2-bit + 1-bit", "INT4", "4-bit + 1-bit", "4-bit + 2-bit", "4-bit + 2-bit + 1-bit"),
        *("INT8", "8-bit + 1-bit", "8-bit + 2-bit", "8-bit + 2-bit + 1-bit", "8-bit + 4-bit"),
        *("8-bit + 4-bit + 1-bit", "8-bit + 4-bit + 2-bit", "8-bit + 4-bit + 2-bit + 1-bit", "INT16"),
    ),
    "ort": (
        *("ternary", "INT2 + 1-bit", "INT4", "INT4 + 1-bit", "INT4 + UINT2", "INT4 + UINT2 + 1-bit"),
        *("INT8", "INT8 + 1-bit", "INT8 + UINT2", "INT8 + UINT2 + 1-bit", "INT8 + UINT4"),
        *("INT8 + UINT4 + 1-bit", "INT8 + UINT4 + UINT2", "INT8 + UINT4 + UINT2 + 1-bit", "INT16"),
    ),
}


def layer(bits, rng):
    """A Gemm of the quantized input, whose weights are symmetric integers of some bits."""
    high, dtype = 2 ** (bits - 1) - 1, np.int8 if bits <= 8 else np.int16
    tensors = {
        f"w{bits}": rng.integers(-high, high + 1, (WIDTH, WIDTH)).astype(dtype),
        f"s{bits}": np.full(WIDTH, 1.7 / (high * np.sqrt(WIDTH)), F32),
        f"z{bits}": np.zeros(WIDTH, dtype),
        f"b{bits}": rng.normal(size=WIDTH).astype(F32),
    }
    stored, nodes = [f"w{bits}", f"s{bits}", f"z{bits}"], []
    if bits < 8:  # onnxruntime has no Clip of INT16: of those only the values say how many bits are used
        tensors |= {f"l{bits}": dtype(-high), f"h{bits}": dtype(high)}
        nodes.append(helper.make_node("Clip", [f"w{bits}", f"l{bits}", f"h{bits}"], [f"c{bits}"]))
        stored[0] = f"c{bits}"
    nodes += [
        helper.make_node("DequantizeLinear", stored, [f"d{bits}"], axis=0),
        helper.make_node("Gemm", ["xd", f"d{bits}", f"b{bits}"], [f"y{bits}"], f"gemm{bits}", transB=1),
    ]
    return nodes, tensors


@pytest.fixture(scope="module")
def every_width():
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "step", "zero"], ["xd"]),
    ]
    tensors = {"step": F32(4 / 127), "zero": np.uint8(128)}
    for bits in BITS:
        more, stored = layer(bits, rng)
        nodes, tensors = nodes + more, tensors | stored
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH])
        for name in ("x", *(f"y{bits}" for bits in BITS))
    ]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "every_width", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def outputs(model, optimize=True):
    x = np.random.default_rng(1).normal(size=(8, WIDTH)).astype(F32)
    return run(open_session(model, optimize=optimize), {"x": x})


@pytest.fixture(scope="module", params=TARGETS)
def lowered(request, every_width, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "lowered.onnx"
    return request.param, path, getac.lower(every_width, path, target=request.param, bench=False)


def test_it_computes_the_same(lowered, every_width):
    _, path, _ = lowered
    expected = outputs(every_width.SerializeToString(), optimize=False)
    for optimize in (False, True):
        found = outputs(path, optimize)
        for bits in BITS:
            np.testing.assert_allclose(found[f"y{bits}"], expected[f"y{bits}"], rtol=1e-5, atol=1e-4)


def test_each_layer_has_its_storage_and_its_kernel(lowered):
    target, path, report = lowered
    assert tuple(row.storage for row in report.layers) == STORED[target]
    assert [row.kernel.split()[0] for row in report.layers] == ["integer"] * 7 + ["float"] * 8
    model = onnx.load(path)
    expected = (21, 10) if target == "portable" else (25, 13)
    assert (model.opset_import[0].version, model.ir_version) == expected
    onnx.checker.check_model(model, full_check=True)


def test_the_file_is_as_small_as_its_bits(lowered):
    _, path, report = lowered
    assert path.stat().st_size <= 1.1 * sum(BITS) * WIDTH**2 / 8
    assert report.after.parameters == len(BITS) * (WIDTH**2 + WIDTH)


def test_lowering_again_finds_every_lattice_and_stays_as_small(lowered, tmp_path):
    target, path, report = lowered
    again = getac.lower(path, tmp_path / "again.onnx", target=target, bench=False)
    assert [row.weight_bits for row in again.layers] == list(BITS)
    assert again.after.weight_bytes == report.after.weight_bytes
    assert again.after.file_bytes <= 1.005 * path.stat().st_size  # names get longer
    assert again.storage_ratio is not None and again.storage_ratio <= 1.1
    after = outputs(tmp_path / "again.onnx")
    for name, before in outputs(path).items():
        np.testing.assert_array_equal(after[name], before)


def test_what_is_portable_now_can_be_for_onnxruntime_later(lowered, tmp_path):
    target, path, _ = lowered
    other = next(one for one in TARGETS if one != target)
    report = getac.lower(path, tmp_path / "other.onnx", target=other, bench=False)
    assert tuple(row.storage for row in report.layers) == STORED[other]


@pytest.mark.parametrize(("bits", "share"), [(4, 0.135), (2, 0.07)])
def test_a_convolutional_network_is_as_small(bits, share, tmp_path):
    model = resnet18(width=32, image=32)
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(F32)
    options = {"calibration": {"image": images}, "weight_bits": bits, "bench": False}
    report = getac.lower(model, tmp_path / "small.onnx", **options, force=True)  # random weights at 2 bits
    assert all(row.kernel.startswith("integer") for row in report.layers)
    assert (tmp_path / "small.onnx").stat().st_size <= share * model.ByteSize()
    assert report.storage_ratio is not None and report.storage_ratio <= 1.1
    assert [one.dtype for one in read_model(tmp_path / "small.onnx").graph.outputs] == [ir.DataType.FLOAT]


def test_the_target_is_checked_before_anything_is_read():
    with pytest.raises(OptionError, match="portable or ort"):
        getac.lower("nowhere.onnx", target="tflite")
