"""The zoo of PyTorch models through capture and insertion: the same model, then rounded, then trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import getac  # noqa: E402
from getac.axes.analysis import Analysis  # noqa: E402
from getac.training.insertion import insert, plan_activations, plan_weights  # noqa: E402
from getac.training.layers import find_layers  # noqa: E402
from getac.training.observation import observed_maxima, weight_maxima  # noqa: E402
from getac.training.quantizers import PlacedQuantizer, find_quantizers  # noqa: E402
from getac.training.widths import Widths  # noqa: E402
from tools.fx_law import difference, outputs_of, resized, tensors_of  # noqa: E402
from tools.torch_zoo.example import Example  # noqa: E402
from tools.torch_zoo.registry import TORCH_ZOO, example  # noqa: E402

every_model = pytest.mark.parametrize("name", TORCH_ZOO)
STEPS = 3


@dataclass(frozen=True)
class Case:
    """A model in evaluation mode, captured, and prepared with 8 bits; all share their parameters."""

    given: Example
    captured: torch.fx.GraphModule
    prepared: torch.fx.GraphModule
    float_outputs: Sequence[torch.Tensor]


@cache
def case(name: str) -> Case:
    given = example(name)
    given.module.eval()
    expected = outputs_of(given.module, given.args, given.kwargs)
    captured = getac.capture(given.module, given.args, given.kwargs)
    batch = dict(given.kwargs) if given.kwargs else given.args
    prepared = getac.prepare(given.module, given.args, given.kwargs, calibration=[batch])
    return Case(given, captured, prepared, expected)


def with_sixteen_bits(one: Case) -> torch.fx.GraphModule:
    """What prepare does with a captured module."""
    module = copy.deepcopy(one.captured)
    layers, widths = find_layers(module), Widths.read(16, 16, None)
    weights, activations = plan_weights(module, layers, widths), plan_activations(module, layers, widths)
    ranges = observed_maxima(module, activations, [(one.given.args, one.given.kwargs)])
    insert(module, [*weights, *activations], weight_maxima(module, weights) | ranges)
    return module


def loss_of(module: torch.nn.Module, given: Example, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    outputs = [one for one in tensors_of(module(*given.args, **given.kwargs)) if one.requires_grad]
    return torch.stack([one.float().square().mean() for one in outputs]).sum()


@every_model
def test_the_captured_model_evaluates_bit_by_bit_as_the_model(name: str) -> None:
    one = case(name)
    inputs = [(one.given.args, dict(one.given.kwargs))]
    assert_equal(one.float_outputs, outputs_of(one.captured, *inputs[0]))
    longer = resized(inputs[0], 3)
    assert difference(outputs_of(one.given.module, *longer), outputs_of(one.captured, *longer)) <= 1e-6


def assert_equal(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> None:
    assert len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@every_model
def test_the_captured_model_trains_as_the_model(name: str) -> None:
    """The same gradients and running statistics, under the same names."""
    one = case(name)
    model, captured = copy.deepcopy(one.given.module).train(), copy.deepcopy(one.captured).train()
    for module in (model, captured):
        loss_of(module, one.given).backward()  # type: ignore[no-untyped-call]
    ours, theirs = dict(captured.named_parameters()), dict(model.named_parameters())
    assert list(ours) == list(theirs)
    for key, parameter in theirs.items():
        assert (parameter.grad is None) == (ours[key].grad is None), key
        if parameter.grad is not None:
            assert difference([parameter.grad], [ours[key].grad]) <= 1e-6, key
    buffers = dict(captured.named_buffers())
    assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())


@every_model
def test_parameters_are_the_models_own(name: str) -> None:
    one = case(name)
    own = dict(one.given.module.named_parameters(remove_duplicate=False))
    after = dict(one.prepared.named_parameters(remove_duplicate=False))
    captured = dict(one.captured.named_parameters(remove_duplicate=False))
    assert list(captured) == list(own)
    assert all(captured[key] is after[key] is parameter for key, parameter in own.items())
    added = {quantizer.name for quantizer in placed(one)}
    assert {key.rpartition(".")[0] for key in after.keys() - own.keys()} == added


@every_model
def test_eight_bits_change_little(name: str) -> None:
    one = case(name)
    assert difference(one.float_outputs, outputs_of(one.prepared, one.given.args, one.given.kwargs)) < 0.05


@every_model
def test_sixteen_bits_change_next_to_nothing(name: str) -> None:
    one = case(name)
    found = difference(
        one.float_outputs, outputs_of(with_sixteen_bits(one), one.given.args, one.given.kwargs)
    )
    assert 0 < found < 1e-3


@every_model
def test_the_analysis_sees_one_node_per_layer(name: str) -> None:
    """Quantizers fold: classes, frozen axes and places of sizes are those of the float model."""
    one = case(name)
    floats, rounded = getac.analyze(one.captured), getac.analyze(one.prepared)
    assert told(floats) == told(rounded)
    assert rounded.quantizers.keys() == {value_of(quantizer, rounded) for quantizer in placed(one)}
    shown = [data for _, data in rounded.graph.nodes(data=True) if data["kind"] == "quantizer"]
    assert len(shown) == len(rounded.quantizers)
    assert rounded.costs.total.bops < floats.costs.total.bops


def placed(one: Case) -> Sequence[PlacedQuantizer]:
    return find_quantizers(one.prepared)


def value_of(quantizer: PlacedQuantizer, analysis: Analysis) -> Any:
    [value] = [value for value, one in analysis.view.quantizers.items() if one.name == quantizer.name]  # type: ignore[attr-defined]
    return value


def told(analysis: Analysis) -> list[Any]:
    """What an analysis says, in names."""
    return [
        [node.name for node in analysis.view.nodes],
        [(one.name, one.role, one.size, members(one)) for one in analysis.classes],
        [(one.size, one.why.reason, members(one)) for one in analysis.frozen],
        [(site.node.name, site.argument, site.index) for site in analysis.sites],
        sorted(map(analysis.view.name_of, analysis.parameters)),
    ]


def members(one: Any) -> list[tuple[str, int]]:
    return [(member.name, member.dimension) for member in one.members]


@every_model
def test_three_steps_of_training(name: str) -> None:
    """Every quantizer that learns, and every parameter that had a gradient before, has a finite one."""
    one = case(name)
    module = copy.deepcopy(one.prepared).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(module, one.given, step)
        loss.backward()  # type: ignore[no-untyped-call]
        getac.check_gradients(module)
        optimizer.step()
    captured = copy.deepcopy(one.captured).train()
    loss_of(captured, one.given).backward()  # type: ignore[no-untyped-call]
    wanted = {key for key, parameter in captured.named_parameters() if parameter.grad is not None}
    wanted |= {f"{one.name}.q_m" for one in find_quantizers(module) if one.q_m.requires_grad}
    found = dict(module.named_parameters())
    assert all(found[key].grad is not None and found[key].grad.isfinite().all() for key in wanted)


@every_model
def test_every_layer_has_a_quantized_weight_and_input(name: str) -> None:
    """No value is rounded twice, no quantizer is there for nothing."""
    quantizers = placed(case(name))
    assert len({one.name for one in quantizers}) == len({one.x for one in quantizers}) == len(quantizers)
    assert all(one.node.users for one in quantizers)
    assert not any(one.x in {other.node for other in quantizers} for one in quantizers)
    assert all((one.axis is not None) == one.of_weight for one in quantizers)
