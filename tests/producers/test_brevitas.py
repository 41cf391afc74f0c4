"""Brevitas: QCDQ and QONNX exports."""

from __future__ import annotations

import pytest

from tests.producers.checks import by_form, check_lowered, check_pruned

pytest.importorskip("brevitas", reason="brevitas is not installed (the extra `producers`)")
pytest.importorskip("onnxoptimizer", reason="onnxoptimizer is not installed (the extra `producers`)")


@pytest.fixture(scope="module")
def models():
    from tools.producers import brevitas_nets

    return by_form(brevitas_nets.produced)


@pytest.mark.parametrize("form", ["QCDQ", "QONNX"])
@pytest.mark.parametrize(("network", "integers"), [("CNN", 4), ("MLP", 3), ("transformer", 6)])
def test_brevitas(models, form, network, integers):
    one = models[form, network]
    check_lowered(one, integers=integers)
    check_pruned(one)
