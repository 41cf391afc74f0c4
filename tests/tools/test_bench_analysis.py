"""The benchmark's form, on tiny networks; its figures are for a quiet machine to measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from getac.axes.analysis import analyze_view
from tools.bench_analysis import FULL, interleaved, onnx_view, spread, unread_transformer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the script prints and writes, run as a developer runs it."""
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    command = [sys.executable, str(ROOT / "tools" / "bench_analysis.py"), "--quick", "--json", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # where getac is not installed
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(path.read_text())
    return json.loads(path.read_text())


def test_every_figure_stands_beside_its_target(content: Any) -> None:
    assert content["resnet50"]["ms"]["at_most"] == 10
    assert content["onnx_transformer"]["seconds"]["at_most"] == 1
    assert content["onnx_transformer"]["largest_to_best_per_node"]["at_most"] == 1.5
    assert content["width"]["widest_to_narrowest"]["at_most"] == 1.2
    assert content["passed"] is content["resnet50"]["ms"]["passed"] is None  # they are for the full size


def test_torch_pruning_is_compared_with_or_asked_for(content: Any) -> None:
    part = content["resnet50"]
    if find_spec("torch_pruning") is None:
        assert part["to_torch_pruning"] is None and "getac[bench]" in part["hint"]
    else:
        assert part["to_torch_pruning"]["at_least"] == 15
        assert part["torch_pruning_ms"].keys() == {"build", "groups", "spread", "one_forward_pass"}


def test_shape_inference_counts_and_is_told_apart(content: Any) -> None:
    part = content["onnx_transformer"]
    both = part["shape_inference_seconds"] + part["analysis_seconds"]
    assert part["seconds"]["value"] == pytest.approx(both, rel=0.5)  # a median of sums
    assert part["us_per_node"].keys() == {"32", "61"} and part["nodes"] == 61


def test_time_is_told_by_step_and_by_function(content: Any) -> None:
    for part in (content["resnet50"], content["onnx_transformer"]):
        assert part["limits"]["steps"].keys() == {"view", "equations", "masked equals sliced", "the rest"}
        assert len(part["limits"]["hottest_functions"]) == 5


def test_the_full_setting_has_ten_thousand_nodes() -> None:
    model = unread_transformer(FULL.nodes[-1], FULL.width)
    assert len(model.graph) == 10_008


def test_no_weight_is_read_and_all_layers_are_open() -> None:
    model = unread_transformer(61, 32)
    weight = next(v for v in model.graph.initializers.values() if v.name == "matmul_1.weight")
    assert weight.const_value is not None
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        weight.const_value.numpy()
    analysis = analyze_view(onnx_view(model)())
    # Of each layer: heads, the depth of queries and keys, that of values, the hidden units.
    assert sorted(one.size for one in analysis.classes) == [4, 4, 8, 8, 8, 8, 128, 128]


def test_runs_take_turns_after_one_that_does_not_count() -> None:
    calls: list[str] = []
    times = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert {name: len(series) for name, series in times.items()} == {"a": 2, "b": 2}


def test_spread_is_the_quartiles() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"from": 2000, "to": 4000}
