"""The digits table's form, on few images and epochs; its figures are for a sweep to measure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")


from getac.qasso.schedule import Schedule
from tools import bench_digits
from tools.digits.data import load_digits
from tools.digits.measuring import Measured
from tools.digits.methods import Stages
from tools.digits.networks import NETWORKS
from tools.digits.results import Result, figures, read, table
from tools.digits.settings import QUICK, SETTINGS, Goal, Training

QUICKLY = ["--quick", "--network", "vit", "--seed", "3"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, torch_threads: None) -> Path:
    """What a quick run of two of the methods leaves."""
    path = tmp_path_factory.mktemp("digits") / "digits.json"
    assert bench_digits.main([*QUICKLY, "--method", "dense", "joint", "--json", str(path)]) == 0
    return path


def test_dense_is_the_measure_of_all(file: Path) -> None:
    dense, joint = read(file)
    assert (dense.method, joint.method, dense.seed) == ("dense", "joint", 3)
    assert (dense.measured.parameters, dense.measured.macs, dense.measured.bops) == (1, 1, 1)
    assert dense.time_ratio == 1 and joint.time_ratio is not None
    assert joint.measured.macs < 0.6 and joint.measured.bops < 0.03
    assert joint.measured.file_bytes < dense.measured.file_bytes
    assert len(joint.seconds) == QUICK["vit"].training.epochs
    content = json.loads(file.read_text())
    assert content["figures"]["vit"]["accuracy"]["at_least"] == 0.966
    assert {"getac", "onnxruntime"} <= content["versions"].keys() and "flags" in content["machine"]


def test_a_sweep_goes_on_where_it_was(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read(file)
    given = [*QUICKLY, "--method", "dense", "joint", "--json", str(file)]
    assert bench_digits.main(given) == 0
    assert read(file) == before
    said = capsys.readouterr()
    assert "nothing left to train" in said.err and "vit joint" in said.out


def result(seed: int, accuracy: float, bops: float, time: float | None, **more: Any) -> Result:
    measured = Measured(accuracy, 0.2, 0.25, bops, 1000, 2.0)
    return replace(Result("resnet20", "joint", seed, measured, [1.0], time, "none"), **more)


def test_means_over_seeds_are_held_to_the_targets() -> None:
    found = figures([result(0, 0.98, 0.01, 1.2), result(1, 0.97, 0.02, 1.6)])
    assert found.keys() == {"resnet20"} and found["resnet20"]["seeds"] == [0, 1]
    assert found["resnet20"]["accuracy"] == {"at_least": 0.978, "passed": False, "value": 0.975}
    assert found["resnet20"]["bops"]["passed"] and not found["resnet20"]["time_ratio"]["passed"]
    assert "time_ratio" not in figures([result(0, 0.98, 0.01, None)])["resnet20"]


def test_the_table_has_a_row_per_method() -> None:
    head, dense, joint = table(
        [result(0, 0.98, 1.0, None, method="dense"), result(0, 0.98, 0.015, 1.25)]
    ).splitlines()
    assert head.split()[:3] == ["seeds", "accuracy", "parameters"]
    assert dense.split()[-2:] == ["-", "none"]
    numbers = ["0.9800", "20.0%", "25.0%", "1.50%", "1000", "2.00", "1.25"]
    assert joint.split() == ["resnet20", "joint", "1", *numbers, "none"]


def test_stages_are_those_of_the_schedule() -> None:
    stages = Stages.of(Training(), 1347)
    assert stages == Stages(66, 132, 132, 6, 330)
    total = Schedule(projection_periods=6, **vars(stages)).total
    assert total == Schedule(projection_periods=6, **vars(stages.at_once)).total == 30 * 22
    assert stages.at_once.joint == stages.at_once.joint_periods == 1
    assert stages.at_once.cool_down == stages.cool_down


def test_the_data_are_those_of_the_issue() -> None:
    train, test = load_digits()
    assert (len(train), len(test)) == (1347, 450)
    assert train.images.shape[1:] == (1, 16, 16)
    assert float(train.images.mean()) == pytest.approx(0, abs=1e-5)
    assert float(train.images.std()) == pytest.approx(1, abs=1e-5)


def test_networks_have_the_sizes_that_the_table_is_about() -> None:
    counts = {name: sum(p.numel() for p in make().parameters()) for name, make in NETWORKS.items()}
    assert counts == {"resnet20": 272186, "vit": 136778}


def test_tricks_are_off_unless_asked_for() -> None:
    assert Goal(0.5).tricks == "none"
    found = {name: one.goal.tricks for name, one in SETTINGS.items()}
    assert found == {"resnet20": "none", "vit": "distillation, float warm-up"}
    both = Goal(0.5, distill=1.0, renormalise=True)
    assert both.tricks == "distillation, batch norms re-estimated"
