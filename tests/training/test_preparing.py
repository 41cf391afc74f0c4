"""`getac.prepare`: the module trains, evaluates, is copied, saved, exported and compiled."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import getac
from getac.errors import BadInputError, UnsupportedModelError
from getac.fx_graph.capture import is_captured
from getac.training.quantizers import find_quantizers
from getac.training.state import state_of

IMAGES = torch.randn(4, 3, 8, 8)
INPUT = "x_quantizer"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.3)
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(F.relu_(self.norm(self.conv(x))).mean((2, 3))))  # type: ignore[no-any-return]


def prepared(model: nn.Module | None = None, **options: Any) -> torch.fx.GraphModule:
    torch.manual_seed(0)
    return getac.prepare(model or Net(), (IMAGES,), calibration=[IMAGES], **options)


def test_public_names() -> None:
    assert {"capture", "prepare", "check_gradients"} <= set(getac.__all__)


def test_the_mode_of_the_model_is_kept_and_switches() -> None:
    assert prepared().training and not prepared(Net().eval()).training
    module = prepared()
    assert not torch.equal(module(IMAGES), module(IMAGES))
    before = module.get_buffer("norm.running_mean").clone()
    module.eval()
    assert torch.equal(module(IMAGES), module(IMAGES))
    assert torch.equal(before, module.get_buffer("norm.running_mean"))
    module.train()(IMAGES)
    assert not torch.equal(before, module.get_buffer("norm.running_mean"))


def test_other_batch_sizes_run() -> None:
    assert prepared()(torch.randn(9, 3, 8, 8)).shape == (9, 4)


def test_the_state_dict_has_the_models_names_and_the_quantizers() -> None:
    model = Net()
    keys = list(model.state_dict())
    module = prepared(model)
    values = ["x", "relu_", "mean"]
    added = {
        f"{name}_quantizer.{part}" for name in ["conv.weight", "out.weight", *values] for part in ("d", "q_m")
    }
    assert set(module.state_dict()) == {*keys, *added}
    other = prepared(Net())
    other.load_state_dict(module.state_dict())
    assert torch.equal(module.eval()(IMAGES), other.eval()(IMAGES))


def test_it_is_a_captured_module_that_remembers_how_it_came_to_be() -> None:
    module = prepared()
    state = state_of(module)
    assert is_captured(module) and state.dynamic_batch and state.args == (IMAGES,) and not state.kwargs
    names = [node.name for node in module.graph.nodes]
    for one in state.insertions:
        assert one.node in names and set(one.readers) <= set(names)
        assert one.name.replace(".", "_") in names  # the call has a name that can be read
    assert [one.name for one in find_quantizers(module)] == sorted(
        (one.name for one in state.insertions), key=lambda name: names.index(name.replace(".", "_"))
    )


def test_a_copy_is_independent() -> None:
    module = prepared().eval()
    copied = copy.deepcopy(module)
    before = module(IMAGES)
    assert torch.equal(before, copied(IMAGES)) and state_of(copied).insertions == state_of(module).insertions
    with torch.no_grad():
        for quantizer in find_quantizers(copied):
            quantizer.q_m.mul_(0.25)
    assert torch.equal(before, module(IMAGES)) and not torch.equal(before, copied(IMAGES))


def test_quantizers_learn() -> None:
    """Steps with a torch optimizer change weights and ranges, and the loss falls."""
    torch.manual_seed(0)
    module = prepared()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    targets = torch.tensor([0, 1, 2, 3])
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(IMAGES), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        getac.check_gradients(module)
        optimizer.step()
        losses.append(loss.item())
    first, last = sum(losses[:5]) / 5, sum(losses[-10:]) / 10  # one step says little: dropout
    assert last < 0.75 * first
    for name, parameter in module.named_parameters():
        kept = name.endswith((".t", ".d"))  # with a fixed number of bits the step follows the range
        assert torch.equal(before[name], parameter) == (kept or name.startswith(INPUT)), name


def test_the_range_of_the_data_does_not_learn() -> None:
    """Its gradient would take that of the images, which nothing else needs; who asks for it gets it."""
    module = prepared()
    of_data = {name: one for name, one in module.named_parameters() if name.startswith(INPUT)}
    assert set(of_data) == {f"{INPUT}.d", f"{INPUT}.q_m"}
    assert not any(one.requires_grad for one in of_data.values())
    module(IMAGES).sum().backward()
    assert all(one.grad is None for one in of_data.values())
    for one in of_data.values():
        one.requires_grad_()
    module(IMAGES).square().sum().backward()
    assert of_data[f"{INPUT}.q_m"].grad is not None


def test_quantizers_learn_where_what_they_round_learns() -> None:
    """Of a frozen trunk none does, neither of its weights nor of its activations; those behind it do."""
    trunk = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()).requires_grad_(False)
    x = torch.rand(2, 4)
    model = nn.Sequential(trunk, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    module = getac.prepare(model, x, calibration=[x])
    learning = {one.x.name for one in find_quantizers(module) if one.q_m.requires_grad}
    assert learning == {"_1_weight", "relu_2", "_3_weight"}


def test_exponents_of_weights_learn_on_request() -> None:
    assert not any(one.t.requires_grad for one in find_quantizers(prepared()))
    module = prepared(learn_exponents=True)
    assert all(one.t.requires_grad == one.of_weight for one in find_quantizers(module))
    module(IMAGES).square().sum().backward()
    assert module.get_parameter("conv.weight_quantizer.t").grad.abs() > 0


def test_it_can_be_exported_again() -> None:
    module = prepared(Net().eval())
    program = torch.export.export(module, (IMAGES,), strict=False)
    assert torch.equal(program.module()(IMAGES), module(IMAGES))
    operators = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert operators.count(torch.ops.getac.fake_quantize.default) == len(find_quantizers(module))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_it_can_be_compiled(backend: str) -> None:
    module = prepared(Net().eval())
    compiled = torch.compile(module, backend=backend)
    ours, theirs = compiled(IMAGES), module(IMAGES)
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    module(IMAGES).square().sum().backward()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, module.get_parameter(name).grad, rtol=1e-4, atol=1e-5)


def test_autocast() -> None:
    module = prepared(Net().eval())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = module(IMAGES)
    assert (outputs.float() - module(IMAGES)).abs().max() < 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_refuses_parameters_that_cannot_be_lowered(dtype: torch.dtype) -> None:
    model = Net()
    model.out.to(dtype)
    with pytest.raises(UnsupportedModelError, match="of a type that cannot be lowered") as caught:
        getac.prepare(model, (IMAGES,), calibration=[IMAGES])
    error = caught.value
    assert error.where == "parameter out.weight" and error.found == str(dtype).removeprefix("torch.")
    assert error.required == "float32 (or float16)" and "model.float()" in str(error.hint)


def test_half_precision_parameters_are_prepared_and_exported(tmp_path: Path) -> None:
    x = torch.randn(4, 8).half()
    layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).half()
    module = getac.prepare(layers, (x,), calibration=[x])
    module(x).float().sum().backward()
    getac.lower(module, tmp_path / "model.onnx", bench=False)
    assert module(x).dtype == torch.float16


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)

    def forward(self, pair: tuple[Tensor, Tensor], *, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"sum": self.a(pair[0] + pair[1]) * named["gain"]}


def test_nested_inputs_and_outputs() -> None:
    def inputs(rows: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((torch.randn(rows, 6), torch.randn(rows, 6)),), {"named": {"gain": torch.randn(rows, 8)}}

    args, kwargs = inputs(3)
    with pytest.warns(UserWarning, match="no calibration data"):
        module = getac.prepare(Named(), args, kwargs)
    args, kwargs = inputs(5)
    assert module(*args, **kwargs)["sum"].shape == (5, 8)
    assert [one.name for one in find_quantizers(module)] == ["add_quantizer", "a.weight_quantizer"]
    batch = {"pair": args[0], **kwargs}
    again = getac.prepare(Named(), args, kwargs, calibration=[batch])
    assert again.get_parameter("add_quantizer.q_m").item() == (args[0][0] + args[0][1]).abs().max().item()


def test_a_single_tensor_is_one_input() -> None:
    assert getac.prepare(Net(), IMAGES, calibration=[IMAGES])(IMAGES).shape == (4, 4)


def test_what_was_captured_before_can_be_prepared() -> None:
    module = getac.capture(Net().eval(), (IMAGES,))
    assert len(find_quantizers(prepared(module))) == 5 and not find_quantizers(module)


def test_weights_alone_need_no_data() -> None:
    module = getac.prepare(Net(), (IMAGES,), activation_bits=None)
    assert [one.name for one in find_quantizers(module)] == ["conv.weight_quantizer", "out.weight_quantizer"]


def test_names_that_are_taken_are_not_used_twice() -> None:
    model = Net()
    model.x_quantizer = nn.Linear(2, 2)
    model.conv.weight_quantizer = nn.Identity()
    names = {one.name for one in find_quantizers(prepared(model))}
    assert {"x_quantizer_", "out.weight_quantizer"} < names


def test_twice_prepared_is_refused() -> None:
    with pytest.raises(BadInputError, match="prepared already") as caught:
        prepared(prepared())
    assert caught.value.found == "a module with 5 quantizers"


def test_what_cannot_be_captured_or_has_no_layer_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no layer"):
        prepared(nn.BatchNorm2d(3))
    with pytest.raises(UnsupportedModelError, match="cannot capture"):
        getac.prepare(Net(), (torch.randn(2, 5),), calibration=[IMAGES])
    with pytest.raises(BadInputError, match="was not prepared"):
        state_of(getac.capture(Net(), (IMAGES,)))
