"""`getac opt`: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import EntryPoint

import numpy as np
import onnx
import pytest

import getac as library
from getac.pipelines import registry
from tools.onnx_text import model_of
from tools.zoo.registry import ZOO

ISSUE = "fold-quantizers,infer-axes,slice-units{sparsity=0.3,align=8},lower-integers{target=portable}"
PASSES = '''
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from getac.onnx_graph.edit import array_of, replace_tensor
from getac.passes import Fact, State

@dataclass(frozen=True)
class Scales:
    """Multiplies a weight."""
    factor: float = 2.0
    weight: str = "v"
    name: ClassVar[str] = "scales"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()
    def run(self, state: State) -> None:
        value = state.model.graph.initializers[self.weight]
        replace_tensor(value, array_of(value) * np.float32(self.factor))

@dataclass(frozen=True)
class Fails(Scales):
    """Raises something of its own."""
    name: ClassVar[str] = "fails"
    def run(self, state: State) -> None:
        if any(node.op_type == "Relu" for node in state.model.graph):
            raise LookupError("there is a Relu")

@dataclass(frozen=True)
class Lies(Scales):
    """Claims what is not so."""
    name: ClassVar[str] = "lies"
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.LOWERED})
    def run(self, state: State) -> None:
        state.model.graph.node(0).attributes.clear()
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    body = "c = Conv<group=1>(x, w)  r = Relu(c)  d = Conv(r, v)  y = Add(d, d)"
    onnx.save(
        model_of(body, {"x": [2, 3, 6, 6]}, {"w": (16, 3, 3, 3), "v": (4, 16, 1, 1)}), tmp_path / "m.onnx"
    )
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32))
    (tmp_path / "own.py").write_text(PASSES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def opt(command_line, folder):
    """Runs `getac opt` in the folder."""
    return partial(command_line, "opt")


def rows(out):
    """Pass -> the words behind it."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}


# What runs


def test_the_pipeline_of_the_documentation_on_floats(opt, folder):
    code, out, err = opt("m.onnx", "-p", ISSUE, "-o", "out.onnx", "--calibration", "c.npz")
    assert (code, err) == (0, "")
    assert rows(out)["choose-units"] == ["(added)", "as", "it", "was"]
    assert rows(out)["slice-units"] == rows(out)["lower-integers"] == ["changed"]
    weights = {one.name: tuple(one.dims) for one in onnx.load("out.onnx").graph.initializer}
    assert weights["w.int"] == (8, 3, 3, 3)
    kinds = {node.op_type for node in onnx.load("out.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds and "Relu" not in kinds


def test_the_pipeline_of_the_documentation_on_a_quantized_model(opt, folder):
    x = np.load("c.npz")["x"]
    library.lower("m.onnx", "q.onnx", calibration={"x": x}, bench=False)
    code, out, err = opt("q.onnx", "-p", ISSUE, "-o", "out.onnx", "--verify-each")
    assert (code, err) == (0, "") and rows(out)["fold-quantizers"][0] == "changed"
    weights = {one.name: tuple(one.dims) for one in onnx.load("out.onnx").graph.initializer}
    assert (8, 3, 3, 3) in weights.values()


def test_a_target_packs_what_was_lowered(opt, folder):
    onnx.save(ZOO["mlp_gemm_transposed"](), "m.onnx")
    np.savez("c.npz", features=np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32))
    passes = "quantize-weights{bits=4},lower-integers"
    assert opt("m.onnx", "-p", passes, "-o", "plain.onnx", "--calibration", "c.npz")[0] == 0
    packed = f"{passes}{{target=portable}}"
    assert opt("m.onnx", "-p", packed, "-o", "packed.onnx", "--calibration", "c.npz")[0] == 0
    sizes = [(folder / name).stat().st_size for name in ("plain.onnx", "packed.onnx")]
    assert sizes[1] < sizes[0]
    report = library.compare("plain.onnx", "packed.onnx", tolerance=1e-6)
    assert report.passed


def test_without_a_place_for_data_there_is_a_hint(opt, folder):
    code, out, err = opt("m.onnx", "-p", ISSUE, "-o", "out.onnx")
    assert (code, out) == (2, "") and "activations need calibration data" in err
    assert not (folder / "out.onnx").exists()


def test_several_options_of_passes_are_one_pipeline(opt):
    code, out, _ = opt("m.onnx", "-p", "infer-shapes", "-p", "own.py:Scales{factor=3},remove-dead")
    assert code == 0
    assert list(rows(out)) == ["pass", "infer-shapes", "scales", "remove-dead"]


# What is shown


def test_print_after_one_pass(opt):
    code, out, _ = opt("m.onnx", "-p", "infer-shapes,own.py:Scales", "--print-after", "infer-shapes")
    assert code == 0 and out.count("after ") == 1
    text = out[: out.index("pass ")]
    assert text.startswith("after infer-shapes:\ninputs   x: float[2,3,6,6]\n")
    assert "  c: float[2,16,4,4] = Conv(x, w; group=1)\n" in text and "\noutputs  y\n" in text


def test_print_after_all_shows_origins_and_records(opt):
    passes = "infer-axes,slice-units{sparsity=0.5,align=8},calibrate"
    code, out, _ = opt("m.onnx", "-p", passes, "--print-after", "all", "--calibration", "c.npz")
    names = [
        line.removeprefix("after ").rstrip(":") for line in out.splitlines() if line.startswith("after ")
    ]
    expected = ["fold-quantizers", "infer-shapes", "infer-axes", "choose-units", "slice-units", "calibrate"]
    assert code == 0 and names[:6] == expected
    assert "@8 bits" in out  # the records of calibrate


def test_time_adds_a_column(opt):
    code, out, _ = opt("m.onnx", "-p", "infer-shapes", "--time")
    assert code == 0 and out.split()[:3] == ["pass", "graph", "ms"]
    assert float(rows(out)["infer-shapes"][-1]) >= 0
    assert "ms" not in opt("m.onnx", "-p", "infer-shapes")[1]


def test_verify_each_adds_a_column(opt):
    code, out, _ = opt("m.onnx", "-p", "infer-axes,slice-units{sparsity=0.5,align=8}", "--verify-each")
    assert code == 0 and out.split()[:3] == ["pass", "graph", "agreement"]
    assert rows(out)["slice-units"][-1] == "dB" and float(rows(out)["slice-units"][-2]) > 100


def test_verify_each_names_the_pass(opt, folder):
    arguments = ("m.onnx", "-p", "infer-shapes,own.py:Scales,remove-dead", "--verify-each", "-o", "out.onnx")
    code, out, err = opt(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("getac: the pass scales changes what the model computes\n")
    assert "the first value that departs: d " in err and "Conv node d" in err
    assert not (folder / "out.onnx").exists()


def test_dump_dir_has_every_step_as_a_model_that_runs(opt, folder):
    passes = "infer-axes,slice-units{sparsity=0.5,align=8},calibrate"
    code, *_ = opt("m.onnx", "-p", passes, "--dump-dir", "dumps/all", "--calibration", "c.npz")
    names = sorted(path.name for path in (folder / "dumps" / "all").iterdir())
    assert code == 0 and names[4:6] == ["05-slice-units.onnx", "06-calibrate.onnx"]
    kinds = [node.op_type for node in onnx.load(folder / "dumps" / "all" / names[5]).graph.node]
    assert "QuantizeLinear" in kinds  # the records are written out
    for name in names:
        assert library.bench(folder / "dumps" / "all" / name) is not None


@pytest.fixture
def installed(monkeypatch):
    """Makes passes of installed packages."""

    def install(**entries):
        found = [EntryPoint(name.replace("_", "-"), value, registry.GROUP) for name, value in entries.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: found)

    install()
    return install


def test_list_passes(opt, installed):
    code, out, err = opt("--list-passes")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 140
    names = [line.split()[0] for line in lines if line[0] != " "]
    assert names == ["pass", *registry.built_in_passes(), "analysis"]
    start = lines[0].index("what it does")
    assert all(line[start - 1] == " " for line in lines)  # nothing of one column runs into the next
    text = " ".join(out.split())
    for words in (
        "sparsity: float|none=none",
        "target: portable|ort|none=none",
        "keep: list=[]",
        "weights quantized",
    ):
        assert words in text


def test_list_passes_shows_the_effect(opt, installed):
    lines = opt("--list-passes")[1].splitlines()
    assert lines[0].split()[-1] == "effect"
    effects = {line.split()[0]: line.split()[-1] for line in lines if line[0] != " "}
    assert (effects["slice-units"], effects["calibrate"]) == ("removes", "rounds")
    assert effects["lower-integers"] == "kernels" and effects["remove-dead"] == "none"


def test_list_passes_shows_those_of_packages_like_getac_s(opt, installed):
    installed(
        slicer="getac.passes.slice_units:SliceUnits",
        calibrate="getac.passes.remove_dead:RemoveDead",
        lost="no_such_package:Pass",
        thing="getac.passes.slice_units:__all__",
    )
    code, out, _ = opt("--list-passes")
    assert code == 0
    parts = [" ".join(one.split()) for one in out.split("slicer")]
    assert "sparsity: float|none=none" in parts[1] and "sliced" in parts[1] and "removes" in parts[1]
    assert "getac/calibrate" in out and "Removes" in parts[1].partition("getac/calibrate")[2]
    assert "cannot be imported: ModuleNotFoundError" in parts[1]


def test_print_after_what_did_not_run(opt):
    code, out, _ = opt("m.onnx", "-p", "remove-dead", "--print-after", "calibrate")
    assert code == 0 and "calibrate did not run: there is nothing to print after it" in out


def test_dumps_do_not_overwrite_the_model(opt, folder):
    (folder / "m.onnx").rename(folder / "01-remove-dead.onnx")
    before = (folder / "01-remove-dead.onnx").read_bytes()
    code, _, err = opt("01-remove-dead.onnx", "-p", "remove-dead", "--dump-dir", ".")
    assert code == 2 and "the output is the same file as an input" in err
    assert (folder / "01-remove-dead.onnx").read_bytes() == before


def test_refusals_are_listed(opt):
    onnx.save(onnx.parser.parse_model(GELU), "m.onnx")
    code, out, _ = opt("m.onnx", "-p", "infer-axes")
    assert code == 0 and "infer-axes: y: com.microsoft::QuickGelu: no rule" in out.replace("\n", " ")


GELU = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
g (float[2,4] x) => (float[2,4] y) { [y] y = com.microsoft.QuickGelu(x) }"""


def test_json(opt, folder):
    passes = "infer-axes,slice-units{sparsity=0.5,align=8}"
    code, *_ = opt("m.onnx", "-p", passes, "--json", "r.json", "--verify-each")
    found = json.loads((folder / "r.json").read_text())
    assert code == 0 and found.keys() == {"passes", "refusals", "checks", "origins"}
    last = found["passes"][-1]
    assert (last["name"], last["changed"], last["added"]) == ("slice-units", True, False)
    assert last["seconds"] > 0 and found["checks"][-1]["effect"] == "removes"
    assert [one["name"] for one in found["checks"]] == [one["name"] for one in found["passes"]]
    assert found["origins"] == {}  # other weights do not make another node


# How it fails


def test_an_own_pass_that_raises_is_named(opt, folder, monkeypatch):
    monkeypatch.delenv("GETAC_DEBUG", raising=False)
    code, out, err = opt("m.onnx", "-p", "own.py:Fails", "-o", "out.onnx")
    assert (code, out) == (2, "") and "Traceback" not in err
    assert err.startswith("getac: the pass fails failed\n")
    assert "found     LookupError: there is a Relu" in err
    assert "own.py, line " in err and "in run" in err and "GETAC_DEBUG=1" in err
    assert not (folder / "out.onnx").exists()


def test_its_author_sees_the_traceback(opt, monkeypatch):
    monkeypatch.setenv("GETAC_DEBUG", "1")
    code, _, err = opt("m.onnx", "-p", "own.py:Fails")
    assert code == 2 and 'raise LookupError("there is a Relu")' in err
    assert "getac: the pass fails failed\n" in err


def test_a_broken_promise_names_the_node_and_its_origin(opt):
    code, _, err = opt("m.onnx", "-p", "own.py:Lies")
    assert code == 2 and "the pass lies left a model of which this is not true" in err
    assert "c (after lies) has neither stored integers nor a reason" in err


def test_reduce_writes_the_part_that_fails(opt, folder):
    code, out, err = opt("m.onnx", "-p", "own.py:Fails", "--reduce", "small.onnx")
    assert code == 2 and "small.onnx: 1 of 4 nodes still fail" in out
    assert err.startswith("getac: the pass fails failed\n")
    assert [node.op_type for node in onnx.load("small.onnx").graph.node] == ["Relu"]
    assert "the pass fails failed" in opt("small.onnx", "-p", "own.py:Fails")[2]


def test_reduce_finds_what_departs(opt):
    code, out, err = opt("m.onnx", "-p", "own.py:Scales", "--verify-each", "--reduce", "small.onnx")
    assert code == 1 and "the pass scales changes what the model computes" in err
    assert "small.onnx: 1 of 4 nodes" in out
    assert [node.name for node in onnx.load("small.onnx").graph.node] == ["d"]


def test_reduce_with_nothing_to_reduce(opt, folder):
    code, out, err = opt("m.onnx", "-p", "remove-dead", "--reduce", "small.onnx")
    assert (code, out) == (2, "") and "there is nothing to reduce: the pipeline does not fail" in err
    assert not (folder / "small.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["there is nothing to run", "--list-passes"]),
        (("m.onnx",), ["there is nothing to run"]),
        (("m.onnx", "-p", "fold-everything"), ["there is no pass fold-everything", "fold-quantizers"]),
        (("m.onnx", "-p", "slice-units{"), ["this is not a pipeline", "<here>"]),
        (("m.onnx", "-p", "slice-units{share=1}"), ["no option share", "sparsity: float|none=none"]),
        (
            ("m.onnx", "-p", "slice-units{sparsity=2}"),
            ["share of units", "where     slice-units{sparsity=2}\n"],
        ),
        (("m.onnx", "-p", "slice-units"), ["slice-units cannot run here", "units to remove are chosen"]),
        (("m.onnx", "-p", "lower-integers{target=gpu}"), ["target has a value of another type"]),
        (("m.onnx", "-p", "replay-units"), ["needs options", "plan"]),
        (("m.onnx", "-p", "infer-axes,replay-units{plan=none.json}"), ["the plan cannot be read"]),
        (("n.onnx", "-p", "remove-dead"), ["n.onnx"]),
        (("m.onnx", "-p", "remove-dead", "-o", "m.onnx"), ["same file as an input"]),
        (("m.onnx", "-p", "remove-dead", "--reduce", "m.onnx"), ["same file as an input"]),
        (("m.onnx", "-p", "none.py:Mine"), ["there is no such file"]),
        (("m.onnx", "-p", "remove-dead", "--json", "m.onnx"), ["same file as an input"]),
        (("m.onnx", "-p", "remove-dead", "-o", "o.onnx", "--json", "o.onnx"), ["two outputs are the same"]),
        (("m.onnx", "-p", "remove-dead", "-o", "o.onnx", "--json", "no/r.json"), ["no/r.json"]),
        (("m.onnx", "-p", "remove-dead", "--calibration", "c.npz", "--json", "c.npz"), ["an input"]),
        (("m.onnx", "-p", "remove-dead", "--verify-each", "--seed", "-1"), ["--seed"]),
        (("m.onnx", "-p", "remove-dead", "--print-after", "remove-daed"), ["remove-dead is nearly that"]),
        (("m.onnx", "-p", "infer-axes{keep=[none*]}"), ["a glob of keep matches no parameter", "none*"]),
        (("m.onnx", "-p", "infer-axes{prune=[none*]}"), ["a glob of prune matches no parameter"]),
        (
            ("m.onnx", "-p", "own.py:Fails", "--reduce", "s.onnx", "-o", "o.onnx", "--json", "r", "--time"),
            ["--reduce writes the part of the model that fails", "-o, --json, --time"],
        ),
        (
            ("m.onnx", "-p", "own.py:Fails", "--reduce", "s.onnx", "--print-after", "all", "--dump-dir", "d"),
            ["--print-after, --dump-dir"],
        ),
    ],
)
def test_wrong_arguments(opt, folder, arguments, words):
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    code, out, err = opt(*arguments)
    assert (code, out) == (2, "") and "Traceback" not in err
    for word in words:
        assert word in err
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_plan_in_a_pipeline(opt, folder):
    x = np.load("c.npz")["x"]
    library.lower("m.onnx", calibration={"x": x}, sparsity=0.5, plan="plan.json", bench=False)
    passes = (
        "infer-axes,replay-units{plan=plan.json},slice-units,replay-quantizers{plan=plan.json},"
        "quantize-weights,calibrate,lower-integers"
    )
    code, out, err = opt("m.onnx", "-p", passes, "-o", "out.onnx", "--verify-each")
    assert (code, err) == (0, "") and rows(out)["replay-units"][0] == "as"
    weights = {one.name: tuple(one.dims) for one in onnx.load("out.onnx").graph.initializer}
    assert weights["w.int"] == (8, 3, 3, 3)
