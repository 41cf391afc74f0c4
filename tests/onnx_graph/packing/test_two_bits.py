"""Tensors of 2 bits, which opset 21 does not have, are read as 4 bits."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from getac.errors import UnsupportedModelError
from getac.onnx_graph.read import read_model, read_proto
from getac.runtime import open_session, run

NEW = '<ir_version: 13, opset_import: ["": 25]> graph '


def model_with(text, **tensors):
    proto = onnx.parser.parse_model(NEW + text)
    for name, (array, dtype) in tensors.items():
        tensor = ir.tensor(array.astype(dtype.numpy()), dtype=dtype, name=name)
        proto.graph.initializer.append(ir.serde.serialize_tensor(tensor))
    return proto


@pytest.mark.parametrize(("dtype", "wider", "low"), [("INT2", "INT4", -2), ("UINT2", "UINT4", 0)])
@pytest.mark.parametrize("shape", [(3, 5), (64, 33)])  # in the message, and set aside
def test_casts_read_the_same_numbers(dtype, wider, low, shape):
    integers = np.random.default_rng(0).integers(low, low + 4, shape)
    text = "(float[N] x) => (float[M,K] y) { i = Cast<to=3>(w) f = Cast<to=1>(i) y = Add(f, x) }"
    proto = model_with(text, w=(integers, ir.DataType[dtype]))
    model = read_proto(proto)
    weight = model.graph.initializers["w"]
    assert weight.dtype is weight.const_value.dtype is ir.DataType[wider]
    assert model.graph.opset_imports[""] == 21
    x = {"x": np.zeros(1, np.float32)}
    found = run(open_session(model), x)["y"]
    assert np.array_equal(found, integers)
    assert np.array_equal(run(open_session(proto.SerializeToString()), x)["y"], integers)


def test_dequantized_with_a_zero_point():
    integers = np.random.default_rng(0).integers(0, 4, (8, 8))
    text = "(float[N,8] x) => (float[N,8] y) { f = DequantizeLinear(w, s, z) y = Gemm(x, f) }"
    tensors = {"w": (integers, ir.DataType.UINT2), "z": (np.asarray(1), ir.DataType.UINT2)}
    proto = model_with(text, **tensors, s=(np.asarray(0.5), ir.DataType.FLOAT))
    found = run(open_session(read_proto(proto)), {"x": np.eye(8, dtype=np.float32)})["y"]
    assert np.array_equal(found, (integers - 1) * 0.5)


def test_external_data(tmp_path):
    integers = np.random.default_rng(0).integers(-2, 2, (64, 33))
    proto = model_with("() => (int8[64,33] y) { y = Cast<to=3>(w) }", w=(integers, ir.DataType.INT2))
    ir.save(ir.from_proto(proto), tmp_path / "m.onnx", external_data="m.data")
    model = read_model(tmp_path / "m.onnx")
    assert np.array_equal(run(open_session(model), {})["y"], integers)


def test_other_readers_are_refused():
    integers = np.zeros((4, 4), int)
    proto = model_with("() => (int2[16] y) { y = Reshape(w, s) }", w=(integers, ir.DataType.INT2))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([16]), "s"))
    with pytest.raises(UnsupportedModelError, match="newer than opset 21"):
        read_proto(proto)
