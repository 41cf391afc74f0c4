"""Edits of ONNX graphs: names stay unique, types stay what they were, others' tensors stay untouched."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from getac.onnx_graph.edit import (
    add_initializer,
    array_of,
    consumers,
    insert_after,
    is_stored,
    own_input,
    replace_tensor,
    set_input,
    unique_name,
)

F32 = np.float32
ONES = np.ones(3, F32)
NESTED = """(float[3] x, bool c) => (float[3] y) { a = Add(x, W)
    y = If(c) <then_branch = t () => (float[3] o) <float[1] inner = {1}> { o = Mul(a, inner) },
               else_branch = e () => (float[3] p) { p = Abs(a) }> }"""


def values(model):
    nodes = [value for node in model.graph for value in node.outputs]
    return {value.name: value for value in [*model.graph.inputs, *model.graph.initializers.values(), *nodes]}


@pytest.mark.parametrize("taken", ["x", "c", "W", "a", "y", "o", "p", "inner", "add_0", "if_1"])
def test_no_name_is_given_twice(build, taken):
    graph = build(NESTED, W=ONES).graph
    assert unique_name(graph, taken) == f"{taken}_1"
    value = add_initializer(graph, taken, ONES)
    assert value.name == f"{taken}_1" and graph.initializers[f"{taken}_1"] is value
    assert add_initializer(graph, taken, ONES).name == f"{taken}_2"


def test_a_free_name_is_taken_as_wished(build):
    graph = build(NESTED, W=ONES).graph
    assert unique_name(graph, "new") == "new"
    names = {"new"}
    assert [unique_name(graph, "new", names) for _ in range(2)] == ["new_1", "new_2"]
    assert names == {"new", "new_1", "new_2"}


def test_added_tensors_have_type_and_shape(build, evaluate):
    model = build("(float[2,3] x) => (float[2,3] y) { y = Add(x, W) }", W=ONES)
    value = add_initializer(model.graph, "V", np.full((2, 3), 5, F32))
    assert (value.dtype, value.shape) == (ir.DataType.FLOAT, (2, 3))
    set_input(model.graph.node(0), 1, value)
    np.testing.assert_array_equal(evaluate(model, x=np.zeros((2, 3), F32))[0], np.full((2, 3), 5))


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.int8, np.int64, ml_dtypes.int4, ml_dtypes.bfloat16]
)
def test_replaced_tensors_keep_their_type(build, dtype):
    value = build(
        "(float[3] x) => (float[3] y) { y = Relu(x) }", W=np.zeros(3).astype(dtype)
    ).graph.initializers["W"]
    before = value.dtype
    replace_tensor(value, np.array([[1, 2]]).astype(dtype))
    assert value.dtype == before == value.const_value.dtype
    assert value.shape == (1, 2) == value.const_value.shape
    assert value.const_value.name == "W"
    assert array_of(value).tolist() == [[1, 2]]


def test_is_stored(build):
    model = build(NESTED, W=ONES)
    assert is_stored(values(model)["W"])
    assert not any(is_stored(values(model)[name]) for name in ("x", "a"))
    assert not is_stored(None)


def test_own_input_is_the_tensor_itself_where_nobody_shares_it(build):
    model = build("(float[3] x) => (float[3] y) { y = Add(x, W) }", W=ONES)
    assert own_input(model.graph.node(0), 1) is model.graph.initializers["W"]
    assert list(model.graph.initializers) == ["W"]


@pytest.mark.parametrize(
    "text",
    [
        "(float[3] x) => (float[3] y, float[3] z) { y = Add(x, W) z = Mul(x, W) }",
        "(float[3] x) => (float[3] y) { a = Relu(x) y = Sum(a, W, W) }",
        "(float[3] x) => (float[3] y, float[3] W) { y = Add(x, W) }",
        """(float[3] x, bool c) => (float[3] y, float[3] z) { y = Add(x, W)
            z = If(c) <then_branch = t () => (float[3] o) { o = Abs(W) },
                       else_branch = e () => (float[3] p) { p = Neg(W) }> }""",
    ],
)
def test_own_input_copies_what_others_read(build, text):
    model = build(text, W=ONES)
    node = next(node for node in model.graph if node.op_type in ("Add", "Sum"))
    own = own_input(node, 1)
    assert own is node.inputs[1] is not model.graph.initializers["W"]
    replace_tensor(own, 5 * ONES)
    assert array_of(model.graph.initializers["W"]).tolist() == [1, 1, 1]
    assert own_input(node, 1) is own


def test_set_input_fills_the_gap_before_it(build):
    model = build("(float[3] x) => (float[3] y) { y = Clip(x) }", high=np.asarray(0.5, F32))
    node, high = model.graph.node(0), model.graph.initializers["high"]
    set_input(node, 2, high)
    assert list(node.inputs) == [model.graph.inputs[0], None, high]
    set_input(node, 2, None)
    assert list(node.inputs) == [model.graph.inputs[0], None, None]


def test_insert_after_takes_over_every_reader(build, evaluate):
    text = "(float[3] x) => (float[3] y, float[3] z) { a = Relu(x) y = Neg(a) z = Abs(a) }"
    model = build(text, W=ONES)
    relu = model.graph.node(0)
    add = ir.node("Add", [relu.outputs[0], model.graph.initializers["W"]], name="new")
    insert_after(relu, add)
    assert [node.op_type for node in model.graph] == ["Relu", "Add", "Neg", "Abs"]
    assert consumers(relu.outputs[0]) == [add]
    y, z = evaluate(model, x=np.array([-1, 0, 2], F32))
    assert (y.tolist(), z.tolist()) == ([-1, -1, -3], [1, 1, 3])


def test_insert_after_keeps_the_name_of_a_graph_output(build, evaluate):
    model = build("(float[3] x) => (float[3] y, float[3] z) { y = Relu(x) z = Neg(y) }", W=ONES)
    relu = model.graph.node(0)
    insert_after(relu, ir.node("Add", [relu.outputs[0], model.graph.initializers["W"]], name="new"))
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert model.graph.outputs[0].shape == (3,)
    y, z = evaluate(model, x=np.array([-1, 0, 2], F32))
    assert (y.tolist(), z.tolist()) == ([1, 1, 3], [-1, -1, -3])


def test_consumers_names_each_node_once(build):
    model = build("(float[3] x) => (float[3] y) { y = Sum(x, x, x) }")
    assert consumers(model.graph.inputs[0]) == [model.graph.node(0)]
