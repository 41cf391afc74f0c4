"""remove-dead: what no output depends on goes; the model's signature stays."""

from __future__ import annotations

import numpy as np

from getac.passes import RemoveDead
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer

F32 = np.float32
RECORD = Quantizer.ranged(-1, 1, 8)


def remove(model, **known):
    return Pipeline([RemoveDead()], language={}).run(State(model, **known))


def values(model):
    nodes = [value for node in model.graph for value in node.outputs]
    return {value.name: value for value in [*model.graph.inputs, *model.graph.initializers.values(), *nodes]}


def test_dead_nodes_and_tensors_go(build, evaluate):
    text = """(float[2,3] x) => (float[2,3] y)
        { a = Add(x, A) dead = Mul(a, B) deader = Neg(dead) y = Relu(a) }"""
    model = build(text, A=np.ones(3, F32), B=np.ones(3, F32), C=np.ones(3, F32))
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(F32)
    before = evaluate(model, x=x)
    state = remove(model)
    assert [node.op_type for node in model.graph] == ["Add", "Relu"]
    assert list(model.graph.initializers) == ["A"]
    assert state.records[-1].changed
    np.testing.assert_array_equal(evaluate(model, x=x), before)
    assert not remove(model).records[-1].changed


def test_unused_inputs_and_stored_outputs_stay(build):
    model = build(
        "(float[2] x, float[2] unused) => (float[2] y, float[2] A) { y = Relu(x) }", A=np.ones(2, F32)
    )
    state = remove(model)
    assert [value.name for value in model.graph.inputs] == ["x", "unused"]
    assert list(model.graph.initializers) == ["A"]
    assert not state.records[-1].changed


def test_what_a_subgraph_reads_stays(build, evaluate):
    text = """(float[2] x, bool c) => (float[2] y) { a = Add(x, A)
        y = If(c) <then_branch = t () => (float[2] o) { o = Neg(a) },
                   else_branch = e () => (float[2] p) { p = Mul(x, B) }> }"""
    model = build(text, A=np.ones(2, F32), B=np.full(2, 3, F32))
    records = {values(model)["a"]: RECORD}
    assert remove(model, quantizers=records).quantizers == records
    assert list(model.graph.initializers) == ["A", "B"]
    x = np.array([1, 2], F32)
    np.testing.assert_array_equal(evaluate(model, x=x, c=np.asarray(True))[0], -(x + 1))


def test_a_dead_node_inside_a_subgraph_is_a_change(build):
    text = """(float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = t () => (float[2] o) { d = Relu(x) o = Neg(x) },
                   else_branch = e () => (float[2] p) { p = Abs(x) }> }"""
    model = build(text)
    assert remove(model).records[-1].changed
    assert not remove(model).records[-1].changed


def test_records_of_dead_values_go_and_the_others_stay(build):
    text = "(float[2] x, float[2] unused) => (float[2] y) { a = Add(x, A) dead = Mul(x, B) y = Relu(a) }"
    model = build(text, A=np.ones(2, F32), B=np.ones(2, F32))
    alive = {values(model)[name]: RECORD for name in ("x", "unused", "a", "A", "y")}
    dead = {values(model)[name]: RECORD for name in ("dead", "B")}
    assert remove(model, quantizers=alive | dead).quantizers == alive


def test_facts_about_shapes_and_units_are_dropped_where_something_went(build):
    facts = {Fact.SHAPES, Fact.AXES, Fact.CHOSEN, Fact.QUANTIZERS_FOLDED, Fact.SLICED}
    clean = "(float[2] x) => (float[2] y) { y = Relu(x) }"
    assert remove(build(clean), facts=set(facts)).facts == facts
    dirty = "(float[2] x) => (float[2] y) { y = Relu(x) d = Neg(x) }"
    assert remove(build(dirty), facts=set(facts)).facts == {Fact.QUANTIZERS_FOLDED, Fact.SLICED}
