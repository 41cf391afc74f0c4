"""Training with quantizers on scikit-learn's handwritten digits reaches the accuracy of floats."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("onnxscript")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import getac  # noqa: E402
from getac.demo_training import load_digits  # noqa: E402
from getac.runtime import open_session, run  # noqa: E402

TRAIN, TEST = load_digits(seed=0)
IMAGES, LABELS = torch.from_numpy(TRAIN.images), torch.from_numpy(TRAIN.labels)


def convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]


def network() -> nn.Module:
    """For images (n, 1, 8, 8): logits (n, 10)."""
    torch.manual_seed(0)
    layers = [*convolution(1, 16), *convolution(16, 32, 2), *convolution(32, 32)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def fit(module: nn.Module, epochs: int, rate: float) -> None:
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), rate, weight_decay=0)
    generator = torch.Generator().manual_seed(0)
    batches = [b for _ in range(epochs) for b in torch.randperm(len(IMAGES), generator=generator).split(64)]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(module(IMAGES[batch]), LABELS[batch]).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(module: nn.Module) -> float:
    logits: Tensor = module.eval()(torch.from_numpy(TEST.images))
    return right(logits.numpy())


def right(logits: np.ndarray[Any, Any]) -> float:
    return float((logits.argmax(axis=1) == TEST.labels).mean())


def accuracy_of_file(path: Path) -> float:
    session = open_session(path)
    [logits] = run(session, {session.get_inputs()[0].name: TEST.images}).values()
    return right(logits)


@cache
def trained_in_floats() -> nn.Module:
    module = network()
    fit(module, epochs=12, rate=3e-3)
    return module


def prepared(model: nn.Module, bits: int) -> torch.fx.GraphModule:
    """Every weight with so many bits, those of the first and the last layer, too; activations with 8."""
    batches = IMAGES[:256].split(64)
    return getac.prepare(model, IMAGES[:4], calibration=batches, overrides={"*.weight": bits})


def test_the_test_set_is_large_enough_and_floats_are_good() -> None:
    assert len(TEST.labels) >= 450 and accuracy(trained_in_floats()) >= 0.98


@pytest.mark.parametrize(("bits", "points"), [(8, 0.01), (4, 0.02)])
def test_fine_tuned_with_quantizers_and_lowered(tmp_path: Path, bits: int, points: float) -> None:
    module = prepared(copy.deepcopy(trained_in_floats()), bits)
    fit(module, epochs=4, rate=1e-3)
    least = accuracy(trained_in_floats()) - points
    assert accuracy(module) >= least
    report = getac.lower(module, tmp_path / "digits.onnx", bench=False)
    assert {one.kernel.split()[0] for one in report.layers} == {"integer"}
    assert {one.weight_bits for one in report.layers} == {bits}
    assert accuracy_of_file(tmp_path / "digits.onnx") >= least


def test_two_bits_need_the_training() -> None:
    """What is gained: without it, rounding alone costs more."""
    module = prepared(copy.deepcopy(trained_in_floats()), 2)
    before = accuracy(module)
    fit(module, epochs=2, rate=1e-3)
    assert before < 0.7 and accuracy(module) > before + 0.2


def test_trained_from_scratch(tmp_path: Path) -> None:
    module = prepared(network(), 8)
    fit(module, epochs=12, rate=3e-3)
    least = accuracy(trained_in_floats()) - 0.01
    assert accuracy(module) >= least
    getac.lower(module, tmp_path / "digits.onnx", bench=False)
    assert accuracy_of_file(tmp_path / "digits.onnx") >= least
