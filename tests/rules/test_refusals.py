"""Every reason for which an axis keeps all of its units, on a graph that shows it, with the node to blame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from getac.axes.analysis import Analysis
from getac.axes.axis import leaves
from tests.rules.cases import ONE, Case, floats, image, ints, sequence, two_images
from tools.law import AS_WRITTEN, analyzed, check_law


@dataclass(frozen=True)
class Refusal:
    """A graph whose `value` is frozen along `dimension`, by `node`, for `reason`."""

    case: Case
    reason: str
    node: str
    value: str = "h"
    dimension: int = 1


def reasons(analysis: Analysis, name: str, dimension: int) -> set[str]:
    (axes,) = (axes for value, axes in analysis.axes.items() if analysis.view.name_of(value) == name)
    return {str(leaf.frozen) for leaf in leaves(axes[dimension])}


def analysis_of(model: onnx.ModelProto) -> Analysis:
    analysis = analyzed(model, AS_WRITTEN).analysis
    assert analysis is not None
    return analysis


LINEAR_ATTENTION = """t = Elu(h)  q = Add(t, one)  g = MatMul(x, w_k)  l = Elu(g)  k = Add(l, one)
    v = MatMul(x, w_v)  kt = Transpose<perm=[0, 2, 1]>(k)  kv = MatMul(kt, v)  r = MatMul(q, kv)"""
KEY_AND_VALUE = {"w_k": (6, 8), "w_v": (6, 7)}
UNKNOWN_OPERATOR = "q, s, z = DynamicQuantizeLinear(h)  t = Cast<to=1>(q)  r = Add(h, t)"
SCALED = """s = Shape(h)  n = Gather(s, i)  f = Cast<to=1>(n)  r = Mul(h, f)"""

REFUSALS = {
    "graph input": Refusal(image("r = Relu(h)"), "a graph input", "x", "w_in", 1),
    "graph output": Refusal(image("r = Relu(h)"), "a graph output", "y", "w_out", 0),
    "spatial dimension": Refusal(image("r = Mul(h, p)", p=(6, 1)), "a spatial dimension", "h", "p", 0),
    "window": Refusal(image("r = Relu(h)"), "the window of a convolution", "h", "w_in", 2),
    "softmax": Refusal(sequence("r = Softmax(h)"), "the axis of a softmax", "r", dimension=2),
    "layer norm": Refusal(
        sequence("r = LayerNormalization(h, s)", s=(8,)), "a normalised axis", "r", dimension=2
    ),
    "norm of vectors": Refusal(
        sequence("r = LpNormalization(h)"), "normalised across its entries", "r", dimension=2
    ),
    "across channels": Refusal(image("r = LRN<size=3>(h)"), "normalised across its entries", "r"),
    "no epsilon": Refusal(image("r = MeanVarianceNormalization(h)"), "normalised without an epsilon", "r"),
    "group norm with one group": Refusal(
        image("r = GroupNormalization<num_groups=1>(h, s, b)", s=(8,), b=(8,)), "a normalised axis", "r"
    ),
    "mean": Refusal(
        sequence("t = ReduceMean(h, a)  r = Add(h, t)", a=ints(-1)), "a reduced axis", "t", dimension=2
    ),
    "largest": Refusal(
        sequence("t = ReduceMax(h, a)  r = Add(h, t)", a=ints(2)), "a reduced axis", "t", dimension=2
    ),
    "index of the largest": Refusal(
        sequence("t = ArgMax<axis=2>(h)  f = Cast<to=1>(t)  r = Add(h, f)"),
        "a reduction that every entry decides", "t",
        dimension=2,
    ),
    "cumulative sum": Refusal(sequence("r = CumSum(h, a)", a=ints(2)), "a cumulative sum", "r", dimension=2),
    "gather": Refusal(sequence("r = Gather<axis=2>(h, i)", i=ints(2, 1, 0), out=3), "an indexed axis", "r",
                      dimension=2),
    "vocabulary": Refusal(
        sequence("i = Cast<to=7>(x)  c = Clip(i, low, high)  t = Gather(table, c)  u = ReduceSum(t, a)"
                 "  m = Reshape(u, s)  r = Add(h, m)", table=(4, 8), a=ints(2), s=ints(0, 0, 8),
                 low=ints(0).reshape(()), high=ints(3).reshape(())),
        "an indexed axis", "t", "table", 0,
    ),
    "slice in steps": Refusal(
        image("r = Slice(h, s, e, a, t)", out=3, s=ints(0), e=ints(8), a=ints(1), t=ints(3)),
        "sliced in steps", "r",
    ),
    "reversed": Refusal(
        image("r = Slice(h, s, e, a, t)", s=ints(-1), e=ints(-9), a=ints(1), t=ints(-1)),
        "sliced in steps", "r",
    ),
    "slice at a computed place": Refusal(
        sequence("n = Shape<start=2, end=3>(x)  two = Add(n, z)  r = Slice(h, s, two, a)",
                 z=ints(-2), s=ints(0), a=ints(2), out=4),
        "sliced at a computed place", "r", dimension=2,
    ),
    "padded channels": Refusal(
        image("r = Pad(h, p)", p=ints(0, -1, 0, 0, 0, 1, 0, 0)), "a padded dimension", "r"
    ),
    "misaligned reshape": Refusal(
        image("t = MatMul(p, w)  u = Reshape(t, s)  v = Conv(h, u)  r = Relu(v)",
              p=(6, 5), w=(5, 12), s=ints(9, 8, 1, 1), out=9),
        "a reshape splits the axis where its units do not", "u", "t", 0,
    ),
    "opaque": Refusal(
        sequence(UNKNOWN_OPERATOR), "touches DynamicQuantizeLinear: no rule for this operator", "q",
        dimension=2,
    ),
    "unknown shape": Refusal(
        sequence("f = Flatten<axis=2>(h)  t = NonZero(f)  u = Transpose(t)  v = Cast<to=1>(u)"
                 "  m = ReduceSum<keepdims=0>(v)  r = Add(h, m)"),
        "touches NonZero: no rule for this operator", "t", dimension=2,
    ),
    "linear attention": Refusal(
        sequence(LINEAR_ATTENTION, out=7, one=ONE, **KEY_AND_VALUE),
        "summed where a removed unit would not be zero", "r", dimension=2,
    ),
    "sum after a sigmoid": Refusal(
        sequence("t = Sigmoid(h)  u = ReduceSum(t, a)  r = Add(h, u)", a=ints(2)),
        "summed where a removed unit would not be zero", "u", dimension=2,
    ),
    "reciprocal": Refusal(image("r = Reciprocal(h)"), "a removed unit would not stay finite", "r"),
    "logarithm": Refusal(
        sequence("t = Relu(h)  r = Log(t)"), "a removed unit would not stay finite", "r", dimension=2
    ),
    "division by a parameter": Refusal(
        image("r = Div(h, p)", p=(8, 1, 1)), "a removed unit would not stay finite", "r"
    ),
    "unknown over a parameter": Refusal(
        sequence("t = Softmax<axis=1>(h)  r = Div(t, p)", p=(8,)),
        "a removed unit would not stay finite", "r", dimension=2,
    ),
    "size used as a number": Refusal(
        sequence(SCALED, i=ints(2).reshape(())), "its size is used as a number", "f", dimension=2
    ),
    "size of a size": Refusal(
        sequence("s = Size(h)  f = Cast<to=1>(s)  r = Mul(h, f)"),
        "its size is used as a number", "f", dimension=2,
    ),
    "argument": Refusal(
        image("t = Slice(scales, s, e)  r = Resize(h, , t)", scales=floats(1, 1, 2, 2, 5),
              s=ints(0), e=ints(4)),
        "an argument of Resize", "r", "t", 0,
    ),
    "pooled indices": Refusal(
        image("p, i = MaxPool<kernel_shape=[2, 2]>(h)  f = Cast<to=1>(i)  r = Add(p, f)"),
        "touches MaxPool: arguments that are not followed: its indices count through all channels", "p",
    ),
    "reshape to computed sizes": Refusal(
        sequence("s = Shape(h)  t = Max(s, one)  r = Reshape(h, t)", one=ints(1)),
        "its size is used as a number", "t", dimension=2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_lose_units_is_frozen_and_says_why(refusal: Refusal) -> None:
    analysis = analysis_of(refusal.case.model(seed=0))
    assert f"{refusal.reason} ({refusal.node})" in reasons(analysis, refusal.value, refusal.dimension)
    assert check_law(refusal.case.model(seed=0), passes=AS_WRITTEN).difference <= 1e-5


def test_a_frozen_axis_lists_the_parameters_that_it_lies_in() -> None:
    analysis = analysis_of(sequence("r = Softmax(h)").model(seed=0))
    (frozen,) = (one for one in analysis.frozen if one.why.node == "r")
    assert [(member.name, member.dimension) for member in frozen.members] == [("w_in", 1), ("w_out", 0)]
    assert frozen.size == 8


def test_opaque_nodes_are_named_with_their_reason() -> None:
    analysis = analysis_of(sequence(UNKNOWN_OPERATOR).model(seed=0))
    (opaque,) = analysis.opaque
    assert opaque.name == "q"
    assert (opaque.operator, opaque.reason) == ("DynamicQuantizeLinear", "no rule for this operator")


def test_what_a_subgraph_reads_is_kept_whole() -> None:
    body = """r = If (flag) <then_branch = then () => (float[N, 4, 8] a) { a = Relu(h) },
        else_branch = other () => (float[N, 4, 8] b) { b = Neg(h) }>"""
    case = sequence(body, flag=np.array(True))
    analysis = analysis_of(case.model(seed=0))
    assert reasons(analysis, "h", 2) == {"touches If: no rule for this operator (r)"}
    assert analysis.classes == ()


@pytest.mark.parametrize("operator", ["Relu", "Tanh", "Mul"])
def test_a_linear_attention_of_zeros_stays_open(operator: str) -> None:
    """relu(q) (relu(k)^T v): a removed unit of q and k is zero on both sides."""
    act = "Mul(h, h)" if operator == "Mul" else f"{operator}(h)"
    body = f"""q = {act}  k = MatMul(x, w_k)  v = MatMul(x, w_v)
        kt = Transpose<perm=[0, 2, 1]>(k)  kv = MatMul(kt, v)  r = MatMul(q, kv)"""
    analysis = analysis_of(sequence(body, out=7, **KEY_AND_VALUE).model(seed=0))
    assert [one.size for one in analysis.classes] == [8, 7]


def test_a_size_that_is_a_graph_output_stays() -> None:
    case = two_images("r = Add(h, g)  n = Shape<start=1, end=2>(h)")
    model = case.model(seed=0)
    model.graph.output.append(onnx.helper.make_tensor_value_info("n", onnx.TensorProto.INT64, [1]))
    analysis = analysis_of(model)
    assert analysis.classes == ()
    assert reasons(analysis, "h", 1) == {"its size is a graph output (n)"}


def test_a_literal_that_is_used_as_a_number_too_stays() -> None:
    """The same 8 is a reshape's target and a factor: it cannot become smaller for one alone."""
    body = """b = Shape<start=0, end=1>(h)  s = Concat<axis=0>(b, rest)  f = Flatten(h)  t = Reshape(f, s)
        n = Gather(s, i)  c = Cast<to=1>(n)  r = Mul(t, c)"""
    case = sequence(body, rest=ints(4, 8), i=ints(2).reshape(()))
    analysis = analysis_of(case.model(seed=0))
    assert analysis.classes == ()
    assert reasons(analysis, "h", 2) == {"its size is used as a number (c)"}


def test_sizes_beside_unknown_ones_are_still_followed() -> None:
    """Concat(Shape(g), something computed): what is not known freezes alone."""
    body = """b = Shape<start=0, end=1>(h)  m = Mul(four, one)  e = Shape<start=2, end=3>(h)
        s = Concat<axis=0>(b, m, e)  f = Flatten(h)  r = Reshape(f, s)"""
    case = sequence(body, four=ints(2), one=ints(2))
    analysis = analysis_of(case.model(seed=0))
    assert [one.size for one in analysis.classes] == [8]
    assert check_law(case.model(seed=0), passes=AS_WRITTEN).difference <= 1e-5
