"""`Pipeline(verify=...)`: the pass that changes the answer is named, and the value at which it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from getac.errors import PassError, VerificationError
from getac.onnx_graph.edit import array_of, replace_tensor
from getac.passes import Fact, FoldBatchNorm, FoldQuantizers, Pipeline, SliceUnits, State, analysis_passes
from getac.pipeline import Effect
from getac.pipelines.providers import standard_provider
from getac.pipelines.verifying import EachVerified
from tools.onnx_text import model_of

BODY = "c = Conv(x, w)  r = Relu(c)  d = Conv(r, v)  y = Add(d, d)"
TENSORS = {"w": (8, 3, 3, 3), "v": (4, 8, 1, 1)}


@pytest.fixture
def state():
    return State(ir.from_proto(model_of(BODY, {"x": [2, 3, 6, 6]}, TENSORS)))


@pytest.fixture
def batches():
    return [{"x": np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)}]


@dataclass(frozen=True)
class Scales:
    """Multiplies a weight: wrong on purpose."""

    factor: float
    weight: str = "v"
    effect: Effect = Effect.NONE

    name: ClassVar[str] = "scales"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, state):
        value = state.model.graph.initializers[self.weight]
        replace_tensor(value, array_of(value) * np.float32(self.factor))


def test_a_wrong_pass_is_named_with_the_first_value_that_departs(state, batches):
    passes = [FoldQuantizers(), FoldBatchNorm(), Scales(1.01), FoldBatchNorm()]
    with pytest.raises(VerificationError, match="the pass scales changes what the model computes") as error:
        Pipeline(passes, verify=batches, provider=standard_provider).run(state)
    assert error.value.where.startswith("the first value that departs: d ")
    assert "Conv node d" in error.value.where
    assert error.value.required == "a relative difference of at most 0.0001"
    assert "40.0 dB" in error.value.found
    assert [record.name for record in state.records] == ["fold-quantizers", "fold-batch-norm", "scales"]


def test_what_is_within_the_rounding_of_floats_passes(state, batches):
    Pipeline([Scales(1 + 1e-6)], verify=batches).run(state)


def test_a_pass_that_says_that_it_rounds_is_held_to_noise(state, batches):
    Pipeline([Scales(1.01, effect=Effect.ROUNDS)], verify=batches).run(state)
    with pytest.raises(VerificationError) as error:
        Pipeline([Scales(-1.0, effect=Effect.ROUNDS)], verify=batches).run(state)
    assert error.value.required == "an SQNR of at least 3 dB"


def test_slicing_is_held_to_the_masked_model(state, batches):
    watcher = EachVerified(batches)
    Pipeline([SliceUnits(0.5)], watchers=[watcher], provider=standard_provider).run(state)
    assert state.model.graph.initializers["w"].shape.numpy() == (4, 3, 3, 3)
    last = watcher.checks[-1]
    assert (last.name, last.effect) == ("slice-units", Effect.REMOVES)
    assert last.worst.sqnr_db > 100


@dataclass(frozen=True)
class SlicesOthers(SliceUnits):
    """Keeps the wrong units: the ones that were to go."""

    def run(self, state):
        for atom, mask in state.choice.masks.items():
            state.choice.masks[atom] = ~mask
        super().run(state)


def test_slicing_the_wrong_units_is_caught(state, batches):
    with pytest.raises(VerificationError, match="the pass slice-units changes"):
        Pipeline([SlicesOthers(0.5)], verify=batches, provider=standard_provider).run(state)


def test_every_pass_of_the_analysis_keeps_the_function(state, batches):
    watcher = EachVerified(batches)
    Pipeline(analysis_passes(), watchers=[watcher]).run(state)
    assert len(watcher.checks) == len(analysis_passes())
    assert all(check.worst.relative < 1e-5 for check in watcher.checks)


@dataclass(frozen=True)
class Breaks(Scales):
    """Leaves a graph that does not run."""

    def run(self, state):
        state.model.graph.node(0).op_type = "NoSuchOperator"


def test_a_model_that_does_not_run_is_the_pass_s_fault(state, batches):
    with pytest.raises(PassError, match="around the pass scales the model does not run"):
        Pipeline([Breaks(1.0)], verify=batches).run(state)
