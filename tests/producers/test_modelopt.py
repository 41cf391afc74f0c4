"""NVIDIA's Model Optimizer, by graphs in its documented forms."""

from __future__ import annotations

import pytest

from tests.producers.checks import by_form, check_lowered, check_pruned
from tools.producers import modelopt_graphs


@pytest.fixture(scope="module")
def models():
    return by_form(modelopt_graphs.produced)


@pytest.mark.parametrize(
    ("form", "network", "integers"), [("INT8", "CNN", 2), ("INT8", "MLP", 2), ("INT4 AWQ", "transformer", 0)]
)
def test_modelopt(models, form, network, integers):
    one = models[form, network]
    report = check_lowered(one, integers=integers)
    check_pruned(one)
    if form == "INT4 AWQ":
        assert [(layer.weight_bits, layer.kernel) for layer in report.layers] == [
            (4, "weight-only (MatMulNBits)")
        ] * 2
