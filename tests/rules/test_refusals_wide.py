"""Reasons that the rarer operators give, on graphs that show them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rules.cases import image, ints, sequence, two_images
from tests.rules.cases_wide import FROZEN_SOURCES
from tests.rules.test_refusals import Refusal, analysis_of, reasons
from tools.law import check_law

INDICES = np.zeros((1, 4, 8), np.int64)
SOURCES = {
    "AffineGrid": "t = AffineGrid(theta, s)",
    "MelWeightMatrix": "t = MelWeightMatrix(bins, n, n, low, high)",
    "Bernoulli": "t = Bernoulli(m)",
    "Multinomial": "t = Multinomial<sample_size=8, dtype=6>(m)",
    "RandomNormal": "t = RandomNormal<shape=[4, 8]>()",
    "RandomNormalLike": "t = RandomNormalLike(m)",
    "RandomUniform": "t = RandomUniform<shape=[4, 8]>()",
    "RandomUniformLike": "t = RandomUniformLike(m)",
}
RANGES = ("AffineGrid", "MelWeightMatrix")
ARGUMENTS = {
    "theta": (1, 2, 3), "s": ints(1, 1, 4, 8), "m": np.full((4, 8), 0.5, np.float32), "bins": np.array(8),
    "n": np.array(16), "low": np.array(0.0, np.float32), "high": np.array(8.0, np.float32),
}  # fmt: skip
RECURRENT = """c = MatMul(p, h)  d = Transpose<perm=[1, 0, 2]>(c)
    Y, l = LSTM<hidden_size=5, direction="bidirectional">(d, w, q)  t = Transpose<perm=[2, 0, 1, 3]>(Y)
    u = MatMul(t, m)  v = ReduceSum<keepdims=0>(u, a)  s = Unsqueeze(v, one)  r = Add(h, s)"""
WEIGHTS = {"p": (7, 4), "w": (2, 20, 8), "q": (2, 20, 5), "m": (5, 8), "a": ints(1, 2), "one": ints(1)}

REFUSALS = {
    "diagonal": Refusal(
        sequence('u = Einsum<equation="bti,jj->bi">(h, p)  v = Unsqueeze(u, a)  r = Add(h, v)', p=(7, 7), a=ints(1)),
        "a diagonal", "u", "p", 0),
    "summed letter that is not zero": Refusal(
        sequence('t = Sigmoid(h)  u = Einsum<equation="bti->bt">(t)  v = Unsqueeze(u, a)  r = Add(h, v)', a=ints(2)),
        "summed where a removed unit would not be zero", "u", dimension=2),
    "steps": Refusal(sequence(RECURRENT, **WEIGHTS), "the steps of a recurrence", "Y", "p", 0),
    "directions": Refusal(sequence(RECURRENT, **WEIGHTS), "the directions of a recurrence", "Y", "w", 0),
    "pixel block": Refusal(image("r = DepthToSpace<blocksize=2>(h)", out=2), "the block of a pixel shuffle", "r"),
    "triangle": Refusal(sequence("r = Trilu(h)"), "a triangle of a matrix", "r", dimension=2),
    "reversed": Refusal(
        sequence("t = Transpose<perm=[2, 1, 0]>(h)  u = ReverseSequence(t, n)"
                 "  r = Transpose<perm=[2, 1, 0]>(u)", n=ints(1, 2, 3, 4)),
        "a reversed axis", "u", dimension=2),
    "sorted": Refusal(sequence("r, i = TopK(h, k)  j = Identity(i)", k=ints(8)), "a sorted axis", "r",
                      dimension=2),
    "gathered": Refusal(sequence("r = GatherElements<axis=2>(h, i)", i=INDICES), "an indexed axis", "r",
                        dimension=2),
    "gathered in part": Refusal(sequence("r = GatherElements<axis=1>(h, i)", i=INDICES[..., :3], out=3),
                                "indexed in part", "r", dimension=2),
    "gathered by tuples": Refusal(
        sequence("t = GatherND(h, i)  r = Expand(t, s)", i=np.zeros((8, 3), np.int64), s=ints(1, 1, 8)),
        "an indexed axis", "t", dimension=2),
    "scattered": Refusal(sequence("r = ScatterElements<axis=2>(h, i, q)", i=INDICES, q=(1, 4, 8)),
                         "an indexed axis", "r", dimension=2),
    "scattered by tuples": Refusal(sequence("r = ScatterND(h, i, q)", i=np.zeros((2, 3), np.int64), q=(2,)),
                                   "an indexed axis", "r", dimension=2),
    "written entries": Refusal(sequence("u = ScatterND(p, i, q)  r = Add(h, u)", p=(4, 8), i=np.array([[1], [3]]),
                                        q=(2, 8)), "an axis of written entries", "u", "i", 0),
    "one hot": Refusal(
        sequence("t = ArgMax<axis=2, keepdims=0>(h)  u = OneHot(t, d, v)  r = Add(h, u)", d=ints(8),
                 v=np.array([0, 1], np.float32)), "an indexed axis", "u", "u", 2),
    "grid": Refusal(
        two_images("c = Slice(g, s, e, a)  t = Transpose<perm=[0, 2, 3, 1]>(c)  r = GridSample(h, t)",
                   s=ints(0), e=ints(2), a=ints(1)), "a spatial dimension", "r", "t", 3),
    "transformed": Refusal(
        sequence("t = Unsqueeze(h, a)  u = DFT(t, , at)  r = ReduceSum<keepdims=0>(u, a)", a=ints(3),
                 at=np.array(2)), "a Fourier transform", "u", dimension=2),
    "padded": Refusal(image("r = CenterCropPad<axes=[1]>(h, s)", s=ints(6), out=6), "a padded dimension", "r"),
    "repeated by a computed number": Refusal(
        sequence("n = Shape<start=2>(h)  k = Max(n, one)  d = Sub(k, seven)  u = Tile(p, d)  r = Mul(h, u)",
                 one=ints(1), seven=ints(7), p=(8,)), "its size is used as a number", "k", dimension=2),
    "difference of sizes": Refusal(
        sequence("n = Shape<start=2>(h)  d = Sub(n, seven)  u = Tile(p, d)  r = Mul(h, u)", seven=ints(7),
                 p=(8,)), "its size is used as a number", "d", dimension=2),
    "division with a rest": Refusal(
        sequence("n = Shape<start=2>(h)  d = Div(n, three)  s = Concat<axis=0>(four, d)  u = Expand(p, s)"
                 "  v = ReduceSum(u, a)  r = Mul(h, v)", three=ints(3), four=ints(4), p=(1,), a=ints(1)),
        "its size is used as a number", "d", dimension=2),
}  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_lose_units_is_frozen_and_says_why(refusal: Refusal) -> None:
    analysis = analysis_of(refusal.case.model(seed=0))
    assert f"{refusal.reason} ({refusal.node})" in reasons(analysis, refusal.value, refusal.dimension)
    assert check_law(refusal.case.model(seed=0)).difference <= 1e-4


def test_every_source_has_a_graph() -> None:
    assert set(SOURCES) == set(FROZEN_SOURCES)


@pytest.mark.parametrize("operator", SOURCES)
def test_sources_are_frozen(operator: str) -> None:
    text = SOURCES[operator]
    needed = {name: tensor for name, tensor in ARGUMENTS.items() if f"{name}," in text or f"{name})" in text}
    case = sequence(f"{text}  c = Cast<to=1>(t)  v = ReduceMax<keepdims=0>(c)  r = Mul(h, v)", **needed)
    analysis = analysis_of(case.model(seed=0))
    assert analysis.opaque == []
    assert [one.size for one in analysis.classes] == [8]
    expected = {f"{'a range' if operator in RANGES else 'random numbers'} (t)"}
    assert reasons(analysis, "t", 0) == expected
