"""Shapes by probing, compared with what onnxruntime computes at sizes that were never probed."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from getac.errors import InvalidModelError, OptionError, UnsupportedModelError
from getac.onnx_graph.shapes import Dim, Shapes, infer_shapes

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; two spaces in a row leave an input out."""
    return helper.make_node(op, inputs.split(" "), outputs.split(), **attributes)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[Any] | None],
    stored: Mapping[str, Any] | None = None,
    value_info: Sequence[onnx.ValueInfoProto] = (),
    types: Mapping[str, int] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
) -> onnx.ModelProto:
    """A model whose outputs are those of the last node."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, (types or {}).get(n, FLOAT), dims) for n, dims in inputs.items()],
        outputs or [helper.make_empty_tensor_value_info(name) for name in nodes[-1].output],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (stored or {}).items()],
        value_info=value_info,
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("example", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def infer(model: onnx.ModelProto, bindings: Mapping[str, int] | None = None) -> tuple[Shapes, dict[str, str]]:
    """The shapes, and the dimensions of every value as text, by name."""
    shapes = infer_shapes(ir.from_proto(model), bindings)
    return shapes, {str(v.name): " ".join(map(str, dims)) for v, dims in shapes.dims.items()}


def by_name(found: Mapping[ir.Value, Any], name: str) -> Any:
    return next((item for value, item in found.items() if value.name == name), None)


def zeros(*sizes: int) -> np.ndarray[Any, Any]:
    return np.zeros(sizes, np.float32)


def ints(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


def assert_as_onnxruntime(model: onnx.ModelProto, shapes: Shapes, symbols: Mapping[str, int]) -> int:
    """Runs the model with every value as an output; returns how many symbolic dimensions were compared."""
    computed = {str(v.name): (v, dims) for v, dims in shapes.dims.items() if v.producer() is not None}
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    wide.graph.ClearField("output")
    for name, (value, _) in computed.items():
        wide.graph.output.append(helper.make_tensor_value_info(name, shapes.dtypes[value].value, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(wide.SerializeToString(), options)
    feeds = {
        str(value.name): np.ones(tuple(dim.at(symbols) or 0 for dim in dims), shapes.dtypes[value].numpy())
        for value, dims in shapes.dims.items()
        if value.is_graph_input()
    }
    names = [output.name for output in session.get_outputs()]
    compared = 0
    for name, array in zip(names, session.run(names, feeds), strict=True):
        dims = computed[name][1]
        assert len(dims) == array.ndim, name
        for dim, size in zip(dims, array.shape, strict=True):
            if dim.constant is not None:
                assert dim.at(symbols) == size, f"{name}: {dim}"
                compared += bool(dim.symbols)
    return compared


def test_a_convolutional_network_with_a_symbolic_batch() -> None:
    model = build(
        [
            node("Conv", "x w", "c", strides=[2, 2], pads=[1, 1, 1, 1]),
            node("BatchNormalization", "c s s s s", "b"),
            node("Relu", "b", "r"),
            node("MaxPool", "r", "p", kernel_shape=[3, 3], strides=[2, 2]),
            node("GlobalAveragePool", "p", "g"),
            node("Flatten", "g", "f"),
            node("Gemm", "f fc", "y", transB=1),
        ],
        {"x": ["N", 3, 32, 32]},
        {"w": zeros(8, 3, 3, 3), "s": np.ones(8, np.float32), "fc": zeros(10, 8)},
    )
    shapes, text = infer(model)
    assert text["x"] == "N 3 32 32"
    assert text["c"] == text["r"] == "N 8 16 16"
    assert text["p"] == "N 8 7 7"
    assert text["y"] == "N 10"
    assert text["w"] == "8 3 3 3"
    assert shapes.symbols == {"N": by_name(shapes.dims, "x")[0].size}
    assert shapes.sizes(next(v for v in shapes.dims if v.name == "y")) == (shapes.symbols["N"], 10)
    assert by_name(shapes.dtypes, "y") == ir.DataType.FLOAT
    assert assert_as_onnxruntime(model, shapes, {"N": 4}) == 7


def test_symbolic_images_are_unsettled_where_a_stride_divides_them() -> None:
    model = build(
        [
            node("Conv", "x w", "same", pads=[1, 1, 1, 1]),
            node("Conv", "same v", "half", strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Shape", "half", "s"),
            node("Slice", "s zero two", "front"),
            node("Concat", "front rest", "target", axis=0),
            node("Reshape", "half target", "tokens"),
            node("GlobalAveragePool", "half", "y"),
        ],
        {"x": ["N", 3, "H", "W"]},
        {"w": zeros(8, 3, 3, 3), "v": zeros(8, 8, 3, 3), "zero": ints(0), "two": ints(2), "rest": ints(-1)},
    )
    shapes, text = infer(model)
    assert text["same"] == "N 8 H W"
    dims = by_name(shapes.dims, "half")
    assert [dim.constant for dim in dims] == [1, 8, None, None]
    assert dims[2].size == (shapes.symbols["H"] + 1) // 2
    assert str(dims[2]) == f"{dims[2].size}?"
    assert by_name(shapes.dims, "tokens")[2].constant is None
    assert text["y"] == "N 8 1 1"
    assert assert_as_onnxruntime(model, shapes, {"N": 2, "H": 20, "W": 33}) >= 6


def attention(heads: int, width: int) -> onnx.ModelProto:
    """The chain of size arithmetic that exporters write around an attention."""
    return build(
        [
            node("MatMul", "x wq", "q"),
            node("Shape", "q", "shape"),
            node("Gather", "shape i0", "n", axis=0),
            node("Gather", "shape i1", "s", axis=0),
            node("Gather", "shape i2", "d", axis=0),
            node("Div", "d heads", "hd"),
            *(node("Unsqueeze", f"{name} axis0", f"{name}1") for name in ("n", "s", "hd")),
            node("Concat", "n1 s1 headv hd1", "split_shape", axis=0),
            node("Reshape", "q split_shape", "split"),
            node("Transpose", "split", "qh", perm=[0, 2, 1, 3]),
            node("Transpose", "split", "kh", perm=[0, 2, 3, 1]),
            node("MatMul", "qh kh", "scores"),
            node("Softmax", "scores", "p"),
            node("MatMul", "p qh", "o"),
            node("Transpose", "o", "ot", perm=[0, 2, 1, 3]),
            node("Reshape", "ot zero_zero_minus", "merged"),
            node("Mul", "n s", "rows"),
            node("Unsqueeze", "rows axis0", "rows1"),
            node("Concat", "rows1 minus", "flat_shape", axis=0),
            node("Reshape", "merged flat_shape", "flat"),
            node("Gemm", "flat wo", "y"),
        ],
        {"x": ["B", "S", width]},
        {
            "wq": zeros(width, width),
            "wo": zeros(width, 5),
            "i0": np.int64(0),
            "i1": np.int64(1),
            "i2": np.int64(2),
            "heads": np.int64(heads),
            "headv": ints(heads),
            "axis0": ints(0),
            "minus": ints(-1),
            "zero_zero_minus": ints(0, 0, -1),
        },
    )


@pytest.mark.parametrize(("heads", "width"), [(12, 768), (7, 7 * 37), (3, 39)])
def test_reshape_chains_of_an_attention_settle(heads: int, width: int) -> None:
    model = attention(heads, width)
    shapes, text = infer(model)
    assert text["split"] == f"B S {heads} {width // heads}"
    assert text["scores"] == f"B {heads} S S"
    assert text["merged"] == f"B S {width}"
    assert text["flat"] == f"B*S {width}"
    assert text["y"] == "B*S 5"
    batch, length = shapes.symbols["B"], shapes.symbols["S"]
    assert batch < length
    assert by_name(shapes.probed, "split_shape").tolist() == [batch, length, heads, width // heads]
    assert by_name(shapes.constants, "split_shape") is None
    assert by_name(shapes.constants, "hd1").tolist() == [width // heads]
    assert assert_as_onnxruntime(model, shapes, {"B": 2, "S": 5}) > 20


def test_bound_symbols_are_constants() -> None:
    shapes, text = infer(attention(4, 32), {"S": 10})
    assert set(shapes.symbols) == {"B"}
    assert text["flat"] == "10*B 32"
    assert text["scores"] == "B 4 10 10"
    shapes, text = infer(attention(4, 32), {"S": 10, "B": 2})
    assert shapes.symbols == {}
    assert text["y"] == "20 5"
    assert all(dim.is_static for dims in shapes.dims.values() for dim in dims)


@pytest.mark.parametrize(("bindings", "message"), [({"T": 3}, "'T'"), ({"S": 0}, "cannot be 0")])
def test_bindings_that_do_not_fit_the_model_are_refused(bindings: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        infer(attention(4, 32), bindings)


def test_dimensions_without_a_name_are_called_after_their_place() -> None:
    model = build([node("Relu", "x", "y")], {"x": [None, 4, None]})
    assert infer(model)[1]["y"] == "x.0 4 x.2"
    assert infer(model, {"x.0": 3})[1]["y"] == "3 4 x.2"


def test_inputs_whose_unnamed_dimensions_have_to_agree_share_a_symbol() -> None:
    model = build([node("Add", "a b", "y")], {"a": [None, None, 4], "b": [None, None, 4]})
    shapes, text = infer(model)
    assert text["y"] == "a.0 a.1 4"
    assert shapes.symbols["a.0"] == shapes.symbols["b.0"] != shapes.symbols["a.1"]


def test_a_dimension_that_is_named_as_a_sum_of_others_is_one() -> None:
    inputs = {"past": ["N", "P", 4], "new": ["N", "S", 4], "mask": ["N", "P + S", 1]}
    model = build([node("Concat", "past new", "all", axis=1), node("Add", "all mask", "y")], inputs)
    shapes, _ = infer(model)
    assert set(shapes.symbols) == {"N", "P", "S"}
    assert by_name(shapes.dims, "y")[1] == Dim(shapes.symbols["P"] + shapes.symbols["S"], None)
    assert infer(model, {"P": 3, "S": 1})[1]["y"] == "N 4 4"


@pytest.mark.parametrize("name", ["N + ", "().__class__", "M + 1", "2**99999", "(" * 90, "9" * 90 + "*N"])
def test_a_name_that_is_no_sum_of_others_is_a_name(name: str) -> None:
    model = build([node("Relu", "x", "y")], {"x": ["N", name]})
    assert infer(model)[1]["y"] == f"N {name}"


def test_operators_whose_sizes_are_computed() -> None:
    model = build(
        [
            node("Shape", "x", "shape"),
            node("Shape", "x", "image", start=2),
            node("Shape", "x", "batch", end=1),
            node("Size", "x", "count"),
            node("Mul", "image twos", "doubled"),
            node("Concat", "batch three doubled", "sizes", axis=0),
            node("Resize", "x   sizes", "resized", mode="nearest"),
            node("Gather", "shape i0", "n", axis=0),
            node("Range", "i0 n i1", "range"),
            node("ConstantOfShape", "shape", "zeros"),
            node("Expand", "one shape", "expanded"),
            node("Concat", "batch i1v i1v i1v", "repeats", axis=0),
            node("Tile", "one repeats", "tiled"),
            node("Slice", "x i1v image2 axis3", "sliced"),
            node("Split", "x lengths", "left right", axis=1),
            node("Squeeze", "pooled axis23", "squeezed"),
        ],
        {"x": ["N", 3, "H", "W"], "pooled": ["N", 3, 1, 1]},
        {
            "twos": ints(2, 2),
            "three": ints(3),
            "i0": np.int64(0),
            "i1": np.int64(1),
            "i1v": ints(1),
            "one": zeros(1, 1, 1, 1),
            "axis3": ints(3),
            "axis23": ints(2, 3),
            "lengths": ints(1, 2),
            "image2": ints(2**63 - 1),
        },
    )
    shapes, text = infer(model)
    assert text["resized"] == "N 3 2*H 2*W"
    assert text["range"] == "N"
    assert by_name(shapes.probed, "range").tolist() == list(range(shapes.symbols["N"]))
    assert text["zeros"] == text["expanded"] == "N 3 H W"
    assert text["tiled"] == "N 1 1 1"
    assert by_name(shapes.dims, "sliced")[3] == Dim(shapes.symbols["W"] - 1, None)
    assert (text["left"], text["right"]) == ("N 1 H W", "N 2 H W")
    assert text["squeezed"] == "N 3"
    assert by_name(shapes.probed, "count") == 3 * np.prod([*shapes.symbols.values()])
    assert assert_as_onnxruntime(model, shapes, {"N": 2, "H": 6, "W": 9}) >= 20


def test_scales_are_read_although_they_are_floats() -> None:
    model = build(
        [node("Resize", "x  scales", "y", mode="nearest")],
        {"x": ["N", 3, 8, 8]},
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    )
    assert infer(model)[1]["y"] == "N 3 16 16"


def test_a_slice_that_cuts_only_long_sequences_is_unsettled() -> None:
    model = build(
        [node("Slice", "x start end axis", "y")],
        {"x": ["N", "S", 4]},
        {"start": ints(0), "end": ints(512), "axis": ints(1)},
    )
    shapes, _ = infer(model)
    assert by_name(shapes.dims, "y")[1] == Dim(shapes.symbols["S"], None)


def test_a_model_that_runs_only_within_a_table_is_probed_within_it() -> None:
    model = build(
        [
            node("Shape", "x", "s", start=1, end=2),
            node("Slice", "table zero s zero", "positions"),
            node("Add", "x positions", "y"),
        ],
        {"x": ["N", "S", 4]},
        {"table": zeros(77, 4), "zero": ints(0)},
    )
    shapes, text = infer(model)
    assert text["y"] == "N S 4"
    assert shapes.symbols["S"] < 77
    assert assert_as_onnxruntime(model, shapes, {"N": 3, "S": 77}) >= 3


def test_images_that_have_to_be_divisible_are_probed_so() -> None:
    model = build(
        [
            node("MaxPool", "x", "down", kernel_shape=[2, 2], strides=[2, 2]),
            node("Resize", "down  scales", "up", mode="nearest"),
            node("Concat", "x up", "y", axis=1),
        ],
        {"x": ["N", 3, "H", "W"]},
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    )
    shapes, text = infer(model)
    assert text["y"] == "N 6 H W"
    assert shapes.symbols["H"] % 32 == shapes.symbols["W"] % 32 == 0
    assert assert_as_onnxruntime(model, shapes, {"N": 1, "H": 10, "W": 14}) >= 5


def test_long_signals_find_sizes_that_are_long_enough() -> None:
    nodes, stored = [node("Unsqueeze", "x axis", "a0")], {"axis": ints(1)}
    for i, (kernel, stride) in enumerate([(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]):
        nodes.append(node("Conv", f"a{i} w{i}", f"a{i + 1}", strides=[stride]))
        stored[f"w{i}"] = zeros(1, 1, kernel)
    shapes, _ = infer(build(nodes, {"x": ["N", "T"]}, stored))
    last = by_name(shapes.dims, "a7")
    assert str(last[0]) == "N"
    assert last[2].constant is None
    assert last[2].size > 0


def test_data_dependent_and_foreign_values_are_unknown_and_the_rest_is_known() -> None:
    model = build(
        [
            node("NonZero", "x", "where"),
            node("Transpose", "where", "rows", perm=[1, 0]),
            helper.make_node("Fancy", ["x"], ["foreign"], domain="example"),
            helper.make_node("Fancy", ["x"], ["declared"], domain="example"),
            node("Relu", "foreign", "after"),
            node("Relu", "declared", "after_declared"),
            node("Shape", "where", "rank", end=1),
            node("ConstantOfShape", "rank", "y"),
        ],
        {"x": ["N", 4, 4]},
        value_info=[helper.make_tensor_value_info("declared", FLOAT, ["N", 7])],
    )
    shapes, text = infer(model)
    assert not {"where", "rows", "foreign", "after"} & set(text)
    assert text["declared"] == text["after_declared"] == "N 7"
    assert text["y"] == "3"  # the rank of what NonZero returns is known though its length is not
    assert by_name(shapes.dtypes, "where") == ir.DataType.INT64
    assert by_name(shapes.dtypes, "foreign") is None
    assert shapes.sizes(ir.Value(name="stranger")) is None


def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    outputs = [helper.make_empty_tensor_value_info(output) for output in nodes[-1].output]
    return helper.make_graph(nodes, name, [], outputs)


def test_an_if_with_a_known_condition_has_the_shapes_of_the_taken_branch() -> None:
    squeeze = branch("then", node("Squeeze", "x one", "squeezed"))
    keep = branch("else", node("Identity", "x", "kept"))
    model = build(
        [
            node("Shape", "x", "s", start=1, end=2),
            node("Equal", "s one", "is_one"),
            node("If", "is_one", "picked", then_branch=squeeze, else_branch=keep),
            node("Relu", "picked", "y"),
        ],
        {"x": ["N", 6, 4]},
        {"one": ints(1)},
    )
    assert infer(model)[1]["y"] == "N 6 4"


def test_an_if_with_an_unknown_condition_has_what_its_branches_agree_on() -> None:
    same = {
        "then_branch": branch("then", node("Relu", "x", "t")),
        "else_branch": branch("else", node("Neg", "x", "e")),
    }
    other = {**same, "else_branch": branch("other", node("ReduceSum", "x", "r", keepdims=0))}
    declared = helper.make_tensor_value_info("declared", FLOAT, ["N", 2])
    model = build(
        [
            node("If", "c", "agreed", **same),
            node("If", "c", "open", **other),
            node("If", "c", "declared", **other),
            node("Relu", "declared", "y"),
        ],
        {"x": ["N", 6], "c": []},
        types={"c": BOOL},
        value_info=[declared],
    )
    shapes, text = infer(model)
    assert text["agreed"] == "N 6"
    assert "open" not in text
    assert text["y"] == "N 2"
    assert by_name(shapes.dtypes, "open") == ir.DataType.FLOAT


def test_a_loop_has_the_declared_shape() -> None:
    body = helper.make_graph(
        [node("Identity", "go", "go_on"), node("Relu", "carried", "next")],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            helper.make_tensor_value_info("carried", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, None),
        ],
    )
    nodes = [node("Loop", "trips  x", "looped", body=body), node("Relu", "looped", "y")]
    stored = {"trips": np.int64(3)}
    assert "y" not in infer(build(nodes, {"x": ["N", 6]}, stored))[1]
    info = [helper.make_tensor_value_info("looped", FLOAT, ["N", 6])]
    assert infer(build(nodes, {"x": ["N", 6]}, stored, info))[1]["y"] == "N 6"


def test_an_initializer_that_is_also_an_input_is_an_initializer() -> None:
    model = build([node("MatMul", "x w", "y")], {"x": ["N", 3], "w": ["A", "B"]}, {"w": zeros(3, 5)})
    shapes, text = infer(model)
    assert text["y"] == "N 5"
    assert set(shapes.symbols) == {"N"}


def test_group_normalization_keeps_the_shape() -> None:
    nodes = [node("GroupNormalization", "x s s", "y", num_groups=2)]
    assert infer(build(nodes, {"x": ["N", 4, 5]}, {"s": zeros(4)}))[1]["y"] == "N 4 5"


@pytest.mark.parametrize(
    ("nodes", "stored", "message"),
    [
        ([node("Conv", "x w", "y")], {"w": zeros(8, 4, 3, 3)}, "has 3 channels"),
        ([node("Conv", "x w", "y", group=0)], {"w": zeros(8, 3, 3, 3)}, "0 groups"),
        ([node("Conv", "x w", "y", group=3)], {"w": zeros(8, 1, 3, 3)}, "3 groups"),
        ([node("Conv", "x w", "y")], {"w": zeros(8, 3, 20, 20)}, "too small"),
        ([node("Add", "x w", "y")], {"w": zeros(5)}, "Incompatible dimensions"),
        ([node("Add", "x w", "y")], {"w": ints(5)}, "inconsistent type"),
        ([node("MatMul", "x w", "y")], {"w": zeros(9, 5)}, "Incompatible dimensions"),
        ([node("Reshape", "v w", "y")], {"v": zeros(6), "w": ints(5)}, "equally many elements"),
        ([node("Transpose", "x", "y", perm=[0, 9])], {}, "perm"),
    ],
)
@pytest.mark.parametrize("batch", ["N", 2])
def test_a_node_that_cannot_run_is_named(
    nodes: list[onnx.NodeProto], stored: dict[str, Any], message: str, batch: Any
) -> None:
    nodes[0].name = "culprit"
    model = build(nodes, {"x": [batch, 3, 16, 16]}, stored)
    with pytest.raises(InvalidModelError) as caught:
        infer(model)
    assert message in str(caught.value)
    assert f"{nodes[0].op_type} node 'culprit'" in str(caught.value)


def test_sizes_that_only_calibration_data_can_settle() -> None:
    model = build(
        [node("Flatten", "x", "f"), node("Gemm", "f w", "y")], {"x": ["N", 3, "H", "W"]}, {"w": zeros(300, 5)}
    )
    with pytest.raises(UnsupportedModelError) as caught:
        infer(model)
    assert "N, H, W" in str(caught.value)
    assert "calibration data" in str(caught.value)
    assert infer(model, {"H": 10, "W": 10})[1]["y"] == "N 5"


def test_weights_are_not_read(tmp_path: Any) -> None:
    model = build(
        [node("Reshape", "x target", "r"), node("MatMul", "r w", "y")],
        {"x": ["N", 2, 32]},
        {"target": ints(0, 64), "w": zeros(64, 100)},
    )
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=1000)
    (tmp_path / "weights").unlink()
    shapes = infer_shapes(ir.load(tmp_path / "m.onnx"))
    assert " ".join(map(str, by_name(shapes.dims, "y"))) == "N 100"
    assert by_name(shapes.constants, "target").tolist() == [0, 64]
    assert by_name(shapes.constants, "w") is None


def doubling(op: str, count: int) -> list[onnx.NodeProto]:
    if op == "Concat":
        return [node("Concat", f"a{i} a{i}", f"a{i + 1}", axis=0) for i in range(count)]
    return [node("Tile", f"a{i} twos", f"a{i + 1}") for i in range(count)]


@pytest.mark.parametrize("op", ["Concat", "Tile"])
@pytest.mark.parametrize("sink", ["ConstantOfShape", "Expand", "Reshape", "Tile"])
def test_values_that_double_are_bounded_in_time_and_memory(op: str, sink: str) -> None:
    last = node(sink, "a40", "y") if sink == "ConstantOfShape" else node(sink, "x a40", "y")
    stored = {"a0": ints(2), "twos": ints(2)}
    model = build([*doubling(op, 40), last], {"x": ["N"]}, stored)
    tracemalloc.start()
    start = time.perf_counter()
    shapes, text = infer(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.perf_counter() - start < 5
    assert peak < 20e6
    assert text["a40"] == str(2**40)
    assert "y" not in text
    assert max(array.size for array in shapes.probed.values()) <= 4096


def test_sizes_beyond_64_bits_are_no_crash() -> None:
    model = build(doubling("Concat", 80), {"x": ["N"]}, {"a0": ints(2)})
    with pytest.raises(InvalidModelError, match="overflow"):
        infer(model)
    huge = build(
        [node("ConstantOfShape", "s", "z"), node("Range", "a b c", "y")],
        {"x": ["N"]},
        {"s": ints(2**62, 2**62), "a": np.int64(0), "b": np.int64(2**62), "c": np.int64(1)},
    )
    shapes, text = infer(huge)
    assert text["y"] == str(2**62)
    assert by_name(shapes.constants, "y") is None


def test_five_thousand_nodes_take_about_a_second() -> None:
    nodes, stored = [], {"w": zeros(8, 8, 3, 3), "minus": ints(-1)}
    for i in range(1000):
        nodes += [
            node("Conv", f"a{i} w", f"c{i}", pads=[1, 1, 1, 1]),
            node("Relu", f"c{i}", f"r{i}"),
            node("Shape", f"r{i}", f"s{i}"),
            node("Reshape", f"r{i} s{i}", f"q{i}"),
            node("Add", f"q{i} r{i}", f"a{i + 1}"),
        ]
    model = ir.from_proto(build(nodes, {"a0": ["N", 8, "H", "W"]}, stored))
    start = time.perf_counter()
    shapes = infer_shapes(model)
    assert time.perf_counter() - start < 5  # generous: 0.5 s on a quiet core
    assert " ".join(map(str, by_name(shapes.dims, "a1000"))) == "N 8 H W"


@pytest.mark.parametrize(
    ("op", "operands", "text"),
    [
        ("Add", (5, 6), "11"),
        ("Sub", (9, 2), "7"),
        ("Mul", (3, 4), "12"),
        ("Div", (7, 2), "3"),
        ("Mod", (7, 4), "3"),
        ("Div", (7, 0), None),
        ("Max", (3, 4), "4"),
        ("Pow", (2, 3), "8"),
    ],
)
def test_arithmetic_on_sizes(op: str, operands: tuple[int, int], text: str | None) -> None:
    stored = {"a": ints(operands[0]), "b": ints(operands[1])}
    model = build([node(op, "a b", "size"), node("ConstantOfShape", "size", "y")], {"x": ["N"]}, stored)
    assert infer(model)[1].get("y") == text


def test_dims_as_text_and_numbers() -> None:
    assert str(Dim(1, 1)) == "1"
    assert str(Dim(7, 1, ("N",))) == "N"
    assert str(Dim(7 * 37 * 4, 4, ("N", "S"))) == "4*N*S"
    assert Dim(7 * 7, 1, ("N", "N")).at({"N": 3}) == 9
    assert Dim(7, 1, ("N",)).at({}) is None
    assert Dim(7, None).at({"N": 3}) is None
    assert Dim(64, 64).is_static
    assert not Dim(7, 1, ("N",)).is_static
    assert not Dim(7, None).is_static
