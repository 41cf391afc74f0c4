"""Costs in all, by layer and by unit, against numbers worked out by hand and against sliced models."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto
from torch import nn

import getac
from getac.axes.analysis import analyze_view
from getac.axes.costs import meter_of
from getac.axes.meter import Cost
from getac.fx_graph.capture import capture
from getac.fx_graph.view import FxView
from getac.passes import InferAxes, InferShapes, Pipeline, SliceUnits, State, analysis_passes
from getac.training.exporting import to_onnx
from getac.units.choice import Choice
from tools import fx_law, law
from tools.torch_zoo.export import export_legacy
from tools.torch_zoo.registry import example
from tools.zoo.registry import ZOO
from tools.zoo.resnet import resnet18

F32 = np.float32
FLOAT = 32 * 32


def in_floats(parameters, macs):
    return Cost(parameters, 4 * parameters, macs, FLOAT * macs)


def ones(*shape):
    return np.ones(shape, F32)


def units(analysis):
    """Size of a class -> what a unit costs."""
    return {one.size: analysis.costs.classes[one.name] for one in analysis.classes}


def analyzed(module, x, graph):
    return getac.analyze(module, (x,)) if graph == "fx" else getac.analyze(export_legacy(module, (x,), {}))


def layer(analysis, operator):
    (found,) = [one for one in analysis.costs.layers if one.operator == operator]
    return found


class Attention(nn.Module):
    """2 heads of 4, 5 tokens of width 6."""

    def __init__(self, fused=False):
        super().__init__()
        self.fused = fused
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8)
        self.out = nn.Linear(8, 6)

    def forward(self, x):
        q, k, v = (one(x).reshape(x.shape[0], 5, 2, 4).transpose(1, 2) for one in (self.q, self.k, self.v))
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) * 0.5, -1) @ v
        return self.out(y.transpose(1, 2).reshape(x.shape[0], 5, 8))


class Tagger(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=not tied)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(torch.relu(self.embed(ids)))


def perceptron():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


IMAGE = torch.ones(2, 4, 8, 8)
IDS = torch.arange(10).reshape(2, 5)


# Module, input, and what it costs by size of the class: parameters and MACs of a unit.
NETS = {
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1)),
        IMAGE,
        {6: (4 * 9 + 1 + 2, (4 * 9 + 2) * 64)},
    ),
    "strided": (
        lambda: nn.Sequential(nn.Conv2d(4, 6, 2, stride=2), nn.ReLU(), nn.Conv2d(6, 2, 1)),
        IMAGE,
        {6: (4 * 4 + 1 + 2, (4 * 4 + 2) * 16)},
    ),
    "transposed": (
        lambda: nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.ConvTranspose2d(6, 2, 2, stride=2)),
        IMAGE,
        {6: (4 + 1 + 2 * 4, (4 + 2 * 4) * 64)},
    ),
    "grouped": (  # groups, channels in of a group, channels out of a group: 2, 5, 3
        lambda: nn.Sequential(
            nn.Conv2d(4, 10, 1), nn.Conv2d(10, 6, 3, padding=1, groups=2), nn.Conv2d(6, 2, 1)
        ),
        IMAGE,
        {
            2: (5 * (4 + 1) + 3 * (5 * 9 + 1) + 2 * 3, (5 * 4 + 3 * 5 * 9 + 2 * 3) * 64),
            5: (2 * (4 + 1) + 6 * 9, (2 * 4 + 6 * 9) * 64),
            3: (2 * (5 * 9 + 1) + 2 * 2, (2 * 5 * 9 + 2 * 2) * 64),
        },
    ),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 2, 1)
        ),
        IMAGE,
        {6: (4 + 1 + 9 + 1 + 2, (4 + 9 + 2) * 64)},
    ),
    "perceptron": (perceptron, torch.ones(2, 4), {6: (4 + 1 + 3, 4 + 3)}),
    "embedding": (Tagger, IDS, {6: (10 + 10, 5 * 10)}),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("graph", ["fx", "onnx"])
def test_a_unit_costs_what_it_touches(name, graph):
    make, x, expected = NETS[name]
    module = make().eval()
    analysis = analyzed(module, x, graph)
    assert units(analysis) == {size: in_floats(*cost) for size, cost in expected.items()}
    stored = sum(parameter.numel() for parameter in module.parameters())
    assert (analysis.costs.total.parameters, analysis.costs.total.bytes) == (stored, 4 * stored)


ATTENTION = {
    2: in_floats(3 * 4 * 7 + 6 * 4, (3 * 4 * 6 + 4 * 6) * 5 + 2 * 25 * 4),  # a head
    "qk": in_floats(2 * 2 * 7, 2 * 2 * 6 * 5 + 2 * 25),
    "v": in_floats(2 * 7 + 2 * 6, (2 * 6 + 2 * 6) * 5 + 2 * 25),
}


@pytest.mark.parametrize("graph", ["fx", "onnx"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_head_counts_in_its_projections_and_in_both_products(graph, fused):
    """Whether the attention is one operator or many, in either graph."""
    module, x = Attention(fused), torch.ones(2, 5, 6)
    analysis = analyzed(module, x, graph)
    by_parameters = {cost.parameters: cost for cost in analysis.costs.classes.values()}
    assert by_parameters == {cost.parameters: cost for cost in ATTENTION.values()}
    macs = 4 * 5 * 6 * 8 + 2 * 2 * 25 * 4
    assert (analysis.costs.total.macs, analysis.costs.total.bops) == (macs, FLOAT * macs)
    assert sum(one.cost.macs for one in analysis.costs.layers) == macs


def test_an_mlp_column_of_a_transformer():
    """64 columns between widths of 32, 8 tokens."""
    analysis = getac.analyze(ZOO["transformer"]())
    columns = [analysis.costs.classes[one.name] for one in analysis.classes if one.size == 64]
    assert columns == [in_floats(32 + 1 + 32, 8 * 2 * 32)] * 2


def test_layers_name_their_operator_and_channels(build):
    model = build(
        """(float[N,4,8,8] x) => (float[N,6,4] y) {
            a = Conv<group=2>(x, v)
            b = Reshape(a, s)
            t = Transpose<perm=[1,0]>(w)
            y = MatMul(b, t)
        }""",
        v=ones(6, 2, 1, 1),
        s=np.array([0, 6, 64], np.int64),
        w=ones(4, 64),
    )
    layers = getac.analyze(model).costs.layers
    assert [(one.name, one.operator, one.channels_in, one.channels_out) for one in layers] == [
        ("conv_0", "Conv", 4, 6),
        ("matmul_3", "MatMul", 64, 4),
    ]
    assert [one.cost for one in layers] == [in_floats(12, 12 * 64), in_floats(256, 6 * 256)]


@pytest.mark.parametrize("batch", ["N", "5"])
def test_an_open_batch_counts_as_one_sample(build, batch):
    model = build(f"(float[{batch},4] x) => (float[{batch},6] y) {{ y = MatMul(x, w) }}", w=ones(4, 6))
    assert getac.analyze(model).costs.total.macs == (24 if batch == "N" else 5 * 24)


def test_inputs_may_name_the_same_batch_differently(build):
    model = build(
        "(float[N,4] x, float[M,4] z) => (float[N,6] y) { a = Add(x, z) \n y = MatMul(a, w) }", w=ones(4, 6)
    )
    assert getac.analyze(model).costs.total.macs == 24


def test_an_embedding_is_a_layer_without_macs():
    costs = getac.analyze(Tagger(), (IDS,)).costs
    assert [(one.operator, one.cost) for one in costs.layers] == [
        ("aten.embedding", in_floats(60, 0)),
        ("aten.linear", in_floats(70, 5 * 60)),
    ]


def test_a_tied_tensor_counts_in_both_layers_and_once_in_all():
    costs = getac.analyze(Tagger(tied=True), (IDS,)).costs
    assert [one.cost.parameters for one in costs.layers] == [60, 60]
    assert costs.total == in_floats(60, 5 * 60)
    (unit,) = costs.classes.values()
    assert unit == in_floats(10, 5 * 10) and costs.prunable == 60


def test_half_floats_are_stored_in_two_bytes(build):
    half = perceptron().half()
    for analysis in (
        getac.analyze(half, (torch.ones(2, 4).half(),)),
        getac.analyze(
            build("(float16[N,4] x) => (float16[N,6] y) { y = MatMul(x, w) }", w=ones(4, 6).astype("f2"))
        ),
    ):
        assert analysis.costs.total.bytes == 2 * analysis.costs.total.parameters
        assert analysis.costs.total.bops == FLOAT * analysis.costs.total.macs


def four_bits(name, array):
    values = array.astype(np.int8).reshape(-1)
    packed = (values[0::2] & 15) | ((values[1::2] & 15) << 4)
    return onnx.helper.make_tensor(
        name, TensorProto.INT4, array.shape, packed.astype(np.uint8).tobytes(), raw=True
    )


def quantized(build):
    """A perceptron 4 -> 6 -> 3 with 4-bit weights; the first input has 8 bits, the second is a float."""
    rng = np.random.default_rng(0)
    return build(
        """(float[N,4] x) => (float[N,3] y) {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            vd = DequantizeLinear<axis=0>(v, vs)
            a = Gemm<transB=1>(d, vd, b)
            r = Relu(a)
            wd = DequantizeLinear<axis=0>(w, ws)
            y = Gemm<transB=1>(r, wd)
        }""",
        s=F32(0.1),
        z=np.uint8(128),
        v=four_bits("v", rng.integers(-8, 8, (6, 4))),
        vs=ones(6),
        b=ones(6),
        w=four_bits("w", rng.integers(-8, 8, (3, 6))),
        ws=ones(3),
    )


def test_quantized_bits_count(build):
    """Weights take half a byte; MACs with 4-bit weights and 8-bit activations take 32 bit operations."""
    costs = getac.analyze(quantized(build)).costs
    first, second = (one.cost for one in costs.layers)
    assert first == Cost(parameters=24 + 6, bytes=12 + 4 * 6, macs=24, bops=24 * 4 * 8)
    assert second == Cost(parameters=18, bytes=9, macs=18, bops=18 * 4 * 32)
    (unit,) = costs.classes.values()
    # 15 of 18 and 20 of 24 half bytes are left, and 5 biases: 8 + 10 bytes, for 9 + 12
    assert unit == Cost(4 + 1 + 3, (9 - 8) + (12 - 10) + 4, 4 + 3, 4 * 4 * 8 + 3 * 4 * 32)


def test_a_quantized_weight_keeps_its_bits_behind_a_transposition(build):
    model = build(
        """(float[N,4] x) => (float[N,6] y) {
            d = DequantizeLinear<axis=0>(w, s)
            t = Transpose<perm=[1,0]>(d)
            y = MatMul(x, t)
        }""",
        w=four_bits("w", np.arange(24).reshape(6, 4) % 8),
        s=ones(6),
    )
    costs = getac.analyze(model).costs
    assert costs.total == Cost(24, 12, 24, 24 * 4 * 32)


def recounted(state, masks):
    """The costs of a state's model after it was sliced."""
    removed = sum(int((~mask).sum()) for mask in masks.values())
    state.choice = Choice(masks, (), sum(mask.size for mask in masks.values()), removed, exact=False)
    assert removed
    SliceUnits().run(state)
    for step in (InferShapes(), InferAxes()):
        step.run(state)
    return state.analysis.costs


def by_name(layers):
    return {one.name: one for one in layers}


def analyzed_state(name):
    return Pipeline(analysis_passes()).run(State(ir.serde.deserialize_model(ZOO[name]())))


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "shufflenet_v1", "unet", "transformer"])
def test_what_is_left_is_what_the_sliced_model_costs(name):
    state = analyzed_state(name)
    masks = law.choose(state.analysis, np.random.default_rng(0)).masks
    meter = meter_of(state.analysis, masks)
    left, layers = meter.total(), by_name(meter.layers())
    assert left.macs < state.analysis.costs.total.macs
    after = recounted(state, masks)
    assert after.total == left and by_name(after.layers) == layers


def test_what_is_left_of_a_quantized_model(build):
    state = Pipeline(analysis_passes()).run(State(quantized(build)))
    masks = law.choose(state.analysis, np.random.default_rng(0)).masks
    left = meter_of(state.analysis, masks).total()
    assert recounted(state, masks).total == left


@pytest.mark.parametrize("name", ["fused_vit", "resnext", "lstm_tagger"])
def test_what_is_left_is_what_the_sliced_module_costs(name):
    made = example(name)
    module = capture(made.module.eval(), made.args, made.kwargs)
    analysis = analyze_view(FxView(module))
    masks = fx_law.choose(analysis, np.random.default_rng(0))
    meter = meter_of(analysis, masks)
    left, layers = meter.total(), by_name(meter.layers())
    assert left.macs < analysis.costs.total.macs
    fx_law.cut(analysis, masks)
    after = analyze_view(FxView(module)).costs
    assert after.total == left and by_name(after.layers) == layers


def test_a_unit_costs_what_is_gone_without_it():
    """Class after class: the first unit, out of the model itself."""

    before = analyzed_state("transformer").analysis
    for position, one in enumerate(before.classes):
        state = analyzed_state("transformer")
        after = recounted(state, {state.analysis.classes[position].atom: np.arange(one.size) > 0})
        assert before.costs.total - after.total == before.costs.classes[one.name]


def test_resnet_18_has_its_known_size():
    """1.81 G multiply-accumulates, 11.7 M parameters (arXiv 1512.03385: 1.8 GFLOPs)."""
    costs = getac.analyze(ir.serde.deserialize_model(resnet18())).costs
    assert len(costs.layers) == 21
    assert costs.total.macs == pytest.approx(1.814e9, rel=1e-3)
    assert costs.total.parameters == pytest.approx(11.68e6, rel=1e-3)


@pytest.mark.parametrize("name", ZOO)
def test_every_layer_of_the_zoo_has_a_cost(name):
    analysis = getac.analyze(ZOO[name]())
    layers = by_name(analysis.costs.layers)
    standard = [
        one for one in analysis.view.nodes if one.operator in ("Conv", "ConvTranspose", "Gemm", "MatMul")
    ]
    assert standard and all(layers[one.name].cost.macs > 0 for one in standard)
    assert 0 <= analysis.costs.prunable <= analysis.costs.total.parameters


def test_a_node_of_unknown_shape_counts_its_weights_alone(build):
    model = build(
        """(float[2,4,8,8] x, int64[4] s) => (float[A,B,C,D] y) {
            b = Reshape(x, s)
            y = Conv(b, w)
        }""",
        w=ones(6, 4, 1, 1),
    )
    assert layer(getac.analyze(model), "Conv").cost == in_floats(24, 0)


def test_what_is_picked_from_a_rounded_value_has_its_bits():
    """An all-8-bit ResNet costs 1/16 of its floats, also behind a max pool and a flattening."""
    made = example("resnet")
    made.module.eval()
    floats = getac.analyze(capture(made.module, made.args, made.kwargs)).costs.total
    module = getac.prepare(made.module, made.args, made.kwargs, calibration=[made.args])
    assert any("max_pool" in node.name for node in module.graph.nodes)
    for one in (module, to_onnx(module)):
        assert getac.analyze(one).costs.total.bops * 16 == floats.bops


@pytest.mark.parametrize(
    ("operators", "bits"),
    [
        ("b = Transpose<perm=[0,1]>(d) \n c = Reshape(b, s)", 8),
        (
            "b, e = Split<axis=1, num_outputs=2>(d) \n c = Concat<axis=1>(b, e)",
            32,
        ),  # of two values, in general
        ("c = Gather<axis=1>(d, i)", 8),
        ("c = Relu(d)", 32),
    ],
)
def test_what_is_computed_of_a_rounded_value_does_not(build, operators, bits):
    model = build(
        f"""(float[N,4] x) => (float[N,6] y) {{
            q = QuantizeLinear(x, scale, zero) \n d = DequantizeLinear(q, scale, zero)
            {operators}
            y = MatMul(c, w)
        }}""",
        scale=np.array(0.1, F32),
        zero=np.array(0, np.int8),
        w=ones(4, 6),
        s=np.array([-1, 4]),
        i=np.array([3, 2, 1, 0]),
    )
    total = getac.analyze(model).costs.total
    assert total.bops == 24 * bits * 32
