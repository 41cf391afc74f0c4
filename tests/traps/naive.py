"""What the tests of onnxruntime's traps share: running a graph as it is written, and as it is optimised."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper

import getac
from getac.executed import executed_kernels

lower = partial(getac.lower, bench=False)
F32 = np.float32
GEMM = """(float[N,16] x) => (float[N,8] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0>(w, ws, wz)
    bd = DequantizeLinear<axis=0>(b, bs, bz)
    y = Gemm<transB=1>(d, wd, bd)
}"""
RELU = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0>(w, ws, wz)
    a = Conv<kernel_shape=[1,1]>(d, wd)
    r = Relu(a)
    rq = QuantizeLinear(r, t, zr)
    y = DequantizeLinear(rq, t, zr)
}"""


def run(model, feeds, optimize=True):
    if isinstance(model, ir.Model):
        model = ir.serde.serialize_model(model)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def both(model, feeds):
    """The output as written, and as optimised."""
    return run(model, feeds, optimize=False), run(model, feeds)


def kernels(model):
    proto = ir.serde.serialize_model(model) if isinstance(model, ir.Model) else model
    return [node.op_type for node in executed_kernels(proto.SerializeToString())]


def mended(trap):
    """What a test of a trap says when the trap is gone."""
    return f"onnxruntime {ort.__version__} mended this, so that the guard against it can go: {trap}"


def assert_wrong(model, feeds, trap, least=0.05):
    """The optimised graph computes something else than the graph as it is written, without a word."""
    plain, fast = both(model, feeds)
    assert relative(plain, fast) > least, mended(trap)


def assert_not_fused(model, kernel, trap):
    assert kernel not in kernels(model), mended(trap)


def normal(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(F32)


def integers(*shape, seed=0, high=127):
    return np.random.default_rng(seed).integers(-high, high + 1, shape, np.int8)


def relative(a, b):
    return float(np.abs(a - b).max() / np.abs(a).max())


def lowered(model, path, calibration=None, **options):
    """Our result, and the report."""
    report = lower(ir.serde.serialize_model(model), path, calibration=calibration, **options)
    return onnx.load(path), report


def tensor(model, name):
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def adversarial(step, shape, seed=0):
    """Inputs that saturate, that fall on ties between two lattice points, that are zero, and random ones."""
    rng = np.random.default_rng(seed)
    ties = (rng.integers(-200, 200, shape) + 0.5) * step
    return {
        "random": normal(*shape, seed=seed),
        "saturated": normal(*shape, seed=seed, scale=100.0),
        "ties": ties.astype(F32),
        "zeros": np.zeros(shape, F32),
        "negative zeros": np.full(shape, -0.0, F32),
        "constant": np.full(shape, 10 * step, F32),
        "greatest": np.full(shape, 1e6, F32),
        "least": np.full(shape, -1e6, F32),
        "mixed signs": np.where(rng.integers(0, 2, shape), 1e6, -1e6).astype(F32),
    }


def assert_same_as_written(model, input_name, shape, step, output_step=0.0, relative_bound=1e-5):
    """Within one output step of the graph without optimisation, or equal to rounding of floats."""
    for name, x in adversarial(step, shape).items():
        plain, fast = both(model, {input_name: x})
        bound = max(1.001 * output_step, relative_bound * float(np.abs(plain).max()))
        assert np.abs(plain - fast).max() <= bound, name


def assert_same_function(original, result, input_name, shape, step, output_step=0.0, relative_bound=1e-5):
    """Our result, optimised or not, is within one output step of the file that it comes from, as written."""
    for name, x in adversarial(step, shape).items():
        expected = run(original, {input_name: x}, optimize=False)
        bound = max(1.001 * output_step, relative_bound * float(np.abs(expected).max()))
        for found in both(result, {input_name: x}):
            assert np.abs(expected - found).max() <= bound, name
