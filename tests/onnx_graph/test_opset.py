"""Before, conversion, after: the same numbers under onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from getac.errors import InvalidModelError, UnsupportedModelError
from getac.onnx_graph.opset import convert_opset

Arrays = dict[str, np.ndarray]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
node = helper.make_node


def build(
    opset: int, nodes: list[onnx.NodeProto], inputs: Arrays, weights: Arrays | None = None
) -> onnx.ModelProto:
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in nodes[-1].output]
    graph = helper.make_graph(nodes, "g", declared, outputs, initializers)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 22 else 12)


def run(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


def check_same(model: onnx.ModelProto, inputs: Arrays) -> onnx.ModelProto:
    before = model.SerializeToString()
    converted = convert_opset(model)
    assert model.SerializeToString() == before, "the argument was changed"
    assert {e.domain: e.version for e in converted.opset_import}[""] == 21
    for expected, found in zip(run(model, inputs), run(converted, inputs), strict=True):
        assert expected.shape == found.shape
        np.testing.assert_allclose(found, expected, atol=2e-6, rtol=2e-6)
    return converted


def network(opset: int) -> tuple[onnx.ModelProto, Arrays]:
    """Conv, batch norm, clip, pad, slice, upsample, reduce and softmax as `opset` writes them."""
    weights = {
        "w": RNG.standard_normal((4, 4, 3, 3)).astype(np.float32),
        **{name: np.abs(RNG.standard_normal(4)).astype(np.float32) for name in ("s", "b", "m", "v")},
    }

    def with_ints(
        op: str, source: str, output: str, inputs_from: int, values: dict[str, list[int]]
    ) -> onnx.NodeProto:
        if opset < inputs_from:
            return node(op, [source], [output], **values)
        names = [f"{output}_{key}" for key in values]
        weights.update({name: np.array(v, np.int64) for name, v in zip(names, values.values(), strict=True)})
        return node(op, [source, *names], [output])

    if opset < 11:
        clip = node("Clip", ["n"], ["c"], min=-0.5, max=0.75)
    else:
        weights.update(low=np.array(-0.5, np.float32), high=np.array(0.75, np.float32))
        clip = node("Clip", ["n", "low", "high"], ["c"])
    weights["scales"] = np.array([1, 1, 2, 2], np.float32)
    if opset < 9:
        resize = node("Upsample", ["q"], ["u"], mode="linear", scales=[1.0, 1.0, 2.0, 2.0])
    elif opset < 11:
        resize = node("Upsample" if opset == 9 else "Resize", ["q", "scales"], ["u"], mode="linear")
    else:
        weights["roi"] = np.zeros(0, np.float32)  # required up to opset 12
        resize = node("Resize", ["q", "roi", "scales"], ["u"], mode="linear")
    nodes = [
        node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["y", "s", "b", "m", "v"], ["n"]),
        clip,
        node("Dropout", ["c"], ["d"]),
        with_ints("Pad", "d", "p", 11, {"pads": [0, 0, 1, 1, 0, 0, 1, 1]}),
        with_ints("Slice", "p", "q", 10, {"starts": [1, 0], "ends": [7, 6], "axes": [2, 3]}),
        resize,
        node("Softmax", ["u"], ["f"], axis=1),
        with_ints("Unsqueeze", "f", "e", 13, {"axes": [0]}),
        with_ints("Squeeze", "e", "h", 13, {"axes": [0]}),
        with_ints("ReduceSum", "h", "z", 13, {"axes": [2]}),
    ]
    used = {name for n in nodes for name in n.input}
    return build(opset, nodes, {"x": X}, {k: v for k, v in weights.items() if k in used}), {"x": X}


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 20, 22, 23, 24, 25, 26])
def test_a_network_computes_the_same(opset: int) -> None:
    model, inputs = network(opset)
    check_same(model, inputs)


SPECIAL = {
    "hardmax": (9, [node("Hardmax", ["x"], ["y"], axis=1)], {"x": X}, {}),
    "log softmax": (12, [node("LogSoftmax", ["x"], ["y"], axis=2)], {"x": X}, {}),
    "pad reflect": (
        9,
        [node("Pad", ["x"], ["y"], mode="reflect", pads=[0, 0, 1, 2, 0, 0, 2, 1], value=0.5)],
        {"x": X},
        {},
    ),
    "resize 10": (
        10,
        [node("Resize", ["x", "s"], ["y"], mode="linear")],
        {"x": X},
        {"s": np.array([1, 1, 1.5, 0.5], np.float32)},
    ),
    "upsample nearest": (7, [node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 3.0, 2.0])], {"x": X}, {}),
    "group norm": (
        18,
        [node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)],
        {"x": X},
        {"s": np.array([1, 2], np.float32), "b": np.array([0.5, -1], np.float32)},
    ),
    "split in equal parts": (11, [node("Split", ["x"], ["a", "b"], axis=1)], {"x": X}, {}),
    "lstm without first output": (
        9,
        [node("LSTM", ["x", "w", "r"], ["", "h"], hidden_size=2), node("Identity", ["h"], ["y"])],
        {"x": X[0, :3, :, :3]},
        {"w": RNG.standard_normal((1, 8, 3)).astype(np.float32), "r": np.ones((1, 8, 2), np.float32)},
    ),
    "quantize": (
        23,
        [node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"])],
        {"x": X},
        {"s": np.array(0.1, np.float32)},
    ),
    "swish": (24, [node("Swish", ["x"], ["y"], alpha=1.5)], {"x": X}, {}),
    "rms norm": (
        23,
        [node("RMSNormalization", ["x", "s"], ["y"], axis=-1)],
        {"x": X},
        {"s": np.full(6, 2, np.float32)},
    ),
    "attention": (23, [node("Attention", ["x", "x", "x"], ["y"], is_causal=1)], {"x": X}, {}),
    "rotary embedding": (
        23,
        [node("RotaryEmbedding", ["x", "c", "s"], ["y"])],
        {"x": X},
        {"c": np.ones((2, 6, 3), np.float32), "s": np.full((2, 6, 3), 0.5, np.float32)},
    ),
    "cast with the new default": (24, [node("Cast", ["x"], ["y"], to=7, round_mode="up")], {"x": X}, {}),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_an_operator_computes_the_same(name: str) -> None:
    opset, nodes, inputs, weights = SPECIAL[name]
    check_same(build(opset, nodes, inputs, weights), inputs)


def branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes), "branch", [], [helper.make_empty_tensor_value_info(nodes[-1].output[0])]
    )


@pytest.mark.parametrize(
    ("opset", "then", "other"),
    [
        (11, node("Hardmax", ["x"], ["t"], axis=1), node("Softmax", ["x"], ["e"], axis=1)),
        (11, node("ReduceSum", ["x"], ["t"], axes=[1]), node("ReduceMax", ["x"], ["e"], axes=[1])),
        (24, node("Swish", ["x"], ["t"]), node("Relu", ["x"], ["e"])),
    ],
)
@pytest.mark.parametrize("flag", [True, False])
def test_subgraphs_are_converted(opset: int, then: onnx.NodeProto, other: onnx.NodeProto, flag: bool) -> None:
    nodes = [node("If", ["c"], ["y"], then_branch=branch(then), else_branch=branch(other))]
    inputs = {"x": X, "c": np.array(flag)}
    check_same(build(opset, nodes, inputs), inputs)


def test_what_the_conversion_does_not_concern_stays() -> None:
    nodes = [
        node("Dropout", ["x"], ["d"], name="drop", ratio=0.5),
        node("Gelu", ["d"], ["y"], name="gelu", domain="com.microsoft"),
    ]
    nodes[0].metadata_props.add(key="origin", value="layer.1")
    model = build(9, nodes, {"x": X})
    model.graph.quantization_annotation.add(tensor_name="d")
    model.metadata_props.add(key="author", value="me")
    converted = check_same(model, {"x": X})
    drop, gelu = (n for n in converted.graph.node if n.op_type != "Constant")
    assert (gelu.domain, gelu.name, {e.domain for e in converted.opset_import}) == (
        "com.microsoft", "gelu", {"", "com.microsoft"}
    )  # fmt: skip
    assert drop.metadata_props[0].value == "layer.1"
    assert converted.metadata_props[0].value == "me"
    assert converted.graph.quantization_annotation[0].tensor_name == "d"
    assert not converted.graph.value_info, "what inference guesses is not declared"


def test_target_opset_is_returned_as_it_is() -> None:
    model = build(21, [node("Relu", ["x"], ["y"])], {"x": X})
    assert convert_opset(model) is model


@pytest.mark.parametrize("opset", [6, 27, 99])
def test_refuses_opsets_out_of_range(opset: int) -> None:
    model = build(opset, [node("Relu", ["x"], ["y"])], {"x": X})
    with pytest.raises(UnsupportedModelError, match=f"opset {opset} is too") as caught:
        convert_opset(model)
    assert caught.value.required == "opset 7 to 26"


def test_refuses_a_missing_import() -> None:
    model = build(17, [node("Relu", ["x"], ["y"])], {"x": X})
    del model.opset_import[0]
    with pytest.raises(InvalidModelError, match="does not say which version"):
        convert_opset(model)


@pytest.mark.parametrize(
    ("opset", "bad", "found"),
    [
        (26, node("BitCast", ["x"], ["y"], name="bits", to=6), "opset 26"),
        (24, node("Cast", ["x"], ["y"], name="bits", to=24, round_mode="down"), "round_mode"),
        (23, node("Cast", ["x"], ["y"], name="bits", to=23), "type that came with opset 23"),
        (22, node("Frobnicate", ["x"], ["y"], name="bits"), "no operator of this name"),
    ],
)
def test_refuses_what_the_target_cannot_say(opset: int, bad: onnx.NodeProto, found: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{bad.op_type} cannot be said in opset 21") as caught:
        convert_opset(build(opset, [bad], {"x": X}))
    assert "bits" in str(caught.value.where)
    assert found in str(caught.value.found)


def test_refuses_new_element_types() -> None:
    model = build(25, [node("Relu", ["x"], ["y"])], {"x": X})
    model.graph.initializer.add(name="w", data_type=onnx.TensorProto.INT2, dims=[4], raw_data=b"\0")
    with pytest.raises(UnsupportedModelError, match="newer than opset 21") as caught:
        convert_opset(model)
    assert (caught.value.where, caught.value.found) == ("tensor 'w'", "INT2")


def test_refuses_what_the_converter_cannot_do() -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be converted from opset 9 to 21") as caught:
        convert_opset(build(9, [node("Frobnicate", ["x"], ["y"])], {"x": X}))
    assert caught.value.hint == "export the model with opset 21"


def test_refuses_the_first_scan() -> None:
    body = branch(node("Add", ["s", "i"], ["t"]))
    scan = node("Scan", ["", "x", "x"], ["y"], name="loop", body=body, num_scan_inputs=1)
    with pytest.raises(UnsupportedModelError, match="Scan of opset 8") as caught:
        convert_opset(build(8, [scan], {"x": X}))
    assert caught.value.where == "node 'loop'"


def test_refuses_group_norm_of_unknown_channels() -> None:
    model = build(
        18, [node("GroupNormalization", ["x", "s", "s"], ["y"], num_groups=2)], {"x": X, "s": X[0, 0, 0, :2]}
    )
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedModelError, match="needs a known number of channels"):
        convert_opset(model)
