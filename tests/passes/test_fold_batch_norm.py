"""fold-batch-norm: the layer computes what both did, or the normalisation stays and the reason is told."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import getac
from getac.executed import executed_kernels
from getac.passes import FoldBatchNorm
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer
from getac.runtime import open_session, run
from tests.unpacked import weight_integers

BOUND = {np.float32: 1e-6, np.float16: 4e-3}  # relative to the largest output


def norm(channels, dtype=np.float32, seed=1, tag=""):
    rng = np.random.default_rng(seed)
    return {
        f"gamma{tag}": rng.uniform(0.5, 1.5, channels).astype(dtype),
        f"beta{tag}": rng.normal(size=channels).astype(dtype),
        f"mean{tag}": rng.normal(size=channels).astype(dtype),
        f"var{tag}": rng.uniform(0.5, 1.5, channels).astype(dtype),
    }


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def fold(model, quantizers=None):
    state = State(model, facts={Fact.QUANTIZERS_FOLDED}, quantizers=quantizers or {})
    return Pipeline([FoldBatchNorm()]).run(state)


def operators(model):
    return [node.op_type for node in model.graph]


def check(build, evaluate, text, x, tensors, channels=8, dtype=np.float32):
    model = build(text, **tensors, **norm(channels, dtype))
    (before,) = evaluate(model, x=x)
    state = fold(model)
    assert "BatchNormalization" not in operators(model)
    assert state.refusals == {}
    assert state.records[-1].changed
    assert [value.name for value in model.graph.outputs] == ["z"]
    (after,) = evaluate(model, x=x)
    assert after.dtype == before.dtype
    np.testing.assert_allclose(after, before, rtol=0, atol=BOUND[dtype] * np.abs(before).max())
    again = fold(model)
    assert not again.records[-1].changed
    return model


CONV = """(float[2,6,5,5] x) => (float[2,8,3,3] z)
    {{ y = Conv<group={group}>({inputs}) z = BatchNormalization(y, gamma, beta, mean, var) }}"""


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_convolution(build, evaluate, group, bias):
    text = CONV.format(group=group, inputs="x, W, c" if bias else "x, W")
    tensors = {"W": normal(8, 6 // group, 3, 3)} | ({"c": normal(8, seed=2)} if bias else {})
    model = check(build, evaluate, text, normal(2, 6, 5, 5), tensors)
    assert operators(model) == ["Conv"]
    assert len(model.graph.node(0).inputs) == 3


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolution(build, evaluate, group, bias):
    text = f"""(float[2,4,5,5] x) => (float[2,8,7,7] z) {{
        y = ConvTranspose<group={group}>({"x, W, c" if bias else "x, W"})
        z = BatchNormalization(y, gamma, beta, mean, var) }}"""
    tensors = {"W": normal(4, 8 // group, 3, 3)} | ({"c": normal(8, seed=2)} if bias else {})
    check(build, evaluate, text, normal(2, 4, 5, 5), tensors)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (1.0, 0.5), (0.25, 1.0), (2.0, 3.0)])
def test_gemm_whose_alpha_scales_the_product_only(build, evaluate, transposed, alpha, beta):
    text = f"""(float[3,6] x) => (float[3,8] z) {{
        y = Gemm<transB={transposed}, alpha={alpha}, beta={beta}>(x, W, c)
        z = BatchNormalization(y, gamma, beta, mean, var) }}"""
    weight = normal(8, 6) if transposed else normal(6, 8)
    check(build, evaluate, text, normal(3, 6), {"W": weight, "c": normal(8, seed=2)})


@pytest.mark.parametrize("shape", [(), (1,), (1, 8), (1, 1)])
def test_gemm_bias_that_is_broadcast(build, evaluate, shape):
    text = """(float[3,6] x) => (float[3,8] z) {
        y = Gemm<beta=0.5>(x, W, c) z = BatchNormalization(y, gamma, beta, mean, var) }"""
    check(
        build, evaluate, text, normal(3, 6), {"W": normal(6, 8), "c": normal(*shape, seed=2) + np.float32(1)}
    )


@pytest.mark.parametrize("shape", [(8, 1), (8, 8)])
def test_refuses_a_gemm_bias_per_row(build, evaluate, shape):
    text = """(float[8,6] x) => (float[8,8] z) {
        y = Gemm(x, W, c) z = BatchNormalization(y, gamma, beta, mean, var) }"""
    model = build(text, W=normal(6, 8), c=normal(*shape), **norm(8))
    state = fold(model)
    assert "gemm_0 differs from row to row" in refusal(state)
    assert not state.records[-1].changed
    evaluate(model, x=normal(8, 6))


def test_float16(build, evaluate):
    text = """(float16[2,6,5,5] x) => (float16[2,8,3,3] z) {
        y = Conv(x, W) z = BatchNormalization(y, gamma, beta, mean, var) }"""
    weight = (0.1 * normal(8, 6, 3, 3)).astype(np.float16)
    model = check(
        build, evaluate, text, normal(2, 6, 5, 5, dtype=np.float16), {"W": weight}, dtype=np.float16
    )
    assert all(value.dtype.name == "FLOAT16" for value in model.graph.node(0).inputs)


def test_epsilon(build, evaluate):
    text = """(float[3,6] x) => (float[3,8] z) {
        y = Gemm(x, W) z = BatchNormalization<epsilon=0.5>(y, gamma, beta, mean, var) }"""
    check(build, evaluate, text, normal(3, 6), {"W": normal(6, 8)})


def test_a_shared_weight_is_scaled_for_each_layer_alone(build, evaluate):
    text = """(float[2,6,5,5] x) => (float[2,8,3,3] z, float[2,8,3,3] w, float[2,8,3,3] plain) {
        y1 = Conv(x, W, c) y2 = Conv(x, W, c) plain = Conv(x, W, c)
        z = BatchNormalization(y1, gamma, beta, mean, var)
        w = BatchNormalization(y2, gamma2, beta2, mean2, var2) }"""
    tensors = {"W": normal(8, 6, 3, 3), "c": normal(8)}
    model = build(text, **tensors, **norm(8), **norm(8, seed=5, tag="2"))
    x = normal(2, 6, 5, 5)
    before = evaluate(model, x=x)
    fold(model)
    assert operators(model) == ["Conv"] * 3
    for old, new in zip(before, evaluate(model, x=x), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-6 * np.abs(old).max())
    assert np.array_equal(model.graph.initializers["W"].const_value.numpy(), tensors["W"])


def test_a_chain_folds_both(build, evaluate):
    text = """(float[3,6] x) => (float[3,8] z) {
        y = Gemm(x, W) a = BatchNormalization(y, gamma, beta, mean, var)
        z = BatchNormalization(a, gamma, beta, mean, var) }"""
    model = check(build, evaluate, text, normal(3, 6), {"W": normal(6, 8)})
    assert operators(model) == ["Gemm"]


def test_an_inner_value_keeps_the_name_of_the_normalised_one(build, evaluate):
    text = """(float[3,6] x) => (float[3,8] z) {
        y = Gemm(x, W) a = BatchNormalization(y, gamma, beta, mean, var) z = Relu(a) }"""
    model = check(build, evaluate, text, normal(3, 6), {"W": normal(6, 8)})
    assert model.graph.node(0).outputs[0].name == "a"


def test_the_record_of_the_normalised_value_moves_to_the_layer(build):
    text = """(float[3,6] x) => (float[3,8] z) {
        y = Gemm(x, W) a = BatchNormalization(y, gamma, beta, mean, var) z = Relu(a) }"""
    model = build(text, W=normal(6, 8), **norm(8))
    quantizer = Quantizer.ranged(-1, 1, 8)
    state = fold(model, {model.graph.node(1).outputs[0]: quantizer, model.graph.inputs[0]: quantizer})
    assert operators(model) == ["Gemm", "Relu"]
    assert state.quantizers == {model.graph.node(0).outputs[0]: quantizer, model.graph.inputs[0]: quantizer}


# Quantized weights: the integers stay

LAYERS = {
    "Conv": ("Conv", (8, 6, 3, 3), 0, (2, 6, 5, 5)),
    "Conv, grouped": ("Conv<group=2>", (8, 3, 3, 3), 0, (2, 6, 5, 5)),
    "Conv, depthwise": ("Conv<group=8>", (8, 1, 3, 3), 0, (2, 8, 5, 5)),
    "Gemm": ("Gemm<alpha=0.5>", (6, 8), 1, (2, 6)),
    "Gemm, transposed": ("Gemm<transB=1>", (8, 6), 0, (2, 6)),
    "ConvTranspose": ("ConvTranspose", (4, 8, 3, 3), 1, (2, 4, 5, 5)),
    "ConvTranspose, depthwise": ("ConvTranspose<group=8>", (8, 1, 3, 3), 0, (2, 8, 5, 5)),
    "ConvTranspose, depthwise in pairs": ("ConvTranspose<group=8>", (16, 1, 3, 3), 0, (2, 16, 5, 5)),
}


def on_lattice(shape, axis, bits, per_channel, seed=3):
    """A weight on a symmetric lattice that uses its outermost integers, and its record."""
    rng, high = np.random.default_rng(seed), 2 ** (bits - 1) - 1
    integers = rng.integers(-high, high + 1, shape)
    integers.flat[:2] = -high, high
    steps = rng.uniform(1e-3, 1e-1, shape[axis] if per_channel else ()).astype(np.float32)
    record = Quantizer(steps, -high, high, axis if per_channel else None)
    return integers, (integers * record.steps_for(shape)).astype(np.float32), record


def quantized_layer(build, operator, weight, x_shape, **parameters):
    sizes = ",".join(map(str, x_shape))
    rank = ",".join("ABCD"[: len(x_shape)])
    return build(
        f"(float[{sizes}] x) => (float[{rank}] z) {{ y = {operator}(x, W, c) {TAIL} }}",
        **{"W": weight, "c": normal(8, seed=2), **norm(8), **parameters},
    )


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8, 11, 16])
@pytest.mark.parametrize("name", LAYERS)
def test_a_quantized_weight_keeps_its_integers(build, evaluate, name, bits, per_channel):
    operator, shape, axis, x_shape = LAYERS[name]
    integers, weight, record = on_lattice(shape, axis, bits, per_channel)
    gamma = norm(8)["gamma"] * np.array([1, -1, 1, 0, -1, 1, 1e-3, -30], np.float32)
    model = quantized_layer(build, operator, weight, x_shape, gamma=gamma)
    x = normal(*x_shape, seed=4)
    (before,) = evaluate(model, x=x)
    state = fold(model, {model.graph.initializers["W"]: record})
    assert state.refusals == {} and len(model.graph) == 1
    (after,) = evaluate(model, x=x)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())

    ((value, new),) = state.quantizers.items()
    assert value.name == "W" and (new.axis, new.low, new.high) == (axis, record.low, record.high)
    signs = np.sign(gamma).astype(int).repeat(shape[axis] // 8)
    expected = integers * signs.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    folded = value.const_value.numpy()
    np.testing.assert_array_equal(new.integers(folded), expected)
    np.testing.assert_array_equal(new.quantize(folded), folded)
    scale = np.abs(gamma) / np.sqrt(norm(8)["var"].astype(float) + 1e-5)
    steps = (record.step * scale.repeat(shape[axis] // 8)).astype(np.float32)
    np.testing.assert_allclose(new.step, np.where(steps == 0, 1, steps), rtol=1e-6)


def test_a_grouped_transposed_convolution_whose_groups_scale_alike(build, evaluate):
    integers, weight, record = on_lattice((4, 4, 3, 3), 1, 4, per_channel=True)
    alike = {name: np.tile(array[:4], 2) for name, array in norm(8).items() if name in ("gamma", "var")}
    alike["gamma"][4:] *= -1
    model = quantized_layer(build, "ConvTranspose<group=2>", weight, (2, 4, 5, 5), **alike)
    x = normal(2, 4, 5, 5)
    (before,) = evaluate(model, x=x)
    state = fold(model, {model.graph.initializers["W"]: record})
    (after,) = evaluate(model, x=x)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())
    ((value, new),) = state.quantizers.items()
    assert new.axis == 1 and new.step.shape == (4,)
    signs = np.array([1, 1, -1, -1]).reshape(4, 1, 1, 1)
    np.testing.assert_array_equal(new.integers(value.const_value.numpy()), signs * integers)
    model = quantized_layer(build, "ConvTranspose<group=2>", weight, (2, 4, 5, 5))
    assert "differ along two dimensions" in refusal(fold(model, {model.graph.initializers["W"]: record}))


def test_a_shared_quantized_weight_keeps_its_record(build):
    _, weight, record = on_lattice((6, 8), 1, 8, per_channel=False)
    text = f"(float[2,6] x) => (float[2,8] z, float[2,8] u) {{ y = Gemm(x, W) u = Gemm(x, W) {TAIL} }}"
    model = build(text, W=weight, **norm(8))
    state = fold(model, {model.graph.initializers["W"]: record})
    records = {value.name: record for value, record in state.quantizers.items()}
    assert records.pop("W") == record and len(records) == 1
    np.testing.assert_array_equal(model.graph.initializers["W"].const_value.numpy(), weight)


def test_float16_holds_eight_bits_and_not_sixteen(build):
    text = f"(float16[2,6] x) => (float16[2,8] z) {{ y = Gemm(x, W) {TAIL} }}"
    for bits, folds in ((8, True), (16, False)):
        integers, _, _ = on_lattice((6, 8), 1, bits, per_channel=False)
        step = np.asarray(2.0**-bits, np.float32)
        record = Quantizer(step, 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
        stored = (integers * step).astype(np.float16)
        model = build(text, W=stored, **norm(8, np.float16))
        state = fold(model, {model.graph.initializers["W"]: record})
        assert (state.refusals == {}) is folds
        if folds:
            ((value, new),) = state.quantizers.items()
            array = value.const_value.numpy()
            assert array.dtype == np.float16
            np.testing.assert_array_equal(new.integers(array.astype(np.float32)), integers)
        else:
            assert "float16 cannot hold its integers" in refusal(state)


def gemm_with_record(build, record, weight=None, **parameters):
    text = f"(float[2,6] x) => (float[2,6] z) {{ y = Gemm(x, W, c) {TAIL} }}"
    weight = record.quantize(normal(6, 6)) if weight is None else weight
    model = build(text, W=weight, c=normal(6), **{**norm(6), **parameters})
    return model, model.graph.initializers["W"]


def test_refuses_a_record_along_the_input_units(build):
    record = Quantizer(np.linspace(0.01, 0.02, 6, dtype=np.float32), -127, 127, axis=0)
    model, weight = gemm_with_record(build, record)
    state = fold(model, {weight: record})
    assert "gemm_0 cannot be scaled" in refusal(state) and "along its input units" in refusal(state)
    assert not state.records[-1].changed and state.quantizers == {weight: record}


def test_a_negative_scale_needs_integers_whose_opposites_are_on_the_lattice(build):
    gamma = np.array([1, 1, -1, 1, 1, 1], np.float32)
    record = Quantizer(np.float32(0.5).reshape(()), -8, 7)
    weight = np.zeros((6, 6), np.float32)
    weight[:, 0] = -4.0  # integer -8, of a channel that is not flipped
    model, value = gemm_with_record(build, record, weight, gamma=gamma)
    assert fold(model, {value: record}).refusals == {}
    weight[0, 2] = -4.0
    model, value = gemm_with_record(build, record, weight, gamma=gamma)
    state = fold(model, {value: record})
    assert "its lattice is not symmetric: -8 to 7" in refusal(state)
    assert not state.records[-1].changed


@pytest.mark.parametrize("quantized", ["c", "y"])
def test_refuses_a_quantized_bias_or_output(build, quantized):
    record = Quantizer(np.float32(0.5).reshape(()), -127, 127)
    model, _ = gemm_with_record(build, record)
    values = {"c": model.graph.initializers["c"], "y": model.graph.node(0).outputs[0]}
    state = fold(model, {values[quantized]: record})
    assert "the bias or the output of gemm_0 is already quantized" in refusal(state)


def test_refuses_steps_that_would_not_be_finite(build):
    record = Quantizer(np.float32(1e38).reshape(()), -1, 1)
    model, weight = gemm_with_record(build, record, np.zeros((6, 6), np.float32), gamma=np.full(6, 1e3, "f4"))
    assert "steps would not be finite" in refusal(fold(model, {weight: record}))


def test_trained_layers_with_batch_norms_run_on_integers(build, evaluate):
    """Conv(DQ) -> BatchNorm -> Relu -> Q/DQ -> Conv(DQ), as trained networks are exported."""
    text = """(float[4,6,9,9] x) => (float[4,5,5,5] z) {
        xq = QuantizeLinear(x, sx, zx) xd = DequantizeLinear(xq, sx, zx)
        V = DequantizeLinear(Vq, sv, zv)
        y = Conv(xd, V) b = BatchNormalization(y, gamma, beta, mean, var) r = Relu(b)
        rq = QuantizeLinear(r, sr, zr) rd = DequantizeLinear(rq, sr, zr)
        W = DequantizeLinear<axis=0>(Wq, sw, zw)
        u = Conv(rd, W) d = BatchNormalization(u, gamma2, beta2, mean2, var2)
        dq = QuantizeLinear(d, sd, zd) z = DequantizeLinear(dq, sd, zd) }"""
    rng = np.random.default_rng(0)
    tensors = {
        **norm(8),
        **norm(5, seed=5, tag="2"),
        **{"sx": np.float32(0.02), "zx": np.uint8(128), "sr": np.float32(0.05), "zr": np.uint8(0)},
        **{"sv": np.float32(0.01), "zv": np.int8(0), "sd": np.float32(0.2), "zd": np.uint8(128)},
        **{"sw": rng.uniform(0.005, 0.02, 5).astype("f4"), "zw": np.zeros(5, np.int8)},
        "Vq": rng.integers(-127, 128, (8, 6, 3, 3)).astype(np.int8),
        "Wq": rng.integers(-7, 8, (5, 8, 3, 3)).astype(np.int8),
    }
    tensors["gamma"][::3] *= -1
    model = build(text, **tensors)
    x = normal(4, 6, 9, 9)
    (before,) = evaluate(model, x=x)
    lowered = lowered_model(model)
    assert "BatchNormalization" not in operators(lowered)
    kernels = [kernel.op_type for kernel in executed_kernels(lowered)]
    assert kernels.count("QLinearConv") == 2 and "Conv" not in kernels
    flips = np.sign(tensors["gamma"]).astype(int).reshape(-1, 1, 1, 1)
    expected = [tensors["Vq"] * flips, tensors["Wq"]]
    found = weight_integers(lowered).values()
    for one, other in zip(found, expected, strict=True):
        finer = np.abs(one).max() // np.abs(other).max()  # few bits are spread, for the bias' sake
        np.testing.assert_array_equal(one, other * finer)
    after = run(open_session(lowered), {"x": x})["z"]
    assert np.abs(after - before).max() <= 0.2 * 1.001  # one step of the output
    assert (after != before).mean() < 0.02


def lowered_model(model):
    """What getac.lower writes for a model in memory."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lowered.onnx"
        getac.lower(model, path, bench=False, sparsity=0.0)
        return ir.serde.deserialize_model(onnx.load(path))


# Refusals


def refusal(state):
    (only,) = state.refusals["fold-batch-norm"]
    assert only.where
    return only.reason


TAIL = "z = BatchNormalization(y, gamma, beta, mean, var)"
REFUSED = {
    "after Concat": (
        f"(float[2,3] x) => (float[2,6] z) {{ y = Concat<axis=1>(x, x) {TAIL} }}",
        "follows Concat",
    ),
    "of the input": (f"(float[2,6] y) => (float[2,6] z) {{ {TAIL} }}", "follows a graph input"),
    "of a layer of another domain": (
        f"(float[2,6] x) => (float[2,6] z) {{ y = com.microsoft.Gemm(x, W) {TAIL} }}",
        "follows Gemm",
    ),
    "used twice": (
        f"(float[2,6] x) => (float[2,6] z, float[2,6] w) {{ y = Gemm(x, W) {TAIL} w = Relu(y) }}",
        "output of gemm_0 is also used elsewhere",
    ),
    "an output too": (
        f"(float[2,6] x) => (float[2,6] z, float[2,6] y) {{ y = Gemm(x, W) {TAIL} }}",
        "output of gemm_0 is also used elsewhere",
    ),
    "weight computed": (
        f"(float[2,6] x) => (float[2,6] z) {{ V = Relu(W) y = Gemm(x, V) {TAIL} }}",
        "computed when the graph runs",
    ),
    "scale computed": (
        """(float[2,6] x) => (float[2,6] z)
        { s = Relu(gamma) y = Gemm(x, W) z = BatchNormalization(y, s, beta, mean, var) }""",
        "computed when the graph runs",
    ),
    "training": (
        """(float[2,6] x) => (float[2,6] z) { y = Gemm(x, W)
        z = BatchNormalization<training_mode=1>(y, gamma, beta, mean, var) }""",
        "training mode",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(build, case):
    text, reason = REFUSED[case]
    model = build(text, W=normal(6, 6), **norm(6))
    before = operators(model)
    state = fold(model)
    assert reason in refusal(state)
    assert operators(model) == before
    assert not state.records[-1].changed


def test_refuses_numbers_that_would_not_be_finite(build):
    text = f"(float[2,6] x) => (float[2,6] z) {{ y = Gemm(x, W) {TAIL} }}"
    tensors = norm(6) | {"var": np.full(6, -1, np.float32)}
    state = fold(build(text, W=normal(6, 6), **tensors))
    assert "gemm_0 would not be finite" in refusal(state)


def test_refuses_a_weight_that_float16_cannot_hold(build):
    text = f"(float16[2,6] x) => (float16[2,6] z) {{ y = Gemm(x, W) {TAIL} }}"
    tensors = norm(6, np.float16) | {"gamma": np.full(6, 60000, np.float16)}
    state = fold(build(text, W=np.full((6, 6), 100, np.float16), **tensors))
    assert "would not be finite" in refusal(state)
    assert not state.records[-1].changed
