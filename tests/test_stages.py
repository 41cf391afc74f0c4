"""The language of the stages: what is claimed of a model is checked on the model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from getac.passes import InferAxes, InferShapes, QuantizeWeights, Refusal
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer
from getac.stages import LANGUAGE

F32 = np.float32


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(F32)


@pytest.fixture
def state(build):
    text = """(float[N,4] x) => (float[N,3] y) {
        a = Gemm<transB=1>(x, v)
        b = Relu(a)
        y = Gemm<transB=1>(b, w)
    }"""
    return State(build(text, v=normal(6, 4), w=normal(3, 6)))


def problem(state, fact):
    return LANGUAGE[fact](state)


def test_every_fact_has_a_predicate():
    assert LANGUAGE.keys() == set(Fact)


def test_quantizers_left_in_the_graph_must_be_refused(build):
    model = build(
        "(float[N,4] x) => (float[N,4] y) { q = QuantizeLinear(x, s, z) \n y = DequantizeLinear(q, s, z) }",
        s=F32(1),
        z=np.uint8(0),
    )
    state = State(model)
    assert problem(state, Fact.QUANTIZERS_FOLDED) == "dequantizelinear_1 is neither folded nor refused"
    state.refuse("fold-quantizers", Refusal("dequantizelinear_1", "because"))
    assert problem(state, Fact.QUANTIZERS_FOLDED) is None


def test_a_record_has_as_many_steps_as_its_axis(state):
    weight = state.model.graph.initializers["v"]
    state.quantizers[weight] = Quantizer(np.ones(5, F32), -127, 127, 0)
    assert problem(state, Fact.QUANTIZERS_FOLDED) == "the quantizer of v has 5 steps for 6 channels"
    state.quantizers[weight] = Quantizer(np.ones(6, F32), -127, 127, 0)
    assert problem(state, Fact.QUANTIZERS_FOLDED) is None


def test_batch_norms_left_in_the_graph_must_be_refused(build):
    model = build(
        "(float[N,2,4,4] x) => (float[N,2,4,4] y) { y = BatchNormalization(x, s, b, m, v) }",
        **{name: np.ones(2, F32) for name in "sbmv"},
    )
    state = State(model)
    assert "batchnormalization_0" in problem(state, Fact.BATCH_NORMS_FOLDED)
    state.refuse("fold-batch-norm", Refusal("batchnormalization_0", "because"))
    assert problem(state, Fact.BATCH_NORMS_FOLDED) is None


def analysed(state):
    state.facts.add(Fact.QUANTIZERS_FOLDED)
    return Pipeline((InferShapes(), InferAxes())).run(state)


def test_shapes_and_axes_must_be_there(state):
    assert problem(state, Fact.SHAPES) == "there are no shapes"
    assert problem(state, Fact.AXES) == "there is no analysis"
    analysed(state)
    assert problem(state, Fact.SHAPES) is None and problem(state, Fact.AXES) is None
    del state.model.graph.initializers["v"]
    assert "v, which is not stored in the graph" in problem(state, Fact.AXES)


def test_a_choice_removes_units_of_open_classes_and_leaves_some(state):
    assert problem(state, Fact.CHOSEN) == "there is no choice"
    (one,) = analysed(state).analysis.classes
    for mask, expected in (
        (np.array([True] * 5 + [False]), None),
        (np.zeros(6, np.bool_), f"{one.name} would keep 0 of 6 units"),
        (np.ones(5, np.bool_), f"{one.name} would keep 5 of 6 units"),
    ):
        state.choice = SimpleNamespace(masks={one.atom: mask})
        assert problem(state, Fact.CHOSEN) == expected
    state.choice = SimpleNamespace(masks={object(): np.array([True, False])})
    assert problem(state, Fact.CHOSEN) == "a class that is not open loses units"


def test_stored_tensors_have_their_declared_shape(state):
    assert problem(state, Fact.SLICED) is None
    value = state.model.graph.initializers["v"]
    value.const_value = state.model.graph.initializers["w"].const_value
    assert problem(state, Fact.SLICED).startswith("v is declared")


def test_layers_and_their_activations_have_quantizers(state):
    values = {value.name: value for node in state.model.graph for value in (*node.inputs, *node.outputs)}
    state.calibration = object()  # there is data: every layer is meant to run on integers
    assert problem(state, Fact.CALIBRATED) == "x has no quantizer"
    assert problem(state, Fact.WEIGHTS_QUANTIZED) == "v, the weight of gemm_0, has no quantizer"
    state.quantizers.update({values[name]: Quantizer(np.asarray(1, F32), 0, 255) for name in "xb"})
    assert problem(state, Fact.CALIBRATED) is None
    state.facts.add(Fact.QUANTIZERS_FOLDED)
    QuantizeWeights().run(state)
    assert problem(state, Fact.WEIGHTS_QUANTIZED) is None


def test_without_data_no_activation_needs_a_quantizer(state):
    assert problem(state, Fact.CALIBRATED) is None


def test_a_lowered_layer_stores_integers_or_says_why_not(state):
    assert problem(state, Fact.LOWERED) == "gemm_0 has neither stored integers nor a reason"
    state.refuse("store-weights", Refusal("gemm_0", "because"))
    assert problem(state, Fact.LOWERED) == "gemm_2 has neither stored integers nor a reason"
    state.refuse("lower-integers", Refusal("gemm_2", "because"))
    assert problem(state, Fact.LOWERED) is None
