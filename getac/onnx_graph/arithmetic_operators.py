"""Element-wise operators, arithmetic on sizes, and numbers made anew."""

from __future__ import annotations

import onnx_ir as ir

from getac.axes.reasons import RANDOM, RANGE, Reason
from getac.onnx_graph.node_reader import NodeReader, NotConstant
from getac.onnx_graph.operator_table import Maker, table
from getac.rules.base import Rule
from getac.rules.elementwise import Elementwise, Select
from getac.rules.sizes import SizeArithmetic, SizeComparison, SizeSelect, TotalSize
from getac.rules.source import Fresh

__all__ = ["ARITHMETIC"]


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


def size(n: NodeReader) -> Rule:
    return TotalSize()


def fresh(reason: Reason) -> Maker:
    def make(n: NodeReader) -> Rule:
        return Fresh(reason)

    return make


ARITHMETIC: dict[str, Maker] = table(
    {
        size: "Size",
        fresh(RANGE): "Range EyeLike AffineGrid BlackmanWindow HammingWindow HannWindow MelWeightMatrix",
        fresh(RANDOM): """Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform
            RandomUniformLike""",
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
    }
)
