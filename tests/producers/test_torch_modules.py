"""Quantizers that people write themselves: GETA's, LSQ, PACT and DoReFa, exported as they are."""

from __future__ import annotations

from functools import partial

import pytest

from tests.producers.checks import by_form, check_lowered, check_pruned
from tools.producers import torch_modules

INTEGERS = {"CNN": 2, "MLP": 3, "transformer": 6}


@pytest.fixture(scope="module", params=list(torch_modules.QUANTIZERS))
def models(request):
    return by_form(partial(torch_modules.produced, only=request.param))


@pytest.mark.parametrize("network", INTEGERS)
def test_modules(models, network):
    one = models["dynamo", network]
    # 2 steps: in the middle between two levels of an inner quantizer a value may go to the other one
    report = check_lowered(one, integers=INTEGERS[network], steps=2)
    assert not report.refusals.get("recognize-quantizers")
    check_pruned(one)
