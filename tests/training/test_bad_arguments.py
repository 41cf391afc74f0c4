"""What a person gives wrongly to the training front end is refused with an error of getac's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import getac
from getac.errors import BadInputError, OptionError, OutputError

X = torch.ones(3, 4)


def net() -> Any:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


@pytest.fixture(scope="module")
def module() -> Any:
    return getac.prepare(net(), (X,), calibration=[X])


@pytest.mark.parametrize("make", [getac.capture, getac.prepare])
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("resnet", (X,)), "no module"),
        ((None, (X,)), "no module"),
        ((net(), 5), "not a sequence"),
        ((net(), "x"), "not a sequence"),
        ((net(), {"x": X}), "not a sequence"),
        ((net(), (X,), [1]), "not given by name"),
        ((net(), (X,), {1: X}), "no name that Python admits"),
        ((net(), (X,), {"a=print(1), b": X}), "no name that Python admits"),
    ],
)
def test_models_and_inputs(make: Callable[..., Any], args: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        make(*args)


@pytest.mark.parametrize(
    "options",
    [
        {"per_channel": "yes"},
        {"embeddings": "no"},
        {"learn_exponents": 1},
        {"dynamic_batch": None},
        {"overrides": {1: 8}},
        {"overrides": ["a"]},
    ],
)
def test_options(options: Any) -> None:
    with pytest.raises(OptionError) as caught:
        getac.prepare(net(), (X,), calibration=[X], **options)
    assert caught.value.where in options or "overrides" in caught.value.message


def test_wishes(module: Any) -> None:
    wishes: Any = "a"
    with pytest.raises(OptionError, match="wishes"):
        getac.regenerate(module, {getac.analyze(module).classes[0].name: [0]}, wishes=wishes)


@pytest.mark.parametrize("path", [None, 5])
def test_paths(module: Any, path: Any) -> None:
    for write in (getac.save, getac.export):
        with pytest.raises(OutputError, match="no path"):
            write(module, path)
    with pytest.raises(BadInputError, match="no path"):
        getac.load(net(), path)
    with pytest.raises(BadInputError, match="no path"):
        getac.load_optimizer(torch.optim.Adam(module.parameters()), path)


def test_a_frozen_weight_has_a_frozen_quantizer(tmp_path: Path) -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    module = getac.prepare(model, (X,), calibration=[X], learn_exponents=True)
    frozen = {name for name, one in module.named_parameters() if not one.requires_grad}
    of_data = {f"input_1_quantizer.{one}" for one in ("d", "q_m")}
    assert frozen == {"0.weight", *(f"0.weight_quantizer.{one}" for one in ("d", "q_m", "t")), *of_data}
    module(torch.randn(5, 4)).sum().backward()
    assert {name for name, one in module.named_parameters() if one.grad is None} == frozen
    getac.save(module, tmp_path / "a")
    again = getac.load(net(), tmp_path / "a")
    assert {name for name, one in again.named_parameters() if not one.requires_grad} == frozen
