"""The measuring tool: its quick form gives a whole table, its models run the kernels that they are for."""

from __future__ import annotations

import json

import pytest

from getac.executed import executed_kernels
from getac.kernel_costs import Kind, Strategy, default_table, read_table
from getac.kernel_costs.writing import as_json
from tests.kernel_costs.tables import with_factor
from tools.kernel_models import Case, addition_model, feed, layer_model, pair_model
from tools.measure_kernels import main, medians

KERNELS = {
    (Kind.CONVOLUTION, Strategy.FLOAT): "Conv",
    (Kind.CONVOLUTION, Strategy.INTEGER): "QLinearConv",
    (Kind.DEPTHWISE, Strategy.INTEGER): "QLinearConv",
    (Kind.STEM, Strategy.FLOAT): "Conv",
    (Kind.LARGE_STEM, Strategy.INTEGER): "QLinearConv",
    (Kind.LINEAR, Strategy.FLOAT): "Gemm",
    (Kind.LINEAR, Strategy.INTEGER): "QGemm",
    (Kind.LINEAR, Strategy.WEIGHT_ONLY_8): "MatMulNBits",
    (Kind.LINEAR, Strategy.WEIGHT_ONLY_4): "MatMulNBits",
}


def executed(model):
    return [node.op_type for node in executed_kernels(model)]


@pytest.mark.parametrize(("kind", "strategy"), KERNELS, ids=str)
def test_what_is_timed(kind, strategy):
    case = Case(kind, 32, 8)
    one, three = (executed(layer_model(case, strategy, n)) for n in (1, 3))
    kernel = KERNELS[kind, strategy]
    assert (one.count(kernel), three.count(kernel)) == (1, 3)
    # What is there once drops out: only the layer and its crop are repeated, on its way back to floats.
    more = [op for op in three if three.count(op) > one.count(op)]
    assert set(more) <= {kernel, "MaxPool", "NhwcMaxPool", "Slice", "Transpose", "DequantizeLinear"}


def test_layers_of_two_types_in_a_row():
    case = Case(Kind.POINTWISE, 32, 8)
    ops = executed(pair_model(case, Strategy.FLOAT, Strategy.INTEGER, 1))
    assert ops.count("Conv") == ops.count("QLinearConv") == 1
    assert "QLinearAdd" in executed(addition_model(case, Strategy.INTEGER, True, 1))


def test_inputs_have_the_shape_of_the_case():
    assert feed(Case(Kind.STEM, 32, 8))["x"].shape == (1, 3, 8, 8)
    assert feed(Case(Kind.LINEAR, 32, 5))["x"].shape == (5, 32)


def test_the_quick_form_writes_a_whole_table(tmp_path, capsys):
    path = tmp_path / "table.json"
    assert main(["--quick", "--json", str(path)]) == 0
    assert capsys.readouterr().out == ""
    table = read_table(path)
    assert table.has(Kind.LINEAR, Strategy.WEIGHT_ONLY_4)
    assert {"cpu", "flags"} == set(json.loads(path.read_text())["machine"])


def test_refuses_a_place_that_cannot_be_written_before_it_measures(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tools.measure_kernels.measure", lambda setting: pytest.fail("measured"))
    assert main(["--quick", "--json", str(tmp_path / "nope" / "x.json")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "the output's folder does not exist" in err and "Traceback" not in err


@pytest.mark.parametrize("runs", ["0", "-1", "x"])
def test_refuses_counts_of_runs_that_are_none(runs, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--quick", "--runs", runs])
    assert caught.value.code == 2 and "--runs" in capsys.readouterr().err


def test_medians_of_several_runs():
    """Entry by entry: one run that was disturbed changes nothing."""
    table = default_table()
    key = (Kind.CONVOLUTION, Strategy.INTEGER)
    slow, fast = (with_factor(table, *key, factor) for factor in (5, 0.9))
    assert as_json(medians([slow, table, fast])) == as_json(table)
    assert as_json(medians([table])) == as_json(table)
    between = medians([table, fast]).grids[key].seconds[0][0]
    assert between == pytest.approx(0.95 * table.grids[key].seconds[0][0])
