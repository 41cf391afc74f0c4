"""Inputs and outputs, as callers see them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from getac.onnx_graph.defined import undefined_value
from getac.onnx_graph.interface import Interface

TEXT = "(float[N,4] x, int64[1] k) => (float[N,4] y) { a = Relu(x) y = Neg(a) }"


def renamed(graph):
    graph.inputs[1].name = "other"


def in_another_order(graph):
    graph.inputs.append(graph.inputs.pop(0))


def of_another_type(graph):
    graph.outputs[0].type = ir.TensorType(ir.DataType.DOUBLE)


def of_another_rank(graph):
    graph.outputs[0].shape = ir.Shape(["N", 4, 1])


def of_another_size(graph):
    graph.inputs[0].shape = ir.Shape(["N", 5])


def one_more(graph):
    graph.outputs.append(graph[0].outputs[0])


CHANGES = {
    renamed: ("inputs", "x, k", "x, other"),
    in_another_order: ("inputs", "x, k", "k, x"),
    of_another_type: ("outputs", "y: float[N, 4]", "y: double[N, 4]"),
    of_another_rank: ("outputs", "y: float[N, 4]", "y: float[N, 4, 1]"),
    of_another_size: ("inputs", "x: float[N, 4]", "x: float[N, 5]"),
    one_more: ("outputs", "y", "y, a"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_contradictions(build, change):
    graph = build(TEXT).graph
    before = Interface.of(graph)
    change(graph)
    found = before.contradiction(Interface.of(graph))
    assert found is not None and (found.kind, found.required, found.found) == CHANGES[change]


def test_what_is_said_more_exactly_is_no_contradiction(build):
    graph = build(TEXT).graph
    before = Interface.of(graph)
    graph.inputs[0].shape = ir.Shape([2, 4])
    graph.outputs[0].shape = None
    assert before.contradiction(Interface.of(graph)) is None
    graph.outputs[0].shape = ir.Shape([7, 7, 7])
    known = build(TEXT.replace("float[N,4] y", "float y")).graph
    known.outputs[0].shape = None
    assert Interface.of(known).contradiction(Interface.of(known)) is None


IF = """(float[2] x, bool c) => (float[2] y) { b = Relu(x)
    y = If(c) <then_branch = t () => (float[2] o) { o = Mul(b, W) },
               else_branch = e () => (float[2] p) { q = Abs(b) p = Neg(q) }> }"""


@pytest.fixture
def branches(build):
    return build(IF, W=np.ones(2, np.float32)).graph


def test_whole_graphs_miss_nothing(build, branches):
    assert undefined_value(build(TEXT).graph) is None
    assert undefined_value(branches) is None


def test_outputs_that_nobody_computes(build):
    graph = build(TEXT).graph
    graph.remove(graph[1])
    assert undefined_value(graph) == f"y, an output of {graph.name}"


def test_a_cycle(build):
    graph = build(TEXT).graph
    graph[0].replace_input_with(0, graph[1].outputs[0])
    assert str(undefined_value(graph)).startswith("y, read by ")


def test_a_branch_reads_what_is_around_it_and_not_what_is_in_another(branches):
    node = branches[1]
    then, other = node.attributes["then_branch"].as_graph(), node.attributes["else_branch"].as_graph()
    then[0].replace_input_with(0, other[0].outputs[0])
    assert undefined_value(branches).startswith("q, read by a Mul node")
