"""torch.ao's fake quantizers, through the exporter that traces."""

from __future__ import annotations

import pytest

from tests.producers.checks import by_form, check_lowered, check_pruned
from tools.producers import torch_ao


@pytest.fixture(scope="module")
def models():
    return by_form(torch_ao.produced)


@pytest.mark.parametrize("form", ["per tensor", "per channel"])
@pytest.mark.parametrize(("network", "integers"), [("CNN", 2), ("MLP", 3), ("transformer", 6)])
def test_fake_quantizers(models, form, network, integers):
    one = models[form, network]
    check_lowered(one, integers=integers)
    check_pruned(one)
