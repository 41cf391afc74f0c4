"""The benchmark's form, on a tiny network; its figures are for a quiet machine to measure."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("torch")


from tools.bench_qasso import main


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory, torch_threads: None) -> Any:
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    assert main(["--quick", "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_every_figure_stands_beside_its_target(content: Any) -> None:
    for name in ("sgd, momentum", "adam", "adamw"):
        assert content["step"][name]["ratio"]["at_most"] == 2.0
    assert "at_most" not in content["step"]["sgd"]["ratio"]
    assert content["selecting"]["ms"]["at_most"] == 100


def test_both_take_time_and_units_are_forgotten(content: Any) -> None:
    for one in content["step"].values():
        assert one["ratio"]["value"] == pytest.approx(one["ms"]["qasso"] / one["ms"]["torch"], rel=1e-2)
        assert one["forgetting_units"] > 0
    assert content["selecting"]["units"] > 0
