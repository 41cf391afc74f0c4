"""The rarer half of the operator table: einsum, recurrence, rearranging, indexing, arithmetic on sizes.

Left out on purpose, so that they are opaque:

- control flow, sequences, optionals and strings: If Loop Scan Sequence* Optional* ConcatFromSequence
  SplitToSequence String* RegexFullMatch TfIdfVectorizer ImageDecoder
- results whose shape depends on the data: Compress NonMaxSuppression NonZero Unique
- integer arithmetic of models that are lowered already: ConvInteger MatMulInteger QLinearConv QLinearMatMul
  QuantizeLinear DequantizeLinear DynamicQuantizeLinear (what is fake quantization was folded before)
- losses, which belong to training: NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss
- indices that count through several dimensions at once: MaxUnpool; DeformConv and STFT, which nobody met yet
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from getac.axes.reasons import FOURIER, RANDOM, RANGE, REVERSED, TRIANGLE, Reason
from getac.onnx_graph.node_reader import NodeReader, NotConstant
from getac.rules.base import Rule
from getac.rules.einsum import parse
from getac.rules.indexing import (
    GatherElements,
    GatherND,
    OneHot,
    Sampled,
    ScatterElements,
    ScatterND,
    TopK,
)
from getac.rules.pooling import Pad
from getac.rules.rearrange import DepthToSpace, Fold, Reordered, SpaceToDepth, Tile
from getac.rules.recurrent import Recurrent
from getac.rules.reduction import Reduction
from getac.rules.sizes import TotalSize
from getac.rules.source import Fresh

__all__ = ["RARER_OPERATORS"]

Maker = Callable[[NodeReader], Rule]


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


def depth_to_space(n: NodeReader) -> Rule:
    return DepthToSpace(n.integer("blocksize", 1), outer=n.text("mode", "DCR") == "DCR")


def space_to_depth(n: NodeReader) -> Rule:
    return SpaceToDepth(n.integer("blocksize", 1), outer=True)


def tile(n: NodeReader) -> Rule:
    return Tile()


def trilu(n: NodeReader) -> Rule:
    return Reordered((n.rank() - 2, n.rank() - 1), TRIANGLE, zeros=True)


def reverse_sequence(n: NodeReader) -> Rule:
    time = n.integer("time_axis", 0)
    return Reordered((time, n.integer("batch_axis", 1)), REVERSED)


def fourier(n: NodeReader) -> Rule:
    """The last dimension holds the real and the imaginary part."""
    axes = n.numbers(2) or (-2,)
    return Reordered((axes[0] % n.rank(), n.rank() - 1), FOURIER, zeros=True)


def fold(n: NodeReader) -> Rule:
    window = 1
    for size in n.numbers(2) or ():
        window *= size
    return Fold(window)


CROPPED = (-1, -1)  # it may be, which the sizes tell when the graph runs


def crop_or_pad(n: NodeReader) -> Rule:
    rank = n.rank()
    axes = n.integers("axes")
    where = range(rank) if axes is None else [axis % rank for axis in axes]
    return Pad(tuple(CROPPED if dimension in where else (0, 0) for dimension in range(rank)))


def determinant(n: NodeReader) -> Rule:
    return Reduction((-2, -1), keeps=False)


def gather_elements(n: NodeReader) -> Rule:
    return GatherElements(n.axis(0))


def gather_nd(n: NodeReader) -> Rule:
    return GatherND(n.integer("batch_dims", 0))


def adds(n: NodeReader) -> bool:
    return n.text("reduction", "none") in ("add", "mul")


def scatter_elements(n: NodeReader) -> Rule:
    return ScatterElements(n.axis(0), adds(n))


def scatter_nd(n: NodeReader) -> Rule:
    return ScatterND(adds(n))


def top_k(n: NodeReader) -> Rule:
    return TopK(n.axis(-1))


def one_hot(n: NodeReader) -> Rule:
    return OneHot(n.integer("axis", -1))


def sampled(n: NodeReader) -> Rule:
    return Sampled()


def regions(n: NodeReader) -> Rule:
    return Sampled(regions=True)


def size(n: NodeReader) -> Rule:
    return TotalSize()


def fresh(reason: Reason) -> Maker:
    def make(n: NodeReader) -> Rule:
        return Fresh(reason)

    return make


def table(makers: Mapping[Maker, str]) -> dict[str, Maker]:
    return {name: maker for maker, names in makers.items() for name in names.split()}


RARER_OPERATORS: dict[str, Maker] = table(
    {
        einsum: "Einsum",
        recurrent(4, "sigmoid tanh tanh"): "LSTM",
        recurrent(3, "sigmoid tanh"): "GRU",
        recurrent(1, "tanh", "relu"): "RNN",
        depth_to_space: "DepthToSpace",
        space_to_depth: "SpaceToDepth",
        tile: "Tile",
        trilu: "Trilu",
        reverse_sequence: "ReverseSequence",
        fourier: "DFT",
        fold: "Col2Im",
        crop_or_pad: "CenterCropPad",
        determinant: "Det",
        gather_elements: "GatherElements",
        gather_nd: "GatherND",
        scatter_elements: "ScatterElements",
        scatter_nd: "ScatterND",
        top_k: "TopK",
        one_hot: "OneHot",
        sampled: "GridSample",
        regions: "RoiAlign MaxRoiPool",
        size: "Size",
        fresh(RANGE): "Range EyeLike AffineGrid BlackmanWindow HammingWindow HannWindow MelWeightMatrix",
        fresh(RANDOM): """Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform
            RandomUniformLike""",
    }
)
