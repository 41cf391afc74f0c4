"""Identities go; the interface stays."""

from __future__ import annotations

import numpy as np
import onnx

from getac.onnx_graph.read import read_proto
from getac.passes import Pipeline, RemoveIdentities, State
from getac.runtime import open_session, run

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
agraph (float[2, 3] x) => (float[2, 3] y, float[2, 3] same)
{
    a = Identity(x)
    b = Relu(a)
    c = Identity(b)
    y = Identity(c)
    same = Identity(x)
}
"""


def removed() -> State:
    state = State(read_proto(onnx.parser.parse_model(TEXT)))
    Pipeline((RemoveIdentities(),)).run(state)
    return state


def test_only_the_one_between_an_input_and_an_output_stays() -> None:
    model = removed().model
    assert [node.op_type for node in model.graph] == ["Relu", "Identity"]
    assert [value.name for value in model.graph.outputs] == ["y", "same"]


def test_the_model_computes_the_same() -> None:
    x = np.array([[-1, 2, 3], [4, -5, 6]], np.float32)
    found = run(open_session(removed().model), {"x": x})
    np.testing.assert_array_equal(found["y"], np.maximum(x, 0))
    np.testing.assert_array_equal(found["same"], x)


def test_a_second_run_changes_nothing() -> None:
    state = removed()
    Pipeline((RemoveIdentities(),)).run(state)
    assert [record.changed for record in state.records] == [True, False]


def test_a_wrong_shape_beside_an_identity_does_no_harm() -> None:
    text = TEXT.replace("{\n    a", "<float[6] c>\n{\n    a", 1)
    state = State(read_proto(onnx.parser.parse_model(text)))
    Pipeline((RemoveIdentities(),)).run(state)
    assert len(state.model.graph) == 2


def test_outputs_that_are_one_value_stay_apart() -> None:
    text = TEXT.replace("float[2, 3] same)", "float[2, 3] same, float[2, 3] again, float[2, 3] b)", 1)
    text = text.replace("    same =", "    again = Identity(c)\n    same =")
    proto = onnx.parser.parse_model(text)
    state = State(read_proto(proto))
    Pipeline((RemoveIdentities(),)).run(state)
    names = ["y", "same", "again", "b"]
    assert [value.name for value in state.model.graph.outputs] == names
    assert [node.op_type for node in state.model.graph] == ["Relu", *["Identity"] * 3]
    x = np.array([[-1, 2, 3], [4, -5, 6]], np.float32)
    found = run(open_session(state.model), {"x": x})
    for name in names:
        np.testing.assert_array_equal(found[name], x if name == "same" else np.maximum(x, 0))
