"""The quantizers of QONNX, by their definition."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from getac.errors import UnsupportedModelError
from getac.onnx_graph.qonnx import DOMAINS
from getac.onnx_graph.read import load
from getac.passes import FoldQuantizers, Pipeline, RecognizeQuantizers, RemoveDead, State
from getac.runtime import open_session, run

F32 = np.float32
X = np.linspace(-3, 3, 121, dtype=F32)


def model_of(op_type="Quant", domain=DOMAINS[0], scale=0.1, zero=0.0, bits=4.0, **attributes):
    inputs = ["x", "s", "z", "b"] if op_type != "BipolarQuant" else ["x", "s"]
    tensors = dict(zip("szb", (scale, zero, bits), strict=True))
    graph = helper.make_graph(
        [helper.make_node(op_type, inputs, ["y"], "quant", domain=domain, **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [121])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [121])],
        [numpy_helper.from_array(np.asarray(value, F32), name) for name, value in tensors.items()],
    )
    imports = [helper.make_opsetid("", 16), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def result(model):
    return run(open_session(load(model), optimize=False), {"x": X})["y"]


def reference(scale, zero, bits, signed, narrow, rounding):
    """As the text of the operator says it."""
    high = 2.0 ** (bits - signed) - 1 - (narrow and not signed)
    low = -(2.0 ** (bits - 1)) + narrow if signed else 0.0
    clipped = np.clip(X / F32(scale) + F32(zero), low, high)
    return ((rounding(clipped) - F32(zero)) * F32(scale)).astype(F32)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("narrow", [0, 1])
@pytest.mark.parametrize("mode", ["ROUND", "FLOOR", "CEIL"])
def test_quant(domain, signed, narrow, mode):
    model = model_of(domain=domain, signed=signed, narrow=narrow, rounding_mode=mode)
    rounding = {"ROUND": np.rint, "FLOOR": np.floor, "CEIL": np.ceil}[mode]
    np.testing.assert_array_equal(result(model), reference(0.1, 0, 4, signed, narrow, rounding))


def test_a_zero_point():
    model = model_of(zero=3.0, signed=0, narrow=0)
    np.testing.assert_array_equal(result(model), reference(0.1, 3, 4, 0, 0, np.rint))


def test_two_kinds_in_one_model():
    model = model_of(signed=1, narrow=1)
    model.graph.node[0].output[0] = "h"
    model.graph.node.append(
        helper.make_node(
            "Quant", ["h", "s", "z", "b"], ["y"], "second", domain=DOMAINS[0], signed=0, narrow=0
        )
    )
    found = result(model)
    assert found.min() == 0 and found.max() == pytest.approx(0.7)


def test_bipolar():
    np.testing.assert_array_equal(result(model_of("BipolarQuant")), np.where(X >= 0, F32(0.1), F32(-0.1)))


@pytest.mark.parametrize(("signed", "narrow", "ends"), [(1, 0, (-8, 7)), (1, 1, (-7, 7)), (0, 0, (0, 15))])
def test_it_becomes_a_record(signed, narrow, ends):
    state = State(load(model_of(signed=signed, narrow=narrow, rounding_mode="ROUND")))
    Pipeline([RecognizeQuantizers(), RemoveDead(), FoldQuantizers()], verify=[{"x": X}]).run(state)
    (record,) = state.quantizers.values()
    assert (record.low, record.high) == ends
    assert float(record.step) == float(F32(0.1))


def test_a_rounding_without_a_meaning_is_refused():
    with pytest.raises(UnsupportedModelError, match="rounds in a way") as error:
        load(model_of(rounding_mode="HALF_UP"))
    assert error.value.found == "HALF_UP"


def test_a_model_s_own_function_of_that_name_stays():
    model = model_of(signed=1)
    head = "<domain: 'qonnx.custom_op.general', opset_import: ['' : 16]>"
    body = f"{head} Quant (x, s, z, b) => (y) {{ y = Neg(x) }}"
    model.functions.append(onnx.parser.parse_function(body.replace("'", '"')))
    np.testing.assert_array_equal(result(model), -X)
