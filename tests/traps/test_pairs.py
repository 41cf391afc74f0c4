"""Pairs of quantizers: two in a row become one, and one of INT8 with two consumers is not fused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from tests.traps.naive import (
    F32,
    assert_same_as_written,
    assert_same_function,
    assert_wrong,
    integers,
    lower,
    lowered,
    mended,
    normal,
    run,
    tensor,
)

TWICE = """(float[N,16] x) => (float[N,16] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    p = QuantizeLinear(d, t, z)
    y = DequantizeLinear(p, t, z)
}"""


def test_two_pairs_in_a_row_are_collapsed(build):
    model = build(TWICE, s=F32(0.5), t=F32(0.03), z=np.uint8(128))
    assert_wrong(model, {"x": normal(8, 16)}, "of two pairs in a row the first one is lost")


def test_ours_writes_one_pair_per_value(build, tmp_path):
    """Between layers, behind operators that hand quantizers on, and in a model that is lowered twice."""
    model = build(
        """(float[N,4,8,8] x) => (float[N,4] y) {
            a = Conv<kernel_shape=[3,3]>(x, v)
            r = Relu(a)
            m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
            f = Flatten<axis=1>(m)
            y = Gemm<transB=1>(f, w, b)
        }""",
        v=normal(4, 4, 3, 3),
        w=normal(4, 36),
        b=normal(4),
    )
    data = {"x": normal(8, 4, 8, 8)}
    found, _ = lowered(model, tmp_path / "a.onnx", data)
    again = tmp_path / "b.onnx"
    lower(tmp_path / "a.onnx", again)
    for result in (found, onnx.load(again)):
        makers = {name: node for node in result.graph.node for name in node.output}
        quantized = [makers.get(n.input[0]) for n in result.graph.node if n.op_type == "QuantizeLinear"]
        assert quantized and all(node is None or node.op_type != "DequantizeLinear" for node in quantized)
        assert_same_as_written(result, "x", (3, 4, 8, 8), 0.02)


def test_a_file_with_two_pairs_in_a_row_keeps_both(build, tmp_path):
    """The first one is a record on a value that no integer kernel reads: onnxruntime must not merge it."""
    text = TWICE.replace("(float[N,16] y)", "(float[N,8] o)").replace(
        "    y = DequantizeLinear(p, t, z)",
        "    y = DequantizeLinear(p, t, z)\n    o = Gemm<transB=1>(y, w, b)",
    )
    model = build(text, s=F32(0.5), t=F32(0.03), z=np.uint8(128), w=normal(8, 16), b=normal(8))
    report = lower(ir.serde.serialize_model(model), tmp_path / "o.onnx")
    assert report.layers[0].kernel == "integer (QGemm)"
    found = onnx.load(tmp_path / "o.onnx")
    scales = {tuple(node.input[1:]) for node in found.graph.node if node.op_type == "QuantizeLinear"}
    assert sorted(float(tensor(found, scale)) for scale, _ in scales) == pytest.approx([0.03, 0.5])
    assert report.verification.original[0].sqnr_db > 30
    assert_same_as_written(found, "x", (5, 16), 0.03)


# ---- a weight in blocks between pairs ----

BLOCKS = """(float[N,64] x) => (float[N,16] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis=0, block_size=32>(w, ws, wz)
    b = MatMul(d, wd)
    bq = QuantizeLinear(b, t, z)
    y = DequantizeLinear(bq, t, z)
}"""


@pytest.mark.parametrize("behind", [True, False])
def test_a_weight_in_blocks_between_pairs_fails_when_it_runs(build, behind):
    """It loads: QLinearMatMul and MatMulIntegerToFloat have no scale per block."""
    model, x = blocked(build, behind), normal(5, 64)
    assert np.isfinite(run(model, {"x": x}, optimize=False)).all()
    with pytest.raises(Fail, match=r"QLinearMatMul|MatMulIntegerToFloat"):
        run(model, {"x": x})
        pytest.fail(mended("DequantizeLinear of INT8 in blocks -> MatMul between pairs"))


def blocked(build, behind=True):
    text = BLOCKS if behind else BLOCKS[: BLOCKS.index("    b = MatMul")] + "    y = MatMul(d, wd)\n}"
    scale = np.random.default_rng(1).uniform(0.01, 0.02, (2, 16)).astype(F32)
    tensors = {"w": integers(64, 16, high=7), "ws": scale, "wz": np.zeros((2, 16), np.int8)}
    return build(text, s=F32(0.02), z=np.uint8(128), t=F32(0.1), **tensors)


@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("calibrated", [True, False])
def test_ours_of_a_weight_in_blocks_runs(build, tmp_path, calibrated, behind):
    model = blocked(build, behind)
    data = {"x": normal(16, 64)} if calibrated else None
    found, _ = lowered(model, tmp_path / "o.onnx", data)
    assert_same_function(model, found, "x", (5, 64), 0.02, output_step=0.1, relative_bound=0.02)
