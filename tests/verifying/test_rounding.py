"""Models that arrive quantized: records are held to what they round, and slicing to the masked model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import getac
from getac.compression import compress
from getac.onnx_graph.read import load
from getac.options import Options
from getac.verifying.pieces import compare_pieces
from getac.verifying.verify import verify
from tools.onnx_text import model_of

F32 = np.float32
ROUNDED = "{0}a = Div({0}, {0}d)  {0}b = Clip({0}a, low, high)  {0}c = Round({0}b)  {0}q = Mul({0}c, {0}d)  "
LAYER = "{0}l = MatMul({0}q, {0}w)  {1} = Relu({0}l)  "
BODY = "".join(ROUNDED.format(x) + LAYER.format(x, y) for x, y in (("x", "g"), ("g", "h"), ("h", "i")))
TWO_BITS = (-2, 1)


def three_layers(low: int = -127, high: int = 127, step: float = 0.05):
    """Weights per output unit behind a DequantizeLinear, activations in the operators of training."""
    rng = np.random.default_rng(0)
    tensors = {"low": F32(low), "high": F32(high), "v": (24, 4)}
    body = ""
    for x in "xgh":
        tensors[f"{x}k"] = rng.integers(-127, 128, (24, 24)).astype(np.int8)
        tensors[f"{x}s"] = rng.uniform(1e-3, 3e-3, 24).astype(F32)
        tensors[f"{x}d"] = F32(step)
        body += f"{x}w = DequantizeLinear<axis = 1>({x}k, {x}s)  "
    tensors = {
        name: array if isinstance(array, tuple) else np.asarray(array) for name, array in tensors.items()
    }
    return model_of(body + BODY + "y = MatMul(i, v)", {"x": [64, 24]}, tensors)


def compressed(model, **options):
    return compress(load(model), None, None, Options(bench=False, **options)).models


def batches(count=1):
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(64, 24)).astype(F32)} for _ in range(count)]


def with_record(recorded, name, change):
    """The same with another record for one value."""
    return replace(recorded, records={**recorded.records, name: change(recorded.records[name])})


def test_a_wrong_record_is_named():
    models = compressed(three_layers())
    assert verify(models, batches(2), generated=True).passed
    rounded = models.rounded
    wrong = with_record(rounded.folded, "xl.dq", lambda one: replace(one, step=one.step * F32(1.1)))
    found = verify(replace(models, rounded=replace(rounded, folded=wrong)), batches(2), generated=True)
    (failure, *rest) = [one for one in found.failures if one.startswith("recognized")]
    assert not rest  # the error stays in its piece
    assert failure.startswith("recognized: value gl has an SQNR of")
    assert "bound 40 dB, behind the quantizers of" in failure
    assert set(failure.split("of ")[-1].split(", ")) == {"xl", "gk.float"}  # what it rounds, and the weight
    assert found.departure.value == "gl"


@pytest.mark.parametrize("edge", ["low", "high"])
def test_a_record_of_another_range_is_wrong(edge):
    """The model rounds as its records say, and the result is what the records say: still it is refused."""
    models = compressed(three_layers(-7, 7, 0.2))
    rounded = models.rounded
    half = with_record(rounded.folded, "x", lambda one: replace(one, **{edge: getattr(one, edge) // 2}))
    found = verify(replace(models, rounded=replace(rounded, folded=half)), batches(), generated=True)
    assert found.failures[0].startswith("recognized: value xl ")


def test_a_value_beside_a_tie_is_no_error():
    """One bit of a float is a step of two bits, which is a third of the output; the pieces are the same."""
    body = "h = Mul(x, s)  q = QuantizeLinear(h, d, z)  c = Clip(q, low, high)  y = DequantizeLinear(c, d, z)"
    lattice = {"d": F32(1), "z": np.int8(0), "low": np.int8(-2), "high": np.int8(1)}
    lattice = {name: np.asarray(array) for name, array in lattice.items()}
    model, beside = (
        model_of(body, {"x": [1, 4]}, {**lattice, "s": np.asarray(s, F32)}) for s in (1, 1.0000002)
    )
    other, models = compressed(beside).rounded, compressed(model)
    ties = [{"x": np.full((1, 4), 0.5, F32)}]
    models = replace(models, rounded=replace(models.rounded, folded=other.folded))
    found = verify(models, ties, generated=True)
    assert found.folded[0].sqnr_db < 0 and not [one for one in found.failures if "recognized" in one]
    assert verify(models, [{"x": np.full((1, 4), 0.3, F32)}], generated=True).folded[0].max_abs == 0


@pytest.mark.parametrize(("low", "high", "step"), [(-127, 127, 0.05), (-7, 7, 0.1), (*TWO_BITS, 0.1)])
def test_masked_equals_sliced_with_quantizers_running(low, high, step):
    """Also where quantizers cut so much that floats would be another function."""
    models = compressed(three_layers(low, high, step), sparsity=0.3, align=1)
    found = verify(models, batches(3), generated=True)
    assert found.passed, found.failures
    running = models.rounded.running()
    pieces = compare_pieces(
        running.reference, running.sliced, models.rounded.sliced.records, batches(3), models.keep()
    )
    assert [one.output for one in pieces] == ["xl.dq", "gl.dq", "y"]
    assert max(one.relative for one in pieces) < 1e-5
    assert all(one.behind for one in pieces)


def integer_layers():
    """Products of integers whose factor is about a half, which kernels and floats round otherwise."""
    rng = np.random.default_rng(0)
    tensors = {"s": F32(0.1), "t": F32(0.02), "z": np.int8(0)}
    body = "aq = QuantizeLinear(x, s, z)  "
    for x, y in ("ab", "bc", "cd"):
        tensors[f"{x}w"] = rng.integers(-1, 2, (24, 24)).astype(np.int8)
        step = "s" if x == "a" else "t"
        tensors[f"{x}s"] = F32(0.1) if x == "a" else F32(0.5)
        body += f"{y}q = QLinearMatMul({x}q, {step}, z, {x}w, {x}s, z, t, z)  "
    tensors = {name: np.asarray(array) for name, array in tensors.items()}
    return model_of(body + "y = DequantizeLinear(dq, t, z)", {"x": [64, 24]}, tensors)


def test_operators_on_integers_are_held_to_their_pieces():
    """A tie travels through all of them to the output; between two quantizers all is the same."""
    found = verify(compressed(integer_layers()), batches(), generated=True)
    assert found.folded[0].sqnr_db < 40 and found.passed, found.failures


@pytest.mark.parametrize(("value", "seen"), [("x", "bq.float"), ("bq.float", "cq.float")])
def test_a_wrong_record_of_an_operator_on_integers_is_named(value, seen):
    """By less than what ties make of the outputs."""
    models = compressed(integer_layers())
    rounded = models.rounded
    wrong = with_record(rounded.folded, value, lambda one: replace(one, step=one.step * F32(1.02)))
    found = verify(replace(models, rounded=replace(rounded, folded=wrong)), batches(), generated=True)
    (failure,) = [one for one in found.failures if one.startswith("recognized")]
    assert failure.startswith(f"recognized: value {seen} has an SQNR of") and "bound 40 dB" in failure


def test_low_bits_are_pruned():
    """Saturated quantizers: the model without them has little to do with the one that was read."""
    model = three_layers(*TWO_BITS, 0.1)
    report = getac.lower(model, None, sparsity=0.3, align=1, bench=False)
    assert report.units_removed >= 0.2 * report.units > 0 and report.verification.passed
    models = compressed(model, sparsity=0.3, align=1)
    floats = verify(replace(models, rounded=None), batches(), generated=True)
    assert floats.folded[0].sqnr_db < 3 and any(one.startswith("folded") for one in floats.failures)


def test_a_record_that_is_sliced_wrong_is_named():
    models = compressed(three_layers(), sparsity=0.3, align=1)
    rounded = models.rounded
    name = next(name for name, record in rounded.sliced.records.items() if record.axis is not None)
    turned = with_record(rounded.sliced, name, lambda one: replace(one, step=one.step[::-1].copy()))
    found = verify(replace(models, rounded=replace(rounded, sliced=turned)), batches(), generated=True)
    failure = next(one for one in found.failures if one.startswith("sliced"))
    assert "differs from the masked model by" in failure and name in failure
    assert "bound 0.0001" in failure


def test_ranges_that_are_measured_are_no_records():
    """What a DynamicQuantizeLinear rounds is left out of the records: 8 bits of noise are allowed for it."""
    body = "q, s, z = DynamicQuantizeLinear(x)  i = MatMulInteger(q, k, z)  f = Cast<to = 1>(i)  "
    body += "t = Mul(s, ws)  y = Mul(f, t)"
    tensors = {
        "k": np.random.default_rng(0).integers(-127, 128, (24, 8)).astype(np.int8),
        "ws": np.asarray(0.01, F32),
    }
    models = compressed(model_of(body, {"x": [64, 24]}, tensors))
    found = verify(models, batches(), generated=True)
    assert found.passed and 30 < found.folded[0].sqnr_db < 60
    assert found.lowered[0].sqnr_db < 60 < found.original[0].sqnr_db  # it is measured again in the end
