"""Random small networks: what the law of slicing is tried on.

`random_graph(seed)` grows a graph one step at a time: each step takes a value at random and applies one of
the steps that fit its rank (without the batch: image (C, H, W), sequence (T, D), vector (D)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from tools.zoo.builder import GraphBuilder, Value

__all__ = ["STEPS", "Grower", "random_graph"]

MAX_CHANNELS, MAX_FEATURES = 48, 512


class Grower(GraphBuilder):
    """A builder with a random generator and the values so far."""

    def __init__(self, seed: int) -> None:
        super().__init__(f"random_{seed}", seed)
        self.rng = np.random.default_rng(seed)
        self.values: list[Value] = []
        self.used: set[str] = set()
        self.weights: list[tuple[str, int, int]] = []  # of linear layers: name, in, out

    def pick(self, *options: int) -> int:
        return int(self.rng.choice(options))

    def coin(self) -> bool:
        return bool(self.rng.random() < 0.5)

    def divisor(self, number: int) -> int:
        return self.pick(*(d for d in range(1, number + 1) if number % d == 0))

    def text(self, *options: str) -> str:
        return str(self.rng.choice(options))

    def like(self, x: Value, fits: Callable[[tuple[int, ...]], bool]) -> Value:
        """A random value whose shape fits; `x` itself does."""
        return self.take([value for value in self.values if fits(value.shape)] or [x])

    def take(self, values: Sequence[Value]) -> Value:
        recent = values[-8:]
        value = recent[int(self.rng.integers(len(recent)))]
        self.used.add(value.name)
        return value

    def scale(self, *shape: int) -> str:
        """A stored tensor of numbers between 0.5 and 1.5, of either sign."""
        sign = np.where(self.rng.random(shape) < 0.5, -1, 1)
        return self.parameter("scale", "weight", sign * self.rng.uniform(0.5, 1.5, shape))

    def sizes(self, *target: int) -> str | Value:
        """A reshape target of known sizes, batch first, in one of the ways that exporters write it."""
        way = self.text("copy", "infer", "computed")
        if way == "computed":
            rest = self.parameter("shape", "rest", np.array(target), np.int64)
            return self.emit("Concat", [self.batch_size(), rest], (), axis=0)
        first = 0 if way == "copy" else -1
        if self.coin():  # one stored target for all reshapes to these sizes
            return self.constant(f"shape_{first}_{target}", np.array([first, *target]))
        return self.parameter("shape", "target", np.array([first, *target]), np.int64)

    def batch_size(self) -> Value:
        first = Value(self._inputs[0].name, ())
        if self.coin():
            return self.emit("Shape", [first], (), start=0, end=1)
        shape = self.emit("Shape", [first], ())
        picked = self.emit("Gather", [shape, self.constant("zero", np.array(0, np.int64))], (), axis=0)
        return self.emit("Unsqueeze", [picked, self.constant("axis0", np.array([0], np.int64))], ())

    def view(self, x: Value, *shape: int) -> Value:
        return self.emit("Reshape", [x, self.sizes(*shape)], shape)


Step = Callable[[Grower, Value], Value | list[Value] | None]
STEPS: dict[int, list[Step]] = {1: [], 2: [], 3: []}


def step(*ranks: int) -> Callable[[Step], Step]:
    """Registers a step for values of these ranks; it returns None where it does not fit after all."""

    def register(function: Step) -> Step:
        for rank in ranks:
            STEPS[rank].append(function)
        return function

    return register


def random_graph(seed: int, steps: int | None = None) -> onnx.ModelProto:
    """A random network of 5 to 40 steps, the same for the same seed."""
    g = Grower(seed)
    kind = g.pick(1, 2, 3, 3)
    shape = {1: (6,), 2: (4, 6), 3: (3, 8, 8)}[kind]
    g.values.append(enter(g, g.input("x", *shape)))
    for _ in range(steps if steps is not None else int(g.rng.integers(5, 41))):
        x = g.take(g.values)
        options = STEPS[len(x.shape)]
        made = options[int(g.rng.integers(len(options)))](g, x)
        g.values += [] if made is None else [made] if isinstance(made, Value) else made
    ends = [value for value in g.values if value.name not in g.used] or g.values[-1:]
    return g.build(*(leave(g, value) for value in ends[-4:]))


def enter(g: Grower, x: Value) -> Value:
    return g.conv(x, 12, 3, pad=1, bias=True) if len(x.shape) == 3 else g.linear(x, 12)


def leave(g: Grower, x: Value) -> Value:
    """Ends in a layer, or leaves the value as it is."""
    if g.rng.random() < 0.1:
        return g.unary("Identity", x)
    return g.conv(x, 4, g.pick(1, 3), pad=1, bias=g.coin()) if len(x.shape) == 3 else g.linear(x, 4)


# Any rank


@step(1, 2, 3)
def activation(g: Grower, x: Value) -> Value:
    op = g.text("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Gelu", "Softplus", "Abs", "Exp", "Cos")
    bounded = g.unary("Tanh", x) if op in ("Exp", "Cos") else x
    return g.unary(op, bounded)


@step(1, 2, 3)
def residual(g: Grower, x: Value) -> Value:
    other = g.like(x, lambda shape: shape == x.shape)
    return g.binary(g.text("Add", "Add", "Mul", "Sub", "Max"), x, other)


@step(1, 2, 3)
def per_channel(g: Grower, x: Value) -> Value:
    """Arithmetic with a parameter that has some of the dimensions; sometimes expanded to all of them."""
    op = g.text("Add", "Mul", "Add", "Mul", "Sub", "Div", "Where")
    parameter: str | Value = g.scale(*(size if g.rng.random() < 0.4 else 1 for size in x.shape))
    if g.rng.random() < 0.2:
        parameter = g.emit("Expand", [parameter, g.emit("Shape", [x], ())], x.shape)
    if op == "Where":
        mask = g.constant(f"mask_{x.shape[-1]}", np.arange(x.shape[-1]) % 2 == 0)
        return g.emit(op, [mask, x, parameter], x.shape)
    if op in ("Add", "Mul") and g.coin():
        return g.emit(op, [parameter, x], x.shape)
    return g.emit(op, [x, parameter], x.shape)


@step(1, 2, 3)
def join(g: Grower, x: Value) -> Value | None:
    """Concatenates along a random dimension."""
    axis = int(g.rng.integers(len(x.shape)))
    rest = x.shape[:axis] + x.shape[axis + 1 :]
    others = [x]
    for _ in range(g.pick(1, 1, 2)):
        others.append(g.like(x, lambda s: len(s) == len(x.shape) and s[:axis] + s[axis + 1 :] == rest))
    size = sum(value.shape[axis] for value in others)
    if size > MAX_CHANNELS:
        return None
    return g.emit("Concat", others, (*x.shape[:axis], size, *x.shape[axis + 1 :]), axis=axis + 1)


@step(1, 2, 3)
def divide(g: Grower, x: Value) -> list[Value] | None:
    """Splits a dimension in two or three."""
    axis = int(g.rng.integers(len(x.shape)))
    size = x.shape[axis]
    if size < 3:
        return None
    count = g.pick(2, 3)
    if size % count == 0 and g.coin():
        sizes, extra = [size // count] * count, {"num_outputs": count}
    else:
        first = int(g.rng.integers(1, size))
        sizes, extra = [first, size - first], {}
    shapes = [(*x.shape[:axis], part, *x.shape[axis + 1 :]) for part in sizes]
    inputs: list[Value | str] = [x]
    if not extra:
        inputs.append(g.parameter("split", "sizes", np.array(sizes), np.int64))
    return g.emit_all("Split", inputs, shapes, axis=axis + 1, **extra)


@step(1, 2, 3)
def piece(g: Grower, x: Value) -> Value | None:
    """Slices a dimension, sometimes counted from the end."""
    axis = int(g.rng.integers(len(x.shape)))
    size = x.shape[axis]
    if size < 3:
        return None
    start = int(g.rng.integers(0, size - 1))
    stop = int(g.rng.integers(start + 1, size + 1))
    ends = g.pick(stop, stop - size if stop < size else 2**63 - 1)
    numbers = {"starts": g.pick(start, start - size), "ends": ends, "axes": axis + 1}
    inputs = [g.parameter("slice", name, np.array([number]), np.int64) for name, number in numbers.items()]
    return g.emit("Slice", [x, *inputs], (*x.shape[:axis], stop - start, *x.shape[axis + 1 :]))


@step(1, 2, 3)
def regroup(g: Grower, x: Value) -> Value | None:
    """Views one dimension as two, moves them, and merges them again: a shuffle."""
    axis = int(g.rng.integers(len(x.shape)))
    outer = g.divisor(x.shape[axis])
    inner = x.shape[axis] // outer
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    apart = g.view(x, *before, outer, inner, *after)
    order = list(range(len(apart.shape) + 1))
    if g.coin():
        order[axis + 1], order[axis + 2] = order[axis + 2], order[axis + 1]
        apart = g.transpose(apart, *order)
    if g.coin():
        apart = g.emit("Mul", [apart, g.scale(*apart.shape[axis:])], apart.shape)
    elif g.coin():
        apart = g.emit("Add", [apart, g.scale(*(apart.shape[axis], 1, *(1 for _ in after)))], apart.shape)
    return g.view(apart, *x.shape)


@step(2, 3)
def exchange(g: Grower, x: Value) -> Value | None:
    if max(x.shape) > MAX_CHANNELS:
        return None
    permutation = [0, *(int(i) + 1 for i in g.rng.permutation(len(x.shape)))]
    return g.transpose(x, *permutation)


@step(2, 3)
def merge(g: Grower, x: Value) -> Value | None:
    """Flattens everything, or two dimensions next to each other."""
    if len(x.shape) == 3 and g.coin():
        c, h, w = x.shape
        return g.view(x, c, h * w) if c * h * w <= 4 * MAX_FEATURES else None
    return g.flatten(x) if math.prod(x.shape) <= MAX_FEATURES else None


@step(2, 3)
def mean(g: Grower, x: Value) -> Value:
    """Reduces one dimension away."""
    axis = int(g.rng.integers(len(x.shape)))
    op = g.text("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2")
    axes = g.parameter("reduce", "axes", np.array([axis + 1]), np.int64)
    return g.emit(op, [x, axes], x.shape[:axis] + x.shape[axis + 1 :], keepdims=0)


@step(1, 2)
def stretch(g: Grower, x: Value) -> Value | None:
    """Adds a dimension and repeats it, by Expand or by broadcasting against a parameter."""
    times = g.pick(2, 3)
    if math.prod(x.shape) * times > MAX_FEATURES:
        return None
    axes = g.parameter("unsqueeze", "axes", np.array([1]), np.int64)
    shape = (times, *x.shape)
    one = g.emit("Unsqueeze", [x, axes], (1, *x.shape))
    if g.coin():
        target = g.parameter("expand", "shape", np.array([1, times, *(1 for _ in x.shape)]), np.int64)
        return g.emit("Expand", [one, target], shape)
    op = g.text("Add", "Mul")
    return g.emit(op, [one, g.scale(times, *(1 for _ in x.shape))], shape)


# Images


@step(3, 3)
def convolution(g: Grower, x: Value) -> Value | None:
    kernel = g.pick(1, 3)
    if min(x.shape[1:]) < kernel:
        return None
    stride = g.pick(1, 1, 2)
    pad = g.pick(0, kernel // 2)
    return g.conv(x, g.pick(6, 8, 12, 16), kernel, stride=stride, pad=pad, bias=g.coin())


@step(3)
def grouped_convolution(g: Grower, x: Value) -> Value:
    groups = g.divisor(x.channels)
    out = groups * g.pick(*(m for m in (1, 2, 3, 4) if groups * m <= MAX_CHANNELS))
    return g.conv(x, out, g.pick(1, 3), pad=1, groups=groups, bias=g.coin())


@step(3)
def depthwise_convolution(g: Grower, x: Value) -> Value:
    times = g.pick(1, 1, 2) if x.channels * 2 <= MAX_CHANNELS else 1
    return g.conv(x, x.channels * times, 3, pad=1, groups=x.channels, bias=g.coin())


@step(3)
def enlarging_convolution(g: Grower, x: Value) -> Value | None:
    return g.conv_transpose(x, g.pick(6, 8)) if max(x.shape[1:]) <= 8 else None


@step(3)
def batch_norm(g: Grower, x: Value) -> Value:
    return g.batch_norm(x)


@step(3)
def group_norm(g: Grower, x: Value) -> Value:
    n = x.channels
    if g.coin():
        return g.emit("InstanceNormalization", [x, g.scale(n), g._bias("instance", n)], x.shape)
    return g.emit(
        "GroupNormalization", [x, g.scale(n), g._bias("group", n)], x.shape, num_groups=g.divisor(n)
    )


@step(3)
def pool(g: Grower, x: Value) -> Value | None:
    if min(x.shape[1:]) < 2:
        return None
    if g.coin():
        return g.max_pool(x, 2, g.pick(1, 2), g.pick(0, 1))
    return g.average_pool(x, 2, g.pick(1, 2), g.pick(0, 1), count_include_pad=g.coin())


@step(3)
def squeeze_excite(g: Grower, x: Value) -> Value:
    gate = g.conv(g.global_average_pool(x), g.pick(3, 4), 1, bias=g.coin())
    gate = g.conv(g.relu(gate), x.channels, 1, bias=g.coin())
    return g.binary("Mul", x, g.unary(g.text("Sigmoid", "HardSigmoid"), gate))


@step(3)
def parametric_relu(g: Grower, x: Value) -> Value:
    return g.emit("PRelu", [x, g.scale(x.channels, 1, 1)], x.shape)


@step(3)
def tokens(g: Grower, x: Value) -> Value | None:
    """(C, H, W) to (H W, C)."""
    c, h, w = x.shape
    if c * h * w > 4 * MAX_FEATURES:
        return None
    return g.transpose(g.view(x, c, h * w), 0, 2, 1)


# Sequences and vectors


@step(3)
def resize(g: Grower, x: Value) -> Value | None:
    if max(x.shape[1:]) > 8:
        return None
    scales = g.constant("scales", np.array([1, 1, 2, 2], np.float32))
    shape = (x.channels, *(2 * size for size in x.shape[1:]))
    return g.emit("Resize", [x, "", scales], shape, mode=g.text("nearest", "linear"))


@step(1, 2, 3)
def pad(g: Grower, x: Value) -> Value:
    """Pads the last dimension."""
    pads = [0] * (2 * len(x.shape) + 2)
    pads[len(x.shape)], pads[-1] = g.pick(0, 1), 1
    value = g.constant("padding", np.array(g.pick(0, 1), np.float32))
    shape = (*x.shape[:-1], x.shape[-1] + pads[len(x.shape)] + 1)
    return g.emit("Pad", [x, g.parameter("pad", "pads", np.array(pads), np.int64), value], shape)


@step(2)
def opaque(g: Grower, x: Value) -> Value:
    return g.unary("Trilu", x)


@step(1, 2)
def tied(g: Grower, x: Value) -> Value | None:
    """The weight of an earlier layer once more, transposed where it only fits so."""
    width = x.shape[-1]
    forth = [(name, out) for name, into, out in g.weights if into == width]
    back = [(name, into) for name, into, out in g.weights if out == width]
    if forth and (g.coin() or not back):
        name, out = forth[int(g.rng.integers(len(forth)))]
        return g.emit("MatMul", [x, name], (*x.shape[:-1], out))
    if not back:
        return None
    name, into = back[int(g.rng.integers(len(back)))]
    turned = g.emit("Transpose", [name], (), perm=(1, 0))
    return g.emit("MatMul", [x, turned], (*x.shape[:-1], into))


@step(1, 1, 2, 2)
def linear(g: Grower, x: Value) -> Value:
    width = g.pick(6, 8, 12, 16, 24)
    g.weights.append((f"{g.next_name('matmul')}.weight", x.shape[-1], width))
    return g.linear(x, width)


@step(1)
def gemm(g: Grower, x: Value) -> Value:
    return g.gemm(x, g.pick(6, 8, 12, 16), transposed=g.coin())


@step(1, 2)
def gated(g: Grower, x: Value) -> Value:
    """A gated linear unit: two halves of one layer."""
    width = g.pick(4, 6, 8)
    halves = g.linear(x, 2 * width)
    shape = (*x.shape[:-1], width)
    one, other = g.emit_all("Split", [halves], [shape, shape], axis=-1, num_outputs=2)
    return g.binary("Mul", one, g.unary(g.text("Sigmoid", "Gelu", "Tanh"), other))


@step(2)
def layer_norm(g: Grower, x: Value) -> Value:
    return g.layer_norm(x)


@step(2)
def softmax(g: Grower, x: Value) -> Value:
    return g.unary("Softmax", x, axis=g.pick(1, 2, -1))


@step(2, 2)
def attention(g: Grower, x: Value) -> Value:
    """Attention with separate or fused projections; softmax or linear (which is not sound to prune)."""
    steps, heads, depth = x.shape[0], g.pick(1, 2, 3), g.pick(2, 4)
    if g.coin():
        fused = g.linear(x, 3 * heads * depth)
        parts = g.emit_all("Split", [fused], [(steps, heads * depth)] * 3, axis=2, num_outputs=3)
    else:
        parts = [g.linear(x, heads * depth) for _ in range(3)]
    q, k, v = (g.transpose(g.view(part, steps, heads, depth), 0, 2, 1, 3) for part in parts)
    scores = g.emit("MatMul", [q, g.transpose(k, 0, 1, 3, 2)], (heads, steps, steps))
    weights = g.unary("Softmax", scores, axis=-1) if g.coin() else g.unary("Sigmoid", scores)
    mixed = g.emit("MatMul", [weights, v], (heads, steps, depth))
    merged = g.view(g.transpose(mixed, 0, 2, 1, 3), steps, heads * depth)
    return g.linear(merged, g.pick(x.shape[1], 8))


@step(2)
def heads_in_one_reshape(g: Grower, x: Value) -> Value:
    """A fused projection viewed as (3, heads, depth), then sliced apart; kernel attention without softmax."""
    steps, heads, depth = x.shape[0], g.pick(2, 3), g.pick(2, 4)
    fused = g.view(g.linear(x, 3 * heads * depth), steps, 3, heads, depth)
    moved = g.transpose(fused, 0, 2, 3, 1, 4)
    pieces = g.emit_all("Split", [moved], [(1, heads, steps, depth)] * 3, axis=1, num_outputs=3)
    axes = g.constant("axis1", np.array([1], np.int64))
    q, k, v = (g.emit("Squeeze", [one, axes], (heads, steps, depth)) for one in pieces)
    if g.coin():
        q, k = g.unary("Relu", q), g.unary(g.text("Relu", "Exp", "Sigmoid"), g.unary("Tanh", k))
    memory = g.emit("MatMul", [g.transpose(k, 0, 1, 3, 2), v], (heads, depth, depth))
    mixed = g.emit("MatMul", [q, memory], (heads, steps, depth))
    merged = g.view(g.transpose(mixed, 0, 2, 1, 3), steps, heads * depth)
    return g.linear(merged, g.pick(x.shape[1], 8))


@step(1)
def outer_product(g: Grower, x: Value) -> Value | None:
    other = g.like(x, lambda shape: len(shape) == 1)
    n, m = x.shape[0], other.shape[0]
    if n * m > MAX_FEATURES:
        return None
    column = g.view(x, n, 1)
    return g.emit("MatMul", [column, g.view(other, 1, m)], (n, m))


@step(1)
def image(g: Grower, x: Value) -> Value | None:
    """A linear layer that makes an image, as generators do."""
    channels, size = g.pick(4, 6, 8), g.pick(2, 4)
    return g.view(g.linear(x, channels * size * size), channels, size, size)
