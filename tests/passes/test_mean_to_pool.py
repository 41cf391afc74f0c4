"""mean-to-pool: means of images become poolings, everything else stays."""

from __future__ import annotations

import numpy as np
import pytest

from getac.passes import InferShapes, MeanToPool
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer
from getac.runtime import open_session, run

F32 = np.float32


def rewritten(model):
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    Pipeline([InferShapes(), MeanToPool()]).run(state)
    return [node.op_type for node in model.graph]


def mean(build, how, axes, shape="N,3,5,4", output="N,C,H,W", dtype="float"):
    text = f"({dtype}[{shape}] x) => ({dtype}[{output}] y) {{ y = ReduceMean{how}(x, a) }}"
    return build(text, a=np.array(axes))


@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [-1, -2], [2, -1]])
@pytest.mark.parametrize(
    ("how", "output", "operators"),
    [
        ("<keepdims=0>", "N,3", ["GlobalAveragePool", "Flatten"]),
        ("<keepdims=1>", "N,3,1,1", ["GlobalAveragePool"]),
        ("", "N,3,1,1", ["GlobalAveragePool"]),
    ],
)
def test_a_mean_of_images(build, evaluate, how, output, operators, axes):
    model = mean(build, how, axes, output=output)
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(F32)
    (before,) = evaluate(model, x=x)
    assert rewritten(model) == operators
    (after,) = evaluate(model, x=x)
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    assert rewritten(model) == operators  # a second run changes nothing


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ([1, 2], "N,3,5,4"),
        ([1, 3], "N,3,5,4"),
        ([2], "N,3,5,4"),
        ([1, 2, 3], "N,3,5,4"),
        ([2, 3], "N,3,5,4,2"),
        ([1, 2], "N,5,4"),
    ],
)
def test_other_means_stay(build, axes, shape):
    model = mean(build, "", axes, shape, output=",".join("ABCDE"[: len(shape.split(","))]))
    assert rewritten(model) == ["ReduceMean"]


@pytest.mark.parametrize("dtype", ["int32", "int64", "double", "bfloat16"])
def test_means_of_other_types_stay(build, dtype):
    assert rewritten(mean(build, "", [2, 3], dtype=dtype)) == ["ReduceMean"]


def test_a_mean_of_half_precision(build):
    model = mean(build, "<keepdims=0>", [2, 3], output="N,3", dtype="float16")
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float16)
    before = run(open_session(model), {"x": x})["y"]
    assert rewritten(model) == ["GlobalAveragePool", "Flatten"]
    after = run(open_session(model), {"x": x})["y"]
    np.testing.assert_allclose(after, before, atol=1e-3)


def test_a_mean_of_a_computed_type(build):
    """The type of what is in between is known by inference alone."""
    model = build(
        "(float[N,3,5,4] x) => (double[N,3] y) { d = Cast<to=11>(x) \n y = ReduceMean<keepdims=0>(d, a) }",
        a=np.array([2, 3]),
    )
    assert rewritten(model) == ["Cast", "ReduceMean"]


def test_axes_that_are_computed_stay(build):
    model = build(
        "(float[N,3,5,4] x, int64[2] a) => (float[N,C,H,W] y) { y = ReduceMean(x, a) }",
    )
    assert rewritten(model) == ["ReduceMean"]


def test_records_of_both_values_stay(build):
    model = mean(build, "<keepdims=0>", [2, 3], output="N,3")
    x, y = model.graph.inputs[0], model.graph.outputs[0]
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    state.quantizers.update(dict.fromkeys((x, y), Quantizer(np.asarray(1, F32), 0, 255)))
    Pipeline([InferShapes(), MeanToPool()]).run(state)
    assert set(state.quantizers) == {x, y} and y.producer().op_type == "Flatten"
