"""fold-constants: float branches of stored tensors become stored tensors, under names that people know."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import getac
from getac.passes import FoldConstants, FoldQuantizers, InferShapes, Pipeline, State
from getac.runtime import open_session, run
from tools.law import AS_WRITTEN, check_law

F32 = np.float32


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def folded(model) -> State:
    state = State(model)
    Pipeline([FoldQuantizers(), InferShapes(), FoldConstants()]).run(state)
    return state


def same_function(build, text: str, x: np.ndarray, **tensors: np.ndarray) -> State:
    expected = run(open_session(build(text, **tensors)), {"x": x})
    state = folded(build(text, **tensors))
    found = run(open_session(state.model), {"x": x})
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6)
    return state


def operators(state: State) -> list[str]:
    return [node.op_type for node in state.model.graph]


def test_a_transposed_weight_keeps_its_name(build) -> None:
    text = "(float[N,4] x) => (float[N,6] y) { t = Transpose(w)  y = MatMul(x, t) }"
    w = normal(6, 4)
    state = same_function(build, text, normal(3, 4), w=w)
    assert operators(state) == ["MatMul"]
    np.testing.assert_array_equal(state.model.graph.initializers["w"].const_value.numpy(), w.T)


def test_a_bias_that_an_exporter_makes_up(build) -> None:
    text = """(float[N,3,5,5] x) => (float[N,4,3,3] y) {
        z = CastLike(zero, x)  s = Shape(w)  c = Slice(s, a, b)  e = Expand(z, c)  y = Conv(x, w, e)
    }"""
    tensors = {"w": normal(4, 3, 3, 3), "zero": np.array(0.5), "a": np.array([0]), "b": np.array([1])}
    state = same_function(build, text, normal(2, 3, 5, 5), **tensors)
    assert "Expand" not in operators(state) and "CastLike" not in operators(state)
    bias = next(node for node in state.model.graph if node.op_type == "Conv").inputs[2]
    np.testing.assert_array_equal(bias.const_value.numpy(), np.full(4, 0.5, F32))


def test_a_scale_that_is_computed_from_a_size_keeps_its_trained_value(build) -> None:
    text = """(float[N,8] x) => (float[N,8] y) {
        s = Shape<start=1>(x)  f = Cast<to=1>(s)  r = Sqrt(f)  y = Div(x, r)
    }"""
    state = same_function(build, text, normal(2, 8))
    divisor = next(node for node in state.model.graph if node.op_type == "Div").inputs[1]
    assert divisor.const_value.numpy() == pytest.approx(np.sqrt(8))


def test_a_weight_norm_becomes_a_weight_of_the_name_of_its_direction(build) -> None:
    text = """(float[N,4] x) => (float[N,3] y) {
        l = ReduceL2(v, ends)  d = Div(v, l)  w = Mul(g, d)  y = Gemm<transB=1>(x, w)
    }"""
    v, g = normal(3, 4), normal(3, 1, seed=1)
    state = same_function(build, text, normal(2, 4), v=v, g=g, ends=np.array([1]))
    assert operators(state) == ["Gemm"]
    found = state.model.graph.initializers["v"].const_value.numpy()
    np.testing.assert_allclose(found, g * v / np.linalg.norm(v, axis=1, keepdims=True), rtol=1e-6)


def test_a_sum_of_many_numbers_is_left_to_run_time(build, monkeypatch) -> None:
    monkeypatch.setattr("getac.passes.fold_constants.MOST_ENTRIES", 6399)
    text = "(float[N,64] x) => (float[N,64] y) { s = ReduceSum<keepdims=0>(v, ends)  y = Add(x, s) }"
    assert operators(folded(build(text, v=normal(64, 100), ends=np.array([1])))) == ["ReduceSum", "Add"]


def test_a_record_goes_with_a_transposition(build) -> None:
    text = """(float[N,4] x) => (float[N,6] y) {
        d = DequantizeLinear<axis=0>(q, s, z)  t = Transpose(d)  y = MatMul(x, t)
    }"""
    q = np.random.default_rng(0).integers(-127, 128, (6, 4)).astype(np.int8)
    steps = np.linspace(0.01, 0.06, 6).astype(F32)
    state = same_function(build, text, normal(3, 4), q=q, s=steps, z=np.zeros(6, np.int8))
    ((value, record),) = state.quantizers.items() - {
        item for item in state.quantizers.items() if not item[0].uses()
    }
    assert value.const_value.shape == (4, 6)
    assert record.axis == 1
    np.testing.assert_array_equal(record.step, steps)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "(float[N,4] x) => (float[N,6] y, float[6,4] o)"
            " { t = Transpose(w)  y = MatMul(x, t)  o = Relu(w) }",
            "has other readers",
        ),
        (
            "(float[N,6] x) => (float[N,4] y)"
            " { d = DequantizeLinear(q, s, z)  m = Mul(w, d)  y = MatMul(x, m) }",
            "a quantized tensor is rearranged",
        ),
    ],
)
def test_refuses(build, text: str, reason: str) -> None:
    tensors = {"w": normal(6, 4)}
    if "q" in text.split("Dequant")[-1]:
        tensors |= {"q": np.ones((6, 4), np.int8), "s": np.array(0.1, F32), "z": np.array(0, np.int8)}
    state = folded(build(text, **tensors))
    (refusal,) = state.refusals["fold-constants"]
    assert reason in refusal.reason


def test_sizes_that_never_change_become_numbers(build) -> None:
    text = "(float[N,4] x) => (float[M,2] y) { s = Add(a, b)  y = Reshape(x, s) }"
    state = folded(build(text, a=np.array([-1, 1]), b=np.array([0, 1])))
    assert operators(state) == ["Reshape"]


def test_the_heads_of_a_traced_attention_are_not_tied_to_its_width(build) -> None:
    """Tracing writes width // heads, and the width of x again, where the other exporter writes 2 and 8."""
    text = """(float[N,8] x) => (float[N,8] y) {
        h = MatMul(x, v)  s = Shape(x)  b = Gather(s, first)  w = Gather(s, second)  d = Div(w, four)
        n = Unsqueeze(b, zero)  e = Unsqueeze(d, zero)  f = Unsqueeze(w, zero)
        t = Concat<axis=0>(n, heads, e)  r = Reshape(h, t)  q = Relu(r)  z = Concat<axis=0>(n, f)
        o = Reshape(q, z)  y = MatMul(o, u)
    }"""
    floats = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
    scalars = {"first": np.array(0), "second": np.array(1), "four": np.array(4)}
    lists = {"zero": np.array([0]), "heads": np.array([4])}
    model = build(text, v=floats[0], u=floats[1], **scalars, **lists)
    assert [one.size for one in getac.analyze(model).classes] == [4, 2]
    proto = ir.serde.serialize_model(model)
    assert check_law(proto).difference <= 1e-5
    assert check_law(proto, passes=AS_WRITTEN).units == 0


def test_sizes_of_an_open_dimension_are_left_alone(build) -> None:
    body = "n = Shape<end=1>(x)  s = Concat<axis=0>(n, a)  y = Reshape(x, s)"
    state = folded(build(f"(float[N,4] x) => (float[N,2,2] y) {{ {body} }}", a=np.array([2, 2])))
    assert operators(state) == ["Shape", "Concat", "Reshape"]


def test_a_second_run_changes_nothing(build) -> None:
    text = "(float[N,4] x) => (float[N,6] y) { t = Transpose(w)  y = MatMul(x, t) }"
    state = folded(build(text, w=normal(6, 4)))
    Pipeline([InferShapes(), FoldConstants()]).run(state)
    assert not state.records[-1].changed


def test_equal_transpositions_of_a_shared_weight_become_one(build) -> None:
    text = """(float[N,4] x) => (float[N,4] y) {
        t = Transpose<perm=[1,0]>(w)  a = MatMul(x, t)
        u = Transpose<perm=[1,0]>(w)  y = MatMul(a, u)
    }"""
    state = same_function(build, text, normal(3, 4), w=normal(4, 4))
    assert operators(state) == ["MatMul", "MatMul"]
    assert list(state.model.graph.initializers) == ["w"]


def test_a_weight_that_is_read_as_it_is_as_well_is_not_stored_twice(build) -> None:
    text = """(float[N,5] x) => (float[N,5] y) {
        a = MatMul(x, w)
        u = Transpose<perm=[1,0]>(w)  y = MatMul(a, u)
    }"""
    assert "Transpose" in operators(same_function(build, text, normal(3, 5), w=normal(5, 5)))


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("s = Squeeze(d, a) \n w = Unsqueeze(s, a)", 0),
        ("w = Reshape(d, shape)", 0),
        ("s = Squeeze(d, a) \n t = Transpose<perm=[1,0]>(s) \n u = Transpose(t) \n w = Unsqueeze(u, a)", 0),
    ],
)
def test_the_steps_of_a_quantized_weight_move_with_it(build, text: str, axis: int) -> None:
    rng = np.random.default_rng(0)
    model = build(
        f"(float[N,4,9] x) => (float[N,4,7] y) {{ d = DequantizeLinear<axis=0>(q, scale) \n {text} \n"
        " y = Conv<group=4>(x, w) }",
        q=rng.integers(-127, 128, (4, 1, 3)).astype(np.int8),
        scale=F32([0.1, 0.2, 0.3, 0.4]),
        a=np.array([1]),
        shape=np.array([4, 1, 3]),
    )
    state = folded(model)
    assert operators(state) == ["Conv"]
    weight = next(iter(state.model.graph)).inputs[1]
    assert state.quantizers[weight].axis == axis
    np.testing.assert_array_equal(state.quantizers[weight].step, F32([0.1, 0.2, 0.3, 0.4]))
