"""choose-units: how many units go, which ones, and that nobody notices where they were dead already."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import onnx_ir as ir
import pytest

from getac.errors import OptionError
from getac.passes import (
    ChooseUnits,
    FoldBatchNorm,
    FoldQuantizers,
    InferAxes,
    InferShapes,
    RemoveDead,
    SliceUnits,
)
from getac.pipeline import Fact, Pipeline, State
from getac.placement.alignment import allowed_counts, unit_multiples
from tools.zoo.registry import ZOO

F32 = np.float32
ANALYSE = (FoldQuantizers(), FoldBatchNorm(), RemoveDead(), InferShapes(), InferAxes())


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def analysed(model):
    if not isinstance(model, ir.Model):
        model = ir.serde.deserialize_model(model)
    return Pipeline(ANALYSE).run(State(model))


def choose(state, **options):
    return Pipeline([ChooseUnits(**options)]).run(state).choice


def removed_by_parameter(state):
    """(Parameter, dimension) -> removed indices, for the members of every class that loses units."""
    result = {}
    for one in state.analysis.classes:
        mask = state.choice.masks.get(one.atom)
        if mask is not None:
            for member in one.members:
                (owner,) = member.owners(one.atom)
                gone = np.flatnonzero((owner >= 0) & ~mask[owner])
                result[(member.name, member.dimension)] = gone.tolist()
    return result


@pytest.fixture(scope="module")
def nets():
    return {name: analysed(make()) for name, make in ZOO.items()}


# Options


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_sparsity_outside_its_domain(sparsity):
    with pytest.raises(OptionError, match=r"share of units(.|\n)*\[0, 1\), or auto(.|\n)*" + str(sparsity)):
        ChooseUnits(sparsity=sparsity)


@pytest.mark.parametrize("align", [0, -4])
def test_alignment_outside_its_domain(align):
    with pytest.raises(OptionError, match=f"positive multiple(.|\n)*{align}"):
        ChooseUnits(align=align)


# A share of the units


@pytest.mark.parametrize("net", ZOO)
@pytest.mark.parametrize("align", [1, 8, None])
@pytest.mark.parametrize("sparsity", [0.0, 0.05, 0.3, 0.5, 0.9, 0.999])
def test_share_alignment_and_survivors(nets, net, sparsity, align):
    state = nets[net]
    choice = choose(state, sparsity=sparsity, align=align)
    multiples = unit_multiples(state.analysis, align, integer=True)
    target = round(sparsity * choice.units)
    assert choice.units == sum(one.size for one in state.analysis.classes)
    assert not choice.exact and choice.folds == ()
    removed = 0
    for one in state.analysis.classes:
        kept = int(choice.masks[one.atom].sum()) if one.atom in choice.masks else one.size
        counts = allowed_counts(one, multiples[one.atom])
        assert 1 <= kept <= one.size
        assert kept in counts
        removed += one.size - kept
        if kept > counts[0]:  # one block more, or one less, is no nearer
            block = kept - counts[counts.index(kept) - 1]
            assert abs(choice.removed + block - target) >= abs(choice.removed - target)
    assert choice.removed == removed
    assert choice.sparsity == removed / max(choice.units, 1)
    if align == 1:
        assert removed == min(target, choice.units - len(state.analysis.classes))
    if sparsity == 0:
        assert choice.masks == {}


def test_a_class_of_large_blocks_does_not_stop_the_others(build):
    """32 units in blocks of 16 come first in rank, and overshoot 5 of 52; the 20 others make up for it."""
    text = """(float[1,3,4,4] x, float[1,6] v) => (float[1,2,4,4] y, float[1,2] w)
        { a = Conv(x, A) b = Relu(a) y = Conv(b, B) c = Gemm(v, C) d = Relu(c) w = Gemm(d, D) }"""
    weak = np.r_[np.full(16, 0.01), np.full(16, 1)].astype(F32)
    tensors = {
        "A": weak[:, None, None, None] * np.ones((32, 3, 1, 1), F32),
        "B": np.zeros((2, 32, 1, 1), F32),
        "C": normal(6, 20),
        "D": normal(20, 2),
    }
    state = analysed(build(text, **tensors))
    choice = choose(state, sparsity=0.1, integer=False)
    assert choice.removed == 5
    assert [mask.size for mask in choice.masks.values()] == [20]


@pytest.mark.parametrize("net", ["resnet", "densenet", "transformer"])
def test_the_choice_is_deterministic(net):
    first, second = (analysed(ZOO[net]()) for _ in range(2))
    choose(first, sparsity=0.4), choose(second, sparsity=0.4)
    assert removed_by_parameter_or_masks(first) == removed_by_parameter_or_masks(second)


def removed_by_parameter_or_masks(state):
    return [
        None if one.atom not in state.choice.masks else state.choice.masks[one.atom].tolist()
        for one in state.analysis.classes
    ]


TWO_BRANCHES = """(float[2,5] x) => (float[2,3] y, float[2,3] z) {
    a = Gemm(x, A, i) b = Relu(a) y = Gemm(b, B) c = Gemm(x, C, j) d = Relu(c) z = Gemm(d, D) }"""


def branches(factor=1.0):
    first = {"A": normal(5, 12), "i": normal(12), "B": normal(12, 3)}
    second = {"C": normal(5, 16, seed=2), "j": normal(16, seed=3), "D": normal(16, 3, seed=4)}
    return {name: (factor * array).astype(F32) for name, array in first.items()} | second


@pytest.mark.parametrize("factor", [2.0**10, 2.0**-10, 1000.0])
def test_classes_are_compared_by_their_mean_not_by_their_scale(build, factor):
    plain, scaled = (analysed(build(TWO_BRANCHES, **branches(f))) for f in (1.0, factor))
    choose(plain, sparsity=0.4), choose(scaled, sparsity=0.4)
    chosen = removed_by_parameter(plain)
    assert chosen == removed_by_parameter(scaled)
    assert {name for name, _ in chosen} == {"A", "B", "C", "D", "i", "j"}


def test_the_least_units_go(build):
    text = "(float[2,5] x) => (float[2,3] y) { a = Gemm(x, A, i) b = Relu(a) y = Gemm(b, B) }"
    tensors = {"A": normal(5, 10), "i": normal(10), "B": normal(10, 3)}
    norms = sum((tensors[name] ** 2).sum(0) for name in "A") + tensors["i"] ** 2 + (tensors["B"] ** 2).sum(1)
    state = analysed(build(text, **tensors))
    choose(state, sparsity=0.4)
    expected = sorted(np.argsort(norms)[:4].tolist())
    assert removed_by_parameter(state) == {("A", 1): expected, ("i", 0): expected, ("B", 0): expected}


def test_of_equal_units_the_first_go(build):
    text = "(float[2,5] x) => (float[2,3] y) { a = Gemm(x, A) b = Relu(a) y = Gemm(b, B) }"
    state = analysed(build(text, A=np.ones((5, 8), F32), B=np.ones((8, 3), F32)))
    choose(state, sparsity=0.5)
    assert removed_by_parameter(state) == {("A", 1): [0, 1, 2, 3], ("B", 0): [0, 1, 2, 3]}


def test_weights_that_are_all_zero_have_a_rank(build):
    text = "(float[2,5] x) => (float[2,3] y) { a = Gemm(x, A) b = Relu(a) y = Gemm(b, B) }"
    state = analysed(build(text, A=np.zeros((5, 8), F32), B=np.zeros((8, 3), F32)))
    assert choose(state, sparsity=0.5).removed == 4


# Units that are dead already


@pytest.mark.parametrize("net", ZOO)
def test_auto_leaves_a_model_without_dead_units_alone(nets, net):
    choice = choose(nets[net])
    assert (choice.masks, choice.folds, choice.removed, choice.exact) == ({}, (), 0, True)


GEMMS = "(float[2,5] x) => (float[2,3] y) {{ a = Gemm(x, A, i) b = {act}(a) y = Gemm(b, B, j) }}"


def gemms(dead, bias=0.0):
    tensors = {"A": normal(5, 10), "i": normal(10), "B": normal(10, 3), "j": normal(3)}
    tensors["A"][:, dead] = 0
    tensors["i"][dead] = bias
    return tensors


def slice_and_compare(evaluate, state, bound=1e-6, **feeds):
    before = evaluate(state.model, **feeds)
    Pipeline([SliceUnits(), RemoveDead()]).run(state)
    for old, new in zip(before, evaluate(state.model, **feeds), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=bound * np.abs(old).max())
    again = analysed(state.model)
    assert choose(again).removed == 0


@pytest.mark.parametrize(
    ("act", "bias", "folded"),
    [("Relu", 0.0, 0.0), ("Relu", -0.5, 0.0), ("Relu", 0.5, 0.5), ("Sigmoid", 0.0, 0.5), ("Tanh", 0.0, 0.0)],
)
def test_auto_removes_exactly_the_dead(build, evaluate, act, bias, folded):
    state = analysed(build(GEMMS.format(act=act), **gemms([1, 5], bias)))
    choice = choose(state)
    assert choice.exact and choice.removed == 2
    assert removed_by_parameter(state) == {("A", 1): [1, 5], ("i", 0): [1, 5], ("B", 0): [1, 5]}
    if folded:
        (fold,) = choice.folds
        assert np.flatnonzero(fold.constants).tolist() == [1, 5]
        assert fold.constants[[1, 5]] == pytest.approx(folded, abs=1e-6)
    else:
        assert choice.folds == ()
    slice_and_compare(evaluate, state, x=normal(2, 5, seed=9))


def test_auto_keeps_one_unit_of_a_class_that_is_dead_as_a_whole(build, evaluate):
    state = analysed(build(GEMMS.format(act="Relu"), **gemms(slice(None))))
    assert choose(state).removed == 9
    slice_and_compare(evaluate, state, x=normal(2, 5, seed=9))


def test_auto_removes_units_that_nobody_reads(build, evaluate):
    tensors = gemms([])
    tensors["B"][[0, 7]] = 0
    state = analysed(build(GEMMS.format(act="Relu"), **tensors))
    choose(state)
    assert removed_by_parameter(state)[("A", 1)] == [0, 7]
    slice_and_compare(evaluate, state, x=normal(2, 5, seed=9))


CONVS = """(float[2,3,6,6] x) => (float[2,4,6,6] y) {{
    a = Conv<pads=[1,1,1,1]>(x, A, i) b = Relu(a) y = Conv<pads=[{pad},{pad},{pad},{pad}]>(b, B) }}"""


def convs(dead, bias, kernel):
    tensors = {"A": normal(16, 3, 3, 3), "i": normal(16), "B": normal(4, 16, kernel, kernel)}
    tensors["A"][dead] = 0
    tensors["i"][dead] = bias
    return tensors


@pytest.mark.parametrize(("align", "removed"), [(1, 5), (2, 4), (None, 4), (8, 0), (16, 0)])
def test_auto_honours_the_alignment(build, evaluate, align, removed):
    state = analysed(build(CONVS.format(pad=1), **convs([0, 3, 4, 9, 15], 0, 3)))
    choice = choose(state, align=align)
    assert choice.removed == removed
    Pipeline([SliceUnits(), RemoveDead()]).run(state)
    assert choose(analysed(state.model), align=align).removed == 0


def test_a_constant_folds_into_a_convolution_without_padding(build, evaluate):
    state = analysed(build(CONVS.format(pad=0), **convs([2, 3], 0.5, 1)))
    assert choose(state, align=1).removed == 2
    slice_and_compare(evaluate, state, x=normal(2, 3, 6, 6))


def test_a_constant_that_meets_padding_keeps_its_unit(build):
    state = analysed(build(CONVS.format(pad=1), **convs([2, 3], 0.5, 3)))
    assert choose(state, align=1).removed == 0


def test_dead_units_of_a_residual_stream_must_be_dead_on_both_sides(build):
    text = """(float[2,5] x) => (float[2,3] y)
        { a = Gemm(x, A) b = Gemm(x, B) c = Add(a, b) d = Relu(c) y = Gemm(d, D) }"""
    tensors = {"A": normal(5, 8), "B": normal(5, 8, seed=1), "D": normal(8, 3)}
    tensors["A"][:, [1, 2]] = 0
    tensors["B"][:, [2, 3]] = 0
    state = analysed(build(text, **tensors))
    choose(state)
    assert removed_by_parameter(state)[("D", 0)] == [2]


def test_it_changes_no_graph_and_can_run_again(nets):
    state = nets["resnet"]
    choose(state, sparsity=0.5)
    first = state.choice
    choose(state, sparsity=0.5)
    assert not state.records[-1].changed
    assert Fact.CHOSEN in state.facts
    equal = defaultdict(list)
    for choice in (first, state.choice):
        for atom, mask in choice.masks.items():
            equal[atom].append(mask.tolist())
    assert all(one == other for one, other in equal.values())
