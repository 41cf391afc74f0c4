"""Where quantizers start: ranges of activations from data, of weights from their maximum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import getac
from getac.errors import CalibrationError, OptionError
from getac.training.quantizers import PlacedQuantizer, find_quantizers

EXAMPLE = torch.randn(2, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.norm = nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8)
        self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.drop(self.norm(self.a(x))).relu()))  # type: ignore[no-any-return]


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def quantizers(batches: Any, model: nn.Module | None = None, **options: Any) -> dict[str, PlacedQuantizer]:
    module = getac.prepare(model or net(), (EXAMPLE,), calibration=batches, **options)
    return {one.name: one for one in find_quantizers(module)}


def test_weights_start_at_their_maximum_per_channel() -> None:
    model = net()
    with torch.no_grad():
        model.b.weight[3] = 0.0
    found = quantizers([EXAMPLE], model)["b.weight_quantizer"]
    expected = model.b.weight.detach().abs().amax(1)
    expected[3] = 1.0  # all zeros: any range does
    assert torch.equal(found.q_m, expected) and torch.allclose(found.d, expected / 127)
    whole = quantizers([EXAMPLE], model, per_channel=False)["b.weight_quantizer"]
    assert whole.axis is None and whole.q_m.item() == model.b.weight.abs().max().item()


def test_activations_start_at_what_evaluation_saw_in_all_batches() -> None:
    """Without dropout, with running statistics, which calibration leaves alone."""
    model = net().train()
    nn.init.normal_(model.norm.running_mean)
    before = model.norm.running_mean.clone()
    batches = [torch.randn(5, 4), 3 * torch.randn(7, 4), torch.randn(2, 4)]
    found = quantizers(iter(batches), model)
    assert torch.equal(model.norm.running_mean, before) and model.training
    every = torch.cat(batches)
    assert found["x_quantizer"].q_m.item() == every.abs().max().item()
    assert found["x_quantizer"].bits.signed and not found["relu_quantizer"].bits.signed
    model.eval()
    hidden = model.norm(model.a(every)).relu()
    assert found["relu_quantizer"].q_m.item() == pytest.approx(hidden.max().item(), rel=1e-6)
    assert found["relu_quantizer"].d.item() == pytest.approx(hidden.max().item() / 255, rel=1e-6)
    assert found["linear_1_quantizer"].q_m.item() == pytest.approx(
        model.b(hidden).abs().max().item(), rel=1e-6
    )


def test_a_norm_that_has_seen_no_batch_takes_the_statistics_of_the_data() -> None:
    """A model that is about to be trained from the start: its running statistics mean nothing yet."""
    model, batch = net().train(), 10 + 5 * torch.randn(64, 4)
    found = quantizers([batch], model)
    assert found["relu_quantizer"].q_m.item() == pytest.approx(
        model.norm(model.a(batch)).relu().max().item(), rel=1e-5
    )
    frozen = net()
    frozen.norm.eval()  # on purpose
    expected = frozen.norm(frozen.a(batch)).relu().max().item()
    assert quantizers([batch], frozen)["relu_quantizer"].q_m.item() == pytest.approx(expected, rel=1e-5)


def test_one_pass_over_an_iterable_that_can_be_read_once() -> None:
    given = 0

    def batches() -> Iterator[Tensor]:
        nonlocal given
        for _ in range(3):
            given += 1
            yield torch.randn(4, 4)

    quantizers(batches())
    assert given == 3


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return self.a(x + shift)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["tuple", "list", "mapping"])
def test_batches_of_several_inputs(kind: str) -> None:
    x, shift = torch.full((5, 4), 2.0), torch.full((5, 4), 3.0)
    batch = {"tuple": (x, shift), "list": [x, shift], "mapping": {"shift": shift, "x": x}}[kind]
    module = getac.prepare(Two(), (x, shift), calibration=[batch])
    assert module.get_parameter("add_quantizer.q_m").item() == 5.0


def test_ranges_are_chosen_as_asked() -> None:
    torch.manual_seed(0)
    data = torch.randn(1000, 4)
    data[0, 0] = 8.0  # an outlier
    at = {
        (ranges, bits): quantizers([data], ranges=ranges, activation_bits=bits, overrides={"x": bits})[
            "x_quantizer"
        ].q_m.item()
        for ranges in ("auto", "minmax", "mse", "percentile")
        for bits in (4, 8)
    }
    assert at["minmax", 4] == at["minmax", 8] == at["auto", 8] == 8.0
    assert at["auto", 4] == at["mse", 4] < 4 < at["mse", 8]
    assert 3 < at["percentile", 8] < 8.0


def test_the_least_squared_error_is_that_of_the_symmetric_lattice() -> None:
    """No other range has a much smaller error with the quantizer's own lattice."""
    torch.manual_seed(0)
    data = torch.randn(4000, 4)
    found = quantizers([data], activation_bits=4, overrides={"x": 4}, ranges="mse")["x_quantizer"]

    def error(q_m: float) -> float:
        d = q_m / 7
        return float(((data / d).round().clamp(-7, 7) * d - data).square().mean())

    best = min(error(q_m) for q_m in np.linspace(0.5, 4, 200))
    assert error(found.q_m.item()) < 1.02 * best


def test_without_data_the_example_is_used_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="no calibration data") as caught:
        found = quantizers(None)
    assert caught[0].filename == __file__ or "test_observation" in str(caught[0].filename)
    assert found["x_quantizer"].q_m.item() == EXAMPLE.abs().max().item()


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_data_shows_no_ranges(value: float) -> None:
    """Behind a normalisation by the batch it leaves nothing but rounding errors."""
    batches = [torch.full((3, 4), value), torch.full((2, 4), value)]
    with pytest.warns(UserWarning, match=r"constant(.|\n)*requires_grad_\(\) on its d and q_m") as caught:
        found = quantizers(batches)
    assert "test_observation" in str(caught[-1].filename)
    ranges = {name: one.q_m.item() for name, one in found.items() if not one.of_weight}
    assert len(ranges) == 3 and set(ranges.values()) == {1.0}
    batches[1] = torch.randn(2, 4)
    assert quantizers(batches)["x_quantizer"].q_m.item() == max(value, batches[1].abs().max().item())


def test_constant_tokens_show_ranges() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.a, self.b = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(self.e(x)).relu())  # type: ignore[no-any-return]

    torch.manual_seed(0)
    ids = torch.zeros(2, 3, dtype=torch.long)
    module = getac.prepare(Tokens(), (ids,), calibration=[ids])  # without a warning
    assert all(one.q_m.max() != 1.0 for one in find_quantizers(module))


def refused(batches: Any, **options: Any) -> CalibrationError:
    with pytest.raises(CalibrationError) as caught:
        quantizers(batches, **options)
    return caught.value


def test_no_data_is_refused() -> None:
    assert refused([]).found == "no batch"
    assert refused(iter(())).found == "no batch"


@pytest.mark.parametrize("batches", [torch.randn(3, 4), {"x": torch.randn(3, 4)}, 3, "abc"])
def test_what_is_no_sequence_of_batches_is_refused(batches: Any) -> None:
    error = refused(batches)
    assert "not a sequence of batches" in error.message and error.found == type(batches).__name__


@pytest.mark.parametrize("batch", [3, None, np.zeros((2, 4)), {1: EXAMPLE}])
def test_batches_of_other_kinds_are_refused(batch: Any) -> None:
    error = refused([EXAMPLE, batch])
    assert error.where == "batch 1" and "unknown kind" in error.message


@pytest.mark.parametrize(
    "batch, found",
    [
        (torch.randn(3, 5), "float32 (3, 5)"),
        (torch.randn(3, 4, 1), "float32 (3, 4, 1)"),
        (torch.randn(3, 4).double(), "float64 (3, 4)"),
        (torch.ones(3, 4, dtype=torch.long), "int64 (3, 4)"),
    ],
)
def test_inputs_of_another_form_are_refused(batch: Any, found: str) -> None:
    error = refused([batch])
    assert error.where == "x" and error.found == found and error.required == "float32 (?, 4)"


def test_targets_beside_the_inputs_are_refused() -> None:
    error = refused([(EXAMPLE, torch.zeros(2))])
    assert error.where == "batch 0" and "leave targets out" in str(error.hint)
    assert refused([{"y": EXAMPLE}]).where == refused([[3.0]]).where == "batch 0"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_named(value: float) -> None:
    bad = EXAMPLE.clone()
    bad[0, 0] = value
    error = refused([EXAMPLE, bad])
    assert error.where == "x" and "1 values that are NaN or infinite" in str(error.found)
    model = net()
    with torch.no_grad():
        model.a.bias[0] = value
    assert refused([EXAMPLE], model=model).where == "relu"


def test_weights_that_are_not_finite_are_named() -> None:
    model = net()
    with torch.no_grad():
        model.b.weight[0, 0] = float("nan")
    assert "b_weight" in str(refused([EXAMPLE], model=model).where)


def test_unknown_ways_of_ranges_are_refused() -> None:
    with pytest.raises(OptionError, match="no such way") as caught:
        quantizers([EXAMPLE], ranges="max")
    assert caught.value.found == "'max'" and "percentile" in str(caught.value.required)
