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


ROUNDINGS = {
    "HALF_EVEN": np.rint,
    "UP": lambda q: np.sign(q) * np.ceil(np.abs(q)),
    "DOWN": np.trunc,
    "ROUND_TO_ZERO": np.trunc,
    "HALF_UP": lambda q: np.sign(q) * np.floor(np.abs(q) + F32(0.5)),
    "HALF_DOWN": lambda q: np.sign(q) * np.ceil(np.abs(q) - F32(0.5)),
}


@pytest.mark.parametrize("mode", ROUNDINGS)
@pytest.mark.parametrize("zero", [0.0, 3.0])
def test_every_rounding_mode(mode, zero):
    model = model_of(scale=0.25, zero=zero, signed=1, narrow=0, rounding_mode=mode)
    np.testing.assert_array_equal(result(model), reference(0.25, zero, 4, 1, 0, ROUNDINGS[mode]))


@pytest.mark.parametrize(("mode", "stays"), [("FLOOR", 1), ("UP", 1), ("HALF_UP", 1), ("ROUND", 0)])
def test_what_rounds_elsewhere_stays_with_its_levels_behind_it(mode, stays):
    state = State(load(model_of(scale=0.25, signed=1, narrow=1, rounding_mode=mode)))
    Pipeline([RecognizeQuantizers(), RemoveDead(), FoldQuantizers()], verify=[{"x": X}]).run(state)
    (record,) = state.quantizers.values()
    assert (float(record.step), record.low, record.high) == (0.25, -7, 7)
    roundings = [node for node in state.model.graph if node.op_type in ("Round", "Floor", "Ceil")]
    assert len(roundings) == stays


@pytest.mark.parametrize(
    "given",
    [
        {"zero": 3.0, "signed": 0},
        {"zero": 3.25, "signed": 0},
        {"bits": 1.0, "signed": 0},
        {"bits": 2.5, "signed": 1},
        {"scale": np.linspace(0.1, 0.3, 121)},
        {"op_type": "BipolarQuant"},
        *({"rounding_mode": mode} for mode in ("FLOOR", "CEIL", *ROUNDINGS)),
    ],
)
def test_recognition_changes_no_result(given):
    model = model_of(**{"scale": 0.3, **given})
    state = State(load(model))
    Pipeline([RecognizeQuantizers(), RemoveDead()], verify=[{"x": X}]).run(state)
    found = run(open_session(state.model, optimize=False), {"x": X})["y"]
    np.testing.assert_allclose(found, result(model), rtol=1e-6, atol=1e-7)


def test_a_rounding_without_a_meaning_is_refused():
    with pytest.raises(UnsupportedModelError, match="rounds in a way") as error:
        load(model_of(rounding_mode="STOCHASTIC"))
    assert error.value.found == "STOCHASTIC"


def truncating(*tensors, **attributes):
    """Trunc of x by (s, z, bits before, bits after) or (s, z, bits before, s', bits after)."""
    names = [f"t{index}" for index in range(len(tensors))]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [121]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Trunc", ["x", *names], ["y"], "trunc", domain=DOMAINS[0], **attributes)],
        "g",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(np.asarray(v, F32), name) for v, name in zip(tensors, names, strict=True)],
    )
    imports = [helper.make_opsetid("", 16), helper.make_opsetid(DOMAINS[0], 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("mode", [None, "CEIL", "HALF_UP"])
@pytest.mark.parametrize("zero", [0.0, 2.0])
def test_trunc(mode, zero):
    """x / s of 6 bits loses two of them; in the second form it gets a scale and a range."""
    rounding = {None: np.floor, "CEIL": np.ceil, "HALF_UP": ROUNDINGS["HALF_UP"]}[mode]
    given = {} if mode is None else {"rounding_mode": mode}
    integers = np.rint(X / F32(0.25) + F32(zero))
    expected = (rounding(integers / F32(4)) - F32(zero)) * F32(0.25)
    np.testing.assert_array_equal(result(truncating(0.25, zero, 6, 4, **given)), expected)
    cut = rounding(np.clip(integers / F32(4), -3, 3)) - F32(zero / 4)
    found = result(truncating(0.25, zero, 6, 1.0, 3, signed=1, narrow=1, **given))
    np.testing.assert_array_equal(found, cut)


def test_quantizers_in_the_branches_of_an_if():
    model = model_of(signed=1, narrow=1)
    (node,) = model.graph.node
    node.output[0] = "then"
    branches = []
    for name, nodes in (("then", [node]), ("else", [helper.make_node("Neg", ["x"], ["else"], "n")])):
        end = helper.make_tensor_value_info(name, TensorProto.FLOAT, [121])
        branches.append(helper.make_graph(nodes, name, [], [end]))
    choice = helper.make_node("If", ["c"], ["y"], "if", then_branch=branches[0], else_branch=branches[1])
    del model.graph.node[:]
    model.graph.node.append(choice)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(True), "c"))
    np.testing.assert_array_equal(result(model), reference(0.1, 0, 4, 1, 1, np.rint))


def test_quantizers_in_a_function_of_the_model():
    model = model_of(signed=1, narrow=1)
    (node,) = model.graph.node
    imports = [helper.make_opsetid("", 16), helper.make_opsetid(DOMAINS[0], 1)]
    body = helper.make_function("own", "Rounded", list(node.input), ["y"], [node], imports)
    call = helper.make_node("Rounded", list(node.input), ["y"], "call", domain="own")
    del model.graph.node[:]
    model.graph.node.append(call)
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("own", 1))
    np.testing.assert_array_equal(result(model), reference(0.1, 0, 4, 1, 1, np.rint))


def test_a_model_s_own_function_of_that_name_stays():
    model = model_of(signed=1)
    head = "<domain: 'qonnx.custom_op.general', opset_import: ['' : 16]>"
    body = f"{head} Quant (x, s, z, b) => (y) {{ y = Neg(x) }}"
    model.functions.append(onnx.parser.parse_function(body.replace("'", '"')))
    np.testing.assert_array_equal(result(model), -X)
