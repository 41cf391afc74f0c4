"""The zoo of PyTorch models through all of it: prepare, train, regenerate, train, export, lower, run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxscript")

import getac  # noqa: E402
from getac.report import Report  # noqa: E402
from getac.runtime import open_session, run  # noqa: E402
from getac.training.quantizers import find_quantizers  # noqa: E402
from tests.training.nets import some_units  # noqa: E402
from tools.fx_law import outputs_of, resized, tensors_of  # noqa: E402
from tools.torch_zoo.example import Example  # noqa: E402
from tools.torch_zoo.registry import TORCH_ZOO, example  # noqa: E402

every_model = pytest.mark.parametrize("name", TORCH_ZOO)
STEPS, OTHER_BATCH = 3, 3
EXPORTED, LOWERED = 1e-4, 0.02  # relative to the largest number of an output
ONE_TIE = 0.01  # what an activation of 8 bits may change by, likewise

PRODUCT = "a product of two activations, without quantizers"
TRANSPOSED = "onnxruntime has no integer kernel for ConvTranspose"
IN_FLOATS = {
    "lstm_tagger": {"integer kernels are not used for LSTM": 2},
    "mamba": {"its weight is the first factor, and integer kernels have it as the second": 2},
    "unet": {TRANSPOSED: 2, "no quantizer for its output, and no calibration data": 1},  # a graph output
    "vocoder": {TRANSPOSED: 2},
}
"""Why layers with weights are left in floats, and how many."""

Outputs = Sequence[np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Course:
    """What a model gives on its way.

    Args:
        without_gradient: Parameters whose gradient is missing or not finite, before and after the removal.
        units: How many units there were, and how many were removed.
        parameters: Entries of the parameters before and after.
        quantizers: How many there are.
        expected: What the trained module answers in evaluation, at two batch sizes.
        exported: What its ONNX file answers, each node run as it is written.
        lowered: What the integer model answers.
    """

    without_gradient: tuple[Sequence[str], Sequence[str]]
    units: tuple[int, int]
    parameters: tuple[int, int]
    quantizers: int
    expected: Sequence[Outputs]
    exported: Sequence[Outputs]
    lowered: Sequence[Outputs]
    report: Report


@cache
def course(name: str) -> Course:
    given = example(name)
    batch = dict(given.kwargs) if given.kwargs else given.args
    module = getac.prepare(given.module.train(), given.args, given.kwargs, calibration=[batch])
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    first, before = train(module, given, optimizer), entries(module)
    keep = some_units(module, share=0.3)
    getac.regenerate(module, keep, optimizer)
    second, after = train(module, given, optimizer), entries(module)
    removed = sum(int((~mask).sum()) for mask in keep.values())
    inputs = [(given.args, dict(given.kwargs)), resized((given.args, dict(given.kwargs)), OTHER_BATCH)]
    expected = [[one.numpy() for one in outputs_of(module, *one)] for one in inputs]
    with TemporaryDirectory() as folder:
        written, small = Path(folder, "trained.onnx"), Path(folder, "small.onnx")
        getac.export(module, written)
        report = getac.lower(written, small, sparsity=0.0, bench=False)
        exported, lowered = answers(written, inputs, optimize=False), answers(small, inputs)
    units, quantizers = (sum(map(len, keep.values())), removed), len(find_quantizers(module))
    return Course((first, second), units, (before, after), quantizers, expected, exported, lowered, report)


def train(module: torch.nn.Module, given: Example, optimizer: torch.optim.Optimizer) -> Sequence[str]:
    """Some steps towards random numbers; returns the parameters without a finite gradient."""
    module.train()
    for step in range(STEPS):
        torch.manual_seed(step)
        optimizer.zero_grad()
        outputs = [one for one in tensors_of(module(*given.args, **given.kwargs)) if one.requires_grad]
        wanted = torch.Generator().manual_seed(0)
        losses = [(one.float() - torch.randn(one.shape, generator=wanted)).square().mean() for one in outputs]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    getac.check_gradients(module)
    learning = [(name, one) for name, one in module.named_parameters() if one.requires_grad]
    return [name for name, one in learning if one.grad is None or not one.grad.isfinite().all()]


def entries(module: torch.nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def answers(path: Path, inputs: Sequence[Any], optimize: bool = True) -> Sequence[Outputs]:
    session = open_session(path, optimize=optimize)
    names = [one.name for one in session.get_inputs()]
    fed = [[one.numpy() for one in tensors_of(given)] for given in inputs]
    return [list(run(session, dict(zip(names, arrays, strict=True))).values()) for arrays in fed]


def departures(course: Course, found: Sequence[Outputs]) -> list[float]:
    """By output and batch size: the largest difference, relative to the largest number."""
    pairs = [pair for a, b in zip(course.expected, found, strict=True) for pair in zip(a, b, strict=True)]
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    return [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs]


@every_model
def test_all_parameters_and_quantizers_learn_before_and_after_a_removal(name: str) -> None:
    one = course(name)
    assert one.without_gradient == ([], [])
    assert one.quantizers > 0


@every_model
def test_three_tenths_of_the_units_of_every_class_are_removed(name: str) -> None:
    one = course(name)
    (units, removed), (before, after) = one.units, one.parameters
    assert 0.25 <= removed / units <= 0.35 and after < before


@every_model
def test_the_exported_file_computes_what_the_module_computes(name: str) -> None:
    """Some inputs may hit a tie between two integers, which sums of torch and of onnxruntime decide apart."""
    found = departures(course(name), course(name).exported)
    assert min(found) <= EXPORTED and max(found) <= ONE_TIE


@every_model
def test_the_integer_model_computes_what_the_module_computes(name: str) -> None:
    """Outputs are never rounded; what differs is what integer biases, and ties between two steps, become."""
    one = course(name)
    assert one.report.verification.passed
    assert max(departures(one, one.lowered)) <= LOWERED


@every_model
def test_every_layer_runs_on_integers_unless_there_is_no_kernel(name: str) -> None:
    layers = course(name).report.layers
    floats = [one for one in layers if not one.kernel.startswith("integer")]
    assert len(floats) < len(layers)
    reasons = Counter(one.reason for one in floats if one.reason != PRODUCT)
    assert reasons == Counter(IN_FLOATS.get(name, {}))
    assert all(one.weight_bits == one.activation_bits == 8 for one in layers if one not in floats)
