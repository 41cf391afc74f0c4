"""Language models through `getac.lower`: open batches and lengths, tables, and heads tied to them."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest

import getac
from getac.runtime import open_session, run
from tools.zoo.language import decoder, encoder

F32 = np.float32
WORDS, WIDTH = 400, 64
lower = partial(getac.lower, bench=False, sparsity=0.0)

TIED = """(int64[N,T] words) => (float[N,T,400] scores) {
    x = Gather(table, words)
    n = LayerNormalization(x, gain)
    h = MatMul(n, up)
    s = Add(h, shift)
    g = Gelu(s)
    o = MatMul(g, down)
    z = Add(x, o)
    head = Transpose<perm=[1,0]>(table)
    scores = MatMul(z, head)
}"""


def words(*shape, seed=0):
    return {"words": np.random.default_rng(seed).integers(0, WORDS, shape)}


@pytest.fixture
def tied(build):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return (rng.normal(size=shape) / 8).astype(F32)

    return build(
        TIED,
        table=normal(WORDS, WIDTH),
        gain=np.ones(WIDTH, F32),
        up=normal(WIDTH, 96),
        shift=normal(96),
        down=normal(96, WIDTH),
    )


def sqnr(a, b):
    return 10 * np.log10((a.astype(float) ** 2).sum() / ((a.astype(float) - b) ** 2).sum())


@pytest.mark.parametrize(
    ("options", "kernel"),
    [({"calibration": words(8, 5)}, "integer (QGemm)"), ({}, "weight-only (MatMulNBits)")],
    ids=["calibrated", "weight-only"],
)
def test_a_tied_model_runs_on_any_batch_and_length(tied, tmp_path, options, kernel):
    report = lower(tied, tmp_path / "o.onnx", **options)
    assert [row.kernel for row in report.layers] == [kernel] * 3
    before, after = open_session(tied), open_session(tmp_path / "o.onnx")
    for shape in ((8, 5), (1, 1), (3, 17)):
        feeds = words(*shape, seed=1)
        expected, found = (run(one, feeds)["scores"] for one in (before, after))
        assert found.shape == (*shape, WORDS) and sqnr(expected, found) > 25


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_tied_table_is_stored_once(tied, tmp_path, calibrated):
    lower(tied, tmp_path / "o.onnx", calibration=words(8, 5) if calibrated else None, weight_bits=4)
    stored = onnx.load(tmp_path / "o.onnx").graph.initializer
    tables = [tensor for tensor in stored if sorted(tensor.dims) == [WIDTH, WORDS]]
    assert [tensor.data_type for tensor in tables] == [onnx.TensorProto.INT8]


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize(
    ("bits", "dtype", "share"), [(4, "INT4", 0.5), (6, "UINT8", 0.75), (2, "UINT8", 0.2)]
)
def test_a_tied_table_of_few_bits_is_stored_once(tied, tmp_path, bits, dtype, share, calibrated):
    data = words(8, 5) if calibrated else None
    lower(tied, tmp_path / "o.onnx", calibration=data, weight_bits=8, embedding_bits=bits, force=True)
    stored = onnx.load(tmp_path / "o.onnx").graph.initializer
    found = [tensor for tensor in stored if tensor.name.startswith("table.") and len(tensor.raw_data) > 4000]
    assert {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in found} == {dtype}
    assert sum(len(tensor.raw_data) for tensor in found) == share * WORDS * WIDTH


def test_tables_stay_floats_if_asked_for(tied, tmp_path):
    lower(tied, tmp_path / "o.onnx", embedding_bits=None)
    stored = {tensor.name: tensor for tensor in onnx.load(tmp_path / "o.onnx").graph.initializer}
    assert stored["table"].data_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize(("block", "scales"), [(16, 0.5), (32, 0.25), (128, 0.0625), (None, 0)])
def test_a_decoder_in_four_bits_is_a_bit_larger_than_its_bits(block, scales, tmp_path):
    model = decoder(layers=2, heads=4, width=128, hidden=256, tokens=4, words=512)
    report = lower(model, tmp_path / "o.onnx", weight_bits=4, block=block)
    kernels = [row.kernel for row in report.layers]
    assert kernels.count("weight-only (MatMulNBits)") == 13
    types = [tensor.data_type for tensor in onnx.load(tmp_path / "o.onnx").graph.initializer]
    assert types.count(onnx.TensorProto.INT4) == 13
    layers = [row for row in report.layers if row.kernel.startswith("weight-only")]
    entries = sum(row.channels_in * row.channels_out for row in layers)
    columns = sum(row.channels_out for row in layers)
    assert sum(row.bytes for row in layers) <= entries * (4 + scales) / 8 + 8 * columns


def test_an_encoder_is_integer_with_float_outputs(tmp_path):
    model = encoder(heads=4, width=32, hidden=64, tokens=8)
    data = {"embedding": np.random.default_rng(0).normal(size=(8, 8, 32)).astype(F32)}
    report = lower(model, tmp_path / "o.onnx", calibration=data)
    assert [row.kernel for row in report.layers].count("integer (QGemm)") == 6
    types = [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node]
    assert types.count("QuantizeLinear") == 4  # of what layers read: three read the same


FEED_FORWARD = """(float[N,T,64] x) => (float[N,T,64] y) {
    h = MatMul(x, up)
    s = Add(h, shift)
    r = Relu(s)
    o = MatMul(r, down)
    y = Add(x, o)
}"""


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("dims", ["N", "N,T"])
def test_feed_forward_layers_are_weight_only_and_predicted_so(build, dims, bits, tmp_path):
    """With a Relu or a residual Add behind them, in matrices and in sequences."""
    text = FEED_FORWARD.replace("N,T", dims)
    model = build(text, up=normal(64, 96), shift=normal(96), down=normal(96, 64))
    report = lower(model, tmp_path / "o.onnx", weight_bits=bits, force=True)
    assert [row.kernel for row in report.layers] == ["weight-only (MatMulNBits)"] * 2
    assert all(row.strategy.startswith(f"weight-only, {max(bits, 4)} bits") for row in report.layers)
    assert report.notes[-1].startswith("MatMulNBits, which 2 of 2 layers run as")


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(F32) / 8


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("data", [None, {"x": normal(8, 8)}], ids=["weight-only", "calibrated"])
def test_a_product_of_zeros_is_zero(build, data, bits, tmp_path):
    text = "(float[N,8] x) => (float[N,5] y) { a = MatMul(x, v) \n y = MatMul(a, w) }"
    model = build(text, v=normal(8, 8), w=np.zeros((8, 5), F32))
    lower(model, tmp_path / "o.onnx", calibration=data, weight_bits=bits)
    assert not run(open_session(tmp_path / "o.onnx"), {"x": normal(3, 8)})["y"].any()


def test_blocks_that_were_asked_for_and_do_not_fit_are_told(build, tmp_path):
    model = build("(float[N,40] x) => (float[N,5] y) { y = MatMul(x, w) }", w=normal(40, 5))
    report = lower(model, tmp_path / "o.onnx", weight_bits=4, block=32)
    (refusal,) = report.refusals["quantize-weights"]
    assert refusal.where == "w" and refusal.reason.startswith("blocks of 32 do not divide its 40 inputs")
    assert lower(model, tmp_path / "o.onnx", weight_bits=4, block=32, target="ort").refusals == {}
