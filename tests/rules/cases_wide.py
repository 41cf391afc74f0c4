"""Cases for the rarer operators: einsum, recurrence, rearranging, indexing, arithmetic on sizes."""

from __future__ import annotations

import numpy as np

from tests.rules.cases import Case, floats, image, ints, sequence, two_images
from tools.onnx_text import Tensor

ONE = np.array(1, dtype=np.int64)
TOPS = ints(3)


def recurrent(operator: str, gates: int, directions: int) -> Case:
    """x (N, 4, 6) -> MatMul -> h, over N as the steps -> layer of 5 hidden units -> MatMul -> y."""
    way = "bidirectional" if directions == 2 else "forward"
    text = f"""h = MatMul(x, w_in)
        Y, last = {operator}<hidden_size=5, direction="{way}">(h, w, r, b)
        t = Transpose<perm=[0, 2, 1, 3]>(Y)  u = Reshape(t, s)  y = MatMul(u, w_out)"""
    weights: dict[str, Tensor] = {
        "w_in": (6, 8),
        "w": (directions, gates * 5, 8),
        "r": (directions, gates * 5, 5),
        "b": (directions, 2 * gates * 5),
        "w_out": (5 * directions, 3),
        "s": ints(0, 0, 5 * directions),
    }
    return Case(text, (8, 5), {"x": ("N", 4, 6)}, weights)


def recurrent_cases(operator: str, gates: int, attributes: str = "") -> list[Case]:
    """Without a bias, and with everything that may be given; the last state read too."""
    bare = f"""h = MatMul(x, w_in)  Y, last = {operator}<hidden_size=5{attributes}>(h, w, r)
        u = Squeeze(last, zero)  y = MatMul(u, w_out)"""
    weights: dict[str, Tensor] = {
        "w_in": (6, 8),
        "w": (1, gates * 5, 8),
        "r": (1, gates * 5, 5),
        "w_out": (5, 3),
        "zero": ints(0),
    }
    return [
        Case(bare, (8, 5), {"x": ("N", 4, 6)}, weights),
        recurrent(operator, gates, directions=1),
        recurrent(operator, gates, directions=2),
    ]


PEEPHOLES = """h = MatMul(x, w_in)  s = Shape<start=1, end=2>(h)  d = Concat<axis=0>(one, s, five)
    z = ConstantOfShape(d)  Y, last, cell = LSTM<hidden_size=5>(h, w, r, b, , z, z, p)
    t = Squeeze(Y, at)  m = Mul(t, q)  y = MatMul(m, w_out)"""

SHAPE_CHAINS: list[Case] = [
    # view(N, 4 * 8) by Shape, Gather, Mul, Unsqueeze, Concat
    sequence(
        "s = Shape(h)  a = Gather(s, one)  b = Gather(s, two)  m = Mul(a, b)  u = Unsqueeze(m, at)"
        "  n = Shape<start=0, end=1>(h)  t = Concat<axis=0>(n, u)  f = Reshape(h, t)  r = MatMul(f, w)",
        8,
        7,
        one=ONE,
        two=np.array(2),
        at=ints(0),
        w=(32, 7),
        out=7,
    ),
    # heads: view(N, 4, 2, 8 // 2), and back to 2 * 4
    sequence(
        "s = Shape<start=2, end=3>(h)  d = Div(s, heads)  b = Shape<start=0, end=2>(h)"
        "  t = Concat<axis=0>(b, heads, d)  v = Reshape(h, t)  e = Mul(heads, d)"
        "  back = Concat<axis=0>(b, e)  u = Relu(v)  r = Reshape(u, back)",
        2,
        4,
        heads=ints(2),
    ),
    # channel shuffle with C // groups
    image(
        "n = Shape<start=0, end=1>(h)  s = Shape<start=1, end=2>(h)  hw = Shape<start=2>(h)"
        "  c = Div(s, groups)  t = Concat<axis=0>(n, groups, c, hw)  v = Reshape(h, t)"
        "  p = Transpose<perm=[0, 2, 1, 3, 4]>(v)  all = Shape(h)  r = Reshape(p, all)",
        4,
        2,
        groups=ints(4),
    ),
]

SHAPE_CHAINS += [
    # a gated unit: the halves of the channels, cut at C // 2
    image(
        "s = Shape<start=1, end=2>(h)  half = Div(s, two)  a = Slice(h, zero, half, one)"
        "  b = Slice(h, half, s, one)  c = Sigmoid(b)  r = Mul(a, c)",
        4,
        two=ints(2),
        zero=ints(0),
        one=ints(1),
        out=4,
    ),
    # the parts of a stored tensor, cut at multiples of a size
    sequence(
        "g = MatMul(x, w)  n = Shape<start=2>(g)  m = Mul(n, two)  a = Slice(p, zero, n, zero)"
        "  b = Slice(p, n, m, zero)  c = Slice(p, m, end, zero)  s = Sum(a, b, c)  u = MatMul(g, s)"
        "  r = Add(h, u)",
        8,
        4,
        w=(6, 4),
        p=(12, 8),
        zero=ints(0),
        two=ints(2),
        end=ints(2**63 - 1),
    ),
    # expand(N, -1, -1), as the older exporter spells it
    sequence(
        "n = Shape<start=0, end=1>(h)  t = Concat<axis=0>(n, minus, minus)  f = Reshape(t, minus)"
        "  d = Shape(f)  o = ConstantOfShape<value=int64[1] {1}>(d)  m = Mul(o, minus)  e = Equal(f, m)"
        "  w = Where(e, o, f)  u = Expand(p, w)  r = Add(h, u)",
        8,
        p=(1, 1, 8),
        minus=ints(-1),
    ),
    sequence(
        "s = Shape<start=1>(h)  q = ReduceProd(s)  n = Shape<start=0, end=1>(h)  t = Concat<axis=0>(n, q)"
        "  f = Reshape(h, t)  r = MatMul(f, w)",
        8,
        7,
        w=(32, 7),
        out=7,
    ),
    sequence(
        "g = MatMul(x, w)  c = Concat<axis=2>(h, g)  a = Shape<start=2>(h)  b = Shape<start=2>(g)"
        "  s = Add(a, b)  n = Shape<start=0, end=2>(h)  t = Concat<axis=0>(n, s)  f = Flatten(c)"
        "  r = Reshape(f, t)",
        8,
        7,
        w=(6, 7),
        out=15,
    ),
    # C as (2, C // 2), merged again in the other order by C's own size
    sequence(
        "c = Shape<start=2>(h)  d = Div(c, two)  n = Shape<start=0, end=2>(h)  t = Concat<axis=0>(n, two, d)"
        "  v = Reshape(h, t)  p = Transpose<perm=[0, 1, 3, 2]>(v)  all = Shape(h)  r = Reshape(p, all)",
        2,
        4,
        two=ints(2),
    ),
]

WIDE_CASES: dict[str, list[Case]] = {
    "Einsum": [
        sequence('r = Einsum<equation="bti,io->bto">(h, w)', 8, 7, w=(8, 7), out=7),
        sequence(
            'g = MatMul(x, w)  a = Einsum<equation="bik, bjk -> bij">(h, g)  r = MatMul(a, v)',
            8,
            6,
            w=(6, 8),
            v=(4, 6),
            out=6,
        ),
        sequence('r = Einsum<equation="...i,i->...i">(h, p)', p=(8,)),
        sequence('r = Einsum<equation="...i,io">(h, w)', 8, 7, w=(8, 7), out=7),
        image('r = Einsum<equation="nchw,cd,d->ndhw">(h, w, p)', 8, 5, w=(8, 5), p=(5,), out=5),
        sequence('t = Einsum<equation="bti->itb">(h)  r = Einsum<equation="itb->bti">(t)'),
        sequence(
            'g = MatMul(x, w)  s = Einsum<equation="bti,bto->bio">(h, g)  r = MatMul(h, s)',
            8,
            7,
            w=(6, 7),
            out=7,
        ),
    ],
    "LSTM": [
        *recurrent_cases("LSTM", 4),
        Case(
            PEEPHOLES,
            (8, 5),
            {"x": ("N", 4, 6)},
            {
                "w_in": (6, 8),
                "w": (1, 20, 8),
                "r": (1, 20, 5),
                "b": (1, 40),
                "p": (1, 15),
                "q": (5,),
                "one": ints(1),
                "five": ints(5),
                "at": ints(1),
                "w_out": (5, 3),
            },
        ),
    ],
    "GRU": [*recurrent_cases("GRU", 3), *recurrent_cases("GRU", 3, ", linear_before_reset=1")[:1]],
    "RNN": [*recurrent_cases("RNN", 1), *recurrent_cases("RNN", 1, ', activations=["Relu"]')[:1]],
    "DepthToSpace": [
        image("t = Conv(h, w)  r = DepthToSpace<blocksize=2>(t)", 8, 5, w=(20, 8, 1, 1), out=5),
        image('t = Conv(h, w)  r = DepthToSpace<blocksize=2, mode="CRD">(t)', 8, 5, w=(20, 8, 1, 1), out=5),
    ],
    "SpaceToDepth": [image("r = SpaceToDepth<blocksize=2>(h)", out=32)],
    "Tile": [
        sequence("r = Tile(h, n)", n=ints(1, 3, 1)),
        sequence("t = Unsqueeze(h, a)  r = Tile(t, n)", a=ints(1), n=ints(1, 2, 1, 1)),
        sequence("r = Tile(h, n)", 8, 3, n=ints(1, 1, 3), out=24),
        sequence("t = Tile(p, n)  r = Mul(h, t)", p=(4, 1), n=ints(1, 8)),
        sequence("t = Tile(p, n)  u = Mul(h, t)  r = Relu(u)", 2, 4, p=(4,), n=ints(2)),
    ],
    "Trilu": [
        sequence(
            "t = Unsqueeze(h, a)  u = Transpose<perm=[0, 3, 1, 2]>(t)  v = Trilu<upper=0>(u)"
            "  w = Transpose<perm=[0, 2, 3, 1]>(v)  r = Mul(w, p)",
            a=ints(1),
            p=(8,),
        )
    ],
    "ReverseSequence": [sequence("r = ReverseSequence<batch_axis=1, time_axis=0>(h, n)", n=ints(1, 1, 1, 1))],
    "DFT": [
        sequence(
            "t = Unsqueeze(h, a)  u = DFT(t, , at)  v = ReduceSum<keepdims=0>(u, a)  r = Mul(v, p)",
            a=ints(3),
            at=ONE,
            p=(8,),
        )
    ],
    "Col2Im": [
        sequence(
            "t = Transpose<perm=[0, 2, 1]>(h)  u = Col2Im<strides=[1, 2]>(t, size, block)"
            "  v = Reshape(u, s)  r = Transpose<perm=[0, 2, 1]>(v)",
            4,
            size=ints(2, 4),
            block=ints(1, 2),
            s=ints(0, 4, 8),
            out=4,
        )
    ],
    "CenterCropPad": [image("r = CenterCropPad<axes=[2, 3]>(h, s)", s=ints(8, 4))],
    "Det": [image("t = Det(h)  u = Unsqueeze(t, a)  r = Mul(u, p)", a=ints(2, 3), p=(8, 1, 1))],
    "GatherElements": [
        image(
            "t = GatherElements<axis=3>(h, i)  r = Mul(t, p)", i=np.zeros((1, 8, 6, 2), np.int64), p=(8, 1, 1)
        ),
    ],
    "GatherND": [
        sequence(
            "t = GatherND(h, i)  u = Unsqueeze(t, a)  r = Mul(u, p)",
            i=np.zeros((2, 2), np.int64),
            a=ints(0),
            p=(8,),
        ),
        sequence(
            "t = Transpose<perm=[1, 0, 2]>(h)  r = GatherND<batch_dims=1>(t, i)",
            i=np.zeros((4, 1, 1), np.int64),
        ),
    ],
    "ScatterElements": [
        sequence(
            "u = ScatterElements<axis=0>(p, i, q)  r = Add(h, u)",
            p=(4, 8),
            i=np.arange(2).repeat(8).reshape(2, 8),
            q=(2, 8),
        ),
        sequence(
            'u = ScatterElements<axis=0, reduction="add">(p, i, q)  r = Mul(h, u)',
            p=(4, 8),
            i=np.arange(2).repeat(8).reshape(2, 8),
            q=(2, 8),
        ),
    ],
    "ScatterND": [
        sequence("u = ScatterND(p, i, q)  r = Add(h, u)", p=(4, 8), i=np.array([[1], [3]]), q=(2, 8)),
        sequence(
            'u = ScatterND<reduction="add">(p, i, q)  r = Mul(h, u)',
            p=(4, 8),
            i=np.array([[1], [1]]),
            q=(2, 8),
        ),
    ],
    "TopK": [
        sequence("t, i = TopK<axis=1>(h, k)  c = Cast<to=1>(i)  u = Add(t, c)  r = Mul(u, p)", k=TOPS, p=(8,))
    ],
    "OneHot": [
        sequence(
            "t = ArgMax<axis=1, keepdims=0>(h)  u = OneHot<axis=1>(t, d, v)  r = Mul(u, p)",
            d=ints(4),
            v=floats(0, 1),
            p=(8,),
        ),
    ],
    "GridSample": [
        two_images(
            "c = Slice(g, s, e, a)  t = Transpose<perm=[0, 2, 3, 1]>(c)  r = GridSample(h, t)",
            8,
            6,
            s=ints(0),
            e=ints(2),
            a=ints(1),
        )
    ],
    "RoiAlign": [
        image(
            "r = RoiAlign<output_height=2, output_width=2>(h, q, i)",
            q=np.array([[0, 0, 4, 4], [1, 1, 5, 5]], np.float32),
            i=ints(0, 0),
        )
    ],
    "MaxRoiPool": [
        image(
            "r = MaxRoiPool<pooled_shape=[2, 2]>(h, q)",
            q=np.array([[0, 0, 0, 4, 4], [0, 1, 1, 5, 5]], np.float32),
        )
    ],
    "Size": [
        sequence(
            "n = Size(h)  u = Unsqueeze(n, a)  f = Reshape(h, u)  t = Shape(h)  r = Reshape(f, t)", a=ints(0)
        )
    ],
    "Range": [
        sequence(
            "t = Range(zero, four, one)  c = Cast<to=1>(t)  u = Unsqueeze(c, at)  r = Add(h, u)",
            zero=np.array(0),
            four=np.array(4),
            one=ONE,
            at=ints(1),
        )
    ],
    "EyeLike": [sequence("t = EyeLike(p)  q = MatMul(t, m)  r = Add(h, q)", p=(4, 4), m=(4, 8))],
    "BlackmanWindow": [
        sequence("t = BlackmanWindow(n)  u = Unsqueeze(t, a)  r = Add(h, u)", n=np.array(4), a=ints(1))
    ],
    "HammingWindow": [
        sequence("t = HammingWindow(n)  u = Unsqueeze(t, a)  r = Add(h, u)", n=np.array(4), a=ints(1))
    ],
    "HannWindow": [
        sequence("t = HannWindow(n)  u = Unsqueeze(t, a)  r = Add(h, u)", n=np.array(4), a=ints(1))
    ],
}
FROZEN_SOURCES = [
    "AffineGrid",
    "MelWeightMatrix",
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
]
"""Sources that touch no unit, and random numbers, with which no two runs agree."""
