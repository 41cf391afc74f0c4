"""Outputs are whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from getac.errors import OutputError
from getac.onnx_graph import write
from getac.onnx_graph.read import read_model
from getac.onnx_graph.write import atomic_write_text, check_output, write_model

WEIGHTS = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
X = np.ones((2, 4), np.float32)


def build() -> ir.Model:
    x = ir.val("x", ir.DataType.FLOAT, ["N", 4])
    weight, bias = (
        ir.val("w", const_value=ir.tensor(WEIGHTS)),
        ir.val("b", const_value=ir.tensor(np.float32([1]))),
    )
    product = ir.node("MatMul", [x, weight], name="mm")
    total = ir.node(
        "Add", [product.outputs[0], bias], name="add", outputs=[ir.val("y", ir.DataType.FLOAT, ["N", 512])]
    )
    graph = ir.Graph(
        [x],
        total.outputs,
        nodes=[product, total],
        initializers=[weight, bias],
        opset_imports={"": 21},
        name="g",
    )
    return ir.Model(graph, ir_version=10)


def check_file(path: Path) -> None:
    (found,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": X})
    np.testing.assert_allclose(found, X @ WEIGHTS + 1, rtol=1e-5)
    onnx.checker.check_model(path, full_check=True)
    proto = onnx.load(path, load_external_data=False)
    assert (proto.producer_name, bool(proto.producer_version)) == ("getac", True)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_writes_one_file(tmp_path: Path) -> None:
    assert write_model(build(), tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    assert names(tmp_path) == ["m.onnx"]
    check_file(tmp_path / "m.onnx")


def test_writes_external_data(tmp_path: Path) -> None:
    model = build()
    before = model.graph.initializers["w"].const_value
    assert write_model(model, tmp_path / "m.onnx", external_data=True) == [
        tmp_path / "m.onnx",
        tmp_path / "m.onnx.data",
    ]
    assert names(tmp_path) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx.data").stat().st_size == WEIGHTS.nbytes
    assert model.graph.initializers["w"].const_value is before
    check_file(tmp_path / "m.onnx")


@pytest.mark.parametrize("external", [False, True])
def test_external_data_read_is_written_again(tmp_path: Path, external: bool) -> None:
    write_model(build(), tmp_path / "m.onnx", external_data=True)
    copy = tmp_path / "copy"
    copy.mkdir()
    write_model(read_model(tmp_path / "m.onnx"), copy / "n.onnx", external_data=external)
    assert names(copy) == (["n.onnx", "n.onnx.data"] if external else ["n.onnx"])
    check_file(copy / "n.onnx")


def test_much_goes_to_external_data_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "_EXTERNAL_ABOVE", WEIGHTS.nbytes)
    assert len(write_model(build(), tmp_path / "m.onnx")) == 2
    assert len(write_model(build(), tmp_path / "n.onnx", external_data=False)) == 1


def test_types_that_the_nodes_imply_are_left_out(tmp_path: Path) -> None:
    """A shape is kept, and so is the type of what another domain's operator makes."""
    text = """<ir_version: 10, opset_import: ["": 21, "custom": 1]>
    graph (float[N,4] x) => (float[N,4] y) <float typed, float foreign, float[N,4] shaped, float[4] w> {
        typed = Relu(x)
        foreign = custom.Foreign(typed)
        shaped = Add(foreign, w)
        y = Relu(shaped)
    }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "w"))
    for value in model.graph.value_info:
        if value.name in ("typed", "foreign"):
            value.type.tensor_type.ClearField("shape")
    write_model(ir.from_proto(model), tmp_path / "model.onnx")
    found = [value.name for value in onnx.load(tmp_path / "model.onnx").graph.value_info]
    assert sorted(found) == ["foreign", "shaped"]


def test_a_shared_tensor_is_written_once(tmp_path: Path) -> None:
    model = build()
    tied = ir.val("tied", const_value=model.graph.initializers["w"].const_value)
    model.graph.register_initializer(tied)
    write_model(model, tmp_path / "m.onnx", external_data=True)
    assert (tmp_path / "m.onnx.data").stat().st_size == WEIGHTS.nbytes
    read = read_model(tmp_path / "m.onnx")
    for name in ("w", "tied"):
        np.testing.assert_array_equal(read.graph.initializers[name].const_value.numpy(), WEIGHTS)


def test_text_and_packed_tensors(tmp_path: Path) -> None:
    model = build()
    words = ir.StringTensor([b"a" * 300, b"b"], shape=ir.Shape([2]), name="words")
    packed = ir.tensor((np.arange(1001) % 8 - 4).astype(np.int8), dtype=ir.DataType.INT4)
    model.graph.register_initializer(ir.val("words", const_value=words))
    model.graph.register_initializer(ir.val("packed", const_value=packed))
    write_model(model, tmp_path / "m.onnx", external_data=True)
    found = read_model(tmp_path / "m.onnx").graph.initializers
    assert found["words"].const_value.string_data() == [b"a" * 300, b"b"]
    np.testing.assert_array_equal(found["packed"].const_value.numpy().astype(int), np.arange(1001) % 8 - 4)


def test_replaces_a_file_and_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "m.onnx").write_text("old")
    (tmp_path / "link.onnx").symlink_to("real/m.onnx")
    write_model(build(), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    check_file(tmp_path / "real" / "m.onnx")


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_model(build(), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_text_is_written_whole(tmp_path: Path) -> None:
    assert atomic_write_text(tmp_path / "r.json", "{é}") == tmp_path / "r.json"
    assert (tmp_path / "r.json").read_text(encoding="utf-8") == "{é}"
    assert names(tmp_path) == ["r.json"]


# ---- refuses ----


@pytest.mark.parametrize("external", [False, True])
def test_refuses_impossible_places(tmp_path: Path, external: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    cases = {
        tmp_path / "gone" / "m.onnx": "folder does not exist",
        tmp_path: "is a folder",
        tmp_path / "pipe": "not a regular file",
        Path("/dev/null"): "not a regular file",
        Path("/proc/m.onnx"): "cannot be written",
    }
    for path, message in cases.items():
        for attempt in (
            lambda p: write_model(build(), p, external_data=external),
            lambda p: atomic_write_text(p, "text"),
            check_output,
        ):
            with pytest.raises(OutputError, match=message) as caught:
                attempt(path)
            assert caught.value.where
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool, failing: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "m.onnx").write_text("old")
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_model(build(), tmp_path / "m.onnx", external_data=external)
    assert caught.value.found == "No space left on device"
    assert names(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "old"


@pytest.mark.parametrize("external", [False, True])
def test_a_read_only_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    """It refuses to open files, and to remove even those that are not there."""

    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    def replace_file() -> None:
        with write.replacing(tmp_path / "m.onnx"):
            pass

    (tmp_path / "m.onnx").write_text("old")
    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(write, "open", refuse, raising=False)
    attempts = (
        lambda: write_model(build(), tmp_path / "m.onnx", external_data=external),
        lambda: atomic_write_text(tmp_path / "m.onnx", "text"),
        lambda: check_output(tmp_path / "m.onnx"),
        replace_file,
    )
    for attempt in attempts:
        with pytest.raises(OutputError, match="cannot be written") as caught:
            attempt()
        assert (caught.value.found, caught.value.where) == ("Read-only file system", str(tmp_path))
    assert names(tmp_path) == ["m.onnx"] and (tmp_path / "m.onnx").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "message", "found"),
    [("m" * 300, "cannot be written", "File name too long"), ("m\0.onnx", "is no path", "null byte")],
)
def test_refuses_names_that_no_file_has(tmp_path: Path, name: str, message: str, found: str) -> None:
    for attempt in (check_output, lambda path: atomic_write_text(path, "text")):
        with pytest.raises(OutputError, match=message) as caught:
            attempt(f"{tmp_path}/{name}")
        assert found in str(caught.value.found)


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_model(build(), tmp_path / "m.onnx", external_data=True)
    assert names(tmp_path) == []


@pytest.mark.parametrize("before", [[], ["m.onnx", "m.onnx.data"]])
def test_if_the_model_cannot_be_placed_its_data_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[str]
) -> None:
    for name in before:
        (tmp_path / name).write_text("old")
    rename = os.replace

    def fail_for_model(source: str, target: str) -> None:
        if str(target).endswith(".onnx"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        rename(source, target)

    monkeypatch.setattr(os, "replace", fail_for_model)
    with pytest.raises(OutputError, match="cannot be written"):
        write_model(build(), tmp_path / "m.onnx", external_data=True)
    assert names(tmp_path) == before
    assert all((tmp_path / name).read_text() == "old" for name in before)


def test_refuses_two_gibibytes_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "_MAX_PROTO_BYTES", 1000)
    with pytest.raises(OutputError, match="does not fit into one ONNX file") as caught:
        write_model(build(), tmp_path / "m.onnx", external_data=False)
    assert caught.value.hint == "write it with external data"
    assert names(tmp_path) == []


def test_refuses_to_overwrite_the_data_it_reads(tmp_path: Path) -> None:
    write_model(build(), tmp_path / "m.onnx", external_data=True)
    model = read_model(tmp_path / "m.onnx")
    with pytest.raises(OutputError, match="reads its weights from"):
        write_model(model, tmp_path / "m.onnx", external_data=True)
    with pytest.raises(OutputError, match="reads its weights from"):
        write_model(model, tmp_path / "m.onnx.data", external_data=False)
    check_file(tmp_path / "m.onnx")


def test_check_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "m.onnx"
    source.write_text("model")
    (tmp_path / "soft.onnx").symlink_to("m.onnx")
    os.link(source, tmp_path / "hard.onnx")
    monkeypatch.chdir(tmp_path)
    for output in (
        "m.onnx",
        source,
        tmp_path / "soft.onnx",
        tmp_path / "hard.onnx",
        "./../" + tmp_path.name + "/m.onnx",
    ):
        with pytest.raises(OutputError, match="same file as an input") as caught:
            check_output(output, ["other.onnx", source])
        assert caught.value.found == f"input {source}"
    check_output(tmp_path / "new.onnx", [source])
    assert names(tmp_path) == ["hard.onnx", "m.onnx", "soft.onnx"]
