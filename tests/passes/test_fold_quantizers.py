"""fold-quantizers: pairs become records, the numbers stay, and what has no record stays as it is."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from getac.passes import FoldQuantizers, RemoveDead
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer
from tools.zoo.registry import ZOO

INT4 = np.dtype(ml_dtypes.int4)
UINT4 = np.dtype(ml_dtypes.uint4)
F32 = np.float32


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def fold(model):
    return Pipeline([FoldQuantizers(), RemoveDead()]).run(State(model))


def operators(model):
    return [node.op_type for node in model.graph]


def reason(state):
    (only,) = state.refusals["fold-quantizers"]
    assert only.where
    return only.reason


def records(state):
    """Value name -> record."""
    return {value.name: quantizer for value, quantizer in state.quantizers.items()}


def with_pairs(state):
    """A copy of the folded model in which every recorded activation is rounded by a Q/DQ pair again."""
    model = state.model.clone()
    values = {value.name: value for value in [*model.graph.inputs, *(n.outputs[0] for n in model.graph)]}
    for recorded, quantizer in state.quantizers.items():
        if recorded.is_initializer():
            continue
        value = values[recorded.name]
        dtype = np.uint8 if quantizer.bits <= 8 else np.uint16
        pair = []
        for suffix, array in (("scale", quantizer.step), ("zero", np.asarray(-quantizer.low, dtype))):
            name = f"{value.name}.{suffix}"
            pair.append(ir.Value(name=name, const_value=ir.tensor(np.asarray(array), name=name)))
            model.graph.register_initializer(pair[-1])
        uses = list(value.uses())
        ends = []
        for suffix, integer in (("least", 0), ("greatest", quantizer.high - quantizer.low)):
            name = f"{value.name}.{suffix}"
            ends.append(ir.Value(name=name, const_value=ir.tensor(np.asarray(integer, dtype), name=name)))
            model.graph.register_initializer(ends[-1])
        q = ir.node("QuantizeLinear", [value, *pair])
        cut = ir.node("Clip", [q.outputs[0], *ends])
        dq = ir.node("DequantizeLinear", [cut.outputs[0], *pair])
        if value.producer() is None:
            model.graph.insert_before(model.graph.node(0), [q, cut, dq])
        else:
            model.graph.insert_after(value.producer(), [q, cut, dq])
        for user, index in uses:
            user.replace_input_with(index, dq.outputs[0])
        if value.is_graph_output():
            model.graph.outputs[list(model.graph.outputs).index(value)] = dq.outputs[0]
            dq.outputs[0].type, dq.outputs[0].shape = value.type, value.shape
            dq.outputs[0].name, value.name = value.name, f"{value.name}.raw"
    return model


def check_function(evaluate, model, **feeds):
    """Folds, and asserts that the records say exactly what the pairs did."""
    names = [value.name for value in model.graph.outputs]
    before = evaluate(model, **feeds)
    state = fold(model)
    assert [value.name for value in model.graph.outputs] == names
    for old, new in zip(before, evaluate(with_pairs(state), **feeds), strict=True):
        np.testing.assert_array_equal(new, old)
    again = Pipeline([FoldQuantizers(), RemoveDead()]).run(State(model, quantizers=dict(state.quantizers)))
    assert not any(record.changed for record in again.records)
    assert records(again) == records(state)
    return state


# Stored tensors

WEIGHT = "(float[2,4] x) => (float[2,3] y) {{ w = DequantizeLinear{axis}({inputs}) y = MatMul(x, w) }}"


@pytest.mark.parametrize(
    ("dtype", "zero", "low", "high"),
    [
        (np.int8, 0, -128, 127),
        (np.int8, 5, -133, 122),
        (np.uint8, 128, -128, 127),
        (np.uint8, 0, 0, 255),
        (np.int16, 0, -32768, 32767),
        (np.uint16, 1000, -1000, 64535),
        (INT4, 0, -8, 7),
        (UINT4, 8, -8, 7),
    ],
)
def test_weight_per_tensor(build, evaluate, dtype, zero, low, high):
    integers = np.random.default_rng(0).integers(0, 8, (4, 3)).astype(dtype)
    step = np.asarray(0.03, F32)
    model = build(
        WEIGHT.format(axis="", inputs="W, s, z"), W=integers, s=step, z=np.asarray(zero).astype(dtype)
    )
    state = check_function(evaluate, model, x=normal(2, 4))
    assert operators(model) == ["MatMul"]
    (record,) = state.quantizers.values()
    assert record == Quantizer(step, low, high)
    (weight,) = model.graph.initializers.values()
    assert weight.const_value.numpy().dtype == F32
    expected = (integers.astype(F32) - F32(zero)) * step
    np.testing.assert_array_equal(weight.const_value.numpy(), expected)


@pytest.mark.parametrize(("axis", "stored"), [(1, 1), (0, 0), (-1, 1)])
@pytest.mark.parametrize("zero", [None, 3])
def test_weight_per_channel(build, evaluate, axis, stored, zero):
    integers = np.random.default_rng(0).integers(-100, 100, (4, 3)).astype(np.int8)
    steps = np.linspace(0.01, 0.05, (4, 3)[stored]).astype(F32)
    zeros = {} if zero is None else {"z": np.full(steps.size, zero, np.int8)}
    text = WEIGHT.format(axis=f"<axis={axis}>", inputs="W, s" + (", z" if zeros else ""))
    model = build(text, W=integers, s=steps, **zeros)
    state = check_function(evaluate, model, x=normal(2, 4))
    (record,) = state.quantizers.values()
    assert record == Quantizer(steps, -128 - (zero or 0), 127 - (zero or 0), axis=stored)


def test_default_axis_is_one(build, evaluate):
    integers = np.arange(12, dtype=np.int8).reshape(4, 3)
    steps = np.array([0.1, 0.2, 0.3], F32)
    state = check_function(
        evaluate, build(WEIGHT.format(axis="", inputs="W, s"), W=integers, s=steps), x=normal(2, 4)
    )
    (record,) = state.quantizers.values()
    assert record.axis == 1


def test_int32_bias_becomes_floats_without_a_record(build, evaluate):
    text = """(float[2,4] x) => (float[2,3] y)
        { b = DequantizeLinear<axis=0>(B, s, z) y = Gemm(x, W, b) }"""
    integers = np.array([1 << 20, -7, 123456], np.int32)
    steps = np.array([1e-3, 2e-3, 3e-3], F32)
    model = build(text, W=normal(4, 3), B=integers, s=steps, z=np.zeros(3, np.int32))
    state = check_function(evaluate, model, x=normal(2, 4))
    assert state.quantizers == {}
    assert operators(model) == ["Gemm"]
    np.testing.assert_array_equal(
        model.graph.node(0).inputs[2].const_value.numpy(), integers.astype(F32) * steps
    )


def test_float16_scales_give_float16_weights(build, evaluate):
    text = "(float16[2,4] x) => (float16[2,3] y) { w = DequantizeLinear(W, s) y = MatMul(x, w) }"
    integers = np.arange(12, dtype=np.int8).reshape(4, 3)
    model = build(text, W=integers, s=np.asarray(0.1, np.float16))
    state = check_function(evaluate, model, x=normal(2, 4).astype(np.float16))
    (record,) = state.quantizers.values()
    assert record.step == F32(np.float16(0.1)) and record.step.dtype == F32


@pytest.mark.parametrize("domain", ["", "com.microsoft."])
def test_operators_of_both_domains(build, evaluate, domain):
    text = f"""(float[2,4] x) => (float[2,3] y) {{
        q = {domain}QuantizeLinear(x, s, z) a = {domain}DequantizeLinear(q, s, z)
        w = {domain}DequantizeLinear(W, s, z) y = MatMul(a, w) }}"""
    tensors = {"s": np.asarray(0.02, F32), "z": np.asarray(7, np.uint8)}
    model = build(text, W=np.arange(12, dtype=np.uint8).reshape(4, 3), **tensors)
    state = check_function(evaluate, model, x=normal(2, 4))
    assert operators(model) == ["MatMul"]
    assert records(state) == dict.fromkeys(["x", "W.float"], Quantizer(F32(0.02).reshape(()), -7, 248))


def test_weight_that_is_rounded_in_the_graph(build, evaluate):
    text = """(float[2,4] x) => (float[2,3] y) {
        q = QuantizeLinear<axis=1>(W, s, z) w = DequantizeLinear<axis=1>(q, s, z) y = MatMul(x, w) }"""
    weight, steps = normal(4, 3), np.array([0.01, 0.02, 0.03], F32)
    model = build(text, W=weight, s=steps, z=np.zeros(3, np.int8))
    state = check_function(evaluate, model, x=normal(2, 4))
    assert operators(model) == ["MatMul"]
    expected = Quantizer(steps, -128, 127, axis=1)
    assert records(state) == {"W": expected}
    np.testing.assert_array_equal(
        model.graph.initializers["W"].const_value.numpy(), expected.quantize(weight)
    )


def test_weight_that_is_also_read_unrounded_gets_a_copy(build, evaluate):
    text = """(float[2,4] x) => (float[2,3] y, float[2,3] u) {
        q = QuantizeLinear(W, s, z) w = DequantizeLinear(q, s, z) y = MatMul(x, w) u = MatMul(x, W) }"""
    weight = normal(4, 3)
    model = build(text, W=weight, s=np.asarray(0.3, F32), z=np.asarray(0, np.int8))
    state = check_function(evaluate, model, x=normal(2, 4))
    assert operators(model) == ["MatMul", "MatMul"]
    assert list(records(state)) == ["W.quantized"]
    np.testing.assert_array_equal(model.graph.initializers["W"].const_value.numpy(), weight)


# Activations

PAIR = "q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z)"
ONE = {"s": np.asarray(0.05, F32), "z": np.asarray(100, np.uint8)}
RECORD = Quantizer(np.asarray(0.05, F32), -100, 155)
BEHIND_RELU = Quantizer(np.asarray(0.05, F32), 0, 155)


def test_activation(build, evaluate):
    model = build(f"(float[2,4] x) => (float[2,4] y) {{ {PAIR} y = Relu(a) }}", **ONE)
    state = check_function(evaluate, model, x=8 * normal(2, 4))
    assert operators(model) == ["Relu"]
    assert records(state) == {"x": RECORD}
    assert Fact.QUANTIZERS_FOLDED in state.facts


def test_no_zero_point_means_unsigned(build, evaluate):
    text = """(float[2,4] x) => (float[2,4] y)
        { q = QuantizeLinear(x, s) a = DequantizeLinear(q, s) y = Relu(a) }"""
    state = check_function(evaluate, build(text, s=ONE["s"]), x=normal(2, 4))
    assert records(state) == {"a": Quantizer(ONE["s"], 0, 255)}
    assert operators(state.model) == ["Clip", "Relu"]  # nothing says that x is not negative


@pytest.mark.parametrize(
    ("before", "cut"),
    [
        ("Relu(x)", False),
        ("Sigmoid(x)", False),
        ("Clip(x, zero)", False),
        ("Clip(x, less)", True),
        ("Neg(x)", True),
        ("Concat<axis=0>(r, r)", False),
        ("Concat<axis=0>(r, x)", True),
        ("Reshape(r, n)", False),
    ],
)
def test_a_relu_that_is_left_to_the_zero_point_comes_back(build, before, cut):
    """Where the sign is not known from what comes before, the lattice's cut is a Clip of its own."""
    model = build(
        f"""(float[2,4] x) => (float[A,B] y) {{
            r = Relu(x)
            h = {before}
            q = QuantizeLinear(h, s, z)
            a = DequantizeLinear(q, s, z)
            y = Neg(a)
        }}""",
        s=np.float32(0.05),
        z=np.uint8(0),
        zero=np.float32(0),
        less=np.float32(-1),
        n=np.array([4, 2]),
    )
    state = fold(model)
    assert records(state) == {"a" if cut else "h": Quantizer(np.asarray(0.05, F32), 0, 255)}
    assert (operators(model)[-2] == "Clip") == (cut or before.startswith("Clip"))


def test_pairs_on_one_value_share_its_cut(build):
    model = build(
        """(float[2,4] x) => (float[2,4] y) {
            q = QuantizeLinear(x, s, z)
            a = DequantizeLinear(q, s, z)
            b = DequantizeLinear(q, s, z)
            y = Add(a, b)
        }""",
        s=np.float32(0.05),
        z=np.uint8(0),
    )
    state = fold(model)
    assert operators(model) == ["Clip", "Add"] and records(state) == {
        "a": Quantizer(np.asarray(0.05, F32), 0, 255)
    }


def test_output_type_without_a_zero_point(build, evaluate):
    text = """(float[2,4] x) => (float[2,4] y)
        { q = QuantizeLinear<output_dtype=3>(x, s) a = DequantizeLinear(q, s) y = Neg(a) }"""
    model = build(text, s=ONE["s"])
    fold(model)
    state = fold(build(text, s=ONE["s"]))
    assert records(state) == {"x": Quantizer(ONE["s"], -128, 127)}


def test_scales_of_shape_one_are_per_tensor(build, evaluate):
    text = f"(float[2,4] x) => (float[2,4] y) {{ {PAIR} y = Relu(a) }}".replace("q, s, z", "q, r, z")
    model = build(text, s=ONE["s"], r=ONE["s"].reshape(1)[0], z=ONE["z"])
    state = check_function(evaluate, model, x=normal(2, 4))
    assert records(state) == {"x": RECORD}
    text = text.replace("QuantizeLinear", "QuantizeLinear<axis=0>", 1)
    model = build(text, s=ONE["s"].reshape(1), r=ONE["s"], z=ONE["z"].reshape(1))
    assert records(fold(model)) == {"x": RECORD}


def test_one_quantize_with_two_dequantizes(build, evaluate):
    text = f"""(float[2,4] x) => (float[2,4] y, float[2,4] w)
        {{ {PAIR} b = DequantizeLinear(q, s, z) y = Relu(a) w = Neg(b) }}"""
    state = check_function(evaluate, build(text, **ONE), x=normal(2, 4))
    assert operators(state.model) == ["Relu", "Neg"]
    assert records(state) == {"x": RECORD}


def test_two_equal_pairs_are_one_record(build, evaluate):
    text = f"""(float[2,4] x) => (float[2,4] y, float[2,4] w) {{ {PAIR} y = Relu(a)
        p = QuantizeLinear(x, s, z) b = DequantizeLinear(p, s, z) w = Neg(b) }}"""
    state = check_function(evaluate, build(text, **ONE), x=normal(2, 4))
    assert operators(state.model) == ["Relu", "Neg"]
    assert records(state) == {"x": RECORD}


def test_value_that_is_also_read_unrounded(build, evaluate):
    text = f"(float[2,4] x) => (float[2,4] y, float[2,4] w) {{ {PAIR} y = Relu(a) w = Neg(x) }}"
    state = check_function(evaluate, build(text, **ONE), x=normal(2, 4))
    assert sorted(operators(state.model)) == ["Identity", "Neg", "Relu"]
    assert records(state) == {"a": RECORD}


OTHER = "p = QuantizeLinear({0}, t, z) b = DequantizeLinear(p, t, z) w = Neg(b)"
TWO = {**ONE, "t": np.asarray(0.2, F32)}


def test_two_scales_on_one_value(build, evaluate):
    text = f"(float[2,4] x) => (float[2,4] y, float[2,4] w) {{ {PAIR} y = Relu(a) {OTHER.format('x')} }}"
    state = check_function(evaluate, build(text, **TWO), x=normal(2, 4))
    assert sorted(operators(state.model)) == ["Identity", "Identity", "Neg", "Relu"]
    assert records(state) == {"a": RECORD, "b": Quantizer(TWO["t"], -100, 155)}


def test_two_roundings_in_a_row(build, evaluate):
    text = f"(float[2,4] x) => (float[2,4] w) {{ {PAIR} {OTHER.format('a')} }}"
    state = check_function(evaluate, build(text, **TWO), x=normal(2, 4))
    assert records(state) == {"x": RECORD, "b": Quantizer(TWO["t"], -100, 155)}
    assert operators(state.model) == ["Identity", "Neg"]


def test_graph_output_that_is_rounded_keeps_its_name(build, evaluate):
    text = f"(float[2,4] i) => (float[2,4] a) {{ x = Relu(i) {PAIR} }}"
    state = check_function(evaluate, build(text, **ONE), i=normal(2, 4))
    assert operators(state.model) == ["Relu", "Identity"]
    assert records(state) == {"x": BEHIND_RELU} and state.model.graph.outputs[0].name == "a"


@pytest.mark.parametrize("zero", [0, 100, 200])
def test_a_record_on_what_a_relu_alone_reads_moves_behind_it(build, evaluate, zero):
    text = f"(float[2,4] i) => (float[2,4] y) {{ x = Neg(i) {PAIR} b = Relu(a) y = Neg(b) }}"
    model = build(text, **{**ONE, "z": np.asarray(zero, np.uint8)})
    state = check_function(evaluate, model, i=9 * normal(2, 4))
    assert records(state)["b"] == Quantizer(ONE["s"], 0, 255 - zero)


def test_a_record_stays_where_others_read_it_or_the_relu_is_an_output(build, evaluate):
    text = f"(float[2,4] i) => (float[2,4] y, float[2,4] b) {{ x = Neg(i) {PAIR} b = Relu(a) y = Neg(b) }}"
    assert records(check_function(evaluate, build(text, **ONE), i=normal(2, 4))) == {"x": RECORD}
    text = f"(float[2,4] i) => (float[2,4] y) {{ x = Neg(i) {PAIR} b = Relu(a) y = Add(a, b) }}"
    assert records(check_function(evaluate, build(text, **ONE), i=normal(2, 4))) == {"x": RECORD}


def test_value_that_is_rounded_and_an_output(build, evaluate):
    text = f"(float[2,4] i) => (float[2,4] x, float[2,4] y) {{ x = Relu(i) {PAIR} y = Neg(a) }}"
    state = check_function(evaluate, build(text, **ONE), i=normal(2, 4))
    assert records(state) == {"a": BEHIND_RELU}


def test_integers_that_are_read_too_stay(build, evaluate):
    text = f"(float[2,4] x) => (float[2,4] y, uint8[2,4] q) {{ {PAIR} y = Relu(a) }}"
    state = check_function(evaluate, build(text, **ONE), x=normal(2, 4))
    assert operators(state.model) == ["QuantizeLinear", "Relu"]
    assert records(state) == {"x": RECORD}


def test_value_that_a_subgraph_reads_unrounded(build, evaluate):
    text = f"""(float[2,4] x, bool c) => (float[2,4] y, float[2,4] w) {{ {PAIR} y = Relu(a)
        w = If(c) <then_branch = t () => (float[2,4] o) {{ o = Neg(x) }},
                   else_branch = e () => (float[2,4] p) {{ p = Neg(a) }}> }}"""
    state = check_function(evaluate, build(text, **ONE), x=normal(2, 4), c=np.asarray(True))
    assert records(state) == {"a": RECORD}


# Integers that are cut

LATTICES = [(bits, signed) for bits in range(2, 17) for signed in (True, False)]


def lattice(bits, signed):
    """The outermost integers of a symmetric or an unsigned lattice, and the type that holds them."""
    low, high = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    names = ("int8", "int16") if signed else ("uint8", "uint16")
    return low, high, np.dtype(names[0] if bits <= 8 else names[1])


def cut(before, dtype):
    """Q or stored integers, and a Clip of them that onnxruntime can run; the result is k."""
    if dtype.itemsize == 1:
        return f"k = Clip({before}, low, high)"
    to = helper.np_dtype_to_tensor_dtype(dtype)
    return f"w = Cast<to=6>({before}) c = Clip(w, low, high) k = Cast<to={to}>(c)"


def ends(low, high, dtype):
    kind = dtype if dtype.itemsize == 1 else np.int32
    return {"low": np.asarray(low, kind), "high": np.asarray(high, kind)}


@pytest.mark.parametrize(("bits", "signed"), LATTICES)
def test_a_clip_of_an_activations_integers_is_in_its_record(build, evaluate, bits, signed):
    low, high, dtype = lattice(bits, signed)
    text = f"""(float[2,40] i) => (float[2,40] y) {{ x = {"Neg" if signed else "Relu"}(i)
        q = QuantizeLinear(x, s, z) {cut("q", dtype)} a = DequantizeLinear(k, s, z) y = Neg(a) }}"""
    step = np.asarray(2 / high, F32)
    model = build(text, s=step, z=np.asarray(0, dtype), **ends(low, high, dtype))
    names = {"i": 2 * normal(2, 40)}
    (before,) = evaluate(model, **names)
    state = fold(model)
    assert records(state) == {"x": Quantizer(step, low, high)}
    assert operators(model) == ["Neg" if signed else "Relu", "Neg"] and state.refusals == {}
    x = -names["i"] if signed else np.maximum(names["i"], 0)
    np.testing.assert_array_equal(-Quantizer(step, low, high).quantize(x), before)
    assert before.min() < -1.9  # the ends are reached


@pytest.mark.parametrize(("bits", "signed"), LATTICES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_clip_of_a_weights_integers_is_in_its_record(build, evaluate, bits, signed, per_channel):
    low, high, dtype = lattice(bits, signed)
    steps = F32([0.1, 0.2, 0.3]) if per_channel else np.asarray(0.1, F32)
    text = f"""(float[2,4] x) => (float[2,3] y) {{
        {cut("W", dtype)} v = DequantizeLinear(k, s, z) y = MatMul(x, v) }}"""
    limits = np.iinfo(dtype)
    integers = np.random.default_rng(0).integers(limits.min, limits.max + 1, (4, 3)).astype(dtype)
    zeros = np.zeros(steps.shape, dtype)
    model = build(text, W=integers, s=steps, z=zeros, **ends(low, high, dtype))
    state = check_function(evaluate, model, x=normal(2, 4))
    expected = Quantizer(steps, low, high, 1 if per_channel else None)
    assert records(state) == {"W.float": expected} and operators(model) == ["MatMul"]
    stored = model.graph.initializers["W.float"].const_value.numpy()
    np.testing.assert_array_equal(expected.integers(stored), integers.clip(low, high))


def test_a_clip_moves_with_the_zero_point_and_may_have_one_bound(build, evaluate):
    text = f"(float[2,4] x) => (float[2,4] y) {{ {PAIR} y = Neg(a) }}".replace("q, s", "k, s")
    text = text.replace(" a =", " k = Clip(q, low) a =")
    state = check_function(evaluate, build(text, **ONE, low=np.uint8(60)), x=8 * normal(2, 4))
    assert records(state) == {"x": Quantizer(ONE["s"], -40, 155)}


def test_readers_of_cut_and_of_uncut_integers_are_kept_apart(build, evaluate):
    for first, second in (("q", "k"), ("k", "q")):
        text = f"""(float[2,40] x) => (float[2,40] y, float[2,40] w) {{
            q = QuantizeLinear(x, s, z) k = Clip(q, low, high) a = DequantizeLinear({first}, s, z)
            b = DequantizeLinear({second}, s, z) y = Neg(a) w = Neg(b) }}"""
        model = build(text, **ONE, low=np.uint8(90), high=np.uint8(110))
        state = check_function(evaluate, model, x=3 * normal(2, 40))
        assert set(state.quantizers.values()) == {RECORD, Quantizer(ONE["s"], -10, 10)}
        assert operators(model).count("Identity") == 2


def test_two_quantizers_of_which_one_is_cut_are_kept_apart(build, evaluate):
    text = """(float[2,40] x) => (float[2,40] y, float[2,40] w) {
        q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) y = Neg(a)
        p = QuantizeLinear(x, s, z) k = Clip(p, low) b = DequantizeLinear(k, s, z) w = Neg(b) }"""
    state = check_function(evaluate, build(text, **ONE, low=np.uint8(90)), x=3 * normal(2, 40))
    assert set(state.quantizers.values()) == {RECORD, Quantizer(ONE["s"], -10, 155)}


@pytest.mark.parametrize(
    ("bounds", "low", "high"),
    [((-1.0, 1.0), -20, 20), ((-1.03, 1.02), -21, 20), ((-9.0, 1.0), -100, 20), ((-1.0, 99.0), -20, 155)],
)
def test_a_float_clip_before_a_quantizer_narrows_its_record(build, evaluate, bounds, low, high):
    text = f"(float[2,90] i) => (float[2,90] y) {{ x = Clip(i, low, high) {PAIR} y = Neg(a) }}"
    model = build(text, **ONE, low=F32(bounds[0]), high=F32(bounds[1]))
    state = check_function(evaluate, model, i=6 * normal(2, 90))
    assert records(state) == {"x": Quantizer(ONE["s"], low, high)}


def test_a_float_clip_above_zero_narrows_nothing(build, evaluate):
    text = f"(float[2,90] i) => (float[2,90] y) {{ x = Clip(i, low, high) {PAIR} y = Neg(a) }}"
    state = check_function(evaluate, build(text, **ONE, low=F32(1), high=F32(2)), i=normal(2, 90))
    (record,) = state.quantizers.values()
    assert record.low == 0 and record.high == 155


# A sign beside a magnitude


@pytest.mark.parametrize("order", ["g, a", "a, g"])
def test_the_record_of_a_magnitude_moves_behind_its_product_with_a_sign(build, evaluate, order):
    text = f"""(float[2,90] i) => (float[2,90] y) {{ g = Sign(i) m = Abs(i) x = Pow(m, e)
        q = QuantizeLinear(x, s, z) k = Clip(q, z, h) a = DequantizeLinear(k, s, z)
        b = Mul({order}) y = Neg(b) }}"""
    model = build(text, s=ONE["s"], z=np.uint8(0), e=F32(0.7), h=np.uint8(40))
    state = check_function(evaluate, model, i=normal(2, 90))
    assert records(state) == {"b": Quantizer(ONE["s"], -40, 40)}


def test_the_record_of_a_magnitude_that_others_read_stays(build, evaluate):
    text = """(float[2,90] i) => (float[2,90] y, float[2,90] w) { g = Sign(i) x = Abs(i) w = Neg(a)
        q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) b = Mul(g, a) y = Neg(b) }"""
    text = text.replace("w = Neg(a)", "").replace("y = Neg(b)", "y = Neg(b) w = Neg(a)")
    state = check_function(evaluate, build(text, s=ONE["s"], z=np.uint8(0)), i=normal(2, 90))
    assert records(state) == {"x": Quantizer(ONE["s"], 0, 255)}


# What getac itself writes around float layers


@pytest.mark.parametrize("zero", [0, 8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_that_a_product_restores(build, evaluate, zero, per_channel):
    steps = F32([[0.1, 0.2, 0.3]]) if per_channel else np.asarray(0.1, F32)
    text = """(float[2,4] x) => (float[2,3] y) {
        f = Cast<to=1>(W) w = SUB v = Mul(w, s) y = Gemm(x, v) }"""
    text = text.replace("SUB", "Sub(f, z)") if zero else text.replace("w = SUB", "").replace("Mul(w", "Mul(f")
    integers = np.random.default_rng(0).integers(0, 16, (4, 3)).astype(np.int8)
    model = build(text, W=integers, s=steps, **({"z": F32(zero)} if zero else {}))
    state = check_function(evaluate, model, x=normal(2, 4))
    axis = 1 if per_channel else None
    assert records(state) == {
        "W.float": Quantizer(steps.reshape(-1) if per_channel else steps, -128 - zero, 127 - zero, axis)
    }
    assert operators(model) == ["Gemm"]


@pytest.mark.parametrize(
    "body",
    [
        "f = Cast<to=1>(W) v = Mul(f, s) y = Add(x, v)",  # no weight of a layer
        "f = Cast<to=1>(W) v = Mul(f, t) y = MatMul(x, v)",  # a scale for every number
        "f = Cast<to=1>(W) v = Mul(f, n) y = MatMul(x, v)",  # negative
        "f = Cast<to=1>(I) v = Mul(f, s) y = MatMul(x, v)",  # INT64
        "f = Cast<to=1>(W) g = Sub(f, h) v = Mul(g, s) y = MatMul(x, v)",  # half a zero point
        "f = Cast<to=1>(W) g = Sub(f, t) v = Mul(g, s) y = MatMul(x, v)",  # many zero points
    ],
)
def test_other_products_stay(build, body):
    model = build(
        f"(float[4,4] x) => (float[4,4] y) {{ {body} }}",
        **{"W": np.ones((4, 4), np.int8), "I": np.ones((4, 4), np.int64), "s": F32(0.5), "h": F32(0.5)},
        **{"n": F32(-0.5), "t": normal(4, 4)},
    )
    before = operators(model)
    state = fold(model)
    assert operators(model) == before and state.quantizers == {}


def test_a_sum_of_one_is_a_copy(build, evaluate):
    text = f"(float[2,4] i) => (float[2,4] y) {{ x = Sum(i) {PAIR} b = Sum(a) y = Neg(b) }}"
    state = check_function(evaluate, build(text, **ONE), i=normal(2, 4))
    assert operators(state.model) == ["Neg"] and records(state) == {"i": RECORD}


# Refusals

REFUSED = {
    "integers cut away": (
        "q = QuantizeLinear(x, s, z) k = Clip(q, h, l) a = DequantizeLinear(k, s, z)",
        {**ONE, "l": np.asarray(90, np.uint8), "h": np.asarray(110, np.uint8)},
        "cut to nothing",
    ),
    "zero cut away": (
        "q = QuantizeLinear(x, s, z) k = Clip(q, l) a = DequantizeLinear(k, s, z)",
        {**ONE, "l": np.asarray(110, np.uint8)},
        "cut to 110 to 255, without the zero point 100",
    ),
    "bounds at run time": (
        "q = QuantizeLinear(x, s, z) l = Max(z, z) k = Clip(q, l) a = DequantizeLinear(k, s, z)",
        ONE,
        "cuts them at run time",
    ),
    "a cast that wraps": (
        "q = QuantizeLinear(x, s, z) k = Cast<to=3>(q) a = DequantizeLinear(k, s, t)",
        {**ONE, "t": np.asarray(100, np.int8)},
        "changes the integers",
    ),
    "different scales": (
        "q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, t, z)",
        {**ONE, "t": np.asarray(0.1, F32)},
        "different scales or zero points",
    ),
    "different zero points": (
        "q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, t)",
        {**ONE, "t": np.asarray(0, np.uint8)},
        "different scales or zero points",
    ),
    "per channel": (
        "q = QuantizeLinear(x, s) a = DequantizeLinear(q, s)",
        {"s": np.full(4, 0.1, F32)},
        "an activation with a scale per channel",
    ),
    "blocked": (
        "q = QuantizeLinear<block_size=2>(x, s) a = DequantizeLinear<block_size=2>(q, s)",
        {"s": np.full((2, 2), 0.1, F32)},
        "a scale per channel or block",
    ),
    "scale at run time": (
        "t = ReduceMax<keepdims=0>(x) q = QuantizeLinear(x, t) a = DequantizeLinear(q, t)",
        {"s": ONE["s"]},
        "computed when the graph runs",
    ),
    "zero scale": (PAIR, {**ONE, "s": np.asarray(0, F32)}, "not a positive number"),
    "scale that is no number": (
        PAIR,
        {**ONE, "s": np.asarray(np.nan, F32)},
        "different scales|not a positive",
    ),
    "wrong number of scales": (
        "v = DequantizeLinear(W, s) a = Add(x, v)",
        {"s": np.full(3, 0.1, F32), "W": np.ones((2, 4), np.int8)},
        "scales of shape (3,) for a tensor",
    ),
    "float8": (
        "v = DequantizeLinear(W, s) a = Add(x, v)",
        {"s": ONE["s"], "W": np.ones((2, 4)).astype(ml_dtypes.float8_e4m3fn)},
        "FLOAT8E4M3FN",
    ),
    "integers of something else": (
        "q = Cast<to=2>(x) a = DequantizeLinear(q, s, z)",
        ONE,
        "does not follow a QuantizeLinear",
    ),
    "a quantizer of another domain": (
        "q = com.example.QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z)",
        ONE,
        "does not follow a QuantizeLinear",
    ),
    "stored output": ("a = DequantizeLinear(W, s)", {"s": ONE["s"], "W": np.ones((2, 4), np.int8)}, "output"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(build, case):
    body, tensors, text = REFUSED[case]
    model = build(f"(float[2,4] x) => (float[2,4] a) {{ {body} }}", **tensors)
    before = operators(model)
    state = Pipeline([FoldQuantizers()]).run(State(model))
    assert any(part in reason(state) for part in text.split("|"))
    assert operators(model) == before
    assert state.quantizers == {}
    assert not state.records[-1].changed


def test_another_reader_with_a_scale_at_run_time_reads_differently(build, evaluate):
    text = f"""(float[2,4] x) => (float[2,4] y, float[2,4] w) {{ {PAIR} y = Relu(a)
        t = ReduceMax<keepdims=0>(x) p = QuantizeLinear(x, t, z) w = DequantizeLinear(p, t, z) }}"""
    model = build(text, **ONE)
    state = fold(model)
    assert records(state) == {"a": RECORD}
    assert "computed when the graph runs" in reason(state)


@pytest.mark.parametrize("zeros", [None, "channels", "blocks"])
@pytest.mark.parametrize("block", [None, 2, 3])
def test_steps_of_blocks_and_zero_points_that_differ(build, evaluate, zeros, block):
    """UINT4 less zero points that differ takes a bit more; all of it is exact."""
    rng, shape = np.random.default_rng(0), (6, 4)
    rows = (-(-shape[0] // block), shape[1]) if block else (shape[1],)
    if zeros == "blocks" and block is None:
        pytest.skip("no blocks")
    tensors = {
        "W": rng.integers(0, 16, shape).astype(ml_dtypes.uint4),
        "s": rng.uniform(0.1, 0.2, rows).astype(F32),
    }
    if zeros is not None:
        points = rng.integers(3, 12, rows)
        points = np.broadcast_to(points[0], rows) if zeros == "channels" and block else points
        tensors["z"] = points.astype(ml_dtypes.uint4)
    axis = f"axis = 0, block_size = {block}" if block else "axis = 1"
    text = f"v = DequantizeLinear<{axis}>(W, s{', z' if zeros else ''}) y = MatMul(x, v)"
    model = build(f"(float[2,6] x) => (float[2,4] y) {{ {text} }}", **tensors)
    feeds = {"x": rng.normal(size=(2, 6)).astype(F32)}
    want = evaluate(model, **feeds)
    state = fold(model)
    assert operators(model) == ["MatMul"]
    (record,) = state.quantizers.values()
    assert (record.axis, record.block, record.step.shape) == (0 if block else 1, block, rows)
    assert record.bits <= (5 if zeros else 4)
    np.testing.assert_array_equal(record.step, tensors["s"])
    np.testing.assert_array_equal(evaluate(model, **feeds), want)


# Models that onnxruntime quantized


class Images(CalibrationDataReader):
    def __init__(self, name, count=2):
        rng = np.random.default_rng(0)
        self.feeds = iter([{name: rng.normal(size=(1, 3, 32, 32)).astype(F32)} for _ in range(count)])

    def get_next(self):
        return next(self.feeds, None)


@pytest.mark.parametrize("net", ["squeezenet", "mobilenet_v2", "se_net"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_models_of_onnxruntime_fold_completely(net, per_channel, evaluate, tmp_path):
    proto, path = ZOO[net](), tmp_path / "quantized.onnx"
    name = proto.graph.input[0].name
    quantize_static(
        proto,
        path,
        Images(name),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        weight_type=QuantType.QInt8,
    )
    model = ir.serde.deserialize_model(onnx.load(path))
    pairs = operators(model).count("DequantizeLinear")
    state = check_function(evaluate, model, **{name: normal(2, 3, 32, 32)})
    assert pairs > 20
    assert state.refusals == {}
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(operators(model))
    axes = {quantizer.axis for value, quantizer in state.quantizers.items() if value.is_initializer()}
    assert (0 in axes) is per_channel
