"""`Pipeline(verify=...)`: the pass that changes the answer is named, and the value at which it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from getac.errors import BadInputError, PassError, VerificationError
from getac.onnx_graph.edit import array_of, replace_tensor
from getac.passes import Fact, FoldBatchNorm, FoldQuantizers, Pipeline, SliceUnits, State, analysis_passes
from getac.pipeline import Effect
from getac.pipelines.providers import standard_provider
from getac.pipelines.verifying import EachVerified
from getac.quantizer import Quantizer
from tests.pipelines.own import Own
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
    assert "--reduce" in error.value.hint
    assert [record.name for record in state.records] == ["fold-quantizers", "fold-batch-norm", "scales"]


def test_what_is_within_the_rounding_of_floats_passes(state, batches):
    watcher = EachVerified(batches)
    Pipeline([Scales(1 + 1e-6)], watchers=[watcher], provider=standard_provider).run(state)
    assert 0 < watcher.checks[-1].worst.relative < 1e-5


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


def model(text):
    """A model, and one batch of a vector for each of its inputs."""
    return State(ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')))


F32 = np.float32
ARGMAX = """g (float[1,200] x) => (int64[1] y) <int64 one = {1}> {
    k = ArgMax<axis = 1, keepdims = 0>(x)  y = Add(k, one) }"""


@dataclass(frozen=True)
class AddsOne(Scales):
    """Adds one to a stored tensor."""

    def run(self, state):
        value = state.model.graph.initializers[self.weight]
        replace_tensor(value, (array_of(value) + 1).astype(array_of(value).dtype))


def test_integers_must_be_the_same():
    x = np.zeros((1, 200), F32)
    x[0, -5] = 1  # 195 and 196: next to nothing, if they were floats
    with pytest.raises(VerificationError) as error:
        Pipeline([AddsOne(1, "one")], verify=[{"x": x}]).run(model(ARGMAX))
    assert error.value.required == "the same integers"
    assert "Add node Add" in error.value.where
    Pipeline([AddsOne(1, "one", Effect.ROUNDS)], verify=[{"x": x}]).run(model(ARGMAX))


def test_integers_that_are_too_large_for_floats():
    text = "g (int64[2] x) => (int64[2] y) <int64 w = {9007199254740992}> { y = Add(x, w) }"
    with pytest.raises(VerificationError, match="the same integers"):
        Pipeline([AddsOne(1, "w")], verify=[{"x": np.zeros(2, np.int64)}]).run(model(text))


def test_booleans_must_be_the_same():
    text = "g (float[3] x) => (bool[3] y) <float w = {0.5}> { y = Greater(x, w) }"
    batch = {"x": np.array([0.0, 1.0, 3.0], F32)}
    Pipeline([Scales(1.5, "w")], verify=[batch]).run(model(text))
    with pytest.raises(VerificationError, match="the same integers"):
        Pipeline([Scales(3, "w")], verify=[batch]).run(model(text))


def test_a_model_that_computes_nan_cannot_be_compared():
    text = "g (float[2] x) => (float[2] y) <float w = {1}> { r = Sqrt(x)  y = Mul(r, w) }"
    negative, mixed = {"x": np.full(2, -1, F32)}, {"x": np.array([-1, 1], F32)}
    with pytest.raises(BadInputError, match="it is NaN or infinite throughout") as error:
        Pipeline([Scales(1.0, "w")], verify=[negative]).run(model(text))
    assert error.value.where == "output y"
    Pipeline([Scales(1.0, "w")], verify=[negative, mixed]).run(model(text))
    with pytest.raises(VerificationError):
        Pipeline([Scales(2.0, "w")], verify=[mixed]).run(model(text))


SECOND = """g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}, float t = {3}, float z = {0}> {
    c = ReduceMax<keepdims = 0>(x)  b = Greater(c, t)  q = Where(b, w, z)  y = Add(x, q) }"""


def test_the_first_value_is_looked_for_on_the_batch_that_departs():
    batches = [{"x": np.full(4, 1, F32)}, {"x": np.full(4, 5, F32)}]
    with pytest.raises(VerificationError) as error:
        Pipeline([Scales(2.0, "w")], verify=batches).run(model(SECOND))
    assert error.value.where.startswith("the first value that departs: q (relative difference 1)")


TWO_TYPES = """g (float[4] x, float16[4] h) => (float[4] y, float16[4] k) <float w = {1}, float16 v = {1}> {
    y = Mul(x, w)  k = Mul(h, v) }"""


def test_every_output_has_the_bound_of_what_it_is_computed_in():
    batch = {"x": np.ones(4, F32), "h": np.ones(4, np.float16)}
    with pytest.raises(VerificationError) as error:
        Pipeline([Scales(1.004, "w")], verify=[batch]).run(model(TWO_TYPES))
    assert error.value.required == "a relative difference of at most 0.0001"

    def scaled(factor):
        state = model(TWO_TYPES)
        replace_tensor(state.model.graph.initializers["v"], np.asarray(1, np.float16))
        return Pipeline([Half(factor, "v")], verify=[batch]).run(state)

    scaled(1.004)
    with pytest.raises(VerificationError, match=r"at most 0\.005"):
        scaled(1.04)


@dataclass(frozen=True)
class Half(Scales):
    def run(self, state):
        value = state.model.graph.initializers[self.weight]
        replace_tensor(value, (array_of(value) * self.factor).astype(np.float16))


def test_noise_where_there_should_be_nothing_is_no_difference():
    text = "g (float[4] x) => (float[4] y) <float w = {0}, float v = {1}> { a = Mul(x, w)  y = Mul(a, v) }"
    watcher = EachVerified([{"x": np.ones(4, F32)}])
    state = model(text)

    def put(number):
        return Puts(number, "w")

    Pipeline([put(1e-30)], watchers=[watcher]).run(state)
    assert watcher.checks[-1].worst.sqnr_db == 200.0
    with pytest.raises(VerificationError):
        Pipeline([put(1e-5)], watchers=[EachVerified([{"x": np.ones(4, F32)}])]).run(model(text))


@dataclass(frozen=True)
class Puts(Scales):
    """Puts a number in the place of a stored tensor."""

    def run(self, state):
        value = state.model.graph.initializers[self.weight]
        replace_tensor(value, np.full_like(array_of(value), self.factor))


def test_text_inside_a_model_is_not_compared():
    text = """g (float[2] x) => (float[2] y)
        <string[2] s = {"a", "b"}, string[2] u = {"a", "c"}, float w = {1}> {
        q = Identity(s)  e = Equal(q, u)  f = Cast<to = 1>(e)  a = Add(f, x)  y = Mul(a, w) }"""
    with pytest.raises(VerificationError) as error:
        Pipeline([Scales(2.0, "w")], verify=[{"x": np.ones(2, F32)}]).run(model(text))
    assert "departs: y " in error.value.where


@dataclass(frozen=True)
class Records(Scales):
    """Gives a value a record of a quantizer."""

    effect: Effect = Effect.ROUNDS

    def run(self, state):
        value = next(v for node in state.model.graph for v in node.outputs if v.name == self.weight)
        state.quantizers[value] = Quantizer(np.asarray(self.factor, F32), -128, 127)


def test_a_record_is_no_licence(state, batches):
    """What rounds is held to noise, and what is the same in floats to floats."""
    with pytest.raises(VerificationError) as error:
        Pipeline([Records(0.02, "r"), Scales(1.05)], verify=batches).run(state)
    assert "the pass scales changes" in error.value.message
    assert error.value.required == "a relative difference of at most 0.0001"


def test_slicing_with_records_is_held_to_floats_too(state, batches):
    watcher = EachVerified(batches)
    passes = [FoldQuantizers(), Records(0.02, "r"), SliceUnits(0.5)]
    Pipeline(passes, watchers=[watcher], provider=standard_provider).run(state)
    assert watcher.checks[-1].name == "slice-units" and watcher.checks[-1].worst.sqnr_db > 30


def test_edits_in_place_are_no_way_around(state, batches):
    def edit(state):
        array_of(state.model.graph.initializers["v"])[...] *= 2

    with pytest.raises(ValueError, match="read-only"):
        Pipeline([SliceUnits(0.5), Own(edit)], verify=batches, provider=standard_provider).run(state)


@dataclass(frozen=True)
class Renames(Scales):
    """Gives an output another name."""

    effect: Effect = Effect.INTERFACE

    def run(self, state):
        state.model.graph.outputs[0].name = self.weight


def test_another_interface_is_not_compared(state, batches):
    watcher = EachVerified(batches)
    Pipeline([Renames(1.0, "other"), Scales(1.0)], watchers=[watcher]).run(state)
    assert [check.worst is None for check in watcher.checks] == [True, False]
    assert watcher.checks[0].bound == "other inputs or outputs, which cannot be compared"
    with pytest.raises(PassError, match="changes the model's outputs"):
        Pipeline([Renames(1.0, "another", Effect.NONE)], verify=batches).run(State(state.model))


def test_inputs_of_another_model(state):
    with pytest.raises(BadInputError, match="are not those of the model") as error:
        Pipeline([Scales(1.0)], verify=[{"z": np.zeros(3, F32)}]).run(state)
    assert (error.value.required, error.value.found) == ("x", "z")


@dataclass(frozen=True)
class Breaks(Scales):
    """Leaves a graph that does not run."""

    def run(self, state):
        state.model.graph.node(0).op_type = "NoSuchOperator"


def test_a_model_that_does_not_run_is_the_pass_s_fault(state, batches):
    with pytest.raises(PassError, match="after the pass scales the model does not run"):
        Pipeline([Breaks(1.0)], verify=batches).run(state)
