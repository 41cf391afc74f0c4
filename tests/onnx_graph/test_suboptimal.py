"""What `getac inspect` says of quantized files that onnxruntime could run better."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import getac
from getac.onnx_graph.read import load
from getac.onnx_graph.suboptimal import suboptimal
from tools.onnx_text import model_of

F32 = np.float32
S = np.asarray(0.05, F32)
W8 = np.random.default_rng(0).integers(-100, 100, (4, 3, 1, 1)).astype(np.int8)
Q = "xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)"
WEIGHT = "wd = DequantizeLinear(w, s, zw)"
A = "aq = QuantizeLinear(a, s, z)  y = DequantizeLinear(aq, s, z)"
IMAGE, ROWS = {"x": [1, 3, 4, 4]}, {"x": [2, 3]}


def findings(body, inputs, **tensors):
    return [(one.what, one.nodes) for one in suboptimal(load(model_of(body, inputs, {"s": S, **tensors})))]


@pytest.mark.parametrize(
    ("body", "inputs", "tensors", "words", "node"),
    [
        (f"{Q}  y = Relu(xd)", IMAGE, {"z": np.int8(0)}, "activations are INT8", "xq"),
        (f"{Q}  y = Relu(xd)", IMAGE, {"z": np.uint16(9)}, "activations have 16 bits", "xq"),
        (f"{Q}  {WEIGHT}  y = Conv(xd, wd)", IMAGE, {"z": np.uint8(9), "w": W8, "zw": np.int8(0)},
         "a Conv whose result is not quantized", "y"),
        (f"{WEIGHT}  y = Conv(x, wd)", IMAGE, {"w": W8.astype(np.uint8), "zw": np.uint8(128)},
         "weights are UINT8", "y"),
        (f"{WEIGHT}  y = Conv(x, wd)", IMAGE, {"w": np.tile(W8 % 7, (512, 1, 1, 1)), "zw": np.int8(0)},
         "weights of 4 bits are stored in 8", "y"),
        ("wd = DequantizeLinear(w, s)  y = Gemm<transB = 1>(x, wd)", ROWS, {"w": W8[:, :, 0, 0]},
         "a Gemm's weight has no zero point", "y"),
        (f"{WEIGHT}  y = Gemm<transB = 1>(x, wd, b)", ROWS,
         {"w": W8[:, :, 0, 0], "zw": np.int8(0), "b": np.ones(4, F32)}, "a bias in floats", "y"),
        (f"{Q}  wd = DequantizeLinear(w, s)  c = MatMul(xd, wd)  a = Add(c, b)  {A}", ROWS,
         {"z": np.uint8(9), "w": W8[:3, :, 0, 0], "b": np.ones(3, F32)},
         "weight has no zero point: with the Add", "c"),
        (f"{Q}  {WEIGHT}  c = MatMul(xd, wd)  y = Add(c, b)", ROWS,
         {"z": np.uint8(9), "w": W8[:3, :, 0, 0], "zw": np.int8(0), "b": np.ones(3, F32)},
         "the sum not quantized", "c"),
        (f"{Q}  {WEIGHT}  c = MatMul(xd, wd)  a = Relu(c)  {A}", ROWS,
         {"z": np.uint8(9), "w": W8[:3, :, 0, 0], "zw": np.int8(0)}, "a Relu or Clip between", "c"),
        (f"{WEIGHT}  i = Cast<to = 7>(x)  y = Gather(wd, i)", ROWS, {"w": W8[:, :, 0, 0], "zw": np.int8(0)},
         "a whole table is dequantized", "y"),
        (f"{WEIGHT}  c = MatMul(x, wd)  r = Relu(c)  y = Neg(r)", ROWS,
         {"w": W8[:3, :, 0, 0], "zw": np.int8(0)}, "a Relu or Clip keeps a MatMul", "c"),
        (f"{Q}  {WEIGHT}  y = MatMul(xd, wd)", ROWS,
         {"z": np.uint8(9), "w": (W8[:3, :, 0, 0] % 7).astype(ml_dtypes.int4),
          "zw": np.zeros((), ml_dtypes.int4)}, "weights of INT4 behind quantized activations", "y"),
        ("xq = QuantizeLinear(x, s, z)  q = QLinearConv(xq, s, z, w, s, zw, s, z)"
         "  y = DequantizeLinear(q, s, z)", IMAGE, {"z": np.uint8(0), "w": W8, "zw": np.int8(0)},
         "as fast as Q/DQ pairs", "q"),
        ("q, t, z = DynamicQuantizeLinear(x)  y = DequantizeLinear(q, t, z)", ROWS, {},
         "quantized while the model runs", None),
    ],
)  # fmt: skip
def test_findings(body, inputs, tensors, words, node):
    tensors = {name: np.asarray(array) for name, array in tensors.items()}
    ((what, nodes),) = findings(body, inputs, **tensors)
    assert words in what
    assert node is None or nodes == (node,)


def test_operators_on_integers_with_unsigned_weights():
    product = "q = QLinearMatMul(xq, s, z, w, s, z, s, z)"
    body = f"xq = QuantizeLinear(x, s, z)  {product}  y = DequantizeLinear(q, s, z)"
    found = findings(body, ROWS, z=np.asarray(np.uint8(9)), w=np.abs(W8[:3, :, 0, 0]).astype(np.uint8))
    assert sorted(what.split(":")[0] for what, _ in found) == [
        "operators on integers (QLinearConv ...)",
        "weights are UINT8",
    ]
    assert all(nodes == ("q",) for _, nodes in found)


def test_what_getac_writes_has_none(tmp_path):
    body = (
        "c = Conv(x, w)  r = Relu(c)  g = GlobalAveragePool(r)  f = Flatten(g)  y = Gemm<transB = 1>(f, v, b)"
    )
    tensors = {"w": (16, 3, 3, 3), "v": (8, 16), "b": (8,)}
    data = {"x": np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(F32)}
    model = model_of(body, {"x": ["N", 3, 8, 8]}, tensors)
    assert suboptimal(load(model)) == []  # floats are none of its business
    for bits in (8, 4, 2):
        path = tmp_path / f"{bits}.onnx"
        getac.lower(model, path, calibration=data, weight_bits=bits, bench=False, force=True)
        assert suboptimal(load(path)) == []


def test_inspect_shows_them():
    body = "xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)  y = Relu(xd)"
    found = getac.inspect(model_of(body, IMAGE, {"s": S, "z": np.asarray(np.int8(0))}))
    assert [one.nodes for one in found.suboptimal] == [("xq",)]
    assert "activations are INT8" in found.as_json()


def test_integer_operators_of_int8_are_slow():
    body = "xq = QuantizeLinear(x, s, z)  q = QLinearConv(xq, s, z, w, s, z, s, z)"
    body += "  y = DequantizeLinear(q, s, z)"
    found = dict(findings(body, IMAGE, z=np.asarray(np.int8(0)), w=W8))
    assert found.pop(
        "operators on integers of INT8 (QLinearConv ...) take many times as long as those of UINT8"
    ) == ("q",)
    assert [what.split(":")[0] for what in found] == ["activations are INT8"]
