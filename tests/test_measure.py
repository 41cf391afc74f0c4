"""Measuring: rows for all layers, with the bits of the kernels that run, and reasons that are true."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import getac
from getac.errors import UnsupportedModelError
from getac.measure import uncounted
from getac.runtime import open_session

F32 = np.float32


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def lowered(model, x, **options):
    """The rows by name."""
    proto = ir.serde.serialize_model(model)
    report = getac.lower(proto, calibration=None if x is None else {"x": x}, bench=False, **options)
    return {row.name: row for row in report.layers}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("y = MatMul(w, x)", "its weight is the first factor, and integer kernels have it as the second"),
        ("r = Relu(w) \n y = MatMul(x, r)", "its weight is computed when the graph runs"),
        ("y = MatMul(x, x)", "a product of two activations, without quantizers"),
    ],
)
def test_a_product_without_a_weight_on_the_right_says_why(build, text, reason):
    model = build(f"(float[4,4] x) => (float[4,4] y) {{ {text} }}", w=normal(4, 4))
    (row,) = lowered(model, normal(8, 4)).values()
    assert row.kernel.startswith("float") and row.reason == reason
    assert row.activation_bits == 32


def test_a_layer_of_unknown_shape_has_a_row(build):
    model = build(
        """(float[2,4,8,8] x, int64[4] s) => (float[A,B,C,D] y) {
            a = Conv(x, v)
            b = Reshape(a, s)
            y = Conv<group=2>(b, w)
        }""",
        v=normal(4, 4, 1, 1),
        w=normal(6, 2, 1, 1),
    )
    rows = getac.lower(ir.serde.serialize_model(model), calibration=[data()], bench=False).layers
    assert [row.name for row in rows] == ["conv_0", "conv_2"]
    assert (rows[1].channels_in, rows[1].channels_out, rows[1].macs) == (4, 6, 0)
    assert rows[1].reason == "its shapes are unknown: no MACs are counted"


def data():
    return {"x": normal(2, 4, 8, 8), "s": np.array([2, 4, 8, 8], np.int64)}


@pytest.mark.parametrize("operator", ["Conv", "MatMul"])
def test_float16_layers_are_found(build, operator):
    dims = "4,8,8" if operator == "Conv" else "4"
    weight = normal(4, 4, 1, 1) if operator == "Conv" else normal(4, 4)
    model = build(
        f"(float16[N,{dims}] x) => (float16[N,{dims}] y) {{"
        f" a = {operator}(x, w) \n b = Relu(a) \n y = {operator}(b, w) }}",
        w=weight.astype(np.float16),
    )
    rows = lowered(model, None).values()
    assert {row.kernel for row in rows} == {f"float ({operator})"}
    assert {(row.weight_bits, row.activation_bits) for row in rows} == {(32, 32)}
    assert {row.reason for row in rows} == {"its weights are FLOAT16, not float32"}


def test_bits_are_those_of_the_kernel_that_runs(build):
    """A Gemm whose bias differs between samples runs in floats, between two that do not."""
    model = build(
        """(float[4,8] x) => (float[4,8] y) {
            a = Gemm(x, w)
            b = Gemm(a, w, column)
            y = Gemm(b, w)
        }""",
        w=normal(8, 8),
        column=normal(4, 1),
    )
    rows = lowered(model, normal(8, 8))
    assert [row.kernel for row in rows.values()] == ["integer (QGemm)", "float (MatMul)", "integer (QGemm)"]
    assert [row.activation_bits for row in rows.values()] == [8, 32, 8]
    assert rows["gemm_1"].bops == rows["gemm_1"].macs * 8 * 32


def test_constants_folded_into_a_matrix_product_keep_its_integer_kernel(build):
    """Half of the units are dead and pass a constant on, which becomes the bias of a Gemm."""
    first = np.concatenate([normal(8, 4), np.zeros((8, 4), F32)], axis=1)
    model = build(
        """(float[N,8] x) => (float[N,3] y) {
            a = MatMul(x, v)
            b = Sigmoid(a)
            y = MatMul(b, w)
        }""",
        v=first,
        w=normal(8, 3),
    )
    rows = lowered(model, normal(32, 8))
    assert [row.kernel for row in rows.values()] == ["integer (QGemm)"] * 2
    assert [row.channels_in for row in rows.values()] == [8, 4]


def test_an_original_that_no_session_optimises_is_timed_as_it_is_written(build, monkeypatch):
    model = build("(float[4,8] x) => (float[4,4] y) { y = MatMul(x, w) }", w=normal(8, 4))
    tried = []

    def failing_first(model, *, optimize=True):
        tried.append(optimize)
        if len(tried) == 1:
            raise UnsupportedModelError("onnxruntime cannot load the model", found="types differ")
        return open_session(model, optimize=optimize)

    monkeypatch.setattr("getac.measure.open_session", failing_first)
    report = getac.lower(ir.serde.serialize_model(model))
    assert tried == [True, False, True]
    assert report.latency is not None and report.latency.before_ms > 0
    (note,) = [note for note in report.notes if "optimisations" in note]
    assert "types differ" in note and "original" in note


@pytest.mark.parametrize(
    ("operator", "shape", "channels"),
    [
        ("Conv<group=2>", (6, 2, 1, 1), (4, 6)),
        ("ConvTranspose<group=2>", (4, 3, 1, 1), (4, 6)),
        ("MatMul", (8, 5), (8, 5)),
        ("MatMul", (3, 8, 5), (8, 5)),
        ("MatMul", (8,), (0, 0)),
        ("Gemm<transB=1>", (5, 8), (8, 5)),
        ("Gemm", (8, 5), (8, 5)),
    ],
)
def test_a_weight_tells_the_channels_where_shapes_are_unknown(build, operator, shape, channels):
    model = build(f"(float[A,B] x) => (float[C,D] y) {{ y = {operator}(x, w) }}", w=normal(*shape))
    found = uncounted(model.graph[0])
    assert (found.channels_in, found.channels_out) == channels
    assert found.cost.macs == found.cost.bops == 0
