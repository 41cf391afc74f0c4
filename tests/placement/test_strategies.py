"""Which layers leave the integers, by tables that say so; which cannot; and that the function stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

import getac
from getac.executed import Kernel
from getac.kernel_costs import Kind, LayerShape, Strategy, default_table
from getac.kernel_costs.writing import as_json
from getac.passes import ChooseStrategies, FoldQuantizers, InferShapes, Pipeline, State
from getac.placement.placement import Placement, place
from getac.placement.predictions import predicted, strategy_of
from getac.placement.strategies import LEAST_GAIN
from getac.quantizer import Quantizer
from tests.kernel_costs.tables import slow_integers, with_factor, with_transitions

F32 = np.float32
SLOW = slow_integers(Kind.CONVOLUTION)
POINTWISE = slow_integers(Kind.POINTWISE)

CHAIN = """(float[N,8,16,16] x) => (float[N,8,16,16] y) {
    a = Conv(x, u)
    b = Relu(a)
    c = Conv<pads=[1,1,1,1]>(b, v)
    d = Relu(c)
    y = Conv(d, w)
}"""
POOLED = """(float[N,8,16,16] x) => (float[N,8,A,B] y) {
    a = Conv(x, u)
    b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
    y = Conv(b, w)
}"""


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


WEIGHTS = {"u": normal(8, 8, 1, 1), "v": normal(8, 8, 3, 3), "w": normal(8, 8, 1, 1, seed=1)}


def model_of(build, text):
    return build(text, **{name: w for name, w in WEIGHTS.items() if f" {name})" in text})


def chosen(model, table, records=()):
    """Layer -> why it runs in floats, for a model with calibration data."""
    state = State(model, costs=table, calibration=object())
    Pipeline((FoldQuantizers(), InferShapes())).run(state)
    values = {value.name: value for node in model.graph for value in (*node.inputs, *node.outputs) if value}
    state.quantizers.update({values[name]: Quantizer(np.asarray(0.1, F32), 0, 255) for name in records})
    ChooseStrategies().run(state)
    return {node.name: why for node, why in state.floats.items()}


def test_the_default_table_leaves_small_models_on_integers(build):
    assert chosen(model_of(build, CHAIN), None) == {}


def test_a_layer_that_is_slow_on_integers_leaves_them_and_says_why(build):
    floats = chosen(model_of(build, CHAIN), SLOW)
    assert list(floats) == ["conv_2"]
    assert "floats are quicker" in floats["conv_2"] and "(cost table)" in floats["conv_2"]
    assert floats["conv_2"].count(" ms") == 3


def test_changes_of_type_around_it_may_cost_more_than_it_gains(build):
    model = model_of(build, CHAIN)
    elements = 8 * 16 * 16
    floats, integers = (
        SLOW.seconds(LayerShape(8, 8, 256, 9), how) for how in (Strategy.FLOAT, Strategy.INTEGER)
    )
    gain = integers - floats
    dear = with_transitions(SLOW, 0.51 * gain / elements, 0.51 * gain / elements)
    cheap = with_transitions(SLOW, 0.4 * gain / elements, 0.4 * gain / elements)
    assert chosen(model, dear) == {}
    # The last layer follows: behind floats, its input would have to be quantized for it alone.
    assert list(chosen(model_of(build, CHAIN), cheap)) == ["conv_2", "conv_4"]


def test_neighbours_that_leave_together_pay_once(build):
    """Each layer alone would pay on both sides; the first pays on one side only, and opens the way."""
    table = with_factor(SLOW, Kind.POINTWISE, Strategy.INTEGER, 1e6)
    assert list(chosen(model_of(build, CHAIN), table)) == ["conv_0", "conv_2", "conv_4"]


def test_a_gain_below_what_a_call_takes_is_none(build):
    shape = LayerShape(8, 8, 256, 9)
    table = default_table()
    factor = (table.seconds(shape, Strategy.FLOAT) + 0.9 * LEAST_GAIN) / table.seconds(
        shape, Strategy.INTEGER
    )
    slow = with_transitions(with_factor(table, Kind.CONVOLUTION, Strategy.INTEGER, factor), 0, 0)
    assert chosen(model_of(build, CHAIN), slow) == {}


def test_refuses_in_front_of_a_pooling_that_floats_would_slow_down(build):
    assert list(chosen(model_of(build, POOLED), POINTWISE)) == ["conv_2"]


def test_quantizers_that_the_model_came_with_are_paid_for(build):
    """In floats they are written out: a layer with them needs a greater gain."""
    elements = 8 * 16 * 16
    gain = SLOW.seconds(LayerShape(8, 8, 256, 9), Strategy.INTEGER)
    table = with_transitions(SLOW, 0.3 * gain / elements, 0.3 * gain / elements)
    table = replace(table, additions=dict.fromkeys(table.additions, 0.0))
    alone = """(float[N,8,16,16] x) => (float[N,8,16,16] y) { y = Conv<pads=[1,1,1,1]>(x, v) }"""
    assert list(chosen(model_of(build, alone), table)) == ["conv_0"]
    dear = with_transitions(SLOW, 0.6 * gain / elements, 0.6 * gain / elements)
    assert chosen(model_of(build, alone), dear, records=("x", "y")) == {}


def test_placement_keeps_what_is_chosen_in_floats(build):
    model = model_of(build, CHAIN)
    node = model.graph[2]
    found = place(model.graph, {}, True, {node: "chosen"})
    assert found.why_not == {node: "chosen"}
    assert [layer.name for layer in model.graph if layer in found.integer] == ["conv_0", "conv_4"]


@pytest.mark.parametrize("text", [CHAIN, POOLED])
def test_the_result_is_verified_whatever_is_chosen(build, tmp_path, text):
    path = tmp_path / "table.json"
    path.write_text(as_json(with_factor(SLOW, Kind.POINTWISE, Strategy.INTEGER, 1e6)))
    proto = ir.serde.serialize_model(model_of(build, text))
    data = {"x": normal(16, 8, 16, 16)}
    report = getac.lower(proto, calibration=data, cost=path, bench=False)
    kinds = [row.kernel.split()[0] for row in report.layers]
    assert "float" in kinds and report.verification.passed
    for row in report.layers:
        assert ("floats are quicker" in row.reason) == row.kernel.startswith("float")
        assert row.predicted_ms > 0 and "(cost table)" in row.strategy


QUANTIZED = """(float[N,8,16,16] x) => (float[N,8,16,16] y) {
    p = QuantizeLinear(x, sx, zero)
    q = DequantizeLinear(p, sx, zero)
    a = Conv<pads=[1,1,1,1]>(q, v)
    r = Relu(a)
    s = QuantizeLinear(r, sy, zero)
    t = DequantizeLinear(s, sy, zero)
    y = Conv(t, w)
}"""


def test_quantizers_of_the_model_stay_where_a_layer_leaves_the_integers(build, evaluate, tmp_path):
    """To the last bit in what both write as numbers: rounding of the input and of the result, in floats."""
    steps = {"sx": F32(0.03), "sy": F32(0.2), "zero": np.uint8(0)}
    model = build(QUANTIZED, v=WEIGHTS["v"], w=WEIGHTS["w"], **steps)
    path, output = tmp_path / "table.json", tmp_path / "lowered.onnx"
    path.write_text(as_json(with_factor(SLOW, Kind.POINTWISE, Strategy.INTEGER, 1e6)))
    x = np.abs(normal(2, 8, 16, 16))
    report = getac.lower(ir.serde.serialize_model(model), output, cost=path, bench=False)
    assert [row.kernel for row in report.layers] == ["float (Conv)", "float (Conv)"]
    assert report.verification.passed
    (expected,) = evaluate(model, x=x)
    (found,) = evaluate(ir.load(output), x=x)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()  # weights have 8 bits now
    lowered = [node.op_type for node in ir.load(output).graph]
    assert lowered.count("QuantizeLinear") == 2


def test_every_layer_of_a_report_is_predicted_as_it_runs(build):
    report = getac.lower(
        ir.serde.serialize_model(model_of(build, CHAIN)), calibration={"x": normal(4, 8, 16, 16)}, bench=False
    )
    expected = default_table().seconds(LayerShape(8, 8, 256, 9), Strategy.INTEGER)
    row = report.layers[1]
    assert row.predicted_ms == pytest.approx(1e3 * expected)
    assert row.strategy.startswith("integer kernel: ") and " in floats (cost table)" in row.strategy
    assert all(row.kernel.startswith("integer") for row in report.layers)


@pytest.mark.parametrize(
    ("kernel", "bits", "strategy"),
    [
        (Kernel("integer", "QGemm"), 4, Strategy.INTEGER),
        (Kernel("weight-only", "MatMulNBits"), 8, Strategy.WEIGHT_ONLY_8),
        (Kernel("weight-only", "MatMulNBits"), 4, Strategy.WEIGHT_ONLY_4),
        (Kernel("float", "Conv"), 8, Strategy.FOLDED),
        (Kernel("float", "Conv"), 32, Strategy.FLOAT),
        (Kernel("unknown", ""), 8, None),
    ],
)
def test_strategies_by_kernels(kernel, bits, strategy):
    assert strategy_of(kernel, bits) is strategy


def test_what_cannot_be_predicted_says_only_how_it_runs():
    assert predicted(None, Strategy.FLOAT, default_table()).ms is None
    found = predicted(LayerShape(8, 8, 9, 9), Strategy.WEIGHT_ONLY_4, default_table())
    assert (found.strategy, found.ms) == ("weight-only, 4 bits", None)


def test_a_placement_without_integers_is_the_sum_of_the_layers(build):
    from getac.onnx_graph.shapes import infer_shapes
    from getac.onnx_graph.view import OnnxView
    from getac.placement.strategies import Estimate

    model = model_of(build, CHAIN)
    shapes = infer_shapes(model, {"N": 1})
    table = default_table()
    estimate = Estimate(OnnxView(model, shapes), shapes.sizes, {}, table)
    layers = [LayerShape(8, 8, 256, 1), LayerShape(8, 8, 256, 9), LayerShape(8, 8, 256, 1)]
    expected = table.call + sum(table.seconds(shape, Strategy.FLOAT) for shape in layers)
    assert estimate.total(Placement()) == pytest.approx(expected)
