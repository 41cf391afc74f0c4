"""Weights must be numbers; masks may be infinite."""

from __future__ import annotations

import resource
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from getac.errors import InvalidModelError
from getac.onnx_graph.constants import check_weights
from getac.onnx_graph.external_data import ModelFolders, set_aside
from getac.onnx_graph.read import read_model
from getac.onnx_graph.write import write_model


def model_of(array: np.ndarray, *ops: str, index: int = 1) -> ir.Model:
    """`array` goes through all operators but the last, and is input `index` of the last."""
    x = ir.val("x", ir.DataType.FLOAT, ["N", 4])
    value = ir.val("w", const_value=ir.tensor(array))
    nodes, current = [], value
    for op in ops[:-1]:
        nodes.append(ir.node(op, [current]))
        current = nodes[-1].outputs[0]
    nodes.append(ir.node(ops[-1], [x, current] if index else [current, x]))
    graph = ir.Graph(
        [x], nodes[-1].outputs, nodes=nodes, initializers=[value], opset_imports={"": 21}, name="g"
    )
    return ir.Model(graph, ir_version=10)


FLOATS = [
    np.float32,
    np.float64,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
]


@pytest.mark.parametrize("dtype", FLOATS)
def test_refuses_nan_everywhere(dtype: type) -> None:
    array = np.array([1, np.nan, np.nan, 2]).astype(dtype)
    for op in ("MatMul", "Add"):
        with pytest.raises(InvalidModelError, match="the weights contain NaN") as caught:
            check_weights(model_of(array, op))
        assert caught.value.where == "tensor 'w'"
        assert caught.value.found == "2 of 4 values are NaN"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
@pytest.mark.parametrize(
    ("ops", "index"),
    [
        (("MatMul",), 1), (("Gemm",), 1), (("Conv",), 1), (("LayerNormalization",), 1), (("Gather",), 0),
        (("Transpose", "MatMul"), 1), (("Identity", "Cast", "Reshape", "Gemm"), 1),
        (("DequantizeLinear", "Conv"), 1),
    ],
)  # fmt: skip
def test_refuses_infinity_in_layers(dtype: type, ops: tuple[str, ...], index: int) -> None:
    array = np.array([1, -np.inf, 0, 2]).astype(dtype)
    with pytest.raises(InvalidModelError, match="the weights contain Inf") as caught:
        check_weights(model_of(array, *ops, index=index))
    assert caught.value.found == "1 of 4 values are Inf"


@pytest.mark.parametrize("ops", [("Add",), ("Where",), ("Max",), ("Mul", "MatMul"), ("Transpose", "Add")])
def test_masks_may_be_infinite(ops: tuple[str, ...]) -> None:
    check_weights(model_of(np.array([1, -np.inf, 0, 2], np.float32), *ops))


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, 2]), np.array([True]), np.array([], np.float32), np.array(3, np.float32),
        np.zeros(4, ml_dtypes.int4), np.zeros(4, ml_dtypes.float4_e2m1fn), np.ones(4, np.complex64),
    ],
)  # fmt: skip
def test_accepts_numbers_of_any_type(array: np.ndarray) -> None:
    check_weights(model_of(array, "MatMul"))


def test_an_initializer_without_data_is_no_crash() -> None:
    model = model_of(np.ones(4, np.float32), "MatMul")
    model.graph.initializers["w"].const_value = None
    check_weights(model)


def test_data_that_vanished_is_an_error() -> None:
    model = model_of(np.ones(4, np.float32), "MatMul")
    gone = ir.ExternalTensor(
        "gone", 0, 16, ir.DataType.FLOAT, shape=ir.Shape([4]), name="w", base_dir="/nonexistent"
    )
    model.graph.initializers["w"].const_value = gone
    with pytest.raises(InvalidModelError, match="cannot be read") as caught:
        check_weights(model)
    assert caught.value.where == "tensor 'w'"


def test_finds_one_nan_in_many_chunks() -> None:
    array = np.zeros(10_000_000, np.float32)
    array[9_999_999] = np.nan
    with pytest.raises(InvalidModelError, match="NaN"):
        check_weights(model_of(array, "MatMul"))


def test_thousands_of_external_tensors_need_one_file_descriptor(tmp_path: Path) -> None:
    model = model_of(np.ones((4, 4), np.float32), "MatMul")
    for i in range(300):
        model.graph.register_initializer(ir.val(f"w{i}", const_value=ir.tensor(np.full(2000, i, np.float32))))
    write_model(model, tmp_path / "m.onnx", external_data=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        read = read_model(tmp_path / "m.onnx")
        check_weights(read)
        arrays = [read.graph.initializers[f"w{i}"].const_value.numpy() for i in range(300)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [int(a[-1]) for a in arrays] == list(range(300))


def test_setting_aside_copies_no_big_tensor() -> None:
    proto = ir.to_proto(model_of(np.ones((512, 512), np.float32), "MatMul"))
    light, table, _ = set_aside(proto, None)
    assert light.ByteSize() < 1000 < proto.ByteSize()
    (tensor,) = table.values()
    assert tensor.raw is proto.graph.initializer[0] or tensor.nbytes == 1 << 20
    assert ModelFolders.of("m.onnx").given == Path.cwd().resolve()
