"""Which rule each ONNX operator follows, and where its arguments stand (default domain, opset 21).

To add an operator: write a function from `NodeReader` to a rule (or reuse one) and name it in
`OPERATORS`. A function that cannot normalise its node's arguments raises `NotConstant`, and says why; the
node is then opaque, as one that is not in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from getac.axes.reasons import CUMULATED, NO_EPSILON, NO_RULE, NOT_FOLLOWED, SOFTMAX, VECTOR_NORM, Reason
from getac.onnx_graph.node_reader import NodeReader, NotConstant
from getac.onnx_graph.rarer_operators import RARER_OPERATORS
from getac.onnx_graph.shapes import Shapes
from getac.rules.base import Rule
from getac.rules.contraction import Convolution, Gemm, MatMul
from getac.rules.elementwise import Elementwise, Select
from getac.rules.layout import Expand, Reshape, Transpose
from getac.rules.normalization import BatchNorm, GroupNorm, LayerNorm, Normalized
from getac.rules.parts import Concat, Cut, Gather, Slice, Split
from getac.rules.pooling import Pad, Spatial
from getac.rules.reduction import Reduction
from getac.rules.sizes import SizeArithmetic, SizeComparison, SizeProduct, SizeSelect
from getac.rules.source import Filled, ShapeOf

__all__ = ["OPERATORS", "NodeReader", "NotConstant", "rule_of"]


Maker = Callable[[NodeReader], Rule]


def elementwise(n: NodeReader) -> Rule:
    return Elementwise()


def first_operand(n: NodeReader) -> Rule:
    return Elementwise(operands=1)


def product_like(n: NodeReader) -> Rule:
    return Elementwise(absorbing=True)


def holds_sizes(n: NodeReader) -> bool:
    """Whether both inputs may be sizes: integers, alone or in a list."""
    return all(n.is_integer(index) and n.rank(index) <= 1 for index in (0, 1))


def arithmetic(operation: str, otherwise: Maker) -> Maker:
    def make(n: NodeReader) -> Rule:
        return SizeArithmetic(operation=operation) if holds_sizes(n) else otherwise(n)

    return make


def identity(n: NodeReader) -> Rule:
    return Elementwise(operands=1, keeps_integers=True)


def cast(n: NodeReader) -> Rule:
    target = ir.DataType(n.integer("to", ir.DataType.FLOAT))
    return Elementwise(operands=1, keeps_integers=target in (ir.DataType.INT32, ir.DataType.INT64))


def cast_like(n: NodeReader) -> Rule:
    return Elementwise(operands=1, types=(1,))


def select(n: NodeReader) -> Rule:
    if n.is_integer(1) and max(n.rank(index) for index in range(3)) <= 1:
        try:
            return SizeSelect(tuple(map(bool, n.numbers(0) or ())))
        except NotConstant:
            return Select()
    return Select()


def comparison(n: NodeReader) -> Rule:
    return SizeComparison() if holds_sizes(n) else Elementwise()


def is_padded(n: NodeReader) -> bool:
    if n.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return True
    return any(n.integers("pads") or ())


def convolution(n: NodeReader) -> Rule:
    return Convolution(groups=n.integer("group", 1), padded=is_padded(n))


def transposed_convolution(n: NodeReader) -> Rule:
    return Convolution(groups=n.integer("group", 1), transposed=True)


def matmul(n: NodeReader) -> Rule:
    return MatMul()


def gemm(n: NodeReader) -> Rule:
    return Gemm(
        transpose_a=bool(n.integer("transA", 0)),
        transpose_b=bool(n.integer("transB", 0)),
        alpha=n.real("alpha", 1.0),
        beta=n.real("beta", 1.0),
    )


def batch_norm(n: NodeReader) -> Rule:
    if n.integer("training_mode", 0):
        raise NotConstant("it normalises in training mode")
    return BatchNorm(epsilon=n.real("epsilon", 1e-5))


def group_norm(n: NodeReader) -> Rule:
    return GroupNorm(groups=n.integer("num_groups", 1))


def instance_norm(n: NodeReader) -> Rule:
    return GroupNorm()


def layer_norm(n: NodeReader) -> Rule:
    return LayerNorm(axis=n.axis(-1))


def lrn(n: NodeReader) -> Rule:
    return Normalized((1,), VECTOR_NORM)


def mean_variance(n: NodeReader) -> Rule:
    return Normalized(None, NO_EPSILON)  # onnxruntime makes NaN of a zero channel


def along(default: int, reason: Reason) -> Maker:
    def make(n: NodeReader) -> Rule:
        return Normalized((n.axis(default),), reason)

    return make


def cumulative(n: NodeReader) -> Rule:
    axes = n.numbers(1) or ()
    return Normalized(tuple(axis % n.rank() for axis in axes), CUMULATED)


def pool(n: NodeReader) -> Rule:
    if len(n.node.outputs) > 1 and n.node.outputs[1].uses():
        raise NotConstant("its indices count through all channels")
    return Spatial(maximum=n.node.op_type in ("MaxPool", "GlobalMaxPool"))


def power_pool(n: NodeReader) -> Rule:
    return Spatial(keeps_constant=False)


def average_pool(n: NodeReader) -> Rule:
    overhangs = is_padded(n) or n.integer("ceil_mode", 0)
    return Spatial(keeps_constant=not (n.integer("count_include_pad", 0) and overhangs))


def resize(n: NodeReader) -> Rule:
    whole = n.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if whole or n.has("axes") or n.rank() < 3:
        raise NotConstant("only resizing of spatial dimensions is followed")
    return Spatial(keeps_constant=n.text("mode", "nearest") == "nearest", sizes_input=3)


def pad(n: NodeReader) -> Rule:
    pads, axes = n.numbers(1), n.numbers(3)
    assert pads is not None
    rank = n.rank()
    where = [axis % rank for axis in axes] if axes is not None else list(range(rank))
    amounts = [(0, 0)] * rank
    for position, axis in enumerate(where):
        amounts[axis] = (pads[position], pads[position + len(where)])
    return Pad(tuple(amounts), zeros=n.text("mode", "constant") == "constant")


def concat(n: NodeReader) -> Rule:
    return Concat(axis=n.axis(0))


def split(n: NodeReader) -> Rule:
    if n.input(1) is not None and not n.is_stored(1):
        raise NotConstant("the sizes of its parts are computed")
    return Split(axis=n.axis(0))


def slice_(n: NodeReader) -> Rule:
    starts, ends, axes, steps = (n.numbers(index) for index in (1, 2, 3, 4))
    assert starts is not None and ends is not None
    sizes = n.sizes()
    axes = tuple(axis % len(sizes) for axis in axes) if axes is not None else tuple(range(len(starts)))
    steps = steps if steps is not None else (1,) * len(starts)
    fixed = not (n.is_stored(1) and n.is_stored(2))
    return Slice(
        tuple(
            Cut(axis, *slice(start, end, step).indices(sizes[axis]), entry, start < 0, end < 0, fixed)
            for entry, (axis, start, end, step) in enumerate(zip(axes, starts, ends, steps, strict=True))
        )
    )


def gather(n: NodeReader) -> Rule:
    axis = n.axis(0)
    try:
        picks = n.numbers(1)
    except NotConstant:
        picks = None
    return Gather(axis=axis, picks=picks if n.rank() == 1 else None)


def reshape(n: NodeReader) -> Rule:
    entries = n.is_integer() and n.rank() <= 1
    return Reshape(shape_input=1, copies_zeros=not n.integer("allowzero", 0), keeps_entries=entries)


def squeeze(n: NodeReader) -> Rule:
    if n.numbers(1) is None:  # a dimension that is cut to one unit would go, too
        raise NotConstant("it removes every dimension of size 1")
    return Reshape(keeps_entries=True)


def regroup(n: NodeReader) -> Rule:
    return Reshape(keeps_entries=True)


def transpose(n: NodeReader) -> Rule:
    return Transpose(n.integers("perm") or tuple(reversed(range(n.rank()))))


def expand(n: NodeReader) -> Rule:
    return Expand()


def reduction(sums: bool = False, keeps_constant: bool = False) -> Maker:
    def make(n: NodeReader) -> Rule:
        dimensions = n.numbers(1)
        if not dimensions and n.integer("noop_with_empty_axes", 0):
            return Elementwise(operands=1)
        return Reduction(dimensions or None, bool(n.integer("keepdims", 1)), sums, keeps_constant)

    return make


def arg_reduction(n: NodeReader) -> Rule:
    return Reduction((n.axis(0),), bool(n.integer("keepdims", 1)))


def reduced_product(n: NodeReader) -> Rule:
    return SizeProduct() if n.is_integer() and n.rank() == 1 else reduction()(n)


def shape(n: NodeReader) -> Rule:
    start, stop, _ = slice(n.integer("start", 0), n.integer("end", n.rank())).indices(n.rank())
    return ShapeOf(start, stop)


def filled(n: NodeReader) -> Rule:
    value = n.node.attributes["value"].as_tensor().numpy().reshape(-1)[0] if n.has("value") else 0.0
    return Filled(float(value))


def table(makers: Mapping[Maker, str]) -> dict[str, Maker]:
    return {name: maker for maker, names in makers.items() for name in names.split()}


OPERATORS: dict[str, Maker] = table(
    {
        elementwise: """Abs Acos Acosh Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr
            BitwiseXor Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu
            HardSigmoid HardSwish IsInf IsNaN LeakyRelu Log Max Mean Min Mish Mod Neg Not
            Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt
            Sum Tan Tanh ThresholdedRelu Xor""",
        product_like: "And",
        arithmetic("mul", product_like): "Mul",
        arithmetic("add", elementwise): "Add",
        arithmetic("sub", elementwise): "Sub",
        arithmetic("div", elementwise): "Div",
        first_operand: "Dropout",
        identity: "Identity",
        cast: "Cast",
        cast_like: "CastLike",
        select: "Where",
        comparison: "Equal Greater GreaterOrEqual Less LessOrEqual",
        convolution: "Conv",
        transposed_convolution: "ConvTranspose",
        matmul: "MatMul",
        gemm: "Gemm",
        batch_norm: "BatchNormalization",
        group_norm: "GroupNormalization",
        instance_norm: "InstanceNormalization",
        layer_norm: "LayerNormalization",
        lrn: "LRN",
        mean_variance: "MeanVarianceNormalization",
        along(-1, SOFTMAX): "Softmax LogSoftmax Hardmax",
        along(-1, VECTOR_NORM): "LpNormalization",
        cumulative: "CumSum",
        pool: "MaxPool GlobalAveragePool GlobalMaxPool",
        power_pool: "LpPool GlobalLpPool",
        average_pool: "AveragePool",
        resize: "Resize",
        pad: "Pad",
        concat: "Concat",
        split: "Split",
        slice_: "Slice",
        gather: "Gather",
        reshape: "Reshape",
        regroup: "Flatten Unsqueeze",
        squeeze: "Squeeze",
        transpose: "Transpose",
        expand: "Expand",
        reduction(sums=True): "ReduceSum ReduceL1 ReduceL2 ReduceSumSquare",
        reduction(keeps_constant=True): "ReduceMean ReduceMax ReduceMin",
        reduction(): "ReduceLogSum ReduceLogSumExp",
        reduced_product: "ReduceProd",
        arg_reduction: "ArgMax ArgMin",
        shape: "Shape",
        filled: "ConstantOfShape",
    }
)
OPERATORS |= RARER_OPERATORS


def rule_of(node: ir.Node, shapes: Shapes) -> Rule | Reason:
    """The rule of a node; why not, where there is none or its arguments cannot be normalised."""
    maker = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if maker is None:
        return NO_RULE
    try:
        return maker(NodeReader(node, shapes))
    except NotConstant as error:
        return NOT_FOLLOWED.about(error)
