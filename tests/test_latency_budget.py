"""The search for a sparsity: with a clock that is a formula, and once with the real one."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest

import getac
from getac.errors import OptionError
from getac.latency_budget import GREATEST, QUIET, TRIES, excess_note, least_change, least_sparsity
from getac.report import Latency
from tools.zoo.resnet import resnet18

F32 = np.float32


def search(budget, measured, predicted=lambda s: 1 - s):
    """The sparsities that are tried, and what is found."""
    asked = []

    def attempt(sparsity):
        asked.append(sparsity)
        return f"model at {sparsity}", measured(sparsity)

    return least_sparsity(budget, attempt, predicted), asked


@pytest.mark.parametrize("budget", [0.2, 0.5, 0.8])
def test_a_prediction_that_is_right_is_met_at_once(budget):
    found, asked = search(budget, lambda s: 1 - s)
    assert found.sparsity == pytest.approx(1 - budget * QUIET, abs=0.01)
    assert found.result == f"model at {found.sparsity}"
    assert len(asked) == 1 and [one.sparsity for one in found.tries] == asked


@pytest.mark.parametrize(
    "measured",
    [
        lambda s: (1 - s) ** 2,
        lambda s: 1 - 0.5 * s,
        lambda s: 0.7 * (1 - s) + 0.2,
        lambda s: 0.9 if s < 0.37 else 0.4,
        lambda s: 1 - 0.9 * s**3,
    ],
)
@pytest.mark.parametrize("budget", [0.55, 0.7, 0.85])
def test_the_least_sparsity_is_found_whatever_the_prediction(measured, budget):
    found, asked = search(budget, measured)
    assert measured(found.sparsity) <= budget * QUIET
    least = min(s for s in np.linspace(0, 0.95, 951) if measured(s) <= budget * QUIET)
    assert least - 1e-9 <= found.sparsity <= least + 0.16  # what six tries give, however odd the clock
    assert len(asked) == len(set(asked)) <= TRIES


def test_nothing_is_removed_where_integers_alone_are_quick_enough():
    found, asked = search(0.5, lambda s: 0.4 * (1 - s), lambda s: 0.4 * (1 - s))
    assert found.sparsity == 0.0 and asked == [0.0]


def test_more_is_kept_where_the_prediction_was_too_careful():
    found, _ = search(0.5, lambda s: 0.48 * (1 - s))
    assert found.sparsity == 0.0


def test_refuses_a_budget_that_nothing_meets():
    with pytest.raises(OptionError, match="no sparsity meets the latency budget") as caught:
        search(0.1, lambda s: 1 - 0.5 * s)
    assert caught.value.required == "a latency of at most 0.1 of the original's"
    assert "0.525 at sparsity 0.95" in caught.value.found  # the smallest that was reached
    assert "calibration data" in caught.value.hint and "getac inspect" in caught.value.hint


def test_no_advice_to_give_the_calibration_data_that_was_given():
    with pytest.raises(OptionError) as caught:
        least_sparsity(0.1, lambda s: ("model", 1 - 0.5 * s), lambda s: 1 - s, integer=True)
    assert caught.value.hint == "getac inspect says which units must stay"


def search_bits(budget, measured):
    """As `search`, where bits are open as well: measured by sparsity and bits."""
    asked = []

    def attempt(sparsity, bits):
        asked.append((sparsity, bits))
        return f"model at {sparsity}, {bits}", measured(sparsity, bits)

    return least_change(budget, attempt, lambda s: 1 - s), asked


def test_eight_bits_that_are_enough_stay():
    found, asked = search_bits(0.5, lambda s, bits: 0.4)
    assert (found.sparsity, found.weight_bits, asked) == (0.0, 8, [(0.0, 8)])


def test_fewer_bits_go_before_units():
    found, asked = search_bits(0.3, lambda s, bits: 0.38 if bits == 8 else 0.26)
    assert (found.sparsity, found.weight_bits, found.result) == (0.0, 4, "model at 0.0, 4")
    assert asked == [(0.0, 8), (0.0, 4)]


def test_units_go_as_well_where_fewer_bits_are_not_enough():
    found, asked = search_bits(0.2, lambda s, bits: (1 - s) * (0.38 if bits == 8 else 0.26))
    assert found.weight_bits == 4 and 0.2 < found.sparsity < 0.35
    assert asked[:2] == [(0.0, 8), (0.0, 4)] and {bits for _, bits in asked[2:]} == {4}
    assert len(asked) <= TRIES and str(found.tries[1]) == "sparsity 0 with 4-bit weights: ratio 0.26"


@pytest.mark.parametrize("gain", [1.0, 0.985, 1.2])
def test_bits_that_change_nothing_stay_eight(gain):
    """A layer whose weights are unpacked once computes in floats, whatever their bits."""
    found, asked = search_bits(0.5, lambda s, bits: (1 - s) * (1 if bits == 8 else gain))
    assert found.weight_bits == 8 and {bits for _, bits in asked[2:]} == {8}


def test_refuses_a_budget_that_neither_bits_nor_units_meet():
    with pytest.raises(OptionError, match="no sparsity meets the latency budget") as caught:
        search_bits(0.1, lambda s, bits: (1 - 0.5 * s) * bits / 8)
    assert "sparsity 0 with 8-bit weights: ratio 1" in caught.value.found
    assert "sparsity 0.95 with 4-bit weights: ratio 0.263" in caught.value.found


def test_what_is_over_the_budget_in_the_end_says_so():
    (note,) = excess_note(0.1, Latency(10.0, 1.03))
    assert "0.103 of the original's, which is over the budget of 0.1" in note
    assert not list(excess_note(0.1, Latency(10.0, 1.0))) and not list(excess_note(0.1, None))


def test_a_budget_that_only_the_greatest_sparsity_meets():
    found, asked = search(0.1, lambda s: 0.05 if s >= GREATEST else 0.9)
    assert found.sparsity == GREATEST and GREATEST in asked


@pytest.fixture
def model():
    return ir.serde.deserialize_model(resnet18(width=8, image=32, classes=10))


@pytest.fixture
def data():
    return {"image": np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(F32)}


def entries(model):
    return sum(value.const_value.size for value in model.graph.initializers.values())


def stored_bytes(model):
    return sum(value.const_value.nbytes for value in model.graph.initializers.values())


def test_the_least_sparsity_from_one_end_to_the_other(monkeypatch, tmp_path, model, data):
    """The clock counts stored entries, which both models have."""
    measured = []

    def clock(models, batch):
        measured.append((entries(models.sliced) / entries(models.folded), batch["image"].shape))
        return Latency(1.0, measured[-1][0]), []

    monkeypatch.setattr("getac.lowering.measure_models", clock)
    steps, path = [], tmp_path / "report.json"
    report = getac.lower(
        model, latency_budget=0.5, calibration=data, bench=False, report=path, on_step=steps.append
    )
    assert 0 < report.sparsity_requested < 1
    assert measured[-1][0] <= 0.5 or min(ratio for ratio, _ in measured) <= 0.5
    assert {shape for _, shape in measured} == {(1, 3, 32, 32)}
    assert 1 <= len(measured) <= TRIES and steps.count("verify") == 1
    (note,) = [note for note in report.notes if note.startswith("latency budget 0.5: tried sparsity")]
    assert note.count("ratio") == len(measured)
    assert "bits of weights make no difference to integer kernels" in note
    assert note in json.loads(path.read_text())["notes"]
    again = getac.lower(model, latency_budget=0.5, calibration=data, bench=False)
    assert again.sparsity_requested == report.sparsity_requested


def test_without_data_the_report_says_what_data_would_do(monkeypatch, model):
    monkeypatch.setattr(
        "getac.lowering.measure_models",
        lambda models, batch: (Latency(1.0, entries(models.sliced) / entries(models.folded)), []),
    )
    report = getac.lower(model, latency_budget=0.7, bench=False)
    assert any("calibration data would put layers on integers" in note for note in report.notes)
    (note,) = [note for note in report.notes if "with 8-bit weights" in note]
    assert "sparsity 0 with 4-bit weights: ratio" in note
    assert {layer.weight_bits for layer in report.layers} == {8}  # entries say nothing of bits


def test_weights_of_fewer_bits_from_one_end_to_the_other(monkeypatch, model):
    """The clock counts bytes."""

    def clock(models, batch):
        return Latency(stored_bytes(models.folded), stored_bytes(models.lowered)), []

    monkeypatch.setattr("getac.lowering.measure_models", clock)
    report = getac.lower(model, latency_budget=0.2, bench=False)
    assert report.sparsity_requested == 0 and {layer.weight_bits for layer in report.layers} == {4}
    fixed = getac.lower(model, latency_budget=0.2, weight_bits=8, bench=False)
    assert fixed.sparsity_requested > 0 and {layer.weight_bits for layer in fixed.layers} == {8}
    assert not any("with 8-bit weights" in note for note in fixed.notes)


def test_a_last_measurement_over_the_budget_is_a_note(monkeypatch, model, data):
    """The clock of the search is quick, that of the report is slow."""
    monkeypatch.setattr("getac.lowering.measure_models", lambda models, batch: (Latency(10.0, 4.8), []))
    monkeypatch.setattr("getac.measure.measure_models", lambda models, batch: (Latency(10.0, 5.2), []))
    report = getac.lower(model, latency_budget=0.5, calibration=data)
    (note,) = [note for note in report.notes if "over the budget" in note]
    assert "0.52 of the original's" in note


def test_one_real_run(model):
    """By the real clock; which way it goes is the machine's business."""
    try:
        report = getac.lower(model, latency_budget=0.8, bench=False)
    except OptionError as error:
        assert "tried sparsity" in str(error.found)
    else:
        assert any(note.startswith("latency budget 0.8: tried") for note in report.notes)


@pytest.mark.parametrize("budget", [0, 1, -0.5, 2.0, float("nan")])
def test_refuses_budgets_outside_of_their_domain(model, budget):
    with pytest.raises(OptionError, match="part of the original's latency") as caught:
        getac.lower(model, latency_budget=budget)
    assert caught.value.required == "a number in (0, 1)"


@pytest.mark.parametrize("budget", ["0.5", True])
def test_refuses_budgets_of_another_type(model, budget):
    with pytest.raises(OptionError, match="latency_budget has a value of another type"):
        getac.lower(model, latency_budget=budget)


def test_refuses_a_sparsity_beside_it(model):
    with pytest.raises(OptionError, match="both were given") as caught:
        getac.lower(model, latency_budget=0.5, sparsity=0.5)
    assert caught.value.required == "one of them"


def test_refuses_a_cost_table_that_is_none(model, tmp_path):
    path = tmp_path / "table.json"
    path.write_text("{}")
    with pytest.raises(getac.errors.BadInputError, match="this is no cost table"):
        getac.lower(model, cost=path)
