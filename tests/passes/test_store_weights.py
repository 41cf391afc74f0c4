"""store-weights: weights are integers in the file, and floats in the kernels."""

from __future__ import annotations

import numpy as np
import pytest

from getac.executed import executed_kernels
from getac.passes import QuantizeWeights, RemoveDead, StoreWeights
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer
from getac.runtime import open_session, run

F32 = np.float32


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def stored(model, bits=8, records=None):
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    for name, record in (records or {}).items():
        state.quantizers[model.graph.initializers[name]] = record
    Pipeline([QuantizeWeights(bits), StoreWeights(), RemoveDead()]).run(state)
    return state


def types(model):
    return {name: value.const_value.numpy().dtype for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize(
    ("text", "shape", "x"),
    [
        ("y = Conv(x, w, b)", (6, 4, 3, 3), (2, 4, 8, 8)),
        ("y = ConvTranspose(x, w, b)", (4, 6, 3, 3), (2, 4, 8, 8)),
        ("y = ConvTranspose<group=2>(x, w, b)", (4, 3, 3, 3), (2, 4, 8, 8)),
        ("y = Gemm(x, w, b)", (4, 6), (5, 4)),
        ("y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)", (6, 4), (5, 4)),
    ],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_kernels_see_the_rounded_floats(build, text, shape, x, bits):
    dims = ",".join(map(str, ("N", *x[1:])))
    out = "N,M,H,W" if len(x) == 4 else "N,M"
    weight = normal(*shape)
    make = lambda w: build(f"(float[{dims}] x) => (float[{out}] y) {{ {text} }}", w=w, b=normal(6))  # noqa: E731
    model = make(weight)
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    Pipeline([QuantizeWeights(bits)]).run(state)
    rounded = make(state.quantizers[model.graph.initializers["w"]].quantize(weight))
    Pipeline([StoreWeights(), RemoveDead()]).run(state)
    assert [node.op_type for node in model.graph][:2] == ["Cast", "Mul"]
    assert np.dtype(np.int8) in types(model).values() and "w" not in model.graph.initializers
    feeds = {"x": normal(*x, seed=1)}
    expected = run(open_session(rounded), feeds)["y"]
    np.testing.assert_allclose(run(open_session(model), feeds)["y"], expected, rtol=1e-5, atol=1e-5)
    assert not {"Cast", "Mul"} & {node.op_type for node in executed_kernels(model)}  # folded at load
    assert state.refusals == {}


def test_a_matmul_keeps_its_integers_in_the_kernel(build):
    model = build("(float[N,3,64] x) => (float[N,3,16] y) { y = MatMul(x, w) }", w=normal(64, 16))
    stored(model)
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "MatMul"]
    assert [node.op_type for node in executed_kernels(model)] == ["MatMulNBits"]


def test_a_batched_matmul_is_a_float_kernel(build):
    model = build("(float[N,2,3,64] x) => (float[N,2,3,16] y) { y = MatMul(x, w) }", w=normal(2, 64, 16))
    stored(model)
    assert [node.op_type for node in model.graph] == ["Cast", "Mul", "MatMul"]


def test_a_lattice_that_int8_does_not_hold_is_shifted(build, evaluate):
    weight = np.maximum(normal(6, 4), -0.05)
    record = Quantizer(np.asarray(weight.max() / 245, F32), -10, 245)
    model = build("(float[N,4] x) => (float[N,6] y) { y = Gemm<transB=1>(x, w) }", w=weight)
    stored(model, records={"w": record})
    assert [node.op_type for node in model.graph] == ["Cast", "Sub", "Mul", "Gemm"]
    assert np.dtype(np.uint8) in types(model).values()
    x = normal(5, 4)
    np.testing.assert_allclose(evaluate(model, x=x)[0], x @ record.quantize(weight).T, rtol=1e-4, atol=1e-5)


def test_a_shared_weight_is_read_by_both(build, evaluate):
    weight = normal(4, 4)
    model = build("(float[N,4] x) => (float[N,4] y) { a = Gemm(x, w) \n y = Gemm<transB=1>(a, w) }", w=weight)
    stored(model)
    x = normal(5, 4)
    np.testing.assert_allclose(evaluate(model, x=x)[0], x @ weight @ weight.T, rtol=0.1, atol=0.1)


def test_what_cannot_be_stored_says_why(build):
    model = build(
        "(float16[N,4] x) => (float16[N,4] y) { y = MatMul(x, w) }", w=normal(4, 4).astype(np.float16)
    )
    (refusal,) = stored(model).refusals["store-weights"]
    assert (refusal.where, refusal.reason) == ("matmul_0", "its weights are FLOAT16, not float32")
    wide = Quantizer(np.asarray(1e-4, F32), -(2**15), 2**15 - 1)
    model = build("(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", w=normal(4, 4))
    (refusal,) = stored(model, records={"w": wide}).refusals["store-weights"]
    assert refusal.reason == "its weights have 16 bits" and "w" in model.graph.initializers


def test_a_second_run_changes_nothing(build):
    model = build("(float[N,4] x) => (float[N,6] y) { y = Gemm(x, w) }", w=normal(4, 6))
    state = stored(model)
    before = [node.name for node in model.graph]
    state.facts.add(Fact.WEIGHTS_QUANTIZED)
    Pipeline([StoreWeights()]).run(state)
    assert [node.name for node in model.graph] == before and not state.records[-1].changed


@pytest.mark.parametrize("bits", [8, 16])
def test_quantizers_of_activations_are_written_back(build, bits):
    """Between float convolutions, where onnxruntime would quantize weights by itself without the Sums."""
    text = "(float[N,4,8,8] x) => (float[N,4,8,8] y) { a = Conv(x, v) \n b = Relu(a) \n y = Conv(b, w) }"
    model = build(text, v=normal(4, 4, 1, 1), w=normal(4, 4, 1, 1, seed=1))
    record = Quantizer(np.asarray(1.0 / 2**bits, F32), 0, 2**bits - 1)
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    state.quantizers[model.graph[1].outputs[0]] = record
    Pipeline([QuantizeWeights(), StoreWeights(), RemoveDead()]).run(state)
    types_of = [node.op_type for node in model.graph]
    at = types_of.index("QuantizeLinear")
    assert types_of[at - 2 : at + 3] == ["Relu", "Sum", "QuantizeLinear", "DequantizeLinear", "Sum"]
    x = normal(2, 4, 8, 8)
    before = run(open_session(model, outputs=["b", "b.after"], optimize=False), {"x": x})
    np.testing.assert_array_equal(before["b.after"], record.quantize(before["b"]))
    as_written = run(open_session(model, optimize=False), {"x": x})["y"]
    np.testing.assert_allclose(
        run(open_session(model), {"x": x})["y"], as_written, atol=2.0 ** (1 - bits) * 4
    )
    assert all(value.is_initializer() for value in state.quantizers)
