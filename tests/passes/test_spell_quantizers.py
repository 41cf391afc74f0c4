"""spell-quantizers: the numbers of training, to the last bit, in operators that every tool knows."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from getac.errors import InvalidModelError, UnsupportedModelError
from getac.onnx_graph.fake_quantizer import read_fake_quantizer
from getac.onnx_graph.read import read_proto
from getac.passes import FoldQuantizers, RemoveDead, SpellQuantizers
from getac.pipeline import Pipeline, State

F32 = np.float32
CHANNELS = 5


def levels(bits, signed):
    return 2 ** (bits - 1) - 1 if signed else 2**bits - 1


def formula(x, d, q_m, t, signed, least_bits, most_bits, axis=None):
    """Equations (1) to (3) of arXiv 2502.16638 with d inside its bounds, in float32."""
    q = q_m if t == 1 else np.power(q_m, F32(t))
    step = np.clip(d, q / F32(levels(most_bits, signed)), q / F32(levels(least_bits, signed)))
    high = int(np.max(np.rint(q / step)))
    if axis is not None:
        step, q_m = (one.reshape([-1 if i == axis else 1 for i in range(x.ndim)]) for one in (step, q_m))
    x = x if signed else np.maximum(x, F32(0))
    cut = np.minimum(np.abs(x), q_m)
    powers = cut if t == 1 else np.power(cut, F32(t))
    return (np.sign(x) * (step * np.rint(powers / step))).astype(F32), high


def parameters(bits, signed, channels=None, t=1.0, seed=0, q_m=None):
    """d and q_m of a quantizer with this number of bits; steps of all kinds, no powers of two."""
    rng = np.random.default_rng(seed)
    q_m = F32(rng.uniform(0.5, 3, channels or ())) if q_m is None else F32(q_m)
    return {"d": F32(np.power(q_m, F32(t)) / F32(levels(bits, signed))), "q_m": np.asarray(q_m), "t": F32(t)}


def adversarial(d, q_m, shape, seed=1):
    """Random numbers, ties and their neighbours, zeros, bounds, and what is far beyond."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1.5, shape).astype(F32)
    d, q_m = float(np.max(d)), float(np.max(q_m))
    ties = F32((rng.integers(-200, 200, 64) + 0.5) * d)
    special = [ties, np.nextafter(ties, F32(9)), np.nextafter(ties, F32(-9)), F32([0, -0.0, q_m, -q_m])]
    special += [F32([1e30, -1e30, 3e38, -3e38, 1e-38, -1e-45]), F32(rng.integers(-9, 9, 32) * d)]
    flat = np.concatenate(special)
    x.reshape(-1)[: flat.size] = flat
    return x


def fake_quantize(shape, tensors, *, x=None, dtype=np.float32, axis=None, signed=True, bits=(2.0, 16.0)):
    """A model with one node; x is stored where it is given."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    attributes = {"signed": int(signed), "least_bits": bits[0], "most_bits": bits[1]}
    attributes |= {} if axis is None else {"axis": axis}
    node = helper.make_node(
        "FakeQuantize", ["x", "d", "q_m", "t"], ["y"], "quantizer", domain="getac", **attributes
    )
    stored = {**tensors, **({} if x is None else {"x": x})}
    graph = helper.make_graph(
        [node, *([] if x is None else [helper.make_node("Add", ["i", "y"], ["z"], "add")])],
        "graph",
        [helper.make_tensor_value_info("x" if x is None else "i", kind, shape)],
        [helper.make_tensor_value_info("y" if x is None else "z", kind, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("getac", 1)]
    return ir.serde.deserialize_model(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def spelled(model):
    Pipeline([SpellQuantizers()]).run(State(model))
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == 21
    assert not any(node.op_type == "FakeQuantize" for node in proto.graph.node)
    assert not {"d", "q_m", "t"} & {tensor.name for tensor in proto.graph.initializer}
    return proto


def outputs(proto, optimize, **feeds):
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def fold(proto):
    return Pipeline([FoldQuantizers(), RemoveDead()]).run(State(read_proto(proto)))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("signed", [True, False])
def test_activations_are_those_of_training(signed, bits, per_channel):
    shape, axis = (4, CHANNELS, 7, 9), 1 if per_channel else None
    tensors = parameters(bits, signed, CHANNELS if per_channel else None)
    x = adversarial(tensors["d"], tensors["q_m"], shape)
    model = fake_quantize(shape, tensors, axis=axis, signed=signed)
    proto = spelled(model)
    expected, high = formula(x, **tensors, signed=signed, least_bits=2, most_bits=16, axis=axis)
    for optimize in (False, True):
        np.testing.assert_array_equal(outputs(proto, optimize, x=x), expected)
    state = fold(proto)
    if per_channel:
        assert "scale per channel" in state.refusals["fold-quantizers"][0].reason
    else:
        (record,) = state.quantizers.values()
        assert (record.low, record.high) == (-high if signed else 0, high) and record.bits <= 16


@pytest.mark.parametrize(
    ("bits", "signed", "dtype", "zero"),
    [
        (8, True, np.uint8, 128),
        (3, True, np.uint8, 128),
        (8, False, np.uint8, 0),
        (9, True, np.int16, 0),
        (16, False, np.uint16, 0),
    ],
)
def test_activations_are_no_int8(bits, signed, dtype, zero):
    """onnxruntime rewrites INT8 activations, and fails on some graphs where it does."""
    proto = spelled(fake_quantize((4, 6), parameters(bits, signed), signed=signed))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert stored["x.zero_point"].dtype == dtype and stored["x.zero_point"] == zero
    if dtype == np.uint8 and signed:
        top = levels(bits, signed)
        assert (stored["x.least"], stored["x.greatest"]) == (128 - top, 128 + top)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize(("signed", "t"), [(True, 1.0), (True, 0.7), (True, 1.9), (False, 1.0), (False, 1.3)])
def test_weights_are_those_of_training(signed, t, bits, per_channel):
    shape, axis = (6, CHANNELS, 8, 3), 1 if per_channel else None
    tensors = parameters(bits, signed, CHANNELS if per_channel else None, t)
    x = adversarial(tensors["d"], tensors["q_m"], shape)
    i = np.zeros(shape, F32)
    proto = spelled(fake_quantize(shape, tensors, x=x, axis=axis, signed=signed))
    expected, high = formula(x, **tensors, signed=signed, least_bits=2, most_bits=16, axis=axis)
    for optimize in (False, True):
        np.testing.assert_array_equal(outputs(proto, optimize, i=i), expected)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert "x" not in stored
    top = 127 if signed else 255
    assert stored["x.int"].dtype.itemsize == (1 if high <= top else 2)
    assert ("Clip" in operators(proto)) == (high not in ((127, 32767) if signed else (255, 65535)))
    (record,) = fold(proto).quantizers.values()
    assert record.high == high and record.axis == axis


@pytest.mark.parametrize(("signed", "most"), [(True, 127), (False, 255)])
def test_the_bounds_of_the_bits_hold_the_step(signed, most):
    tensors = parameters(8, signed)
    x = adversarial(tensors["d"], tensors["q_m"], (40, 20))
    for d, bits, high in (
        (1e-9, (2.0, 8.0), most),
        (1e9, (4.0, 8.0), levels(4, signed)),
        (1, (8.0, 8.0), most),
    ):
        given = {**tensors, "d": F32(d)}
        proto = spelled(fake_quantize((40, 20), given, signed=signed, bits=bits))
        expected, found = formula(x, **given, signed=signed, least_bits=bits[0], most_bits=bits[1])
        assert found == high
        np.testing.assert_array_equal(outputs(proto, False, x=x), expected)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [(2.0, 16.0), (4.0, 4.0), (3.5, 8.0)])
@pytest.mark.parametrize("signed", [True, False])
def test_weights_are_those_of_the_kernel_that_trains(signed, bits, per_channel):
    torch = pytest.importorskip("torch")
    kernel = pytest.importorskip("getac.kernels.fake_quantize").fake_quantize
    axis = 1 if per_channel else None
    for t in (1.0, 0.6, 1.7):
        tensors = parameters(6, signed, CHANNELS if per_channel else None, t)
        x = adversarial(tensors["d"], tensors["q_m"], (4, CHANNELS, 8, 8))
        proto = spelled(fake_quantize(x.shape, tensors, x=x, axis=axis, signed=signed, bits=bits))
        found = outputs(proto, False, i=np.zeros_like(x))
        arrays = [torch.from_numpy(np.asarray(array)) for array in (x, *tensors.values())]
        how = {"axis": axis, "signed": signed, "least_bits": bits[0], "most_bits": bits[1]}
        with torch.no_grad():
            expected = kernel(*arrays, **how).numpy()
        if t == 1:
            np.testing.assert_array_equal(found, expected)
        else:  # the last bit of a power is not the same everywhere
            apart = np.abs(found - expected) > 1e-6 * np.abs(expected).max()
            assert apart.mean() < 1e-2


@pytest.mark.parametrize("bits", [(4.0, 4.0), (4.0, 8.0)])
@pytest.mark.parametrize(
    ("d", "q_m", "t"),
    [(1, 0, 16), (0, 1e-9, 16), (1, 1e-12, 3), (0, 1e20, 2), (1e-31, 1e-4, 8), (-1, 3e-2, 16)],
)
def test_at_the_ends_of_their_domain_parameters_are_those_of_the_kernel(d, q_m, t, bits):
    torch = pytest.importorskip("torch")
    kernel = pytest.importorskip("getac.kernels.lattice")
    tensors = {"d": F32(d), "q_m": F32(q_m), "t": F32(t)}
    how = read_fake_quantizer(fake_quantize((4, 6), tensors, bits=bits).graph[0])
    on = kernel.lattice(*map(torch.tensor, tensors.values()), kernel.Bits(True, *bits))
    assert (how.range, how.exponent) == (on.q_m.numpy(), on.t.numpy())
    np.testing.assert_allclose(how.step, on.d.numpy(), rtol=1e-6)
    assert how.step > 0 and how.highest == round(float(on.top))


# Exponents of activations


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8, 9, 12, 16])
@pytest.mark.parametrize(("signed", "t"), [(True, 0.6), (True, 2.0), (False, 0.6), (False, 1.7)])
def test_a_power_of_an_activation_is_one_step_off_at_most_and_seldom(signed, t, bits, optimize):
    tensors = parameters(bits, signed, t=t)
    x = adversarial(tensors["d"], tensors["q_m"], (60, 50))
    proto = spelled(fake_quantize((60, 50), tensors, signed=signed))
    (function,) = proto.functions
    assert function.domain == "getac" and len(proto.graph.node) == 1
    expected, high = formula(x, **tensors, signed=signed, least_bits=2, most_bits=16)
    found = outputs(proto, optimize, x=x)
    step = float(tensors["d"])
    assert np.abs(found - expected).max() <= 1.001 * step
    assert (np.abs(found - expected) > 0.01 * step).mean() < 2e-3
    state = fold(proto)  # our reader sees through it
    (record,) = state.quantizers.values()
    assert (record.low, record.high) == (0, high)  # of the power: the product with the sign is an output
    assert {"Pow", "Min"} <= {node.op_type for node in state.model.graph}


def test_ranges_per_channel_that_reach_other_integers_are_cut_each():
    tensors = {"d": np.full(CHANNELS, 0.1, F32), "q_m": F32([0.35, 0.4, 1.2, 0.7, 12]), "t": F32(1)}
    x = adversarial(tensors["d"], tensors["q_m"], (4, CHANNELS, 6, 9))
    for signed in (True, False):
        proto = spelled(fake_quantize(x.shape, tensors, axis=1, signed=signed))
        assert [node.domain for node in proto.graph.node] == ["getac"]
        expected, _ = formula(x, **tensors, signed=signed, least_bits=2, most_bits=16, axis=1)
        np.testing.assert_array_equal(outputs(proto, False, x=x), expected)


def test_two_calls_share_a_function():
    nodes = [
        helper.make_node("FakeQuantize", [a, "d", "q_m", "t"], [b], b, domain="getac", signed=1)
        for a, b in (("x", "y"), ("y", "z"))
    ]
    stored = [numpy_helper.from_array(a, n) for n, a in parameters(8, True, t=0.8).items()]
    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [3]) for n in "xz"]
    graph = helper.make_graph(nodes, "graph", info[:1], info[1:], stored)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("getac", 1)]
    proto = spelled(ir.serde.deserialize_model(helper.make_model(graph, opset_imports=opsets, ir_version=10)))
    assert operators(proto) == ["SignedPowerUINT8"] * 2 and len(proto.functions) == 1


# Other types


@pytest.mark.parametrize("t", [1.0, 0.7])
def test_float16_is_rounded_in_float32(t):
    tensors = parameters(6, True, t=t)
    x = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float16)
    expected, _ = formula(x.astype(F32), **tensors, signed=True, least_bits=2, most_bits=16)
    proto = spelled(fake_quantize(x.shape, tensors, dtype=np.float16))
    found = outputs(proto, False, x=x)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, expected.astype(np.float16))
    proto = spelled(fake_quantize(x.shape, tensors, x=x, dtype=np.float16))
    np.testing.assert_array_equal(outputs(proto, False, i=np.zeros_like(x)), expected.astype(np.float16))


def test_an_axis_may_be_counted_from_the_end():
    tensors = parameters(4, True, 3)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(F32)
    expected, _ = formula(x, **tensors, signed=True, least_bits=2, most_bits=16, axis=1)
    proto = spelled(fake_quantize((2, 3), tensors, axis=-1))
    np.testing.assert_array_equal(outputs(proto, False, x=x), expected)
    proto = spelled(fake_quantize((2, 3), tensors, x=x, axis=-1))
    np.testing.assert_array_equal(outputs(proto, False, i=np.zeros_like(x)), expected)


def test_parameters_out_of_their_domain_are_taken_for_the_nearest():
    """As training does it."""
    x = np.random.default_rng(0).normal(size=(20, 30)).astype(F32)
    for tensors in (
        {"d": F32(-1), "q_m": F32(2), "t": F32(1)},
        {"d": F32(1), "q_m": F32(0), "t": F32(1)},
        {"d": F32(1), "q_m": F32(-3), "t": F32(16)},
        {"d": F32(0), "q_m": F32(2), "t": F32(-1)},
        {"d": F32(0), "q_m": F32(9), "t": F32(99)},
    ):
        q_m, t = max(tensors["q_m"], F32(1e-12)), F32(np.clip(tensors["t"], 1 / 16, 16))
        expected, _ = formula(x, tensors["d"], q_m, t, True, 4, 8) if q_m**t else (np.zeros_like(x), 0)
        proto = spelled(fake_quantize(x.shape, tensors, x=x, bits=(4.0, 8.0)))
        np.testing.assert_array_equal(outputs(proto, False, i=np.zeros_like(x)), expected)


# Refusals


@pytest.mark.parametrize(("signed", "high"), [(True, 32767), (False, 65535)])
def test_refuses_more_than_sixteen_bits(signed, high):
    tensors = {"d": F32(1), "q_m": F32(high), "t": F32(1)}
    spelled(fake_quantize((2, 3), tensors, signed=signed, bits=(2.0, 20.0)))
    tensors["q_m"] = F32(high + 1)
    with pytest.raises(UnsupportedModelError) as error:
        spelled(fake_quantize((2, 3), tensors, signed=signed, bits=(2.0, 20.0)))
    assert "at most 16 bits" in str(error.value) and "quantizer of x" in str(error.value)


def test_refuses_what_it_cannot_read():
    good = parameters(8, True)
    with pytest.raises(InvalidModelError, match="d of a quantizer is not a finite float32"):
        spelled(fake_quantize((2, 3), {**good, "d": F32(np.nan)}))
    with pytest.raises(InvalidModelError, match="q_m of a quantizer is not a finite float32"):
        spelled(fake_quantize((2, 3), {**good, "q_m": np.float64(1)}))
    with pytest.raises(InvalidModelError, match="parameters of other shapes"):
        spelled(fake_quantize((2, 3), good, axis=1))
    for axis in (0, 2, -3):  # another size, and no such dimension
        with pytest.raises(InvalidModelError, match="parameters of other shapes"):
            spelled(fake_quantize((2, 3), parameters(8, True, 3), axis=axis))
    with pytest.raises(InvalidModelError, match="contains NaN"):
        spelled(fake_quantize((2, 3), good, x=np.full((2, 3), np.nan, F32)))
    with pytest.raises(UnsupportedModelError, match="another type"):
        spelled(fake_quantize((2, 3), good, dtype=np.float64))
    model = fake_quantize((2, 3), good)
    model.opset_imports[""] = 20
    with pytest.raises(UnsupportedModelError, match="opset 21"):
        spelled(model)


def test_a_model_without_quantizers_stays(build):
    model = build("(float[2] x) => (float[2] y) { y = Relu(x) }")
    state = Pipeline([SpellQuantizers()]).run(State(model))
    assert not state.records[-1].changed
