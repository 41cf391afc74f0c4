"""A warm-up in floats: no quantizer takes part, and its last step decides the ranges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import getac
from getac.errors import OptionError
from getac.fx_graph.capture import capture
from getac.qasso.optimizer import QASSO
from getac.qasso.pruning import Pruning
from getac.qasso.schedule import Schedule
from getac.training.quantizers import find_quantizers
from tests.qasso.runs import Small, images, model, prepared, train
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
    train(module, optimizer, 2)
    weight = module.get_parameter("b.weight").detach().clone()
    train(module, optimizer, 1, 2)
    named = {one.name: one for one in find_quantizers(module)}
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
    optimizer.finish()
    assert not module._forward_pre_hooks


def test_refuses_other_stages() -> None:
    with pytest.raises(OptionError, match="warm-up, projection"):
        make(prepared(), quantize_from="joint")
