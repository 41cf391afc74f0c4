"""`analysis`, and plans in pipelines of one's own behind it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import getac
from getac.errors import BadInputError, OptionError
from getac.passes import InferAxes, analysis_passes
from getac.pipelines.registry import make_passes
from tools.zoo.registry import ZOO

REPLAY = (
    "replay-units{{plan={0}}},slice-units,remove-dead,replay-quantizers{{plan={0}}},"
    "flatten-products,quantize-weights,calibrate,lower-integers{{target=portable}}"
)


def test_the_name_stands_for_the_passes():
    assert make_passes("analysis") == analysis_passes()
    *_, axes, last = make_passes("analysis{keep=[a*,b],prune=c},remove-dead")
    assert axes == InferAxes(("a*", "b"), ("c",)) and last.name == "remove-dead"
    with pytest.raises(OptionError, match="it has no option sparsity"):
        make_passes("analysis{sparsity=0.3}")


def arrays(model):
    rng = np.random.default_rng(0)
    shapes = {
        one.name: [d.dim_value or 4 for d in one.type.tensor_type.shape.dim] for one in model.graph.input
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", ["mobilenet_v2", "transformer"])
def test_a_plan_replayed_by_passes_is_the_plan_applied(tmp_path, name, monkeypatch):
    """With batch normalisations to fold, and with what getac's own passes restructure."""
    monkeypatch.chdir(tmp_path)
    model = ZOO[name]()
    data = arrays(model)
    report = getac.lower(model, sparsity=0.3, calibration=data, plan="p.json", bench=False)
    found = getac.optimize(model, f"analysis,{REPLAY.format('p.json')}", "out.onnx", verify_each=True)
    assert found.state.choice.sparsity == report.sparsity > 0.1
    getac.apply("p.json", model, "applied.onnx", bench=False)
    assert getac.compare("applied.onnx", "out.onnx", data, tolerance=0.02).passed  # under onnxruntime
    integers = {one.data_type for one in onnx.load("out.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in integers or onnx.TensorProto.UINT8 in integers


def test_without_the_analysis_there_is_a_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ZOO["mobilenet_v2"]()
    getac.lower(model, sparsity=0.3, plan="p.json", bench=False)
    with pytest.raises(BadInputError, match="another structure") as error:
        getac.optimize(model, "replay-units{plan=p.json}")
    assert error.value.hint.endswith("a pipeline of your own begins with `analysis`")
