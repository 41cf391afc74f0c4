"""Float weights between DequantizeLinear and QuantizeLinear, which onnxruntime rounds to INT8 by itself.

It does so for Conv, ConvTranspose and Gemm, per tensor, also after it folded the weights from integers, and
also between 16-bit activations. Ours keeps what must stay in floats apart by a Sum.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.traps.naive import (
    F32,
    assert_same_as_written,
    assert_same_function,
    assert_wrong,
    kernels,
    lowered,
    normal,
    run,
    tensor,
)

SPREAD = np.array([1e-3, 1e-2, 1e-1, 10], F32)  # one step for weights of such sizes is visible
NAIVE = """(float[DIMS] x) => (float[DIMS] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    RESTORE
    b = OPERATOR(d, w)
    bq = QuantizeLinear(b, t, z)
    y = DequantizeLinear(bq, t, z)
}"""
SHAPES = {"Conv": (4, 4, 1, 1), "ConvTranspose": (4, 4, 1, 1), "Gemm": (4, 4)}
DIMS = {"Conv": "N,4,8,8", "ConvTranspose": "N,4,8,8", "Gemm": "N,4"}
INPUTS = {"Conv": (2, 4, 8, 8), "ConvTranspose": (2, 4, 8, 8), "Gemm": (7, 4)}
TRAP = "a float weight between a DequantizeLinear and a QuantizeLinear is rounded per tensor"


def spread(operator):
    """How the output channels of a weight differ."""
    return SPREAD.reshape((-1, 1, 1, 1) if operator == "Conv" else (1, -1, 1, 1)[: len(SHAPES[operator])])


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(
    ("zero", "step", "small"), [(np.uint8(128), 0.02, 1e-4), (np.uint16(2**15), 1e-4, 1e-6)]
)
@pytest.mark.parametrize("operator", SHAPES)
def test_float_weights_between_quantizers_are_requantized(build, operator, zero, step, small, folded):
    text = NAIVE.replace("DIMS", DIMS[operator]).replace("OPERATOR", operator)
    text = text.replace("RESTORE", "c = Cast<to=1>(k)\n    w = Mul(c, r)" if folded else "")
    stored = np.random.default_rng(0).integers(-127, 128, SHAPES[operator], np.int8)
    scale = (spread(operator) / 127).astype(F32)
    tensors = {"k": stored, "r": scale} if folded else {"w": stored * scale}
    model = build(text, s=F32(step), z=zero, t=F32(small), **tensors)
    assert_wrong(model, {"x": normal(*INPUTS[operator])}, TRAP)


def test_a_matmul_keeps_its_float_weights(build):
    text = NAIVE.replace("DIMS", "N,4").replace("OPERATOR", "MatMul").replace("RESTORE", "")
    model = build(text, s=F32(0.02), z=np.uint8(128), t=F32(1e-4), w=normal(4, 4) * SPREAD)
    x = normal(7, 4)
    np.testing.assert_array_equal(run(model, {"x": x}), run(model, {"x": x}, optimize=False))


# ConvTranspose has no integer kernel, so that ours leaves it in floats between two quantized layers.
UP = """(float[N,4,8,8] x) => (float[N,4,16,16] y) {
    a = Conv<kernel_shape=[1,1]>(x, v)
    r = Relu(a)
    b = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(r, w)
    y = Conv<kernel_shape=[1,1]>(b, u)
}"""


def test_ours_keeps_float_layers_in_floats(build, tmp_path):
    x, wide = normal(8, 4, 8, 8), normal(4, 4, 2, 2) * SPREAD.reshape(1, -1, 1, 1)
    model = build(UP, v=normal(4, 4, 1, 1), w=wide, u=normal(4, 4, 1, 1, seed=1))
    found, report = lowered(model, tmp_path / "o.onnx", {"x": x})
    assert [row.kernel.split()[0] for row in report.layers] == ["integer", "float", "integer"]
    assert "ConvTranspose" in kernels(found)
    assert_same_as_written(found, "x", (2, 4, 8, 8), 0.02, output_step=float(tensor(found, "y.scale")))


# A layer that the file gives more than 8 bits, of weights or of activations.
WIDE = """(float[DIMS] x) => (float[DIMS] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0>(w, ws, wz)
    b = OPERATOR(d, wd)
    bq = QuantizeLinear(b, t, z)
    y = DequantizeLinear(bq, t, z)
}"""


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("wide", ["weights", "activations"])
@pytest.mark.parametrize("operator", SHAPES)
def test_ours_keeps_what_the_file_gives_more_bits(build, tmp_path, operator, wide, calibrated):
    text = WIDE.replace("DIMS", DIMS[operator]).replace("OPERATOR", operator)
    shape = SHAPES[operator]
    weights, zero = (np.int16, np.uint8(128)) if wide == "weights" else (np.int8, np.uint16(2**15))
    high = np.iinfo(weights).max
    step, small = (0.02, 0.1) if wide == "weights" else (1e-4, 1e-3)
    model = build(
        text,
        **{"s": F32(step), "z": zero, "t": F32(small), "wz": np.zeros(4, weights)},
        w=np.random.default_rng(0).integers(-high, high, shape, weights),
        ws=(SPREAD / high).astype(F32),
    )
    data = {"x": normal(*INPUTS[operator])} if calibrated else None
    found, report = lowered(model, tmp_path / "o.onnx", data)
    assert report.layers[0].kernel.startswith("float")
    assert_same_function(model, found, "x", INPUTS[operator], step, output_step=small)
