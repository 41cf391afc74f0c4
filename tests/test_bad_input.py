"""Every kind of bad input through the command line: one clear paragraph, exit code 2, nothing written."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from getac.errors import GetacError
from tools.zoo.registry import ZOO


@pytest.fixture
def folder(tmp_path):
    """A model, its calibration data, and nothing else."""
    onnx.save(ZOO["mlp_gemm_transposed"](), tmp_path / "m.onnx")
    calibrate(tmp_path, features=normal(16, 64))
    return tmp_path


def normal(*shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def calibrate(folder, **arrays):
    np.savez(folder / "c.npz", **arrays)


@pytest.fixture
def refused(folder, monkeypatch, command_line):
    """Lowers folder/m.onnx and holds the failure to the rules; gives the message."""

    def call(*arguments, output="o.onnx", code=2, calibration=True):
        before = snapshot(folder)
        data = ["--calibration", "c.npz"] if calibration else []
        written = ["-o", output, "--report", "r.json", "--plan", "p.json"]
        monkeypatch.chdir(folder)
        found, out, err = command_line("lower", "m.onnx", *written, *data, "--no-bench", *arguments)
        assert (found, out) == (code, "")
        assert snapshot(folder) == before
        check_message(err)
        return err

    return call


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def check_message(text):
    """One paragraph: what went wrong, then labelled details; no blank line, no code."""
    lines = text.splitlines()
    assert lines and lines[0].startswith("getac: ") and len(lines) < 12
    assert "Traceback" not in text and 'File "' not in text and "Error:" not in text
    assert all(line.strip() for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])
    assert len(text) < 1500


def mentions(text, *words):
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in:\n{text}"


# ---- the model ----


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello, this is not a model", ("not an ONNX file", "m.onnx")),
        (b"", ("empty",)),
        (b"PK\x03\x04rest of an archive", ("not an ONNX file", "zip archive")),
        (b"\x80\x02}q\x00.", ("not an ONNX file", "pickle")),
        (b"version https://git-lfs.github.com/spec/v1\n", ("Git LFS",)),
        (b"<html><body>404</body></html>", ("not an ONNX file", "markup")),
        (np.random.default_rng(0).bytes(2000), ("ONNX",)),
    ],
    ids=["text", "empty", "zip", "pickle", "lfs", "html", "noise"],
)
def test_not_an_onnx_file(refused, folder, content, words):
    (folder / "m.onnx").write_bytes(content)
    mentions(refused(), *words)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(refused, folder, share):
    content = (folder / "m.onnx").read_bytes()
    (folder / "m.onnx").write_bytes(content[: int(share * len(content))])
    mentions(refused(), "truncated")


def test_no_file(refused, folder):
    (folder / "m.onnx").unlink()
    mentions(refused(), "no such model file", "m.onnx")


def test_a_folder(refused, folder):
    (folder / "m.onnx").unlink()
    (folder / "m.onnx").mkdir()
    mentions(refused(), "not a regular file")


def edited(folder, edit):
    model = onnx.load(folder / "m.onnx")
    edit(model)
    onnx.save(model, folder / "m.onnx")


@pytest.mark.parametrize("version", [27, 1000, 6])
def test_an_opset_out_of_range(refused, folder, version):
    def edit(model):
        model.opset_import[0].version = version

    edited(folder, edit)
    mentions(refused(), "opset", str(version), "7", "26")


def test_an_ir_version_out_of_range(refused, folder):
    def edit(model):
        model.ir_version = 99

    edited(folder, edit)
    mentions(refused(), "IR version 99", "required")


def test_a_cyclic_graph(refused, folder):
    def edit(model):
        model.graph.node[0].input[0] = model.graph.node[2].output[0]

    edited(folder, edit)
    mentions(refused(), "cyclic", "gemm_0", "->")


def test_an_undefined_value(refused, folder):
    def edit(model):
        model.graph.node[1].input[0] = "nowhere"

    edited(folder, edit)
    mentions(refused(), "nothing defines", "'nowhere'")


@pytest.mark.parametrize(("number", "kind"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
@pytest.mark.parametrize("tensor", ["gemm_2.weight", "gemm_0.bias"])
def test_weights_that_are_not_finite(refused, folder, number, kind, tensor):
    def edit(model):
        for one in model.graph.initializer:
            if one.name == tensor:
                array = numpy_helper.to_array(one).copy()
                array.reshape(-1)[3] = number
                one.CopyFrom(numpy_helper.from_array(array, tensor))

    edited(folder, edit)
    mentions(refused(), kind, tensor, "1 ")


def external(folder):
    model = onnx.load(folder / "m.onnx")
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)


def test_missing_external_data(refused, folder):
    external(folder)
    (folder / "w.bin").unlink()
    mentions(refused(), "w.bin", "external data")


def test_truncated_external_data(refused, folder):
    external(folder)
    content = (folder / "w.bin").read_bytes()
    (folder / "w.bin").write_bytes(content[:1000])
    mentions(refused(), "w.bin", "external data")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "link.bin"])
def test_external_data_outside_the_folder(refused, folder, tmp_path_factory, location):
    external(folder)
    outside = tmp_path_factory.mktemp("outside") / "secret.bin"
    outside.write_bytes(bytes(100_000))
    (folder / "link.bin").symlink_to(outside)
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    mentions(refused(), "outside", location)


def test_wrong_shapes_inside_the_model(refused, folder):
    """onnxruntime would not load it either."""

    def edit(model):
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(normal(48, 63), "gemm_0.weight"))

    edited(folder, edit)
    mentions(refused(), "gemm_0")


def test_an_unknown_operator(refused, folder):
    def edit(model):
        model.graph.node[1].op_type = "Frobnicate"

    edited(folder, edit)
    mentions(refused(), "Frobnicate")


def test_an_input_without_a_shape(refused, folder):
    def edit(model):
        model.graph.input[0].type.tensor_type.ClearField("shape")

    edited(folder, edit)
    mentions(refused(), "features", "rank")


def test_an_output_of_another_shape_than_declared(refused, folder):
    def edit(model):
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value += 1

    edited(folder, edit)
    mentions(refused(), "declares an output with another shape", "gemm_4", "[N, 11]")


def rewrite(folder, text, **tensors):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    for name, array in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, folder / "m.onnx")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(float[N,4] x) => (seq(float[N,4]) y) { y = SequenceConstruct(x, x) }", ("output y", "Sequence")),
        ("(float[N,4] x) => (string[N,4] y) { y = Cast<to=8>(x) }", ("output y", "STRING")),
        ("(string[N] x) => (bool[N] y) { y = Equal(x, x) }", ("input x", "STRING", "float32")),
        ("(bfloat16[N] x) => (float[N] y) { y = Cast<to=1>(x) }", ("input x", "BFLOAT16", "float32")),
        ("(float8e5m2[N] x) => (float[N] y) { y = Cast<to=1>(x) }", ("input x", "FLOAT8E5M2")),
        ("(seq(float[N,4]) x) => (int64 y) { y = SequenceLength(x) }", ("input x", "Sequence")),
        ("(float[0,4] x) => (float[0,4] y) { y = Relu(x) }", ("input x", "empty", "[0,4]")),
        ("(float[N,4] x) => (float[2,3] y) { y = MatMul(e, w) }", ("weight e", "empty", "[2,0]")),
        ("(float[N,4] x) => (float[N,4] y) { y, m = Dropout(x, r, t) }", ("training mode", "Dropout")),
    ],
)
def test_what_cannot_be_lowered(refused, folder, text, words):
    tensors = {"e": normal(2, 0), "w": normal(0, 3)} if "MatMul" in text else {}
    if "Dropout" in text:
        tensors = {"r": np.float32(0.5), "t": np.bool_(True)}
    rewrite(folder, text, **tensors)
    mentions(refused(calibration=False), *words)


def test_an_input_without_an_element_type(refused, folder):
    def edit(model):
        model.graph.input[0].type.tensor_type.elem_type = 0

    edited(folder, edit)
    mentions(refused(), "features")


def test_a_batch_that_fits_no_reshape(refused, folder):
    rewrite(folder, "(float[N,4] x) => (float[M,8] y) { y = Reshape(x, s) }", s=np.int64([-1, 8]))
    mentions(refused(calibration=False), "no tried size", "give calibration data with sizes of N")
    calibrate(folder, x=normal(1, 4))
    mentions(refused(), "no tried size", "Reshape")


def test_a_failure_of_the_measurement(refused, monkeypatch):
    """It comes before anything is written."""

    def fail(*_):
        raise GetacError("no clock")

    monkeypatch.setattr("getac.measure.measure_models", fail)
    mentions(refused("--bench"), "no clock")


# ---- calibration data ----


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1L, ((",
        "'''",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 64)}",
        "{[]: 1}",
        "(" * 5000,
    ],
    ids=["brackets", "quotes", "negative", "unhashable", "deep"],
)
def test_a_malformed_header(refused, folder, header):
    text = header.encode() + b"\n"
    with zipfile.ZipFile(folder / "c.npz", "w") as archive:
        archive.writestr("features.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    mentions(refused(), "calibration data cannot be read", "c.npz")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": normal(8, 64)}, ("names", "features", "image")),
        ({"features": normal(8, 64), "more": normal(8, 64)}, ("names", "extra: more")),
        ({"features": normal(8, 63)}, ("shape", "63")),
        ({"features": normal(8, 64, 1)}, ("shape", "[8, 64, 1]")),
        ({"features": normal(64)}, ("shape", "[64]")),
        ({"features": normal(8, 64, dtype=np.float64)}, ("type", "float64", "float32")),
        ({"features": np.ones((8, 64), np.int64)}, ("type", "int64")),
        ({"features": np.full((8, 64), np.nan, np.float32)}, ("NaN", "features")),
        ({"features": np.full((8, 64), np.inf, np.float32)}, ("infinite", "features")),
        ({"features": np.empty((0, 64), np.float32)}, ("empty",)),
        ({"features": np.array([{"a": 1}], dtype=object)}, ("pickled",)),
        ({}, ("names", "missing: features")),
    ],
    ids=[
        "name",
        "extra",
        "shape",
        "rank",
        "rank1",
        "float64",
        "int64",
        "nan",
        "inf",
        "empty",
        "pickle",
        "none",
    ],
)
def test_calibration_data_that_does_not_fit(refused, folder, arrays, words):
    calibrate(folder, **arrays)
    mentions(refused(), "calibration data", *words)


@pytest.mark.parametrize("content", [b"no archive at all", b"PK\x03\x04 broken", b""])
def test_calibration_data_that_is_no_npz(refused, folder, content):
    (folder / "c.npz").write_bytes(content)
    mentions(refused(), "c.npz", ".npz")


def test_calibration_data_that_is_a_zip_of_something_else(refused, folder):
    with zipfile.ZipFile(folder / "c.npz", "w") as archive:
        archive.writestr("features.npy", "no array")
    mentions(refused(), "calibration data", "c.npz", "cannot be read")


def test_truncated_calibration_data(refused, folder):
    content = (folder / "c.npz").read_bytes()
    (folder / "c.npz").write_bytes(content[: len(content) // 2])
    mentions(refused(), "c.npz")


def test_no_calibration_data(refused, folder):
    (folder / "c.npz").unlink()
    mentions(refused(), "c.npz", "no such file")


def test_an_empty_folder_of_calibration_data(refused, folder):
    (folder / "empty").mkdir()
    mentions(refused("--calibration", "empty", calibration=False), "no calibration data", "empty")


def test_activations_that_are_not_finite(refused, folder):
    """The data is finite and the weights are; what the model makes of them is not."""
    onnx.save(ZOO["mlp_matmul"](), folder / "m.onnx")
    calibrate(folder, features=np.full((8, 64), 3e38, np.float32))
    mentions(refused(), "not finite")


def dynamic(folder):
    model = ZOO["squeezenet"]()
    for axis, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, folder / "m.onnx")


def test_dynamic_dimensions_that_the_data_does_not_settle(refused, folder):
    dynamic(folder)
    (folder / "many").mkdir()
    np.savez(folder / "many" / "a.npz", image=normal(2, 3, 32, 32))
    np.savez(folder / "many" / "b.npz", image=normal(2, 3, 48, 32))
    mentions(refused("--calibration", "many", calibration=False), "does not settle", "height")


def test_dimensions_without_a_size_that_works(refused, folder):
    """Two inputs that must agree in size, and no data that says how."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [name, 4]) for name in "ab"]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Add", ["a", "b"], ["s"], name="add"),
        helper.make_node("MatMul", ["s", "w"], ["y"], name="product"),
    ]
    weights = [numpy_helper.from_array(normal(4, 4), "w")]
    graph = helper.make_graph(nodes, "g", inputs, [output], weights)
    opset = helper.make_opsetid("", 21)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "m.onnx")
    calibrate(folder, a=normal(3, 4), b=normal(5, 4))
    mentions(refused(), "calibration data", "sample")


# ---- options and outputs ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--sparsity", "1"), ("[0, 1)", "1.0")),
        (("--sparsity", "1.5"), ("[0, 1)",)),
        (("--sparsity=-0.1",), ("[0, 1)", "-0.1")),
        (("--sparsity", "nan"), ("[0, 1)", "nan")),
        (("--sparsity", "inf"), ("[0, 1)",)),
        (("--sparsity", "half"), ("--sparsity", "'half'", "number")),
        (("--sparsity", ""), ("--sparsity", "number")),
        (("--align", "0"), ("alignment", "0")),
        (("--align=-4",), ("alignment", "-4")),
        (("--align", "1.5"), ("--align", "whole number", "'1.5'")),
        (("--align", "many"), ("--align", "'many'")),
        (("--block", "many"), ("--block", "whole number, or auto or none", "'many'")),
        (("--embedding-bits", "auto"), ("--embedding-bits", "whole number, or none", "'auto'")),
        (("--ranges", "average"), ("ranges", "minmax", "average")),
        (("--weight-bits", "1"), ("2 to 8", "1")),
        (("--weight-bits", "9"), ("2 to 8", "9")),
        (("--activation-bits", "0"), ("2 to 8", "0")),
        (("--activation-bits", "16"), ("2 to 8", "16")),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else None,
)
def test_options_outside_their_domain(refused, options, words):
    mentions(refused(*options), *words)


@pytest.mark.parametrize("output", ["m.onnx", "./m.onnx", "link.onnx", "hard.onnx"])
def test_the_output_is_the_input(refused, folder, output):
    (folder / "link.onnx").symlink_to(folder / "m.onnx")
    os.link(folder / "m.onnx", folder / "hard.onnx")
    mentions(refused(output=output), "same file", output.removeprefix("./"))


def test_the_report_is_the_output(refused, folder):
    mentions(refused("--report", "o.onnx"), "same file", "o.onnx")
    mentions(refused("--plan", "m.onnx"), "same file", "m.onnx")


def test_the_output_is_the_models_data(refused, folder):
    external(folder)
    mentions(refused(output="w.bin"), "same file", "w.bin")
    mentions(refused("--report", "w.bin"), "same file", "w.bin")


@pytest.mark.parametrize("option", ["--report", "--plan"])
def test_the_report_would_replace_what_is_read(refused, folder, option):
    mentions(refused(option, "c.npz"), "same file", "c.npz")


@pytest.mark.parametrize("option", ["--report", "--plan"])
def test_two_outputs_are_one_file(refused, option):
    mentions(refused(option, "./o.onnx"), "two outputs are the same file", "o.onnx")


@pytest.mark.parametrize("option", ["-o", "--report", "--plan"])
def test_an_output_is_the_data_file_of_the_model(refused, folder, option):
    """Also where all tensors in it are small, and in memory by then."""
    rewrite(folder, "(float[N,64] features) => (float[N,64] y) { y = Add(features, b) }", b=normal(64))
    model = onnx.load(folder / "m.onnx")
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    mentions(refused(option, "w.bin"), "same file as an input", "w.bin")


def test_an_output_is_in_the_folder_of_samples(refused, folder):
    (folder / "samples").mkdir()
    np.savez(folder / "samples" / "0.npz", features=normal(4, 64))
    mentions(
        refused("--calibration", "samples", "--report", "samples/0.npz"), "same file as an input", "0.npz"
    )


@pytest.mark.parametrize("option", ["-o", "--report", "--plan"])
def test_outputs_in_a_folder_that_does_not_exist(refused, option):
    mentions(refused(option, "no/such/folder/x"), "folder does not exist", "no/such/folder")


def test_the_output_is_a_folder(refused, folder):
    (folder / "results").mkdir()
    mentions(refused(output="results"), "is a folder", "results")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_a_folder_that_cannot_be_written(refused, folder):
    locked = folder / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    mentions(refused(output="locked/o.onnx"), "cannot be written", "Permission denied")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_the_disk_refuses(refused, monkeypatch, number):
    """Found out by the probe, before any work is done."""

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail)
    mentions(refused(), "cannot be written", os.strerror(number))


def test_the_disk_fills_up_at_the_last_moment(refused, monkeypatch):
    """Neither half a model, nor its report and plan, stay behind."""
    honest, calls = os.fsync, []

    def fail(descriptor):
        calls.append(descriptor)
        if os.fstat(descriptor).st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(descriptor)

    monkeypatch.setattr("os.fsync", fail)
    mentions(refused(), "cannot be written", "No space left on device")
    assert len(calls) == 4  # three probes and the model


def test_as_a_process(folder):
    """No traceback comes from anywhere else, the interpreter's exit included."""
    (folder / "m.onnx").write_bytes(b"hello")
    command = [sys.executable, "-m", "getac", "lower", "m.onnx", "-o", "o.onnx"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    check_message(done.stderr)
    mentions(done.stderr, "not an ONNX file")
    assert not (folder / "o.onnx").exists()
