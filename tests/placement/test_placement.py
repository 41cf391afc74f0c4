"""Placement: which nodes run on integers, which values carry quantizers, and what those absorb."""

from __future__ import annotations

import numpy as np
import pytest

from getac.placement.clipping import carrier
from getac.placement.placement import is_layer, output_dimension, place
from getac.quantizer import Quantizer

F32 = np.float32


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(F32)


def unsigned(step=0.02):
    return Quantizer(np.asarray(step, F32), 0, 255)


def signed(step=0.02):
    return Quantizer(np.asarray(step, F32), -128, 127)


def placed(model, quantizers=None, calibrated=True):
    """Names of the integer nodes, the quantized values, the absorbed nodes, and the refusals."""
    values = {value.name: value for node in model.graph for value in (*node.inputs, *node.outputs) if value}
    records = {values[name]: record for name, record in (quantizers or {}).items()}
    found = place(model.graph, records, calibrated)
    return (
        {node.name for node in found.integer},
        [value.name for value in found.values],
        {node.name for node in found.absorbed},
        {node.name: why for node, why in found.why_not.items()},
    )


CONVOLUTIONS = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {
    a = Conv(x, v)
    b = Relu(a)
    c = Conv(b, w)
    d = Add(b, c)
    y = Conv(d, w)
}"""
WEIGHTS = {"v": normal(4, 4, 1, 1), "w": normal(4, 4, 1, 1)}


def test_convolutions_need_quantizers_on_both_sides(build):
    integer, values, absorbed, why_not = placed(build(CONVOLUTIONS, **WEIGHTS))
    assert integer == {"conv_0", "conv_2", "add_3", "conv_4"}
    assert values == ["x", "b", "c", "d", "y"]  # not a: the quantizer of b absorbs the Relu
    assert (absorbed, why_not) == ({"relu_1"}, {})


def test_matrix_products_keep_float_outputs_where_nothing_behind_them_runs_on_integers(build):
    model = build(
        """(float[N,4] x) => (float[N,4] y) {
            a = Gemm(x, w)
            b = Relu(a)
            c = Gemm(b, w)
            y = Softplus(c)
        }""",
        w=normal(4, 4),
    )
    integer, values, absorbed, _ = placed(model)
    assert (integer, values, absorbed) == ({"gemm_0", "gemm_2"}, ["x", "b"], {"relu_1"})


def test_operators_between_layers_stay_on_integers_only_if_it_leads_somewhere(build):
    model = build(
        """(float[N,4,8,8] x) => (float[N,4,4,4] y) {
            a = Conv(x, v)
            m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
            t = Transpose<perm=[0,1,3,2]>(m)
            y = Softplus(t)
        }""",
        v=normal(4, 4, 1, 1),
    )
    assert placed(model)[:2] == ({"conv_0"}, ["x", "a"])


def test_operators_that_move_numbers_share_a_quantizer(build):
    model = build(
        """(float[N,4,8,8] x) => (float[N,5] y) {
            a = Conv(x, v)
            m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
            f = Flatten(m)
            y = Gemm(f, w)
        }""",
        v=normal(4, 4, 1, 1),
        w=normal(64, 5),
    )
    found = place(model.graph, {})
    names = {value.name: source.name for value, source in found.same_as.items()}
    assert names == {"m": "a", "f": "m"}
    flat = next(value for value in found.values if value.name == "f")
    assert found.source(flat).name == "a"
    other = {"a": unsigned(0.02), "m": unsigned(0.03)}
    assert "maxpool_1" not in placed(model, other)[0]  # two records that disagree: it runs in floats


def test_parts_of_one_value_that_are_joined_share_its_quantizer(build):
    """A roll: slices that change places. Without data a Concat of two values needs a record of its own."""
    text = """(float[N,4] x, float[N,4] z) => (float[N,5] y, float[N,5] k) {
        a = Slice(x, zero, two, one)
        b = Slice(x, two, four, one)
        c = Concat<axis=1>(b, a)
        y = Gemm(c, w)
        d = Concat<axis=1>(b, z)
        e = Slice(d, zero, four, one)
        k = Gemm(e, v)
    }"""
    numbers = {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "four": np.array([4])}
    model = build(text, w=normal(4, 5), v=normal(4, 5), **numbers)
    values = {value.name: value for value in model.graph.inputs}
    found = place(model.graph, {values["x"]: unsigned(0.02)}, calibrated=False)
    assert {node.name for node in found.integer} == {"slice_0", "slice_1", "concat_2", "gemm_3"}
    joined = next(value for value in found.values if value.name == "c")
    assert found.source(joined) is values["x"]


def test_a_convolution_without_a_quantizer_for_its_output_says_so(build):
    model = build("(float[N,4,8,8] x) => (float[N,4,8,8] y) { y = Conv(x, v) }", v=normal(4, 4, 1, 1))
    found = place(model.graph, {model.graph.inputs[0]: unsigned(0.02)}, calibrated=False)
    assert list(found.why_not.values()) == ["no quantizer for its output, and no calibration data"]
    found = place(model.graph, {}, calibrated=False)
    assert list(found.why_not.values()) == ["no quantizers for its activations, and no calibration data"]


@pytest.mark.parametrize(
    ("text", "tensors", "why"),
    [
        ("y = ConvTranspose(x, w)", {"w": normal(4, 4, 1, 1)}, "no integer kernel for ConvTranspose"),
        ("y = Conv(x, w)", {"w": normal(4, 4, 1, 1).astype(np.float16)}, "FLOAT16, not float32"),
        (
            "b = ReduceSum(x, a) \n s = Reshape(b, n) \n y = Conv(x, w, s)",
            {"w": normal(1, 4, 1, 1), "a": np.arange(4), "n": np.array([1])},
            "bias is computed",
        ),
        ("y = Conv(c, w)", {"w": normal(4, 4, 1, 1), "c": normal(1, 4, 8, 8)}, "input is a constant"),
        ("y = MatMul(x, w)", {"w": normal(4, 8, 8)}, "not a matrix"),
    ],
    ids=["transposed", "float16", "bias", "constant", "batched"],
)
def test_layers_that_cannot_say_why(build, text, tensors, why):
    model = build(f"(float[1,4,8,8] x) => (float[N,C,H,W] y) {{ {text} }}", **tensors)
    integer, values, _, why_not = placed(model)
    assert (integer, values) == (set(), [])
    assert len(why_not) == 1 and why in next(iter(why_not.values()))


def test_a_transposed_gemm_input_has_no_integer_kernel(build):
    model = build("(float[4,8] x) => (float[8,3] y) { y = Gemm<transA=1>(x, w) }", w=normal(4, 3))
    assert placed(model)[3] == {"gemm_0": "its input is transposed (transA)"}


def test_quantizers_that_integer_kernels_cannot_use(build):
    wide = Quantizer(np.asarray(1e-4, F32), -(2**15), 2**15 - 1)
    rows = Quantizer(np.full(4, 0.01, F32), -127, 127, 1)
    model = build(CONVOLUTIONS, **WEIGHTS)
    assert placed(model, {"x": wide})[3] == {"conv_0": "x has 16 bits, and integer kernels take at most 8"}
    assert placed(model, {"v": rows})[3] == {"conv_0": "its weight has a scale per input channel"}


def test_a_product_of_two_activations_is_no_layer(build):
    model = build("(float[N,4] x, float[4,4] z) => (float[N,4] y) { y = MatMul(x, z) }")
    assert not is_layer(model.graph[0]) and placed(model) == (set(), [], set(), {})


@pytest.mark.parametrize(
    ("text", "shape", "dimension"),
    [
        ("Conv(x, w)", (6, 4, 1, 1), 0),
        ("ConvTranspose(x, w)", (4, 6, 1, 1), 1),
        ("Gemm(x, w)", (4, 6), 1),
        ("Gemm<transB=1>(x, w)", (6, 4), 0),
        ("MatMul(x, w)", (4, 6), 1),
        ("MatMul(x, w)", (2, 4, 6), 2),
    ],
)
def test_where_output_units_lie(build, text, shape, dimension):
    model = build(f"(float x) => (float y) {{ y = {text} }}", w=normal(*shape))
    assert output_dimension(model.graph[0]) == dimension


# ---- absorbing ----


CLIPPED = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {{
    a = Conv(x, v)
    b = {first}
    c = {second}
    y = Conv(c, w)
}}"""


@pytest.mark.parametrize(
    ("first", "second", "record", "absorbed"),
    [
        ("Relu(a)", "Clip(b, zero, six)", unsigned(6 / 255), {"relu_1", "clip_2"}),
        ("Relu(a)", "Identity(b)", unsigned(), {"relu_1", "identity_2"}),
        ("Identity(a)", "Relu(b)", signed(), {"identity_1"}),  # negative integers: the Relu matters
        ("Clip(a, zero, six)", "Identity(b)", unsigned(1), {"identity_2"}),  # a lattice up to 255
        ("Clip(a, one, six)", "Identity(b)", unsigned(0.01), {"identity_2"}),  # 0 is on every lattice
        ("Clip(a, x)", "Identity(b)", unsigned(), {"identity_2"}),  # a bound that is computed
    ],
)
def test_a_quantizer_absorbs_what_clips_less(build, first, second, record, absorbed):
    model = build(CLIPPED.format(first=first, second=second), **WEIGHTS, zero=F32(0), one=F32(1), six=F32(6))
    integer, values, found, _ = placed(model, {"c": record})
    assert found == absorbed and values == ["x", "c", "y"] and integer == {"conv_0", "conv_3"}


def test_what_will_be_calibrated_behind_a_clip_implies_it(build):
    model = build(
        CLIPPED.format(first="Relu(a)", second="Clip(b, zero, six)"), **WEIGHTS, zero=F32(0), six=F32(6)
    )
    assert placed(model)[2] == {"relu_1", "clip_2"}


def test_a_value_that_others_read_ends_the_chain(build):
    model = build(CONVOLUTIONS.replace("Add(b, c)", "Add(a, c)"), **WEIGHTS)
    assert carrier(model.graph[0], {}).name == "a"
    _, values, absorbed, _ = placed(model)
    assert "a" in values and "b" in values and absorbed == set()


def test_the_carrier_does_not_go_beyond_an_output(build):
    model = build(
        "(float[N,4,8,8] x) => (float[N,4,8,8] a, float[N,4,8,8] y) { a = Conv(x, v) \n y = Relu(a) }",
        **WEIGHTS,
    )
    assert carrier(model.graph[0], {}).name == "a"
    assert placed(model)[2] == set()


def test_an_output_in_floats_keeps_its_relu(build):
    """A Gemm's output is not rounded; the quantizer behind the Relu belongs to the next Gemm."""
    text = "(float[N,4] x) => (float[N,4] b, float[N,4] y) { a = OP(x, w) \n b = Relu(a) \n y = Gemm(b, w) }"
    assert placed(build(text.replace("OP", "Gemm"), w=normal(4, 4)))[2] == set()


# ---- quantizers that the file has ----


def test_the_carrier_ends_at_a_quantizer_that_is_there_already(build):
    """The Relu reads what the quantizer rounded: it is not for the quantizer behind it to absorb."""
    model = build(CONVOLUTIONS.replace("Add(b, c)", "Add(c, c)"), **WEIGHTS)
    assert carrier(model.graph[0], {model.graph[0].outputs[0]: signed()}).name == "a"
    integer, values, absorbed, _ = placed(model, {"a": signed()})
    assert integer == {"conv_0", "conv_2", "add_3", "conv_4"}
    assert (values, absorbed) == (["x", "a", "b", "c", "d", "y"], set())


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_a_matrix_product_writes_the_quantizer_that_its_output_has(build, operator):
    model = build(
        f"(float[N,4] x) => (float[N,4] y) {{ a = {operator}(x, w) \n y = Tanh(a) }}", w=normal(4, 4)
    )
    assert placed(model)[1] == ["x"]
    assert placed(model, {"a": signed()})[1] == ["x", "a"]


def test_an_operator_with_a_wide_quantizer_stays_in_floats(build):
    wide = Quantizer(np.asarray(1e-4, F32), -(2**15), 2**15 - 1)
    integer, values, _, why_not = placed(build(CONVOLUTIONS, **WEIGHTS), {"d": wide})
    assert integer == {"conv_0", "conv_2"} and values == ["x", "b", "c"]
    assert why_not == {"conv_4": "d has 16 bits, and integer kernels take at most 8"}


@pytest.mark.parametrize(
    ("shape", "rows"), [((4,), True), ((1, 4), True), ((1,), True), ((4, 1), False), ((4, 4), False)]
)
def test_a_bias_that_differs_between_samples_is_no_integer(build, shape, rows):
    model = build("(float[4,4] x) => (float[4,4] y) { y = Gemm(x, w, b) }", w=normal(4, 4), b=normal(*shape))
    integer, _, _, why_not = placed(model)
    assert why_not == ({} if rows else {"gemm_0": "its bias differs between samples"})
    assert integer == ({"gemm_0"} if rows else set())


def test_between_quantizers_of_the_model_operators_stay_on_integers_wherever_it_leads(build):
    """The shortcut of a file that rounds its sum: an integer Add, though only floats read it."""
    model = build(CONVOLUTIONS.replace("y = Conv(d, w)", "y = Softplus(d)"), **WEIGHTS)
    records = {"x": signed(), "b": unsigned(), "c": signed(), "d": signed(0.04)}
    integer, values, absorbed, _ = placed(model, records, calibrated=False)
    assert integer == {"conv_0", "conv_2", "add_3"} and values == ["x", "b", "c", "d"]
    assert absorbed == {"relu_1"}
    del records["d"]
    for calibrated in (False, True):  # no rounding of getac's own for it
        assert placed(model, records, calibrated)[0] == {"conv_0", "conv_2"}


# ---- without data ----


def test_without_data_only_what_has_its_quantizers_runs_on_integers(build):
    model = build(CONVOLUTIONS, **WEIGHTS)
    assert placed(model, {}, calibrated=False)[:2] == (set(), [])
    records = {"x": signed(), "b": unsigned(), "c": signed()}
    integer, values, absorbed, why_not = placed(model, records, calibrated=False)
    assert (integer, values, absorbed) == ({"conv_0", "conv_2"}, ["x", "b", "c"], {"relu_1"})
    assert why_not == {"conv_4": "no quantizers for its activations, and no calibration data"}


def test_without_data_but_with_all_quantizers_everything_runs_on_integers(build):
    model = build(CONVOLUTIONS, **WEIGHTS)
    records = {"x": signed(), "b": unsigned(), "c": signed(), "d": signed(), "y": signed()}
    assert placed(model, records, calibrated=False)[0] == {"conv_0", "conv_2", "add_3", "conv_4"}


@pytest.mark.parametrize(("step", "on_integers"), [(1 / 255, True), (1 / 256, True), (1 / 1024, False)])
def test_a_softmax_stays_in_floats_where_its_lattice_ends_below_one(build, step, on_integers):
    model = build("(float[2,8] x) => (float[2,8] y) { a = Softmax(x) \n y = MatMul(a, w) }", w=normal(8, 8))
    integer, *_ = placed(model, {"x": signed(), "a": unsigned(step), "w": signed()})
    assert ("softmax_0" in integer) is on_integers
