"""Forms that onnxruntime does not fuse: no wrong answers, but no integer kernels either."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.traps.naive import (
    F32,
    GEMM,
    RELU,
    assert_not_fused,
    assert_same_as_written,
    assert_same_function,
    integers,
    kernels,
    lowered,
    normal,
    relative,
    run,
    tensor,
)

PAIR = {"s": F32(0.02), "z": np.uint8(128)}
FOUR = {"w": integers(4, 4, 1, 1), "ws": np.full(4, 0.01, F32), "wz": np.zeros(4, np.int8)}


def test_a_gemm_without_an_explicit_zero_point_is_not_fused(build):
    tensors = {
        **PAIR,
        **{"w": integers(8, 16), "ws": np.full(8, 0.01, F32), "wz": np.zeros(8, np.int8)},
        "b": np.random.default_rng(0).integers(-9000, 9000, 8, np.int32),
        "bs": np.full(8, F32(0.02) * F32(0.01), F32),
        "bz": np.zeros(8, np.int32),
    }
    assert "QGemm" in kernels(build(GEMM, **tensors))
    without = build(GEMM.replace("(w, ws, wz)", "(w, ws)"), **tensors)
    assert_not_fused(without, "QGemm", "a Gemm needs an explicit zero point of its weights")


def test_ours_writes_every_zero_point_but_that_of_the_bias(build, tmp_path):
    model = build(
        "(float[N,16] x) => (float[N,8] y) { y = Gemm<transB=1>(x, w, b) }", w=normal(8, 16), b=normal(8)
    )
    found, _ = lowered(model, tmp_path / "o.onnx", {"x": normal(8, 16)})
    pairs = [node for node in found.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    bias = pairs.pop(next(i for i, node in enumerate(pairs) if node.output[0].startswith("b.")))
    assert len(bias.input) == 2
    assert len(pairs) == 3 and all(len(node.input) == 3 and all(node.input) for node in pairs)
    assert "QGemm" in kernels(found)


def clipped_convolution(build, text, zero_point):
    bounds = {"low": F32(-0.21), "high": F32(0.21)}
    return build(text, **PAIR, **FOUR, t=F32(0.03), zr=np.uint8(zero_point), **bounds)


def test_a_relu_before_a_signed_quantizer_is_not_fused(build):
    assert "QLinearConv" in kernels(clipped_convolution(build, RELU, 0))
    signed = clipped_convolution(build, RELU, 128)
    assert_not_fused(signed, "QLinearConv", "a Relu keeps a Conv from the signed quantizer behind it")


def test_a_float_clip_before_a_signed_quantizer_is_not_fused(build):
    model = clipped_convolution(build, RELU.replace("Relu(a)", "Clip(a, low, high)"), 128)
    assert_not_fused(model, "QLinearConv", "a Clip keeps a Conv from the quantizer behind it")


def test_a_convolution_without_a_quantizer_behind_it_is_not_fused(build):
    """A Gemm is: its kernel may write floats."""
    text = RELU[: RELU.index("    r = Relu")].replace("a = Conv", "y = Conv") + "}"
    trap = "a Conv between integers needs a quantizer for its output"
    assert_not_fused(build(text, **PAIR, **FOUR), "QLinearConv", trap)


def test_ours_gives_every_convolution_a_quantizer_behind_it(build, tmp_path):
    """Also where a float operator follows, and where it is the output of the model."""
    text = """(float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] t) {
        a = Conv<kernel_shape=[1,1]>(x, v)
        t = Tanh(a)
        y = Conv<kernel_shape=[1,1]>(a, w)
    }"""
    model = build(text, v=normal(4, 4, 1, 1), w=normal(4, 4, 1, 1, seed=1))
    found, report = lowered(model, tmp_path / "o.onnx", {"x": normal(8, 4, 8, 8)})
    assert {row.kernel for row in report.layers} == {"integer (QLinearConv)"}
    assert_same_as_written(found, "x", (3, 4, 8, 8), 0.02, output_step=float(tensor(found, "y.scale")))


# A residual block: what it adds is read by a Conv too.
RESIDUAL = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0>(w, ws, wz)
    a = Conv<kernel_shape=[1,1]>(d, wd)
    aq = QuantizeLinear(a, s, z)
    ad = DequantizeLinear(aq, s, z)
    b = Conv<kernel_shape=[1,1]>(ad, wd)
    bq = QuantizeLinear(b, s, z)
    bd = DequantizeLinear(bq, s, z)
    e = Add(ad, bd)
    eq = QuantizeLinear(e, s, z)
    y = DequantizeLinear(eq, s, z)
}"""


def test_int8_activations_with_two_consumers_are_not_fused(build):
    model = build(RESIDUAL, **PAIR, **FOUR)
    assert kernels(model).count("QLinearConv") == 2 and "QLinearAdd" in kernels(model)
    model = build(RESIDUAL, s=F32(0.02), z=np.int8(0), **FOUR)
    assert_not_fused(model, "QLinearConv", "INT8 activations with two consumers are not fused")


def test_ours_makes_uint8_of_int8_activations(build, tmp_path):
    model = build(RESIDUAL, s=F32(0.02), z=np.int8(0), **FOUR)
    found, report = lowered(model, tmp_path / "o.onnx")
    assert {row.kernel for row in report.layers} == {"integer (QLinearConv)"}
    quantizers = [node for node in found.graph.node if node.op_type == "QuantizeLinear"]
    assert {tensor(found, node.input[2]).dtype for node in quantizers} == {np.dtype(np.uint8)}
    assert_same_function(model, found, "x", (3, 4, 8, 8), 0.02, output_step=0.02)


CLIPPED = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {{
    a = Conv<kernel_shape=[1,1]>(x, v)
    r = {clipping}
    y = Conv<kernel_shape=[1,1]>(r, w)
}}"""


@pytest.mark.parametrize("clipping", ["Relu(a)", "Clip(a, zero, six)", "Clip(a, zero)"])
def test_ours_absorbs_what_its_quantizer_clips(build, tmp_path, clipping):
    model = build(
        CLIPPED.format(clipping=clipping),
        v=normal(4, 4, 1, 1, scale=3),
        w=normal(4, 4, 1, 1, seed=1),
        zero=F32(0),
        six=F32(6),
    )
    found, _ = lowered(model, tmp_path / "o.onnx", {"x": normal(8, 4, 8, 8)})
    assert not {"Relu", "Clip"} & {node.op_type for node in found.graph.node}
    assert int(tensor(found, "r.zero_point")) == 0
    assert kernels(found).count("QLinearConv") == 2 and "Conv" not in kernels(found)
    assert_same_as_written(found, "x", (3, 4, 8, 8), 0.02, output_step=float(tensor(found, "y.scale")))


@pytest.mark.parametrize("bounds", [(1.0, 6.0), (-1.0, -0.5), (0.5, 9.0)])
def test_ours_keeps_a_clip_that_its_quantizer_does_not_imply(build, tmp_path, bounds):
    """A lattice always contains 0, so that a lower bound above it must be computed."""
    model = build(
        CLIPPED.format(clipping="Clip(a, low, high)"),
        v=normal(4, 4, 1, 1, scale=3),
        w=normal(4, 4, 1, 1, seed=1),
        low=F32(bounds[0]),
        high=F32(bounds[1]),
    )
    found, _ = lowered(model, tmp_path / "o.onnx", {"x": normal(8, 4, 8, 8)})
    assert [node.op_type for node in found.graph.node].count("Clip") == 1
    x = normal(8, 4, 8, 8)
    expected, output = run(model, {"x": x}), run(found, {"x": x})
    assert 10 * np.log10((expected**2).sum() / ((expected - output) ** 2).sum()) > 25


def test_a_relu_that_is_an_output_too_stays(build, tmp_path):
    """Its quantizer belongs to the next layer; the output is what it was before."""
    model = build(
        """(float[N,16] x) => (float[N,8] r, float[N,8] y) {
            a = Gemm<transB=1>(x, v, b)
            r = Relu(a)
            y = Gemm<transB=1>(r, w, b)
        }""",
        v=normal(8, 16),
        w=normal(8, 8, seed=1),
        b=normal(8, seed=2),
    )
    x = normal(8, 16)
    found, report = lowered(model, tmp_path / "o.onnx", {"x": x})
    onnx.checker.check_model(found, full_check=True)
    assert {row.kernel for row in report.layers} == {"integer (QGemm)"}
    output = run(found, {"x": x})
    assert output.min() == 0 and relative(run(model, {"x": x}), output) < 0.02
