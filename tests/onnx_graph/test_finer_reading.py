"""Finer readings: the same numbers in finer steps for one layer, and read again as what they were."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from getac.executed import executed_kernels
from getac.onnx_graph.finer_reading import read_coarse, read_finer
from getac.onnx_graph.read import load
from getac.passes import FoldQuantizers
from getac.pipeline import Pipeline, State
from getac.runtime import open_session, run
from tools.onnx_text import model_of

F32 = np.float32
PAIR = "q = QuantizeLinear(x, s, z)  c = Clip(q, least, greatest)  d = DequantizeLinear(c, s, z)"
READERS = """
    vd = DequantizeLinear(v, t, o)  wd = DequantizeLinear(w, t, o)
    h = Conv(d, vd)  hq = QuantizeLinear(h, u, z)  y = DequantizeLinear(hq, u, z)
    k = Conv(d, wd)  kq = QuantizeLinear(k, u, z)  b = DequantizeLinear(kq, u, z)
"""
MORE = "r = Relu(d)"


def model(signed=False, more=False, step=0.3):
    rng = np.random.default_rng(0)
    tensors = {
        "s": np.asarray(step, F32),
        "z": np.asarray(7 if signed else 0, np.uint8),
        "least": np.asarray(0, np.uint8),
        "greatest": np.asarray(14 if signed else 15, np.uint8),
        "v": rng.integers(-7, 8, (4, 4, 3, 3)).astype(np.int8),
        "w": rng.integers(-7, 8, (4, 4, 1, 1)).astype(np.int8),
        "t": np.asarray(0.1, F32),
        "o": np.asarray(0, np.int8),
        "u": np.asarray(0.05, F32),
    }
    outputs = ("y", "b", "r") if more else ("y", "b")
    text = f"{PAIR} {READERS} {MORE if more else ''}"
    return load(model_of(text, {"x": [2, 4, 6, 6]}, tensors, outputs))


def layer(found, name):
    return next(node for node in found.graph if node.outputs[0].name == name)


def operators(found):
    return [node.op_type for node in found.graph]


def answers(found, optimize=True):
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype(F32) * 3
    return run(open_session(found, optimize=optimize), {"x": x})


def assert_same(one, other):
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("factor", [16, 4])
def test_the_numbers_are_the_same_and_kernels_stay_on_integers(signed, factor):
    found = model(signed)
    before = answers(found, optimize=False)
    read_finer(layer(found, "h"), factor)
    assert operators(found).count("Mul") == 1
    assert_same(before, answers(found, optimize=False))
    assert_same(answers(model(signed)), answers(found))
    kernels = [node.op_type for node in executed_kernels(found)]
    assert kernels.count("QLinearConv") == 2 and "Conv" not in kernels


def test_other_readers_go_on_as_before():
    found = model(more=True)
    read_finer(layer(found, "h"), 16)
    assert layer(found, "k").inputs[0].name == layer(found, "r").inputs[0].name == "d"
    step = layer(found, "h").inputs[0].producer().inputs[1].const_value.numpy()
    np.testing.assert_array_equal(step, F32(0.3) / F32(16))


def test_layers_share_what_they_read_and_nothing_is_left_over():
    found = model()
    read_finer(layer(found, "h"), 16)
    read_finer(layer(found, "k"), 16)
    assert layer(found, "h").inputs[0] is layer(found, "k").inputs[0]
    assert operators(found).count("Mul") == 1
    assert layer(found, "h").inputs[0].name == "d"  # by which verification finds it
    assert operators(found).count("DequantizeLinear") == operators(model()).count("DequantizeLinear")


@pytest.mark.parametrize("step", [0.3, 0.1234567, 0.7654321])
@pytest.mark.parametrize("factor", [16, 8, 7, 3])
@pytest.mark.parametrize("both", [False, True])
def test_read_again_it_is_one_lattice(factor, both, step):
    found = model(signed=True, step=step)
    read_finer(layer(found, "h"), factor)
    if both:
        read_finer(layer(found, "k"), factor)
    state = Pipeline([FoldQuantizers()]).run(State(found))
    (record,) = (one for value, one in state.quantizers.items() if value.name == "x")
    assert (float(record.step), record.low, record.high) == (F32(step), -7, 7)
    assert not {"Mul", "QuantizeLinear", "DequantizeLinear"}.intersection(operators(state.model))
    assert not state.refusals


def test_the_inverse_brings_back_what_was_there():
    found = model()
    read_finer(layer(found, "h"), 16)
    read_coarse(found.graph)
    assert operators(found).count("Mul") == 0
    assert_same(answers(model(), optimize=False), answers(found, optimize=False))
    again = operators(found)
    read_coarse(found.graph)
    assert operators(found) == again


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("c.factor", np.uint8(32)),  # 15 x 32 wraps around
        ("c.finer.scale", F32(0.3) / F32(15)),  # another step
        ("c.finer.zero_point", np.uint8(16)),  # and another zero point
    ],
)
def test_what_means_other_numbers_stays(name, number):
    found = model()
    read_finer(layer(found, "h"), 16)
    found.graph.initializers[name].const_value = ir.tensor(np.asarray(number), name=name)
    before = operators(found)
    read_coarse(found.graph)
    assert operators(found) == before


def test_a_product_with_a_computed_number_stays():
    found = model()
    read_finer(layer(found, "h"), 16)
    product = next(node for node in found.graph if node.op_type == "Mul")
    product.replace_input_with(1, product.inputs[0])
    read_coarse(found.graph)
    assert product in list(found.graph)


@pytest.mark.parametrize("signed", [False, True])
def test_openvino_computes_the_same_on_integers(signed):
    openvino = pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    found = model(signed)
    read_finer(layer(found, "h"), 16)
    core = openvino.Core()
    read = core.read_model(ir.to_proto(found).SerializeToString())
    network = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype(F32) * 3
    off = np.abs(network({"x": x})["y"] - answers(found)["y"])
    assert off.max() < 0.051 and (off > 1e-4).mean() < 0.01  # ties are rounded either way
    kinds = [node.get_rt_info() for node in network.get_runtime_model().get_ordered_ops()]
    precisions = {k["runtimePrecision"].value for k in kinds if k["layerType"].value == "Convolution"}
    assert precisions == {"u8"}
