"""expand-qoperators: operators on integers as Q/DQ around floats, against onnxruntime's own kernels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from getac.passes import ExpandQOperators, FoldQuantizers, Pipeline, State
from getac.runtime import open_session, run

F32, U8, I8 = np.float32, np.uint8, np.int8
RNG = np.random.default_rng(7)


def model_of(nodes, tensors, inputs, output, dtype=TensorProto.UINT8):
    """A model of opset 21; inputs are name -> shape of UINT8."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, dtype, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def parameters(**steps):
    """Scales and zero points: name=(scale, zero point)."""
    found = {}
    for name, (scale, zero) in steps.items():
        found |= {f"{name}_s": np.asarray(scale, F32), f"{name}_z": np.asarray(zero)}
    return found


def triple(name):
    return [name, f"{name}_s", f"{name}_z"]


def steps(*names):
    return [part for name in names for part in (f"{name}_s", f"{name}_z")]


def expanded(model):
    return Pipeline([ExpandQOperators()]).run(State(ir.from_proto(model)))


def check(model, one_step=1):
    """The expanded model gives the same integers, but for the rounding of the last step."""
    state = expanded(model)
    kinds = [node.op_type for node in state.model.graph]
    assert not any(kind.startswith(("QLinear", "QGemm")) for kind in kinds)
    assert state.refusals == {}
    shapes = {one.name: [d.dim_value for d in one.type.tensor_type.shape.dim] for one in model.graph.input}
    feeds = {name: RNG.integers(0, 256, shape).astype(U8) for name, shape in shapes.items()}
    (want,) = run(open_session(model.SerializeToString()), feeds).values()
    (got,) = run(open_session(state.model, optimize=False), feeds).values()
    assert want.dtype == got.dtype and want.shape == got.shape
    assert np.ptp(want) > 20 * one_step  # not all saturated
    assert np.abs(want.astype(np.float64) - got.astype(np.float64)).max() <= one_step
    return state


X = {"x": (0.02, U8(128))}
Y = {"y": (0.03, U8(120))}


@pytest.mark.parametrize("channels", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution(channels, bias):
    scale = RNG.uniform(0.005, 0.02, 6 if channels else ()).astype(F32)
    tensors = parameters(**X, **Y) | {
        "w": RNG.integers(-127, 128, (6, 2, 3, 3)).astype(I8),
        "w_s": scale,
        "w_z": np.zeros(scale.shape, I8),
        "b": RNG.integers(-2000, 2000, 6).astype(np.int32),
    }
    names = [*triple("x"), *triple("w"), *steps("y"), *(["b"] if bias else [])]
    node = helper.make_node("QLinearConv", names, ["q"], "conv", group=2, pads=[1, 1, 1, 1], strides=[2, 2])
    state = check(model_of([node], tensors, {"x": [1, 4, 8, 8]}, "q"))
    assert [n.op_type for n in state.model.graph].count("DequantizeLinear") == 2 + bias
    assert state.model.graph.outputs[0].name == "q"


@pytest.mark.parametrize("channels", [True, False])
def test_matrix_product(channels):
    scale = RNG.uniform(0.005, 0.02, 5 if channels else ()).astype(F32)
    tensors = parameters(**X, **Y) | {
        "w": RNG.integers(-127, 128, (8, 5)).astype(I8),
        "w_s": scale,
        "w_z": np.zeros(scale.shape, I8),
    }
    node = helper.make_node("QLinearMatMul", [*triple("x"), *triple("w"), *steps("y")], ["q"], "product")
    check(model_of([node], tensors, {"x": [2, 3, 8]}, "q"))


def test_product_of_activations():
    tensors = parameters(**X, v=(0.02, U8(100)), **Y)
    node = helper.make_node("QLinearMatMul", [*triple("x"), *triple("v"), *steps("y")], ["q"], "product")
    check(model_of([node], tensors, {"x": [2, 4, 8], "v": [2, 8, 4]}, "q"))


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(alpha, transposed):
    shape = (5, 8) if transposed else (8, 5)
    tensors = parameters(**X, **Y) | {
        "w": RNG.integers(-127, 128, shape).astype(I8),
        "w_s": RNG.uniform(0.005, 0.02, 5).astype(F32),
        "w_z": np.zeros(5, I8),
        "b": RNG.integers(-4000, 4000, 5).astype(np.int32),
    }
    names = [*triple("x"), *triple("w"), "b", *steps("y")]
    node = helper.make_node(
        "QGemm", names, ["q"], "gemm", domain="com.microsoft", alpha=alpha, transB=transposed
    )
    check(model_of([node], tensors, {"x": [4, 8]}, "q"))


def test_gemm_with_a_float_result():
    tensors = parameters(**X) | {
        "w": RNG.integers(-127, 128, (5, 8)).astype(I8),
        "w_s": np.asarray(0.01, F32),
        "w_z": np.asarray(0, I8),
        "b": RNG.integers(-4000, 4000, 5).astype(np.int32),
    }
    node = helper.make_node(
        "QGemm", [*triple("x"), *triple("w"), "b"], ["q"], "g", domain="com.microsoft", transB=1
    )
    model = model_of([node], tensors, {"x": [4, 8]}, "q", TensorProto.FLOAT)
    state = expanded(model)
    assert [n.op_type for n in state.model.graph] == ["DequantizeLinear"] * 3 + ["Gemm"]
    x = RNG.integers(0, 256, (4, 8)).astype(U8)
    (want,) = run(open_session(model.SerializeToString()), {"x": x}).values()
    (got,) = run(open_session(state.model, optimize=False), {"x": x}).values()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["Add", "Mul"])
def test_sums_and_products(kind):
    tensors = parameters(**X, v=(0.015, U8(100)), **Y)
    names = [*triple("x"), *triple("v"), *steps("y")]
    node = helper.make_node(f"QLinear{kind}", names, ["q"], "n", domain="com.microsoft")
    check(model_of([node], tensors, {"x": [2, 3, 4], "v": [3, 4]}, "q"))


@pytest.mark.parametrize(
    ("kind", "attributes", "output"),
    [
        ("Sigmoid", {}, (1 / 255, U8(0))),
        ("LeakyRelu", {"alpha": 0.2}, (0.02, U8(60))),
        ("Softmax", {"axis": 1, "opset": 13}, (1 / 255, U8(0))),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, (0.02, U8(128))),
        ("GlobalAveragePool", {}, (0.003, U8(128))),
    ],
)
def test_functions_of_one_value(kind, attributes, output):
    names = [*triple("x"), *steps("y")]
    node = helper.make_node(f"QLinear{kind}", names, ["q"], "n", domain="com.microsoft", **attributes)
    tensors = parameters(x=(0.02, U8(128)), y=output)
    check(model_of([node], tensors, {"x": [2, 6, 4, 4]}, "q"))


def test_concat():
    tensors = parameters(x=(0.02, U8(128)), v=(0.01, U8(90)), **Y)
    names = [*steps("y"), *triple("x"), *triple("v")]
    node = helper.make_node("QLinearConcat", names, ["q"], "n", domain="com.microsoft", axis=1)
    check(model_of([node], tensors, {"x": [2, 3], "v": [2, 5]}, "q"))


def float_chain(*between):
    """float x -> Q -> operators on integers -> DQ -> y"""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_s", "x_z"], ["q0"], "quantize"),
        *between,
        helper.make_node("DequantizeLinear", ["last", "x_s", "x_z"], ["y"], "restore"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in parameters(x=(0.02, U8(128))).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("MaxPool", ["q0"], ["last"], "n", kernel_shape=[2, 2], pads=[1, 1, 0, 0]),
        helper.make_node("Transpose", ["q0"], ["last"], "n", perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["q0"], ["last"], "n"),
        helper.make_node("Concat", ["q0", "q0"], ["last"], "n", axis=1),
    ],
)
def test_what_rearranges_integers_stands_between_a_pair(node):
    model = float_chain(node)
    state = expanded(model)
    kinds = [n.op_type for n in state.model.graph]
    assert kinds.index("DequantizeLinear") < kinds.index(node.op_type) < len(kinds) - 2
    x = RNG.normal(size=(2, 4, 6, 6)).astype(F32)
    (want,) = run(open_session(model.SerializeToString(), optimize=False), {"x": x}).values()
    (got,) = run(open_session(state.model, optimize=False), {"x": x}).values()
    assert np.array_equal(got, want)
    Pipeline([FoldQuantizers()]).run(state)
    assert [n.op_type for n in state.model.graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")] == []


def test_a_second_run_changes_nothing():
    state = expanded(float_chain(helper.make_node("Flatten", ["q0"], ["last"], "n")))
    Pipeline([ExpandQOperators()]).run(state)
    assert not state.records[-1].changed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"x_s": np.full(4, 0.02, F32), "x_z": np.full(4, 128, U8)},
            "an activation with a scale per channel",
        ),
        ({"y_s": None}, "the scale or zero point of its result is computed when the graph runs"),
        ({"w_s": None}, "a scale or zero point is computed when the graph runs"),
    ],
)
def test_what_cannot_be_written_so_is_refused(change, reason):
    tensors = parameters(**X, **Y) | {
        "w": RNG.integers(-127, 128, (6, 4, 3, 3)).astype(I8),
        "w_s": np.asarray(0.01, F32),
        "w_z": np.asarray(0, I8),
    }
    stored = {name: array for name, array in (tensors | change).items() if array is not None}
    node = helper.make_node("QLinearConv", [*triple("x"), *triple("w"), *steps("y")], ["q"], "conv")
    model = model_of([node], stored, {"x": [1, 4, 8, 8]}, "q")
    for name, array in change.items():
        if array is None:
            model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    state = expanded(model)
    assert [(one.where, one.reason) for one in state.refusals["expand-qoperators"]] == [("conv", reason)]
    assert [n.op_type for n in state.model.graph] == ["QLinearConv"]


def test_channels_that_come_last_are_refused():
    names = [*triple("x"), *steps("y")]
    node = helper.make_node(
        "QLinearGlobalAveragePool", names, ["q"], "n", domain="com.microsoft", channels_last=1
    )
    state = expanded(model_of([node], parameters(**X, **Y), {"x": [1, 4, 4, 3]}, "q"))
    assert state.refusals["expand-qoperators"][0].reason == "its channels come last"


# Products in blocks


def packed(array, bits):
    """Numbers of so many bits, as bytes: the first in the lowest bits."""
    array = np.pad(array, [(0, 0), (0, -array.shape[1] % (8 // bits))])
    parts = [array[:, i :: 8 // bits] << (bits * i) for i in range(8 // bits)]
    return np.bitwise_or.reduce(parts).astype(U8)


def blocked(bits=4, block=16, size=64, units=12, zeros=None, bias=False, more=(), **attributes):
    """MatMulNBits with random weights; zero points packed, as floats, or left out."""
    blocks = -(-size // block)
    weight = RNG.integers(0, 2**bits, (units, blocks * block))
    points = RNG.integers(0, 2**bits, (units, blocks))
    tensors = {
        "w": packed(weight, bits).reshape(units, blocks, block * bits // 8),
        "s": RNG.uniform(0.01, 0.02, (units, blocks)).astype(F32),
    }
    if zeros is not None:
        tensors["z"] = packed(points, bits).reshape(-1) if zeros == "packed" else points.astype(F32)
    if bias:
        tensors["b"] = RNG.normal(size=units).astype(F32)
    names = ["x", "w", "s", "z" if zeros else "", *(["", "b"] if bias else more)]
    attributes = {"K": size, "N": units, "bits": bits, "block_size": block, **attributes}
    node = helper.make_node("MatMulNBits", names, ["y"], "product", domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, units])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


@pytest.mark.parametrize("size", [64, 72, 40])  # 40 and 72: the last block is short
@pytest.mark.parametrize("block", [16, 32, 128])
@pytest.mark.parametrize(
    ("bits", "zeros"), [(4, None), (4, "packed"), (4, "floats"), (8, None), (8, "packed")]
)
def test_products_in_blocks(bits, zeros, block, size):
    model = blocked(bits, block, size, zeros=zeros, bias=zeros is None, accuracy_level=0)
    x = RNG.normal(size=(2, 3, size)).astype(F32)
    (want,) = run(open_session(model.SerializeToString()), {"x": x}).values()
    state = expanded(model)
    assert [n.op_type for n in state.model.graph][:2] == ["DequantizeLinear", "MatMul"]
    assert not state.refusals
    (got,) = run(open_session(state.model, optimize=False), {"x": x}).values()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    Pipeline([FoldQuantizers()]).run(state)
    assert "DequantizeLinear" not in [n.op_type for n in state.model.graph]
    (record,) = state.quantizers.values()
    assert (record.block, record.axis, record.bits) == (block, 0, bits if zeros is None else record.bits)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"bits": 2}, "weights of 2 bits"),
        ({"more": ["g"]}, "g_idx"),
        ({"zeros": "floats"}, "no integers"),
        ({"K": 128}, "its sizes want 12 x 64"),
        ({"N": 11}, "its sizes want 11 x 32"),
        ({"block_size": 0}, "no sizes"),
    ],
)
def test_other_products_in_blocks_stay(options, reason):
    model = blocked(**options)
    for tensor in model.graph.initializer:
        if tensor.name == "z":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + F32(0.5), "z"))
    if "more" in options:
        model.graph.initializer.append(numpy_helper.from_array(np.arange(64, dtype=np.int32) // 16, "g"))
    state = expanded(model)
    (told,) = state.refusals["expand-qoperators"]
    assert reason in told.reason and [n.op_type for n in state.model.graph] == ["MatMulNBits"]
