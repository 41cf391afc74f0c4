"""Blocks of networks on integers from end to end: nothing but integer kernels between first Q and last DQ."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from getac.placement.placement import place
from tests.traps.naive import F32, both, kernels, lowered, normal, relative, tensor

CHANNELS, SIZE = 16, 8
MOVING = {"Transpose", "Reshape", "Flatten", "Split", "Slice", "Gather", "Expand", "Tile", "Resize"}
CHOOSING = {"MaxPool", "NhwcMaxPool", "ReduceMax", "ReduceMin"}


class Network:
    """Convolutions by name, to be written down as text."""

    def __init__(self):
        self.tensors = {}

    def conv(self, x, y, inputs=CHANNELS, outputs=CHANNELS, kernel=1, stride=1, group=1):
        fan_in, pad = inputs // group * kernel**2, kernel // 2
        shape = (outputs, inputs // group, kernel, kernel)
        seed = len(self.tensors)
        self.tensors[f"{y}_w"] = normal(*shape, seed=seed, scale=fan_in**-0.5)
        self.tensors[f"{y}_b"] = normal(outputs, seed=seed, scale=0.1)
        how = f"kernel_shape=[{kernel},{kernel}], strides=[{stride},{stride}], group={group}"
        return f"{y} = Conv<{how}, pads=[{pad},{pad},{pad},{pad}]>({x}, {y}_w, {y}_b)\n"

    def relu(self, x, y, **how):
        return self.conv(x, f"{y}_before", **how) + f"{y} = Relu({y}_before)\n"


def basic(net, x, y, stride=1):
    """Two 3x3 convolutions and a shortcut, through a convolution where the size changes."""
    text = net.relu(x, f"{y}_1", kernel=3, stride=stride) + net.conv(f"{y}_1", f"{y}_2", kernel=3)
    short = x if stride == 1 else f"{y}_short"
    text += "" if stride == 1 else net.conv(x, short, stride=stride)
    return text + f"{y}_sum = Add({y}_2, {short})\n{y} = Relu({y}_sum)\n"


def bottleneck(net, x, y, stride=1):
    """1x1, 3x3, 1x1 and a shortcut."""
    text = net.relu(x, f"{y}_1", outputs=8)
    text += net.relu(f"{y}_1", f"{y}_2", inputs=8, outputs=8, kernel=3, stride=stride)
    text += net.conv(f"{y}_2", f"{y}_3", inputs=8)
    short = x if stride == 1 else f"{y}_short"
    text += "" if stride == 1 else net.conv(x, short, stride=stride)
    return text + f"{y}_sum = Add({y}_3, {short})\n{y} = Relu({y}_sum)\n"


def model_of(build, net, body, output="float[N,C,H,W] y", **tensors):
    text = f"(float[N,{CHANNELS},{SIZE},{SIZE}] x) => ({output}) {{\n{body}}}"
    return build(text, **net.tensors, **tensors)


def image(count=8, seed=7):
    return normal(count, CHANNELS, SIZE, SIZE, seed=seed)


def check_integer(model, path, **options):
    """Lowers, and looks at what runs; gives what was written, and the kernels between first Q and last DQ."""
    found, report = lowered(model, path, {"x": image()}, sparsity=0.0, **options)
    assert all(row.kernel.startswith("integer") for row in report.layers)
    executed = kernels(found)
    ends = [i for i, kind in enumerate(executed) if kind in ("DequantizeLinear", "QGemm")]
    inside = executed[executed.index("QuantizeLinear") + 1 : ends[-1]]
    strange = [kind for kind in inside if not kind.startswith("QLinear") and kind not in MOVING | CHOOSING]
    assert executed.count("QuantizeLinear") == 1 and strange == []
    plain, fast = both(found, {"x": image(seed=1)})
    assert relative(plain, fast) < 0.05  # one step now and then, which later layers carry on
    return found, inside


@pytest.mark.parametrize("block", [basic, bottleneck])
def test_a_residual_network_runs_on_integers_from_end_to_end(build, tmp_path, block):
    net = Network()
    body = net.relu("x", "stem", kernel=3)
    body += "pool = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(stem)\n"
    body += block(net, "pool", "one") + block(net, "one", "two", stride=2)
    body += "mean = GlobalAveragePool(two)\nflat = Flatten(mean)\ny = Gemm<transB=1>(flat, head_w, head_b)\n"
    head = {"head_w": normal(10, CHANNELS), "head_b": normal(10)}
    model = model_of(build, net, body, "float[N,10] y", **head)
    found, inside = check_integer(model, tmp_path / "o.onnx")
    assert inside.count("QLinearAdd") == 2 and "QLinearGlobalAveragePool" in inside
    assert not {"Relu", "Sum"} & {node.op_type for node in found.graph.node}
    assert {int(tensor(found, f"{name}.zero_point")) for name in ("stem", "one", "two")} == {0}


def test_activations_are_unsigned_behind_a_relu_and_centred_otherwise(build, tmp_path):
    """A symmetric range gets the zero point 128; one that is not gets its own, in UINT8 as well."""
    net = Network()
    body = net.relu("x", "r") + net.conv("r", "c") + net.conv("c", "y")
    found, _ = lowered(model_of(build, net, body), tmp_path / "o.onnx", {"x": image()}, sparsity=0.0)
    assert int(tensor(found, "r.zero_point")) == 0
    assert 100 < int(tensor(found, "c.zero_point")) < 156
    quantizers = [node for node in found.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == 4  # one for each edge
    assert {tensor(found, node.input[2]).dtype.name for node in quantizers} == {"uint8"}


# ---- parts of a Concat ----


def siblings(net, *ends):
    """Convolutions of one value, each with its end, put together."""
    body, names = net.relu("x", "stem"), []
    for index, end in enumerate(ends):
        body += net.conv("stem", f"c{index}", outputs=8)
        body += f"p{index} = {end}(c{index})\n" if end else ""
        names.append(f"p{index}" if end else f"c{index}")
    body += f"k = Concat<axis=1>({', '.join(names)})\n"
    return body + net.conv("k", "y", inputs=8 * len(ends)), names


@pytest.mark.parametrize(
    ("ends", "shared"),
    [
        (("Relu", "Relu"), {"p0", "p1"}),
        (("", "", ""), {"c0", "c1", "c2"}),
        (("Relu", ""), {"c1"}),  # the Relu would stay, in floats
    ],
)
def test_parts_that_a_concat_alone_reads_have_its_scale(build, tmp_path, ends, shared):
    net = Network()
    body, names = siblings(net, *ends)
    model = model_of(build, net, body)
    placement = place(model.graph, {})
    assert {value.name for value in placement.same_as} == shared
    found, inside = check_integer(model, tmp_path / "o.onnx")
    assert inside.count("QLinearConcat") == 1 and inside.count("QLinearConv") == 2 + len(ends)
    scales = {name: float(tensor(found, f"{name}.scale")) for name in (*names, "k")}
    assert {name for name in names if scales[name] == scales["k"]} == shared


def test_a_part_that_others_read_too_keeps_its_scale(build):
    net = Network()
    body, _ = siblings(net, "Relu", "Relu")
    model = model_of(build, net, body + net.conv("p0", "z", inputs=8), "float[N,C,H,W] y, float[N,C,H,W] z")
    assert {value.name for value in place(model.graph, {}).same_as} == {"p1"}


# ---- operators between layers ----

BETWEEN = {
    "MaxPool<kernel_shape=[2,2]>(a)": "NhwcMaxPool",
    "ReduceMax(a, rows)": "ReduceMax",
    "ReduceMin(a, rows)": "ReduceMin",
    'Resize<mode="nearest">(a, , twice)': "Resize",
    "Tile(a, repeats)": "Tile",
    "Expand(a, wide)": "Expand",
    "Gather<axis=3>(a, turned)": "Gather",
    "Slice(a, one, four, three)": "Slice",
    "Transpose<perm=[0,1,3,2]>(a)": "Transpose",
    "Sigmoid(a)": "QLinearSigmoid",
    "LeakyRelu(a)": "QLinearLeakyRelu",
    "AveragePool<kernel_shape=[2,2]>(a)": "QLinearAveragePool",
    "GlobalAveragePool(a)": "QLinearGlobalAveragePool",
}


@pytest.mark.parametrize("operator", BETWEEN)
def test_what_stands_between_two_layers_runs_on_integers(build, tmp_path, operator):
    net = Network()
    body = net.relu("x", "a") + f"b = {operator}\n" + net.conv("b", "y")
    numbers = {
        **{"rows": np.array([2]), "twice": np.array([1, 1, 2, 2], F32), "repeats": np.array([1, 1, 2, 1])},
        **{"wide": np.array([1, 1, SIZE, 1]), "turned": np.arange(SIZE)[::-1].copy()},
        **{"one": np.array([1]), "four": np.array([4]), "three": np.array([3])},
    }
    if operator.startswith("Expand"):
        body = body.replace("Expand(a, wide)", "Expand(m, wide)").replace(
            "b =", "m = ReduceMax(a, rows)\nb ="
        )
    _, inside = check_integer(model_of(build, net, body, **numbers), tmp_path / "o.onnx")
    assert BETWEEN[operator] in inside and inside.count("QLinearConv") == 2


def test_an_interpolation_runs_in_floats(build):
    net = Network()
    body = net.conv("x", "a") + 'b = Resize<mode="linear">(a, , twice)\n' + net.conv("b", "y")
    model = model_of(build, net, body, twice=np.array([1, 1, 2, 2], F32))
    assert "resize_1" not in {node.name for node in place(model.graph, {}).integer}


# ---- attention: on integers where the model has quantizers there ----

HEADS, TOKENS, WIDTH = 2, 12, 16
PAIR = "{x}_q = QuantizeLinear({x}, {s}, {z})\n{y} = DequantizeLinear({x}_q, {s}, {z})\n"


def attention(build, softmax, output, quantized=True, kind=F32):
    def pair(x, y, s="s", z="z"):
        return PAIR.format(x=x, y=y, s=s, z=z) if quantized else f"{y} = Identity({x})\n"

    body = pair("q", "qd") + pair("k", "kd") + pair("v", "vd")
    body += "kt = Transpose<perm=[0,1,3,2]>(kd)\na = MatMul(qd, kt)\n"
    body += pair("a", "ad", "scores", "z") if softmax else "ad = Identity(a)\n"
    body += "p = Softmax(ad)\n" + pair("p", "pd", "share", "none") + "m = MatMul(pd, vd)\n"
    body += pair("m", "y") if output else "y = Identity(m)\n"
    shape = f"{'float16' if kind is np.float16 else 'float'}[N,{HEADS},{TOKENS},{WIDTH}]"
    scales = {"s": kind(0.03), "scores": kind(0.1), "share": kind(1 / 255)}
    text = f"({shape} q, {shape} k, {shape} v) => ({shape} y) {{\n{body}}}"
    return build(text, **scales, z=np.uint8(128), none=np.uint8(0))


def tokens(seed=0):
    shape = (3, HEADS, TOKENS, WIDTH)
    return {name: normal(*shape, seed=seed + index) for index, name in enumerate("qkv")}


@pytest.mark.parametrize("output", [True, False])
@pytest.mark.parametrize("softmax", [True, False])
def test_an_attention_between_quantizers_of_its_own_runs_on_integers(build, tmp_path, softmax, output):
    model = attention(build, softmax, output)
    found, report = lowered(model, tmp_path / "o.onnx")
    executed = kernels(found)
    first = "QLinearMatMul" if softmax else "MatMulIntegerToFloat"
    second = "QLinearMatMul" if output else "MatMulIntegerToFloat"
    assert [row.kernel for row in report.layers] == [f"integer ({first})", f"integer ({second})"]
    assert ("QLinearSoftmax" if softmax else "Softmax") in executed
    assert not {"MatMul", "FusedMatMul", "Sum"} & set(executed)
    expected = both(model, tokens())[0]
    step = 0.03 if output else 1e-5
    for result in both(found, tokens()):
        bound = 1.001 * step if not softmax else 2.001 * 0.03  # a step of the softmax is one of 255 shares
        assert np.abs(result - expected).max() <= bound


def test_an_attention_without_quantizers_stays_in_floats(build, tmp_path):
    found, report = lowered(attention(build, False, False, quantized=False), tmp_path / "o.onnx", tokens())
    assert {row.reason for row in report.layers} == {"a product of two activations, without quantizers"}
    assert "QuantizeLinear" not in {node.op_type for node in found.graph.node}


def test_a_float16_attention_stays_valid(build, tmp_path):
    """Its quantizers have float16 on both sides, for which there is no integer kernel."""
    model = attention(build, True, True, kind=np.float16)
    found, _ = lowered(model, tmp_path / "o.onnx")
    onnx.checker.check_model(found, full_check=True)
    feeds = {name: x.astype(np.float16) for name, x in tokens().items()}
    result, expected = both(found, feeds)[1], both(model, feeds)[0]
    assert result.dtype == np.float16
    assert np.abs(result.astype(F32) - expected.astype(F32)).max() <= 0.07  # two steps of 0.03
