"""Where onnxruntime answers wrongly without a word: each trap on a naive graph, and how ours avoids it.

Every naive graph is run twice, as it is written and as onnxruntime optimises it; a trap is a difference
between the two. If one of these stops failing with a newer onnxruntime, its guard can go.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import getac
from getac.executed import executed_kernels

lower = partial(getac.lower, bench=False)
F32 = np.float32


def run(model, feeds, optimize=True):
    if isinstance(model, ir.Model):
        model = ir.serde.serialize_model(model)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def both(model, feeds):
    """The output as written, and as optimised."""
    return run(model, feeds, optimize=False), run(model, feeds)


def kernels(model):
    proto = ir.serde.serialize_model(model) if isinstance(model, ir.Model) else model
    return [node.op_type for node in executed_kernels(proto.SerializeToString())]


def normal(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(F32)


def relative(a, b):
    return float(np.abs(a - b).max() / np.abs(a).max())


def lowered(model, path, calibration, **options):
    """Our result, and the report."""
    report = lower(ir.serde.serialize_model(model), path, calibration=calibration, **options)
    return onnx.load(path), report


def tensor(model, name):
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def adversarial(step, shape, seed=0):
    """Inputs that saturate, that fall on ties between two lattice points, that are zero, and random ones."""
    rng = np.random.default_rng(seed)
    ties = (rng.integers(-200, 200, shape) + 0.5) * step
    return {
        "random": normal(*shape, seed=seed),
        "saturated": normal(*shape, seed=seed, scale=100.0),
        "ties": ties.astype(F32),
        "zeros": np.zeros(shape, F32),
        "greatest": np.full(shape, 1e6, F32),
        "least": np.full(shape, -1e6, F32),
        "mixed signs": np.where(rng.integers(0, 2, shape), 1e6, -1e6).astype(F32),
    }


def assert_same_as_written(model, input_name, shape, step, output_step=0.0, relative_bound=1e-5):
    """Within one output step of the graph without optimisation, or equal to rounding of floats."""
    for name, x in adversarial(step, shape).items():
        plain, fast = both(model, {input_name: x})
        bound = max(1.001 * output_step, relative_bound * float(np.abs(plain).max()))
        assert np.abs(plain - fast).max() <= bound, name


# ---- 1: a float weight between DequantizeLinear and QuantizeLinear is quantized by onnxruntime itself ----

# ConvTranspose has no integer kernel, so that ours leaves it in floats between two quantized layers.
UP = """(float[N,4,8,8] x) => (float[N,4,16,16] y) {
    a = Conv<kernel_shape=[1,1]>(x, v)
    r = Relu(a)
    b = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(r, w)
    y = Conv<kernel_shape=[1,1]>(b, u)
}"""
NAIVE_UP = """(float[N,4,8,8] x) => (float[N,4,16,16] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    b = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(d, w)
    bq = QuantizeLinear(b, t, z)
    y = DequantizeLinear(bq, t, z)
}"""


def wide_range(*shape):
    """Weights of very different size per output channel: rounding them to one step is visible."""
    return normal(*shape) * np.array([1e-3, 1e-2, 1e-1, 10], F32).reshape(1, -1, 1, 1)


def test_float_weights_between_quantizers_are_requantized(build):
    x, weight = normal(2, 4, 8, 8), wide_range(4, 4, 2, 2)
    model = build(NAIVE_UP, w=weight, s=F32(0.02), z=np.uint8(128), t=F32(1e-4))
    plain, fast = both(model, {"x": x})
    small = (slice(None), slice(0, 2))  # the channels with small weights
    assert relative(plain[small], fast[small]) > 0.05


def test_ours_keeps_float_layers_in_floats(build, tmp_path):
    x = normal(8, 4, 8, 8)
    model = build(UP, v=normal(4, 4, 1, 1), w=wide_range(4, 4, 2, 2), u=normal(4, 4, 1, 1, seed=1))
    found, report = lowered(model, tmp_path / "o.onnx", {"x": x})
    assert [row.kernel.split()[0] for row in report.layers] == ["integer", "float", "integer"]
    assert "ConvTranspose" in kernels(found)
    step = float(tensor(found, "y.scale"))
    assert_same_as_written(found, "x", (2, 4, 8, 8), 0.02, output_step=step)


# ---- 2: QGemm ignores the scale of its bias ----

GEMM = """(float[N,16] x) => (float[N,8] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0>(w, ws, wz)
    bd = DequantizeLinear<axis=0>(b, bs, bz)
    y = Gemm<transB=1>(d, wd, bd)
}"""


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
    plain, fast = both(gemm(build, scales), {"x": normal(5, 16)})
    assert relative(plain, fast) > 0.1


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


# ---- 3: two pairs of quantizers in a row become one ----

TWICE = """(float[N,16] x) => (float[N,16] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    p = QuantizeLinear(d, t, z)
    y = DequantizeLinear(p, t, z)
}"""


def test_two_pairs_in_a_row_are_collapsed(build):
    model = build(TWICE, s=F32(0.5), t=F32(0.03), z=np.uint8(128))
    plain, fast = both(model, {"x": normal(8, 16)})
    assert np.abs(plain - fast).max() > 0.1  # the coarse rounding is lost


def test_ours_writes_one_pair_per_value(build, tmp_path):
    """Between layers, behind operators that hand quantizers on, and in a model that is lowered twice."""
    model = build(
        """(float[N,4,8,8] x) => (float[N,4] y) {
            a = Conv<kernel_shape=[3,3]>(x, v)
            r = Relu(a)
            m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
            f = Flatten<axis=1>(m)
            y = Gemm<transB=1>(f, w, b)
        }""",
        v=normal(4, 4, 3, 3),
        w=normal(4, 36),
        b=normal(4),
    )
    data = {"x": normal(8, 4, 8, 8)}
    found, _ = lowered(model, tmp_path / "a.onnx", data)
    again = tmp_path / "b.onnx"
    lower(tmp_path / "a.onnx", again)
    for result in (found, onnx.load(again)):
        makers = {name: node for node in result.graph.node for name in node.output}
        quantized = [makers.get(n.input[0]) for n in result.graph.node if n.op_type == "QuantizeLinear"]
        assert quantized and all(node is None or node.op_type != "DequantizeLinear" for node in quantized)
        assert_same_as_written(result, "x", (3, 4, 8, 8), 0.02)


def test_a_file_with_two_pairs_in_a_row_keeps_both(build, tmp_path):
    """The first one is a record on a value that no integer kernel reads: onnxruntime must not merge it."""
    text = TWICE.replace("(float[N,16] y)", "(float[N,8] o)").replace(
        "    y = DequantizeLinear(p, t, z)",
        "    y = DequantizeLinear(p, t, z)\n    o = Gemm<transB=1>(y, w, b)",
    )
    model = build(text, s=F32(0.5), t=F32(0.03), z=np.uint8(128), w=normal(8, 16), b=normal(8))
    report = lower(ir.serde.serialize_model(model), tmp_path / "o.onnx")
    assert report.layers[0].kernel == "integer (QGemm)"
    found = onnx.load(tmp_path / "o.onnx")
    scales = {tuple(node.input[1:]) for node in found.graph.node if node.op_type == "QuantizeLinear"}
    assert sorted(float(tensor(found, scale)) for scale, _ in scales) == pytest.approx([0.03, 0.5])
    assert report.verification.original[0].sqnr_db > 30
    assert_same_as_written(found, "x", (5, 16), 0.03)


# ---- 4: the bias of a channel with tiny weights overflows INT32 ----


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


# ---- forms that do not fuse: no wrong answers, but no integer kernels either ----


def test_a_gemm_without_an_explicit_zero_point_is_not_fused(build):
    rng = np.random.default_rng(0)
    tensors = {
        "s": F32(0.02),
        "z": np.uint8(128),
        "w": rng.integers(-127, 128, (8, 16), np.int8),
        "ws": np.full(8, 0.01, F32),
        "wz": np.zeros(8, np.int8),
        "b": rng.integers(-9000, 9000, 8, np.int32),
        "bs": np.full(8, F32(0.02) * F32(0.01), F32),
        "bz": np.zeros(8, np.int32),
    }
    assert "QGemm" in kernels(build(GEMM, **tensors))
    without = GEMM.replace("(w, ws, wz)", "(w, ws)")
    assert "QGemm" not in kernels(build(without, **tensors))


def test_ours_writes_every_zero_point(build, tmp_path):
    model = build(
        "(float[N,16] x) => (float[N,8] y) { y = Gemm<transB=1>(x, w, b) }", w=normal(8, 16), b=normal(8)
    )
    found, _ = lowered(model, tmp_path / "o.onnx", {"x": normal(8, 16)})
    pairs = [node for node in found.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) == 4 and all(len(node.input) == 3 and all(node.input) for node in pairs)
    assert "QGemm" in kernels(found)


RELU = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0>(w, ws, wz)
    a = Conv<kernel_shape=[1,1]>(d, wd)
    r = Relu(a)
    rq = QuantizeLinear(r, t, zr)
    y = DequantizeLinear(rq, t, zr)
}"""


@pytest.mark.parametrize(("zero_point", "fuses"), [(0, True), (128, False)])
def test_a_relu_before_a_signed_quantizer_is_not_fused(build, zero_point, fuses):
    model = build(
        RELU,
        s=F32(0.02),
        z=np.uint8(128),
        w=np.random.default_rng(0).integers(-127, 128, (4, 4, 1, 1), np.int8),
        ws=np.full(4, 0.01, F32),
        wz=np.zeros(4, np.int8),
        t=F32(0.03),
        zr=np.uint8(zero_point),
    )
    assert ("QLinearConv" in kernels(model)) == fuses


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


# ---- fewer than 8 bits ----


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_few_bits_are_an_exact_lattice_and_still_fuse(build, tmp_path, bits):
    model = build(CLIPPED.format(clipping="Relu(a)"), v=normal(4, 4, 1, 1), w=normal(4, 4, 1, 1, seed=1))
    found, report = lowered(
        model, tmp_path / "o.onnx", {"x": normal(8, 4, 8, 8)}, activation_bits=bits, force=True
    )
    executed = kernels(found)
    assert executed.count("QLinearConv") == 2 and "Conv" not in executed
    assert {row.activation_bits for row in report.layers} == {bits}
    zero_point, step = int(tensor(found, "y.zero_point")), float(tensor(found, "y.scale"))
    for x in adversarial(0.02, (3, 4, 8, 8)).values():
        plain, fast = both(found, {"x": x})
        for output in (plain, fast):
            integers = output / F32(step) + zero_point
            np.testing.assert_allclose(integers, np.rint(integers), atol=1e-3)
            assert integers.min() > -0.01 and integers.max() < 2**bits - 0.99
        assert np.abs(plain - fast).max() <= 1.001 * step


def test_a_float_clip_before_a_signed_quantizer_does_not_fuse(build):
    text = RELU.replace("Relu(a)", "Clip(a, low, high)")
    model = build(
        text,
        s=F32(0.02),
        z=np.uint8(128),
        w=np.random.default_rng(0).integers(-127, 128, (4, 4, 1, 1), np.int8),
        ws=np.full(4, 0.01, F32),
        wz=np.zeros(4, np.int8),
        t=F32(0.03),
        zr=np.uint8(128),
        low=F32(-0.21),
        high=F32(0.21),
    )
    assert "QLinearConv" not in kernels(model)


# ---- what a quantized file says without a Relu ----


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


# ---- a quantizer of the file that no integer kernel carries must not get lost ----

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
