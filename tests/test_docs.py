"""The tutorial works as it is written."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import getac

PAGE = Path(__file__).parents[1] / "docs" / "writing-a-pass.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def block(start):
    (found,) = [one for one in BLOCKS if start in one]
    return found


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The pass and its test, in files as the page says."""
    (tmp_path / "clip_relu.py").write_text(block('"""clip-relu: '))
    (tmp_path / "test_clip_relu.py").write_text(block("from clip_relu import"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("clip_relu", None)


def imported(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pass_has_thirty_lines():
    code = block('"""clip-relu: ').partition("from dataclasses")[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 30


def test_its_test_passes(written):
    module = imported(written / "test_clip_relu.py")
    tests = [one for name, one in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 2
    for one in tests:
        one()


def test_it_refuses_what_would_change_the_function(written):
    from getac.errors import OptionError
    from getac.passes import Pipeline, State

    pass_class = imported(written / "clip_relu.py").ClipRelu
    with pytest.raises(OptionError, match="needs its Relu"):
        pass_class(least=-1.0)
    text = """<ir_version: 10, opset_import: ["" : 21, "mine" : 1]>
    g (float[2] x) => (float[2] y) <float low = {0.0}> { r = mine.Relu(x)  y = Clip(r, low) }"""
    state = State(ir.from_proto(onnx.parser.parse_model(text)))
    Pipeline([pass_class()]).run(state)
    assert state.model.graph.node(1).inputs[0].name == "r"


def test_it_runs_from_a_spec(written, tmp_path):
    text = imported(written / "test_clip_relu.py").TEXT.replace("LOW", "0.0")
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    spec = f"{written / 'clip_relu.py'}:ClipRelu{{least=0.0}},remove-dead"
    found = getac.optimize(tmp_path / "model.onnx", spec, tmp_path / "out.onnx", verify_each=True)
    assert [node.op_type for node in found.model.graph] == ["Clip"]
    assert [check.name for check in found.checks] == ["clip-relu", "remove-dead"]
    assert found.origins == {}  # the Clip is the file's own: only what it reads is another
    assert [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node] == ["Clip"]


def test_the_lines_of_python_run(tmp_path, monkeypatch):
    from torch import nn, randn

    from tools.onnx_text import model_of

    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 4))
    x = randn(2, 3, 6, 6)
    body, shapes = "c = Conv(x, w)  r = Relu(c)  y = Conv(r, v)", {"w": (8, 3, 3, 3), "v": (4, 8, 1, 1)}
    onnx.save(model_of(body, {"x": [2, 3, 6, 6]}, shapes), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    names = {"model": model, "example_inputs": (x,), "batches": [(x,)]}
    exec(block("getac.optimize("), names)
    assert (tmp_path / "out.onnx").exists()
    exec(block("State.of_module("), names)
    assert model[0].out_channels == 16  # the module that was given is as it was
    assert names["state"].module(x).shape == (2, 4)
    sizes = {tuple(one.shape) for one in names["state"].module.parameters()}
    assert (8, 3, 3, 3) in sizes


def test_the_function_for_graphsurgeon_runs():
    pytest.importorskip("onnx_graphsurgeon")
    from getac.passes import Pipeline, State, SurgeonPass
    from tools.onnx_text import model_of

    names = {}
    exec(block("def leaky"), names)
    state = State(ir.from_proto(model_of("y = Relu(x)", {"x": [2]}, {})))
    Pipeline([SurgeonPass(names["leaky"])]).run(state)
    (node,) = state.model.graph
    assert (node.op_type, round(node.attributes.get_float("alpha"), 4)) == ("LeakyRelu", np.float64(0.1))
