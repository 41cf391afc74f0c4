"""The benchmark's form, on tiny networks; its figures are for a quiet machine to measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.benchmark import Figure, rounded
from tools.lowered.measuring import quiet_medians
from tools.lowered.profiling import kernel_shares, limits
from tools.lowered.rows import ROWS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the script prints and writes, run as a developer runs it."""
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    command = [sys.executable, str(ROOT / "tools" / "bench_lower.py"), "--quick", "--json", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # where getac is not installed
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(path.read_text())
    return json.loads(path.read_text())


def test_every_row_stands_beside_its_targets(content: Any) -> None:
    for name, row in ROWS.items():
        part, targets = content[name], row.targets
        assert part["speedup"].get("at_least") == targets.speedup
        assert part["share_of_float_file"].get("at_most") == targets.share
        assert part["rival_to_lowered"].get("at_least") == targets.rival
        assert part["file_to_weight_bits"]["at_most"] == 1.1
        assert part["latency_ms"].keys() == part["file_bytes"].keys() == {"float", "lowered", "rival"}
    lowering = content["lower"]
    bound = 20 * lowering["float_pass_seconds"] + 5
    assert lowering["seconds"]["at_most"] == pytest.approx(bound, rel=1e-3)


def test_targets_are_those_of_the_project() -> None:
    found = {name: row.targets for name, row in ROWS.items()}
    assert found["resnet18, int8"].speedup == 3.1
    assert (found["resnet18, 4-bit weights"].share, found["resnet18, 2-bit weights"].share) == (0.13, 0.07)
    assert found["resnet18, int8, 50 % of groups"].speedup == 6.0
    assert (
        found["bert layer, 4-bit weights"].speedup == 2.6 and found["bert layer, 4-bit weights"].share == 0.14
    )
    assert found["mobilenet_v2, int8"].rival == 1.0


def test_layers_run_on_the_kernels_that_they_should_at_any_size(content: Any) -> None:
    for name in ("resnet18, int8", "resnet18, int8, 50 % of groups"):
        layers = content[name]["layers"]
        assert sum(layers.values()) == 21 and layers["Gemm: integer (QGemm)"] == 1
    assert content["bert layer, int8"]["layers"]["MatMul: integer (QGemm)"] == 6
    assert (
        content["decoder, sequence 1, weight-only int4"]["layers"]["MatMul: weight-only (MatMulNBits)"] == 7
    )


def test_sparsity_is_what_was_asked_for(content: Any) -> None:
    dense, pruned = content["resnet18, int8"], content["resnet18, int8, 50 % of groups"]
    assert (dense["removed_share"], dense["macs_ratio"]) == (0, 1)
    assert pruned["removed_share"] == pytest.approx(0.5, abs=0.02)
    assert pruned["macs_ratio"] > 2
    assert pruned["file_bytes"]["lowered"] < dense["file_bytes"]["lowered"]


def test_time_is_told_by_kernel_and_by_step(content: Any) -> None:
    for name in ROWS:
        kernels = content[name]["time_per_kernel"]
        assert kernels.keys() == {"float", "lowered", "rival"}
        assert sum(one["share"] for one in kernels["lowered"].values()) == pytest.approx(1, abs=1e-3)
        assert "of the lowered time" in content[name]["limits"]
    steps = content["lower"]["step_seconds"]
    assert {"calibrate", "verify", "write"} <= steps.keys()
    assert sum(steps.values()) == pytest.approx(content["lower"]["seconds"]["value"], rel=1e-2)


def test_says_what_it_ran_on(content: Any) -> None:
    assert "avx512_vnni" in content["machine"]["flags"]
    assert {"getac", "onnx", "onnxruntime", "numpy"} <= content["versions"].keys()
    assert content["passed"] is None  # targets are for the full size


def test_figures_are_held_to_their_bounds() -> None:
    assert Figure(2.8, at_least=2.8).passed and not Figure(2.79, at_least=2.8).passed
    assert Figure(1.1, at_most=1.1).passed and not Figure(1.11, at_most=1.1).passed
    assert Figure(2.0, at_most=1.0).as_json() == {"value": 2.0, "at_most": 1.0, "passed": False}


def test_rounds_in_which_others_were_busy_do_not_count() -> None:
    times = {"float": [10.0, 20.0, 10.2, 30.0, 10.1, 25.0], "lowered": [1.0, 4.0, 1.2, 9.0, 1.1, 6.0]}
    assert quiet_medians(times) == {"float": 10.1, "lowered": 1.1}
    assert quiet_medians({"float": [3.0], "lowered": [2.0]}) == {"float": 3.0, "lowered": 2.0}


def test_kernel_times_are_medians_per_node_summed_by_operator() -> None:
    def event(name: str, operator: str, microseconds: int) -> dict[str, Any]:
        return {"cat": "Node", "name": name, "dur": microseconds, "args": {"op_name": operator}}

    events = [event("a_kernel_time", "Conv", duration) for duration in (9000, 1000, 1000)]
    events += [event("b_kernel_time", "Conv", 2000), event("c_kernel_time", "Add", 1000)]
    events += [event("a_fence_before", "Conv", 5000), {"cat": "Session", "name": "run", "dur": 1}]
    assert kernel_shares(events) == {"Conv": {"ms": 3, "share": 0.75}, "Add": {"ms": 1, "share": 0.25}}


def test_limits_name_what_multiplies_nothing() -> None:
    before = {"Conv": {"ms": 9.0, "share": 0.9}, "Add": {"ms": 1.0, "share": 0.1}}
    after = {"QLinearConv": {"ms": 3.0, "share": 0.75}, "QLinearAdd": {"ms": 1.0, "share": 0.25}}
    assert limits(before, after) == (
        "convolutions and matrix products 3.00x faster, 75% of the lowered time; the rest: QLinearAdd 25%"
    )


def test_numbers_are_rounded_to_four_digits() -> None:
    assert rounded({"a": {"b": 3.14159265}, "c": 11678912, "d": "x"}) == {
        "a": {"b": 3.142},
        "c": 11678912,
        "d": "x",
    }
