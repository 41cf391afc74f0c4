"""Forms that no installed tool writes: quantizers in local functions, and Q/DQ of the first operator set."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import getac
from getac.onnx_graph.read import load
from getac.runtime import open_session, run

F32 = np.float32
K = 16
RNG = np.random.default_rng(0)
W, V = ((RNG.normal(size=(K, K)) / 4).astype(F32) for _ in range(2))
X = RNG.normal(size=(64, K)).astype(F32)


def model_of(nodes, tensors, opset, functions=(), domains=()):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, K]) for name in "xy"]
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=8)
    onnx.checker.check_model(model)
    return model


def in_functions():
    """A function that rounds, called by one that rounds the input and the weight of a layer."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    node = helper.make_node
    rounded = helper.make_function(
        "own",
        "Rounded",
        ["x", "s", "lo", "hi"],
        ["y"],
        [
            node("Div", ["x", "s"], ["a"]),
            node("Round", ["a"], ["b"]),
            node("Clip", ["b", "lo", "hi"], ["c"]),
            node("Mul", ["c", "s"], ["y"]),
        ],
        imports[:1],
    )
    layer = helper.make_function(
        "own",
        "Layer",
        ["x", "w", "s", "ws", "lo", "hi"],
        ["y"],
        [
            node("Rounded", ["x", "s", "lo", "hi"], ["q"], domain="own"),
            node("Rounded", ["w", "ws", "lo", "hi"], ["v"], domain="own"),
            node("MatMul", ["q", "v"], ["y"]),
        ],
        imports,
    )
    tensors = {
        "w": W,
        "v": V,
        "s": F32(0.05),
        "ws": np.linspace(0.005, 0.01, K, dtype=F32).reshape(1, K),
        "lo": F32(-127),
        "hi": F32(127),
    }
    nodes = [
        node("Layer", ["x", "w", "s", "ws", "lo", "hi"], ["h"], "first", domain="own"),
        node("Relu", ["h"], ["r"], "relu"),
        node("Layer", ["r", "v", "s", "ws", "lo", "hi"], ["y"], "second", domain="own"),
    ]
    return model_of(nodes, tensors, 17, [rounded, layer], ["own"])


def of_opset_10():
    """Per tensor, without an axis, and a scale without a zero point, which is then of UINT8."""
    node = helper.make_node
    tensors = {
        "a": F32(0.03),
        "az": np.uint8(128),
        "b": F32(0.02),
        "w": np.clip(np.rint(W / F32(0.01)), -128, 127).astype(np.int8),
        "v": np.clip(np.rint(V / F32(0.01)), -128, 127).astype(np.int8),
        "s": F32(0.01),
        "wz": np.int8(0),
    }
    nodes = [
        node("QuantizeLinear", ["x", "a", "az"], ["xi"], "q1"),
        node("DequantizeLinear", ["xi", "a", "az"], ["xq"], "d1"),
        node("DequantizeLinear", ["w", "s", "wz"], ["wq"], "d2"),
        node("MatMul", ["xq", "wq"], ["h"], "first"),
        node("Relu", ["h"], ["r"], "relu"),
        node("QuantizeLinear", ["r", "b"], ["ri"], "q2"),
        node("DequantizeLinear", ["ri", "b"], ["rq"], "d3"),
        node("DequantizeLinear", ["v", "s", "wz"], ["vq"], "d4"),
        node("MatMul", ["rq", "vq"], ["y"], "second"),
    ]
    return model_of(nodes, tensors, 10)


FORMS = {"local functions": in_functions, "Q/DQ of opset 10": of_opset_10}


@pytest.mark.parametrize("form", FORMS)
def test_it_is_lowered_to_integers_and_agrees(form, tmp_path):
    model, path = FORMS[form](), tmp_path / "lowered.onnx"
    report = getac.lower(model, path, bench=False)
    assert [layer.kernel.startswith("integer") for layer in report.layers] == [True, True]
    assert not report.refusals.get("recognize-quantizers")
    want = run(open_session(load(model), optimize=False), {"x": X})["y"]
    got = run(open_session(path), {"x": X})["y"]
    assert np.abs(got - want).max() <= np.ptp(want) / 255


@pytest.mark.parametrize("form", FORMS)
def test_pruned_it_is_the_masked_one(form):
    report = getac.lower(FORMS[form](), None, sparsity=0.3, align=1, bench=False)
    assert report.units_removed >= 0.2 * report.units > 0
    assert max(each.relative for each in report.verification.sliced) < 1e-4
