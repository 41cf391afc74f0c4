"""The composite half of the table of aten operators: what others could spell out, and rarer sums."""

from __future__ import annotations

from string import ascii_letters

from getac.axes.reasons import FOURIER, REVERSED
from getac.fx_graph.call import Call, Maker, call, table, tensor_arguments
from getac.fx_graph.reader import CallReader, NotConstant
from getac.rules.comparison import Bilinear, Distance, PairDistances
from getac.rules.einsum import Einsum
from getac.rules.elementwise import Elementwise
from getac.rules.indexing import EmbeddingBag, TakenAlong
from getac.rules.layout import Reshape, ReshapeAs
from getac.rules.parts import Concat, Split
from getac.rules.pooling import Spatial
from getac.rules.rearrange import Diagonal, Reordered, Stack
from getac.rules.reduction import Reduction
from getac.rules.scatter import IndexUpdate
from getac.rules.source import FilledLike, Grid

__all__ = ["COMPOSITE_OPERATORS"]


def reshape_as(r: CallReader) -> Call:
    return call(r, ReshapeAs(), "self", "other")


def at_least(r: CallReader) -> Call:
    """Dimensions of size 1 are added where there are too few."""
    return call(r, Reshape(), "self")


def broadcast_tensors(r: CallReader) -> Call:
    return Call(Elementwise(value="first"), tuple(r.tensors("tensors")))


def stacked(dimension: int) -> Maker:
    """hstack and the like: tensors end to end along a dimension, which those of a rank less get first."""

    def make(r: CallReader) -> Call:
        tensors = tuple(r.tensors("tensors"))
        ranks = {tensor.meta["val"].ndim for tensor in tensors}
        if ranks == {dimension}:
            return Call(Stack(dimension), tensors)
        if len(ranks) > 1 or min(ranks) < dimension:
            raise NotConstant("tensors of several ranks, or of too few dimensions")
        return Call(Concat(dimension), tensors)

    return make


def beside(r: CallReader) -> Call:
    """hstack puts vectors end to end, and all else along dimension 1."""
    ranks = {tensor.meta["val"].ndim for tensor in r.tensors("tensors")}
    return Call(Concat(0), tuple(r.tensors("tensors"))) if ranks == {1} else stacked(1)(r)


def below(r: CallReader) -> Call:
    """vstack makes rows of vectors, and puts all else along dimension 0."""
    ranks = {tensor.meta["val"].ndim for tensor in r.tensors("tensors")}
    return Call(Stack(0), tuple(r.tensors("tensors"))) if ranks == {1} else stacked(0)(r)


def split_along(dimension: int) -> Maker:
    def make(r: CallReader) -> Call:
        axis = 0 if dimension == 1 and r.rank() == 1 else dimension  # hsplit cuts a vector, too
        return call(r, Split(axis), "self", sites={"split": "split_sizes"})

    return make


def outer(r: CallReader) -> Call:
    return call(r, Einsum(("i", "j"), "ij"), "self", "vec2")


def inner(r: CallReader) -> Call:
    """The last dimensions are summed away, the others follow each other."""
    a, b = r.rank(), r.rank("other")
    if not a or not b:
        return Call(Elementwise(absorbing=True), tensor_arguments(r))
    left, right = ascii_letters[: a - 1], ascii_letters[a - 1 :][: b - 1]
    return call(r, Einsum((f"{left}z", f"{right}z"), left + right), "self", "other")


def chain(r: CallReader) -> Call:
    """A product of matrices; the first and the last may be vectors."""
    tensors = r.tensors("tensors" if "tensors" in r.arguments else "matrices")
    texts = [ascii_letters[i : i + 2] for i in range(len(tensors))]
    first, last = texts[0][0], texts[-1][1]
    if tensors[0].meta["val"].ndim == 1:
        texts[0], first = texts[0][1], ""
    if tensors[-1].meta["val"].ndim == 1:
        texts[-1], last = texts[-1][0], ""
    return Call(Einsum(tuple(texts), first + last), tuple(tensors))


def pair_distances(r: CallReader) -> Call:
    return call(r, PairDistances(), "x1", "x2")


def buckets(r: CallReader) -> Call:
    return call(r, Elementwise(operands=1, value="unknown"), "self", "boundaries")


def turned(r: CallReader) -> Call:
    return call(r, Reordered(tuple(d % r.rank() for d in r.integers("dims")), REVERSED), "self")


def fourier(r: CallReader) -> Call:
    dims = r.optional_integers("dim")
    where = range(r.rank()) if dims is None else (d % r.rank() for d in dims)
    return call(r, Reordered(tuple(where), FOURIER, zeros=True), "self")


def meshgrid(r: CallReader) -> Call:
    return Call(Grid(r.get("indexing", "ij") == "xy"), tuple(r.tensors("tensors")))


def diagonal(r: CallReader) -> Call:
    return call(r, Diagonal((r.dimension("dim1", 0), r.dimension("dim2", 1))), "self")


def taken_along(r: CallReader) -> Call:
    if r.get("dim") is None:
        raise NotConstant("entries taken from the whole tensor")
    return call(r, TakenAlong(r.dimension()), "self", "indices")


def select_scatter(r: CallReader) -> Call:
    return call(r, IndexUpdate(r.dimension(), single=True), "self", "src")


def fill(r: CallReader) -> Call:
    value = r.get("value", 0)  # zero_ has none
    if not isinstance(value, int | float):
        return Call(Elementwise(value="unknown"), tensor_arguments(r))
    return call(r, FilledLike(float(value)), "self")


def copy(r: CallReader) -> Call:
    """The source goes into all entries, broadcast."""
    tensors = tensor_arguments(r)
    if len(tensors) != 2:
        raise NotConstant("a number that is copied")
    return Call(Elementwise(value="first"), tuple(reversed(tensors)))


def counted(r: CallReader) -> Call:
    return call(r, Reduction(r.optional_integers("dim"), keeps=False, sums=True), "self")


def reduced(keeps_constant: bool = False, sums: bool = False) -> Maker:
    def make(r: CallReader) -> Call:
        rule = Reduction(r.optional_integers("dim"), r.flag("keepdim"), sums, keeps_constant)
        return call(r, rule, "self")

    return make


def area(r: CallReader) -> Call:
    if r.get("x") is not None:
        raise NotConstant("places that are computed when the graph runs")
    return call(r, Reduction((r.integer("dim", -1),), keeps=False), "y")


def cosine(r: CallReader) -> Call:
    return call(r, Distance(r.integer("dim", 1)), "x1", "x2")


def pairwise(r: CallReader) -> Call:
    """Its epsilon is added to every entry, so that a zero is none."""
    return call(r, Distance(-1, r.flag("keepdim"), sums=r.real("eps", 1e-6) == 0), "x1", "x2")


def bilinear(r: CallReader) -> Call:
    return call(r, Bilinear(), "input1", "input2", "weight", "bias")


def embedding_bag(r: CallReader) -> Call:
    return call(r, EmbeddingBag(), "weight", "indices", "offsets", "per_sample_weights")


def pooled(r: CallReader) -> Call:
    return Call(Spatial(spatial=1), tensor_arguments(r)[:1])


COMPOSITE_OPERATORS: dict[str, Maker] = table(
    {
        reshape_as: "view_as reshape_as",
        at_least: "atleast_1d atleast_2d atleast_3d",
        broadcast_tensors: "broadcast_tensors",
        beside: "hstack",
        below: "vstack row_stack",
        stacked(1): "column_stack",
        stacked(2): "dstack",
        split_along(0): "vsplit",
        split_along(1): "hsplit",
        split_along(2): "dsplit",
        outer: "outer ger",
        inner: "inner",
        chain: "linalg_multi_dot chain_matmul",
        pair_distances: "cdist",
        buckets: "bucketize",
        turned: "rot90",
        fourier: """fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn
            fft_ifftn fft_rfftn fft_irfftn""",
        meshgrid: "meshgrid",
        diagonal: "diagonal",
        taken_along: "take_along_dim",
        select_scatter: "select_scatter",
        fill: "fill zero",
        copy: "copy",
        counted: "count_nonzero",
        reduced(sums=True): "nansum",
        reduced(keeps_constant=True): "nanmean aminmax",
        reduced(): "std_mean median",
        area: "trapezoid trapz",
        cosine: "cosine_similarity",
        pairwise: "pairwise_distance",
        bilinear: "bilinear",
        embedding_bag: "embedding_bag",
        pooled: "max_pool1d_with_indices",
    }
)
