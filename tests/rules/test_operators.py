"""The operator table is the test plan: masked equals sliced for each operator between two layers."""

from __future__ import annotations

import pytest

from getac.onnx_graph.operators import OPERATORS
from tests.rules.cases import CASES, Case
from tests.rules.cases_wide import FROZEN_SOURCES, SHAPE_CHAINS, WIDE_CASES
from tools.law import AS_WRITTEN, analyzed, check_dead, check_law

NAMED = [
    pytest.param(operator, case, id=f"{operator}-{i}")
    for operator, cases in {**CASES, **WIDE_CASES}.items()
    for i, case in enumerate(cases)
]

TOLERANCE = 1e-5  # relative to the largest output
AMPLIFIED = {"Tan": 1e-4, "Det": 1e-4}  # rounding near a pole, and where products cancel


def tolerance_of(operator: str) -> float:
    return AMPLIFIED.get(operator, TOLERANCE)


def test_every_operator_of_the_table_has_a_case() -> None:
    assert {*CASES, *WIDE_CASES, *FROZEN_SOURCES} == set(OPERATORS)


@pytest.mark.parametrize(("operator", "case"), NAMED)
def test_masked_equals_sliced(operator: str, case: Case) -> None:
    model = case.model(seed=0)
    assert operator in {node.op_type for node in model.graph.node}
    analysis = analyzed(model, AS_WRITTEN).analysis
    assert analysis is not None
    assert analysis.opaque == []
    assert tuple(one.size for one in analysis.classes) == case.units
    for seed in range(3):
        outcome = check_law(case.model(seed), seed, passes=AS_WRITTEN)
        assert outcome.difference <= tolerance_of(operator)
        assert outcome.removed or seed


@pytest.mark.parametrize(("operator", "case"), NAMED)
def test_dead_units_go_and_the_function_stays(operator: str, case: Case) -> None:
    for seed in range(2):
        outcome = check_dead(case.model(seed), seed, passes=AS_WRITTEN)
        assert outcome.difference <= tolerance_of(operator)


@pytest.mark.parametrize("name", ["Relu", "Conv", "Concat", "Gemm", "Mul"])
def test_zeroed_units_are_found_dead(name: str) -> None:
    """What masking removes, the analysis of the masked model removes by itself."""
    for case in CASES[name][:2]:
        for seed in range(3):
            assert (
                check_dead(case.model(seed), seed, passes=AS_WRITTEN).removed
                == check_law(case.model(seed), seed, passes=AS_WRITTEN).removed
            )


@pytest.mark.parametrize("case", SHAPE_CHAINS)
def test_sizes_are_followed_through_arithmetic(case: Case) -> None:
    analysis = analyzed(case.model(seed=0), AS_WRITTEN).analysis
    assert analysis is not None
    assert tuple(one.size for one in analysis.classes) == case.units
    for seed in range(3):
        assert check_law(case.model(seed), seed, passes=AS_WRITTEN).difference <= TOLERANCE
        assert check_dead(case.model(seed), seed, passes=AS_WRITTEN).difference <= TOLERANCE
