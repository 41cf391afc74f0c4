"""Layers: products, convolutions, recurrence, normalisations, pooling, and reductions."""

from __future__ import annotations

from getac.axes.reasons import CUMULATED, NO_EPSILON, SOFTMAX, VECTOR_NORM, Reason
from getac.onnx_graph.node_reader import NodeReader, NotConstant
from getac.onnx_graph.operator_table import Maker, table
from getac.rules.base import Rule
from getac.rules.contraction import Convolution, Gemm, MatMul
from getac.rules.einsum import parse
from getac.rules.elementwise import Elementwise
from getac.rules.indexing import Sampled
from getac.rules.normalization import BatchNorm, GroupNorm, LayerNorm, Normalized
from getac.rules.pooling import Spatial
from getac.rules.recurrent import Recurrent
from getac.rules.reduction import Reduction
from getac.rules.sizes import SizeProduct

__all__ = ["LAYERS"]


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


def einsum(n: NodeReader) -> Rule:
    ranks = [n.rank(index) for index in range(len(n.node.inputs))]
    try:
        return parse(n.text("equation", ""), ranks)
    except ValueError as error:
        raise NotConstant(str(error)) from error


def recurrent(gates: int, *known: str) -> Maker:
    """A layer, by the activations of one direction for which zero is known to stay zero."""

    def make(n: NodeReader) -> Rule:
        given = [name.lower() for name in n.texts("activations")]
        each = len(known[0].split())
        directions = (" ".join(given[i : i + each]) for i in range(0, len(given), each))
        zero_stays = all(direction in known for direction in directions)
        return Recurrent(gates, batch_first=bool(n.integer("layout", 0)), zero_stays=zero_stays)

    return make


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


def sampled(n: NodeReader) -> Rule:
    return Sampled()


def regions(n: NodeReader) -> Rule:
    return Sampled(regions=True)


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


def determinant(n: NodeReader) -> Rule:
    return Reduction((-2, -1), keeps=False)


LAYERS: dict[str, Maker] = table(
    {
        einsum: "Einsum",
        recurrent(4, "sigmoid tanh tanh"): "LSTM",
        recurrent(3, "sigmoid tanh"): "GRU",
        recurrent(1, "tanh", "relu"): "RNN",
        determinant: "Det",
        sampled: "GridSample",
        regions: "RoiAlign MaxRoiPool",
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
        reduction(sums=True): "ReduceSum ReduceL1 ReduceL2 ReduceSumSquare",
        reduction(keeps_constant=True): "ReduceMean ReduceMax ReduceMin",
        reduction(): "ReduceLogSum ReduceLogSumExp",
        reduced_product: "ReduceProd",
        arg_reduction: "ArgMax ArgMin",
    }
)
