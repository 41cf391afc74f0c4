"""`getac bench` and `getac.bench`: every figure, side by side, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import getac
from getac.benchmarking.bench_tables import bench_tables
from getac.benchmarking.footprint import Footprint, footprint
from getac.errors import BadInputError, CalibrationError, GetacError, OptionError
from getac.runtime import median_times

QUICK = {"rounds": 2, "budget_s": 0.0, "threads": 1}
MLP = """(float[N, {width}] x) => (float[N, 4] y) {{ y = MatMul(x, w) }}"""


@pytest.fixture
def command(command_line, monkeypatch, mlp):
    """Runs `getac bench` in the folder."""
    monkeypatch.chdir(mlp)
    return partial(command_line, "bench")


def saved(build, path, width):
    weights = np.random.default_rng(0).normal(size=(width, 4)).astype(np.float32)
    ir.save(build(MLP.format(width=width), w=weights), path)
    return path


@pytest.fixture
def no_child(monkeypatch):
    """Loads no model in a process of its own, which takes a second each."""
    monkeypatch.setattr("getac.benchmarking.benching.footprint", lambda *_: Footprint(1.0, None, None))


def test_all_figures(mlp):
    found = getac.bench([mlp / "float.onnx", mlp / "int8.onnx"], **QUICK)
    before, after = found.models
    linux = sys.platform == "linux"
    assert [one.peak_bytes is not None for one in found.models] == [linux] * 2
    assert all(one.cpu_ms > 0 and one.wall_ms > 0 and one.load_ms > 0 for one in found.models)
    assert before.file_bytes == (mlp / "float.onnx").stat().st_size
    assert before.layers == {"integer": 0, "weight-only": 0, "float": 3} and before.integer_share == 0
    assert after.layers == {"integer": 3, "weight-only": 0, "float": 0} and after.integer_share == 1
    assert before.operators["Gemm"] + before.operators.get("FusedGemm", 0) == 3 == after.operators["QGemm"]
    assert before.inputs == after.inputs == {"features": [1, 64]}
    assert set(before.ratios.values()) == {1.0} and found.notes == [] and found.generated
    assert after.ratios["file_bytes"] == before.file_bytes / after.file_bytes
    assert after.ratios["cpu_ms"] == pytest.approx(before.cpu_ms / after.cpu_ms)


def test_one_path_and_what_json_holds(mlp, no_child):
    found = getac.bench(mlp / "int8.onnx", mlp / "data.npz", batch=5, **QUICK)
    content = json.loads(found.as_json())
    [model] = content["models"]
    assert model["inputs"] == {"features": [5, 64]} and model["integer_share"] == 1.0
    assert content["generated"] is False and content["threads"] == 1 and "onnxruntime" in content["versions"]


def test_external_data_counts(mlp, tmp_path, no_child):
    ir.save(ir.load(mlp / "float.onnx"), tmp_path / "m.onnx", external_data="m.data")
    [model] = getac.bench(tmp_path / "m.onnx", **QUICK).models
    assert model.file_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert (tmp_path / "m.data").stat().st_size > 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process's peak apart")
def test_memory_is_that_of_the_model_alone(build, tmp_path):
    """17 MB of weights show, whatever this process has taken before."""
    ballast = np.ones(1 << 25)  # Linux hands a parent's peak on to its children
    widths = 8, 1 << 20
    paths = [saved(build, tmp_path / f"{width}.onnx", width) for width in widths]
    feeds = [{"x": np.ones((1, width), np.float32)} for width in widths]
    small, large = (footprint(*one, {}) for one in zip(paths, feeds, strict=True))
    assert ballast.nbytes > 200e6 > large.peak_bytes > 17e6 + 0.5 * small.peak_bytes
    assert small.load_ms > 0 and 20e6 < small.baseline_bytes < 200e6


def test_a_child_that_fails_is_told(mlp):
    with pytest.raises(GetacError, match="memory failed") as error:
        footprint(mlp / "float.onnx", {"wrong": np.ones((1, 64), np.float32)}, {})
    assert "exit code 1" in str(error.value) and "float.onnx" in str(error.value)


def test_session_options_reach_onnxruntime(mlp, no_child):
    options = {"session.disable_prepacking": "1", "optimization.disable_specified_optimizers": ""}
    found = getac.bench(mlp / "float.onnx", session_options=options, **QUICK)
    assert found.session_options == options
    with pytest.raises(OptionError, match="session option"):
        getac.bench(mlp / "float.onnx", session_options={"k" * 5000: "v"}, **QUICK)
    with pytest.raises(OptionError, match="texts"):
        getac.bench(mlp / "float.onnx", session_options={"a": 1}, **QUICK)


def test_tasks_take_turns():
    order = []
    tasks = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    ticks = iter(range(1000))
    medians = median_times(tasks, clock=lambda: next(ticks), min_rounds=3, budget_s=0)
    assert medians == {"a": 1000.0, "b": 1000.0}
    assert order[4:] == ["a", "b"] * 3  # after the warm-up


# ---- inputs ----


def test_models_with_other_inputs_run_on_their_own(build, tmp_path, no_child):
    paths = [saved(build, tmp_path / f"{width}.onnx", width) for width in (8, 16)]
    found = getac.bench(paths, **QUICK)
    assert [one.inputs for one in found.models] == [{"x": [1, 8]}, {"x": [1, 16]}]
    [note] = found.notes
    assert "16.onnx has not the inputs of" in note and "different work" in note
    with pytest.raises(CalibrationError, match="shape") as error:
        getac.bench(paths, {"x": np.ones((4, 8), np.float32)}, **QUICK)
    assert str(paths[1]) in str(error.value)


def test_a_dynamic_size_has_to_be_given(build, tmp_path, no_child):
    model = build("(float[N, L, 4] x) => (float[N, L, 4] y) { y = Relu(x) }")
    ir.save(model, tmp_path / "m.onnx")
    with pytest.raises(OptionError) as error:
        getac.bench(tmp_path / "m.onnx", **QUICK)
    assert "--size L=32" in str(error.value) and "m.onnx" in str(error.value)
    [found] = getac.bench(tmp_path / "m.onnx", sizes={"L": 7}, batch=3, **QUICK).models
    assert found.inputs == {"x": [3, 7, 4]}
    with pytest.raises(OptionError, match="no model has an input dimension"):
        getac.bench(tmp_path / "m.onnx", sizes={"T": 7}, **QUICK)


def test_a_fixed_batch_stays(build, tmp_path, no_child):
    ir.save(build("(float[2, 4] x) => (float[2, 4] y) { y = Relu(x) }"), tmp_path / "m.onnx")
    assert getac.bench(tmp_path / "m.onnx", **QUICK).models[0].inputs == {"x": [2, 4]}
    with pytest.raises(OptionError, match="the batch is fixed"):
        getac.bench(tmp_path / "m.onnx", batch=4, **QUICK)


@pytest.mark.parametrize(
    "options",
    [
        *({"rounds": 0}, {"rounds": 1.5}, {"threads": 0}, {"threads": True}, {"batch": 0}),
        *({"budget_s": -1.0}, {"budget_s": float("nan")}, {"sizes": {"N": 0}}),
    ],
    ids=str,
)
def test_options_outside_their_domain(mlp, options):
    with pytest.raises(OptionError):
        getac.bench(mlp / "float.onnx", **{**QUICK, **options})


@pytest.mark.parametrize("models", [[], [3], onnx.ModelProto()], ids=["none", "a number", "in memory"])
def test_only_files_can_be_measured(models):
    with pytest.raises(BadInputError):
        getac.bench(models, **QUICK)


# ---- the command ----


def test_the_table(command, no_child):
    code, out, err = command("float.onnx", "int8.onnx", "--rounds", 2, "--budget", 0, "--threads", 2)
    assert (code, err) == (0, "")
    for text in ("float.onnx", "int8.onnx", "CPU time, 1 thread", "wall time, 2 threads", "peak memory"):
        assert text in out
    assert (
        "QGemm" in out and "3 of 3" in out and "100%" in out and "generated inputs: features [1, 64]" in out
    )


def test_json_and_report(command, mlp, no_child):
    arguments = ("--rounds", 1, "--budget", 0, "--threads", 1, "--session-option", "session.a=b=c")
    code, out, _ = command("int8.onnx", *arguments, "--json", "--report", "report.json")
    content = json.loads(out)
    assert code == 0 and content == json.loads((mlp / "report.json").read_text())
    assert content["session_options"] == {"session.a": "b=c"}


def test_two_files_of_one_name(mlp, tmp_path, no_child):
    (tmp_path / "float.onnx").write_bytes((mlp / "float.onnx").read_bytes())
    found = getac.bench([mlp / "float.onnx", tmp_path / "float.onnx"], **QUICK)
    assert [column.header for column in bench_tables(found).renderables[0].columns[1:]] == [
        str(mlp / "float.onnx"),
        str(tmp_path / "float.onnx"),
    ]


def custom_operator(path):
    node = onnx.helper.make_node("Nothing", ["x"], ["y"], domain="nobody")
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("nobody", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.onnx",), ("no such model file", "none.onnx")),
        (("data.npz",), ("not an ONNX file",)),
        (("custom.onnx",), ("onnxruntime cannot load the model", "custom.onnx")),
        (("float.onnx", "--data", "none.npz"), ("no such file",)),
        (("float.onnx", "--size", "N"), ("--size takes a name and a value",)),
        (("float.onnx", "--size", "N=x"), ("--size is not a whole number",)),
        (("float.onnx", "--session-option", "a"), ("NAME=VALUE",)),
        (("float.onnx", "--report", "float.onnx"), ("same file as an input",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_paragraph(command, mlp, arguments, words):
    custom_operator(mlp / "custom.onnx")
    code, out, err = command(*arguments, "--rounds", 1, "--budget", 0)
    assert code == 2 and out == "" and err.startswith("getac: ") and "Traceback" not in err
    assert all(word in err for word in words), err


def test_help_does_not_load_onnxruntime():
    code = "import sys, getac.cli; print([m for m in ('onnxruntime', 'onnx', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
