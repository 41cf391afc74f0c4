"""What a file says with its quantizers stays said: a Relu in a zero point, a clipping, a rounding."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.traps.naive import (
    F32,
    RELU,
    both,
    lower,
    lowered,
    normal,
    relative,
    run,
)


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_zero_point_of_zero_is_a_relu(build, tmp_path, calibrated):
    """Quantizing tools remove the Relu; in floats, where a layer has no kernel, it must come back."""
    text = RELU.replace("    r = Relu(a)\n", "").replace(
        "QuantizeLinear(r, t, zr)", "QuantizeLinear(a, t, zr)"
    )
    text = text.replace("(float[N,4,8,8] y)", "(float[N,4,8,8] o)").replace(
        "}", "    o = ConvTranspose<kernel_shape=[1,1]>(y, u)\n}"
    )
    model = build(
        text,
        s=F32(0.02),
        z=np.uint8(128),
        w=np.random.default_rng(0).integers(-127, 128, (4, 4, 1, 1), np.int8),
        ws=np.full(4, 0.01, F32),
        wz=np.zeros(4, np.int8),
        t=F32(0.03),
        zr=np.uint8(0),
        u=normal(4, 4, 1, 1),
    )
    x = normal(4, 4, 8, 8)
    report = lower(
        ir.serde.serialize_model(model), tmp_path / "o.onnx", calibration={"x": x} if calibrated else None
    )
    plain = run(model, {"x": x}, optimize=False)
    for output in both(onnx.load(tmp_path / "o.onnx"), {"x": x}):
        assert relative(plain, output) < 0.02
    assert report.verification.folded[0].sqnr_db > 20


BETWEEN = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {
    c = Conv(x, v)
    BEFORE
    q = QuantizeLinear(b, s, z)
    d = DequantizeLinear(q, s, z)
    AFTER
}"""


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("before", ["b = Identity(c)", "b = Relu(c)", "b = Tanh(c)", "b = Sigmoid(c)"])
@pytest.mark.parametrize(
    "after",
    [
        "y = Identity(d)",
        "y = Tanh(d)",
        "y = Conv(d, w)",
        "r = Relu(d)\n    y = Conv(r, w)",
        "r = Clip(d, least, greatest)\n    y = Conv(r, w)",
        "r = Relu(d)\n    e = Conv(r, w)\n    y = Add(e, d)",
        "m = MaxPool<kernel_shape=[1,1]>(d)\n    y = Conv(m, w)",
        "y = ConvTranspose(d, w)",
    ],
)
def test_the_function_of_a_file_with_quantizers_stays(build, tmp_path, calibrated, zero, before, after):
    """The quantizers clip most of what there is: without them the result would be off by far."""
    model = build(
        BETWEEN.replace("BEFORE", before).replace("AFTER", after),
        **{"v": normal(4, 4, 1, 1), "w": normal(4, 4, 1, 1, seed=1), "s": F32(0.003), "z": np.uint8(zero)},
        least=F32(-0.2),
        greatest=F32(0.25),
    )
    x = normal(16, 4, 8, 8, seed=2)
    result, report = lowered(model, tmp_path / "o.onnx", {"x": x} if calibrated else None)
    expected, found = run(model, {"x": x}, optimize=False), run(result, {"x": x})
    assert 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum()) > 20
    if calibrated:
        assert all(row.kernel.startswith("integer") for row in report.layers if row.operator == "Conv")


def test_an_output_behind_a_quantizer_is_rounded(build, tmp_path):
    text = """(float[N,8] x) => (float[N,4] y) {
        a = Gemm(x, w)
        q = QuantizeLinear(a, s, z)
        y = DequantizeLinear(q, s, z)
    }"""
    model = build(text, w=normal(8, 4), s=F32(0.25), z=np.uint8(128))
    x = normal(32, 8)
    result, report = lowered(model, tmp_path / "o.onnx", {"x": x})
    assert report.layers[0].kernel == "integer (QGemm)" and result.graph.output[0].name == "y"
    steps = run(result, {"x": x}) / 0.25
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
