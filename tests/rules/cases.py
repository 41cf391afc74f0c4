"""For every operator of the table: where it stands between layers, and which units it leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from tools.onnx_text import Tensor, model_of

Sizes = Sequence[int | str]


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


ONE, HALF, ZERO = (np.array(number, dtype=np.float32) for number in (1, 0.5, 0))


@dataclass(frozen=True)
class Case:
    """A small model around one operator.

    Args:
        units: The sizes of the classes that are open, in the order of the graph.
    """

    body: str
    units: tuple[int, ...]
    inputs: Mapping[str, Sizes]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def model(self, seed: int) -> onnx.ModelProto:
        return model_of(self.body, self.inputs, self.tensors, seed=seed)


def image(body: str, *units: int, out: int = 8, rank: int = 4, **tensors: Tensor) -> Case:
    """x (N, 3, 6, 6) -> Conv -> h (N, 8, 6, 6) -> body -> r (N, out, ...) -> Conv -> y."""
    frame: dict[str, Tensor] = {"w_in": (8, 3, 3, 3), "b_in": (8,), "w_out": (4, out, *[1] * (rank - 2))}
    text = f"h = Conv<pads=[1, 1, 1, 1]>(x, w_in, b_in)  {body}  y = Conv(r, w_out)"
    return Case(text, units or (8,), {"x": ("N", 3, 6, 6)}, {**frame, **tensors})


def sequence(body: str, *units: int, out: int = 8, **tensors: Tensor) -> Case:
    """x (N, 4, 6) -> MatMul -> h (N, 4, 8) -> body -> r (N, ..., out) -> MatMul -> y."""
    frame: dict[str, Tensor] = {"w_in": (6, 8), "w_out": (out, 5)}
    text = f"h = MatMul(x, w_in)  {body}  y = MatMul(r, w_out)"
    return Case(text, units or (8,), {"x": ("N", 4, 6)}, {**frame, **tensors})


def two_images(body: str, *units: int, out: int = 8, **tensors: Tensor) -> Case:
    """As `image`, with a second layer's g (N, 8, 6, 6) beside h."""
    text = f"g = Conv<pads=[1, 1, 1, 1]>(x, w_g)  {body}"
    return image(text, *units, out=out, rank=4, w_g=(8, 3, 3, 3), **tensors)


def unary(operator: str, before: str = "Identity(h)", attributes: str = "") -> list[Case]:
    body = f"t = {before}  r = {operator}{attributes}(t)"
    return [image(body), sequence(body)]


def to_float(expression: str, before: str = "") -> list[Case]:
    """An operator on integers or truth values, back to numbers."""
    return [two_images(f"{before}  t = {expression}  r = Cast<to=1>(t)", zero=ZERO)]


TRUTHS = "p = Greater(h, zero)  q = Less(g, zero)"
INTEGERS = "a = Abs(h)  b = Abs(g)  p = Cast<to=12>(a)  q = Cast<to=12>(b)"

UNARY = """Abs Asin Asinh Atan Ceil Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Mish
    Neg Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Tan Tanh ThresholdedRelu Celu Cosh"""
IN_UNIT_INTERVAL = "Acos Asin Atanh"
REDUCTIONS = "ReduceL1 ReduceL2 ReduceSumSquare ReduceMean ReduceMax ReduceMin ReduceProd ReduceLogSumExp"
BINARY = "Add Sub Mul Max Min Mean Sum"

CASES: dict[str, list[Case]] = {name: unary(name) for name in UNARY.split()}
CASES |= {name: unary(name, "Sin(h)") for name in IN_UNIT_INTERVAL.split()}
CASES |= {name: unary(name, "Exp(h)") for name in ("Log", "Reciprocal", "Sqrt")}
CASES |= {name: to_float(f"{name}(p, q)", TRUTHS) for name in ("And", "Or", "Xor")}
CASES |= {name: to_float(f"{name}(p, q)", INTEGERS) for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")}
CASES |= {
    name: to_float(f"{name}(h, g)") for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
}
CASES |= {name: to_float(f"{name}(h)") for name in ("IsInf", "IsNaN")}
CASES |= {
    name: [
        two_images(f"r = {name}(h, g)"),
        image(f"r = {name}(h, p)", p=(8, 1, 1)),
        image(f"r = {name}(p, h)", p=(1, 8, 1, 1)),
        image(f"r = {name}(h, p)", p=(6, 6)),
        image(f"r = {name}(h, p)", p=HALF),
        sequence(f"r = {name}(h, p)", p=(8,)),
        sequence(f"r = {name}(h, p)", p=(4, 1)),
        sequence(f"s = Unsqueeze(h, one)  r = {name}(s, p)", p=(3, 1, 8), one=ints(1)),
    ]
    for name in BINARY.split()
}
CASES |= {
    "Acosh": [image("t = Exp(h)  u = Add(t, one)  r = Acosh(u)", one=ONE)],
    "BitShift": to_float('BitShift<direction="RIGHT">(p, q)', INTEGERS),
    "BitwiseNot": to_float("BitwiseNot(p)", INTEGERS),
    "Not": to_float("Not(p)", TRUTHS),
    "Clip": [
        image("r = Clip(h, low, high)", low=np.array(-ONE), high=HALF),
        image("r = Clip(h, , high)", high=HALF),
    ],
    "Div": [
        image("r = Div(h, p)", p=HALF),
        image("t = Exp(h)  r = Div(p, t)", p=(8, 1, 1)),
        two_images("t = Exp(g)  r = Div(h, t)"),
        sequence("r = Div(h, p)", p=(4, 1)),
    ],
    "Mod": [image("r = Mod<fmod=1>(h, p)", p=HALF)],
    "Pow": [image("r = Pow(h, p)", p=floats(2)), two_images("t = Exp(h)  r = Pow(t, g)")],
    "PRelu": [image("r = PRelu(h, p)", p=(8, 1, 1)), sequence("r = PRelu(h, p)", p=(8,))],
    "Cast": [
        image("t = Cast<to=11>(h)  r = Cast<to=1>(t)"),
        image("t = Cast<to=7>(h)  r = Cast<to=1>(t)"),
        image("t = Cast<to=9>(h)  r = Cast<to=1>(t)"),
    ],
    "CastLike": [image("t = CastLike(h, like)  r = Cast<to=1>(t)", like=np.zeros(1, np.float64))],
    "Dropout": [image("r = Dropout(h)"), image("r, mask = Dropout(h)  t = Identity(mask)")],
    "Where": [
        two_images("t = Greater(h, zero)  r = Where(t, h, g)", zero=ZERO),
        sequence("t = Greater(h, zero)  r = Where(t, h, p)", zero=ZERO, p=(8,)),
        sequence("r = Where(m, h, p)", p=(8,), m=np.array([[True], [False], [True], [True]])),
    ],
}
CASES |= {
    "Conv": [
        image("r = Conv<pads=[1, 1, 1, 1]>(h, w, b)", 8, 10, out=10, w=(10, 8, 3, 3), b=(10,)),
        image("r = Conv<strides=[2, 2], dilations=[2, 2]>(h, w)", 8, 6, out=6, w=(6, 8, 2, 2)),
        image("r = Conv<group=8>(h, w, b)", 8, w=(8, 1, 3, 3), b=(8,)),
        image("r = Conv<group=8>(h, w, b)", 8, 2, out=16, w=(16, 1, 3, 3), b=(16,)),
        image("r = Conv<group=2>(h, w, b)", 2, 4, 6, out=12, w=(12, 4, 1, 1), b=(12,)),
        image("r = Conv<group=4>(h, w)", 4, 2, 3, out=12, w=(12, 2, 3, 3)),
        image("t = Reshape(h, s)  r = Conv(t, w)", 8, 10, s=ints(0, 8, 36), w=(10, 8, 3), out=10, rank=3),
        image("t = Identity(w)  r = Conv(h, t)", 8, 6, out=6, w=(6, 8, 1, 1)),
    ],
    "ConvTranspose": [
        image("r = ConvTranspose<strides=[2, 2]>(h, w, b)", 8, 6, out=6, w=(8, 6, 2, 2), b=(6,)),
        image("r = ConvTranspose<group=8>(h, w, b)", 8, w=(8, 1, 3, 3), b=(8,)),
        image("r = ConvTranspose<group=2>(h, w, b)", 2, 4, 3, out=6, w=(8, 3, 2, 2), b=(6,)),
        image("r = ConvTranspose<group=8>(h, w)", 8, 2, out=16, w=(8, 2, 2, 2)),
    ],
    "MatMul": [
        sequence("r = MatMul(h, w)", 8, 7, out=7, w=(8, 7)),
        sequence(
            "t = Transpose<perm=[0, 2, 1]>(h)  u = MatMul(w, t)  r = Transpose<perm=[0, 2, 1]>(u)",
            8,
            7,
            out=7,
            w=(7, 8),
        ),
        sequence("r = MatMul(h, w)", 8, 7, out=7, w=(1, 8, 7)),
        sequence(
            "g = MatMul(x, w)  t = Transpose<perm=[0, 2, 1]>(g)  a = MatMul(h, t)  r = MatMul(a, v)",
            8,
            6,
            w=(6, 8),
            v=(4, 6),
            out=6,
        ),
        sequence("t = MatMul(h, w)  u = Unsqueeze(t, one)  r = Mul(u, p)", 8, 8, w=(8,), p=(8,), one=ints(2)),
    ],
    "Gemm": [
        sequence(
            "t = ReduceSum<keepdims=0>(h, one)  r = Gemm(t, w, b)", 8, 7, out=7, one=ints(1), w=(8, 7), b=(7,)
        ),
        sequence(
            "t = Flatten(h)  r = Gemm<transB=1, alpha=0.5, beta=2.0>(t, w, b)",
            8,
            7,
            out=7,
            w=(7, 32),
            b=(1, 7),
        ),
        sequence("t = Flatten(h)  u = Transpose(t)  r = Gemm<transA=1>(u, w)", 8, 7, out=7, w=(32, 7)),
        sequence("t = Flatten(h)  r = Gemm(t, w, b)", 8, 7, out=7, w=(32, 7), b=HALF),
    ],
    "BatchNormalization": [
        image(
            "r = BatchNormalization<epsilon=0.01>(h, s, b, m, v)",
            s=(8,),
            b=(8,),
            m=(8,),
            v=np.arange(1, 9, dtype=np.float32),
        ),
    ],
    "GroupNormalization": [
        image("r = GroupNormalization<num_groups=4>(h, s, b)", 4, s=(8,), b=(8,)),
        image("r = GroupNormalization<num_groups=8>(h, s, b)", 8, s=(8,), b=(8,)),
    ],
    "InstanceNormalization": [image("r = InstanceNormalization(h, s, b)", s=(8,), b=(8,))],
    "LayerNormalization": [
        sequence(
            "t = LayerNormalization(h, s, b)  u = MatMul(t, w)  r = Relu(u)",
            7,
            out=7,
            s=(8,),
            b=(8,),
            w=(8, 7),
        ),
    ],
    "LRN": [image("t = LRN<size=3>(h)  r = Conv(t, w)", 6, out=6, w=(6, 8, 1, 1))],
    "MeanVarianceNormalization": [
        image("t = MeanVarianceNormalization(h)  r = Conv(t, w)", 6, out=6, w=(6, 8, 1, 1)),
    ],
    "LpNormalization": [sequence("t = LpNormalization<axis=1>(h)  r = Mul(t, p)", p=(8,))],
    "CumSum": [sequence("t = CumSum(h, one)  r = Mul(t, p)", one=np.array(1), p=(8,))],
    "Resize": [
        image('r = Resize<mode="nearest">(h, , scales)', scales=floats(1, 1, 2, 2)),
        image(
            's = Shape<start=0, end=2>(h)  t = Concat<axis=0>(s, hw)  r = Resize<mode="linear">(h, , , t)',
            hw=ints(9, 9),
        ),
    ],
    "Pad": [
        image("r = Pad(h, p)", p=ints(0, 0, 1, 1, 0, 0, 1, 1)),
        image("r = Pad(h, p)", 8, p=ints(0, 1, 1, 0, 0, 2, 0, 1), out=11),
        image("r = Pad(h, p, v)", 8, p=ints(0, 0, 0, 0, 0, 2, 0, 0), v=HALF, out=10),
        image('r = Pad<mode="reflect">(h, p, , a)', p=ints(1, 1), a=ints(-1)),
        image("r = Pad(h, p, v)", p=ints(0, 0, 1, 0, 0, 0, 0, 2), v=HALF),
    ],
}
CASES |= {
    name: [sequence(f"t = {name}<axis=1>(h)  r = Mul(t, p)", p=(8,))]
    for name in ("Softmax", "LogSoftmax", "Hardmax")
}
CASES |= {
    "MaxPool": [image("r = MaxPool<kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0]>(h)")],
    "LpPool": [image("r = LpPool<kernel_shape=[2, 2], p=2>(h)")],
    "AveragePool": [
        image("r = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1>(h)"),
        image("r = AveragePool<kernel_shape=[2, 2], strides=[2, 2]>(h)"),
    ],
    "GlobalAveragePool": [
        image("r = GlobalAveragePool(h)"),
        image(
            "t = GlobalAveragePool(h)  a = Conv(t, w1)  b = Relu(a)  c = Conv(b, w2)  s = Sigmoid(c)"
            "  r = Mul(h, s)",
            8,
            3,
            w1=(3, 8, 1, 1),
            w2=(8, 3, 1, 1),
        ),
    ],
    "GlobalMaxPool": [image("r = GlobalMaxPool(h)")],
    "GlobalLpPool": [image("r = GlobalLpPool(h)")],
    "Concat": [
        two_images("t = Concat<axis=1>(h, g)  r = Conv(t, w)", 8, 6, 8, w=(6, 16, 1, 1), w_out=(4, 6, 1, 1)),
        two_images("r = Concat<axis=-1>(h, g)"),
        sequence("r = Concat<axis=2>(h, h)", out=16),
        sequence("g = MatMul(x, w)  r = Concat<axis=1>(h, g)", w=(6, 8)),
    ],
    "Split": [
        image("r, rest = Split<axis=1, num_outputs=2>(h)  s = Identity(rest)", 4, 4, out=4),
        image("a, b = Split<axis=1, num_outputs=2>(h)  r = Mul(a, b)", 4, out=4),
        image("a, b = Split<axis=1>(h, s)  c = Sigmoid(a)  r = Concat<axis=1>(b, c)", 3, 5, s=ints(3, 5)),
        sequence("a, b, c = Split<axis=-1, num_outputs=3>(h)  r = Concat<axis=-1>(c, a, b)", 3, 3, 2),
    ],
    "Slice": [
        image("r = Slice(h, s, e, a)", 2, 4, 2, out=4, s=ints(2), e=ints(6), a=ints(1)),
        image("r = Slice(h, s, e, a)", 5, 3, out=3, s=ints(-3), e=ints(2**63 - 1), a=ints(1)),
        image("r = Slice(h, s, e, a)", 2, 4, 2, out=4, s=ints(-6), e=ints(-2), a=ints(-3)),
        image("r = Slice(h, s, e, a, t)", 7, out=7, s=ints(1, 0), e=ints(8, 6), a=ints(1, 2), t=ints(1, 2)),
        sequence(
            """a = Slice(h, s, e, c, t)  b = Slice(h, s1, e1, c, t)  m = Neg(b)
               u = Unsqueeze(m, c1)  v = Unsqueeze(a, c1)  w = Concat<axis=3>(u, v)  r = Reshape(w, shape)""",
            4,
            **{"s": ints(0), "e": ints(8), "c": ints(2), "t": ints(2), "s1": ints(1), "e1": ints(2**63 - 1)},
            **{"c1": ints(3), "shape": ints(0, 4, 8)},
        ),
        image("r = Slice(h, s, e)", 6, 2, out=6, s=ints(0, 0), e=ints(2**31, -2)),
    ],
    "Gather": [
        sequence("t = Gather<axis=1>(h, i)  r = Mul(t, p)", i=ints(3, -1), p=(8,)),
        sequence(
            "t = Cast<to=7>(x)  u = Clip(t, zero, two)  e = Gather(table, u)  m = Gather<axis=2>(e, one)"
            "  r = Add(h, m)",
            zero=np.array(0),
            two=np.array(2),
            one=np.array(1),
            table=(3, 8),
        ),
    ],
    "Reshape": [
        image(
            "t = Reshape(h, s)  u = Mul(t, p)  r = Reshape(u, v)",
            2,
            4,
            s=ints(0, 2, 4, 6, -1),
            p=(2, 1, 1, 1),
            v=ints(0, 8, 6, 6),
        ),
        image(
            "t = Reshape(h, s)  u = Transpose<perm=[0, 2, 1, 3, 4]>(t)  r = Reshape(u, v)",
            2,
            4,
            s=ints(0, 2, 4, 6, 6),
            v=ints(-1, 8, 6, 6),
        ),
        sequence("t = Reshape(h, s)  r = MatMul(t, w)", 8, 7, s=ints(-1, 8), w=(8, 7), out=7),
        sequence("t = Reshape(h, s)  r = MatMul(t, w)", 8, 7, s=ints(0, -1), w=(32, 7), out=7),
    ],
    "Flatten": [
        image(
            "t = Flatten(h)  u = MatMul(t, w)  r = Reshape(u, s)", 8, 5, w=(288, 5), s=ints(0, 5, 1, 1), out=5
        ),
        sequence("t = Flatten<axis=2>(h)  r = MatMul(t, w)", 8, 7, w=(8, 7), out=7),
    ],
    "Squeeze": [image("t = GlobalAveragePool(h)  u = Squeeze(t, a)  r = Unsqueeze(u, a)", a=ints(-1, 2))],
    "Unsqueeze": [sequence("t = Unsqueeze(h, a)  r = Mul(t, p)", a=ints(1), p=(2, 1, 8))],
    "Transpose": [
        image(
            "t = Transpose<perm=[0, 2, 3, 1]>(h)  u = Mul(t, p)  r = Transpose<perm=[0, 3, 1, 2]>(u)", p=(8,)
        ),
        sequence("t = Transpose(h)  r = Transpose(t)"),
    ],
    "Expand": [
        sequence("t = Unsqueeze(h, a)  r = Expand(t, s)", a=ints(1), s=ints(1, 3, 1, 8)),
        sequence("t = Expand(p, s)  r = Add(h, t)", p=(1, 8), s=ints(4, 1)),
        sequence("t = Expand(p, s)  r = Mul(h, t)", p=(4, 1), s=ints(4, 8)),
    ],
    "ReduceSum": [
        image("r = ReduceSum(h, a)", a=ints(2, 3)),
        sequence("t = ReduceSum<keepdims=1>(h, a)  r = Add(h, t)", a=ints(1)),
        sequence(
            "t = ReduceSum<keepdims=1>(h, a)  u = Mul(t, p)  r = MatMul(u, w)",
            8,
            9,
            7,
            a=ints(2),
            p=(7,),
            w=(7, 9),
            out=9,
        ),
        sequence("r = ReduceSum<noop_with_empty_axes=1>(h)"),
    ],
    "Shape": [
        sequence("s = Shape(h)  t = Flatten(h)  r = Reshape(t, s)"),
        sequence("s = Shape<start=-1>(h)  z = ConstantOfShape<value=float[1] {0.5}>(s)  r = Mul(h, z)"),
    ],
    "ConstantOfShape": [
        sequence("s = Shape(h)  z = ConstantOfShape<value=float[1] {2.0}>(s)  r = Add(h, z)"),
        sequence("z = ConstantOfShape<value=float[1] {2.0}>(s)  r = Mul(h, z)", s=ints(4, 8)),
    ],
}
CASES |= {
    name: [
        image(f"r = {name}(h, a)", a=ints(2, 3)),
        sequence(f"t = {name}(h, a)  r = Mul(t, p)", a=ints(1), p=(8,)),
    ]
    for name in REDUCTIONS.split()
}
CASES |= {"ReduceLogSum": [image("t = Exp(h)  r = ReduceLogSum(t, a)", a=ints(2, 3))]}
CASES |= {
    name: [sequence(f"t = {name}<axis=1>(h)  u = Cast<to=1>(t)  r = Mul(u, p)", p=(8,))]
    for name in ("ArgMax", "ArgMin")
}
