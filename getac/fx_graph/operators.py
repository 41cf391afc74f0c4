"""Which rule each aten operator follows, and where its operands and arguments stand.

To add an operator: write a function from `CallReader` to a `Call` (or reuse one) and name it in
`OPERATORS`. A function that cannot normalise its call's arguments raises `NotConstant`, and says why; the
node is then opaque, as one that is not in the table.
"""

from __future__ import annotations

from torch import fx

from getac.axes.reasons import COMPUTED_PLACE, NO_RULE, NOT_FOLLOWED, RANGE, SOFTMAX, Reason
from getac.fx_graph.call import Call, Maker, call, is_tensor, table, tensor_arguments
from getac.fx_graph.composite_operators import COMPOSITE_OPERATORS
from getac.fx_graph.rarer_operators import RARER_OPERATORS, SIZE_OPERATORS
from getac.fx_graph.reader import CallReader, NotConstant, operator_name
from getac.rules.contraction import Convolution, Gemm, Linear, MatMul
from getac.rules.elementwise import Elementwise, ParametricRelu, Select
from getac.rules.layout import Expand, Reshape, Transpose
from getac.rules.normalization import BatchNorm, GroupNorm, LayerNorm, Normalized
from getac.rules.parts import Concat, Cut, Gather, Slice, Split
from getac.rules.pooling import Pad, Spatial
from getac.rules.rearrange import Reordered
from getac.rules.reduction import Reduction
from getac.rules.source import Filled, Fresh, ShapeOf

__all__ = ["OPERATORS", "call_of", "follow"]


def elementwise(r: CallReader) -> Call:
    """All tensor arguments are operands, in the order of the schema."""
    return Call(Elementwise(), tensor_arguments(r))


def product_like(r: CallReader) -> Call:
    return Call(Elementwise(absorbing=True), tensor_arguments(r))


def same_value(r: CallReader) -> Call:
    """The first tensor goes through: casts, copies, dropouts."""
    return Call(Elementwise(value="first"), tensor_arguments(r)[:1])


def unknown_value(r: CallReader) -> Call:
    """The first tensor's sizes alone matter."""
    return Call(Elementwise(value="unknown"), tensor_arguments(r)[:1])


def select(r: CallReader) -> Call:
    return call(r, Select(), "condition", "self", "other")


def prelu(r: CallReader) -> Call:
    if r.get("weight").meta["val"].numel() == 1 or r.rank() < 2:
        return elementwise(r)
    return call(r, ParametricRelu(), "self", "weight")


def linear(r: CallReader) -> Call:
    return call(r, Linear(), "input", "weight", "bias")


def matmul(r: CallReader) -> Call:
    return Call(MatMul(), tensor_arguments(r))


def addmm(r: CallReader) -> Call:
    rule = Gemm(alpha=r.real("alpha", 1), beta=r.real("beta", 1))
    return call(r, rule, "mat1", "mat2", "self")


def convolution(transposed: bool) -> Maker:
    def make(r: CallReader) -> Call:
        if r.rank("input") != r.rank("weight"):
            raise NotConstant("an image without a batch")
        padding = r.get("padding", 0)
        padded = padding != "valid" and (isinstance(padding, str) or any(listed(padding)))
        rule = Convolution(r.integer("groups", 1), transposed, padded or transposed)
        return call(r, rule, "input", "weight", "bias", sites={"groups": "groups"})

    return make


def listed(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def batch_norm(r: CallReader) -> Call:
    rule = BatchNorm(epsilon=float(r.get("eps", 1e-5)))
    return call(r, rule, "input", "weight", "bias", "running_mean", "running_var")


def instance_norm(r: CallReader) -> Call:
    """With running statistics, evaluation normalises by them, as a batch norm does."""
    names = ("input", "weight", "bias", "running_mean", "running_var")
    if r.get("running_mean") is None:
        return call(r, GroupNorm(), *names[:3])
    return call(r, BatchNorm(epsilon=float(r.get("eps", 1e-5))), *names)


def group_norm(r: CallReader) -> Call:
    rule = GroupNorm(groups=r.integer("num_groups"))
    return call(r, rule, "input", "weight", "bias", sites={"groups": "num_groups"})


def layer_norm(r: CallReader) -> Call:
    count = len(r.get("normalized_shape"))
    rule = LayerNorm(axis=-count, shape_input=3)
    return call(r, rule, "input", "weight", "bias", lists={3: "normalized_shape"})


def along(reason: Reason) -> Maker:
    def make(r: CallReader) -> Call:
        return call(r, Normalized((r.dimension(),), reason), "self")

    return make


def spatial(r: CallReader) -> Call:
    return Call(Spatial(spatial=spatial_rank(r)), tensor_arguments(r)[:1])


def max_pool(r: CallReader) -> Call:
    return Call(Spatial(spatial=spatial_rank(r), maximum=True), tensor_arguments(r)[:1])


def average_pool(r: CallReader) -> Call:
    padded = any(listed(r.get("padding", 0))) and bool(r.get("count_include_pad", True))
    return Call(Spatial(keeps_constant=not padded, spatial=spatial_rank(r)), tensor_arguments(r)[:1])


def spatial_rank(r: CallReader) -> int:
    """How many trailing dimensions are spatial: the digit in the operator's name."""
    name = operator_name(r.node)
    return next((int(digit) for digit in "321" if f"{digit}d" in name), 2)


def pad(r: CallReader) -> Call:
    pads = r.integers("pad")  # pairs, from the last dimension
    pairs = [*zip(pads[::2], pads[1::2], strict=True), *[(0, 0)] * (r.rank() - len(pads) // 2)]
    constant = r.get("mode", "constant") == "constant"
    rule = Pad(tuple(reversed(pairs)), zeros=constant, filling=float(r.get("value") or 0.0))
    return call(r, rule, "self")


def view(name: str) -> Maker:
    def make(r: CallReader) -> Call:
        if name not in r.arguments:
            raise NotConstant("a view of the same bits as another type")
        return call(r, Reshape(shape_input=1, copies_zeros=False), "self", lists={1: name})

    return make


def unflatten(r: CallReader) -> Call:
    dimension = r.dimension()
    rule = Reshape(shape_input=1, copies_zeros=False, first=dimension)
    return call(r, rule, "self", lists={1: "sizes"})


def regroup(r: CallReader) -> Call:
    return call(r, Reshape(), "self")


def transpose(first: str, second: str) -> Maker:
    def make(r: CallReader) -> Call:
        order = list(range(r.rank()))
        i, j = r.dimension(first), r.dimension(second)
        order[i], order[j] = order[j], order[i]
        return call(r, Transpose(tuple(order)), "self")

    return make


def permute(r: CallReader) -> Call:
    return call(r, Transpose(tuple(d % r.rank() for d in r.integers("dims"))), "self")


def last_two_exchanged(r: CallReader) -> Call:
    rank = r.rank()
    return call(r, Transpose((*range(rank - 2), rank - 1, rank - 2)), "self")


def movedim(r: CallReader) -> Call:
    rank = r.rank()
    source = [d % rank for d in r.integers("source")]
    destination = [d % rank for d in r.integers("destination")]
    moved = dict(zip(destination, source, strict=True))
    others = iter(d for d in range(rank) if d not in source)
    return call(r, Transpose(tuple(moved[d] if d in moved else next(others) for d in range(rank))), "self")


def matrix_transpose(r: CallReader) -> Call:
    return call(r, Transpose(tuple(reversed(range(r.rank())))), "self")


def expand(r: CallReader) -> Call:
    return call(r, Expand(), "self", lists={1: "size"})


def expand_as(r: CallReader) -> Call:
    return Call(Elementwise(value="first"), tensor_arguments(r))


def concat(r: CallReader) -> Call:
    tensors = [tensor for tensor in r.tensors("tensors") if not is_empty_list(tensor)]
    rank = tensors[0].meta["val"].ndim
    return Call(Concat(axis=r.integer("dim", 0) % rank), tuple(tensors))


def is_empty_list(tensor: fx.Node) -> bool:
    """Whether it has the shape (0,), which goes with any rank; a symbol cannot be compared."""
    shape = tensor.meta["val"].shape
    return len(shape) == 1 and type(shape[0]) is int and shape[0] == 0


def split(r: CallReader) -> Call:
    sites = {"split": "split_sizes"}
    return call(r, Split(axis=r.dimension()), "self", sites=sites)


def slice_(r: CallReader) -> Call:
    dimension, node = r.dimension(), r.get("self")
    size = (
        int(node.meta["val"].shape[dimension]) if isinstance(node.meta["val"].shape[dimension], int) else None
    )
    start, stop, step = r.get("start"), r.get("end"), r.integer("step", 1)
    if start in (None, 0) and (stop is None or stop == MAXIMUM) and step == 1:
        return call(r, Slice(()), "self")
    if size is None or not all(value is None or isinstance(value, int) for value in (start, stop)):
        return call(r, Reordered((dimension,), COMPUTED_PLACE), "self")
    bounds = slice(start, stop, step).indices(size)
    cut = Cut(dimension, *bounds, 0, start_from_end=(start or 0) < 0, stop_from_end=(stop or 0) < 0)
    return call(r, Slice((cut,)), "self", sites={"starts": "start", "ends": "end"})


MAXIMUM = 2**63 - 1


def embedding(r: CallReader) -> Call:
    return call(r, Gather(axis=0), "weight", "indices")


def index_select(r: CallReader) -> Call:
    return call(r, Gather(axis=r.dimension()), "self", "index")


def reduction(sums: bool = False, keeps_constant: bool = False) -> Maker:
    def make(r: CallReader) -> Call:
        dims = r.optional_integers("dim")
        return call(r, Reduction(dims, r.flag("keepdim"), sums, keeps_constant), "self")

    return make


def extremum(r: CallReader) -> Call:
    """max and min: of two tensors, along a dimension, or of everything."""
    if is_tensor(r.get("other")):
        return elementwise(r)
    rule = Reduction(r.optional_integers("dim"), r.flag("keepdim"), keeps_constant=True)
    return call(r, rule, "self")


def vector_norm(r: CallReader) -> Call:
    """Zeros do not matter to a norm of positive order."""
    order = r.get("ord", r.get("p", 2))
    positive = order is None or (isinstance(order, int | float) and order > 0)
    rule = Reduction(r.optional_integers("dim"), r.flag("keepdim"), sums=positive)
    return call(r, rule, "self")


def sym_size(r: CallReader) -> Call:
    dimension = r.dimension()
    return call(r, ShapeOf(dimension, dimension + 1), "self")


def filled(number: float | None) -> Maker:
    """A tensor of given sizes; `number` None: the argument `fill_value`."""

    def make(r: CallReader) -> Call:
        value = r.get("fill_value") if number is None else number
        known = float(value) if isinstance(value, int | float) else float("nan")
        return Call(Filled(known), (None,), lists={0: "size"})

    return make


def fresh(reason: Reason) -> Maker:
    def make(r: CallReader) -> Call:
        return Call(Fresh(reason), ())

    return make


OPERATORS: dict[str, Maker] = table(
    {
        elementwise: """abs acos add addcdiv addcmul asin atan atan2 bitwise_and bitwise_not bitwise_or
            ceil celu clamp clamp_max clamp_min clip cos cosh div elu eq erf exp exp2 expm1 floor
            floor_divide fmod ge gelu gt hardsigmoid hardswish hardtanh isinf isnan le leaky_relu lerp
            log log1p log2 logical_and logical_not logical_or logical_xor log_sigmoid lt maximum minimum
            mish nan_to_num ne neg pow reciprocal relu relu6 remainder round rsqrt rsub selu sgn sigmoid
            sign silu sin sinh softplus sqrt square sub tan tanh threshold trunc masked_fill __and__
            __or__ ones_like zeros_like angle complex conj imag polar real
            absolute acosh asinh atanh copysign deg2rad digamma divide erfc erfinv fix float_power frac
            hardshrink heaviside hypot isclose isfinite ldexp lgamma logaddexp logaddexp2 logit negative
            positive rad2deg rrelu signbit sinc softshrink special_expm1 subtract true_divide xlogy""",
        product_like: "mul multiply",
        same_value: """alias alpha_dropout clone contiguous detach dropout feature_alpha_dropout
            feature_dropout lift_fresh_copy to type_as _to_copy native_dropout""",
        unknown_value: "rand_like randn_like empty_like full_like bernoulli",
        prelu: "prelu",
        select: "where",
        linear: "linear",
        matmul: "matmul bmm mm mv dot",
        addmm: "addmm",
        convolution(transposed=False): "conv1d conv2d conv3d",
        convolution(transposed=True): "conv_transpose1d conv_transpose2d conv_transpose3d",
        batch_norm: "batch_norm",
        instance_norm: "instance_norm",
        group_norm: "group_norm",
        layer_norm: "layer_norm",
        along(SOFTMAX): "softmax log_softmax _softmax _log_softmax",
        spatial: """adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d upsample_nearest1d
            upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_linear1d upsample_bicubic2d
            upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa""",
        max_pool: """max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d
            adaptive_max_pool3d max_pool2d_with_indices""",
        average_pool: "avg_pool1d avg_pool2d avg_pool3d",
        pad: "pad constant_pad_nd",
        view("size"): "view _unsafe_view",
        view("shape"): "reshape",
        unflatten: "unflatten",
        regroup: "flatten ravel squeeze unsqueeze",
        transpose("dim0", "dim1"): "transpose swapdims",
        transpose("axis0", "axis1"): "swapaxes",
        permute: "permute",
        movedim: "movedim moveaxis",
        last_two_exchanged: "mT adjoint",
        matrix_transpose: "t numpy_T",
        expand: "expand broadcast_to",
        expand_as: "expand_as",
        concat: "cat concat concatenate",
        split: "split chunk split_with_sizes tensor_split unsafe_split unsafe_chunk",
        slice_: "slice",
        embedding: "embedding",
        index_select: "index_select",
        reduction(sums=True): "sum",
        vector_norm: "linalg_vector_norm norm",
        reduction(keeps_constant=True): "mean amax amin",
        reduction(): "prod std var logsumexp any all argmax argmin var_mean",
        extremum: "max min",
        sym_size: "sym_size",
        filled(0.0): "zeros new_zeros",
        filled(1.0): "ones new_ones",
        filled(None): "full new_full",
        filled(float("nan")): "empty new_empty rand randn",
        fresh(RANGE): "arange linspace eye scalar_tensor",
    }
)
OPERATORS |= RARER_OPERATORS | COMPOSITE_OPERATORS | SIZE_OPERATORS


def follow(node: fx.Node) -> Call | Reason:
    """A call in normal form; why not, where there is no rule or its arguments cannot be normalised."""
    name = operator_name(node)
    maker = OPERATORS.get(name) or OPERATORS.get(name.removesuffix("_"))  # in place: the same function
    if maker is None or node.op != "call_function":
        return NO_RULE
    try:
        return maker(CallReader(node))
    except NotConstant as error:
        return NOT_FOLLOWED.about(error)


def call_of(node: fx.Node) -> Call | None:
    """A call in normal form; None where it follows no rule."""
    found = follow(node)
    return found if isinstance(found, Call) else None
