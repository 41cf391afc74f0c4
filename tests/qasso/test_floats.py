"""A warm-up in floats: no quantizer takes part, and its last step decides the ranges."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import getac
from getac.errors import BadInputError, GetacError, OptionError
from getac.fx_graph.capture import capture
from getac.kernels import ahead
from getac.qasso.optimizer import QASSO
from getac.qasso.pruning import Pruning
from getac.qasso.schedule import Schedule
from getac.training.quantizers import find_quantizers
from getac.training.state import state_of
from tests.qasso.runs import (
    Small,
    images,
    model,
    prepared,
    prepared_attention,
    target_of,
    train,
    vectors,
)
from tests.qasso.test_resume import SCHEDULE, check_same_training, make


def test_warm_up_is_that_of_the_float_network() -> None:
    module, floats = prepared(), capture(model(), (images(0),))
    schedule = Schedule(5, 0, 1, 0, 1, 1)
    optimizer = QASSO(
        module, schedule=schedule, pruning=Pruning(0.0), lr=1e-2, variant="sgd", quantize_from="projection"
    )
    before = {one.name: (one.d.clone(), one.q_m.clone()) for one in find_quantizers(module)}
    reference = torch.optim.SGD(floats.parameters(), lr=1e-2)
    assert train(module, optimizer, 4) == train(floats, reference, 4)
    for one in find_quantizers(module):
        assert torch.equal(one.d, before[one.name][0]) and torch.equal(one.q_m, before[one.name][1])
    x = images(9)
    assert torch.equal(module.eval()(x), floats.eval()(x))
    with torch.inference_mode():
        assert torch.equal(module(x), floats(x))
    assert train(module, optimizer, 1, 4) == train(floats, reference, 1, 4)
    assert not torch.equal(module.eval()(x), floats.eval()(x))


def test_ranges_are_those_of_the_last_step() -> None:
    module = prepared()
    optimizer = QASSO(
        module, schedule=Schedule(3, 0, 1, 0, 1, 1), pruning=Pruning(0.0), lr=1e-2, quantize_from="projection"
    )
    train(module, optimizer, 3)
    named = {one.name: one for one in find_quantizers(module)}
    weight = module.get_parameter("b.weight")  # as the step has left it
    assert torch.equal(named["b.weight_quantizer"].q_m, weight.abs().amax((1, 2, 3)))
    inputs = next(one for one in named.values() if one.x.op == "placeholder")
    assert torch.equal(inputs.q_m, images(2).abs().amax())
    for one in named.values():
        torch.testing.assert_close(one.d, one.q_m / one.bits.top(one.bits.most))


@pytest.mark.parametrize("pause", [1, 2, 5])
def test_resumes_to_the_bit(tmp_path: Path, pause: int) -> None:
    whole = prepared()
    reference = make(whole, quantize_from="projection")
    expected = train(whole, reference, SCHEDULE.total)
    first = prepared()
    optimizer = make(first, quantize_from="projection")
    found = train(first, optimizer, pause)
    getac.save(first, tmp_path / "run.safetensors", optimizer)
    second = getac.load(Small(), tmp_path / "run.safetensors")
    resumed = make(second, quantize_from="projection")
    getac.load_optimizer(resumed, tmp_path / "run.safetensors")
    found += train(second, resumed, SCHEDULE.total - pause, pause)
    assert found == expected
    check_same_training(whole, second, reference, resumed)
    other = make(getac.load(Small(), tmp_path / "run.safetensors"))
    with pytest.raises(OptionError, match="another quantize_from"):
        getac.load_optimizer(other, tmp_path / "run.safetensors")


def test_a_training_that_stops_in_warm_up_has_its_quantizers_back() -> None:
    module = prepared()
    expected = module.eval()(images(1))
    optimizer = make(module, quantize_from="projection")
    assert not torch.equal(module(images(1)), expected)
    before = {name: one.clone() for name, one in module.named_parameters()}
    optimizer.finish()
    assert not module._forward_pre_hooks
    ranges = [name for name in before if name.endswith("q_m")]
    assert ranges and all(torch.equal(before[name], module.get_parameter(name)) for name in ranges)


def test_weights_that_have_grown_in_an_unfinished_warm_up_are_not_clipped() -> None:
    geta = getac.GETA(model(), images(0), calibration=[images(0)], align=1)
    train(geta.model, geta.qasso(steps=30, warm_up=15, quantize_from="projection"), 5)
    with torch.no_grad():
        geta.model.get_parameter("head.weight").mul_(4)
    subnet = geta.construct_subnet(unfinished=True)
    for one in find_quantizers(subnet):
        if one.of_weight:
            weight = subnet.get_parameter(str(one.x.target)).detach()
            assert torch.equal(one.q_m, weight.abs().flatten(1).amax(1))


def test_what_shows_nothing_keeps_its_range() -> None:
    module, optimizer = warming_up()
    train(module, optimizer, 1)
    start = {one.name: one.q_m.clone() for one in find_quantizers(module)}
    with torch.no_grad():
        module.get_parameter("b.weight")[3] = 0
        module.get_parameter("b.weight")[4, 0, 0, 0] = torch.inf
        module.get_parameter("c.weight").zero_()
    optimizer.finish()
    for one in find_quantizers(module):
        assert bool((one.q_m > 0).all()) and bool(one.d.isfinite().all())
        if not one.of_weight or one.name == "c.weight_quantizer":
            assert torch.equal(one.q_m, start[one.name])
        if one.name == "b.weight_quantizer":
            changed = (one.q_m != start[one.name]).nonzero()[:, 0].tolist()
            assert changed == [0, 1, 2, 5, 6, 7]


def note(seen: dict[str, float], name: str, x: Tensor) -> None:
    seen[name] = x.abs().max().item()


def of_batch(module: fx.GraphModule, x: Tensor) -> dict[str, float]:
    """Name of a quantizer of activations -> what of a batch reaches it in floats, in training mode."""
    floats, seen = copy.deepcopy(module).train(), dict[str, float]()
    for one in find_quantizers(floats):
        if not one.of_weight:
            ahead.leave_out(one.q_m, partial(note, seen, one.name))
        else:
            ahead.leave_out(one.q_m, lambda x: None)
    floats(x)
    return seen


def ranges_of(module: fx.GraphModule, names: Iterable[str]) -> dict[str, float]:
    named = {one.name: one for one in find_quantizers(module)}
    return {name: named[name].q_m.item() for name in names}


def warming_up(steps: int = 3, **options: Any) -> tuple[fx.GraphModule, QASSO]:
    module = prepared(**options)
    schedule = Schedule(steps, 3, 1, 0, 1, 1)
    return module, QASSO(module, schedule=schedule, pruning=Pruning(0.0), lr=1e-2, quantize_from="projection")


def test_a_refused_step_decides_no_ranges() -> None:
    module, optimizer = warming_up()
    train(module, optimizer, 2)
    for spoilt in (float("nan"), 1e30):  # what is large spoils gradients as well
        x = images(2) * 1e8
        x[0, 0, 0, 0] = spoilt
        F.cross_entropy(module(x) * 1e30, target_of(images(2))).backward()  # type: ignore[no-untyped-call]
        with pytest.raises(GetacError, match="not finite"):
            optimizer.step()
    expected = of_batch(module, images(2))
    train(module, optimizer, 1, 2)
    assert ranges_of(module, expected) == expected
    assert all(bool(one.d.isfinite().all()) for one in find_quantizers(module))


def test_what_is_not_finite_decides_no_ranges_where_gradients_are_not_checked() -> None:
    module, optimizer = warming_up()
    train(module, optimizer, 2)
    expected = of_batch(module, images(2))
    x = images(5)
    x[:] = float("nan")
    module(x)  # a step that a gradient scaler has skipped
    optimizer.zero_grad()
    for one in module.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.reset_running_stats()
    train(module, optimizer, 1, 2)
    assert ranges_of(module, expected) == expected


def test_a_validation_in_between_decides_no_ranges() -> None:
    module, optimizer = warming_up()
    train(module, optimizer, 2)
    expected = of_batch(module, images(2))
    with torch.no_grad():
        module(images(7) * 100)  # in training mode, without gradients
    module.eval()(images(7) * 100)  # the other way round
    train(module, optimizer, 1, 2)
    assert ranges_of(module, expected) == pytest.approx(expected, rel=1e-6)


def test_all_batches_of_a_step_decide_its_ranges() -> None:
    module, optimizer = warming_up(1)
    for seed in (1, 2, 3):
        F.cross_entropy(module(images(seed)), target_of(images(seed))).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    inputs = next(one for one in find_quantizers(module) if one.x.op == "placeholder")
    assert inputs.q_m == max(images(seed).abs().max() for seed in (1, 2, 3))


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "auto"])
def test_ranges_are_chosen_as_prepare_was_told(tmp_path: Path, method: str) -> None:
    x = images(0, 16)
    geta = getac.GETA(
        model(), x, calibration=[x], align=1, ranges=method, activation_bits=(4, 4), sparsity=0.0
    )
    greatest = of_batch(geta.model, x)
    expected = ranges_of(geta.model, greatest)  # of the same batch, with the same weights
    optimizer = geta.qasso(steps=20, warm_up=1, lr=0.0, quantize_from="projection")
    with torch.no_grad():
        for one in find_quantizers(geta.model):
            one.q_m.mul_(3)
    train(geta.model, optimizer, 1, inputs=lambda step: x)
    assert ranges_of(geta.model, greatest) == pytest.approx(expected, rel=1e-6)
    assert (sum(expected[name] < 0.9 * greatest[name] for name in greatest) >= 3) == (
        method in ("mse", "auto")
    )
    getac.save(geta.model, tmp_path / "run")
    assert state_of(getac.load(Small(), tmp_path / "run")).ranges == method


def test_a_call_of_forward_is_in_floats_as_well() -> None:
    module, floats = prepared(), capture(model(), (images(0),))
    make(module, quantize_from="projection")
    assert torch.equal(module.forward(images(1)), floats.forward(images(1)))


@pytest.mark.parametrize("steps", [0, 2])
def test_another_optimizer_begins_with_quantizers(steps: int) -> None:
    geta = getac.GETA(model(), images(0), calibration=[images(0)], align=1)
    train(geta.model, geta.qasso(steps=30, quantize_from="projection"), steps)
    start = copy.deepcopy(geta.model)  # a copy has its quantizers
    optimizer = geta.qasso(steps=30, variant="sgd", lr=1e-2)
    if not steps:
        reference = QASSO(start, schedule=optimizer.schedule, pruning=geta.pruning, variant="sgd", lr=1e-2)
        assert train(geta.model, optimizer, 30) == train(start, reference, 30)
    assert not any(ahead.leaves_out(one.q_m) for one in find_quantizers(geta.model))


def test_what_is_refused_leaves_nothing_on_the_module() -> None:
    geta = getac.GETA(model(), images(0), calibration=[images(0)], align=1)
    expected = geta.model(images(1))
    params = [geta.model.get_parameter("head.bias")]
    with pytest.raises(BadInputError, match="cannot be reached"):
        geta.qasso(steps=30, quantize_from="projection", params=params)
    assert not geta.model._forward_pre_hooks and not geta.model._forward_hooks
    assert torch.equal(geta.model(images(1)), expected)


def test_a_checkpoint_that_is_refused_leaves_nothing_on_the_module(tmp_path: Path) -> None:
    geta = getac.GETA(model(), images(0), calibration=[images(0)], align=1)
    geta.qasso(steps=30)
    geta.save(tmp_path / "run")
    again = getac.GETA.load(Small(), tmp_path / "run", align=1)
    with pytest.raises(OptionError, match="quantize_from"):
        again.qasso(steps=30, quantize_from="projection")
    assert not again.model._forward_pre_hooks
    assert torch.equal(again.model(images(1)), copy.deepcopy(again.model)(images(1)))


def test_an_interrupted_forward_pass_leaves_other_modules_their_quantizers() -> None:
    module, other = prepared(), prepared_attention()
    expected, optimizer = other(vectors(1)), make(module, quantize_from="projection")

    def interrupt(_: Any, inputs: Any) -> None:
        raise KeyboardInterrupt

    module.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        module(images(0))
    with pytest.raises(KeyboardInterrupt):
        train(module, optimizer, 1)
    assert torch.equal(other(vectors(1)), expected)


def test_what_is_left_out_dies_with_its_module() -> None:
    module = prepared()
    make(module, quantize_from="projection")
    gc.collect()
    count = len(ahead.left_out)
    size = len(find_quantizers(module))
    del module
    gc.collect()
    assert len(ahead.left_out) == count - size


def test_refuses_other_stages() -> None:
    with pytest.raises(OptionError, match="warm-up, projection"):
        make(prepared(), quantize_from="joint")
