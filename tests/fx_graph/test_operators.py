"""The operator table is the test plan: masked equals sliced for each operator between two layers."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from getac.fx_graph.operators import OPERATORS, call_of
from getac.fx_graph.view import FxView
from getac.rules.elementwise import Elementwise
from getac.rules.source import Filled, Fresh
from tests.fx_graph.cases import ELEMENTWISE, Case
from tests.fx_graph.cases_composite import COMPOSITE
from tests.fx_graph.cases_layers import LAYERS
from tests.fx_graph.cases_layout import LAYOUT
from tools.fx_law import check_law

CASES: dict[str, list[Case]] = {**ELEMENTWISE, **LAYERS, **LAYOUT, **COMPOSITE}
NAMED = [
    pytest.param(name, one, id=f"{name}-{i}") for name, cases in CASES.items() for i, one in enumerate(cases)
]


def test_every_operator_of_the_table_has_a_case() -> None:
    names = {name.removeprefix("aten.") for name in OPERATORS}
    assert names - set(CASES) == set()


def test_every_operator_of_the_table_exists() -> None:
    assert [
        name for name in OPERATORS if name.startswith("aten.") and not hasattr(torch.ops.aten, name[5:])
    ] == []


@pytest.mark.parametrize(("name", "one"), NAMED)
def test_masked_equals_sliced(name: str, one: Case) -> None:
    torch.manual_seed(0)
    outcome = check_law(one.make(), one.inputs())
    assert {f"aten.{name}", f"aten.{name}_", name} & outcome.operators
    assert outcome.units == one.units
    assert outcome.removed >= len(one.units)
    assert outcome.difference <= 1e-5
    assert any(one.reason in reason for reason in outcome.reasons)
    opaque = [node.reason for node in outcome.analysis.opaque]
    assert not opaque or one.reason in opaque
    assert not outcome.without_gradient or one.without_gradient
    assert isinstance(outcome.analysis.view, FxView)
    for node in outcome.analysis.view.nodes:
        assert_every_tensor_is_an_operand(node.node)


def static(tensor: torch.Tensor) -> list[int]:
    """The sizes that are numbers: to compare a symbol of unknown value is an error."""
    return [size for size in tensor.shape if type(size) is int]


def assert_every_tensor_is_an_operand(node: fx.Node) -> None:
    """A rule must not forget a tensor: slicing one of two that belong together would break the call."""
    call = call_of(node)
    if call is None or isinstance(call.rule, Filled | Fresh):
        return
    if isinstance(call.rule, Elementwise) and call.rule.value != "computed":
        return  # another tensor gives the type alone
    values = {n: n.meta.get("val") for n in node.all_input_nodes}
    tensors = {n for n, value in values.items() if isinstance(value, torch.Tensor) and 0 not in static(value)}
    assert tensors <= set(call.operands)
