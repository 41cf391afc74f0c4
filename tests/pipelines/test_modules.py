"""The same pipelines on captured torch.fx modules."""

from __future__ import annotations

import operator
from copy import deepcopy

import pytest

torch = pytest.importorskip("torch")

from getac.errors import (  # noqa: E402
    BadInputError,
    OptionError,
    PassError,
    UnsupportedModelError,
    VerificationError,
)
from getac.fx_graph.capture import capture  # noqa: E402
from getac.passes import ChooseUnits, Fact, InferAxes, Pipeline, SliceUnits, State  # noqa: E402
from getac.pipelines.providers import standard_provider  # noqa: E402
from getac.pipelines.registry import built_in_passes, make_passes  # noqa: E402
from getac.pipelines.showing import Dumped, Printed  # noqa: E402
from getac.pipelines.snapshot import snapshot  # noqa: E402
from getac.pipelines.verifying import EachVerified  # noqa: E402
from tests.pipelines.own import Own  # noqa: E402

nn = torch.nn


@pytest.fixture(scope="module")
def captured():
    """A module and its capture, made once; tests work on copies."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 1),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    return capture(nn.Sequential(*layers).eval(), (torch.randn(2, 3, 6, 6),))


@pytest.fixture
def state(captured):
    return State.of_module(deepcopy(captured))


X = torch.linspace(-1, 1, 3 * 3 * 36).reshape(3, 3, 6, 6)


def run(state, *passes):
    return Pipeline(passes, provider=standard_provider).run(state)


def test_the_passes_of_pruning(state):
    run(state, InferAxes(), ChooseUnits(0.5, 8), SliceUnits())
    assert [record.name for record in state.records] == ["infer-axes", "choose-units", "slice-units"]
    assert [record.changed for record in state.records] == [False, False, True]
    assert state.facts >= {Fact.SLICED} and Fact.AXES not in state.facts
    shapes = {name: tuple(one.shape) for name, one in state.module.named_parameters()}
    assert shapes["0.weight"] == (8, 3, 3, 3) and shapes["3.weight"][1] == 8
    assert state.module(X).shape == (3, 4)


def test_what_is_left_unsaid_is_provided(state):
    run(state, *make_passes("slice-units{sparsity=0.5,align=8}"))
    assert [(record.name, record.added) for record in state.records] == [
        ("infer-axes", True),
        ("choose-units", True),
        ("slice-units", False),
    ]


def test_sliced_equals_masked(state, captured):
    run(state, InferAxes(), ChooseUnits(0.25, 4))
    analysis, choice = state.analysis, state.choice
    assert choice.removed > 0
    reference = deepcopy(captured)
    tensors = {**dict(reference.named_parameters()), **dict(reference.named_buffers())}
    with torch.no_grad():
        for one in analysis.classes:
            keep = choice.masks.get(one.atom)
            for member in one.members if keep is not None else ():
                for owner in member.owners(one.atom):
                    gone = torch.from_numpy((owner >= 0) & ~keep[owner])
                    tensors[member.name].movedim(member.dimension, 0)[gone] = 0
    run(state, SliceUnits())
    torch.testing.assert_close(state.module(X), reference(X), rtol=1e-4, atol=1e-5)


def test_keep_is_heard(state):
    run(state, InferAxes(keep=("0.*",)), ChooseUnits(0.5, 1), SliceUnits())
    assert state.module.get_parameter("0.weight").shape[0] == 16


def test_a_user_s_pass_edits_the_module(state):
    def leaky(state):
        for node in state.module.graph.nodes:
            if node.target is torch.ops.aten.relu.default:
                node.target, node.args = torch.ops.aten.leaky_relu.default, (*node.args, 0.5)
        state.module.recompile()

    before = state.module(X)
    run(state, Own(leaky), SliceUnits(0.5, 8))
    assert state.records[0].changed and not torch.equal(before[:1] * 0, state.module(X)[:1])
    assert any(node.target is torch.ops.aten.leaky_relu.default for node in state.module.graph.nodes)


def test_a_change_drops_what_is_no_longer_known(state):
    def more(state):
        with torch.no_grad():
            state.module.get_parameter("0.weight").mul_(2)

    run(state, InferAxes())
    assert Fact.AXES in state.facts
    run(state, Own(more))
    assert Fact.AXES not in state.facts


ONNX_ONLY = {
    name: kind
    for name, kind in built_in_passes().items()
    if name not in ("infer-axes", "choose-units", "slice-units", "replay-units", "replay-quantizers")
}


@pytest.mark.parametrize("name", ONNX_ONLY)
def test_passes_for_onnx_alone_refuse(state, name):
    one = ONNX_ONLY[name]()
    state.facts |= one.needs
    with pytest.raises(PassError) as error:
        Pipeline([one], language={}).run(state)
    assert error.value.message == f"the pass {name} edits ONNX models"
    assert error.value.found == "a torch.fx module"


def test_a_pass_for_modules_refuses_onnx(build):
    state = State(build("(float[2] x) => (float[2] y) { y = Relu(x) }"))
    with pytest.raises(PassError, match=r"the pass own edits torch\.fx modules"):
        run(state, Own(lambda state: state.module))


def test_dead_units_that_leave_constants_are_for_onnx(state):
    with torch.no_grad():
        state.module.get_parameter("0.weight")[:8] = 0
        state.module.get_parameter("1.bias").fill_(1.0)
    with pytest.raises(UnsupportedModelError, match="constants behind") as error:
        run(state, InferAxes(), ChooseUnits(None, 1), SliceUnits())
    assert "choose-units with a sparsity" in error.value.hint


def test_options_that_nobody_reads_are_refused(state):
    with pytest.raises(OptionError, match="the units are chosen already"):
        run(state, InferAxes(), ChooseUnits(0.5), SliceUnits(0.25))


# Running them before and after, and looking at them


def name_of_input(state):
    return next(node.target for node in state.module.graph.nodes if node.op == "placeholder")


def verified(state, *passes):
    watcher = EachVerified([{name_of_input(state): X.numpy()}])
    Pipeline(passes, watchers=[watcher], provider=standard_provider).run(state)
    return watcher.checks


def test_the_passes_of_pruning_are_verified(state):
    checks = verified(state, InferAxes(), ChooseUnits(0.5, 8), SliceUnits())
    assert [(one.name, one.effect.name) for one in checks] == [
        ("infer-axes", "NONE"),
        ("choose-units", "NONE"),
        ("slice-units", "REMOVES"),
    ]
    assert all(one.worst.sqnr_db > 100 for one in checks)
    assert checks[-1].bound == "a relative difference of at most 0.0001"


def scaled(factor):
    def scale(state):
        state.module.get_parameter("3.weight").data.mul_(factor)

    return Own(scale)


def test_a_wrong_pass_on_a_module_is_named_with_the_first_value(state):
    verified(state, scaled(1 + 1e-6))
    with pytest.raises(VerificationError, match="the pass own changes what the model computes") as error:
        verified(state, scaled(1.01))
    convolutions = [n.name for n in state.module.graph.nodes if "conv" in n.name]
    assert error.value.where.startswith(f"the first value that departs: {convolutions[-1]} ")
    assert error.value.required == "a relative difference of at most 0.0001"
    assert error.value.hint is None  # getac opt reduces ONNX models


def test_a_module_that_fails_and_inputs_of_another(state):
    def break_it(state):
        conv = next(n for n in state.module.graph.nodes if "conv" in n.name)
        conv.args = (conv.args[0], conv.args[0], *conv.args[2:])
        state.module.recompile()

    with pytest.raises(PassError, match="after the pass own the model does not run") as error:
        verified(state, Own(break_it))
    assert "conv" in error.value.where
    with pytest.raises(BadInputError, match="are not those of the model"):
        Pipeline([scaled(1)], verify=[{"other": X.numpy()}]).run(State.of_module(deepcopy(state.module)))


def test_modules_are_shown_as_their_code(state, tmp_path):
    said = []
    run_with = [Printed(["all"], said.append), Dumped(tmp_path)]
    Pipeline([InferAxes()], watchers=run_with).run(state)
    assert said[0].startswith("after infer-axes:\ndef forward(self, ")
    assert (tmp_path / "01-infer-axes.py").read_text().startswith("def forward(self, ")


def test_a_module_that_was_not_captured():
    with pytest.raises(PassError, match="this is nothing that passes can edit") as error:
        Pipeline([InferAxes()]).run(State.of_module(nn.Linear(2, 2)))
    assert error.value.found == "Linear" and "captures a torch module" in error.value.hint


# What the runner notices


def same_after(module, action):
    before = snapshot(module)
    with torch.no_grad():
        action(module)
    return before.same_as(snapshot(module))


def in_place(module):
    module.get_parameter("0.weight").mul_(2)


def under_data(module):
    module.get_parameter("0.weight").data.mul_(2)


def exchanged(module):
    one = module.get_parameter("0.weight").data
    one[[0, 1]] = one[[1, 0]]


def in_place_without_a_version(module):
    one = module.get_parameter("0.weight")
    one.data = one.data * 2


def replaced(module):
    module.get_submodule("0").weight = nn.Parameter(module.get_parameter("0.weight").clone())


def a_buffer(module):
    next(module.buffers()).add_(1)


def another_target(module):
    node = next(n for n in module.graph.nodes if n.target is torch.ops.aten.relu.default)
    node.target = torch.ops.aten.neg.default


def another_argument(module):
    node = next(n for n in module.graph.nodes if n.op == "call_function")
    node.kwargs = {**node.kwargs, "extra": 1}


def a_node_more(module):
    output = module.graph.output_node()
    with module.graph.inserting_before(output):
        module.graph.call_function(operator.neg, (output.all_input_nodes[0],))


def a_node_less(module):
    a_node_more(module)
    module.graph.erase_node(next(n for n in module.graph.nodes if n.target is operator.neg))
    another_target(module)


CHANGES = (
    *(in_place, under_data, exchanged, in_place_without_a_version, replaced, a_buffer),
    *(another_target, another_argument, a_node_more, a_node_less),
)


@pytest.mark.parametrize("action", CHANGES)
def test_changes_are_noticed(state, action):
    assert not same_after(state.module, action)


def test_looking_is_no_change(state):
    def look(module):
        module.recompile()
        str(module.graph)
        dict(module.named_parameters())
        module.state_dict()

    assert same_after(state.module, look)
