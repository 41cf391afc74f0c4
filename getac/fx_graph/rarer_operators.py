"""The rarer half of the table of aten operators: attention, recurrence, rearranging, indexing, sizes."""

from __future__ import annotations

from string import ascii_letters

from torch import fx

from getac.axes.reasons import CUMULATED, CUMULATED_PRODUCT, REVERSED, ROLLED, TRIANGLE, Reason
from getac.fx_graph.call import Call, Maker, call, table
from getac.fx_graph.reader import CallReader, NotConstant
from getac.rules.attention import Attention
from getac.rules.blocks import DepthToSpace, SpaceToDepth
from getac.rules.einsum import Einsum, parse
from getac.rules.glu import GatedLinearUnit
from getac.rules.indexing import GatherElements, Index, MaskedEntries, OneHot, Sampled, TopK
from getac.rules.matmul_add import EinsumAdd, MatMulAdd
from getac.rules.normalization import LayerNorm, Normalized
from getac.rules.rearrange import (
    ChannelShuffle,
    ComplexParts,
    Differences,
    Reordered,
    RepeatInterleave,
    Stack,
    Tile,
    Unbind,
)
from getac.rules.recurrent import RecurrentCell, RecurrentLayers
from getac.rules.scatter import IndexPut, IndexUpdate, ScatterElements
from getac.rules.sizes import SizeArithmetic
from getac.rules.weight_norm import WeightNorm
from getac.rules.windows import Fold, Unfold, Windows

__all__ = ["RARER_OPERATORS", "SIZE_OPERATORS"]


def attention(r: CallReader) -> Call:
    rule = Attention(
        grouped=r.flag("enable_gqa"), causal=r.flag("is_causal"), implicit_scale=r.get("scale") is None
    )
    return call(r, rule, "query", "key", "value", "attn_mask", sites={"scale": "scale"})


def matmul_add(first: str, second: str) -> Maker:
    def make(r: CallReader) -> Call:
        return call(r, MatMulAdd(r.real("beta", 1)), first, second, "self")

    return make


def einsum_add(a: str, b: str, result: str, first: str, second: str) -> Maker:
    def make(r: CallReader) -> Call:
        return call(r, EinsumAdd(Einsum((a, b), result), r.real("beta", 1)), first, second, "self")

    return make


def einsum(r: CallReader) -> Call:
    tensors = r.tensors("tensors")
    equation = r.get("equation")
    try:
        rule = parse(str(equation), [len(t.meta["val"].shape) for t in tensors])
    except ValueError as error:
        raise NotConstant(str(error)) from error
    return Call(rule, tuple(tensors))


def tensordot(r: CallReader) -> Call:
    """An einsum in which the summed dimensions of both operands have the same letters."""
    letters = ascii_letters[: r.rank()]
    others = list(ascii_letters[r.rank() :][: r.rank("other")])
    summed = [d % r.rank() for d in r.integers("dims_self")]
    for dimension, place in zip(summed, r.integers("dims_other"), strict=True):
        others[place] = letters[dimension]
    result = (letter for letter in (*letters, *others) if (letter in letters) != (letter in others))
    return call(r, Einsum((letters, "".join(others)), "".join(result)), "self", "other")


def cell(gates: int, states: int) -> Maker:
    def make(r: CallReader) -> Call:
        hidden = r.tensors("hx") if states > 1 else [r.get("hx")]
        names = ("w_ih", "w_hh", "b_ih", "b_hh")
        parameters = call(r, RecurrentCell(gates, states), *names)
        return Call(parameters.rule, (r.get("input"), *hidden, *parameters.operands))

    return make


def recurrent(gates: int, states: int) -> Maker:
    def make(r: CallReader) -> Call:
        hidden = r.tensors("hx") if states > 1 else [r.get("hx")]
        rule = RecurrentLayers(
            gates=gates,
            layers=r.integer("num_layers"),
            directions=2 if r.flag("bidirectional") else 1,
            states=states,
            biases=r.flag("has_biases"),
            batch_first=r.flag("batch_first"),
        )
        parameters, cells = r.tensors("params"), rule.layers * rule.directions
        if r.get("input") is None or len(parameters) != cells * (4 if rule.biases else 2):
            raise NotConstant("packed sequences, or projected states")
        return Call(rule, (r.get("input"), *hidden, *parameters))

    return make


def pixel_shuffle(r: CallReader) -> Call:
    return call(r, DepthToSpace(r.integer("upscale_factor"), outer=False), "self")


def pixel_unshuffle(r: CallReader) -> Call:
    return call(r, SpaceToDepth(r.integer("downscale_factor"), outer=False), "self")


def channel_shuffle(r: CallReader) -> Call:
    return call(r, ChannelShuffle(r.integer("groups")), "self", sites={"groups": "groups"})


def repeat(r: CallReader) -> Call:
    return call(r, Tile(), "self", lists={1: "repeats"})


def tile(r: CallReader) -> Call:
    return call(r, Tile(), "self", lists={1: "dims"})


def repeat_interleave(r: CallReader) -> Call:
    if not isinstance(r.get("repeats"), int) or r.get("dim") is None:
        raise NotConstant("repeats that differ")
    return call(r, RepeatInterleave(r.dimension()), "self", sites={"repeats": "repeats"})


def stack(r: CallReader) -> Call:
    tensors = r.tensors("tensors")
    rank = len(tensors[0].meta["val"].shape) + 1
    return Call(Stack(r.integer("dim", 0) % rank), tuple(tensors))


def unbind(r: CallReader) -> Call:
    return call(r, Unbind(r.dimension()), "self")


def im2col(r: CallReader) -> Call:
    return call(r, Unfold(window(r, 4)), "self")


def col2im(r: CallReader) -> Call:
    return call(r, Fold(window(r, 3)), "self")


def window(r: CallReader, rank: int) -> int:
    if r.rank() != rank:
        raise NotConstant("an image without a batch")
    height, width = r.integers("kernel_size")
    return height * width


def windows(r: CallReader) -> Call:
    return call(r, Windows(r.dimension("dimension")), "self")


def last_two(r: CallReader) -> Call:
    rank = r.rank()
    return call(r, Reordered((rank - 2, rank - 1), TRIANGLE, zeros=True), "self")


def moved(reason: Reason, name: str) -> Maker:
    """Entries move along the named dimensions, or along all."""

    def make(r: CallReader) -> Call:
        dims = r.optional_integers(name)
        where = range(r.rank()) if dims is None else (d % r.rank() for d in dims)
        return call(r, Reordered(tuple(where), reason), "self")

    return make


def summed(r: CallReader) -> Call:
    return call(r, Reordered((r.dimension(),), CUMULATED, zeros=True), "self")


def differences(r: CallReader) -> Call:
    return call(r, Differences(r.dimension(default=-1)), "self", "prepend", "append")


def mixed(reason: Reason) -> Maker:
    def make(r: CallReader) -> Call:
        return call(r, Normalized((r.dimension(default=-1),), reason), "self")

    return make


def gather(r: CallReader) -> Call:
    return call(r, GatherElements(r.dimension()), "self", "index")


def scatter(adds: bool) -> Maker:
    def make(r: CallReader) -> Call:
        return call(r, ScatterElements(r.dimension(), adds), "self", "index", "src")

    return make


def complex_parts(joined: bool) -> Maker:
    def make(r: CallReader) -> Call:
        return call(r, ComplexParts(joined), "self")

    return make


def index(r: CallReader) -> Call:
    found = [(i, t) for i, t in enumerate(r.get("indices")) if t is not None]
    if len(found) == 1 and is_mask(found[0][1]):
        dimension, mask = found[0]
        return Call(MaskedEntries(dimension), (r.get("self"), mask))
    dimensions, tensors = indexed(r)
    return Call(Index(dimensions), (r.get("self"), *tensors))


def index_put(r: CallReader) -> Call:
    dimensions, tensors = indexed(r)
    return Call(IndexPut(dimensions, r.flag("accumulate")), (r.get("self"), r.get("values"), *tensors))


def indexed(r: CallReader) -> tuple[tuple[int, ...], list[fx.Node]]:
    """The dimensions that are indexed, and by what; a mask counts through several and has no rule."""
    found = [(i, t) for i, t in enumerate(r.get("indices")) if t is not None]
    if any(is_mask(t) for _, t in found):
        raise NotConstant("indexed by a mask")
    return tuple(i for i, _ in found), [t for _, t in found]


def is_mask(tensor: fx.Node) -> bool:
    return str(tensor.meta["val"].dtype) in ("torch.bool", "torch.uint8")


def index_update(source: str, adds: bool, *more: str) -> Maker:
    def make(r: CallReader) -> Call:
        return call(r, IndexUpdate(r.dimension(), adds), "self", source, *more)

    return make


def top(r: CallReader) -> Call:
    return call(r, TopK(r.dimension(default=-1)), "self")


def order(r: CallReader) -> Call:
    return call(r, TopK(r.dimension(default=-1), values=False), "self")


def gated(r: CallReader) -> Call:
    return call(r, GatedLinearUnit(r.dimension(default=-1)), "self")


def one_hot(r: CallReader) -> Call:
    return call(r, OneHot(), "self")


def sampled(r: CallReader) -> Call:
    return call(r, Sampled(), "input", "grid")


def weight_norm(r: CallReader) -> Call:
    dimension = r.integer("dim", 0)
    kept = None if dimension == -1 else dimension % r.rank("v")
    return call(r, WeightNorm(kept), "v", "g")


def norm_of_last(r: CallReader) -> Call:
    """rms_norm: like a layer norm without a mean."""
    count = len(r.get("normalized_shape"))
    rule = LayerNorm(axis=-count, shape_input=3)
    return call(r, rule, "input", "weight", lists={3: "normalized_shape"})


def arithmetic(operation: str) -> Maker:
    """Python's operators on sizes: b * 12, c // 2."""

    def make(r: CallReader) -> Call:
        return Call(SizeArithmetic(operation=operation), (), lists={0: "arg0", 1: "arg1"})

    return make


RARER_OPERATORS: dict[str, Maker] = table(
    {
        attention: "scaled_dot_product_attention",
        matmul_add("batch1", "batch2"): "baddbmm",
        matmul_add("mat", "vec"): "addmv",
        einsum_add("bij", "bjk", "ik", "batch1", "batch2"): "addbmm",
        einsum_add("i", "j", "ij", "vec1", "vec2"): "addr",
        einsum: "einsum",
        tensordot: "tensordot",
        cell(4, 2): "lstm_cell",
        cell(3, 1): "gru_cell",
        cell(1, 1): "rnn_tanh_cell rnn_relu_cell",
        complex_parts(joined=True): "view_as_complex",
        complex_parts(joined=False): "view_as_real",
        recurrent(4, 2): "lstm",
        recurrent(3, 1): "gru",
        recurrent(1, 1): "rnn_tanh rnn_relu",
        pixel_shuffle: "pixel_shuffle",
        pixel_unshuffle: "pixel_unshuffle",
        channel_shuffle: "channel_shuffle native_channel_shuffle",
        repeat: "repeat",
        tile: "tile",
        repeat_interleave: "repeat_interleave",
        stack: "stack",
        unbind: "unbind select",
        im2col: "im2col",
        col2im: "col2im",
        windows: "unfold",
        last_two: "tril triu",
        moved(ROLLED, "dims"): "roll",
        moved(REVERSED, "dims"): "flip",
        summed: "cumsum",
        differences: "diff",
        mixed(CUMULATED_PRODUCT): "cumprod logcumsumexp cummax cummin",
        gather: "gather",
        scatter(adds=False): "scatter",
        scatter(adds=True): "scatter_add scatter_reduce",
        index: "index",
        index_put: "index_put",
        index_update("source", True, "index"): "index_add",
        index_update("source", False, "index"): "index_copy",
        index_update("src", False): "slice_scatter",
        top: "topk sort",
        order: "argsort",
        gated: "glu",
        one_hot: "one_hot",
        sampled: "grid_sampler grid_sampler_2d",
        weight_norm: "_weight_norm",
        norm_of_last: "rms_norm",
    }
)

SIZE_OPERATORS: dict[str, Maker] = {
    "mul": arithmetic("mul"),
    "add": arithmetic("add"),
    "floordiv": arithmetic("div"),
    "sub": arithmetic("sub"),
    "mod": arithmetic("mod"),
}
