"""OpenVINO loads every portable output, computes the same numbers, and does it on integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import getac
from getac.onnx_graph.packing.ways import Target
from getac.passes import PackWeights
from getac.pipeline import Pipeline, State
from getac.runtime import open_session, run
from tools.zoo.registry import ZOO

openvino = pytest.importorskip("openvino", reason="the extra `openvino` is not installed")

F32 = np.float32
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # or floats are computed in bfloat16, where the CPU can
LEAST_DB = 30.0
"""Ties between two integers are rounded either way: the runtimes sum what lies before in another order."""

GEMM = """(float[N,195] x) => (float[N,256] y) {
    q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0>(w, ws, wz)
    y = Gemm<transB=1>(d, wd, b)
}"""


def compiled(model, **config):
    core = openvino.Core()
    return core.compile_model(core.read_model(ir.to_proto(model).SerializeToString()), "CPU", config)


def layers_of(network):
    """What really runs -> its precision; the last one of a kind."""
    info = [node.get_rt_info() for node in network.get_runtime_model().get_ordered_ops()]
    return {one["layerType"].value: one["runtimePrecision"].value for one in info}


def gemm(build, bits, shift):
    high = 2 ** (bits - 1) - 1
    weight = np.random.default_rng(bits).integers(-high, high + 1, (256, 195)) << shift
    steps = np.full(256, 0.01, F32)
    parameters = {"s": F32(0.02), "z": np.uint8(128), "ws": steps, "wz": np.zeros(256, np.int8)}
    return build(GEMM, **parameters, w=weight.astype(np.int8), b=np.zeros(256, F32))


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_weights_run_as_plain_ones(build, bits, spread):
    model = gemm(build, bits, 8 - bits if spread else 0)
    x = np.random.default_rng(1).normal(size=(4, 195)).astype(F32)
    plain = compiled(model)
    expected, running = plain({"x": x})[0], layers_of(plain)
    Pipeline([PackWeights("portable")]).run(State(model))
    packed = compiled(model)
    assert np.array_equal(packed({"x": x})[0], expected)
    assert layers_of(packed) == running and running["FullyConnected"] == "u8"


def test_why_portable_weights_are_not_multiplied(build):
    """OpenVINO takes a Mul of integers for a part of the dequantization, and computes it at every run."""
    model = gemm(build, 4, 4)
    Pipeline([PackWeights(Target.ORT.value)]).run(State(model))
    assert "Mul" in [node.op_type for node in model.graph]
    assert "Eltwise" in layers_of(compiled(model))
    model = gemm(build, 4, 4)
    Pipeline([PackWeights(Target.PORTABLE.value)]).run(State(model))
    assert "Eltwise" not in layers_of(compiled(model))


@pytest.mark.parametrize("block", ["auto", 16, 128])
@pytest.mark.parametrize("inputs", [16, 24, 31, 48, 100, 128])
def test_products_load_whatever_their_inputs(build, inputs, block, tmp_path):
    """OpenVINO has no last block that is shorter."""
    weight = np.random.default_rng(0).normal(size=(inputs, 10)).astype(F32)
    model = build(f"(float[N,{inputs}] x) => (float[N,10] y) {{ y = MatMul(x, w) }}", w=weight)
    path = tmp_path / "lowered.onnx"
    getac.lower(model, path, weight_bits=4, block=block, bench=False)
    feeds = {"x": np.random.default_rng(1).normal(size=(3, inputs)).astype(F32)}
    expected = run(open_session(path, optimize=False), feeds)["y"]
    found = openvino.Core().compile_model(path, "CPU", EXACT)(feeds)[0]
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "squeezenet", "unet", "transformer", "mlp_gemm"])
def test_lowered_models_agree(name, bits, tmp_path):
    model = ZOO[name]()
    rng = np.random.default_rng(0)
    feeds = {
        spec.name: rng.normal(size=[8 if isinstance(size, str) else size for size in spec.shape]).astype(F32)
        for spec in open_session(model.SerializeToString()).get_inputs()
    }
    path = tmp_path / "lowered.onnx"
    getac.lower(model, path, calibration=feeds, weight_bits=bits, bench=False, force=True)
    network = openvino.Core().compile_model(path, "CPU", EXACT)
    found = network(feeds)
    for index, expected in enumerate(run(open_session(path), feeds).values()):
        noise = float(((expected.astype(np.float64) - found[index]) ** 2).sum())
        assert 10 * np.log10((expected.astype(np.float64) ** 2).sum() / max(noise, 1e-30)) > LEAST_DB
