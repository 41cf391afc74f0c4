"""replay-quantizers and replay-units in pipelines of one's own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import getac
from getac.data.calibration import CalibrationData
from getac.errors import BadInputError
from getac.onnx_graph.signature import signature_of
from getac.passes import (
    Calibrate,
    FoldQuantizers,
    InferAxes,
    Pipeline,
    QuantizeWeights,
    RemoveDead,
    ReplayQuantizers,
    ReplayUnits,
    SliceUnits,
    State,
)
from getac.pipelines.providers import standard_provider
from getac.plans.saved_plan import read_plan
from getac.quantizer import Quantizer
from tools.onnx_text import model_of

F32 = np.float32
BODY = "c = Conv(x, w)  r = Relu(c)  y = Conv(r, v)"
X = np.random.default_rng(0).normal(size=(4, 3, 6, 6)).astype(F32)


def model(seed=0):
    return model_of(BODY, {"x": ["N", 3, 6, 6]}, {"w": (16, 3, 3, 3), "v": (4, 16, 1, 1)}, seed=seed)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    getac.lower(model(), sparsity=0.5, weight_bits=6, calibration={"x": X}, plan=path, bench=False)
    return str(path)


def run(passes, seed=1, data=False):
    state = State(ir.from_proto(model(seed)))
    if data:
        state.calibration = CalibrationData.open({"x": 10 * X}, signature_of(state.model))
    return Pipeline(passes, provider=standard_provider).run(state)


def by_name(state):
    return {value.name: record for value, record in state.quantizers.items()}


def test_units_and_lattices(plan):
    quantizing = [ReplayQuantizers(plan), QuantizeWeights(), Calibrate()]
    state = run([InferAxes(), ReplayUnits(plan), SliceUnits(), RemoveDead(), *quantizing])
    found, planned = by_name(state), read_plan(plan).quantizers
    assert found.keys() == planned.keys() == {"x", "r", "y", "w", "v"}
    assert {name: one.bits for name, one in found.items()} == {"x": 8, "r": 8, "y": 8, "w": 6, "v": 6}
    for name in ("x", "r", "y"):
        assert found[name] == planned[name].quantizer
    assert found["w"].step.shape == (8,) and not np.allclose(found["w"].step, planned["w"].quantizer.step)
    assert state.facts and state.choice.removed == 8 and not state.choice.exact


def test_a_second_run_changes_nothing(plan):
    state = run([ReplayQuantizers(plan), QuantizeWeights(), Calibrate()])
    before = by_name(state)
    Pipeline([ReplayQuantizers(plan), Calibrate()]).run(state)
    assert by_name(state) == before and not any(record.changed for record in state.records[-2:])


def test_with_data_the_bits_stay_and_the_steps_do_not(plan):
    state = run([ReplayQuantizers(plan), QuantizeWeights(), Calibrate(bits=4)], data=True)
    found, planned = by_name(state), read_plan(plan).quantizers
    assert found["x"].bits == 8  # the plan's, not those of calibrate
    assert 9 < float(found["x"].step) / float(planned["x"].quantizer.step) < 11


def test_what_has_a_quantizer_keeps_it(plan):
    own = Quantizer(np.asarray(0.5, F32), -8, 7)
    state = State(ir.from_proto(model(1)))
    Pipeline([FoldQuantizers()]).run(state)
    state.quantizers[state.model.graph.inputs[0]] = own
    Pipeline([ReplayQuantizers(plan), QuantizeWeights(), Calibrate()]).run(state)
    assert by_name(state)["x"] is own
    [refusal] = state.refusals["replay-quantizers"]
    assert (refusal.where, refusal.reason) == (
        "x",
        "the model's own quantizer of 4 bits stays; the plan has 8",
    )


def test_another_model_is_refused(plan):
    other = model_of("y = Conv(x, w)", {"x": ["N", 3, 6, 6]}, {"w": (16, 3, 3, 3)})
    state = State(ir.from_proto(other))
    with pytest.raises(BadInputError, match="another structure") as error:
        Pipeline([ReplayUnits(plan)], provider=standard_provider).run(state)
    assert "v (4 x 16 x 1 x 1) is not here" in error.value.found and state.choice is None


def test_what_is_no_plan_is_refused(tmp_path):
    for one in (ReplayUnits, ReplayQuantizers):
        with pytest.raises(BadInputError, match="the plan cannot be read"):
            run([InferAxes(), one(str(tmp_path / "none.json"))])
