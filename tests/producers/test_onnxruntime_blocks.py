"""onnxruntime's quantizer for MatMulNBits in both forms, and weights in blocks that are pruned."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from onnx import numpy_helper

import getac
from getac.executed import executed_kernels
from getac.onnx_graph.read import load
from getac.passes import ChooseUnits, Pipeline, RemoveDead, SliceUnits, State, analysis_passes
from getac.runtime import open_session, run
from getac.units.masking import masked_copy
from tools.onnx_text import model_of

F32 = np.float32
FORMS = [("QDQ", 4), ("QOperator", 4), ("QOperator", 8)]
SHAPES = {"w": (64, 256), "v": (256, 64)}


def perceptron():
    rng = np.random.default_rng(5)
    model = model_of("a = MatMul(x, w)  b = Gelu(a)  y = MatMul(b, v)", {"x": [8, 64]}, SHAPES)
    for tensor in model.graph.initializer:
        numbers = rng.normal(size=SHAPES[tensor.name]).astype(F32) / 8
        if tensor.name == "w":
            numbers[:32, :5] = 0  # blocks of zeros
        tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
    return model


def in_blocks(form, bits, symmetric, model=None):
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    logging.disable(logging.WARNING)
    how = DefaultWeightOnlyQuantConfig(
        block_size=32, is_symmetric=symmetric, quant_format=QuantFormat[form], bits=bits
    )
    work = MatMulNBitsQuantizer(model or perceptron(), algo_config=how)
    work.process()
    logging.disable(logging.NOTSET)
    return work.model.model


@pytest.fixture(scope="module", params=[(*form, symmetric) for form in FORMS for symmetric in (True, False)])
def made(request):
    return in_blocks(*request.param)


def unfused(model):
    x = np.random.default_rng(7).normal(size=(8, 64)).astype(F32)
    return run(open_session(model, optimize=False), {"x": x})["y"]


def kernels(path):
    return [node.op_type for node in executed_kernels(load(path)) if node.op_type.startswith("MatMul")]


def test_weights_come_back_in_blocks(made, tmp_path):
    path = tmp_path / "lowered.onnx"
    report = getac.lower(made, path, bench=False)
    want, got = unfused(load(made)), unfused(load(path))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert kernels(path) == ["MatMulNBits"] * 2
    assert path.stat().st_size < 1.01 * made.ByteSize() + 1000
    assert "fold-quantizers" not in report.refusals and "expand-qoperators" not in report.refusals


def test_pruned_blocks_are_smaller_and_stay_in_the_kernel(made, tmp_path):
    path = tmp_path / "pruned.onnx"
    report = getac.lower(made, path, sparsity=0.4, align=1, bench=False)
    assert report.units_removed == 96 and report.units == 256  # 3 of 8 blocks
    assert max(each.relative for each in report.verification.sliced) < 1e-5
    assert kernels(path) == ["MatMulNBits"] * 2
    assert path.stat().st_size < 0.7 * made.ByteSize()


def test_a_share_that_no_whole_blocks_make_is_noted(made):
    report = getac.lower(made, None, sparsity=0.06, align=1, bench=False)
    assert report.units_removed == 0
    assert any("share steps in blocks go together" in note for note in report.notes)


def test_masked_equals_sliced_in_blocks(made):
    state = State(load(made).clone())
    Pipeline([*analysis_passes(), ChooseUnits(sparsity=0.4, align=1)]).run(state)
    masked = masked_copy(state.model, state.analysis, state.choice)
    Pipeline([SliceUnits(), RemoveDead()]).run(state)
    assert {record.block for record in state.quantizers.values()} == {32}
    want, got = unfused(masked), unfused(state.model)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    for value, record in state.quantizers.items():  # what is left is on the lattice
        numbers = value.const_value.numpy()
        np.testing.assert_array_equal(record.quantize(numbers), numbers)


@pytest.mark.parametrize("target", ["portable", "ort"])
def test_a_choice_that_cuts_blocks_is_said_and_stays_small(tmp_path, target):
    """Whoever edits a plan may keep any units."""
    plan, path, made = tmp_path / "plan.json", tmp_path / "pruned.onnx", in_blocks("QDQ", 4, True)
    getac.lower(made, None, plan=plan, sparsity=0.4, align=1, bench=False)
    written = json.loads(plan.read_text())
    (one,) = written["classes"]
    one["kept"] = [*range(99), *range(110, 165)]
    plan.write_text(json.dumps(written))
    report = getac.apply(plan, made, path, target=target, bench=False)
    assert ["cut its blocks of 32" in one.reason for one in report.refusals["slice-units"]] == [True]
    assert ["rounded again, to 8 bits" in one.reason for one in report.refusals["store-weights"]] == [True]
    assert max(each.relative for each in report.verification.sliced) < 1e-5
    assert kernels(path) == ["MatMulNBits"] * 2
    assert path.stat().st_size < made.ByteSize()
