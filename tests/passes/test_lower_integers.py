"""lower-integers: the forms that onnxruntime fuses, and the same numbers as the lattice says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import getac
from getac.data.calibration import CalibrationData
from getac.executed import executed_kernels
from getac.onnx_graph.edit import array_of
from getac.onnx_graph.read import load
from getac.onnx_graph.signature import signature_of
from getac.passes import (
    Calibrate,
    FoldQuantizers,
    LowerIntegers,
    QuantizeWeights,
    RemoveDead,
    StoreWeights,
    analysis_passes,
)
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer
from getac.runtime import open_session, run
from tools.onnx_text import model_of

F32 = np.float32


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def lowered(model, x, weight_bits=8, activation_bits=8, records=None):
    data = CalibrationData.open({"x": x}, signature_of(model))
    state = State(model, facts={Fact.QUANTIZERS_FOLDED}, calibration=data)
    values = {value.name: value for node in model.graph for value in (*node.inputs, *node.outputs) if value}
    state.quantizers.update({values[name]: record for name, record in (records or {}).items()})
    passes = (QuantizeWeights(weight_bits), Calibrate(bits=activation_bits), LowerIntegers(), RemoveDead())
    Pipeline(passes).run(state)
    return state


def array(model, name):
    return model.graph.initializers[name].const_value.numpy()


def operators(model):
    return [node.op_type for node in model.graph]


def executed(model):
    return [node.op_type for node in executed_kernels(model)]


CONV = """(float[N,4,8,8] x) => (float[N,6,6,6] y) {
    a = Conv(x, w, b)
    y = Relu(a)
}"""


@pytest.fixture
def conv(build):
    return build(CONV, w=normal(6, 4, 3, 3), b=normal(6, seed=1))


def test_a_convolution_is_a_pair_on_each_side(conv):
    x = normal(8, 4, 8, 8)
    lowered(conv, x)
    pair = ["QuantizeLinear", "DequantizeLinear"]
    assert operators(conv) == [*pair, "DequantizeLinear", "DequantizeLinear", "Conv", *pair]
    assert conv.graph.outputs[0].name == "y" and "Relu" not in operators(conv)
    kinds = {name: value.const_value.numpy().dtype.name for name, value in conv.graph.initializers.items()}
    assert (kinds["w.int"], kinds["b.int"]) == ("int8", "int32")
    assert (kinds["x.zero_point"], kinds["y.zero_point"]) == ("uint8", "uint8")
    assert array(conv, "y.zero_point") == 0
    np.testing.assert_array_equal(array(conv, "b.scale"), array(conv, "x.scale") * array(conv, "w.scale"))
    assert "b.zero_point" not in kinds  # of INT32 it is 0
    assert "QLinearConv" in executed(conv) and not {"Conv", "FusedConv"} & set(executed(conv))


def test_the_integers_are_those_of_the_records(conv):
    weight = normal(6, 4, 3, 3)
    record = Quantizer.symmetric(np.abs(weight).max(axis=(1, 2, 3)), 5, 0)
    lowered(conv, normal(8, 4, 8, 8), records={"w": record})
    spread = record.integers(weight) * 4  # over half of INT8, so that the bias is rounded less
    np.testing.assert_array_equal(array(conv, "w.int"), spread)
    assert np.abs(spread).max() == 60
    scale = array(conv, "b.scale").astype(np.float64)
    np.testing.assert_array_equal(array(conv, "b.int"), np.rint(normal(6, seed=1) / scale))


def test_without_a_bias_the_integers_stay_as_few(build):
    """Nothing is rounded to the step of the product; a head that is tied to a table keeps its integers."""
    weight = normal(6, 4)
    record = Quantizer.symmetric(np.abs(weight).max(axis=1), 5, 0)
    model = build("(float[N,4] x) => (float[N,6] y) { y = Gemm<transB=1>(x, w) }", w=weight)
    lowered(model, normal(8, 4), records={"w": record})
    np.testing.assert_array_equal(array(model, "w.int"), record.integers(weight))
    np.testing.assert_array_equal(array(model, "w.scale"), record.step)
    assert executed(model) == ["QuantizeLinear", "QGemm"]


def test_integer_kernels_compute_what_the_graph_says(conv):
    x = normal(8, 4, 8, 8)
    before = run(open_session(conv), {"x": x})["y"]
    lowered(conv, x)
    plain, fast = (run(open_session(conv, optimize=o), {"x": x})["y"] for o in (False, True))
    step = float(array(conv, "y.scale"))
    assert np.abs(plain - fast).max() <= 1.001 * step
    assert 10 * np.log10((before**2).sum() / ((before - fast) ** 2).sum()) > 35


def test_fewer_bits_are_an_integer_clip(conv):
    lowered(conv, normal(8, 4, 8, 8), activation_bits=4)
    assert operators(conv).count("Clip") == 2
    assert (array(conv, "x.least"), array(conv, "x.greatest")) == (0, 15)
    assert array(conv, "x.greatest").dtype == np.uint8
    assert "QLinearConv" in executed(conv) and "Conv" not in executed(conv)


@pytest.mark.parametrize("attributes", ["", "transB=1", "alpha=0.5, beta=2.0", "alpha=-1.5"])
def test_a_gemm_in_normal_form_with_a_float_output(build, attributes):
    weight = normal(6, 4) if attributes == "transB=1" else normal(4, 6)
    model = build(
        f"(float[N,4] x) => (float[N,6] y) {{ y = Gemm<{attributes}>(x, w, b) }}".replace("<>", ""),
        w=weight,
        b=normal(6),
    )
    x = normal(9, 4)
    before = run(open_session(model), {"x": x})["y"]
    lowered(model, x)
    assert operators(model)[-1] == "Gemm" and operators(model).count("QuantizeLinear") == 1
    assert executed(model) == ["QuantizeLinear", "QGemm"]
    after = run(open_session(model), {"x": x})["y"]
    assert 10 * np.log10((before**2).sum() / ((before - after) ** 2).sum()) > 35


def test_a_matmul_without_bias(build):
    model = build("(float[N,3,8] x) => (float[N,3,6] y) { y = MatMul(x, w) }", w=normal(8, 6))
    lowered(model, normal(9, 3, 8))
    dequantize = next(node for node in model.graph if node.inputs[0].name == "w.int")
    assert dequantize.attributes["axis"].value == 1
    assert "MatMulIntegerToFloat" in executed(model)


def test_consumers_share_one_pair(build):
    model = build(
        "(float[N,4,8,8] x) => (float[N,4,8,8] y) { a = Conv(x, v) \n b = Conv(x, w) \n y = Add(a, b) }",
        v=normal(4, 4, 1, 1),
        w=normal(4, 4, 1, 1, seed=1),
    )
    lowered(model, normal(8, 4, 8, 8))
    readers = [user for user, _ in next(n for n in model.graph if n.name == "x.dq").outputs[0].uses()]
    assert sorted(node.op_type for node in readers) == ["Conv", "Conv"]
    assert operators(model).count("QuantizeLinear") == 3  # x, a, b; the sum is not read by integers


def test_a_float_layer_behind_integers_gets_a_barrier_and_a_reason(build):
    model = build(
        """(float[N,4,8,8] x) => (float[N,4,16,16] y) {
            a = Conv(x, v)
            y = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(a, w)
        }""",
        v=normal(4, 4, 1, 1),
        w=normal(4, 4, 2, 2),
    )
    state = lowered(model, normal(8, 4, 8, 8))
    assert operators(model)[-2:] == ["Sum", "ConvTranspose"]
    (refusal,) = state.refusals["lower-integers"]
    assert refusal.where == "convtranspose_1" and "ConvTranspose" in refusal.reason
    Pipeline([StoreWeights()]).run(state)
    assert "Cast" in operators(model)


def test_a_step_grows_where_the_bias_would_overflow(build):
    weight = normal(3, 4)
    weight[0], weight[1] = 0, 1e-30
    model = build(
        "(float[N,4] x) => (float[N,3] y) { y = Gemm<transB=1>(x, w, b) }",
        w=weight,
        b=np.array([5, 7, 1], F32),
    )
    x = normal(9, 4)
    lowered(model, x)
    integers = array(model, "b.int").astype(np.int64)
    assert np.abs(integers).max() <= 2**30 + 2**7
    restored = integers * array(model, "b.scale").astype(np.float64)
    np.testing.assert_allclose(restored[:2], [5, 7], rtol=1e-6)
    np.testing.assert_allclose(run(open_session(model), {"x": x})["y"][:, :2], [[5, 7]] * 9, rtol=1e-5)


def test_a_step_for_the_whole_tensor_is_repeated(conv):
    record = Quantizer(np.asarray(0.02, F32), -127, 127)
    lowered(conv, normal(8, 4, 8, 8), records={"w": record})
    np.testing.assert_array_equal(array(conv, "w.scale"), np.full(6, 0.02, F32))


def test_a_shared_weight_is_stored_for_each_reader(build):
    weight = normal(4, 4)
    model = build("(float[N,4] x) => (float[N,4] y) { a = Gemm(x, w) \n y = Gemm(a, w) }", w=weight)
    x = normal(9, 4)
    lowered(model, x)
    after = run(open_session(model), {"x": x})["y"]
    assert executed(model).count("QGemm") == 2
    expected = x @ weight @ weight
    assert 10 * np.log10((expected**2).sum() / ((expected - after) ** 2).sum()) > 30


def test_a_product_of_matrices_in_front_of_a_sum_stays_an_integer_kernel(build):
    """onnxruntime makes a Gemm of floats of MatMul and Add before it looks for integers."""
    model = build(
        """(float[N,4] x) => (float[N,4] y) {
            a = MatMul(x, w)
            y = Add(a, x)
        }""",
        w=normal(4, 4),
    )
    expected = run(open_session(model), {"x": normal(9, 4)})["y"]
    lowered(model, normal(9, 4))
    assert "QGemm" in executed(model) and "MatMul" not in operators(model)
    after = run(open_session(model), {"x": normal(9, 4)})["y"]
    assert 10 * np.log10((expected**2).sum() / ((expected - after) ** 2).sum()) > 30


def test_two_quantizers_with_a_relu_between_them_stay_two(build):
    """onnxruntime drops the Relu in front of an unsigned quantizer, then the first of two pairs in a row."""
    text = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {
        a = Conv(x, v)
        r = Relu(a)
        c = Conv(r, w)
        y = Add(a, c)
    }"""
    model = build(text, v=normal(4, 4, 1, 1), w=normal(4, 4, 1, 1, seed=1))
    x = normal(8, 4, 8, 8)
    state = lowered(model, x, records={"a": Quantizer(np.asarray(0.05, F32), -20, 20)})
    as_written = run(open_session(model, optimize=False), {"x": x})["y"]
    assert np.abs(run(open_session(model), {"x": x})["y"] - as_written).max() < 0.2
    assert executed(model).count("QLinearConv") == 2
    assert not state.quantizers.keys() & {value for node in model.graph for value in node.outputs}


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_a_product_in_front_of_a_transposition_stays_an_integer_kernel(build, operator):
    """onnxruntime turns the factors round instead, before it looks for integers."""
    text = f"(float[N,4] x) => (float[3,N] y) {{ a = {operator}(x, w) \n y = Transpose<perm=[1,0]>(a) }}"
    model = build(text, w=normal(4, 3))
    lowered(model, normal(9, 4))
    assert "QGemm" in executed(model) and "Gemm" not in executed(model)


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-0.3, 0.17), (0.0, 6.0)])
def test_a_clip_is_absorbed_by_the_quantizer_calibrated_behind_it(build, bounds):
    """The lattice has a point at zero, so its ends are up to half a step away from the bounds."""
    model = build(
        CONV.replace("Relu(a)", "Clip(a, least, greatest)"),
        w=normal(6, 4, 3, 3),
        b=normal(6, seed=1),
        least=F32(bounds[0]),
        greatest=F32(bounds[1]),
    )
    x = normal(8, 4, 8, 8)
    before = run(open_session(model), {"x": x})["y"]
    lowered(model, x)
    assert "Clip" not in operators(model) and "QLinearConv" in executed(model)
    after = run(open_session(model), {"x": x})["y"]
    assert 10 * np.log10((before**2).sum() / ((before - after) ** 2).sum()) > 25


def test_layers_of_one_weight_store_it_once(build):
    text = "(float[N,4] x) => (float[N,4] y) { a = Gemm(x, w) \n b = Relu(a) \n y = Gemm(b, w) }"
    model = build(text, w=normal(4, 4))
    x = normal(16, 4, seed=1)
    expected = run(open_session(model), {"x": x})["y"]
    found = lowered(model, x).model
    assert [value.dtype.name for value in found.graph.initializers.values()].count("INT8") == 2  # w, zeros
    result = run(open_session(found), {"x": x})["y"]
    assert np.abs(result - expected).max() < 0.05 * np.abs(expected).max()
    assert executed(found).count("QGemm") == 2


def test_few_bits_that_a_file_stores_as_int8_leave_the_bias_its_precision():
    rng = np.random.default_rng(0)
    body = "xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)  wd = DequantizeLinear(w, t, o)"
    tensors = {
        "s": np.asarray(0.5, np.float32),
        "z": np.asarray(128, np.uint8),
        "w": rng.integers(-1, 2, (4, 3, 1, 1)).astype(np.int8),
        "t": np.asarray(0.9, np.float32),
        "o": np.asarray(0, np.int8),
        "b": rng.normal(size=4).astype(np.float32),
    }
    tail = "c = Conv(xd, wd, b)  yq = QuantizeLinear(c, s, z)  y = DequantizeLinear(yq, s, z)"
    model = model_of(f"{body}  {tail}", {"x": [2, 3, 4, 4]}, tensors)
    state = State(load(model))
    Pipeline([*analysis_passes(), QuantizeWeights(), Calibrate(), LowerIntegers()]).run(state)
    conv = next(node for node in state.model.graph if node.op_type == "Conv")
    bias = conv.inputs[2].producer()
    step = np.max(array_of(bias.inputs[1]))
    assert step <= 0.5 * 0.9 / 32
    integers = array_of(bias.inputs[0]).astype(np.float64)
    assert np.abs(integers * array_of(bias.inputs[1]) - tensors["b"]).max() <= step / 2 * (1 + 1e-6)


FAKE_QUANTIZED = """
    xq = QuantizeLinear(x, s, z)
    xc = Clip(xq, least, greatest)
    xd = DequantizeLinear(xc, s, z)
    wd = DequantizeLinear<axis=0>(w, t, o)
"""


def few_bits(layer, outputs, bits, shape, weight_shape, seed=0):
    """A layer between quantizers of so many bits, with a bias in floats."""
    rng = np.random.default_rng(seed)
    top = max(2 ** (bits - 1) - 1, 1)
    tensors = {
        "s": np.asarray(0.5, F32),
        "z": np.asarray(0, np.uint8),
        "least": np.asarray(0, np.uint8),
        "greatest": np.asarray(2**bits - 1, np.uint8),
        "w": rng.integers(-top, top + 1, weight_shape).astype(np.int8),
        "t": rng.uniform(0.05, 0.09, weight_shape[0]).astype(F32),
        "o": np.zeros(weight_shape[0], np.int8),
        "b": rng.normal(size=weight_shape[0]).astype(F32),
    }
    text = f"{FAKE_QUANTIZED} {layer} {outputs}"
    return model_of(text, {"x": shape}, tensors)


def passed(model):
    state = State(load(model))
    Pipeline([*analysis_passes(), QuantizeWeights(), Calibrate(), LowerIntegers(), StoreWeights()]).run(state)
    return state


OUTPUTS = "r = Relu(h)  yq = QuantizeLinear(r, s, z)  yc = Clip(yq, least, greatest)"
OUTPUTS += "  y = DequantizeLinear(yc, s, z)"


@pytest.mark.parametrize("bits", [2, 4])
def test_a_gemm_of_few_bits_adds_its_bias_in_floats(bits):
    """Rounded to INT32, it would send some of the results to another level than the model does."""
    model = few_bits("h = Gemm<transB=1>(xd, wd, b)", OUTPUTS, bits, [64, 16], (8, 16))
    x = np.abs(normal(64, 16)) * 2
    wanted = run(open_session(load(model), optimize=False), {"x": x})["y"]
    found = passed(model).model
    assert [node.op_type for node in found.graph].count("Add") == 1
    np.testing.assert_array_equal(run(open_session(found), {"x": x})["y"], wanted)
    assert "QGemm" in executed(found) and "Gemm" not in executed(found)
    np.testing.assert_array_equal(array(found, "b"), model_bias(model))


def model_bias(model):
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "b")


CONVOLUTION = "h = Conv<pads=[1,1,1,1]>(xd, wd, b)"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_convolution_of_few_bits_rounds_as_the_model_does(bits, seed):
    """Its bias lies between multiples of the step of INT32, and the weights' step gives way."""
    model = few_bits(CONVOLUTION, OUTPUTS, bits, [8, 4, 6, 6], (6, 4, 3, 3), seed)
    x = np.abs(normal(8, 4, 6, 6, seed=seed)) * 2**bits / 4
    wanted = run(open_session(load(model), optimize=False), {"x": x})["y"]
    found = passed(model).model
    np.testing.assert_array_equal(run(open_session(found), {"x": x})["y"], wanted)
    assert "QLinearConv" in executed(found) and "Conv" not in executed(found)
    assert "Mul" not in executed(found)


def eight_bit_weights(seed=0, more=""):
    """Of 8 bits, which leave no room for finer steps, between activations of 4 bits; and another reader."""
    outputs = OUTPUTS.replace("s, z", "u, z")
    model = few_bits(CONVOLUTION, f"{outputs} {more}", 4, [8, 4, 6, 6], (6, 4, 3, 3), seed)
    rng = np.random.default_rng(seed)
    numbers = {
        "w": rng.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8),
        "t": rng.uniform(0.003, 0.006, 6).astype(F32),
        "u": np.asarray(0.7, F32),
    }
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in numbers]
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        [*kept, *(numpy_helper.from_array(array, name) for name, array in numbers.items())]
    )
    return model


@pytest.mark.parametrize("seed", range(3))
def test_a_convolution_without_room_reads_its_input_in_finer_steps(seed):
    model = eight_bit_weights(seed)
    x = np.abs(normal(8, 4, 6, 6, seed=seed)) * 4
    wanted = run(open_session(load(model), optimize=False), {"x": x})["y"]
    found = passed(model).model
    off = np.abs(run(open_session(found), {"x": x})["y"] - wanted)
    assert off.max() < 0.71 and (off > 0.01).mean() < 0.001
    kernels = executed(found)
    assert kernels.count("QLinearConv") == 1 and kernels.count("Mul") == 1 and "Conv" not in kernels


def test_what_else_reads_that_input_does_not(tmp_path):
    """A sum reads the integers as they are."""
    model = eight_bit_weights(more="a = Add(xd, xd)")
    model.graph.output.append(onnx.helper.make_tensor_value_info("a", 1, [8, 4, 6, 6]))
    found = passed(model).model
    steps = {
        node.op_type: float(array_of(node.inputs[0].producer().inputs[1]))
        for node in found.graph
        if node.op_type in ("Add", "Conv")
    }
    assert steps["Add"] == 0.5 and steps["Conv"] in [F32(0.5) / F32(k) for k in range(2, 9)]


@pytest.mark.parametrize(
    "produce", [eight_bit_weights, lambda: few_bits(CONVOLUTION, OUTPUTS, 4, [8, 4, 6, 6], (6, 4, 3, 3))]
)
def test_lowered_again_it_stays_what_it_is(produce, tmp_path):
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    x = {"x": np.abs(normal(8, 4, 6, 6)) * 4}
    getac.lower(produce(), first, bench=False)
    report = getac.lower(first, second, bench=False)
    assert [row.kernel for row in report.layers] == ["integer (QLinearConv)"]
    assert [row.activation_bits for row in report.layers] == [4]
    one, other = (run(open_session(path), x)["y"] for path in (first, second))
    np.testing.assert_array_equal(other, one)
    kernels = [sorted(node.op_type for node in executed_kernels(path)) for path in (first, second)]
    assert kernels[0] == kernels[1]


def two_convolutions():
    """With weights of 8 bits and activations of 4, so that both read their inputs in finer steps."""
    second = """
        rd = DequantizeLinear(yc, u, z)  vd = DequantizeLinear(v, vs, vz)  g = Conv(rd, vd, c)
        p = Relu(g)  pq = QuantizeLinear(p, vu, z)  pc = Clip(pq, least, greatest)
    """
    model = eight_bit_weights(more=f"{second} k = DequantizeLinear(pc, vu, z)")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("k", 1, [8, 4, 6, 6]))
    rng = np.random.default_rng(1)
    numbers = {
        "v": rng.integers(-127, 128, (4, 6, 1, 1)).astype(np.int8),
        "vs": np.asarray(0.003, F32),
        "vz": np.asarray(0, np.int8),
        "vu": np.asarray(0.31, F32),
        "c": rng.normal(size=4).astype(F32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in numbers.items())
    return model


def test_a_lowered_file_loses_units(tmp_path):
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    getac.lower(two_convolutions(), first, bench=False)
    assert [node.op_type for node in executed_kernels(first)].count("Mul") == 2
    report = getac.lower(first, second, sparsity=0.3, align=1, bench=False)
    assert report.units_removed >= 1 and {row.kernel for row in report.layers} == {"integer (QLinearConv)"}
    assert max(each.relative for each in report.verification.sliced) < 1e-4
    assert {row.activation_bits for row in report.layers} == {4}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("operator", "along"), [("MatMul", ""), ("Gemm", "<transB=1>")])
def test_blocks_of_weights_stay_in_floats(operator, along, axis):
    """Kernels for integers take a step per output unit; blocks lie along the inputs or along the units."""
    rng = np.random.default_rng(0)
    tensors = {
        "s": np.asarray(0.05, F32),
        "z": np.asarray(120, np.uint8),
        "w": rng.integers(-8, 8, (16, 16)).astype(np.int8),
        "t": rng.uniform(0.01, 0.02, (2, 16) if axis == 0 else (16, 2)).astype(F32),
    }
    body = f"""
        xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear<axis={axis}, block_size=8>(w, t)
        h = {operator}{along}(xd, wd)  yq = QuantizeLinear(h, s, z)  y = DequantizeLinear(yq, s, z)
    """
    model = model_of(body, {"x": [4, 16]}, tensors)
    x = normal(4, 16)
    wanted = run(open_session(load(model), optimize=False), {"x": x})["y"]
    state = passed(model)
    (refusal,) = state.refusals["lower-integers"]
    assert refusal.reason == "its weight has a scale per block of 8"
    np.testing.assert_allclose(run(open_session(state.model), {"x": x})["y"], wanted, atol=1e-5)


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_zero_points_that_differ_between_units_stay_on_integers(operator):
    """UINT8 with a zero point per unit: INT8 with others, which kernels take as they take zeros."""
    rng = np.random.default_rng(0)
    axis = 0 if operator == "Gemm" else 1
    tensors = {
        "s": np.asarray(0.05, F32),
        "z": np.asarray(120, np.uint8),
        "w": rng.integers(0, 256, (16, 16)).astype(np.uint8),
        "t": rng.uniform(0.01, 0.02, 16).astype(F32),
        "o": rng.integers(80, 180, 16).astype(np.uint8),
    }
    along = "<transB=1>" if operator == "Gemm" else ""
    body = f"""
        xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear<axis={axis}>(w, t, o)  y = {operator}{along}(xd, wd)
    """
    model = model_of(body, {"x": [4, 16]}, tensors)
    x = normal(4, 16)
    wanted = run(open_session(load(model), optimize=False), {"x": x})["y"]
    state = passed(model)
    assert not state.refusals.get("lower-integers")
    assert executed(state.model) == ["QuantizeLinear", "QGemm"]
    kinds = {value.dtype.name for value in state.model.graph.initializers.values()}
    assert "INT8" in kinds and "INT16" not in kinds
    np.testing.assert_allclose(run(open_session(state.model), {"x": x})["y"], wanted, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("zeros", ["one", "each"])
def test_a_file_of_eight_bits_does_not_grow(tmp_path, dtype, zeros):
    rng, size = np.random.default_rng(0), 256
    tensors = {
        "s": np.asarray(0.05, dtype),
        "z": np.asarray(120, np.uint8),
        "w": rng.integers(0, 256, (size, size)).astype(np.uint8),
        "t": rng.uniform(0.001, 0.002, size).astype(dtype),
        "o": rng.integers(100, 150, size).astype(np.uint8)
        if zeros == "each"
        else np.full(size, 128, np.uint8),
    }
    kind = 1 if dtype == np.float32 else 10
    body = f"""
        h = Cast<to={kind}>(x)  xq = QuantizeLinear(h, s, z)  xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear<axis=1>(w, t, o)  p = MatMul(xd, wd)  y = Cast<to=1>(p)
    """
    model, path = model_of(body, {"x": [4, size]}, tensors), tmp_path / "lowered.onnx"
    getac.lower(model, path, bench=False)
    assert path.stat().st_size < 1.02 * model.ByteSize()


@pytest.mark.parametrize("scale", ["computed", "given"])
def test_a_scale_that_is_not_stored_is_another_one(build, scale):
    """Behind a pair: onnxruntime must not merge the two, and nothing can be compared."""
    made = "m = ReduceMax<keepdims=0>(a)  t = Div(m, n)" if scale == "computed" else "t = Identity(u)"
    text = f"""(float[2,4] x, float u) => (float[2,6] a, float[2,6] y) {{
        a = Gemm(x, w)  {made}  q = QuantizeLinear(a, t, z)  y = DequantizeLinear(q, t, z) }}"""
    model = build(text, w=normal(4, 6), n=np.float32(255), z=np.uint8(128))
    lattice = Quantizer(np.asarray(0.05, F32), -128, 127)
    state = State(model, facts={Fact.CALIBRATED})
    values = {value.name: value for node in model.graph for value in (*node.inputs, *node.outputs) if value}
    state.quantizers |= {values["x"]: lattice, values["a"]: lattice}
    Pipeline([FoldQuantizers(), QuantizeWeights(), LowerIntegers(), RemoveDead()]).run(state)
    feeds = {"x": normal(2, 4, seed=3), "u": np.asarray(0.07, F32)}
    expected = run(open_session(model, optimize=False), feeds)
    for name, found in run(open_session(model), feeds).items():
        np.testing.assert_allclose(found, expected[name], atol=1e-5)
