"""Reasons that the rarer operators give, on graphs that show them."""

from __future__ import annotations

import numpy as np
import pytest

from getac.onnx_graph.edit import array_of
from tests.rules.cases import Case, image, ints, sequence, two_images
from tests.rules.cases_wide import FROZEN_SOURCES, WIDE_CASES
from tests.rules.test_refusals import Refusal, analysis_of, reasons
from tests.rules.test_sites import node_of, sliced
from tools.law import AS_WRITTEN, check_law
from tools.onnx_text import Tensor

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
ARGUMENTS: dict[str, Tensor] = {
    "theta": (1, 2, 3),
    "s": ints(1, 1, 4, 8),
    "m": np.full((4, 8), 0.5, np.float32),
    "bins": np.array(8),
    "n": np.array(16),
    "low": np.array(0.0, np.float32),
    "high": np.array(8.0, np.float32),
}
RECURRENT = """c = MatMul(p, h)  d = Transpose<perm=[1, 0, 2]>(c)
    Y, l = LSTM<hidden_size=5, direction="bidirectional">(d, w, q)  t = Transpose<perm=[2, 0, 1, 3]>(Y)
    u = MatMul(t, m)  v = ReduceSum<keepdims=0>(u, a)  s = Unsqueeze(v, one)  r = Add(h, s)"""
WEIGHTS: dict[str, Tensor] = {
    "p": (7, 4),
    "w": (2, 20, 8),
    "q": (2, 20, 5),
    "m": (5, 8),
    "a": ints(1, 2),
    "one": ints(1),
}

REFUSALS = {
    "diagonal": Refusal(
        sequence(
            'u = Einsum<equation="bti,jj->bi">(h, p)  v = Unsqueeze(u, a)  r = Add(h, v)', p=(7, 7), a=ints(1)
        ),
        "a diagonal",
        "u",
        "p",
        0,
    ),
    "summed letter that is not zero": Refusal(
        sequence(
            't = Sigmoid(h)  u = Einsum<equation="bti->bt">(t)  v = Unsqueeze(u, a)  r = Add(h, v)', a=ints(2)
        ),
        "summed where a removed unit would not be zero",
        "u",
        dimension=2,
    ),
    "steps": Refusal(sequence(RECURRENT, out=8, **WEIGHTS), "the steps of a recurrence", "Y", "p", 0),
    "directions": Refusal(
        sequence(RECURRENT, out=8, **WEIGHTS), "the directions of a recurrence", "Y", "w", 0
    ),
    "pixel block": Refusal(
        image("r = DepthToSpace<blocksize=2>(h)", out=2), "the block of a pixel shuffle", "r"
    ),
    "triangle": Refusal(sequence("r = Trilu(h)"), "a triangle of a matrix", "r", dimension=2),
    "reversed": Refusal(
        sequence(
            "t = Transpose<perm=[2, 1, 0]>(h)  u = ReverseSequence(t, n)  r = Transpose<perm=[2, 1, 0]>(u)",
            n=ints(1, 2, 3, 4),
        ),
        "a reversed axis",
        "u",
        dimension=2,
    ),
    "sorted": Refusal(
        sequence("r, i = TopK(h, k)  j = Identity(i)", k=ints(8)), "a sorted axis", "r", dimension=2
    ),
    "gathered": Refusal(
        sequence("r = GatherElements<axis=2>(h, i)", i=INDICES), "an indexed axis", "r", dimension=2
    ),
    "gathered in part": Refusal(
        sequence("r = GatherElements<axis=1>(h, i)", i=INDICES[..., :3], out=3),
        "indexed in part",
        "r",
        dimension=2,
    ),
    "gathered by tuples": Refusal(
        sequence("t = GatherND(h, i)  r = Expand(t, s)", i=np.zeros((8, 3), np.int64), s=ints(1, 1, 8)),
        "an indexed axis",
        "t",
        dimension=2,
    ),
    "scattered": Refusal(
        sequence("r = ScatterElements<axis=2>(h, i, q)", i=INDICES, q=(1, 4, 8)),
        "an indexed axis",
        "r",
        dimension=2,
    ),
    "scattered by tuples": Refusal(
        sequence("r = ScatterND(h, i, q)", i=np.zeros((2, 3), np.int64), q=(2,)),
        "an indexed axis",
        "r",
        dimension=2,
    ),
    "written entries": Refusal(
        sequence("u = ScatterND(p, i, q)  r = Add(h, u)", p=(4, 8), i=np.array([[1], [3]]), q=(2, 8)),
        "an axis of written entries",
        "u",
        "i",
        0,
    ),
    "one hot": Refusal(
        sequence(
            "t = ArgMax<axis=2, keepdims=0>(h)  u = OneHot(t, d, v)  r = Add(h, u)",
            d=ints(8),
            v=np.array([0, 1], np.float32),
        ),
        "an indexed axis",
        "u",
        "u",
        2,
    ),
    "grid": Refusal(
        two_images(
            "c = Slice(g, s, e, a)  t = Transpose<perm=[0, 2, 3, 1]>(c)  r = GridSample(h, t)",
            s=ints(0),
            e=ints(2),
            a=ints(1),
        ),
        "a spatial dimension",
        "r",
        "t",
        3,
    ),
    "transformed": Refusal(
        sequence(
            "t = Unsqueeze(h, a)  u = DFT(t, , at)  r = ReduceSum<keepdims=0>(u, a)",
            a=ints(3),
            at=np.array(2),
        ),
        "a Fourier transform",
        "u",
        dimension=2,
    ),
    "padded": Refusal(
        image("r = CenterCropPad<axes=[1]>(h, s)", s=ints(6), out=6), "a padded dimension", "r"
    ),
    "repeated by a computed number": Refusal(
        sequence(
            "n = Shape<start=2>(h)  k = Max(n, one)  d = Sub(k, seven)  u = Tile(p, d)  r = Mul(h, u)",
            one=ints(1),
            seven=ints(7),
            p=(8,),
        ),
        "its size is used as a number",
        "k",
        dimension=2,
    ),
    "empty": Refusal(
        sequence("t = Slice(h, s, e, a)  r = Concat<axis=2>(h, t)", s=ints(5), e=ints(2), a=ints(2)),
        "sliced to nothing",
        "t",
        dimension=2,
    ),
    "difference of sizes": Refusal(
        sequence(
            "n = Shape<start=2>(h)  d = Sub(n, seven)  u = Tile(p, d)  r = Mul(h, u)", seven=ints(7), p=(8,)
        ),
        "its size is used as a number",
        "d",
        dimension=2,
    ),
    "division with a rest": Refusal(
        sequence(
            "n = Shape<start=2>(h)  d = Div(n, three)  s = Concat<axis=0>(four, d)  u = Expand(p, s)"
            "  v = ReduceSum(u, a)  r = Mul(h, v)",
            three=ints(3),
            four=ints(4),
            p=(1,),
            a=ints(1),
        ),
        "its size is used as a number",
        "d",
        dimension=2,
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_lose_units_is_frozen_and_says_why(refusal: Refusal) -> None:
    analysis = analysis_of(refusal.case.model(seed=0))
    assert f"{refusal.reason} ({refusal.node})" in reasons(analysis, refusal.value, refusal.dimension)
    assert check_law(refusal.case.model(seed=0), passes=AS_WRITTEN).difference <= 1e-5


def test_every_source_has_a_graph() -> None:
    assert set(SOURCES) == set(FROZEN_SOURCES)


@pytest.mark.parametrize("operator", SOURCES)
def test_sources_are_frozen(operator: str) -> None:
    text = SOURCES[operator]
    needed = {name: tensor for name, tensor in ARGUMENTS.items() if f"{name}," in text or f"{name})" in text}
    case = sequence(
        f"{text}  c = Cast<to=1>(t)  v = ReduceMax<keepdims=0>(c)  r = Mul(h, v)", out=8, **needed
    )
    analysis = analysis_of(case.model(seed=0))
    assert analysis.opaque == []
    assert [one.size for one in analysis.classes] == [8]
    expected = {f"{'a range' if operator in RANGES else 'random numbers'} (t)"}
    assert reasons(analysis, "t", 0) == expected


SUMMED = """h = MatMul(x, w_in)  s = Shape<start=1, end=2>(h)  d = Concat<axis=0>(one, s, five)
    z = ConstantOfShape<value=float[1] {{{start}}}>(d)
    Y, l = RNN<hidden_size=5, activations=["{activation}"]>(h, w, q, , , z)
    t = ReduceSum<keepdims=0>(Y, a)  y = Transpose(t)"""


@pytest.mark.parametrize(
    ("start", "activation", "open_sizes"),
    [("0.0", "Tanh", [8, 5]), ("0.0", "Relu", [8, 5]), ("1.0", "Tanh", [8]), ("0.0", "Sigmoid", [8])],
)
def test_a_hidden_unit_vanishes_only_if_zero_stays_zero(
    start: str, activation: str, open_sizes: list[int]
) -> None:
    """The hidden units are summed without a weight that could hide what a removed one holds."""
    tensors: dict[str, Tensor] = {
        "w_in": (6, 8),
        "w": (1, 5, 8),
        "q": (1, 5, 5),
        "one": ints(1),
        "five": ints(5),
        "a": ints(3),
    }
    case = Case(SUMMED.format(start=start, activation=activation), (), {"x": ("N", 4, 6)}, tensors)
    analysis = analysis_of(case.model(seed=0))
    assert [one.size for one in analysis.classes] == open_sizes
    assert check_law(case.model(seed=0), passes=AS_WRITTEN).difference <= 1e-5
    if open_sizes == [8]:
        assert "summed where a removed unit would not be zero (t)" in reasons(analysis, "Y", 3)


def test_the_hidden_size_of_a_recurrent_layer_is_rewritten() -> None:
    case = WIDE_CASES["GRU"][1]
    state = sliced(case, [0, 3], [1, 2, 4])
    node = node_of(state, "Y")
    assert node.attributes["hidden_size"].as_int() == 3
    assert [array_of(value).shape for value in node.inputs[1:3]] == [(1, 9, 2), (1, 9, 3)]
