"""External data: the honest layouts load lazily, the others are refused before anything is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from getac.errors import InvalidModelError
from getac.onnx_graph.read import read_model, read_proto

WEIGHTS = np.arange(2048, dtype=np.float32).reshape(32, 64)


def external(
    name: str, location: str, dims: tuple[int, ...] = (32, 64), kind: int = 1, **entries: object
) -> TensorProto:
    tensor = TensorProto(name=name, dims=dims, data_type=kind, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def build(weight: TensorProto, nodes: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 32])
    y = helper.make_empty_tensor_value_info("y")
    nodes = nodes or [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def in_function(weight: TensorProto) -> onnx.ModelProto:
    body = [
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
    ]
    function = helper.make_function("local", "Layer", ["a"], ["b"], body, [helper.make_opsetid("", 21)])
    model = build(external("unused", "w.bin"), [helper.make_node("Layer", ["x"], ["y"], domain="local")])
    del model.graph.initializer[:]
    model.functions.append(function)
    model.opset_import.add(domain="local", version=1)
    return model


def in_subgraph(weight: TensorProto) -> onnx.ModelProto:
    y = helper.make_empty_tensor_value_info("b")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["b"])], "branch", [], [y], [weight])
    flag = helper.make_node(
        "Constant", [], ["flag"], value=helper.make_tensor("flag", TensorProto.BOOL, [], [1])
    )
    model = build(
        external("w", "w.bin"),
        [flag, helper.make_node("If", ["flag"], ["y"], then_branch=graph, else_branch=graph)],
    )
    del model.graph.initializer[:]
    return model


def in_constant(weight: TensorProto) -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["w"], value=weight)
    model = build(weight, [constant, helper.make_node("MatMul", ["x", "w"], ["y"])])
    del model.graph.initializer[:]
    return model


PLACES: list[Callable[[TensorProto], onnx.ModelProto]] = [build, in_function, in_subgraph, in_constant]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder; what lies beside it is none of the model's business."""
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(b"\0" * 64 + WEIGHTS.tobytes())
    return folder


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def weights_of(model: ir.Model) -> ir.TensorProtocol:
    value = model.graph.initializers["w"].const_value
    assert value is not None
    return value


@pytest.mark.parametrize("place", [build, in_constant])
def test_loads_lazily(folder: Path, place: Callable[[TensorProto], onnx.ModelProto]) -> None:
    model = read_model(save(place(external("w", "w.bin", offset=64, length=8192)), folder / "m.onnx"))
    tensor = weights_of(model)
    assert isinstance(tensor, ir.ExternalTensor)
    assert (Path(tensor.base_dir), tensor.offset, tensor.length) == (folder, 64, 8192)
    np.testing.assert_array_equal(tensor.numpy(), WEIGHTS)


@pytest.mark.parametrize("place", [in_function, in_subgraph])
def test_loads_in_functions_and_subgraphs(
    folder: Path, place: Callable[[TensorProto], onnx.ModelProto]
) -> None:
    model = read_model(save(place(external("w", "w.bin", offset=64)), folder / "m.onnx"))
    values = [v for graph in model.graphs() for v in graph.initializers.values() if v.const_value is not None]
    large = [
        v.const_value.numpy()
        for v in values
        if v.const_value is not None and v.const_value.size == WEIGHTS.size
    ]
    assert large
    for array in large:
        np.testing.assert_array_equal(array, WEIGHTS)


def test_loads_with_a_bare_relative_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(build(external("w", "w.bin", offset=64)), folder / "m.onnx")
    monkeypatch.chdir(folder)
    model = read_model("m.onnx")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(weights_of(model).numpy(), WEIGHTS)


def test_loads_the_cache_layout(tmp_path: Path) -> None:
    """snapshots/x/model.onnx -> ../../blobs/h, its data likewise."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "x"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save(build(external("w", "model.onnx_data", length=8192)), blobs / "h")
    (blobs / "h2").write_bytes(WEIGHTS.tobytes())
    (snapshot / "model.onnx").symlink_to("../../blobs/h")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/h2")
    np.testing.assert_array_equal(weights_of(read_model(snapshot / "model.onnx")).numpy(), WEIGHTS)


def test_small_tensors_are_read_at_once(folder: Path) -> None:
    model = read_model(save(build(external("w", "w.bin", (4, 4), offset=64, length=64)), folder / "m.onnx"))
    assert not isinstance(weights_of(model), ir.ExternalTensor)
    np.testing.assert_array_equal(weights_of(model).numpy(), WEIGHTS.reshape(-1)[:16].reshape(4, 4))


@pytest.mark.parametrize(("kind", "count", "size"), [(22, 4097, 2049), (21, 3001, 1501)])
def test_packed_types_count_packed_bytes(folder: Path, kind: int, count: int, size: int) -> None:
    proto = build(external("w", "w.bin", (count,), kind, length=size))
    tensor = weights_of(read_model(save(proto, folder / "m.onnx")))
    assert (tensor.size, tensor.nbytes) == (count, size)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "location", ["../secret.bin", "{root}/secret.bin", "sub/../../secret.bin", "..\\secret.bin", ""]
)
def test_refuses_locations_outside(
    folder: Path, location: str, place: Callable[[TensorProto], onnx.ModelProto]
) -> None:
    weight = external("w", location.format(root=folder.parent), length=8192)
    with pytest.raises(InvalidModelError, match="outside the model's folder") as caught:
        read_model(save(place(weight), folder / "m.onnx"))
    assert "'w'" in str(caught.value.where)


@pytest.mark.parametrize("place", PLACES)
def test_refuses_links_that_leave(
    folder: Path, place: Callable[[TensorProto], onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "link.bin").symlink_to("../secret.bin")
    save(place(external("w", "link.bin", length=8192)), folder / "m.onnx")
    monkeypatch.chdir(folder)
    for path in (folder / "m.onnx", "m.onnx"):
        with pytest.raises(InvalidModelError, match="outside the model's folder") as caught:
            read_model(path)
        assert "a link to" in str(caught.value.found)


def test_refuses_a_linked_folder_that_leaves(folder: Path) -> None:
    (folder / "sub").symlink_to("..")
    with pytest.raises(InvalidModelError, match="outside the model's folder"):
        read_model(save(build(external("w", "sub/secret.bin", length=8192)), folder / "m.onnx"))


def test_refuses_hard_links(folder: Path) -> None:
    os.link(folder.parent / "secret.bin", folder / "hard.bin")
    with pytest.raises(InvalidModelError, match="several names") as caught:
        read_model(save(build(external("w", "hard.bin", length=8192)), folder / "m.onnx"))
    assert "2 hard links" in str(caught.value.found)


@pytest.mark.parametrize("place", PLACES)
def test_refuses_what_is_no_file(folder: Path, place: Callable[[TensorProto], onnx.ModelProto]) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "directory").mkdir()
    for name in ("pipe", "directory"):
        with pytest.raises(InvalidModelError, match="not a regular file"):
            read_model(save(place(external("w", name)), folder / "m.onnx"))


def test_refuses_devices(folder: Path) -> None:
    (folder / "zero").symlink_to("/dev/zero")
    with pytest.raises(InvalidModelError, match="outside the model's folder"):
        read_model(save(build(external("w", "zero", length=8192)), folder / "m.onnx"))


@pytest.mark.parametrize("place", PLACES)
def test_names_the_missing_file(folder: Path, place: Callable[[TensorProto], onnx.ModelProto]) -> None:
    with pytest.raises(InvalidModelError, match="missing") as caught:
        read_model(save(place(external("w", "gone.bin")), folder / "m.onnx"))
    assert "'w'" in str(caught.value.where)
    assert str(folder / "gone.bin") in str(caught.value.required)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": -1, "length": 8192}, "outside its file"),
        ({"offset": 64, "length": -8192}, "outside its file"),
        ({"offset": 65, "length": 8192}, "outside its file"),
        ({"offset": 10**30}, "outside its file"),
        ({"offset": 64, "length": 8191}, "does not have the size"),
        ({"offset": 0, "length": 8256}, "does not have the size"),
        ({"offset": 0}, "does not have the size"),
        ({"offset": "x"}, "no number"),
        ({"length": "1e3"}, "no number"),
    ],
)
def test_refuses_wrong_extents(folder: Path, entries: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidModelError, match=message) as caught:
        read_model(save(build(external("w", "w.bin", **entries)), folder / "m.onnx"))
    assert "'w'" in str(caught.value.where)


@pytest.mark.parametrize(
    ("dims", "kind", "message"),
    [
        ((-1, 64), 1, "negative dimension"),
        ((32, 64), 99, "unknown element type"),
        ((32, 64), 8, "text cannot be"),
    ],
)
def test_refuses_impossible_tensors(folder: Path, dims: tuple[int, ...], kind: int, message: str) -> None:
    with pytest.raises(InvalidModelError, match=message):
        read_model(save(build(external("w", "w.bin", dims, kind, offset=64)), folder / "m.onnx"))


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(name="w", dims=[32, 64], data_type=1, raw_data=b"\0" * 8191),
        TensorProto(name="w", dims=[32, 64], data_type=1, float_data=[1.0]),
        TensorProto(name="w", dims=[32, 64], data_type=1),
        TensorProto(name="w", dims=[1 << 40, 1 << 40], data_type=1, raw_data=b""),
    ],
)
def test_refuses_inline_data_of_the_wrong_size(tensor: TensorProto) -> None:
    with pytest.raises(InvalidModelError, match="does not have the size") as caught:
        read_proto(build(tensor))
    assert "'w'" in str(caught.value.where)


def test_a_model_in_memory_has_no_folder(folder: Path) -> None:
    proto = build(external("w", "w.bin", offset=64))
    with pytest.raises(InvalidModelError, match="needs the model's folder"):
        read_proto(proto)
    np.testing.assert_array_equal(weights_of(read_proto(proto, folder)).numpy(), WEIGHTS)
