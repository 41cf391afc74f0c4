"""The plan: kept units of every class and the quantizer of every value."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import getac
from getac.plans.plan import quantizer_entry, sha256, versions
from getac.quantizer import Quantizer
from tests.plan_schema import SCHEMA, problems
from tools.zoo.registry import ZOO

F32 = np.float32


def plan_of(path, **options):
    getac.lower(plan=path, bench=False, **options)
    return json.loads(path.read_text())


@pytest.fixture
def data():
    return {"features": np.random.default_rng(0).normal(size=(8, 64)).astype(F32)}


def test_a_plan_has_every_decision(tmp_path, data):
    onnx.save(ZOO["mlp_gemm"](), tmp_path / "m.onnx")
    plan = plan_of(tmp_path / "p.json", model=tmp_path / "m.onnx", sparsity=0.5, calibration=data)
    assert list(problems(plan)) == []
    assert (plan["plan_version"], plan["integer"], plan["keep"], plan["floats"]) == (2, True, [], {})
    digest = hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    assert plan["source"] == {"name": "m.onnx", "sha256": digest}
    assert (plan["sparsity"], plan["exact"]) == (0.5, False)
    assert [one["units"] for one in plan["classes"]] == [48, 32]
    assert plan["classes"][0]["members"] == [
        {"parameter": "gemm_0.weight", "dimension": 1},
        {"parameter": "gemm_0.bias", "dimension": 0},
        {"parameter": "gemm_2.weight", "dimension": 0},
    ]


def test_quantizers_are_those_of_the_sliced_model(tmp_path, data):
    plan = plan_of(tmp_path / "p.json", model=ZOO["mlp_gemm"](), sparsity=0.5, calibration=data)
    quantizers, kept = plan["quantizers"], len(plan["classes"][0]["kept"])
    assert quantizers.keys() == {
        *("features", "sigmoid_1", "sigmoid_3"),
        *("gemm_0.weight", "gemm_2.weight", "gemm_4.weight"),
    }
    weight = quantizers["gemm_0.weight"]
    assert (weight["bits"], weight["low"], weight["high"], weight["axis"]) == (8, -127, 127, 1)
    assert (weight["stored"], weight["of"], quantizers["features"]["stored"]) == (True, "getac", False)
    assert len(weight["step"]) == kept
    assert (quantizers["sigmoid_1"]["low"], quantizers["sigmoid_1"]["axis"]) == (0, None)


def test_nothing_removed_is_everything_kept(tmp_path):
    plan = plan_of(tmp_path / "p.json", model=ZOO["mlp_gemm"]())
    assert plan["exact"] is True and plan["source"] is None
    assert [one["kept"] for one in plan["classes"]] == [list(range(48)), list(range(32))]


def test_entries_of_quantizers():
    whole = quantizer_entry(Quantizer(np.asarray(0.5, F32), 0, 15))
    assert whole == {"bits": 4, "low": 0, "high": 15, "axis": None, "block": None, "step": 0.5}
    rows = quantizer_entry(Quantizer(np.array([0.5, 0.25], F32), -127, 127, 0))
    assert rows == {"bits": 8, "low": -127, "high": 127, "axis": 0, "block": None, "step": [0.5, 0.25]}


def test_hashes_read_in_pieces(tmp_path):
    content = bytes(range(256)) * 9000  # more than one piece
    (tmp_path / "f").write_bytes(content)
    assert sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_versions_name_what_made_the_result():
    assert versions()["onnx"] == onnx.__version__


@pytest.mark.parametrize("name", ZOO)
def test_the_schema_describes_every_plan(tmp_path, name):
    assert list(problems(plan_of(tmp_path / "p.json", model=ZOO[name](), sparsity=0.3))) == []


def test_quantizers_of_the_model_are_marked(tmp_path, data):
    getac.lower(ZOO["mlp_gemm"](), tmp_path / "q.onnx", calibration=data, bench=False)
    plan = plan_of(tmp_path / "p.json", model=tmp_path / "q.onnx", sparsity=0.5)
    assert {one["of"] for one in plan["quantizers"].values()} == {"model"}
    assert list(problems(plan)) == []


def test_blocks_and_globs_are_written(tmp_path):
    plan = plan_of(
        tmp_path / "p.json", model=ZOO["mlp_matmul"](), weight_bits=4, block=16, sparsity=0.5, keep=["*.bias"]
    )
    assert {one["block"] for one in plan["quantizers"].values()} == {16}
    assert (plan["integer"], plan["keep"]) == (False, ["*.bias"])
    assert list(problems(plan)) == []


@pytest.mark.parametrize(
    ("path", "value", "wrong"),
    [
        (["plan_version"], 1, "plan.plan_version is not 2"),
        (["sparsity"], -0.5, "plan.sparsity is outside its bounds"),
        (["classes", 0, "kept"], [], "plan.classes[0].kept is too short"),
        (["classes", 0, "units"], True, "plan.classes[0].units is no integer"),
        (["quantizers", "sigmoid_1", "of"], "you", "plan.quantizers.sigmoid_1.of is not among"),
        (["quantizers", "sigmoid_1", "step"], 0, "plan.quantizers.sigmoid_1.step is none of several"),
        (["more"], 1, "plan has more"),
    ],
)
def test_the_schema_refuses_what_is_no_plan(tmp_path, data, path, value, wrong):
    plan = plan_of(tmp_path / "p.json", model=ZOO["mlp_gemm"](), sparsity=0.5, calibration=data)
    inner = plan
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (found,) = problems(plan)
    assert found.startswith(wrong)


def test_the_page_explains_every_key():
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text()
    table = page.partition("| key | what |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    keys = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert keys == SCHEMA["properties"].keys()
