"""onnxruntime.quantization: static in both forms, and dynamic."""

from __future__ import annotations

import logging

import pytest

from tests.producers.checks import by_form, check_lowered, check_pruned
from tools.producers import onnxruntime_tools

LAYERS = {"CNN": 4, "MLP": 3, "transformer": 8, "mixed CNN": 6, "LSTM": 1, "GRU": 1}
STATIC = (*onnxruntime_tools.STATIC,)
DYNAMIC = ("dynamic per tensor", "dynamic per channel")
CONVOLUTIONS = {"CNN": 3, "mixed CNN": 5}  # with ranges that are measured they are faster in floats


@pytest.fixture(scope="module")
def models():
    logging.disable(logging.WARNING)  # onnxruntime's tools open the root logger
    yield by_form(onnxruntime_tools.produced)
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("form", STATIC)
@pytest.mark.parametrize("network", LAYERS)
def test_static_ranges(models, form, network):
    """There is no kernel for 16 bits."""
    check_lowered(models[form, network], integers=0 if form == "QDQ uint16" else LAYERS[network])


@pytest.mark.parametrize("form", DYNAMIC)
@pytest.mark.parametrize("network", LAYERS)
def test_dynamic_ranges(models, form, network):
    """Products of two activations have none."""
    in_floats = CONVOLUTIONS.get(network, 0)
    integers = LAYERS[network] - in_floats - 2 * (network == "transformer")
    check_lowered(models[form, network], integers=integers, in_floats=in_floats)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("network", ["mixed CNN", "MLP"])
def test_other_weights(network, seed):
    for one in onnxruntime_tools.produced(names=[network], seed=seed):
        if one.form in ("QDQ uint8", "QDQ int8 per channel", "QOperator uint8"):
            check_lowered(one, integers=LAYERS[network])
            check_pruned(one)


@pytest.mark.parametrize("form", ["QDQ uint8", "QDQ int4", "QOperator uint8", "dynamic per tensor"])
@pytest.mark.parametrize("network", LAYERS)
def test_masked_equals_sliced(models, form, network):
    if (form, network) == ("dynamic per tensor", "LSTM"):
        pytest.skip("onnxruntime's DynamicQuantizeLSTM has no rule: there is nothing to prune")
    check_pruned(models[form, network])


def test_dynamic_ranges_stay_dynamic(models):
    report = check_lowered(models["dynamic per tensor", "MLP"], integers=3)
    assert {layer.kernel for layer in report.layers} == {"integer (DynamicQuantizeMatMul)"}
    assert all(not layer.reason for layer in report.layers)
