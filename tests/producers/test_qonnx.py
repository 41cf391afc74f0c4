"""qonnx: `Quant` operators made of Q/DQ by its own tools."""

from __future__ import annotations

import pytest

from tests.producers.checks import by_form, check_lowered, check_pruned

pytest.importorskip("qonnx", reason="qonnx is not installed (the extra `producers`)")


@pytest.fixture(scope="module")
def models():
    from tools.producers import qonnx_tools

    return by_form(qonnx_tools.produced)


@pytest.mark.parametrize(("network", "integers"), [("CNN", 4), ("MLP", 3), ("transformer", 8)])
def test_quant_operators(models, network, integers):
    one = models["Quant", network]
    check_lowered(one, integers=integers)
    check_pruned(one)
