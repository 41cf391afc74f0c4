"""INT32 biases: QGemm ignores their scale, and a channel with tiny weights overflows them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.traps.naive import (
    F32,
    GEMM,
    assert_same_as_written,
    assert_wrong,
    both,
    lower,
    lowered,
    normal,
    relative,
    run,
    tensor,
)


def gemm(build, bias_scale):
    rng = np.random.default_rng(0)
    return build(
        GEMM,
        s=F32(0.02),
        z=np.uint8(128),
        w=rng.integers(-127, 128, (8, 16), np.int8),
        ws=rng.uniform(0.005, 0.01, 8).astype(F32),
        wz=np.zeros(8, np.int8),
        b=rng.integers(-9000, 9000, 8, np.int32),
        bs=(F32(0.02) * rng.uniform(0.005, 0.01, 8)).astype(F32) if bias_scale is None else bias_scale,
        bz=np.zeros(8, np.int32),
    )


def test_a_wrong_bias_scale_is_taken_for_a_right_one(build):
    scales = np.full(8, 1e-3, F32)
    trap = "QGemm takes s_x s_w for the scale of its bias, whatever it is"
    assert_wrong(gemm(build, scales), {"x": normal(5, 16)}, trap, least=0.1)


@pytest.mark.parametrize("axis", [0, 1])
def test_our_bias_scale_is_the_product_of_the_other_two(build, tmp_path, axis):
    weight = normal(8, 16) if axis == 0 else normal(16, 8)
    model = build(
        f"(float[N,16] x) => (float[N,8] y) {{ y = Gemm<transB={1 - axis}, alpha=0.5, beta=3.0>(x, w, b) }}",
        w=weight,
        b=normal(8, seed=1),
    )
    found, report = lowered(model, tmp_path / "o.onnx", {"x": normal(8, 16)})
    assert report.layers[0].kernel == "integer (QGemm)"
    scales = [tensor(found, name) for name in ("x.scale", "w.scale")]
    stored = next(t.name for t in found.graph.initializer if t.name.startswith("b") and "scale" in t.name)
    np.testing.assert_array_equal(tensor(found, stored), (scales[0] * scales[1]).astype(F32))
    assert_same_as_written(found, "x", (5, 16), float(scales[0]))


def test_a_file_with_a_wrong_bias_scale_gets_a_right_one(build, tmp_path):
    """What the file means is what it computes as written."""
    model = gemm(build, np.full(8, 1e-3, F32))
    report = lower(ir.serde.serialize_model(model), tmp_path / "o.onnx")
    assert report.layers[0].kernel == "integer (QGemm)"
    x = normal(5, 16)
    plain = run(model, {"x": x}, optimize=False)
    for ours in both(onnx.load(tmp_path / "o.onnx"), {"x": x}):
        assert relative(plain, ours) < 1e-5


def test_a_tiny_weight_step_overflows_the_bias(build):
    """round(1 / (0.02 * 1e-12)) is far from fitting; the integers that a naive writer stores wrap around."""
    scale = F32(0.02) * F32(1e-12)
    wrapped = np.int64(np.rint(1.0 / float(scale))).astype(np.int32)
    assert abs(float(wrapped) * float(scale) - 1.0) > 0.9


@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1e-12, 1e-7])
@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
def test_ours_keeps_the_bias_of_dead_channels(build, tmp_path, operator, magnitude):
    bias = np.array([1.0, -2.0, 300.0, 0.0], F32)
    if operator == "Conv":
        weight, shape = normal(4, 4, 3, 3), (4, 4, 8, 8)
        text = "(float[N,4,8,8] x) => (float[N,4,6,6] y) { y = Conv<kernel_shape=[3,3]>(x, w, b) }"
    else:
        weight, shape = normal(4, 16), (4, 16)
        text = "(float[N,16] x) => (float[N,4] y) { y = Gemm<transB=1>(x, w, b) }"
    weight[1:3] *= F32(magnitude)
    model = build(text, w=weight, b=bias)
    found, report = lowered(model, tmp_path / "o.onnx", {"x": normal(8, *shape[1:])}, align=1)
    assert report.layers[0].kernel.startswith("integer")
    x = normal(*shape, seed=4)
    expected, step = run(model, {"x": x}), 0.0
    if operator == "Conv":
        step = float(tensor(found, "y.scale"))
    for output in both(found, {"x": x}):
        np.testing.assert_allclose(output[:, 1:3], expected[:, 1:3], rtol=1e-5, atol=0.51 * step + 1e-5)
    assert np.isfinite(tensor(found, "w.scale")).all() and (tensor(found, "w.scale") > 0).all()
