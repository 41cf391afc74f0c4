"""Agreement: the numbers by which outputs are compared, and the first value that departs."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from getac.errors import VerificationError
from getac.verifying.agreement import (
    BOUNDS,
    agreement,
    check_file_format,
    common_values,
    compare_outputs,
    first_departure,
    relative_bound,
)
from getac.verifying.dependence import computed_values

F32 = np.float32


def one(a, b):
    return agreement("y", [np.asarray(a, F32)], [np.asarray(b, F32)])


def test_the_numbers():
    found = one([[3.0, -4.0]], [[3.0, -3.9]])
    assert found.max_abs == pytest.approx(0.1) and found.relative == pytest.approx(0.1 / 4)
    assert found.sqnr_db == pytest.approx(10 * math.log10(25 / 0.01), abs=1e-4)
    assert found.top1 == 1.0 and found.finite


def test_equal_outputs():
    found = one([1.0, 2.0], [1.0, 2.0])
    assert (found.max_abs, found.relative, found.sqnr_db) == (0.0, 0.0, 200.0)


def test_nothing_where_something_should_be_and_the_other_way_round():
    assert one([1.0, 0.0], [0.0, 0.0]).sqnr_db == 0.0
    assert one([0.0, 0.0], [1.0, 0.0]).sqnr_db == -200.0
    assert one([0.0, 0.0], [1.0, 0.0]).relative == 1.0
    assert one([], []).sqnr_db == 200.0


def test_numbers_are_over_all_batches():
    a, b = [np.array([[1.0, 0.0]], F32), np.array([[0.0, 2.0]], F32)], None
    b = [np.array([[1.0, 0.0]], F32), np.array([[1.0, 0.0]], F32)]
    found = agreement("y", a, b)
    assert (found.max_abs, found.top1) == (2.0, 0.5)
    assert found.sqnr_db == pytest.approx(0.0)  # signal 5, noise 5


def test_values_that_are_not_finite_must_be_so_on_both_sides():
    assert one([np.inf, 1.0], [np.inf, 1.0]).finite
    assert one([np.nan, 1.0], [np.nan, 1.0]).sqnr_db == 200.0
    assert not one([np.inf, 1.0], [7.0, 1.0]).finite
    assert not one([1.0, 1.0], [np.nan, 1.0]).finite


def test_other_shapes_agree_in_nothing():
    found = one([[1.0, 2.0]], [[1.0]])
    assert not found.finite and found.relative == np.inf and found.sqnr_db == -200.0


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 2, 2)])
def test_top1_only_where_outputs_look_like_logits(shape):
    assert one(np.ones(shape), np.ones(shape)).top1 is None
    assert agreement("y", [np.ones((4, 3), np.int64)], [np.ones((4, 3), np.int64)]).top1 is None


def test_top1_counts_rows():
    a = np.eye(4, dtype=F32)
    assert one(a, a[[0, 1, 3, 2]]).top1 == 0.5


def test_outputs_are_compared_by_name():
    a = [{"p": np.ones(2, F32), "q": np.zeros(2, F32)}]
    b = [{"q": np.zeros(2, F32), "p": np.full(2, 2, F32)}]
    assert [(found.output, found.max_abs) for found in compare_outputs(a, b)] == [("p", 1.0), ("q", 0.0)]


CHAIN = """(float[N,2] x) => (float[N,2] y) {
    a = Mul(x, s)
    b = Relu(a)
    c = Add(b, t)
    y = Mul(c, s)
}"""


def departs(found):
    return found.relative > 1e-6


def test_the_first_departure_in_the_order_of_the_graph(build):
    reference = build(CHAIN, s=F32(2), t=F32(1))
    result = build(CHAIN, s=F32(2), t=F32(1.5))
    batch = {"x": np.ones((1, 2), F32)}
    found = first_departure(reference, result, [batch], departs)
    assert found is not None and found.value == "c" and found.relative == pytest.approx(0.5 / 3)
    assert str(found) == "c (relative difference 0.17)"
    assert first_departure(reference, reference, [batch], departs) is None


RESTORED = {
    "quantized": "v = DequantizeLinear(w, scale)",
    "transposed": "u = DequantizeLinear(w, scale) v = Transpose<perm = [1, 0]>(u)",
    "cast and scaled": "u = Cast<to = 1>(w) v = Mul(u, scale)",
}


@pytest.mark.parametrize("how", RESTORED)
def test_a_weight_in_another_layout_is_no_departure(build, how):
    """A square one, so that not even its shape tells; what is wrong with it shows in what reads it."""
    w = np.random.default_rng(0).integers(-99, 99, (4, 4)).astype(np.int8)
    texts = [
        f"(float[N,4] x) => (float[N,4] y) {{ a = Relu(x) {RESTORED[how]} h = {product} y = Relu(h) }}"
        for product in ("MatMul(a, v)", "Gemm<transB = 1>(a, v)")
    ]
    reference, wrong = (build(texts[0], w=one, scale=F32(0.1)) for one in (w, -w))
    laid_out, wrong_too = (build(texts[1], w=one.T.copy(), scale=F32(0.1)) for one in (w, -w))
    batch = {"x": np.ones((2, 4), F32)}
    assert common_values(reference, laid_out) == ["a", "h", "y"]
    assert first_departure(reference, laid_out, [batch], departs) is None
    for result in (wrong, wrong_too):
        assert first_departure(reference, result, [batch], departs).value == "h"


def test_outputs_are_compared_whatever_they_depend_on(build):
    text = "(float[N,2] x) => (float[N,2] y, float[2] k) {{ {} y = Mul(x, k) }}"
    reference = build(text.format("k = Neg(s)"), s=np.ones(2, F32))
    for result in (
        build(text.format("k = Neg(s)"), s=np.full(2, 2, F32)),
        build(text.format("k = Identity(s)"), s=np.ones(2, F32)),
    ):
        assert first_departure(reference, result, [{"x": np.zeros((1, 2), F32)}], departs).value == "k"


def test_what_depends_on_inputs_by_a_subgraph_or_on_chance_is_no_weight(build):
    text = """(float[2] x, bool c) => (float[2] y) {
        k = Neg(s)
        h = If(c) <then_branch = t () => (float[2] p) { p = Relu(x) },
                   else_branch = e () => (float[2] q) { q = Relu(k) }>
        r = RandomNormal<shape = [2]>()
        v = If(always) <then_branch = t () => (float[2] p2) { p2 = Neg(k) },
                        else_branch = e () => (float[2] q2) { q2 = Relu(k) }>
        z = Sum(h, r, v)
        y = Relu(z)
    }"""
    graph = build(text, s=np.ones(2, F32), always=np.array(True)).graph
    assert [value.name for value in computed_values(graph)] == ["h", "r", "z", "y"]


def test_the_batch_is_the_one_that_departs(build):
    text = "(float[2] x) => (float[2] y) { a = Min(x, limit) \n y = Neg(a) }"
    reference, result = build(text, limit=F32(2)), build(text, limit=F32(3))
    same, other = {"x": np.ones(2, F32)}, {"x": np.full(2, 3, F32)}
    assert first_departure(reference, result, [same], departs) is None
    found = first_departure(reference, result, [same, other], departs)
    assert found is not None and (found.value, found.relative) == ("a", 0.5)


def test_integers_are_the_same_or_not():
    large = np.array([1 << 53], np.int64)
    assert agreement("y", [large], [large]).identical is True
    assert agreement("y", [large], [large + 1]).identical is False
    assert agreement("y", [np.array([True])], [np.array([False])]).identical is False
    assert one([1.0], [1.0]).identical is None


def test_values_that_lost_units_are_compared_where_they_have_them(build):
    text = "(float[N,2] x) => (float[N,1] y) { h = MatMul(x, v) \n y = MatMul(h, w) }"
    rng = np.random.default_rng(0)
    v, w = rng.normal(size=(2, 3)).astype(F32), rng.normal(size=(3, 1)).astype(F32)
    kept = np.array([True, False, True])
    reference = build(text, v=v * kept, w=w * kept[:, None])
    sliced = build(text, v=v[:, kept], w=w[kept])
    wrong = build(text, v=v[:, [0, 1]], w=w[kept])
    keep = {"h": [np.ones(1, np.bool_), kept]}
    batch = {"x": np.ones((1, 2), F32)}
    assert first_departure(reference, sliced, [batch], departs, keep) is None
    found = first_departure(reference, wrong, [batch], departs, keep)
    assert found is not None and found.value == "h"


def test_a_valid_file_passes_and_an_invalid_one_is_named(build):
    check_file_format(build(CHAIN, s=F32(2), t=F32(1)))
    broken = build(CHAIN, s=F32(2), t=F32(1))
    broken.graph[1].op_type = "NoSuchOperator"
    with pytest.raises(VerificationError, match="not a valid ONNX model") as caught:
        check_file_format(broken)
    assert "NoSuchOperator" in str(caught.value) and caught.value.exit_code == 1


def test_shapes_that_contradict_each_other_are_found(build):
    model = build("(float[N,2] x) => (float[N,5] y) { y = MatMul(x, w) }", w=np.ones((2, 3), F32))
    with pytest.raises(VerificationError, match="not a valid ONNX model"):
        check_file_format(model)
    assert isinstance(model, ir.Model) and onnx.__version__


def test_the_bounds_are_those_that_are_promised():
    bounds = {dtype.name: bound for dtype, bound in BOUNDS.sliced_relative.items()}
    assert bounds == {"FLOAT": 1e-4, "FLOAT16": 5e-3, "BFLOAT16": 3e-2}
    assert (BOUNDS.folded_sqnr, BOUNDS.kernels_sqnr, BOUNDS.lowered_sqnr) == (30.0, 20.0, 3.0)
    assert (BOUNDS.recognized_sqnr, BOUNDS.quantized_sqnr) == (40.0, 20.0)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }", 1e-4),
        ("(float16[N,4] x) => (float16[N,4] y) { y = Relu(x) }", 5e-3),
        ("(float[N,4] x) => (float[N,4] y) { a = Cast<to=16>(x) y = Cast<to=1>(a) }", 3e-2),
        ("(int64[N] x) => (int64[N] y) { y = Neg(x) }", 1e-4),
    ],
)
def test_the_bound_for_slicing_is_that_of_the_coarsest_type(build, text, bound):
    assert relative_bound(build(text)) == bound


BRANCH = """(float[2] x, bool c) => (float[2] y, float[2] z) { z = Neg(x)
    y = If(c) <then_branch = t () => (float[2] o) { h = Cast<to = 10>(x) o = Cast<to = 1>(h) },
               else_branch = e () => (float[2] p) { p = Abs(x) }> }"""


def test_the_bound_of_one_output_is_of_what_it_is_computed_in(build):
    text = "(float[4] x, float16[4] h) => (float[4] y, float16[4] k) { y = Relu(x) k = Relu(h) }"
    assert [relative_bound(build(text), name) for name in "yk"] == [1e-4, 5e-3]
    assert [relative_bound(build(BRANCH), name) for name in "yz"] == [5e-3, 1e-4]
