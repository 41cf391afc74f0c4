"""getac.lower from end to end: every family of the zoo, every spelling of a file, and what is written."""

from __future__ import annotations

import json
from functools import cache, partial

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

import getac
from getac.compression import compress
from getac.errors import BadInputError, OptionError, VerificationError
from getac.kernels.integers import spare_bits
from getac.onnx_graph.read import load
from getac.options import Options
from getac.passes import SliceUnits
from tests.unpacked import weight_integers
from tools.zoo.registry import ZOO

lower = partial(getac.lower, bench=False)

SPARSITIES = ("auto", 0.0, 0.3, 0.5)
FLOAT_REASONS = {
    "ConvTranspose": "onnxruntime has no integer kernel for ConvTranspose",
    "MatMul": "a product of two activations, without quantizers",
}
CHANNEL_MULTIPLE = {True: 4, False: 16}  # for convolutions, on integers and on floats


def samples(model, count=8, seed=0):
    """One array for each input of a model, as calibration data."""
    rng = np.random.default_rng(seed)
    return {
        value.name: rng.normal(size=[d.dim_value or count for d in value.type.tensor_type.shape.dim]).astype(
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        )
        for value in model.graph.input
    }


def run(model, feeds, optimize=True):
    """The first output under onnxruntime; the model is a path, a proto or an ir.Model."""
    if isinstance(model, ir.Model):
        model = ir.serde.serialize_model(model)
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, ["CPUExecutionProvider"]).run(None, dict(feeds))[0]


def relative(a, b):
    return float(np.abs(a - b).max() / np.abs(a).max())


def sqnr(a, b):
    return 10 * np.log10(float((a**2).sum()) / max(float(((a - b) ** 2).sum()), 1e-30))


def tensors(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def stored_weights(model):
    """Layer -> the integers that its weight is made of."""
    narrow = (np.int8, np.uint8)
    return {name: array for name, array in weight_integers(model).items() if array.dtype in narrow}


# ---- every family ----


@pytest.fixture(scope="module")
def lowered(tmp_path_factory):
    """A network of the zoo, lowered: the model, the report, and the folder of what was written."""

    @cache
    def make(name, sparsity, calibrated):
        model, folder = ZOO[name](), tmp_path_factory.mktemp(name)
        found = lower(
            model,
            folder / "out.onnx",
            sparsity=sparsity,
            calibration=samples(model) if calibrated else None,
            report=folder / "report.json",
            plan=folder / "plan.json",
        )
        return model, found, folder

    return make


@pytest.mark.parametrize("calibrated", [True, False], ids=["calibrated", "weight-only"])
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", ZOO)
def test_every_family(lowered, name, sparsity, calibrated):
    model, found, folder = lowered(name, sparsity, calibrated)
    assert found.calibrated is calibrated
    check_verified(found)
    assert (found.units == 0) == (name == "shufflenet_v1_frozen")
    check_removed(found, sparsity, coarse=name.startswith("shufflenet_v1"))
    written = onnx.load(folder / "out.onnx")
    check_file(written, model)
    check_kernels(found)
    check_layers(found, written, calibrated)
    check_report(found, json.loads((folder / "report.json").read_text()), folder / "out.onnx")
    check_plan(found, json.loads((folder / "plan.json").read_text()))


def check_verified(found):
    verification = found.verification
    assert verification.passed and verification.departure is None and verification.samples >= 4
    for one in verification.sliced:
        assert one.finite and one.relative <= 1e-4
    for one in verification.folded:
        assert one.sqnr_db > 100
    for one in verification.lowered:
        assert one.sqnr_db > 20
        assert one.top1 is None or one.top1 >= 0.7


def check_removed(found, sparsity, coarse):
    """Random weights have no dead unit; a share is met as far as alignment lets it.

    `coarse`: depthwise convolutions over shuffled groups let few counts be.
    """
    target = 0.0 if sparsity == "auto" else sparsity
    if found.units == 0:  # everything is frozen
        assert found.units_removed == 0
    elif (found.calibrated and not coarse) or target == 0:
        assert abs(found.sparsity - target) < 0.04
    else:  # multiples of 16 are coarse for narrow networks, and are never overshot by much
        assert 0 < found.sparsity < target + 0.02


def check_file(written, original):
    onnx.checker.check_model(written, full_check=True)
    assert {entry.domain: entry.version for entry in written.opset_import}[""] == 21
    assert written.ir_version == 10 and written.producer_name == "getac"
    inputs = [(v.name, v.type) for v in written.graph.input]
    assert inputs == [(v.name, v.type) for v in original.graph.input]
    assert [v.name for v in written.graph.output] == [v.name for v in original.graph.output]
    feeds = samples(original, count=3, seed=1)
    expected, output = run(original, feeds), run(written.SerializeToString(), feeds)
    assert output.shape == expected.shape and output.dtype == expected.dtype
    assert np.isfinite(output).all()


def check_kernels(found):
    for row in found.layers:
        if not found.calibrated:
            assert row.kernel.split()[0] in ("float", "weight-only") and row.activation_bits == 32
            assert row.reason in (*FLOAT_REASONS.values(), "no calibration data")
        elif row.kernel.startswith("integer"):
            assert (row.weight_bits, row.activation_bits, row.reason) == (8, 8, "")
        else:
            assert row.operator in FLOAT_REASONS and row.reason == FLOAT_REASONS[row.operator]


def check_layers(found, written, calibrated):
    """The rows name the layers of the file and have the channels of its weights, which are aligned."""
    weights = stored_weights(written)
    rows = {row.name: row for row in found.layers}
    products = rows.keys() - weights.keys()
    assert weights.keys() <= rows.keys()
    assert len(products) == (4 if written.graph.name == "transformer" else 0)
    assert all(rows[name].bytes == 0 and rows[name].weight_bits == 32 for name in products)
    groups = {
        node.name: attribute.i
        for node in written.graph.node
        for attribute in node.attribute
        if attribute.name == "group"
    }
    operators = {node.name: node.op_type for node in written.graph.node}
    for name, weight in weights.items():
        row, group, operator = rows[name], groups.get(name, 1), operators[name]
        if operator in ("Conv", "Gemm"):
            assert (row.channels_in, row.channels_out) == (weight.shape[1] * group, weight.shape[0])
        elif operator == "ConvTranspose":
            assert (row.channels_in, row.channels_out) == (weight.shape[0], weight.shape[1] * group)
        else:
            assert (row.channels_in, row.channels_out) == weight.shape
        depthwise = group == row.channels_out and group > 1
        multiple = CHANNEL_MULTIPLE[calibrated and not depthwise]
        if row.operator == "Conv" and row.channels_out != row.channels_out_before:
            assert row.channels_out % multiple == 0


def check_report(found, content, path):
    assert content == json.loads(found.as_json())
    rows = content["layers"]
    for side, suffix in (("before", "_before"), ("after", "")):
        for quantity in ("macs", "bops"):
            assert content[side][quantity] == sum(row[quantity + suffix] for row in rows)
        assert sum(row["bytes" + suffix] for row in rows) <= content[side]["weight_bytes"]
    for row in rows:
        assert row["bops"] == row["macs"] * row["weight_bits"] * row["activation_bits"]
        assert row["bops_before"] == row["macs_before"] * 32 * 32
        assert 0 < row["macs"] <= row["macs_before"]
    assert content["after"]["file_bytes"] == path.stat().st_size
    stored = tensors(onnx.load(path)).values()
    assert content["after"]["weight_bytes"] == sum(array.nbytes for array in stored)
    assert 0 < content["after"]["parameters"] <= sum(array.size for array in stored)  # no scales among them
    assert content["verification"]["passed"] is True and content["latency"] is None
    assert content["units_removed"] == round(content["sparsity"] * content["units"])
    assert {"remove-identities", "fold-quantizers"} <= {one["name"] for one in content["passes"]}


def check_plan(found, plan):
    assert sum(one["units"] for one in plan["classes"]) == found.units
    assert sum(one["units"] - len(one["kept"]) for one in plan["classes"]) == found.units_removed
    for one in plan["classes"]:
        assert one["kept"] == sorted(set(one["kept"])) and one["kept"]
        assert one["kept"][0] >= 0 and one["kept"][-1] < one["units"]
    quantizers = plan["quantizers"].values()
    assert all(2 ** entry["bits"] > entry["high"] - entry["low"] for entry in quantizers)


# ---- what was removed, computed by hand ----


def kept_by_parameter(plan):
    """(Parameter, dimension) -> the units of the one class that it is made of."""
    return {
        (member["parameter"], member["dimension"]): np.array(one["kept"])
        for one in plan["classes"]
        for member in one["members"]
    }


def test_the_plan_explains_the_weights_of_a_perceptron(tmp_path):
    model = ZOO["mlp_gemm_transposed"]()
    lower(model, tmp_path / "o.onnx", sparsity=0.5, plan=tmp_path / "p.json")
    kept = kept_by_parameter(json.loads((tmp_path / "p.json").read_text()))
    assert len(kept) == 6  # two classes: rows of a weight, its bias, columns of the next weight
    before, after = tensors(model), tensors(onnx.load(tmp_path / "o.onnx"))
    for layer in ("gemm_0", "gemm_2", "gemm_4"):
        weight = before[f"{layer}.weight"]
        for dimension in (0, 1):
            if (f"{layer}.weight", dimension) in kept:
                weight = weight.take(kept[f"{layer}.weight", dimension], axis=dimension)
        scale = np.abs(weight).max(axis=1) / np.float32(127)
        np.testing.assert_array_equal(after[f"{layer}.weight.scale"], scale)
        np.testing.assert_array_equal(after[f"{layer}.weight.int"], np.rint(weight.T / scale))


def test_a_sliced_perceptron_computes_what_the_masked_one_computes(tmp_path):
    model = ZOO["mlp_gemm_transposed"]()
    lower(model, tmp_path / "o.onnx", sparsity=0.5, plan=tmp_path / "p.json")
    kept = kept_by_parameter(json.loads((tmp_path / "p.json").read_text()))
    arrays = tensors(model)
    x = hidden = samples(model)["features"]
    for layer in ("gemm_0", "gemm_2", "gemm_4"):
        weight, bias = arrays[f"{layer}.weight"].copy(), arrays[f"{layer}.bias"].copy()
        if (f"{layer}.weight", 0) in kept:
            gone = np.setdiff1d(np.arange(len(bias)), kept[f"{layer}.weight", 0])
            weight[gone], bias[gone] = 0, 0
        hidden = hidden @ weight.T + bias
        hidden = np.tanh(hidden) if layer != "gemm_4" else hidden
    sliced = compress(load(model), None, None, Options(sparsity=0.5)).models.sliced
    assert relative(hidden, run(sliced, {"features": x})) < 1e-5
    assert sqnr(hidden, run(tmp_path / "o.onnx", {"features": x})) > 35


def test_a_removed_channel_takes_its_columns_behind_a_flatten(tmp_path):
    """VGG: channel c of a 4x4 map is columns 16 c to 16 c + 15 of the first Gemm."""
    model = ZOO["vgg"]()
    lower(model, tmp_path / "o.onnx", sparsity=0.5, plan=tmp_path / "p.json")
    kept = kept_by_parameter(json.loads((tmp_path / "p.json").read_text()))
    masked = onnx.ModelProto()
    masked.CopyFrom(model)
    for tensor in masked.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        for dimension, size in enumerate(array.shape):
            units = kept.get((tensor.name, dimension))
            if units is None:
                continue
            if tensor.name == "gemm_12.weight" and dimension == 1:
                units = (16 * units[:, None] + np.arange(16)).reshape(-1)
            gone = np.setdiff1d(np.arange(size), units)
            array[(slice(None),) * dimension + (gone,)] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    sliced = compress(load(model), None, None, Options(sparsity=0.5)).models.sliced
    feeds = samples(model, seed=3)
    assert relative(run(masked, feeds), run(sliced, feeds)) < 1e-5
    assert sqnr(run(masked, feeds), run(tmp_path / "o.onnx", feeds)) > 25


@pytest.mark.parametrize("name", ["resnet", "densenet", "mobilenet_v2", "transformer", "unet"])
def test_masked_equals_sliced_on_inputs_that_verification_did_not_see(name):
    model = ZOO[name]()
    models = compress(load(model), None, None, Options(sparsity=0.5)).models
    feeds = samples(model, count=5, seed=11)
    assert relative(run(models.reference, feeds), run(models.sliced, feeds)) <= 1e-4
    assert relative(run(model, feeds), run(models.folded, feeds)) <= 1e-4
    assert relative(run(model, feeds), run(models.sliced, feeds)) > 1e-3  # something was removed


# ---- units that are zero already ----


def zeroed(model, rows, bias=None):
    """The model with some output units of tensors set to zero; a bias, where given, stays."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        layer, role = tensor.name.rsplit(".", 1)
        if layer in rows and role in ("weight", "bias"):
            array = numpy_helper.to_array(tensor).copy()
            axis = 1 if model.graph.name == "mlp_gemm" and role == "weight" else 0
            value = 0 if role == "weight" or bias is None else bias
            array[(slice(None),) * axis + (rows[layer],)] = value
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return result


@pytest.mark.parametrize("bias", [None, 0.75, -0.75])
@pytest.mark.parametrize("name", ["mlp_gemm", "mlp_gemm_transposed"])
def test_dead_units_of_a_perceptron_go_and_their_constants_stay(name, bias, tmp_path):
    """A sigmoid of a zero row is sigmoid(bias): never zero, so it moves into the next layer's bias."""
    model = zeroed(ZOO[name](), {"gemm_0": [1, 5, 40], "gemm_2": [0]}, bias)
    found = lower(model, tmp_path / "o.onnx", calibration=samples(model))
    assert (found.units_removed, found.units) == (4, 80)
    assert found.verification.sliced[0].relative < 1e-5
    assert found.verification.original[0].sqnr_db > 30
    models = compress(load(model), None, None, Options()).models
    feeds = samples(model, seed=5)
    assert relative(run(model, feeds), run(models.sliced, feeds)) < 1e-5


@pytest.mark.parametrize("bias", [None, 0.75, -0.75])
def test_dead_channels_of_a_convolution_go_where_that_is_exact(bias, tmp_path):
    """A padded convolution adds a constant channel up otherwise at the border: such a channel stays."""
    model = zeroed(ZOO["vgg"](), {"conv_0": [0, 1, 2, 3], "gemm_12": [3, 9]}, bias)
    found = lower(model, tmp_path / "o.onnx", calibration=samples(model))
    removed = 2 if bias is not None and bias > 0 else 6
    assert found.units_removed == removed
    feeds = samples(model, seed=5)
    models = compress(load(model), None, None, Options(align=1)).models
    assert relative(run(model, feeds), run(models.sliced, feeds)) < 1e-5
    assert sqnr(run(model, feeds), run(tmp_path / "o.onnx", feeds)) > 28


def test_dead_channels_go_in_aligned_blocks():
    """Three dead channels of 16 leave 13, which integer kernels dislike: all stay, unless told otherwise."""
    model = zeroed(ZOO["vgg"](), {"conv_0": [0, 7, 15]})
    data = samples(model)
    assert lower(model, None, calibration=data).units_removed == 0
    assert lower(model, None, calibration=data, align=1).units_removed == 3


def test_a_model_of_dead_units_keeps_one_of_each_class():
    model = zeroed(ZOO["mlp_gemm_transposed"](), {"gemm_0": list(range(48))})
    found = lower(model, None)
    assert found.verification.passed and found.layers[0].channels_out >= 1


# ---- models that are quantized already ----


class Reader(quantization.CalibrationDataReader):
    def __init__(self, feeds):
        self.feeds = iter([feeds])

    def get_next(self):
        return next(self.feeds, None)


def statically_quantized(model, folder, per_channel, activations):
    onnx.save(model, folder / "float.onnx")
    quant_pre_process(folder / "float.onnx", folder / "prepared.onnx", skip_symbolic_shape=True)
    quantization.quantize_static(
        folder / "prepared.onnx",
        folder / "qdq.onnx",
        Reader(samples(model)),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=activations,
        weight_type=quantization.QuantType.QInt8,
    )
    return folder / "qdq.onnx"


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", ["vgg", "resnet", "mobilenet_v2", "mlp_gemm"])
@pytest.mark.parametrize("activations", [quantization.QuantType.QUInt8, quantization.QuantType.QInt8])
def test_a_quantized_model_needs_no_calibration(name, per_channel, activations, tmp_path):
    """Relus that its maker left to zero points come back before anything is compared."""
    model = ZOO[name]()
    quantized = statically_quantized(model, tmp_path, per_channel, activations)
    found = lower(quantized, tmp_path / "o.onnx", sparsity=0.0)
    assert found.calibrated and {row.kernel.split()[0] for row in found.layers} == {"integer"}
    feeds = samples(model)
    assert sqnr(run(quantized, feeds), run(tmp_path / "o.onnx", feeds)) > 38
    assert sqnr(run(model, feeds), run(tmp_path / "o.onnx", feeds)) > 24
    pruned = lower(quantized, tmp_path / "pruned.onnx", sparsity=0.3)
    assert abs(pruned.sparsity - 0.3) < 0.03 and pruned.verification.sliced[0].relative <= 1e-4
    assert {row.kernel.split()[0] for row in pruned.layers} == {"integer"}
    assert pruned.verification.lowered[0].sqnr_db > 20


@pytest.mark.parametrize("calibrated", [True, False], ids=["calibrated", "weight-only"])
@pytest.mark.parametrize("name", ZOO)
def test_lowering_the_result_again_changes_nothing(lowered, name, calibrated, tmp_path):
    model, before, folder = lowered(name, 0.3, calibrated)
    first, second, third = folder / "out.onnx", tmp_path / "second.onnx", tmp_path / "third.onnx"
    after = lower(first, second)
    assert after.units_removed == 0
    assert [row.kernel for row in after.layers] == [row.kernel for row in before.layers]
    assert [row.reason for row in after.layers] == [row.reason for row in before.layers]
    feeds = samples(model, seed=7)
    np.testing.assert_array_equal(run(first, feeds), run(second, feeds))
    if calibrated:
        assert stored_weights(onnx.load(first)).keys() == stored_weights(onnx.load(second)).keys()
        lower(first, third, calibration=samples(model))  # what the file says goes before what the data says
        np.testing.assert_array_equal(run(first, feeds), run(third, feeds))


def test_a_model_with_some_quantizers_keeps_those(build, tmp_path):
    """Without data, the layer that has quantizers runs on integers, and the other one says what it lacks."""
    rng = np.random.default_rng(0)
    model = build(
        """(float[N,16] x) => (float[N,8] y) {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            wd = DequantizeLinear<axis=0>(w, ws, wz)
            h = Gemm<transB=1>(d, wd, b)
            r = Softplus(h)
            y = Gemm<transB=1>(r, v, c)
        }""",
        s=np.float32(0.03),
        z=np.uint8(128),
        w=rng.integers(-127, 128, (12, 16), np.int8),
        ws=rng.uniform(0.001, 0.002, 12).astype(np.float32),
        wz=np.zeros(12, np.int8),
        b=rng.normal(size=12).astype(np.float32),
        v=rng.normal(size=(8, 12)).astype(np.float32),
        c=rng.normal(size=8).astype(np.float32),
    )
    found = lower(ir.serde.serialize_model(model), tmp_path / "o.onnx")
    first, second = found.layers
    assert first.kernel == "integer (QGemm)" and (first.weight_bits, first.activation_bits) == (8, 8)
    assert second.kernel == "weight-only (MatMulNBits)" and second.weight_bits == 8
    assert second.reason == "no quantizers for its activations, and no calibration data"
    x = rng.normal(size=(5, 16)).astype(np.float32)
    assert sqnr(run(model, {"x": x}, optimize=False), run(tmp_path / "o.onnx", {"x": x})) > 38


# ---- spellings of files ----


def half_precision(model):
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


@pytest.mark.parametrize("sparsity", ["auto", 0.3])
@pytest.mark.parametrize("name", ["resnet", "mlp_gemm_transposed"])
def test_a_float16_model_is_pruned_and_keeps_its_weights(name, sparsity, tmp_path):
    model = half_precision(ZOO[name]())
    found = lower(model, tmp_path / "o.onnx", sparsity=sparsity, calibration=samples(model))
    assert {row.reason for row in found.layers} == {"its weights are FLOAT16, not float32"}
    assert found.verification.lowered[0].sqnr_db > 100
    assert found.verification.folded[0].sqnr_db > 45  # normalisations are folded in float16
    written = onnx.load(tmp_path / "o.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert {array.dtype for array in tensors(written).values()} <= {np.dtype("float16"), np.dtype("int64")}
    assert (found.units_removed > 0) == (sparsity == 0.3)


def with_opset(model, version, ir_version):
    model.opset_import[0].version = version
    model.ir_version = ir_version
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize(("version", "ir_version"), [(11, 6), (13, 7), (17, 8), (22, 10), (23, 11)])
@pytest.mark.parametrize("name", ["vgg", "mlp_gemm"])
def test_other_opsets_come_out_as_21(name, version, ir_version, tmp_path):
    model = with_opset(ZOO[name](), version, ir_version)
    found = lower(model, tmp_path / "o.onnx", sparsity=0.3, calibration=samples(model))
    assert {row.kernel.split()[0] for row in found.layers} == {"integer"}
    check_file(onnx.load(tmp_path / "o.onnx"), model)


def test_an_ir_3_file_lists_its_weights_among_the_inputs(tmp_path):
    model = ZOO["vgg"]()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model = with_opset(model, 9, 3)
    data = {"image": samples(ZOO["vgg"]())["image"]}
    onnx.save(model, tmp_path / "in.onnx")
    found = lower(tmp_path / "in.onnx", tmp_path / "o.onnx", sparsity=0.3, calibration=data)
    assert found.units_removed == 91
    assert [value.name for value in onnx.load(tmp_path / "o.onnx").graph.input] == ["image"]


def test_external_data_comes_back_in_one_file(tmp_path):
    model = ZOO["resnet"]()
    folder = tmp_path / "in"
    folder.mkdir()
    onnx.save(
        ZOO["resnet"](), folder / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0
    )
    found = lower(folder / "m.onnx", tmp_path / "o.onnx", sparsity=0.3, calibration=samples(model))
    inside = lower(model, tmp_path / "p.onnx", sparsity=0.3, calibration=samples(model))
    assert found.before.file_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert found.units_removed == inside.units_removed
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "p.onnx").read_bytes()


def dynamic_image(model):
    for axis, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    return model


@pytest.mark.parametrize("name", ["resnet", "squeezenet"])
def test_dynamic_dimensions_stay_dynamic(name, tmp_path):
    model = dynamic_image(ZOO[name]())
    data = samples(ZOO[name]())
    for calibration in (data, None):  # without data, sizes that work are found by trying
        found = lower(model, tmp_path / "o.onnx", sparsity=0.3, calibration=calibration)
        assert found.verification.passed and found.calibrated == (calibration is not None)
        dims = onnx.load(tmp_path / "o.onnx").graph.input[0].type.tensor_type.shape.dim
        assert [dim.dim_param for dim in dims] == ["N", "", "height", "width"]
        other = {"image": np.ones((1, 3, 48, 40), np.float32)}
        assert run(tmp_path / "o.onnx", other).shape == run(model, other).shape


# ---- the call ----


def test_a_model_in_memory_stays_as_it_is_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ZOO["mlp_gemm"]()
    before = model.SerializeToString()
    found = getac.lower(model, sparsity=0.5, bench=False)
    assert (found.source, found.output) == ("a model in memory", None)
    assert found.before.file_bytes is None and found.after.file_bytes is None
    assert model.SerializeToString() == before
    assert list(tmp_path.iterdir()) == []


def test_an_ir_model_stays_as_it_is():
    model = load(ZOO["resnet"]())
    before = ir.serde.serialize_model(model).SerializeToString()
    lower(model, None, sparsity=0.5, calibration={"image": np.ones((2, 3, 32, 32), np.float32)})
    assert ir.serde.serialize_model(model).SerializeToString() == before


def test_the_same_input_gives_the_same_bytes(tmp_path):
    model = ZOO["squeezenet"]()
    for name in ("a", "b", "c"):
        lower(model, tmp_path / name, sparsity=0.5, calibration=samples(model))
    assert len({(tmp_path / name).read_bytes() for name in ("a", "b", "c")}) == 1


def test_latency_is_measured_unless_told_not_to():
    found = getac.lower(ZOO["mlp_gemm"](), sparsity=0.5)
    assert found.latency.before_ms > 0 and found.latency.after_ms > 0
    content = json.loads(found.as_json())
    assert content["latency"]["ratio"] == pytest.approx(found.latency.before_ms / found.latency.after_ms)


def test_progress_is_reported():
    steps, done = [], []
    model = ZOO["mlp_gemm"]()
    lower(
        model,
        calibration=samples(model, count=20),
        on_step=steps.append,
        on_sample=lambda *counts: done.append(counts),
    )
    assert steps[0] == "read" and steps[-2:] == ["verify", "measure"] and "choose-units" in steps
    assert done == [(8, 20), (16, 20), (20, 20)]


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_every_way_to_estimate_ranges(method):
    model = ZOO["vgg"]()
    found = lower(model, ranges=method, calibration=samples(model))
    assert found.verification.lowered[0].sqnr_db > 15


@pytest.mark.parametrize(("weights", "activations", "least"), [(8, 6, 18), (8, 4, 6), (4, 8, 6), (5, 5, 8)])
def test_fewer_bits_run_on_the_same_kernels(weights, activations, least, tmp_path):
    model = ZOO["mlp_gemm_transposed"]()
    data = samples(model)
    found = lower(
        model, tmp_path / "o.onnx", calibration=data, weight_bits=weights, activation_bits=activations
    )
    assert all(row.kernel.startswith("integer") for row in found.layers)
    assert {(row.weight_bits, row.activation_bits) for row in found.layers} == {(weights, activations)}
    assert found.verification.lowered[0].sqnr_db > least
    high = 2 ** (weights - 1) - 1
    factor = 2 ** spare_bits(-high, high, 2**activations - 1)  # integer layers spread few bits over INT8
    for weight in stored_weights(onnx.load(tmp_path / "o.onnx")).values():
        assert np.abs(weight.astype(int)).max() == factor * high
        assert not (weight.astype(int) % factor).any()


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 1.0},
        {"sparsity": -0.1},
        {"sparsity": float("nan")},
        {"align": 0},
        {"ranges": "average"},
        {"weight_bits": 9},
        {"weight_bits": 1},
        {"activation_bits": 16},
    ],
)
def test_options_outside_their_domain_are_refused_before_the_model_is_read(options):
    with pytest.raises(OptionError):
        lower("no such file.onnx", **options)


def test_an_unknown_option_is_an_error():
    with pytest.raises(TypeError, match="sparsty"):
        lower(ZOO["mlp_gemm"](), sparsty=0.5)


# ---- wrong passes ----


def perturbing(monkeypatch, name="gemm_2.weight"):
    """Makes the slicing pass lose a little of one weight."""
    honest = SliceUnits.run

    def run_wrongly(self, state):
        honest(self, state)
        value = state.model.graph.initializers[name]
        array = np.array(value.const_value.numpy())
        array.reshape(-1)[0] += 0.1
        value.const_value = ir.tensor(array, name=name)

    monkeypatch.setattr(SliceUnits, "run", run_wrongly)


def test_a_wrong_pass_is_caught_and_nothing_is_written(monkeypatch, tmp_path):
    perturbing(monkeypatch)
    paths = {"report": tmp_path / "r.json", "plan": tmp_path / "p.json"}
    with pytest.raises(VerificationError) as caught:
        lower(ZOO["mlp_gemm_transposed"](), tmp_path / "o.onnx", sparsity=0.5, **paths)
    error = caught.value
    assert error.exit_code == 1 and not isinstance(error, BadInputError)
    assert "the first value that departs: gemm_2 (" in str(error)  # the layer, and not what comes of it
    assert "differs from the masked model by" in str(error) and "--force" in str(error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json"]
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["verification"]["passed"] is False and content["output"] is None
    assert content["verification"]["departure"]["value"] == "gemm_2"


def test_force_writes_what_does_not_verify(monkeypatch, tmp_path):
    perturbing(monkeypatch)
    found = lower(
        ZOO["mlp_gemm_transposed"](), tmp_path / "o.onnx", sparsity=0.5, plan=tmp_path / "p.json", force=True
    )
    assert not found.verification.passed and found.verification.departure.value == "gemm_2"
    assert found.output == str(tmp_path / "o.onnx") and (tmp_path / "p.json").exists()
    onnx.checker.check_model(onnx.load(tmp_path / "o.onnx"), full_check=True)


def test_a_wrong_fold_is_caught_too(monkeypatch, tmp_path):
    """The stages before pruning are compared with the model that was read."""
    from getac.passes import FoldBatchNorm

    honest = FoldBatchNorm.run

    def run_wrongly(self, state):
        honest(self, state)
        value = next(v for n, v in state.model.graph.initializers.items() if v.const_value.shape.rank() == 4)
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.5), name=value.name)

    monkeypatch.setattr(FoldBatchNorm, "run", run_wrongly)
    with pytest.raises(VerificationError, match="folded: output"):
        lower(ZOO["resnet"](), tmp_path / "o.onnx")
    assert list(tmp_path.iterdir()) == []
