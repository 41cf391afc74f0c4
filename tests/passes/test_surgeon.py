"""surgeon: users' functions of an onnx-graphsurgeon Graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from getac.errors import PassError, UnsupportedModelError, VerificationError
from getac.onnx_graph.provenance import provenance_of
from getac.passes import FoldBatchNorm, FoldQuantizers, Pipeline, State, SurgeonPass
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
    model = state.model
    Pipeline([SurgeonPass(nothing)], verify=[{"x": X}]).run(state)
    assert state.model is model and not state.records[0].changed
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


def test_reading_a_weight_changes_nothing(state):
    read = []

    def look(graph):
        read.extend(tensor.values for tensor in graph.tensors().values() if hasattr(tensor, "values"))

    Pipeline([SurgeonPass(look)]).run(state)
    assert len(read) == 2 and all(one.flags.writeable for one in read)
    assert not state.records[0].changed


def test_a_weight_can_be_edited_in_place_and_is_no_one_else_s(state, tmp_path):
    array = state.model.graph.initializers["w"].const_value.numpy().copy()
    state.model.graph.initializers["w"].const_value = ir.Tensor(array, name="w")
    before, original = array.copy(), state.model.clone()

    def double(graph):
        graph.tensors()["w"].values *= 2

    with pytest.raises(VerificationError, match="the pass surgeon changes"):
        Pipeline([SurgeonPass(double)], verify=[{"x": X}]).run(State(original.clone()))
    Pipeline([SurgeonPass(double, Effect.ROUNDS)]).run(state)
    assert np.array_equal(array, before)
    assert np.array_equal(state.model.graph.initializers["w"].const_value.numpy(), 2 * before)
    ir.save(original, tmp_path / "model.onnx", external_data="model.data")
    mapped = State(ir.load(tmp_path / "model.onnx"))
    Pipeline([SurgeonPass(double)]).run(mapped)
    assert np.array_equal(mapped.model.graph.initializers["w"].const_value.numpy(), 2 * before)


def parsed(text):
    return State(ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')))


def test_constants_fold():
    state = parsed("""g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}, float[4] v = {1, 2, 3, 4}> {
        p = Mul(w, v)  y = Mul(x, p) }""")

    def fold(graph):
        graph.fold_constants().cleanup().toposort()

    Pipeline([SurgeonPass(fold)], verify=[{"x": np.ones(4, np.float32)}]).run(state)
    assert [node.op_type for node in state.model.graph] == ["Mul"]
    assert state.model.graph.initializers["p"].const_value.numpy().tolist() == [1, 4, 9, 16]


IF = """g (float[4] x, bool c) => (float[4] y) <float[4] w = {1, 2, 3, 4}, float[4] u = {1, 1, 1, 1}> {
    a = FIRST
    y = If(c) <then_branch = t () => (float[4] o) <float[4] q = {1, 1, 1, 1}> {
            m = Mul(a, w)  o = Add(m, q) },
               else_branch = e () => (float[4] p) { p = Sub(a, w) }> }"""


@pytest.mark.parametrize("first", ["Mul(x, w)", "Mul(x, u)"])
def test_weights_that_branches_read(first):
    """graphsurgeon writes them into every graph that reads them: they come back to where they were."""
    batches = [{"x": np.full(4, 3, np.float32), "c": np.asarray(c)} for c in (True, False)]

    def rename(graph):
        next(node for node in graph.nodes if node.op == "If").name = "branch"

    def double(graph):
        branch = next(node for node in graph.nodes if node.op == "If").attrs["then_branch"]
        branch.tensors()["w"].values *= 2

    state = parsed(IF.replace("FIRST", first))
    tensor = state.model.graph.initializers["w"].const_value
    Pipeline([SurgeonPass(nothing), SurgeonPass(rename)], verify=batches).run(state)
    assert [record.changed for record in state.records] == [False, True]
    assert set(state.model.graph.initializers) == ({"w", "u"} if "u)" in first else {"w"})
    assert state.model.graph.initializers["w"].const_value is tensor
    inner = [graph for graph in state.model.graphs() if graph is not state.model.graph]
    assert sorted(name for graph in inner for name in graph.initializers) == ["q"]
    with pytest.raises(VerificationError):
        Pipeline([SurgeonPass(double)], verify=batches).run(State(state.model.clone()))
    Pipeline([SurgeonPass(double)]).run(state)
    assert state.model.graph.initializers["w"].const_value.numpy().tolist() == [2, 4, 6, 8]


def test_nodes_that_the_function_leaves_alone_keep_their_origin(proto):
    norm = model_of(
        "c = Conv(x, w)  n = BatchNormalization(c, s, b, m, v)  r = Relu(n)  y = Add(r, r)",
        {"x": ["N", 3, 5, 5]},
        {"w": (4, 3, 3, 3), "s": (4,), "b": (4,), "m": (4,), "v": np.ones(4, np.float32)},
    )
    state = State(ir.from_proto(norm))
    Pipeline([FoldQuantizers(), FoldBatchNorm(), SurgeonPass(nothing), SurgeonPass(leaky)]).run(state)
    origins = {node.name: str(provenance_of(node)) for node in state.model.graph}
    assert origins == {"c": "c (after fold-batch-norm)", "r": "r (after surgeon)", "y": "y"}


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
    proto.graph.node[1].doc_string, proto.graph.input[0].doc_string = "rectified", "pictures"
    proto.graph.output[0].metadata_props.add(key="unit", value="m")
    proto.graph.initializer[1].doc_string = "a weight"
    state = State(ir.from_proto(proto))
    Pipeline([SurgeonPass(doubled)]).run(state)
    back = ir.to_proto(state.model)
    assert (back.graph.node[1].doc_string, back.graph.input[0].doc_string) == ("rectified", "pictures")
    assert back.graph.output[0].metadata_props[0].value == "m"
    assert back.graph.initializer[1].doc_string == "a weight"
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
