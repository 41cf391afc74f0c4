"""The command line: what it prints, what it writes, how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from getac.plans.plan import versions
from tools.zoo.registry import ZOO


@pytest.fixture
def files(tmp_path):
    """A model and its calibration data."""
    onnx.save(ZOO["mlp_gemm_transposed"](), tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)
    np.savez(tmp_path / "c.npz", features=x)
    return tmp_path


def test_lower_writes_everything_and_prints_the_report(command_line, files):
    code, out, err = command_line(
        *("lower", files / "m.onnx", "-o", files / "o.onnx", "--sparsity", "0.5"),
        *("--calibration", files / "c.npz", "--report", files / "r.json", "--plan", files / "p.json"),
    )
    assert (code, err) == (0, "")
    assert {path.name for path in files.iterdir()} == {"m.onnx", "c.npz", "o.onnx", "r.json", "p.json"}
    report, plan = (json.loads((files / name).read_text()) for name in ("r.json", "p.json"))
    assert report["latency"]["ratio"] > 0 and report["sparsity"] == 0.5 == report["sparsity_requested"]
    assert [len(one["kept"]) for one in plan["classes"]] == [
        row["channels_out"] for row in report["layers"][:2]
    ]
    for text in (
        "gemm_2",
        "integer (QGemm)",
        "48 -> ",
        "latency, 1 thread",
        "removed 40 of 80 units (50%)",
        "3 of 3 layers run",
    ):
        assert text in out
    assert "sliced = reference on gemm_4" in out and "(calibration data)" in out
    assert "verified and written to" in out and "same top-1" in out
    assert "no calibration data" not in out


def test_lower_without_data_says_so(command_line, files):
    code, out, _ = command_line("lower", files / "m.onnx", "--output", files / "o.onnx", "--no-bench")
    assert code == 0 and "latency" not in out
    assert "no calibration data: weights are integers, activations stay in floats" in out
    assert "(generated inputs)" in out and "removed 0 of 80 units (0%)" in out


def test_options_reach_the_passes(command_line, files):
    arguments = (
        "lower",
        files / "m.onnx",
        "-o",
        files / "o.onnx",
        "--no-bench",
        "--report",
        files / "r.json",
    )
    code, _, _ = command_line(
        *arguments,
        *("--sparsity", "0.3", "--align", "8", "--calibration", files / "c.npz"),
        *("--ranges", "mse", "--weight-bits", "6", "--activation-bits", "7"),
    )
    layers = json.loads((files / "r.json").read_text())["layers"]
    assert code == 0 and {(row["weight_bits"], row["activation_bits"]) for row in layers} == {(6, 7)}
    assert [row["channels_out"] % 8 for row in layers[:2]] == [0, 0]
    assert sum(row["channels_out"] for row in layers[:2]) == 56


def test_auto_is_the_default_in_words_too(command_line, files):
    arguments = ("lower", files / "m.onnx", "--no-bench", "-o")
    assert command_line(*arguments, files / "a.onnx", "--sparsity", "auto", "--align", "auto")[0] == 0
    assert command_line(*arguments, files / "b.onnx")[0] == 0
    assert (files / "a.onnx").read_bytes() == (files / "b.onnx").read_bytes()


def test_inspect_prints_classes_and_frozen_axes(command_line, files):
    code, out, err = command_line("inspect", files / "m.onnx")
    assert (code, err) == (0, "")
    assert "2 classes" in " ".join(out.split()) and "gemm_0: weight[0]" in out
    assert "a graph input" in out and "a graph output" in out


def test_inspect_prints_json(command_line, files):
    code, out, _ = command_line("inspect", files / "m.onnx", "--json")
    found = json.loads(out)
    assert code == 0 and [one["units"] for one in found["classes"]] == [48, 32]
    assert {one["reason"] for one in found["frozen"]} == {"a graph input", "a graph output"}


def test_inspect_shows_quantizers(command_line, files):
    data = "--calibration", files / "c.npz"
    command_line("lower", files / "m.onnx", "-o", files / "q.onnx", "--no-bench", *data)
    code, out, _ = command_line("inspect", files / "q.onnx")
    assert code == 0 and "quantized value" in out and "-127 to 127" not in out
    assert "-128 to 127" in out and "48 along dimension 0" in out


def test_the_version(command_line):
    code, out, _ = command_line("--version")
    assert code == 0 and out == f"getac {versions()['getac']}\n"


def test_a_sparsity_out_of_reach_is_explained(command_line, files):
    arguments = ("lower", files / "m.onnx", "-o", files / "o.onnx", "--no-bench", "--sparsity", "0.5")
    code, out, _ = command_line(*arguments, "--align", "64", "--report", files / "r.json")
    assert code == 0 and "asked for 50% of the units, removed 0%" in out
    assert "a multiple of 64 units" in " ".join(out.split())
    assert any("asked for 50%" in note for note in json.loads((files / "r.json").read_text())["notes"])


def test_a_glob_that_matches_nothing(command_line, files):
    code, out, err = command_line("lower", files / "m.onnx", "-o", files / "o.onnx", "--keep", "nope")
    assert (code, out) == (2, "") and "a glob of keep matches no parameter" in err
    assert not (files / "o.onnx").exists()


def test_without_arguments_there_is_help(command_line):
    code, out, err = command_line()
    text = out + err
    assert code in (0, 2) and "lower" in text and "inspect" in text and "demo" in text


@pytest.mark.parametrize("command", ["lower", "apply", "inspect", "bench", "verify", "demo", "opt"])
def test_every_command_has_help(command_line, command):
    code, out, _ = command_line(command, "--help")
    assert code == 0 and "Usage" in out


@pytest.mark.parametrize(
    "arguments", [("lower",), ("lower", "m.onnx"), ("lower", "m.onnx", "-o", "o", "--bits", "8"), ("loewr",)]
)
def test_wrong_usage_exits_with_2_and_no_traceback(command_line, arguments):
    code, _, err = command_line(*arguments)
    assert code == 2 and "Traceback" not in err and err


def test_an_interrupt_exits_with_130(command_line, files, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("getac.lowering.compress", interrupted)
    code, _, err = command_line("lower", files / "m.onnx", "-o", files / "o.onnx")
    assert code == 130 and "Traceback" not in err
    assert {path.name for path in files.iterdir()} == {"m.onnx", "c.npz"}


def test_as_a_process(files):
    """The whole thing once for real: a pipe for a terminal, and `python -m getac`."""
    command = [sys.executable, "-m", "getac", "lower", "m.onnx", "-o", "o.onnx", "--no-bench"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, cwd=files, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "verified and written to o.onnx" in done.stdout and "\x1b" not in done.stdout
    again = subprocess.run(
        [*command[:4], "o.onnx", *command[5:]], cwd=files, env=environment, capture_output=True, text=True
    )
    assert again.returncode == 2 and again.stdout == ""
    assert again.stderr.startswith("getac: the output is the same file as an input\n")
