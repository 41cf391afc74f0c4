"""`getac verify` and `getac.compare`: the numbers, the first value that departs, and what is refused."""

from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import getac
from getac.errors import BadInputError, CalibrationError, OptionError
from getac.verifying import paired_runs
from getac.verifying.agreement import NOT_FUSED
from getac.verifying.comparing import bound_for
from getac.verifying.matching import common_pairs, in_groups, output_pairs, rounded_from, step_of

CHAIN = "(float[N, 4] x) => (float[N, 4] y) { a = Mul(x, p)  b = Relu(a)  c = Add(b, q)  y = Mul(c, r) }"
ONES = {name: np.ones(4, np.float32) for name in "pqr"}
QUANTIZED = """(float[N, 4] x) => (float[N, 4] y) {
    a = Mul(x, p)
    n_q = QuantizeLinear(a, s, z)
    n_dq = DequantizeLinear(n_q, s, z)
    t = Transpose<perm=[1, 0]>(n_dq)
    y = Transpose<perm=[1, 0]>(t)
}"""
QUANTIZER = {"s": np.float32(0.5), "z": np.uint8(0), "p": np.ones(4, np.float32)}


@pytest.fixture(scope="module")
def folder(mlp):
    """A float model, what `lower` makes of it, the same with a broken layer, and their data."""
    model = onnx.load(mlp / "int8.onnx")
    [weight] = [t for t in model.graph.initializer if t.name == "gemm_2.weight.int"]
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, mlp / "broken.onnx")
    return mlp


@pytest.fixture
def command(command_line, monkeypatch, folder):
    """Runs `getac verify` in the folder."""
    monkeypatch.chdir(folder)
    return partial(command_line, "verify")


def quantized(build):
    """A model whose value n is known quantized alone, under the names that lowering gives."""
    model = build(QUANTIZED, **QUANTIZER)
    for value in [value for node in model.graph for value in node.outputs]:
        value.name = value.name.replace("_", ".")
    return model


# ---- numbers ----


def test_the_numbers_of_outputs(build):
    a, b = build(CHAIN, **ONES), build(CHAIN, **{**ONES, "q": np.array([1, 1, 1, 2], np.float32)})
    x = np.array([[1, 2, 3, 4], [0, 0, 0, 9]], np.float32)  # y = x + 1, and one more in the last column
    found = getac.compare(a, b, {"x": x}, tolerance=0.2)
    [y] = found.outputs
    assert (y.max_abs, y.relative, y.equal) == (1.0, 0.1, 0.75)
    signal = 4 + 9 + 16 + 25 + 1 + 1 + 1 + 100
    assert y.sqnr_db == pytest.approx(10 * math.log10(signal / 2))
    other = signal + 36 - 25 + 121 - 100
    assert y.cosine == pytest.approx((signal + 5 + 10) / math.sqrt(signal * other))
    assert (y.top1, y.steps, y.finite, y.node, y.found_node) == (1.0, None, True, "Mul mul_3", "Mul mul_3")
    assert found.passed and found.departure is None and found.samples == 2 and not found.generated


def test_numbers_are_over_all_batches(build):
    a, b = build(CHAIN, **ONES), build(CHAIN, **{**ONES, "r": np.full(4, 1.5, np.float32)})
    x = np.arange(80, dtype=np.float32).reshape(20, 4)
    one, many = (getac.compare(a, b, {"x": x}, batch=batch, all_values=True) for batch in (20, 3))
    assert [v.name for v in one.values] == ["a", "b", "c", "y"]
    assert many.outputs[0].sqnr_db == pytest.approx(one.outputs[0].sqnr_db) and one.samples == many.samples
    for left, right in zip(one.values, many.values, strict=True):
        assert (left.max_abs, left.equal, left.top1) == (right.max_abs, right.equal, right.top1)
    assert one.values[3].max_abs == 40.0 and one.values[3].relative == 0.5


def test_steps_of_the_quantizer(build):
    a = build(CHAIN.replace("Relu(a)", "Identity(a)"), **{**ONES, "q": np.zeros(4, np.float32)})
    b = quantized(build)
    x = np.array([[0.1, 0.2, 1.2, 130.0]], np.float32)  # the last saturates at 127.5
    [y] = getac.compare(a, b, {"x": x}).outputs
    assert y.steps == pytest.approx(5.0) and y.max_abs == 2.5
    assert step_of(b.graph.outputs[0]) == 0.5 and step_of(a.graph.outputs[0]) is None


def test_integer_outputs_are_counted_as_they_are(build):
    texts = [f"(float[N, 4] x) => (int64[N] y) {{ y = ArgMax<axis=1, keepdims=0>({v}) }}" for v in ("x", "n")]
    texts[1] = texts[1].replace("{", "{ n = Neg(x)")
    a, b = map(build, texts)
    [y] = getac.compare(a, b, {"x": np.array([[1, 2, 3, 4], [1, 1, 1, 1]], np.float32)}).outputs
    assert (y.max_abs, y.steps, y.equal) == (3.0, 3.0, 0.5)


# ---- values inside ----


def test_the_first_value_that_departs_is_named(folder):
    found = getac.compare(folder / "float.onnx", folder / "broken.onnx", folder / "data.npz", all_values=True)
    first = found.departure
    assert not found.passed and first.value == "gemm_2" and first.node.startswith("Gemm")
    assert [one.name for one in first.inputs] == ["tanh_1"] and first.inputs[0].relative < 0.05
    assert first.relative > 0.5 and "from tanh_1 (0.0" in str(first)
    names = [one.name for one in found.values]
    assert names == ["gemm_0", "tanh_1", "gemm_2", "tanh_3", "gemm_4"]  # as they run
    assert [one.departs(found.tolerance) for one in found.values] == [False, False, True, True, True]


def test_the_lowered_model_agrees(folder):
    found = getac.compare(folder / "float.onnx", folder / "int8.onnx", folder / "data.npz", all_values=True)
    assert found.passed and found.departure is None and found.tolerance == 0.1 and found.notes == []
    assert all(one.node == one.found_node for one in found.values)
    assert found.skipped == []


def test_an_integer_stands_for_what_dequantizes_it(build):
    b = quantized(build)
    pairs = {pair.name: (pair.expected.name, pair.found.name) for pair in common_pairs(b, b)}
    assert pairs == {"a": ("a", "a"), "n.q": ("n.dq", "n.dq"), "t": ("t", "t"), "y": ("y", "y")}
    a = build(CHAIN.replace("b = Relu(a)", "n = Relu(a) b = Identity(n)"), **ONES)
    assert {pair.name: pair.found.name for pair in common_pairs(a, b)} == {"a": "a", "n": "n.dq", "y": "y"}
    assert [pair.name for pair in output_pairs(a, b)] == ["y"]
    assert rounded_from(b.graph[2].outputs[0]).name == "a" == rounded_from(b.graph[0].outputs[0]).name


def test_weights_are_not_compared_by_name(build):
    """A square weight may lie transposed: what reads it departs where it is wrong, and nothing else does."""
    text = "(float[N, 4] x) => (float[N, 4] y) {{ v = DequantizeLinear(w, s) h = {} y = Neg(h) }}"
    w = np.random.default_rng(0).integers(-99, 99, (4, 4)).astype(np.int8)
    a = build(text.format("MatMul(x, v)"), w=w, s=np.float32(0.1))
    b, wrong = (
        build(text.format("Gemm<transB = 1>(x, v)"), w=one.T.copy(), s=np.float32(0.1)) for one in (w, -w)
    )
    found = getac.compare(a, b, all_values=True)
    assert found.passed and found.departure is None and [one.name for one in found.values] == ["h", "y"]
    first = getac.compare(a, wrong, all_values=True).departure
    assert first.value == "h" and [one.name for one in first.inputs] == ["x"]


def test_values_of_other_shapes_are_skipped(folder):
    small = folder / "half.onnx"
    getac.lower(folder / "float.onnx", small, sparsity=0.5, bench=False)
    found = getac.compare(folder / "float.onnx", small, all_values=True, tolerance=10.0)
    assert {"gemm_0", "tanh_1"} <= set(found.skipped) and found.passed
    assert [one.name for one in found.values] == ["gemm_4"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a = Cast<to=8>(x) b = Cast<to=1>(a)", "a"),
        ("a = Cast<to=16>(x) b = Cast<to=1>(a)", "a"),
        ("s = SequenceConstruct(x, x) b = ConcatFromSequence<axis=0, new_axis=0>(s)", "s"),
    ],
    ids=["text", "bfloat16", "a sequence"],
)
def test_values_that_are_no_numbers_are_skipped(build, text, left):
    model = build(f"(float[N, 4] x) => (float[M, 4] y) {{ {text} y = Neg(b) }}")
    found = getac.compare(model, model, all_values=True)
    assert ([one.name for one in found.values], found.skipped) == (["b", "y"], [left])


def test_groups_of_values_are_bounded(build, monkeypatch):
    a = build(CHAIN, **ONES)
    pairs = common_pairs(a, a)
    sizes = dict(zip((pair.expected for pair in pairs), (10, 20, 90, 5), strict=True))
    groups = [[pair.name for pair in group] for group in in_groups(pairs, sizes, 60)]
    assert groups == [["a", "b"], ["c"], ["y"]]
    whole = getac.compare(a, a, all_values=True)
    monkeypatch.setattr(paired_runs, "MOST_BYTES", 1)
    opened = []
    original = paired_runs.open_session
    monkeypatch.setattr(paired_runs, "open_session", lambda *a, **k: opened.append(k) or original(*a, **k))
    assert getac.compare(a, a, all_values=True).values == whole.values
    assert [k["outputs"] for k in opened if "outputs" in k] == [
        ["a"],
        ["a"],
        ["b"],
        ["b"],
        ["c"],
        ["c"],
        ["y"],
        ["y"],
    ]


def test_what_onnxruntime_makes_of_it_is_told_apart(build, monkeypatch):
    """The graphs agree as they are written; only the optimised run departs."""
    a, wrong = build(CHAIN, **ONES), build(CHAIN, **{**ONES, "r": np.full(4, 2.0, np.float32)})
    b = build(CHAIN, **ONES)
    original = paired_runs.open_session

    def fused(model, **options):
        return original(wrong if model is b and not options else model, **options)

    monkeypatch.setattr(paired_runs, "open_session", fused)
    found = getac.compare(a, b, all_values=True)
    assert found.notes == [NOT_FUSED] and not found.passed and found.departure.value == "y"


# ---- inputs and bounds ----


def test_the_bound_follows_the_types(build):
    half = build("(float16[N] x) => (float16[N] y) { y = Relu(x) }")
    plain, integer = build(CHAIN, **ONES), quantized(build)
    assert bound_for(plain, plain) == 1e-4 and bound_for(plain, half) == 5e-3
    assert bound_for(plain, integer) == 0.1
    assert getac.compare(half, half).passed


def test_generated_inputs_follow_the_seed(build):
    a, b = build(CHAIN, **ONES), build(CHAIN, **{**ONES, "r": np.full(4, 1.01, np.float32)})
    first, again, other = (getac.compare(a, b, seed=seed).outputs for seed in (0, 0, 1))
    assert first == again != other
    assert getac.compare(a, b, seed=0).samples == 4 and getac.compare(a, b, batch=7).samples == 7


def test_open_sizes_are_found(build):
    model = build("(float[N, L, 4] x) => (float[N, L, 4] y) { y = Relu(x) }")
    assert getac.compare(model, model).passed
    assert getac.compare(model, model, sizes={"L": 3}).samples == 4
    with pytest.raises(OptionError, match="no model has an input dimension"):
        getac.compare(model, model, sizes={"T": 3})


def test_a_size_that_one_model_fixes_is_fixed(build):
    a, b = (build(f"(float[{n}, 4] x) => (float[{n}, 4] y) {{ y = Relu(x) }}") for n in ("N", 2))
    assert getac.compare(a, b).samples == 2 == getac.compare(b, a).samples


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf"), "much", None, True])
def test_a_tolerance_is_a_bound(build, tolerance):
    with pytest.raises(OptionError, match="tolerance"):
        getac.compare(build(CHAIN, **ONES), build(CHAIN, **ONES), tolerance=tolerance)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(float[N, 4] z) => (float[N, 4] y) { y = Relu(z) }", ("different inputs", "x", "z")),
        ("(float[N, 5] x) => (float[N, 5] y) { y = Relu(x) }", ("different inputs", "[N, 5]")),
        ("(int32[N, 4] x) => (float[N, 4] y) { y = Cast<to=1>(x) }", ("different inputs", "int32")),
        ("(float[N, 4] x) => (float[N, 4] o) { o = Relu(x) }", ("different outputs", "o")),
        ("(float[N, 4] x) => (float[N, 2] y) { y = Slice(x, i, j, i) }", ("different outputs", "[N, 2]")),
        ("(float[N, 4] x) => (int32[N, 4] y) { y = Cast<to=6>(x) }", ("different outputs", "int32")),
    ],
)
def test_models_of_different_signatures(build, text, words):
    other = build(text, i=np.array([0]), j=np.array([2]))
    with pytest.raises(BadInputError) as error:
        getac.compare(build(CHAIN, **ONES), other)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_nan_of_the_reference_and_of_the_result(build):
    good, bad = build(CHAIN, **ONES), build(CHAIN, **{**ONES, "r": np.array([1, 1, np.nan, 1], np.float32)})
    with pytest.raises(BadInputError, match="the reference computes NaN") as error:
        getac.compare(bad, good)
    assert "4 of 16 values" in str(error.value) and "output y" in str(error.value)
    found = getac.compare(good, bad)
    assert not found.passed and "NaN or infinite" in found.failures[0] and found.departure.value == "y"
    assert json.loads(found.as_json())["passed"] is False


def test_infinities_must_have_one_sign(build):
    models = [
        build(CHAIN, **{**ONES, "q": np.array([1, 1, sign, 1], np.float32)}) for sign in (np.inf, -np.inf)
    ]
    assert getac.compare(models[0], models[0]).passed
    assert not getac.compare(*models).passed


def test_outputs_that_are_no_numbers(build):
    text = "(float[N, 4] x) => (string[N, 4] y) { y = Cast<to=8>(x) }"
    with pytest.raises(BadInputError, match="an output cannot be compared"):
        getac.compare(build(text), build(text))


def test_data_that_does_not_fit(folder):
    files = folder / "float.onnx", folder / "int8.onnx"
    for data, words in (
        ({"other": np.ones((2, 64), np.float32)}, "missing: features"),
        ({"features": np.ones((2, 64))}, "float64"),
        ({"features": np.ones((2, 63), np.float32)}, "[2, 63]"),
        ({"features": np.full((2, 64), np.nan, np.float32)}, "NaN"),
    ):
        with pytest.raises(CalibrationError) as error:
            getac.compare(*files, data)
        assert words in str(error.value) and "float.onnx" in str(error.value)


# ---- the command ----


def test_within_the_bound_exits_with_0(command):
    code, out, err = command("float.onnx", "int8.onnx", "--data", "data.npz")
    assert (code, err) == (0, "")
    assert "gemm_4" in out and "20 samples (data); bound 0.1" in out and "the outputs agree" in out


def test_beyond_the_bound_exits_with_1_and_names_the_value(command):
    code, out, err = command("float.onnx", "broken.onnx", "--data", "data.npz", "--all-values")
    assert code == 1 and "agree" not in out and "!" in out and "Traceback" not in err
    assert err.startswith("getac: broken.onnx does not compute what float.onnx computes\n")
    assert "the first value that departs: gemm_2" in err and "output gemm_4 differs by" in err
    code, _, err = command("float.onnx", "int8.onnx", "--tolerance", "1e-5")
    assert code == 1 and "gemm_4" in err and "--all-values looks for the place" in err


def test_json_and_report(command, folder):
    code, out, _ = command("float.onnx", "broken.onnx", "--all-values", "--json", "--report", "report.json")
    content = json.loads(out)
    assert code == 1 and content == json.loads((folder / "report.json").read_text())
    assert content["passed"] is False and content["departure"]["value"] == "gemm_2"
    assert [one["name"] for one in content["outputs"]] == ["gemm_4"] and len(content["values"]) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.onnx", "float.onnx"), ("no such model file", "none.onnx")),
        (("float.onnx", "data.npz"), ("not an ONNX file", "data.npz")),
        (("float.onnx", "float.onnx", "--data", "none.npz"), ("no such file",)),
        (("float.onnx", "float.onnx", "--tolerance", "x"), ("--tolerance is not a number",)),
        (("float.onnx", "float.onnx", "--report", "float.onnx"), ("same file as an input",)),
        (
            ("float.onnx", "float.onnx", "--data", "data.npz", "--size", "N=3"),
            ("the data settles all sizes",),
        ),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_one_paragraph(command, arguments, words):
    code, out, err = command(*arguments)
    assert code == 2 and out == "" and err.startswith("getac: ") and "Traceback" not in err
    assert all(word in err for word in words), err
