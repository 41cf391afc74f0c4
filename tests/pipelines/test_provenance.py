"""Every node remembers the node of the file that it stands for, and the passes that touched it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import getac
from getac.compression import compress
from getac.data.batches import open_calibration
from getac.errors import PassError
from getac.inspection import inspect
from getac.onnx_graph.edit import insert_after
from getac.onnx_graph.provenance import named, provenance_of
from getac.onnx_graph.read import load
from getac.options import Options
from getac.passes import Pipeline, RemoveDead, State
from getac.pipeline import Fact
from tests.pipelines.test_optimizing import Own
from tools.onnx_text import model_of
from tools.zoo.registry import ZOO

BODY = "c = Conv(x, w)  r = Relu(c)  d = Conv(r, v)  y = Add(d, d)"
F32 = np.float32


def proto():
    return model_of(BODY, {"x": [2, 3, 6, 6]}, {"w": (16, 3, 3, 3), "v": (4, 16, 1, 1)})


@pytest.fixture(scope="module")
def lowered():
    """A convolutional network as `getac.lower` leaves it: node -> its provenance."""
    original = load(proto())
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(F32)
    data = open_calibration(original, {"x": x})
    result = compress(original, data, None, Options(sparsity=0.5, align=8, bench=False))
    return {node.name: (node.op_type, provenance_of(node)) for node in result.models.lowered.graph}


def test_layers_keep_their_names_and_sources(lowered):
    for name in "cd":
        kind, origin = lowered[name]
        assert (kind, origin.source) == ("Conv", name)
        assert "lower-integers" in origin.passes


def test_new_nodes_name_the_layer_that_they_were_made_for(lowered):
    made = {name: origin for name, (_, origin) in lowered.items() if name not in ("c", "d", "y")}
    assert made and all(origin.passes[0] == "lower-integers" for origin in made.values())
    assert {origin.source for origin in made.values()} <= {"c", "r", "d", "y"}
    weights = {name: origin.source for name, origin in made.items() if name.startswith(("w.", "v."))}
    assert set(weights.values()) == {"c", "d"}
    assert all(source == ("c" if name.startswith("w.") else "d") for name, source in weights.items())


def test_what_is_untouched_is_its_own_source(lowered):
    kind, origin = lowered["y"]
    assert (kind, str(origin)) == ("Add", "y")


@pytest.mark.parametrize("name", ["resnet", "transformer", "shufflenet_v2"])
def test_every_source_is_a_node_of_the_file(name):
    original = load(ZOO[name]())
    names = {node.name for node in original.graph.all_nodes()}
    result = compress(original, None, None, Options(sparsity=0.3, bench=False))
    sources = {provenance_of(node).source for node in result.models.lowered.graph.all_nodes()}
    assert sources <= names


def edited(action):
    state = State(ir.from_proto(proto()))
    Pipeline([Own(action), RemoveDead()]).run(state)
    return {node.name: provenance_of(node) for node in state.model.graph}


def test_passes_add_up_in_order():
    state = State(ir.from_proto(proto()))

    def times(alpha):
        return lambda state: state.model.graph.node(1).attributes.add(ir.AttrFloat32("alpha", alpha))

    Pipeline([Own(times(0.5)), Own(times(0.25)), RemoveDead()]).run(state)
    relu = state.model.graph.node(1)
    assert str(provenance_of(relu)) == "r (after own, own)"
    assert named(relu) == "r (after own, own)"


def test_a_replacement_stands_for_what_it_replaces():
    def replace(state):
        graph = state.model.graph
        old = graph.node(1)
        new = ir.node("Elu", [old.inputs[0]], name="elu")
        graph.insert_before(old, new)
        name = old.outputs[0].name
        for user, index in list(old.outputs[0].uses()):
            user.replace_input_with(index, new.outputs[0])
        graph.remove(old, safe=True)
        new.outputs[0].name = name

    assert str(edited(replace)["elu"]) == "r (after own)"


def test_what_is_put_between_is_made_for_its_reader():
    def insert(state):
        graph = state.model.graph
        new = ir.node("Neg", [graph.node(0).outputs[0]], name="neg")
        insert_after(graph.node(0), new)

    found = edited(insert)
    assert str(found["neg"]) == "r (after own)"
    assert str(found["r"]) == "r"  # other activations make no other node


def test_a_stand_in_keeps_what_happened_before():
    def rebuild(kind):
        def action(state):
            graph = state.model.graph
            old = graph.node(1)
            new = ir.node(kind, [old.inputs[0]], name=old.name)
            graph.insert_before(old, new)
            name = old.outputs[0].name
            for user, index in list(old.outputs[0].uses()):
                user.replace_input_with(index, new.outputs[0])
            graph.remove(old, safe=True)
            new.outputs[0].name = name

        return action

    state = State(ir.from_proto(proto()))
    Pipeline([Own(rebuild("Elu"))]).run(state)
    assert str(provenance_of(state.model.graph.node(1))) == "r (after own)"
    Pipeline([Own(rebuild("Elu"))]).run(state)  # built anew as it was: not touched
    assert str(provenance_of(state.model.graph.node(1))) == "r (after own)"
    Pipeline([Own(rebuild("Selu"))]).run(state)
    assert str(provenance_of(state.model.graph.node(1))) == "r (after own, own)"


def test_errors_name_the_source():
    def expand(state):
        graph = state.model.graph
        new = ir.node("Conv", [graph.node(1).outputs[0], graph.initializers["v"]], name="copy")
        insert_after(graph.node(1), new)
        state.facts.add(Fact.LOWERED)

    with pytest.raises(PassError) as error:
        Pipeline([Lowers(expand)]).run(State(ir.from_proto(proto())))
    assert error.value.found == "c has neither stored integers nor a reason"
    with pytest.raises(PassError) as error:
        Pipeline([Lowers(lambda state: [expand(state), refuse(state, "c", "d")])]).run(
            State(ir.from_proto(proto()))
        )
    assert error.value.found == "copy, from d (after own) has neither stored integers nor a reason"


class Lowers(Own):
    gives = frozenset({Fact.LOWERED})


def refuse(state, *names):
    from getac.passes import Refusal

    for name in names:
        state.refuse("lower-integers", Refusal(name, "a test"))


def test_inspect_has_the_file_s_names_and_tells_of_others(tmp_path):
    assert inspect(proto()).origins == {}
    normalised = model_of(
        "c = Conv(x, w)  n = BatchNormalization(c, s, b, m, v)  y = Relu(n)",
        {"x": [1, 3, 6, 6]},
        {"w": (8, 3, 3, 3), "s": (8,), "b": (8,), "m": (8,), "v": np.ones(8, F32)},
    )
    assert inspect(normalised).origins == {"c": "c (after fold-batch-norm)"}
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(F32)
    getac.lower(proto(), tmp_path / "q.onnx", calibration={"x": x}, bench=False)
    found = inspect(tmp_path / "q.onnx")
    assert [layer.name for layer in found.layers] == ["c", "d"]
    assert all("fold-quantizers" in origin for origin in found.origins.values())
