"""onnxruntime.quantization: static in both forms, and dynamic."""

from __future__ import annotations

import logging

import pytest

from tests.producers.checks import by_form, check_lowered, check_pruned
from tools.producers import onnxruntime_tools

# form -> layers on integer kernels of the CNN (4) and of the perceptron (3)
INTEGERS = {
    "QDQ uint8": (4, 3),
    "QDQ int8 per channel": (4, 3),
    "QDQ uint8 weights": (4, 3),
    "QDQ uint16": (0, 0),  # there is no kernel
    "QDQ int4": (4, 3),
    "QOperator uint8": (4, 3),
    "QOperator int8": (4, 3),
    "dynamic per tensor": (1, 3),  # its convolutions are faster in floats
    "dynamic per channel": (1, 3),
}


@pytest.fixture(scope="module")
def models():
    logging.disable(logging.WARNING)  # onnxruntime's tools open the root logger
    yield by_form(onnxruntime_tools.produced)
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize("network", ["CNN", "MLP"])
def test_every_form(models, form, network):
    # MatMulNBits, which the 16-bit model runs on, rounds its input to 8 bits, layer by layer
    steps = 3 if form == "QDQ uint16" else 1
    check_lowered(models[form, network], integers=INTEGERS[form][network == "MLP"], steps=steps)


@pytest.mark.parametrize(
    ("form", "integers"), [("QDQ int8 per channel", 8), ("QOperator uint8", 8), ("dynamic per channel", 6)]
)
def test_transformers(models, form, integers):
    """Two steps: a value that is rounded 35 times on its way leaves a sum apart by one more."""
    one = models[form, "transformer"]
    check_lowered(one, integers=integers, steps=2)
    check_pruned(one)


@pytest.mark.parametrize("form", ["QDQ uint8", "QDQ int4", "QOperator uint8", "dynamic per tensor"])
@pytest.mark.parametrize("network", ["CNN", "MLP"])
def test_masked_equals_sliced(models, form, network):
    check_pruned(models[form, network])


def test_dynamic_ranges_stay_dynamic(models):
    report = check_lowered(models["dynamic per tensor", "MLP"], integers=3, steps=1e-3)
    assert {layer.kernel for layer in report.layers} == {"integer (DynamicQuantizeMatMul)"}
    assert all(not layer.reason for layer in report.layers)
