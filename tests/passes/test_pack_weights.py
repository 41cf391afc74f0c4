"""pack-weights: fewer bytes in the file, the same integers in the same kernels."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from getac.errors import OptionError
from getac.executed import executed_kernels
from getac.onnx_graph.packing.ways import COMPUTED_AS, Target, in_four_bits, packings
from getac.onnx_graph.read import read_proto
from getac.passes import FoldQuantizers, PackWeights, RemoveDead
from getac.pipeline import Pipeline, State
from getac.runtime import open_session, run
from tests.unpacked import weight_integers

F32 = np.float32
TARGETS = ("portable", "ort")
GEMM = """(float[N,C] x) => (float[N,M] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0>(w, ws, wz)
    bd = DequantizeLinear<axis=0>(b, bs, bz)
    y = Gemm<transB=1>(d, wd, bd)
}"""


def gemm(build, weight, zero_point=0):
    """An integer layer of stored weights of 8 bits, float outputs."""
    units = len(weight)
    step, steps = F32(0.02), np.linspace(0.005, 0.02, units, dtype=F32)
    return build(
        GEMM,
        s=step,
        z=np.uint8(128),
        w=weight,
        ws=steps,
        wz=np.full(units, zero_point, weight.dtype),
        b=np.random.default_rng(2).integers(-5000, 5000, units).astype(np.int32),
        bs=step * steps,
        bz=np.zeros(units, np.int32),
    )


def scaled(build, weight):
    """A float layer of stored weights of 16 bits."""
    text = "(float[N,C] x) => (float[N,M] y) { c = Cast<to=1>(w) f = Mul(c, ws) y = Gemm<transB=1>(x, f) }"
    return build(text, w=weight, ws=np.full((len(weight), 1), 1e-4, F32))


def integers(bits, shape=(256, 195), dtype=np.int8, shift=0, seed=0):
    """A symmetric lattice, both ends of which occur."""
    high = 2 ** (bits - 1) - 1
    found = np.random.default_rng(seed).integers(-high, high + 1, shape)
    found.flat[:2] = -high, high
    return (found << shift).astype(dtype)


def packed(model, target="portable"):
    state = State(model)
    Pipeline([PackWeights(target)]).run(state)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return state


def data_bytes(model, prefix="w."):
    """Bytes of what the weight became; tables and shapes are shared."""
    values = model.graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.name.startswith(prefix))


def outputs(model, x):
    """As written, and as onnxruntime optimises it."""
    return [run(open_session(model, optimize=optimize), {"x": x})["y"] for optimize in (False, True)]


def kernels(model):
    return sorted(node.op_type for node in executed_kernels(model))


def assert_packed_exactly(model, target, columns=195):
    """Bit-identical outputs from the same kernels, with onnxruntime's optimisations off and on."""
    x = np.random.default_rng(1).normal(size=(5, columns)).astype(F32)
    before, running = outputs(model, x), kernels(model)
    weight = weight_integers(model)
    state = packed(model, target)
    for name, array in weight_integers(model).items():
        assert array.dtype == weight[name].dtype and np.array_equal(array, weight[name])
    for one, other in zip(outputs(model, x), before, strict=True):
        assert np.array_equal(one, other)
    assert kernels(model) == running
    return state


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
def test_integer_kernels_see_the_same_integers(build, bits, spread, target):
    weight = integers(bits, shift=8 - bits if spread and bits < 8 else 0)
    model = gemm(build, weight)
    assert_packed_exactly(model, target)
    assert kernels(model) == ["QGemm", "QuantizeLinear"]
    per_weight = 8 * data_bytes(model) / weight.size
    if bits < 8:
        assert per_weight <= bits + 0.02  # the last byte of a part may not be full
    else:
        assert model.graph.initializers["w"].const_value.nbytes == weight.size
    raised = target == "ort" and bits in (3, 6, 7)
    assert (model.graph.opset_imports[""], model.ir_version) == ((25, 13) if raised else (21, 10))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("zero_point", [128, 100])
def test_unsigned_weights_have_an_offset(build, bits, zero_point, target):
    weight = (integers(bits).astype(int) + zero_point).astype(np.uint8)
    model = gemm(build, weight, zero_point)
    assert_packed_exactly(model, target)
    assert 8 * data_bytes(model) / weight.size <= bits + 0.02


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", range(2, 17))
def test_wide_weights_of_float_layers(build, bits, target):
    weight = integers(bits, dtype=np.int16)
    model = scaled(build, weight)
    assert_packed_exactly(model, target, columns=195)
    assert kernels(model) == ["Gemm"]
    stored = data_bytes(model) or model.graph.initializers["w"].const_value.nbytes
    few = 16 if bits == 15 and target == "portable" else bits  # four tables for one bit do not pay yet
    assert 8 * stored / weight.size <= few + 0.02


def test_three_values_take_less_than_two_bits(build):
    model = gemm(build, integers(2, shape=(64, 128)))
    packed(model)
    assert data_bytes(model) == -(-64 * 128 // 5)
    assert "w.ternary" in model.graph.initializers


@pytest.mark.parametrize("values", [1, 2, 3, 4, 5, 6, 7, 9])
def test_few_values_far_from_zero(build, values):
    weight = np.random.default_rng(0).integers(0, values, (256, 195)).astype(np.int8) * 2 + 90
    weight.flat[:2] = 90, 90 + 2 * (values - 1)
    assert_packed_exactly(gemm(build, weight.astype(np.int8)), "portable")


def test_int2_is_stored_for_onnxruntime_alone(build):
    weight = np.random.default_rng(0).integers(-2, 2, (256, 195)).astype(np.int8)
    for target, dtype, opset in (("ort", ir.DataType.INT2, 25), ("portable", ir.DataType.UINT8, 21)):
        model = gemm(build, weight)
        assert_packed_exactly(model, target)
        stored = [v for v in model.graph.initializers.values() if v.name.startswith("w.")]
        assert [value.dtype for value in stored] == [dtype]
        assert model.graph.opset_imports[""] == opset
        assert data_bytes(model) == weight.size // 4


def test_a_graph_that_newer_opsets_read_otherwise_stays(build):
    weight = np.random.default_rng(0).integers(-2, 2, (8, 32, 3, 3)).astype(np.int8)
    text = """(float[N,32,9,9] x) => (float[N,M,H,W] y) {
        wd = DequantizeLinear(w, s, z) c = Conv(x, wd)
        y = MaxPool<ceil_mode=1, kernel_shape=[2,2], strides=[2,2]>(c)
    }"""
    model = build(text, w=weight, s=F32(0.1), z=np.int8(0))
    state = packed(model, "ort")
    (refusal,) = state.refusals["pack-weights"]
    assert refusal.reason.startswith("MaxPool of opset 25 may be another one")
    assert model.graph.opset_imports[""] == 21
    assert 4 * data_bytes(model) == weight.size  # in bytes


def test_layers_of_one_weight_share_it(build):
    text = """(float[N,195] x) => (float[N,256] y) {
        wd = DequantizeLinear<axis=0>(w, ws, wz)
        we = DequantizeLinear<axis=0>(w, wt, wz)
        a = Gemm<transB=1>(x, wd)
        b = Gemm<transB=1>(x, we)
        y = Add(a, b)
    }"""
    steps = {"ws": np.full(256, 0.1, F32), "wt": np.full(256, 0.2, F32), "wz": np.zeros(256, np.int8)}
    model = build(text, w=integers(4), **steps)
    assert_packed_exactly(model, "ort")
    assert data_bytes(model) == -(-256 * 195 // 2)
    assert [node.op_type for node in model.graph].count("Cast") == 1


def test_tables_are_shared_by_layers(build):
    text = """(float[N,64] x) => (float[N,64] y) {
        v = DequantizeLinear(w, s, z) a = Gemm(x, v)
        u = DequantizeLinear(w2, s, z) y = Gemm(a, u)
    }"""
    tensors = {"w": integers(4, (64, 64), shift=4), "w2": integers(4, (64, 64), shift=4, seed=1)}
    model = build(text, **tensors, s=F32(0.01), z=np.int8(0))
    packed(model)
    tables = [v for v in model.graph.initializers.values() if v.name.startswith("table")]
    assert [value.shape.numpy() for value in tables] == [(256, 2)]


def test_few_weights_of_two_bits_do_not_pay_for_a_table(build):
    model = gemm(build, integers(2, (16, 27)))
    assert_packed_exactly(model, "portable", columns=27)
    assert model.graph.initializers["w.int4"].dtype is ir.DataType.INT4


def test_tiny_weights_stay(build):
    """Nodes and names would take more than the bits that are saved."""
    model = gemm(build, integers(4, (4, 16)))
    before = [node.op_type for node in model.graph]
    state = packed(model)
    assert [node.op_type for node in model.graph] == before and not state.records[0].changed


@pytest.mark.parametrize(
    "text",
    [
        "(int8[N,64] x) => (int32[N,64] y) { y = MatMulInteger(x, w) }",
        "(int8[64,64] x) => (int8[64,64] y) { y = Add(x, w) }",
    ],
)
def test_what_is_read_otherwise_stays(build, text):
    """Not by operators of which nothing is known."""
    model = build(text, w=integers(4, (64, 64)), s=F32(0.1), z=np.int8(0))
    packed(model, "ort")
    assert model.graph.initializers["w"].dtype == ir.DataType.INT8


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("stored", [ir.DataType.INT8, ir.DataType.INT4])
@pytest.mark.parametrize("block", [None, 32])
@pytest.mark.parametrize(("bits", "columns"), [(2, 192), (2, 190), (3, 191), (5, 190), (6, 192), (7, 192)])
def test_matrices_with_float_activations_keep_their_kernel(build, bits, columns, block, stored, target):
    """MatMulNBits of 8 bits, or of 4, which INT4 asks for; also where columns are no multiple of 4."""
    if stored is ir.DataType.INT4 and bits > 4:
        return
    along = "axis=0, block_size=32" if block else "axis=1"
    text = f"(float[N,256] x) => (float[N,M] y) {{ d = DequantizeLinear<{along}>(w, s) y = MatMul(x, d) }}"
    shape = (8, columns) if block else (columns,)
    scale = np.random.default_rng(1).uniform(0.01, 0.02, shape).astype(F32)
    tensor = ir.tensor(integers(bits, (256, columns)).astype(stored.numpy()), dtype=stored, name="w")
    model = build(text, w=ir.serde.serialize_tensor(tensor), s=scale)
    assert kernels(model) == ["MatMulNBits"]
    assert_packed_exactly(model, target, columns=256)
    assert 8 * data_bytes(model) / (256 * columns) <= bits + 0.02


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("greatest", "dtype"), [(127, "INT8"), (2**15 - 1, "INT16"), (2**15, "INT32")])
def test_biases_are_stored_in_the_type_that_holds_them(build, greatest, dtype, target):
    model = gemm(build, integers(8))
    bias = model.graph.initializers["b"]
    numbers = np.random.default_rng(0).integers(-greatest, greatest + 1, 256).astype(np.int32)
    numbers[0] = greatest
    bias.const_value = ir.tensor(numbers, name="b")
    assert_packed_exactly(model, target)
    assert kernels(model) == ["QGemm", "QuantizeLinear"]
    stored = [v for v in model.graph.initializers.values() if v.name in ("b", f"b.{dtype.lower()}")]
    assert [value.dtype.name for value in stored] == [dtype]
    state = State(read_proto(ir.to_proto(model)))  # and is a bias again, without a record
    Pipeline([FoldQuantizers(), RemoveDead()]).run(state)
    (node,) = state.model.graph
    floats = numbers * (F32(0.02) * np.linspace(0.005, 0.02, 256, dtype=F32))
    np.testing.assert_array_equal(node.inputs[2].const_value.numpy(), floats.astype(F32))
    assert node.inputs[2] not in state.quantizers and node.inputs[1] in state.quantizers


def test_other_integers_of_32_bits_stay(build):
    text = "(int64[N] i) => (float[N,64] y) { r = Gather(t, i) y = Cast<to=1>(r) }"
    model = build(text, t=np.arange(6400, dtype=np.int32).reshape(100, 64))
    assert not packed(model).records[0].changed


def test_a_second_run_changes_nothing(build):
    model = gemm(build, integers(5))
    packed(model)
    assert not packed(model).records[0].changed


def test_rows_of_a_table_can_be_looked_up(build):
    text = """(int64[N] x) => (float[N,32] y) {
        rows = Gather(w, x)
        y = DequantizeLinear(rows, s, z)
    }"""
    weight = integers(4, (100, 32), shift=4)
    model = build(text, w=weight, s=F32(0.1), z=np.int8(0))
    packed(model)
    x = np.array([3, 99, 0])
    for one in outputs(model, x):
        np.testing.assert_array_equal(one, weight[x] * F32(0.1))
    assert [node.op_type for node in executed_kernels(model)] == ["Gather", "DequantizeLinear"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("zero_point", [0, 128])
def test_the_records_of_packed_weights_are_found_again(build, bits, zero_point, target):
    """The steps take what the integers have in common, and the lattice has its number of bits again."""
    shift = 8 - bits if bits < 8 else 0
    plain = integers(bits, shift=shift)
    model = gemm(build, plain if not zero_point else (plain.astype(int) + 128).astype(np.uint8), zero_point)
    packed(model, target)
    state = State(read_proto(ir.to_proto(model)))
    Pipeline([FoldQuantizers(), RemoveDead()]).run(state)
    assert state.refusals == {}
    (node,) = state.model.graph
    weight = node.inputs[1]
    record = state.quantizers[weight]
    steps = np.linspace(0.005, 0.02, 256, dtype=F32)
    assert record.bits == bits and record.axis == 0
    np.testing.assert_array_equal(record.step, steps * F32(2**shift))
    np.testing.assert_array_equal(weight.const_value.numpy(), plain.astype(F32) * steps[:, None])


@pytest.mark.parametrize("dtype", sorted({one.numpy() for one in COMPUTED_AS.values()}, key=str))
def test_every_option_is_exact(dtype):
    """Parts of random ranges, put together by their own account."""
    rng = np.random.default_rng(0)
    limits = np.iinfo(dtype)
    for _ in range(200):
        shift = int(rng.integers(0, limits.bits - 1))
        low, high = np.sort(rng.integers(limits.min >> shift, (limits.max >> shift) + 1, 2))
        array = (rng.integers(low, high + 1, 50) << shift).astype(dtype)
        for target in Target:
            types = frozenset(ir.DataType)
            for packing in (*packings(array, target, types), *in_four_bits(array, target, types)):
                rest = packing.above_offset(array)
                total = np.zeros(50, np.int64)
                for part in packing.parts:
                    digits = part.numbers(rest).astype(np.int64) - part.least
                    assert digits.min() >= 0 and digits.max() < part.count
                    total += digits * part.unit + part.start
                assert np.array_equal(total, array)


def test_targets_are_checked():
    with pytest.raises(OptionError, match="portable or ort"):
        PackWeights("openvino")
