"""Every model of the zoo is valid, runs at any batch size, and is the same on every machine."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from tools.zoo.mobilenet import mobilenet_v2
from tools.zoo.registry import ZOO
from tools.zoo.resnet import resnet18


def run(model: onnx.ModelProto, batch: int, seed: int = 0) -> NDArray[Any]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    (feed,) = session.get_inputs()
    x = np.random.default_rng(seed).normal(size=(batch, *feed.shape[1:])).astype(np.float32)
    (output,) = session.run(None, {feed.name: x})
    return np.asarray(output)


def shape_of(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def parameters(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


@pytest.mark.parametrize("name", ZOO)
def test_is_valid_onnx_of_the_target_version(name: str) -> None:
    model = ZOO[name]()
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (10, 21)
    assert shape_of(model.graph.input[0])[0] == shape_of(model.graph.output[0])[0] == "N"


@pytest.mark.parametrize("name", ZOO)
def test_declared_shapes_are_the_inferred_ones(name: str) -> None:
    model = ZOO[name]()
    declared = shape_of(model.graph.output[0])
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert shape_of(inferred.graph.output[0]) == declared


@pytest.mark.parametrize("name", ZOO)
def test_runs_at_batch_one_and_three(name: str) -> None:
    model = ZOO[name]()
    shape = shape_of(model.graph.output[0])[1:]
    one, three = run(model, 1), run(model, 3)
    assert (one.shape, three.shape) == ((1, *shape), (3, *shape))
    # The first image of both batches is the same, and no sample may depend on its neighbours.
    np.testing.assert_allclose(three[:1], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_outputs_are_finite_and_depend_on_the_input(name: str) -> None:
    model = ZOO[name]()
    outputs = run(model, 16)
    assert np.isfinite(outputs).all()
    assert np.abs(outputs).max() < 1e3
    assert outputs.std(axis=0).max() > 1e-3


@pytest.mark.parametrize("name", ZOO)
def test_same_seed_same_bytes(name: str) -> None:
    build: Any = ZOO[name]
    assert build().SerializeToString() == build().SerializeToString()
    assert build(seed=1).SerializeToString() != build().SerializeToString()


def test_batch_norms_are_not_trivial() -> None:
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in ZOO["resnet"]().graph.initializer}
    for role, trivial in {"gamma": 1, "beta": 0, "mean": 0, "var": 1}.items():
        values = np.concatenate([array for name, array in tensors.items() if name.endswith(f".{role}")])
        assert np.abs(values - trivial).mean() > 0.1


def test_resnet18_at_full_size_has_the_published_shape() -> None:
    model = resnet18()
    onnx.checker.check_model(model, full_check=True)
    assert operators(model)["Conv"] == 20
    assert operators(model)["Gemm"] == 1
    # torchvision's 11 689 512, plus the running means and variances that ONNX keeps as inputs too.
    assert parameters(model) == 11_689_512 + 2 * 4800
    assert shape_of(model.graph.output[0]) == ["N", 1000]


def test_mobilenet_v2_at_full_size_has_the_published_shape() -> None:
    model = mobilenet_v2()
    assert operators(model)["Conv"] == 52
    assert operators(model)["Clip"] == 35


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "densenet": {"Concat", "AveragePool"},
        "inception": {"Concat", "AveragePool", "MaxPool"},
        "mlp_matmul": {"MatMul", "Add"},
        "se_net": {"GlobalAveragePool", "Sigmoid", "Mul"},
        "shufflenet_v1": {"Reshape", "Transpose", "Concat", "Add"},
        "shufflenet_v2": {"Split", "Reshape", "Transpose", "Concat"},
        "squeezenet": {"Concat", "Dropout"},
        "transformer": {"MatMul", "Softmax", "LayerNormalization", "Gelu", "Reshape", "Transpose"},
        "unet": {"ConvTranspose", "Resize", "Concat"},
    }.items(),
)
def test_has_the_structure_it_is_there_for(name: str, expected: set[str]) -> None:
    assert expected <= operators(ZOO[name]()).keys()
