"""Units that are dead already go, with their constants folded into biases; the function stays the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from getac.errors import OptionError
from getac.onnx_graph.edit import array_of
from getac.passes import ChooseUnits, SliceUnits
from getac.pipeline import Pipeline, State
from tools.law import analyzed, difference, feeds_of, outputs_of
from tools.onnx_text import Tensor, model_of

Array = NDArray[np.float32]
TOLERANCE = 1e-5


def zeros_at(shape: tuple[int, ...], *dead: int, axis: int = 0, seed: int = 1) -> Array:
    """Random numbers with zeros at some indices of one dimension."""
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    np.moveaxis(array, axis, 0)[list(dead)] = 0
    return array


def numbers(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


DEAD = (1, 5)
IMAGE: dict[str, Tensor] = {
    "w": zeros_at((8, 3, 3, 3), *DEAD),
    "v": (4, 8, 1, 1),
    "v3": (4, 8, 3, 3),
    "c": (4,),
}
ZERO_BIAS = zeros_at((8,), *DEAD)
BIAS = numbers(1, 2, 3, -1, 1, 0.5, -2, 1)
NEGATIVE = numbers(1, -2, 3, -1, 1, -0.5, -2, 1)
NORM: dict[str, Tensor] = {"s": (8,), "o": (8,), "m": (8,), "var": np.arange(1, 9, dtype=np.float32)}
VECTOR: dict[str, Tensor] = {"w": zeros_at((6, 8), *DEAD, axis=1), "v": (8, 5), "c": (5,)}


@dataclass(frozen=True)
class Dead:
    """A model of which `removed` units change nothing."""

    body: str
    removed: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    shape: tuple[int, ...] = (3, 8, 8)

    def model(self) -> onnx.ModelProto:
        return model_of(self.body, {"x": ("N", *self.shape)}, self.tensors)


def image(body: str, removed: int, b: Tensor = ZERO_BIAS, **tensors: Tensor) -> Dead:
    """A convolution whose units 1 and 5 have no weights, with bias b; the body goes from h to y."""
    return Dead(f"h = Conv(x, w, b)  {body}", removed, {**IMAGE, "b": b, **tensors})


def vector(body: str, removed: int, b: Tensor = BIAS, **tensors: Tensor) -> Dead:
    return Dead(f"h = Gemm(x, w, b)  {body}", removed, {**VECTOR, "b": b, **tensors}, shape=(6,))


HEADS = 3 * 4
HEAD = (4, 5, 6, 7)  # the second of three heads of depth 4
ATTENTION = """q = MatMul(x, wq)  k = MatMul(x, wk)  u = MatMul(x, wv)
    qr = Reshape(q, s)  kr = Reshape(k, s)  ur = Reshape(u, s)
    qh = Transpose<perm=[0, 2, 1, 3]>(qr)  kh = Transpose<perm=[0, 2, 3, 1]>(kr)
    uh = Transpose<perm=[0, 2, 1, 3]>(ur)
    a = MatMul(qh, kh)  p = Softmax(a)  o = MatMul(p, uh)
    ot = Transpose<perm=[0, 2, 1, 3]>(o)  or = Reshape(ot, t)  y = MatMul(or, wo)"""


def attention(removed: int, **weights: Array) -> Dead:
    shapes: dict[str, Tensor] = dict.fromkeys(("wq", "wk", "wv"), (6, HEADS))
    targets: dict[str, Tensor] = {"s": np.array([0, 0, 3, 4]), "t": np.array([0, 0, 12])}
    return Dead(ATTENTION, removed, {**shapes, "wo": (HEADS, 6), **targets, **weights}, shape=(5, 6))


CASES = {
    "zero through relu": image("t = Relu(h)  y = Conv(t, v)", 2),
    "zero into padding": image("t = Relu(h)  y = Conv<pads=[1, 1, 1, 1]>(t, v3, c)", 2),
    "no bias": Dead("h = Conv(x, w)  y = Conv(h, v)", 2, IMAGE),
    "constant into a bias": image("t = Relu(h)  y = Conv(t, v, c)", 2, BIAS),
    "constant into no bias": image("t = Relu(h)  y = Conv(t, v)", 2, BIAS),
    "constant into a window": image("t = Tanh(h)  y = Conv(t, v3, c)", 2, BIAS),
    "constant into strides": image("y = Conv<strides=[2, 2], dilations=[2, 2]>(h, v3, c)", 2, BIAS),
    "constant into padding stays": image("t = Relu(h)  y = Conv<pads=[1, 1, 1, 1]>(t, v3, c)", 0, BIAS),
    "constant into same padding stays": image(
        'y = Conv<auto_pad="SAME_UPPER", kernel_shape=[3, 3]>(h, v3)', 0, BIAS
    ),
    "relu of a negative constant": image("t = Relu(h)  y = Conv<pads=[1, 1, 1, 1]>(t, v3)", 2, NEGATIVE),
    "one constant is zero": image("t = Relu(h)  y = Conv<pads=[1, 1, 1, 1]>(t, v3)", 1,
                                  numbers(1, -2, 1, 1, 1, 3, 1, 1)),
    "sigmoid of zero": image("t = Sigmoid(h)  y = Conv(t, v)", 2),
    "sigmoid of zero into padding stays": image("t = Sigmoid(h)  y = Conv<pads=[1, 1, 1, 1]>(t, v3)", 0),
    "batch norm": image("t = BatchNormalization(h, s, o, m, var)  u = Relu(t)  y = Conv(u, v)", 2, **NORM),
    "batch norm of scale zero": Dead(
        "h = Conv(x, w)  t = BatchNormalization(h, s, o, m, var)  u = Relu(t)  y = Conv(u, v)", 3,
        {**IMAGE, **NORM, "w": (8, 3, 3, 3), "s": zeros_at((8,), 0, 2, 4)},
    ),
    "group norm of scale zero": Dead(
        "h = Conv(x, w)  t = InstanceNormalization(h, s, o)  y = Conv(t, v)", 2,
        {**IMAGE, "w": (8, 3, 3, 3), "s": zeros_at((8,), 3, 7), "o": (8,)},
    ),
    "residual of two dead": image("g = Conv(x, wg)  t = Add(h, g)  y = Conv(t, v)", 1,
                                  wg=zeros_at((8, 3, 3, 3), 5, 6)),
    "residual of one dead stays": image("g = Conv(x, wg)  t = Add(h, g)  y = Conv(t, v)", 0, wg=(8, 3, 3, 3)),
    "gate of one dead": image("g = Conv(x, wg)  t = Mul(h, g)  y = Conv(t, v)", 2, wg=(8, 3, 3, 3)),
    "squeeze and excite": image(
        "p = GlobalAveragePool(h)  a = Conv(p, w1)  r = Relu(a)  e = Conv(r, w2)  g = Sigmoid(e)"
        "  t = Mul(h, g)  y = Conv(t, v)", 2, w1=(3, 8, 1, 1), w2=(8, 3, 1, 1),
    ),
    "concat": image("g = Conv(x, wg)  t = Concat<axis=1>(g, h)  y = Conv(t, vv)", 3, BIAS,
                    wg=zeros_at((8, 3, 3, 3), 0), vv=(4, 16, 1, 1)),
    "both halves of a split": image(
        "a, b2 = Split<axis=1, num_outputs=2>(h)  t = Mul(a, b2)  y = Conv(t, vv)", 1, vv=(4, 4, 1, 1)
    ),
    "max pool": image("t = MaxPool<kernel_shape=[2, 2], pads=[1, 1, 0, 0]>(h)  y = Conv(t, v)", 2, BIAS),
    "average pool": image("t = AveragePool<kernel_shape=[2, 2]>(h)  y = Conv(t, v)", 2, BIAS),
    "average over padding stays": image(
        "t = AveragePool<kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1>(h)  y = Conv(t, v)", 0,
        BIAS,
    ),
    "average beside padding": image(
        "t = AveragePool<kernel_shape=[2, 2], pads=[1, 1, 0, 0]>(h)  y = Conv(t, v)", 2, BIAS
    ),
    "power pool of a constant stays": image("t = LpPool<kernel_shape=[2, 2]>(h)  y = Conv(t, v)", 0, BIAS),
    "power pool of zero": image("t = LpPool<kernel_shape=[2, 2]>(h)  y = Conv(t, v)", 2),
    "padding with the constant": image("t = Pad(h, p, n)  y = Conv(t, v)", 1, numbers(1, 2, 3, 4, 5, 6, 7, 8),
                                       p=np.array([0, 0, 1, 1, 0, 0, 1, 1]), n=np.array(2, np.float32)),
    "global average": image("p = GlobalAveragePool(h)  f = Flatten(p)  y = Gemm<transB=1>(f, vt, c)", 2, BIAS,
                            vt=(4, 8)),
    "flattened image": image("t = Relu(h)  f = Flatten(t)  y = MatMul(f, vf)", 2, BIAS, vf=(8 * 36, 4)),
    "cast to integers": image("t = Cast<to=7>(h)  u = Cast<to=1>(t)  y = Conv(u, v)", 2,
                              numbers(1, 2.7, 1, 1, 1, -1.5, 1, 1)),
    "depthwise": image("t = Conv<group=8>(h, d, e)  y = Conv(t, v)", 2, d=(8, 1, 3, 3), e=(8,)),
    "depthwise of a constant stays": image("t = Conv<group=8>(h, d, e)  y = Conv(t, v)", 0, BIAS,
                                           d=(8, 1, 3, 3), e=(8,)),
    "depthwise without weights": image("t = Conv<group=8>(h, d, e)  y = Conv(t, v)", 2, BIAS,
                                       d=zeros_at((8, 1, 3, 3), 2, 3), e=(8,)),
    "transposed, zero": image("y = ConvTranspose(h, vt)", 2, vt=(8, 4, 2, 2)),
    "transposed, constant stays": image("y = ConvTranspose(h, vt)", 0, BIAS, vt=(8, 4, 2, 2)),
    "made by a transposed one": Dead(
        "h = ConvTranspose(x, wt, b)  y = Conv(h, v)", 2,
        {**IMAGE, "wt": zeros_at((3, 8, 2, 2), *DEAD, axis=1), "b": BIAS},
    ),
    "weights that nobody reads": Dead(
        "h = Conv(x, w, b)  y = Conv(h, v)", 3,
        {**IMAGE, "w": (8, 3, 3, 3), "b": (8,), "v": zeros_at((4, 8, 1, 1), 0, 1, 7, axis=1)},
    ),
    "gemm": vector("t = Relu(h)  y = Gemm(t, v, c)", 2),
    "gemm, scaled": vector("t = Relu(h)  y = Gemm<alpha=0.5, beta=2.0>(t, v, c)", 2),
    "gemm, transposed": vector("t = Relu(h)  y = Gemm<transB=1>(t, vt, c)", 2, vt=(5, 8)),
    "gemm without a bias": vector("t = Relu(h)  y = Gemm(t, v)", 2),
    "gemm that ignores its bias stays": vector("y = Gemm<beta=0.0>(h, v, c)", 0),
    "gemm with one number": vector("y = Gemm(h, v, n)", 2, n=np.array(0.5, np.float32)),
    "matmul": vector("t = Sigmoid(h)  y = MatMul(t, v)", 2),
    "matmul, before an addition": vector("t = MatMul(h, v)  y = Add(t, c)", 2),
    "arithmetic with constants": vector("t = Mul(h, n)  u = Sub(t, n)  r = Relu(u)  y = MatMul(r, v)", 2,
                                        n=np.array(0.5, np.float32)),
    "arithmetic with parameters": vector("t = Mul(h, n)  u = Exp(t)  y = MatMul(u, v)", 2, n=(8,)),
    "sum that meets a constant stays": vector("t = ReduceSum<keepdims=1>(h, one)  y = MatMul(t, vs)", 0,
                                              one=np.array([1]), vs=(1, 4)),
    "sum of zeros": vector("t = ReduceSum<keepdims=1>(h, one)  y = MatMul(t, vs)", 2, ZERO_BIAS,
                           one=np.array([1]), vs=(1, 4)),
    "softmax stays": vector("t = Softmax(h)  y = MatMul(t, v)", 0, ZERO_BIAS),
    "a whole class keeps one": vector("y = MatMul(h, v)", 7, w=np.zeros((6, 8), np.float32)),
    "a head without values": attention(1, wv=zeros_at((6, HEADS), *HEAD, axis=1)),
    "a head that nobody reads": attention(1, wo=zeros_at((HEADS, 6), *HEAD)),
    "a head without queries stays": attention(0, wq=zeros_at((6, HEADS), *HEAD, axis=1)),
    "depths of queries": attention(1, wq=zeros_at((6, HEADS), 2, 6, 10, axis=1)),
    "a depth of one head stays": attention(0, wv=zeros_at((6, HEADS), 2, axis=1)),
    "depths of values": attention(1, wv=zeros_at((6, HEADS), 1, 5, 9, axis=1)),
}  # fmt: skip


def shrunk(model: onnx.ModelProto) -> State:
    """The model without the units that are dead already."""
    state = analyzed(model)
    return Pipeline([ChooseUnits(align=1), SliceUnits()]).run(state)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_function_stays_the_same(case: Dead) -> None:
    model = case.model()
    state = shrunk(model)
    assert state.choice is not None and state.choice.exact
    assert state.choice.removed == case.removed
    feeds = feeds_of(model, np.random.default_rng(0))
    assert difference(outputs_of(model, feeds), outputs_of(state.model, feeds)) <= TOLERANCE
    assert state.model.graph.outputs[0].name == "y"


def test_a_second_run_removes_nothing() -> None:
    first = shrunk(CASES["constant into a bias"].model())
    second = shrunk(ir.serde.serialize_model(first.model))
    assert second.choice is not None
    assert second.choice.removed == 0


def test_constants_go_into_the_bias_that_is_there() -> None:
    """y = V relu(h) + c: the units 1 and 5 hold 2 and 0.5."""
    model = CASES["constant into a bias"].model()
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    state = shrunk(model)
    expected = tensors["c"] + tensors["v"][:, 1, 0, 0] * 2 + tensors["v"][:, 5, 0, 0] * 0.5
    assert np.allclose(array_of(state.model.graph.initializers["c"]), expected, atol=1e-6)
    assert array_of(state.model.graph.initializers["v"]).shape == (4, 6, 1, 1)
    assert [node.op_type for node in state.model.graph] == ["Conv", "Relu", "Conv"]


def test_a_matmul_of_rank_two_becomes_a_gemm_with_a_bias() -> None:
    state = shrunk(CASES["matmul"].model())
    assert [node.op_type for node in state.model.graph] == ["Gemm", "Sigmoid", "Gemm"]


def test_alignment_keeps_dead_units() -> None:
    state = analyzed(CASES["zero through relu"].model())
    Pipeline([ChooseUnits(align=4)]).run(state)
    assert state.choice is not None
    assert state.choice.removed == 0


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2.0])
def test_a_sparsity_outside_its_domain_is_refused(sparsity: float) -> None:
    with pytest.raises(OptionError, match="share of units"):
        ChooseUnits(sparsity=sparsity)
