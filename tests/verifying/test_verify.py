"""Verification: every stage is held to its bound, and the value where things go wrong is named."""

from __future__ import annotations

import numpy as np
import pytest

from getac.lowering import not_verified
from getac.verifying.agreement import NOT_FUSED
from getac.verifying.recorded import Recorded, Rounded
from getac.verifying.verification import Models
from getac.verifying.verify import verify
from tests.traps.naive import GEMM

F32 = np.float32
NET = """(float[N,4] x) => (float[N,4] y) {
    a = Mul(x, s)
    b = Relu(a)
    y = Add(b, t)
}"""


@pytest.fixture
def check(build):
    """Verifies stages that are all the same, but for the ones given; `rounded`: see `quantized`."""

    def call(rounded=None, **stages):
        same = {
            name: build(NET, s=F32(2), t=F32(1)) for name in ("original", "folded", "reference", "sliced")
        }
        models = Models(**{**same, "lowered": same["sliced"], **stages}, rounded=rounded, keep=dict)
        batches = [{"x": np.random.default_rng(i).normal(size=(3, 4)).astype(F32)} for i in range(2)]
        return verify(models, batches, generated=False)

    return call


def net(build, s=2.0, t=1.0):
    return build(NET, s=F32(s), t=F32(t))


def quantized(*models):
    """The stages of a model that arrived quantized, by models that need no records: the last for the rest."""
    return Rounded(*(Recorded(models[min(i, len(models) - 1)], {}) for i in range(4)))


def test_equal_stages_pass(check):
    found = check()
    assert found.passed and found.failures == () and found.departure is None
    assert (found.samples, found.generated) == (6, False)
    for stage in (found.folded, found.sliced, found.lowered, found.kernels, found.original):
        assert [(one.output, one.max_abs) for one in stage] == [("y", 0.0)]


def test_slicing_is_held_to_a_relative_bound(check, build):
    assert check(sliced=net(build, t=1.00001), lowered=net(build)).passed
    found = check(sliced=net(build, t=1.01), lowered=net(build))
    assert not found.passed and found.departure.value == "y"
    assert found.failures[0].startswith("sliced: output y differs from the masked model by 0.00")
    assert "bound 0.0001" in found.failures[0]


def test_lowering_may_be_coarse_but_no_noise(check, build):
    assert check(lowered=net(build, s=2.2)).passed
    found = check(lowered=net(build, s=-2))
    assert (
        found.failures[0].startswith("lowered: output y has an SQNR of") and "bound 3 dB" in found.failures[0]
    )
    assert found.departure.value == "a"


@pytest.mark.parametrize(("s", "passes"), [(2.02, True), (2.2, False)])
def test_folding_is_held_to_the_model_that_was_read(check, build, s, passes):
    found = check(original=net(build, s=s))
    assert found.passed == passes
    if not passes:
        assert found.failures == (found.failures[0],) and found.failures[0].startswith("folded: output y")
        assert found.departure.value == "a"


def test_the_first_stage_that_fails_names_the_value(check, build):
    found = check(original=net(build, t=-5), lowered=net(build, s=-2))
    assert [failure.split(":")[0] for failure in found.failures] == ["folded", "lowered"]
    assert found.departure.value == "y"


@pytest.mark.parametrize(
    ("s", "t", "off", "passes"),
    [
        (0, 0, 1e-6, True),  # a rounding of inputs of about 2
        (0, 0, 1e-4, False),
        (0, 1e-6, 2e-6, False),  # there is a signal, be it small
        (0, 0, 1e-42, True),
        (0, 1e-42, 0, True),  # nor has float32 normal numbers this small
    ],
)
def test_zeros_are_held_to_the_rounding_of_the_greatest_value(check, build, s, t, off, passes):
    same = {name: net(build, s, t) for name in ("original", "folded", "reference", "sliced")}
    found = check(**same, lowered=net(build, s, off))
    assert found.passed == passes and found.lowered[0].max_abs == pytest.approx(abs(off - t), rel=0.1)


def test_zeros_among_outputs_excuse_no_other(check, build):
    """What is no difference in one output is no noise that another one may have."""
    text = (
        "(float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Mul(x, s) \n u = Mul(x, o) \n z = Add(u, t) }"
    )
    two = lambda s, t: build(text, s=F32(s), o=F32(0), t=F32(t))  # noqa: E731
    same = {name: two(2, 0) for name in ("original", "folded", "sliced")}
    same["reference"] = same["folded"]
    rounded = quantized(same["folded"])
    assert check(rounded, **same, lowered=two(2, 1e-7)).passed
    (failure,) = check(rounded, **{**same, "original": two(3, 0)}, lowered=two(2, 1e-7)).failures
    assert failure == "recognized: value y has an SQNR of 9.5 dB, bound 40 dB"


def test_outputs_that_are_not_finite_fail(check, build):
    found = check(lowered=net(build, t=np.inf))
    assert not found.passed and not found.lowered[0].finite
    expected = "lowered: output y is NaN or infinite where it should not be, or the other way round"
    assert expected in found.failures and not any("dB" in failure for failure in found.failures)


def test_a_model_with_quantizers_is_held_to_its_own_rounding(check, build):
    """Its quantizers may be far from floats; neither the records nor the result may be far from them."""
    floats = dict.fromkeys(("folded", "reference", "sliced"), net(build, s=6))
    right, near, off = net(build, s=-2), net(build, s=-2.01), net(build, s=-2.6)
    assert check(quantized(right), original=right, lowered=right, **floats).passed
    assert check(quantized(right), original=right, lowered=near, **floats).passed
    found = check(quantized(right), original=right, lowered=off, **floats)
    assert found.failures[0].startswith("lowered: output y has an SQNR of") and "20 dB" in found.failures[0]
    assert found.departure.value == "a"
    found = check(quantized(off), original=right, lowered=off, **floats)
    assert [failure.split(":")[0] for failure in found.failures] == ["recognized"]


def test_slicing_is_held_to_the_masked_model_with_quantizers_running(check, build):
    """And not the masked model to the one that was read: it has lost units."""
    floats = dict.fromkeys(("folded", "reference", "sliced"), net(build, s=6))
    right, masked, sliced = net(build), net(build, s=-5), net(build, s=-5.1)
    assert check(quantized(right, masked), original=right, lowered=masked, **floats).passed
    found = check(quantized(right, masked, sliced), original=right, lowered=sliced, **floats)
    (failure,) = found.failures
    assert failure.startswith("sliced: value y differs from the masked model by 0.0")
    assert failure.endswith("bound 0.0001") and found.departure.value == "y"


def test_what_the_result_rounds_by_itself_is_allowed(check, build):
    """As far from the original as the quantizers that lowering adds: activations of a few bits, asked for."""
    model, coarse = net(build), net(build, s=2.6)
    stages = dict.fromkeys(("original", "folded", "reference", "sliced"), model)
    added = quantized(model, model, model, coarse)
    assert check(added, lowered=coarse, **stages).passed
    assert not check(quantized(model), lowered=coarse, **stages).passed
    found = check(added, lowered=net(build, s=-2), **stages)
    (failure,) = found.failures
    assert failure.startswith("lowered: output y has an SQNR of")
    assert "of which the quantizers that lowering adds to the model's own make" in failure
    assert failure.endswith(" dB; without --calibration there may be none")


def test_float16_is_held_to_its_own_bound(check, build):
    half = NET.replace("float", "float16")
    reference, near, far = (build(half, s=np.float16(2), t=np.float16(t)) for t in (1, 1.004, 1.2))
    stages = {"original": reference, "folded": reference, "reference": reference, "sliced": near}
    batches = [{"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float16)}]

    def verified(sliced):
        models = Models(**{**stages, "sliced": sliced, "lowered": sliced}, rounded=None, keep=dict)
        return verify(models, batches, generated=True)

    assert verified(near).passed and verified(near).sliced[0].relative > 1e-4
    assert "bound 0.005" in verified(far).failures[0]


def test_onnxruntimes_own_fusions_are_checked(build):
    """A bias with a wrong scale: the graph is right as written, and wrong as onnxruntime runs it."""
    rng = np.random.default_rng(0)
    model = build(
        GEMM,
        s=F32(0.02),
        z=np.uint8(128),
        w=rng.integers(-127, 128, (8, 16), np.int8),
        ws=np.full(8, 0.01, F32),
        wz=np.zeros(8, np.int8),
        b=rng.integers(-9000, 9000, 8, np.int32),
        bs=np.full(8, 1e-3, F32),
        bz=np.zeros(8, np.int32),
    )
    models = Models(*[model] * 5, rounded=quantized(model), keep=dict)
    found = verify(models, [{"x": rng.normal(size=(4, 16)).astype(F32)}], generated=True)
    assert any(failure.startswith("kernels: output y has an SQNR of") for failure in found.failures)
    assert found.departure.value == "y" and found.generated
    assert found.notes == (NOT_FUSED,)
    refusal = not_verified(found, misfits=False)
    assert refusal.found.endswith(f"; {NOT_FUSED}") and "departs: y (" in refusal.where


def test_a_difference_in_the_graph_is_not_put_down_to_onnxruntime(check, build):
    assert check().notes == () == check(lowered=net(build, s=-2)).notes


def test_no_weight_is_named_where_its_layout_changed(check, build):
    """The square weight of a MatMul keeps its name where it becomes that of a Gemm, and lies transposed."""
    text = "(float[N,4] x) => (float[N,4] y) {{ v = DequantizeLinear(w, s) \n h = {} \n y = Neg(h) }}"
    w = np.random.default_rng(0).integers(-99, 99, (4, 4)).astype(np.int8)
    model = build(text.format("MatMul(x, v)"), w=w, s=F32(0.1))
    laid_out, wrong = (
        build(text.format("Gemm<transB = 1>(x, v)"), w=one.T.copy(), s=F32(0.1)) for one in (w, -w)
    )
    stages = dict.fromkeys(("original", "folded", "reference", "sliced"), model)
    for rounded in (None, quantized(model)):
        assert check(rounded, **stages, lowered=laid_out).passed
        assert check(rounded, **stages, lowered=wrong).departure.value == "h"


def test_a_scalar_input_is_one_sample(build):
    model = build("(float x) => (float y) { y = Relu(x) }")
    found = verify(Models(*[model] * 5, rounded=None, keep=dict), [{"x": np.array(3, F32)}], generated=True)
    assert found.passed and found.samples == 1


def test_data_that_is_zero_verifies_nothing(build):
    models = Models(*[net(build)] * 5, rounded=None, keep=dict)
    zeros = [{"x": np.zeros((3, 4), F32)}]
    found = verify(models, zeros, generated=False)
    assert found.failures == (
        "calibration: the data is zero in all of x: it says nothing of ranges or differences",
    )
    assert verify(models, zeros, generated=True).passed
    assert verify(models, [*zeros, {"x": np.ones((3, 4), F32)}], generated=False).passed
