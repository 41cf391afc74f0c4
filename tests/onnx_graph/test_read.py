"""Reading: what the flow promises about the graph, and everything that it refuses."""

from __future__ import annotations

import io
import os
import re
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from getac.errors import GetacError, InvalidModelError, UnsupportedModelError
from getac.onnx_graph.read import load, read_model, read_proto

RNG = np.random.default_rng(0)
node = helper.make_node


def build(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 21,
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
    ir_version: int = 10,
) -> onnx.ModelProto:
    declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in inputs]
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    ends = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(nodes, "g", declared, ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def check_same(proto: onnx.ModelProto) -> ir.Model:
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    model = read_proto(proto)
    np.testing.assert_allclose(run(ir.to_proto(model), x), run(proto, x), atol=1e-6)
    names = [n.name for n in model.graph] + [o.name for n in model.graph for o in n.outputs]
    assert all(names)
    assert len(set(names)) == len(names)
    assert (model.ir_version, model.graph.opset_imports[""], len(model.functions)) == (10, 21, 0)
    return model


def refuses(proto: onnx.ModelProto, error: type[GetacError], message: str, **details: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read_proto(proto)
    for key, part in details.items():
        assert part in str(getattr(caught.value, key))


LINEAR = {"w": RNG.standard_normal((4, 4)).astype(np.float32)}


# ---- the file ----


def test_load_takes_a_path_a_proto_and_a_model(tmp_path: Path) -> None:
    proto = build([node("MatMul", ["x", "w"], ["y"])], LINEAR)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    model = load(tmp_path / "m.onnx")
    assert load(model) is model
    for other in (model, load(str(tmp_path / "m.onnx")), load(proto)):
        np.testing.assert_array_equal(other.graph.initializers["w"].const_value.numpy(), LINEAR["w"])
    assert [str(d) for d in model.graph.inputs[0].shape] == ["N", "4"]


def zip_file() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message", "found"),
    [
        (b"", "is empty", None),
        (b"hello, world\n", "not an ONNX file", "other data"),
        (b"\xff" * 1000, "not an ONNX file", "other data"),
        (zip_file(), "not an ONNX file", "zip archive"),
        (b"\x80\x04\x95pickle", "not an ONNX file", "pickle"),
        (b'{"model": 1}', "not an ONNX file", "JSON"),
        (b"<!DOCTYPE html><html>", "not an ONNX file", "web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            "not an ONNX file",
            "Git LFS",
        ),
        (b"\x18\x00\x00\x00TFL3" + b"\xff" * 64, "not an ONNX file", "TensorFlow Lite"),
    ],
)
def test_refuses_other_files(tmp_path: Path, content: bytes, message: str, found: str | None) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidModelError, match=message) as caught:
        read_model(path)
    assert caught.value.where == str(path)
    assert found is None or found in str(caught.value.found)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_refuses_truncated_files(tmp_path: Path, share: float) -> None:
    data = build([node("MatMul", ["x", "w"], ["y"])], LINEAR).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InvalidModelError, match=r"truncated|no ONNX graph|does not say which version"):
        read_model(path)


def test_refuses_what_is_no_readable_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidModelError, match="no such model file") as caught:
        read_model(tmp_path / "gone.onnx")
    assert caught.value.where == str(tmp_path / "gone.onnx")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(InvalidModelError, match="not a regular file"):
            read_model(path)
    for bad in ("a\0b", "x" * 5000):
        with pytest.raises(InvalidModelError, match=r"no such|cannot be read"):
            read_model(bad)


def test_refuses_more_than_two_gibibytes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.touch()
    os.truncate(path, 1 << 31)  # sparse: takes no space
    with pytest.raises(InvalidModelError, match="larger than 2 GiB") as caught:
        read_model(path)
    assert caught.value.hint == "save the model with external data"


# ---- the header ----


def test_refuses_bad_headers() -> None:
    good = build([node("Relu", ["x"], ["y"])])
    refuses(onnx.ModelProto(ir_version=10), InvalidModelError, "no ONNX graph")
    refuses(build([node("Relu", ["x"], ["y"])], outputs=()), InvalidModelError, "no outputs", where="'g'")
    for version in (0, 2, 14):
        bad = onnx.ModelProto()
        bad.CopyFrom(good)
        bad.ir_version = version
        refuses(bad, UnsupportedModelError, f"IR version {version} is out", required="3 to 13")
    refuses(
        build([node("Relu", ["x"], ["y"])], opset=27),
        UnsupportedModelError,
        "opset 27 is too new",
        required="7 to 26",
    )
    refuses(build([node("Relu", ["x"], ["y"])], opset=6), UnsupportedModelError, "opset 6 is too old")
    del good.opset_import[:]
    refuses(good, InvalidModelError, "does not say which version", where="opset_import")


def test_refuses_what_would_be_lost() -> None:
    model = build([node("Relu", ["x"], ["y"])])
    model.training_info.add()
    refuses(model, UnsupportedModelError, "training information")
    model = build([node("Relu", ["x"], ["y"])])
    model.graph.sparse_initializer.add().values.name = "s"
    refuses(model, UnsupportedModelError, "sparse initializers", where="'s'")
    model = build([node("Constant", [], ["y"], name="c")])
    model.graph.node[0].attribute.add(name="sparse_value", type=11).sparse_tensor.SetInParent()
    refuses(model, UnsupportedModelError, "sparse constants", where="'c'")
    model = build([node("Relu", ["x"], ["y"])])
    model.graph.output[0].type.sequence_type.elem_type.map_type.key_type = 7
    refuses(model, UnsupportedModelError, "map, opaque", where="'y'", found="sequence_type")


def test_refuses_names_that_are_no_text(tmp_path: Path) -> None:
    data = build([node("Relu", ["x"], ["y"], name="rectify")]).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data.replace(b"rectify", b"rect\xfffy"))
    with pytest.raises(InvalidModelError, match="not UTF-8 text"):
        read_model(tmp_path / "m.onnx")


# ---- names and order ----


def test_sorts_a_long_unsorted_chain() -> None:
    chain = [node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(3000)][::-1]
    first = node("Identity", ["x"], ["v0"])
    model = check_same(build([*chain, first], outputs=("v3000",)))
    assert [n.op_type for n in model.graph][:2] == ["Identity", "Relu"]


def test_keeps_the_order_of_a_sorted_graph() -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Neg", ["x"], ["b"]),
        node("Abs", ["b"], ["c"]),
        node("Add", ["a", "c"], ["y"]),
    ]
    assert [n.op_type for n in read_proto(build(nodes)).graph] == ["Relu", "Neg", "Abs", "Add"]


def test_refuses_cycles() -> None:
    loop = [
        node("Relu", ["x"], ["s"], name="start"),
        node("Add", ["s", "c"], ["a"], name="first"),
        node("Neg", ["a"], ["b"], name="second"),
        node("Abs", ["b"], ["c"], name="third"),
        node("Relu", ["c"], ["y"], name="end"),
    ]
    with pytest.raises(InvalidModelError, match="the graph is cyclic") as caught:
        read_proto(build(loop))
    found = re.findall(r"'(\w+)'", str(caught.value.found))
    assert found[0] == found[-1]
    assert set(found) == {"first", "second", "third"}
    assert (
        "'first' (Add) -> 'second' (Neg) -> 'third' (Abs)" in f"{caught.value.found}" * 2 or len(found) == 4
    )
    refuses(
        build([node("Add", ["x", "y"], ["y"], name="self")]),
        InvalidModelError,
        "cyclic",
        found="'self' (Add)",
    )


def test_refuses_a_cycle_through_a_subgraph() -> None:
    branch = helper.make_graph(
        [node("Relu", ["y"], ["t"])], "b", [], [helper.make_empty_tensor_value_info("t")]
    )
    loop = [
        node("Not", ["c"], ["d"]),
        node("If", ["d"], ["y"], then_branch=branch, else_branch=branch, name="if"),
    ]
    refuses(build(loop, {"c": np.array(True)}), InvalidModelError, "cyclic", found="'if' (If)")


def test_refuses_undefined_and_duplicate_names() -> None:
    refuses(
        build([node("Add", ["x", "gone"], ["y"], name="add")]),
        InvalidModelError, "nothing defines", found="'gone' of node 'add'", where="graph 'g'",
    )  # fmt: skip
    refuses(build([node("Relu", ["x"], ["z"])]), InvalidModelError, "never computed", found="'y'")
    twice = "defined twice"
    refuses(
        build([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])]), InvalidModelError, twice, found="'y'"
    )
    refuses(build([node("Relu", ["x"], ["x"])], outputs=("x",)), InvalidModelError, twice, found="'x'")
    refuses(
        build([node("Relu", ["x"], ["w"])], LINEAR, outputs=("w",)), InvalidModelError, twice, found="'w'"
    )
    refuses(build([node("Relu", ["x"], ["y"])], inputs=("x", "x")), InvalidModelError, twice, found="'x'")
    refuses(build([node("Relu", ["x"], ["y"])], outputs=("y", "y")), InvalidModelError, twice, found="'y'")
    model = build([node("Relu", ["x"], ["y"])], LINEAR)
    model.graph.initializer.append(model.graph.initializer[0])
    refuses(model, InvalidModelError, twice, found="'w'")
    model.graph.initializer[1].name = ""
    refuses(model, InvalidModelError, "has no name")


def test_names_what_has_no_name() -> None:
    weights = {"w": np.ones((1, 8, 4), np.float32), "r": np.ones((1, 8, 2), np.float32)}
    nodes = [
        node("Relu", ["x"], ["a"], name="same"),
        node("Relu", ["a"], ["b"], name="same"),
        node("Dropout", ["b"], ["c", ""]),
        node("Unsqueeze", ["c", "axis"], ["d"]),
        node("LSTM", ["d", "w", "r"], ["", "h", ""], hidden_size=2),
        node("Identity", ["h"], ["y"]),
    ]
    proto = build(nodes, {**weights, "axis": np.array([0])})
    proto.graph.name = ""
    model = read_proto(proto)
    names = [n.name for n in model.graph]
    assert names[0] == "same"
    assert all(names)
    assert len(set(names)) == len(names)
    outputs = {n.op_type: [o.name for o in n.outputs] for n in model.graph}
    assert outputs["Dropout"] == ["c"]
    assert outputs["LSTM"] == ["", "h"], "an output left out between others keeps its place"
    assert model.graph.name


# ---- weights ----


def test_initializers_leave_the_inputs() -> None:
    proto = build([node("MatMul", ["x", "w"], ["y"])], LINEAR, opset=8, inputs=("x", "w"), ir_version=3)
    proto.graph.input[1].CopyFrom(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4]))
    model = check_same(proto)
    assert [v.name for v in model.graph.inputs] == ["x"]
    assert list(model.graph.initializers) == ["w"]


def test_constants_become_initializers() -> None:
    big = RNG.standard_normal((4, 512)).astype(np.float32)
    nodes = [
        node("Constant", [], ["a"], value=numpy_helper.from_array(big)),
        node("Constant", [], ["b"], value_float=0.5),
        node("Constant", [], ["c"], value_floats=[1.0] * 512),
        node("Constant", [], ["d"], value_int=1),
        node("Constant", [], ["e"], value_ints=[1, 512]),
        node("ConstantOfShape", ["e"], ["f"], value=numpy_helper.from_array(np.array([2], np.float32))),
        node("ConstantOfShape", ["e"], ["g"]),
        node("MatMul", ["x", "a"], ["h"]),
        node("Mul", ["h", "b"], ["i"]),
        node("Add", ["i", "c"], ["j"]),
        node("Mul", ["j", "f"], ["k"]),
        node("Add", ["k", "g"], ["l"]),
        node("Cast", ["d"], ["m"], to=1),
        node("Add", ["l", "m"], ["y"]),
    ]
    model = check_same(build(nodes))
    found = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    assert set(found) == set("abcdefg")
    assert [found[name].shape for name in "abcdefg"] == [(4, 512), (), (512,), (), (2,), (1, 512), (1, 512)]
    assert [found[name].dtype for name in "bdfg"] == [np.float32, np.int64, np.float32, np.float32]
    assert not {"Constant", "ConstantOfShape"} & {n.op_type for n in model.graph}
    assert model.graph.initializers["f"].shape == ir.Shape([1, 512])


def test_a_constant_may_be_an_output() -> None:
    model = check_same(
        build([node("Constant", [], ["y"], value_floats=[1.0, 2.0]), node("Relu", ["x"], ["z"])])
    )
    assert [v.name for v in model.graph.outputs] == ["y"]


def test_nothing_is_folded() -> None:
    """A fake quantizer on a weight, in primitive operators: the whole branch is constant, and stays."""
    weights = {**LINEAR, "d": np.array(0.1, np.float32)}
    nodes = [node("Div", ["w", "d"], ["a"]), node("Round", ["a"], ["b"]), node("Mul", ["b", "d"], ["q"])]
    model = check_same(build([*nodes, node("MatMul", ["x", "q"], ["y"])], weights, opset=17))
    assert [n.op_type for n in model.graph] == ["Div", "Round", "Mul", "MatMul"]


def test_subgraphs_keep_their_constants() -> None:
    weights = numpy_helper.from_array(np.ones((4, 512), np.float32))
    then = helper.make_graph(
        [node("Constant", [], ["k"], value=weights), node("MatMul", ["x", "k"], ["t"])],
        "then", [], [helper.make_empty_tensor_value_info("t")],
    )  # fmt: skip
    nodes = [
        node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True))),
        node("If", ["c"], ["y"], then_branch=then, else_branch=then),
    ]
    model = check_same(build(nodes, opset=13))
    (branch,) = [n for n in model.graph if n.op_type == "If"]
    assert [n.op_type for n in branch.attributes["then_branch"].as_graph()] == ["Constant", "MatMul"]


def test_huge_fills_stay_nodes() -> None:
    sizes = np.array([1 << 14, 1 << 14], np.int64)
    nodes = [node("ConstantOfShape", ["s"], [name]) for name in ("a", "b")] + [node("Add", ["a", "b"], ["y"])]
    start = time.perf_counter()
    model = read_proto(build(nodes, {"s": sizes}))
    assert time.perf_counter() - start < 2, "nothing of 1 GB may be made"
    assert [n.op_type for n in model.graph] == ["ConstantOfShape", "Add"]


def test_refuses_broken_constants() -> None:
    refuses(
        build([node("Constant", [], ["y"], name="c")]), InvalidModelError, "exactly one value", where="'c'"
    )
    refuses(
        build([node("Constant", [], ["y"], name="c", value_int=1, value_float=1.0)]),
        InvalidModelError,
        "exactly one value",
    )
    for key, kind, value in (("value", "TENSOR", 1), ("value_int", "INT", 1.5)):
        bad = build([node("Constant", [], ["y"], name="c", **{key: value})])
        refuses(bad, InvalidModelError, f"'{key}' of a Constant has a wrong type", where="'c'", required=kind)
    empty = build([node("Constant", [], ["y"], name="c", value=numpy_helper.from_array(np.ones(1)))])
    empty.graph.node[0].attribute[0].ClearField("t")
    refuses(empty, InvalidModelError, "an attribute has no value", where="'c'", found="'value'")
    two = node("ConstantOfShape", ["s"], ["y"], name="c", value=numpy_helper.from_array(np.ones(2)))
    refuses(build([two], {"s": np.array([2])}), InvalidModelError, "needs one value", where="'c'")
    shape = {"s": np.array([-1, 4])}
    refuses(
        build([node("ConstantOfShape", ["s"], ["y"], name="c")], shape),
        InvalidModelError,
        "negative size",
        where="'c'",
    )


def test_the_proto_is_left_alone() -> None:
    proto = build(
        [
            node("Constant", [], ["w"], value=numpy_helper.from_array(LINEAR["w"])),
            node("MatMul", ["x", "w"], ["y"]),
        ],
        opset=12,
    )
    before = proto.SerializeToString(deterministic=True)
    read_proto(proto)
    assert proto.SerializeToString(deterministic=True) == before


def test_other_domains_pass_through() -> None:
    proto = build(
        [node("Frobnicate", ["x"], ["a"], domain="my.ops", level=3), node("Relu", ["a"], ["y"])], opset=9
    )
    proto.opset_import.add(domain="my.ops", version=2)
    model = read_proto(proto)
    assert [(n.domain, n.op_type) for n in model.graph] == [("my.ops", "Frobnicate"), ("", "Relu")]
    assert model.graph.opset_imports == {"": 21, "my.ops": 2}


def test_the_long_spelling_of_the_default_domain() -> None:
    proto = build([node("Relu", ["x"], ["y"], domain="ai.onnx")])
    proto.opset_import[0].domain = "ai.onnx"
    assert next(iter(check_same(proto).graph)).domain == ""
