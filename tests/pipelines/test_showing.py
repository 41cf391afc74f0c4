"""The graph between passes, as text and as files."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from getac.errors import OutputError
from getac.passes import Calibrate, FoldQuantizers, InferShapes, Pipeline, RemoveDead, State
from getac.pipelines.showing import Dumped, Printed, graph_text
from getac.quantizer import Quantizer
from getac.runtime import open_session, run
from tools.onnx_text import model_of

BODY = "c = Conv<strides=[2, 2]>(x, w)  r = Relu(c)  y = Clip(r, low)"
F32 = np.float32


@pytest.fixture
def state():
    tensors = {"w": (8, 3, 3, 3), "low": np.asarray(0, F32)}
    return State(ir.from_proto(model_of(BODY, {"x": ["N", 3, 7, 7]}, tensors)))


def test_before_anything_is_known(state):
    assert graph_text(state).splitlines() == [
        "inputs   x: float[N,3,7,7]",
        "  c: ?[...] = Conv(x, w; strides=(2, 2))",
        "  r: ?[...] = Relu(c)",
        "  y: float[...] = Clip(r, low)",
        "outputs  y",
    ]


def test_shapes_records_and_origins(state):
    Pipeline([InferShapes()]).run(state)
    graph = state.model.graph
    state.quantizers[graph.inputs[0]] = Quantizer(np.asarray(0.1, F32), -128, 127)
    state.quantizers[graph.initializers["w"]] = Quantizer(np.full(8, 0.1, F32), -7, 7, 0)
    graph.insert_before(graph.node(1), ir.node("Neg", [graph.node(0).outputs[0]], name="new"))
    lines = graph_text(state).splitlines()
    assert lines[:3] == [
        "inputs   x: float[N,3,7,7] @8 bits -128..127",
        "stored   w: float[8,3,3,3] @4 bits -7..7",
        "  c: float[N,8,3,3] = Conv(x, w; strides=(2, 2))",
    ]


def test_absent_inputs_attributes_and_domains():
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[2] x, float h, bool c) => (float[2] y) {
        a = Clip(x, , h)  b = com.microsoft.QuickGelu(a)
        y = If(c) <then_branch = t () => (float[2] o) { o = Neg(b) },
                   else_branch = e () => (float[2] p) { p = Abs(b) }> }"""
    lines = graph_text(State(ir.from_proto(onnx.parser.parse_model(text)))).splitlines()
    assert lines[1].endswith("= Clip(x, -, h)")
    assert "com.microsoft.QuickGelu(a)" in lines[2]
    assert lines[3].endswith("If(c; then_branch=<Graph>, else_branch=<Graph>)")


def test_only_what_was_asked_for_is_printed(state):
    said = []
    Pipeline([InferShapes(), RemoveDead()], watchers=[Printed(["remove-dead"], said.append)]).run(state)
    assert len(said) == 1 and said[0].startswith("after remove-dead:\ninputs ")
    said.clear()
    Pipeline([InferShapes(), RemoveDead()], watchers=[Printed(["all"], said.append)]).run(state)
    assert [one.splitlines()[0] for one in said] == ["after infer-shapes:", "after remove-dead:"]


def test_dumps_are_models_that_round(state, tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 7)).astype(F32)
    state.quantizers = {state.model.graph.inputs[0]: Quantizer(np.asarray(0.5, F32), -4, 3)}
    folder = tmp_path / "deep" / "er"
    Pipeline([RemoveDead(), InferShapes()], watchers=[Dumped(folder)]).run(state)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["01-remove-dead.onnx", "02-infer-shapes.onnx"]
    plain = run(open_session(state.model, optimize=False), {"x": np.clip(np.rint(x / 0.5), -4, 3) * F32(0.5)})
    for name in names:
        found = run(open_session(str(folder / name), optimize=False), {"x": x})
        np.testing.assert_array_equal(found["y"], plain["y"])
    assert len(state.quantizers) == 1 and len(state.model.graph) == 3  # the model itself stays


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="the folder for dumps cannot be made"):
        Dumped(tmp_path / "file")


def test_the_passes_that_change_nothing_are_dumped_too(state, tmp_path):
    watcher = Dumped(tmp_path)
    Pipeline([FoldQuantizers(), FoldQuantizers()], watchers=[watcher]).run(state)
    assert watcher.count == 2 and Calibrate.name not in str(list(tmp_path.iterdir()))
