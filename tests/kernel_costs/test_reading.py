"""The file: a round trip keeps everything, and what is no table is refused with what was required."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from getac.errors import BadInputError
from getac.kernel_costs import Kind, LayerShape, Strategy, default_table, read_table
from getac.kernel_costs.reading import parse_table
from getac.kernel_costs.writing import as_json


@pytest.fixture
def content():
    return json.loads(files("getac.kernel_costs").joinpath("default.json").read_text())


def test_the_default_table_is_small_and_says_where_it_was_measured():
    file = files("getac.kernel_costs").joinpath("default.json")
    assert len(file.read_bytes()) < 8000
    table = default_table()
    assert table.machine["cpu"] and table.onnxruntime.count(".") == 2
    assert table is default_table()  # read once


def test_round_trip(tmp_path):
    text = as_json(default_table())
    path = tmp_path / "table.json"
    path.write_text(text)
    table = read_table(path)
    assert as_json(table) == text
    for key, grid in default_table().grids.items():
        assert list(table.grids[key].channels) == list(grid.channels)
    shape = LayerShape(100, 52, 500, 9)
    expected = default_table().seconds(shape, Strategy.INTEGER)
    assert table.seconds(shape, Strategy.INTEGER) == pytest.approx(expected, rel=1e-3)
    assert table.transitions[Kind.LINEAR] == default_table().transitions[Kind.LINEAR]


def test_every_kernel_stands_on_a_line_of_its_own():
    lines = as_json(default_table()).splitlines()
    assert len([line for line in lines if '"microseconds"' in line]) == len(default_table().grids) + 6


def without(key):
    def change(content):
        del content[key]

    return change


def with_value(key, value):
    def change(content):
        content[key] = value

    return change


def in_grid(key, value):
    def change(content):
        content["grids"][0][key] = value

    return change


def in_steps(key, value):
    def change(content):
        content["steps"][0][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "required"),
    [
        (with_value("version", 2), '"version": 1'),
        (with_value("format", "other"), '"format": "getac kernel costs"'),
        (without("machine"), "machine: an object of texts"),
        (without("onnxruntime"), "onnxruntime: its version"),
        (with_value("node", -1), "node: positive numbers"),
        (with_value("node", True), "node: positive numbers"),
        (with_value("call", "fast"), "call: positive numbers"),
        (without("grids"), "grids: a list of objects"),
        (with_value("grids", [1]), "grids: a list of objects"),
        (with_value("grids", []), "grids for every kernel"),
        (with_value("steps", []), "steps for every kernel"),
        (in_grid("kind", "cubic"), "kind: convolution or pointwise"),
        (in_grid("strategy", None), "strategy: integer or"),
        (in_grid("channels", [64, 16]), "channels: ascending whole numbers"),
        (in_grid("channels", []), "channels: ascending whole numbers"),
        (in_grid("positions", [0, 1]), "positions: ascending whole numbers"),
        (in_grid("positions", [1.5]), "positions: ascending whole numbers"),
        (in_grid("microseconds", [[1.0]]), "lists of 5"),
        (in_grid("microseconds", 3), "microseconds: a list of lists"),
        (in_grid("microseconds", [[1.0] * 5, [0.0] * 5, [1.0] * 5]), "microseconds: positive numbers"),
        (in_grid("microseconds", [[1.0] * 5, [float("nan")] * 5, [1.0] * 5]), "positive numbers"),
        (in_steps("channels", [47, 64]), "from one multiple of 16 to the next"),
        (in_steps("microseconds", [1.0]), "a time for each number of channels"),
        (with_value("transitions", {}), "transitions: convolution: an object"),
        (with_value("transitions", {"convolution": {}, "linear": {}}), "to_integers: positive numbers"),
        (with_value("additions", {"float": 1.0}), "additions: positive numbers"),
    ],
)
def test_refuses(content, change, required):
    change(content)
    with pytest.raises(BadInputError, match="this is no cost table") as caught:
        parse_table(json.dumps(content), "table.json")
    assert caught.value.where == "table.json"
    assert caught.value.required is not None and required in caught.value.required
    assert "measure_kernels.py" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", "3"])
def test_refuses_what_is_no_object(text):
    with pytest.raises(BadInputError, match="no cost table"):
        parse_table(text, "table.json")


def test_refuses_files_that_cannot_be_read(tmp_path):
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent.json", tmp_path, binary):
        with pytest.raises(BadInputError, match="the cost table cannot be read"):
            read_table(path)
