"""Steps of a plan on a model whose activations are of another size."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import getac
from getac.errors import VerificationError
from getac.plans.fitting import fits_of
from getac.plans.saved_plan import read_plan
from getac.quantizer import Quantizer
from getac.verifying.agreement import BOUNDS
from tools.onnx_text import model_of
from tools.zoo.registry import ZOO

BODY = "c = Conv(x, conv1)  r = Relu(c)  d = Conv(r, conv2)  e = Relu(d)  y = Conv(e, conv3)"
SHAPES = {"conv1": (16, 3, 3, 3), "conv2": (16, 16, 1, 1), "conv3": (8, 16, 1, 1)}


def checkpoint(seed=0, factor=1.0):
    """A function that is the same for every factor: what one layer makes larger, the next makes smaller."""
    model = model_of(BODY, {"x": ["N", 3, 6, 6]}, SHAPES, seed=seed)
    for one in model.graph.initializer:
        scale = {"conv1": factor, "conv2": 1 / factor}.get(one.name, 1.0)
        one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) * np.float32(scale), one.name))
    return model


def data(scale=1.0, shift=0.0):
    x = scale * np.random.default_rng(0).normal(size=(8, 3, 6, 6)) + shift
    return {"x": x.astype(np.float32)}


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.json"
    getac.lower(checkpoint(), sparsity=0.5, calibration=data(), plan=path, bench=False)
    return path


def apply(plan, model, output=None, **options):
    return getac.apply(plan, model, output, bench=False, **options)


@pytest.mark.parametrize("factor", [50.0, 0.002])
def test_activations_of_another_size_are_refused(plan, tmp_path, factor):
    with pytest.raises(VerificationError, match="nothing was written") as error:
        apply(plan, checkpoint(1, factor), tmp_path / "out.onnx")
    assert error.value.where.startswith("the first value that departs: ")
    assert "the plan's lattice, from 0 to " in error.value.found and "bound 5 dB" in error.value.found
    assert error.value.hint.startswith("--calibration measures")
    assert not (tmp_path / "out.onnx").exists()


def test_force_writes_it_and_data_mends_it(plan, tmp_path):
    hot = checkpoint(1, 50.0)
    forced = apply(plan, hot, tmp_path / "forced.onnx", force=True)
    assert (tmp_path / "forced.onnx").exists() and not forced.verification.passed
    mended = apply(plan, hot, tmp_path / "out.onnx", calibration=data())
    assert mended.verification.passed and mended.verification.lowered[0].sqnr_db > 20


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_steps_that_were_edited_are_refused(plan, factor):
    content = json.loads(plan.read_text())
    name = next(n for n, q in content["quantizers"].items() if not q["stored"] and n != "x")
    content["quantizers"][name]["step"] *= factor
    plan.write_text(json.dumps(content))
    with pytest.raises(VerificationError) as error:
        apply(plan, checkpoint())
    assert f"plan: {name} goes from " in error.value.found


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_other_weights_are_fine(plan, factor):
    assert apply(plan, checkpoint(1, factor)).verification.passed


@pytest.mark.parametrize(("scale", "shift"), [(0.02, 0.0), (0.1, 0.5), (100.0, 0.0)])
def test_generated_inputs_lie_where_the_plan_s_data_lay(tmp_path, scale, shift):
    getac.lower(checkpoint(), calibration=data(scale, shift), plan=tmp_path / "p.json", bench=False)
    report = apply(tmp_path / "p.json", checkpoint())
    assert report.verification.passed and report.verification.lowered[0].sqnr_db > 25


def test_a_part_of_a_concat_has_the_lattice_behind_its_relu(tmp_path):
    """shufflenet_v1 concatenates before a Relu: what the lattice cuts off, the Relu would."""
    model, rng = ZOO["shufflenet_v1"](), np.random.default_rng(0)
    (one,) = model.graph.input
    shape = [d.dim_value or 4 for d in one.type.tensor_type.shape.dim]
    x = {one.name: rng.normal(size=shape).astype(np.float32)}
    getac.lower(model, calibration=x, plan=tmp_path / "p.json", bench=False)
    assert apply(tmp_path / "p.json", model).verification.passed


def test_the_numbers_of_a_fit():
    model = ir.from_proto(model_of("r = Relu(x)  y = Neg(r)", {"x": [4]}, {}))
    x = np.array([-8, 1, 2, 4], np.float32)
    lattice = Quantizer(np.asarray(1, np.float32), 0, 2)
    fit, raw = fits_of(model, {"r": lattice, "x": lattice}, [{"x": x}])
    assert (fit.value, fit.lattice, fit.seen) == ("r", (0, 2), (0, 4))
    assert fit.sqnr_db == pytest.approx(10 * np.log10((1 + 4 + 16) / 4))
    assert raw.seen == (0, 4)  # as far as the Relu lets it through
    assert BOUNDS.replayed_sqnr == 5 and not fit.fails


def test_few_bits_are_not_held_to_what_they_cannot_do():
    model = ir.from_proto(model_of("y = Neg(x)", {"x": [1000]}, {}))
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    for factor, fails in ((1.0, False), (20.0, True)):
        low, high = float(x.min()) * factor, float(x.max()) * factor
        (fit,) = fits_of(model, {"x": Quantizer.ranged(low, high, 2)}, [{"x": x}])
        assert fit.sqnr_db < BOUNDS.replayed_sqnr and fit.fails is fails


def test_what_the_model_has_quantizers_for_is_not_the_plan_s(plan, tmp_path):
    getac.lower(checkpoint(1, 50.0), tmp_path / "q.onnx", calibration=data(), bench=False)
    getac.lower(tmp_path / "q.onnx", sparsity=0.5, plan=tmp_path / "own.json", bench=False)
    assert all(one.own for one in read_plan(tmp_path / "own.json").quantizers.values())
    assert apply(tmp_path / "own.json", onnx.load(tmp_path / "q.onnx")).verification.passed
