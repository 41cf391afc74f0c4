"""The runner: what a pass needs and gives is checked on the model, and changes are noticed, not believed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from getac.errors import PassError
from getac.onnx_graph.edit import replace_tensor
from getac.pipeline import Announcer, Effect, Fact, PassRecord, Pipeline, Refusal, State

F32 = np.float32


@dataclass(frozen=True)
class Fake:
    """A pass that does what a test wants."""

    action: Callable[[State], object] = lambda state: None
    name: str = "fake"
    needs: frozenset[Fact] = frozenset()
    gives: frozenset[Fact] = frozenset()
    keeps: frozenset[Fact] = frozenset()
    effect: Effect = Effect.NONE


@dataclass(frozen=True)
class Boastful:
    """A pass that claims sizes and forgets to compute them."""

    name: ClassVar[str] = "boastful"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.SHAPES})
    keeps: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, state: State) -> None:
        pass


def run_action(self, state):
    self.action(state)


Fake.run = run_action


@pytest.fixture
def state(build):
    text = """(float[2,3] x, bool c) => (float[2,3] y) { a = Mul(x, W) b = LeakyRelu<alpha=0.5>(a)
        y = If(c) <then_branch = t () => (float[2,3] o) { o = Neg(b) },
                   else_branch = e () => (float[2,3] p) { p = Abs(b) }> }"""
    return State(build(text, W=np.ones(3, F32), V=np.ones(3, F32)))


def changed(state, action):
    Pipeline([Fake(action, effect=Effect.INTERFACE)], language={}).run(state)
    return state.records[-1].changed


def test_missing_need_names_the_pass_the_fact_and_what_ran(state):
    passes = [Fake(name="first"), Fake(name="second", needs=frozenset({Fact.AXES, Fact.CHOSEN}))]
    with pytest.raises(PassError) as error:
        Pipeline(passes).run(state)
    assert error.value.message == "the pass second cannot run here"
    assert error.value.required == "pruning classes are inferred; the units to remove are chosen"
    assert error.value.found == "after first"
    assert error.value.hint == "add the pass that gives it before this one"
    assert [record.name for record in state.records] == ["first"]


def test_missing_need_at_the_start(state):
    with pytest.raises(PassError, match="after no pass"):
        Pipeline([Fake(needs=frozenset({Fact.SHAPES}))]).run(state)


def test_a_need_that_is_given_before(state):
    giver = Fake(gives=frozenset({Fact.SLICED}))
    taker = Fake(needs=frozenset({Fact.SLICED}))
    Pipeline([giver, taker]).run(state)
    assert state.facts == {Fact.SLICED}


def test_a_broken_promise_is_caught_and_named(state):
    with pytest.raises(PassError) as error:
        Pipeline([Fake(), Boastful()]).run(state)
    message = "the pass boastful left a model of which this is not true: shapes are inferred"
    assert error.value.message == message
    assert error.value.found == "there are no shapes"
    assert "bug of the pass" in error.value.hint


def test_a_fact_that_a_later_pass_keeps_and_breaks_is_caught_too(state):
    def no_relu(state):
        found = [node.name for node in state.model.graph if node.op_type == "Relu"]
        return f"{found[0]} is a Relu" if found else None

    def break_it(state):
        next(node for node in state.model.graph if node.op_type == "LeakyRelu").op_type = "Relu"

    fact = frozenset({Fact.SLICED})
    passes = [Fake(gives=fact), Fake(break_it, name="culprit", keeps=fact)]
    with pytest.raises(PassError, match=r"pass culprit left(.|\n)*leakyrelu_1 is a Relu"):
        Pipeline(passes, language={Fact.SLICED: no_relu}).run(state)


def test_a_change_drops_what_the_pass_does_not_keep(state):
    state.facts = {Fact.SHAPES, Fact.AXES, Fact.QUANTIZERS_FOLDED}
    one = Fake(
        lambda state: state.model.graph.node(1).attributes.pop("alpha"),
        keeps=frozenset({Fact.QUANTIZERS_FOLDED, Fact.CHOSEN}),
        gives=frozenset({Fact.SLICED}),
    )
    Pipeline([one], language={}).run(state)
    assert state.facts == {Fact.QUANTIZERS_FOLDED, Fact.SLICED}


def test_without_a_change_every_fact_stays(state):
    state.facts = {Fact.SHAPES, Fact.AXES}
    Pipeline([Fake(gives=frozenset({Fact.CHOSEN}))], language={}).run(state)
    assert state.facts == {Fact.SHAPES, Fact.AXES, Fact.CHOSEN}


def test_records_and_progress(state):
    seen = []
    passes = [Fake(name="one"), Fake(lambda state: state.model.graph.node(1).attributes.clear(), name="two")]
    watch = Announcer(lambda name: seen.append((name, len(state.records))))
    returned = Pipeline(passes, watchers=[watch]).run(state)
    assert returned is state
    assert seen == [("one", 0), ("two", 1)]
    assert [(record.name, record.changed) for record in state.records] == [("one", False), ("two", True)]
    assert all(isinstance(record, PassRecord) and 0 <= record.seconds < 1 for record in state.records)


def test_an_error_of_a_pass_passes_through(state):
    def fail(state):
        raise PassError("no")

    with pytest.raises(PassError, match=r"^no$"):
        Pipeline([Fake(fail)]).run(state)
    assert state.records == []


def test_refusals_are_collected_under_the_pass(state):
    state.refuse("one", Refusal("a", "b"))
    state.refuse("one", Refusal("c", "d", "e"))
    assert state.refusals == {"one": [Refusal("a", "b"), Refusal("c", "d", "e")]}


# What counts as a change


def rename_operator(state):
    state.model.graph.node(1).op_type = "Elu"


def other_attribute(state):
    state.model.graph.node(1).attributes["alpha"] = ir.AttrFloat32("alpha", 0.25)


def other_edge(state):
    state.model.graph.node(1).replace_input_with(0, state.model.graph.inputs[0])


def other_weight(state):
    replace_tensor(state.model.graph.initializers["W"], np.zeros(3, F32))


def other_output(state):
    state.model.graph.outputs[0] = state.model.graph.node(1).outputs[0]


def one_node_more(state):
    graph = state.model.graph
    graph.insert_after(graph.node(0), ir.node("Neg", [graph.node(0).outputs[0]]))


def one_tensor_less(state):
    del state.model.graph.initializers["V"]


def inside_a_subgraph(state):
    state.model.graph.node(2).attributes["then_branch"].as_graph().node(0).op_type = "Abs"


def replaced_until_the_id_recurs(state):
    """Memory of the first tensor is given to a later one, and with it its `id`."""
    weight = state.model.graph.initializers["W"]
    first = id(weight.const_value)
    for number in range(1000):
        replace_tensor(weight, np.full(3, number, F32))
        if id(weight.const_value) == first:
            break


def another_name(state):
    state.model.graph.node(0).outputs[0].name = "other"


def another_input_shape(state):
    state.model.graph.inputs[0].shape = ir.Shape([7, 3])


def an_open_size(state):
    state.model.graph.inputs[0].shape = ir.Shape(["N", 3])


def another_type(state):
    state.model.graph.node(0).outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)


def another_opset(state):
    state.model.graph.opset_imports["mine"] = 3


def another_domain(state):
    state.model.graph.node(1).domain = "mine"


CHANGES = (
    *(another_name, another_input_shape, an_open_size, another_type, another_opset, another_domain),
    *(rename_operator, other_attribute, other_edge, other_weight, other_output, one_node_more),
    *(one_tensor_less, inside_a_subgraph, replaced_until_the_id_recurs),
)


@pytest.mark.parametrize("action", CHANGES)
def test_changes_are_noticed(state, action):
    assert changed(state, action)
    assert not changed(state, lambda state: None)


def test_looking_is_no_change(state):
    def look(state):
        for node in state.model.graph:
            str(node)
        state.model.graph.initializers["W"].const_value.numpy()
        state.model.clone()
        state.quantizers = {}

    assert not changed(state, look)


def test_sizes_are_forgotten_with_the_shape_of_an_input(state):
    state.facts = {Fact.SHAPES}
    Pipeline([Fake(an_open_size)], language={}).run(state)
    assert state.facts == set()


def twice_in_place(state):
    array = state.model.graph.initializers["W"].const_value.numpy()
    array *= 2


def test_arrays_cannot_be_edited_in_place(state):
    array = np.ones(3, F32)
    state.model.graph.initializers["W"].const_value = ir.Tensor(array, name="W")
    with pytest.raises(ValueError, match="read-only"):
        Pipeline([Fake(twice_in_place)]).run(state)
    replace_tensor(state.model.graph.initializers["W"], np.full(3, 5, F32))
    with pytest.raises(ValueError, match="read-only"):  # nor those that a pass made
        Pipeline([Fake(), Fake(twice_in_place)]).run(state)
    assert np.array_equal(array, np.ones(3, F32)) and array.flags.writeable


# What a pass may leave


def cast_output(state):
    graph = state.model.graph
    old = graph.outputs[0]
    cast = ir.node("Cast", [old], {"to": 11})
    graph.append(cast)
    old.name, cast.outputs[0].name = "before", old.name
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.DOUBLE), old.shape
    graph.outputs[0] = cast.outputs[0]


@pytest.mark.parametrize(
    ("action", "kind", "found"),
    [
        (other_output, "outputs", "b"),
        (cast_output, "outputs", "y: double[2, 3]"),
        (another_input_shape, "inputs", "x: float[7, 3]"),
    ],
)
def test_other_inputs_or_outputs_are_an_error_unless_the_pass_says_so(state, action, kind, found):
    with pytest.raises(PassError, match=f"the pass fake changes the model's {kind}") as error:
        Pipeline([Fake(action)], language={}).run(State(state.model.clone()))
    assert error.value.found == found and "Effect.INTERFACE" in error.value.hint
    Pipeline([Fake(action, effect=Effect.INTERFACE)], language={}).run(state)
    assert state.records[-1].changed


def test_values_that_nothing_computes(state):
    with pytest.raises(PassError, match="the pass fake left a value that nothing computes") as error:
        Pipeline([Fake(lambda state: state.model.graph.remove(state.model.graph.node(2)))]).run(state)
    assert error.value.where.startswith("y, an output of ")


@pytest.mark.parametrize("program", [None, 42, "model.onnx"])
def test_what_is_no_model(state, program):
    def leave(state):
        state.program = program

    with pytest.raises(PassError, match="the pass fake left no model") as error:
        Pipeline([Fake(leave)]).run(state)
    assert error.value.found == type(program).__name__
    with pytest.raises(PassError, match="this is nothing that passes can edit"):
        Pipeline([]).run(State(program))


def test_an_effect_that_is_none(state):
    with pytest.raises(PassError, match="the pass fake has an unknown effect") as error:
        Pipeline([Fake(other_output, effect="rounds")], language={}).run(state)
    assert error.value.found == "'rounds'" and "Effect.ROUNDS" in error.value.required


def test_a_choice_is_forgotten_with_the_classes_that_it_is_about(state):
    passes = [Fake(gives=frozenset({Fact.AXES})), Fake(gives=frozenset({Fact.CHOSEN}))]
    Pipeline(passes, language={}).run(state)
    assert state.facts == {Fact.AXES, Fact.CHOSEN}
    again = Fake(name="again", gives=frozenset({Fact.AXES}))
    with pytest.raises(PassError, match="the pass taker cannot run here") as error:
        Pipeline([again, Fake(name="taker", needs=frozenset({Fact.CHOSEN}))], language={}).run(state)
    assert state.facts == {Fact.AXES}
    assert error.value.hint.startswith("it held until again: give it again behind that")


def test_the_runner_keeps_no_replaced_tensor_alive(state):
    alive = []

    def replace(state):
        value = state.model.graph.initializers["W"]
        old = weakref.ref(value.const_value)
        replace_tensor(value, np.zeros(3, F32))
        alive.append(old())

    assert changed(state, replace)
    assert alive == [None]
