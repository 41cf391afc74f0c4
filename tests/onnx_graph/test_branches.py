"""Parts of a graph that are run by themselves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from getac.onnx_graph.branches import Branches
from tools.onnx_text import model_of

F32 = np.float32
W = np.linspace(-1, 1, 8, dtype=F32).reshape(2, 4)


def branches(body, tensors, outputs=("y",)):
    return Branches(ir.from_proto(model_of(body, {"x": [3, 2]}, tensors, outputs)))


def constants(found):
    return {node.name for node in found.constants}


@pytest.mark.parametrize(
    "random",
    [
        "r = RandomNormalLike(w)",
        "r = RandomUniformLike(w)",
        "r = Bernoulli(w)",
        "c = Multinomial<sample_size = 4>(w)  r = Cast<to = 1>(c)",
        "r = Dropout(w, ratio, training)",
        "r = RandomNormal<shape = [2, 4]>()",
    ],
)
def test_what_is_drawn_anew_is_no_constant(random):
    tensors = {"w": np.abs(W), "ratio": np.asarray(0.5, F32), "training": np.asarray(True)}
    found = branches(f"{random}  a = Abs(w)  b = Add(a, r)  y = MatMul(x, b)", tensors)
    assert constants(found) == {"a"}


def test_a_dropout_that_does_not_train_is_one():
    tensors = {"w": W, "ratio": np.asarray(0.5, F32), "training": np.asarray(False)}
    found = branches("r = Dropout(w, ratio, training)  y = MatMul(x, r)", tensors)
    assert constants(found) == {"r"}
    np.testing.assert_array_equal(found.result(found.graph[0].outputs[0]), W)


def test_a_branch_may_read_what_is_around_it():
    """An If whose condition is stored computes with x, which is none of its inputs."""
    then = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["t"])], "then", [], [helper.make_tensor_value_info("t", 1, [3, 2])]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["e"])], "else", [], [helper.make_tensor_value_info("e", 1, [3, 2])]
    )
    node = helper.make_node("If", ["c"], ["y"], "choice", then_branch=then, else_branch=other)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 2]) for name in "xy"]
    graph = helper.make_graph(
        [node], "g", ends[:1], ends[1:], [numpy_helper.from_array(np.asarray(True), "c")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert constants(Branches(ir.from_proto(model))) == set()


def test_running_a_branch_leaves_the_tensors_of_the_model_alone():
    proto = model_of("a = Abs(w)  y = MatMul(x, a)", {"x": [3, 2]}, {"w": W})
    before = proto.SerializeToString()
    model = ir.from_proto(proto)
    found = Branches(model)
    np.testing.assert_array_equal(found.result(model.graph[0].outputs[0]), np.abs(W))
    assert proto.SerializeToString() == before
    assert [value.const_value.name for value in model.graph.initializers.values()] == ["w"]


def test_the_numbers_that_a_function_is_made_of():
    body = (
        "a = Div(x, d)  r = Reciprocal(d)  b = Clip(a, lo)  c = Mul(b, r)  e = Add(c, lo)  y = MatMul(e, w)"
    )
    found = branches(body, {"d": np.asarray(4, F32), "lo": np.asarray([-3], F32), "w": W})
    x, e = found.graph.inputs[0], found.graph[4].outputs[0]
    assert sorted(found.numbers(x, e)) == [-3, 0.25, 4]
