"""Units leave a module while it is trained: parameters, gradients, buffers and optimizer follow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from getac.analyzing import analyze
from getac.errors import BadInputError
from getac.training.regenerating import regenerate
from getac.training.state import KEY, state_of
from tests.training.nets import (
    ConvNet,
    Normalized,
    captured,
    conv_net,
    ids,
    images,
    loss_of,
    some_units,
    steps,
    tied,
)
from tools.fx_law import difference, masked_copy

aten = torch.ops.aten


def masks_of(module: fx.GraphModule, keep: dict[str, Any]) -> tuple[Any, dict[Any, Any]]:
    analysis = analyze(module)
    return analysis, {one.atom: keep[one.name] for one in analysis.classes if one.name in keep}


def stored_masks(module: fx.GraphModule, keep: dict[str, Any]) -> dict[str, list[Any]]:
    """Name of a stored tensor -> which indices of each dimension stay."""
    analysis, masks = masks_of(module, keep)
    return {analysis.view.name_of(one): analysis.keep_masks(one, masks) for one in analysis.parameters}


def cut(tensor: Tensor, masks: list[Any]) -> Tensor:
    for dimension, mask in enumerate(masks):
        tensor = tensor.index_select(dimension, torch.from_numpy(np.flatnonzero(mask)))
    return tensor


@pytest.mark.parametrize(
    ("make", "inputs"), [(conv_net, images), (tied, ids), (partial(conv_net, quantized=True), images)]
)
def test_masked_equals_sliced(make: Callable[[], fx.GraphModule], inputs: Callable[..., Tensor]) -> None:
    module = make().eval()
    for seed in range(3):
        keep = some_units(module, seed)
        masked = masked_copy(module, *masks_of(module, keep))
        assert regenerate(module, keep) is module
        for batch in (2, 5):
            assert difference([masked(inputs(batch))], [module(inputs(batch))]) <= 1e-5


def test_parameters_stay_what_they_are() -> None:
    module = tied()
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    numbers = {name: one.detach().clone() for name, one in (parameters | buffers).items()}
    keys, keep = list(module.state_dict()), some_units(module)
    masks = stored_masks(module, keep)
    regenerate(module, keep)
    for found, before in ((module.named_parameters(), parameters), (module.named_buffers(), buffers)):
        after = dict(found)
        assert list(after) == list(before) and all(after[name] is before[name] for name in before)
        assert all(torch.equal(after[n], cut(numbers[n], masks[n])) for n in after if n in masks)
    assert module.get_parameter("head.weight") is module.get_parameter("table.weight")
    assert module.get_parameter("table.weight").shape[1] < 12
    assert list(module.state_dict()) == keys and "passing" not in keys
    assert module.get_buffer("passing").shape == module.get_buffer("kept").shape


def test_gradients_are_cut_too() -> None:
    module = conv_net()
    loss_of(module(images())).backward()
    keep = some_units(module)
    masks = stored_masks(module, keep)
    before = {name: one.grad.clone() for name, one in module.named_parameters()}
    regenerate(module, keep)
    for name, one in module.named_parameters():
        assert torch.equal(one.grad, cut(before[name], masks[name])), name
    torch.optim.SGD(module.parameters(), lr=0.1).step()


@pytest.mark.parametrize("backwarded", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_a_loss_that_is_still_alive_is_no_obstacle(backwarded: bool, times: int) -> None:
    module = conv_net()
    alive = [loss_of(module(images()))]
    if backwarded:
        alive[0].backward(retain_graph=True)
    for seed in range(times):
        regenerate(module, some_units(module, seed))
        alive.append(loss_of(module(images())))
        alive[-1].backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in module.parameters())


def test_a_weight_norm_that_the_model_itself_has_computed() -> None:
    """The model's own last weights keep autograd's accumulators alive."""
    with pytest.warns(FutureWarning):
        model = Normalized()
    x = torch.randn(3, 6)
    loss_of(model(x)).backward()
    module = captured(model, x)
    regenerate(module, some_units(module))
    loss_of(module(x)).backward()
    assert all(p.grad.shape == p.shape for p in module.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).to(dtype)
    x = torch.randn(3, 6, dtype=dtype)
    module = captured(model, x)
    module.get_parameter("2.weight").requires_grad_(False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    alive = loss_of(module(x))
    regenerate(module, some_units(module), optimizer)
    frozen = module.get_parameter("2.weight")
    assert frozen.shape == (6, 6) and frozen.dtype == dtype and not frozen.requires_grad
    steps(module, optimizer, inputs=lambda _: x)
    assert frozen.grad is None and alive.isfinite()
    regenerate(module, some_units(module), optimizer)
    steps(module, optimizer, inputs=lambda _: x)
    assert all(p.grad.dtype == dtype for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(("in_place", "quantized", "times"), [(False, True, 2), (True, False, 9)])
def test_under_torch_compile(in_place: bool, quantized: bool, times: int) -> None:
    """Nine times are more than torch.compile compiles one piece of code."""
    module = conv_net(quantized=quantized).eval()
    compiled: Any = module
    if in_place:
        module.compile(backend="aot_eager", fullgraph=True)
    else:
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    plain = fx.Interpreter(module)
    for seed in range(times):
        outputs = compiled(images(4))
        assert difference([outputs], [plain.run(images(4))]) <= 1e-5
        loss_of(outputs).backward()
        regenerate(module, some_units(module, seed, share=0.01))
    assert module.get_parameter("b.weight").shape[:2] == (12 - times, max(8 - times, 1))


def test_the_training_goes_on_in_either_mode() -> None:
    for mode in (True, False):
        module = conv_net().train(mode)
        regenerate(module, some_units(module))
        assert module.training is mode
        ran = module.get_buffer("norm_a.running_mean").clone()
        module(images())
        assert torch.equal(module.get_buffer("norm_a.running_mean"), ran) is not mode


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_does_not_matter_whether_gradients_are_on(mode: Callable[[], Any]) -> None:
    module = conv_net()
    with mode():
        regenerate(module, some_units(module))
    loss_of(module(images())).backward()


def test_a_copy_goes_its_own_way() -> None:
    module = conv_net().eval()
    regenerate(module, some_units(module))
    copied = copy.deepcopy(module)
    assert torch.equal(copied(images()), module(images()))
    regenerate(copied, some_units(copied))
    assert len(state_of(module).removals) == 1 and len(state_of(copied).removals) == 2
    loss_of(copied(images())).backward()
    assert module(images()).shape == copied(images()).shape == (3, 5)
    assert module.get_parameter("b.weight").shape[0] > copied.get_parameter("b.weight").shape[0]


def test_what_was_removed_is_noted() -> None:
    module = conv_net()
    (wide,) = (one for one in analyze(module).classes if one.size == 12)
    regenerate(module, {wide.name: [3, 1, 5]})
    (removal,) = state_of(module).removals
    assert removal.kept == {wide.name: [1, 3, 5]}
    del module.meta[KEY]
    regenerate(module, some_units(module))  # a module that nobody prepared
    assert KEY not in module.meta


def test_masks_and_indices_say_the_same() -> None:
    mask = torch.arange(12) % 3 > 0
    forms: list[Any] = [mask, mask.numpy(), mask.tolist(), mask.nonzero()[:, 0], np.flatnonzero(mask)]
    forms += [set(np.flatnonzero(mask).tolist()), tuple(np.flatnonzero(mask).tolist())]
    weights = []
    for form in forms:
        module = conv_net()
        (wide,) = (one for one in analyze(module).classes if one.size == 12)
        weights.append(regenerate(module, {wide.name: form}).get_parameter("head.weight"))
    assert all(torch.equal(weight, weights[0]) for weight in weights) and weights[0].shape == (5, 8)


def test_keeping_everything_changes_nothing() -> None:
    module = conv_net()
    code, data = module.code, [p.data_ptr() for p in module.parameters()]
    regenerate(module, {})
    regenerate(module, {one.name: range(one.size) for one in analyze(module).classes})
    assert module.code == code and [p.data_ptr() for p in module.parameters()] == data
    assert state_of(module).removals == []


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([], "no unit of a class would stay"),
        ([False] * 12, "no unit of a class would stay"),
        ([True] * 11, "another length"),
        ([0, 12], "outside"),
        ([-1], "outside"),
        ([1, 0, 1], "given twice"),
        ([0.5, 1.0], "cannot be read"),
        ([[True] * 12], "cannot be read"),
        ([[1], [1, 2]], "cannot be read"),
        ("abc", "cannot be read"),
        (3, "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_refuses_units_that_make_no_sense(units: Any, message: str) -> None:
    module = conv_net()
    first, wide = analyze(module).classes
    assert (first.size, wide.size) == (8, 12)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(BadInputError, match=message) as error:
        regenerate(module, {first.name: [0, 1], wide.name: units})
    assert error.value.where == f"{wide.name}: 12 {wide.role} of {wide.place or 'b'}"
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert state_of(module).removals == []


def test_refuses_an_unknown_class_and_what_is_no_mapping() -> None:
    module = conv_net()
    with pytest.raises(BadInputError, match="no class 'c9'") as error:
        regenerate(module, {"c9": [1]})
    assert error.value.found == "2 classes: c0, c1"
    with pytest.raises(BadInputError, match="not given by class"):
        regenerate(module, [[1]])  # type: ignore[arg-type]


def test_refuses_what_is_not_captured() -> None:
    for module in (ConvNet(), torch.compile(conv_net(), backend="eager"), fx.symbolic_trace(nn.Linear(2, 2))):
        with pytest.raises(BadInputError, match="only a captured module"):
            regenerate(module, {})  # type: ignore[type-var]


def test_hooks_of_parameters_stay() -> None:
    module = conv_net()
    weight = module.get_parameter("a.weight")
    seen: list[tuple[str, int]] = []
    weight.register_hook(lambda grad: seen.append(("before", len(grad))))
    weight.register_post_accumulate_grad_hook(lambda one: seen.append(("after", len(one))))
    alive = loss_of(module(images()))
    regenerate(module, some_units(module))
    loss_of(module(images())).backward()
    assert seen == [("before", 6), ("after", 6)] and alive.isfinite()
