"""surgeon: users' functions of an onnx-graphsurgeon Graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from getac.errors import PassError, UnsupportedModelError
from getac.passes import FoldQuantizers, Pipeline, State, SurgeonPass
from getac.pipeline import Effect
from getac.pipelines.registry import make_passes
from getac.quantizer import Quantizer
from getac.runtime import open_session, run
from tools.onnx_text import model_of

pytest.importorskip("onnx_graphsurgeon")

BODY = "c = Conv(x, w)  r = Relu(c)  y = Add(r, b)"
X = np.random.default_rng(0).normal(size=(2, 3, 5, 5)).astype(np.float32)


def nothing(graph):
    pass


def leaky(graph):
    for node in graph.nodes:
        if node.op == "Relu":
            node.op, node.attrs = "LeakyRelu", {"alpha": 0.5}


def doubled(graph):
    weight = graph.tensors()["w"]
    weight.values = weight.values * 2


@pytest.fixture
def proto():
    return model_of(BODY, {"x": ["N", 3, 5, 5]}, {"w": (4, 3, 3, 3), "b": (4, 1, 1)})


@pytest.fixture
def state(proto):
    return State(ir.from_proto(proto))


def outputs(model):
    return run(open_session(model, optimize=False), {"x": X})["y"]


def test_a_function_that_does_nothing_changes_nothing(state):
    before = outputs(state.model)
    Pipeline([SurgeonPass(nothing)], verify=[{"x": X}]).run(state)
    assert np.array_equal(outputs(state.model), before)
    assert [node.op_type for node in state.model.graph] == ["Conv", "Relu", "Add"]


def test_weights_are_the_same_tensors_afterwards(state):
    before = {name: value.const_value for name, value in state.model.graph.initializers.items()}
    Pipeline([SurgeonPass(leaky, Effect.ROUNDS)]).run(state)
    after = {name: value.const_value for name, value in state.model.graph.initializers.items()}
    assert {name: id(tensor) for name, tensor in after.items()} == {n: id(t) for n, t in before.items()}


def test_nodes_and_weights_can_be_edited(state):
    before = state.model.clone()
    Pipeline([SurgeonPass(leaky), SurgeonPass(doubled)]).run(state)
    assert [node.op_type for node in state.model.graph] == ["Conv", "LeakyRelu", "Add"]
    c = run(open_session(before, outputs=["c"]), {"x": X})["c"] * 2
    b = before.graph.initializers["b"].const_value.numpy()
    np.testing.assert_allclose(outputs(state.model), np.where(c > 0, c, c / 2) + b, rtol=1e-5, atol=1e-5)
    assert state.records[-1].changed


def test_a_renamed_weight_keeps_its_tensor(state):
    before = outputs(state.model)

    def rename(graph):
        graph.tensors()["w"].name = "weight"

    Pipeline([SurgeonPass(rename)]).run(state)
    assert "weight" in state.model.graph.initializers
    assert np.array_equal(outputs(state.model), before)


def test_a_returned_graph_is_taken(state):
    Pipeline([SurgeonPass(lambda graph: graph.copy())]).run(state)
    with pytest.raises(PassError, match="something else than a graph"):
        Pipeline([SurgeonPass(lambda graph: 1)]).run(state)


def test_what_graphsurgeon_forgets_is_given_back(proto):
    proto.metadata_props.add(key="author", value="somebody")
    proto.graph.node[1].metadata_props.add(key="module", value="act")
    proto.doc_string = "a model"
    state = State(ir.from_proto(proto))
    Pipeline([SurgeonPass(nothing)]).run(state)
    back = ir.to_proto(state.model)
    assert {one.key: one.value for one in back.metadata_props} == {"author": "somebody"}
    assert {one.key: one.value for one in back.graph.node[1].metadata_props} == {"module": "act"}
    assert back.doc_string == "a model"
    assert (back.ir_version, back.opset_import[0].version) == (10, 21)


def test_four_bit_weights_pass_through(proto):
    four = onnx.helper.make_tensor("q", onnx.TensorProto.INT4, [4], [1, -2, 3, -8])
    proto.graph.initializer.append(four)
    proto.graph.node.append(onnx.helper.make_node("Cast", ["q"], ["wide"], "wide", to=onnx.TensorProto.FLOAT))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("wide", onnx.TensorProto.FLOAT, [4]))
    state = State(ir.from_proto(proto))
    Pipeline([SurgeonPass(nothing)]).run(state)
    assert state.model.graph.initializers["q"].dtype is ir.DataType.INT4
    assert run(open_session(state.model), {"x": X})["wide"].tolist() == [1, -2, 3, -8]


def test_records_stay_with_the_names(state):
    values = {node.name: node.outputs[0] for node in state.model.graph}
    record = Quantizer(np.float32(0.1), 0, 255)
    Pipeline([FoldQuantizers()]).run(state)
    state.quantizers.update({values["r"]: record, values["c"]: record})

    def rename(graph):
        graph.tensors()["c"].name = "other"

    Pipeline([SurgeonPass(rename)]).run(state)
    assert {value.name: one for value, one in state.quantizers.items()} == {"r": record}
    assert [(one.where, one.reason) for one in state.refusals["surgeon"]] == [
        ("c", "it is gone, and its quantizer with it")
    ]


def test_types_that_would_be_lost_are_refused(proto):
    node = onnx.helper.make_node("Optional", [], ["o"], "o")
    node.attribute.add(name="type", type=onnx.AttributeProto.TYPE_PROTO).tp.tensor_type.elem_type = 1
    proto.graph.node.append(node)
    with pytest.raises(UnsupportedModelError, match="would lose attributes of type TYPE_PROTO"):
        Pipeline([SurgeonPass(nothing)]).run(State(ir.from_proto(proto)))


def test_a_graph_that_cannot_be_written_is_the_function_s_fault(state):
    def untyped(graph):
        graph.outputs[0].dtype = None

    with pytest.raises(PassError, match="cannot write the graph"):
        Pipeline([SurgeonPass(untyped)]).run(state)


def test_a_function_in_a_file_is_a_pass(tmp_path, state):
    path = tmp_path / "surgery.py"
    path.write_text(
        "def relu6(graph):\n    for n in graph.nodes:\n        n.op = {'Relu': 'Elu'}.get(n.op, n.op)\n"
    )
    Pipeline(make_passes(f"{path}:relu6")).run(state)
    assert [node.op_type for node in state.model.graph] == ["Conv", "Elu", "Add"]
