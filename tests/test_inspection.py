"""getac inspect: classes, frozen axes with their reasons, quantizers, operators without a rule."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import onnx
import pytest
from rich.console import Console

import getac
from getac.axes.meter import Cost
from getac.errors import InvalidModelError
from getac.inspection import inspect
from getac.tables import inspection_tables
from tools.zoo.registry import ZOO

F32 = np.float32


def test_a_perceptron():
    found = inspect(ZOO["mlp_gemm_transposed"]())
    assert found.source == "a model in memory"
    parameters, macs = 64 * 48 + 48 + 48 * 32 + 32 + 32 * 10 + 10, 64 * 48 + 48 * 32 + 32 * 10
    assert found.total == Cost(parameters, 4 * parameters, macs, 32 * 32 * macs)
    assert found.prunable == parameters - 10  # all but the last bias
    assert [one.per_unit.parameters for one in found.classes] == [64 + 1 + 32, 48 + 1 + 10]
    assert [(one.name, one.cost.macs) for one in found.layers] == [
        ("gemm_0", 64 * 48),
        ("gemm_2", 48 * 32),
        ("gemm_4", 32 * 10),
    ]
    assert [(one.units, [(m.parameter, m.dimension) for m in one.members]) for one in found.classes] == [
        (48, [("gemm_0.weight", 0), ("gemm_0.bias", 0), ("gemm_2.weight", 1)]),
        (32, [("gemm_2.weight", 0), ("gemm_2.bias", 0), ("gemm_4.weight", 1)]),
    ]
    assert [(one.units, one.reason, one.node) for one in found.frozen] == [
        (64, "a graph input", "features"),
        (10, "a graph output", "gemm_4"),
    ]
    assert found.refusals == {} and found.quantizers == {}


def test_types_show_how_a_dimension_is_made():
    found = inspect(ZOO["vgg"]())
    types = {m.parameter: m.type for one in found.classes for m in one.members if m.dimension == 1}
    assert "x" in types["gemm_12.weight"]  # channels x height x width


def test_quantizers_of_a_lowered_model(tmp_path):
    data = {"features": np.random.default_rng(0).normal(size=(8, 64)).astype(F32)}
    getac.lower(ZOO["mlp_gemm"](), tmp_path / "q.onnx", calibration=data, bench=False)
    found = inspect(tmp_path / "q.onnx")
    assert found.source == str(tmp_path / "q.onnx")
    activations = {name: entry for name, entry in found.quantizers.items() if entry["axis"] is None}
    weights = {name: entry for name, entry in found.quantizers.items() if entry["axis"] == 0}
    assert len(activations) == len(weights) == 3
    assert [len(entry["step"]) for entry in weights.values()] == [48, 32, 10]
    assert [one.units for one in found.classes] == [48, 32]
    assert found.total.bops == 8 * 8 * found.total.macs
    assert found.classes[0].per_unit == Cost(64 + 1 + 32, 64 + 4 + 32, 64 + 32, 8 * 8 * (64 + 32))


def test_operators_without_a_rule_are_listed(build):
    model = build(
        """(float[N,4] x) => (float[N,3] y) {
            a = Gemm<transB=1>(x, v)
            b = com.microsoft.QuickGelu(a)
            y = Gemm<transB=1>(b, w)
        }""",
        v=np.ones((5, 4), F32),
        w=np.ones((3, 5), F32),
    )
    found = inspect(model)
    assert found.classes == [] and "QuickGelu" in str(found.refusals["infer-axes"])
    assert any("quickgelu_1" in one.node for one in found.frozen)


@pytest.mark.parametrize("name", ZOO)
def test_json_is_the_same_in_words(name):
    found = inspect(ZOO[name]())
    content = json.loads(found.as_json())
    assert content["total"] == asdict(found.total)
    assert 0 <= content["prunable"] <= content["total"]["parameters"]
    assert content["layers"] == [asdict(one) for one in found.layers]
    nodes = {node["id"]: node for node in content["network"]["nodes"]}
    for one in content["classes"]:
        assert one["per_unit"].items() <= nodes[one["name"]].items()
    for one in content["layers"]:
        assert one["cost"].items() <= nodes[one["name"]].items()
    assert len(content["classes"]) == len(found.classes)
    assert all(one["reason"] and one["node"] for one in content["frozen"])


def test_the_model_stays_as_it_is(build):
    model = build("(float[N,4] x) => (float[N,4] y) { a = Relu(x) \n y = Identity(a) }")
    before = str(model)
    inspect(model)
    assert str(model) == before


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"hello")
    with pytest.raises(InvalidModelError, match="not an ONNX file"):
        inspect(tmp_path / "m.onnx")
    assert onnx.__version__


def test_the_table_has_what_units_and_layers_cost():
    found = inspect(ZOO["mlp_gemm"]())
    console = Console(width=140)
    with console.capture() as capture:
        console.print(inspection_tables(replace(found, layers=list(found.layers) * 30)))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["c0", "48", "MLP", "columns", "97", "388", "96", "98.3k"] in [line[:8] for line in lines]
    assert ["gemm_4", "32", "10", "330", "1.32k", "320", "328k", "Gemm"] in lines
    assert ["and", "30", "more", "layers;", "--json", "has", "all"] in lines


def normalized(build):
    """A layer norm over the 6 outputs of a layer."""
    return build(
        """(float[N,4] x) => (float[N,3] y) {
            a = Gemm<transB=1>(x, first)
            b = LayerNormalization(a, scale)
            y = Gemm<transB=1>(b, last)
        }""",
        first=np.ones((6, 4), F32),
        scale=np.ones(6, F32),
        last=np.ones((3, 6), F32),
    )


def test_what_is_opened_on_request_is_marked_and_warned_of(build):
    plain = inspect(normalized(build))
    assert plain.classes == [] and plain.warnings == []
    found = inspect(normalized(build), prune=["scale"])
    assert [(one.units, one.opened) for one in found.classes] == [(6, True)]
    assert len(found.warnings) == 1 and "the sliced model is not the masked one" in found.warnings[0]
    assert json.loads(found.as_json())["classes"][0]["opened"] is True
    console = Console(width=140)
    with console.capture() as capture:
        console.print(inspection_tables(found))
    assert "c0 (opened)  6" in capture.get() and "opened on request" in capture.get()
    with pytest.warns(UserWarning) as seen:
        getac.analyze(normalized(build), prune=["scale"])
    assert [str(one.message) for one in seen] == found.warnings


def test_classes_that_are_open_anyway_are_not_marked(build):
    found = inspect(ZOO["mlp_gemm"](), prune=["*"])
    assert not any(one.opened for one in found.classes)


@pytest.mark.parametrize(
    ("glob", "why"),
    [("x_*", "it is frozen for another reason: a graph input (x)"), ("inner", "nothing is frozen there")],
)
def test_a_glob_that_opens_nothing_says_why(glob, why, build):
    model = build(
        """(float[N,4] x) => (float[N,3] y) {
            a = Add(x, x_bias)
            b = Gemm<transB=1>(a, first, inner)
            c = Relu(b)
            y = Gemm<transB=1>(c, last)
        }""",
        x_bias=np.ones(4, F32),
        first=np.ones((6, 4), F32),
        inner=np.ones(6, F32),
        last=np.ones((3, 6), F32),
    )
    (warning,) = inspect(model, prune=[glob]).warnings
    assert warning == f"the glob {glob!r} of prune opens nothing: {why}"


def test_keep_goes_before_prune_and_says_so(build):
    found = inspect(normalized(build), keep=["first"], prune=["*"])
    assert found.classes == []
    assert found.warnings == ["keep goes before prune: first and what is tied to it stay whole"]
