"""Scales and zero points that are computed from stored tensors."""

from __future__ import annotations

import numpy as np
import pytest

from getac.onnx_graph.settled import settle_parameters
from getac.passes import FoldQuantizers, Pipeline, State
from tools.onnx_text import model_of

F32 = np.float32
PAIR = "t = Exp(s)  p = Cast<to = 2>(z)  q = QuantizeLinear(x, t, p)  y = DequantizeLinear(q, t, p)"
TENSORS = {"s": np.asarray(-2, F32), "z": np.asarray(7, np.int64)}


@pytest.fixture
def model():
    import onnx_ir as ir

    return ir.from_proto(model_of(PAIR, {"x": [2, 3]}, TENSORS))


def test_steps_stored_as_logarithms_and_zero_points_of_other_types(model):
    state = Pipeline([FoldQuantizers()]).run(State(model))
    (record,) = state.quantizers.values()
    assert record.step == np.exp(F32(-2))
    assert (record.low, record.high) == (-7, 248)


def test_a_second_time_changes_nothing(model):
    settle_parameters(model)
    stored = set(model.graph.initializers)
    settle_parameters(model)
    assert set(model.graph.initializers) == stored


def test_what_is_computed_from_inputs_stays(build):
    model = build(
        "(float[2,3] x) => (float[2,3] y) { t = ReduceMax<keepdims = 0>(x) q = QuantizeLinear(x, t)"
        " y = DequantizeLinear(q, t) }"
    )
    settle_parameters(model)
    assert [node.op_type for node in model.graph] == ["ReduceMax", "QuantizeLinear", "DequantizeLinear"]
    assert not model.graph.initializers
