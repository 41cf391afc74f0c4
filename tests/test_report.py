"""The report as JSON and as tables."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

import getac
from getac.inspection import inspect
from getac.report import Latency, finite_or_null
from getac.tables import change, count, inspection_tables, report_tables
from tools.zoo.registry import ZOO


@pytest.fixture(scope="module")
def report():
    data = {"features": np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)}
    return getac.lower(ZOO["mlp_gemm"](), sparsity=0.5, calibration=data, bench=False)


def shown(content):
    console = Console(width=140)
    with console.capture() as capture:
        console.print(content)
    return capture.get()


def test_json_has_everything(report):
    content = json.loads(report.as_json())
    assert content.keys() == {
        *("source", "output", "sparsity_requested", "sparsity", "units", "units_removed", "calibrated"),
        *(
            "sizes",
            "notes",
            "layers",
            "before",
            "after",
            "least_bytes",
            "storage_ratio",
            "latency",
            "verification",
            "refusals",
            "passes",
            "versions",
        ),
    }
    assert len(content["layers"]) == 3 and content["verification"]["passed"]
    assert content["versions"].keys() == {"getac", "onnx", "onnx-ir", "onnxruntime", "numpy"}
    assert all(record["seconds"] >= 0 for record in content["passes"])


def test_json_has_the_ratio_of_latencies(report):
    content = json.loads(replace(report, latency=Latency(3.0, 2.0)).as_json())
    assert content["latency"] == {"before_ms": 3.0, "after_ms": 2.0, "ratio": 1.5}


def test_json_is_strict_about_numbers():
    found = finite_or_null(
        {"a": [float("inf"), 1.5], "b": (float("nan"), 2), "c": {"d": -float("inf")}, "e": "x"}
    )
    assert found == {"a": [None, 1.5], "b": [None, 2], "c": {"d": None}, "e": "x"}
    json.dumps(found, allow_nan=False)


def test_the_table_shows_layers_totals_and_agreement(report):
    text = shown(report_tables(replace(report, latency=Latency(3.0, 2.0))))
    for words in (
        "gemm_0",
        "integer (QGemm)",
        "48 -> ",
        "8/8",
        "BOPs per sample",
        "1.50x",
        "removed 40 of 80",
    ):
        assert words in text
    assert "NOT verified" not in text and "verified and written" not in text  # nothing was written


def test_the_table_says_what_was_written_and_what_failed(report):
    written = replace(report, output="o.onnx")
    assert "verified and written to o.onnx" in shown(report_tables(written))
    failed = replace(written, verification=replace(report.verification, failures=("sliced: ...",)))
    assert "NOT verified: o.onnx" in shown(report_tables(failed))


def test_the_table_names_refusals_and_their_hints():
    report = getac.lower(ZOO["unet"](), bench=False)
    text = shown(report_tables(report))
    assert "no calibration data" in text and "generated inputs" in text


def test_markup_in_names_is_text(report):
    rows = [replace(report.layers[0], name="[bold]a[/bold]", reason="[red]")]
    assert "[bold]a[/bold]" in shown(report_tables(replace(report, layers=rows)))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (1234, "1.23k"),
        (123_456, "123k"),
        (5_020_000, "5.02M"),
        (3e12, "3T"),
    ],
)
def test_counts_have_at_most_four_digits(number, text):
    assert count(number) == text


def test_changes_are_arrows():
    assert (change(4, 4), change(4, 2), change(4000, 2000, count)) == ("4", "4 -> 2", "4k -> 2k")


def test_the_inspection_is_cut_where_it_gets_long():
    found = inspect(ZOO["resnet"]())
    text = shown(inspection_tables(found))
    assert "more frozen axes" not in text and "classes" in text and " more" in text
    assert "more frozen axes; --json has all" in shown(
        inspection_tables(replace(found, frozen=found.frozen * 50))
    )
