"""Strategies for the rules of layers: contraction, normalization, pooling, attention, recurrence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.rules.strategies import Draw, Drawn, attributes, drawn, shape_of, spelled

__all__ = [
    "attention",
    "convolution",
    "gemm",
    "matmul",
    "normalization",
    "pooling",
    "recurrent",
    "recurrent_node",
    "weight_norm",
]


def bias(p: Any) -> Tensor | None:
    return getattr(p, "b", None)


def numbers(draw: Draw, count: int, low: int, high: int) -> list[int]:
    return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))  # type: ignore[no-any-return]


@st.composite
def convolution(draw: Draw) -> Drawn:
    """Of one to three dimensions, transposed, grouped and depthwise."""
    rank, transposed = draw(st.integers(1, 3)), draw(st.booleans())
    groups, inside, outside = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel, stride, dilation = numbers(draw, rank, 1, 3), numbers(draw, rank, 1, 2), numbers(draw, rank, 1, 2)
    padding = [draw(st.integers(0, (size - 1) // 2)) for size in kernel]
    h = (groups * inside, *numbers(draw, rank, 5, 6 if rank < 3 else 5))
    channels = (groups * inside, outside) if transposed else (groups * outside, inside)
    tensors: dict[str, Any] = {"w": (*channels, *kernel)}
    if draw(st.booleans()):
        tensors["b"] = (groups * outside,)
    names = {"group": groups, "strides": stride, "dilations": dilation, "pads": padding * 2}
    kind = "ConvTranspose" if transposed else "Conv"
    function = getattr(F, f"conv_transpose{rank}d" if transposed else f"conv{rank}d")

    def run(p: Any, h: Tensor) -> Tensor:
        return function(h, p.w, bias(p), stride, padding, groups=groups, dilation=dilation)  # type: ignore[no-any-return]

    return drawn([h], f"r = {kind}{attributes(**names)}({', '.join(['h', *tensors])})", run, **tensors)


@st.composite
def matmul(draw: Draw) -> Drawn:
    """Of values and stored matrices, vectors and batches of matrices, from either side; baddbmm."""
    batch, a, k, n = shape_of(draw, 4, 4)
    lead = draw(st.sampled_from([(), (batch,), (1,)]))
    h, g = (*lead, a, k), (*lead, k, n)
    kinds: list[Callable[[], Drawn]] = [
        lambda: drawn([h], "r = MatMul(h, w)", lambda p, h: h @ p.w, w=(k, n)),
        lambda: drawn([(batch, a, k)], "r = MatMul(h, w)", lambda p, h: h @ p.w, w=(batch, k, n)),
        lambda: drawn([(batch, a, k)], "r = MatMul(h, w)", lambda p, h: h @ p.w, w=(1, k, n)),
        lambda: drawn([h], "r = MatMul(w, h)", lambda p, h: p.w @ h, w=(n, a)),
        lambda: drawn([h], "r = MatMul(h, w)", lambda p, h: h @ p.w, w=(k,)),
        lambda: drawn([h, g], "r = MatMul(h, g)", lambda p, h, g: h @ g),
        lambda: drawn([(batch, a, k), (1, k, n)], "r = MatMul(h, g)", lambda p, h, g: h @ g),
        lambda: drawn([(a, k), (k, n), (a, n)], "t = MatMul(h, g)  r = Add(k, t)", batched_sum),
    ]
    return draw(st.sampled_from(kinds))()  # type: ignore[no-any-return]


def batched_sum(p: Any, h: Tensor, g: Tensor, k: Tensor) -> Tensor:
    return torch.baddbmm(k, h, g)


@st.composite
def gemm(draw: Draw) -> Drawn:
    """addmm and linear, with every shape of a bias."""
    k, n = shape_of(draw, 2, 2)
    turned, alpha, beta = (
        draw(st.booleans()),
        draw(st.sampled_from([1.0, 0.5])),
        draw(st.sampled_from([1.0, 2.0])),
    )
    b = draw(st.sampled_from([(n,), (1, n), (1,), (1, 1)]))
    names = attributes(transB=turned, alpha=alpha, beta=beta)
    linear = turned and draw(st.booleans())

    def run(p: Any, h: Tensor) -> Tensor:
        if linear:
            return F.linear(h, p.w, p.b.flatten().expand(n) * 1.0)
        return torch.addmm(p.b, h, p.w.t() if turned else p.w, alpha=alpha, beta=beta)

    return drawn([(k,)], f"r = Gemm{names}(h, w, b)", run, w=(n, k) if turned else (k, n), b=b)


@st.composite
def normalization(draw: Draw) -> Drawn:
    kind = draw(st.sampled_from(["batch", "group", "instance", "layer", "rms"]))
    if kind in ("layer", "rms"):
        return draw(last_normalized(kind))  # type: ignore[no-any-return]
    groups, each = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    channels, eps = groups * each, draw(st.sampled_from([1e-5, 1e-2]))
    h = (channels, *shape_of(draw, 1, 2, 3))
    tensors: dict[str, Any] = {"w": (channels,), "b": (channels,)}
    if kind == "batch":
        statistics = np.linspace(0.5, 1.5, channels, dtype=np.float32)
        tensors |= {"m": statistics - 1, "v": statistics}
        text = f"r = BatchNormalization{attributes(epsilon=eps)}(h, w, b, m, v)"
        return drawn([h], text, lambda p, h: F.batch_norm(h, p.m, p.v, p.w, p.b, eps=eps), **tensors)
    if kind == "instance":
        text = f"r = InstanceNormalization{attributes(epsilon=eps)}(h, w, b)"
        return drawn([h], text, lambda p, h: F.instance_norm(h, None, None, p.w, p.b, eps=eps), **tensors)
    text = f"r = GroupNormalization{attributes(num_groups=groups, epsilon=eps)}(h, w, b)"
    return drawn([h], text, lambda p, h: F.group_norm(h, groups, p.w, p.b, eps), **tensors)


@st.composite
def last_normalized(draw: Draw, kind: str) -> Drawn:
    """layer_norm and rms_norm over the last dimensions; the others stay open."""
    h, eps = shape_of(draw, 2, 3), draw(st.sampled_from([1e-5, 1e-2]))
    last = h[draw(st.integers(1, len(h) - 1)) :]
    if kind == "rms":
        return drawn([h], None, lambda p, h: F.rms_norm(h, last, p.w, eps), w=last)
    axis = spelled(draw, len(h) - len(last) + 1, h)
    tensors = {"w": last} if draw(st.booleans()) else {"w": last, "b": last}
    text = f"r = LayerNormalization{attributes(axis=axis, epsilon=eps)}({', '.join(['h', *tensors])})"
    return drawn([h], text, lambda p, h: F.layer_norm(h, last, p.w, bias(p), eps), **tensors)


@st.composite
def pooling(draw: Draw) -> Drawn:
    """Windows of one to three dimensions; largest, mean, global and adaptive; enlarging."""
    rank = draw(st.integers(1, 3))
    h = (draw(st.integers(2, 5)), *numbers(draw, rank, 3, 5))
    kind = draw(st.sampled_from(["Max", "Average", "Global", "adaptive", "Resize"]))
    if kind == "Global":
        dims = list(range(2, rank + 2))
        return drawn([h], "r = GlobalAveragePool(h)", lambda p, h: h.mean(dims, keepdim=True))
    if kind == "adaptive":
        function = getattr(F, f"adaptive_{draw(st.sampled_from(['avg', 'max']))}_pool{rank}d")
        size = draw(st.integers(1, 3))
        return drawn([h], None, lambda p, h: function(h, size))
    if kind == "Resize":
        return draw(resizing(h))  # type: ignore[no-any-return]
    kernel, stride = numbers(draw, rank, 1, 3), numbers(draw, rank, 1, 2)
    padding, counted = [draw(st.integers(0, size // 2)) for size in kernel], draw(st.booleans())
    names: dict[str, Any] = {"kernel_shape": kernel, "strides": stride, "pads": padding * 2}
    more = {"count_include_pad": counted} if kind == "Average" else {}
    function = getattr(F, f"{'max' if kind == 'Max' else 'avg'}_pool{rank}d")
    text = f"r = {kind}Pool{attributes(**names, **more)}(h)"
    return drawn([h], text, lambda p, h: function(h, kernel, stride, padding, **more))


@st.composite
def resizing(draw: Draw, h: tuple[int, ...]) -> Drawn:
    rank, mode = len(h) - 1, draw(st.sampled_from(["nearest", "linear"]))
    wide = {1: "linear", 2: "bilinear", 3: "trilinear"}[rank] if mode == "linear" else mode
    scales = np.array([1, 1, *[2] * rank], np.float32)
    text = f"r = Resize{attributes(mode=mode)}(h, , scales)"
    return drawn([h], text, lambda p, h: F.interpolate(h, scale_factor=2, mode=wide), scales=scales)


@st.composite
def attention(draw: Draw) -> Drawn:
    """Grouped keys and values of their own depth, masks, causality, an implicit or a given scale."""
    shared, times, depth, width = shape_of(draw, 4, 4, 1, 3)
    steps, others = shape_of(draw, 2, 2, 2, 4)
    heads, grouped = shared * times, times > 1
    masked, causal = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    scale = draw(st.sampled_from([None, 0.3]))
    masks = [(heads, steps, others), (1, steps, others), (steps, 1)]
    tensors: dict[str, Any] = {"mask": draw(st.sampled_from(masks))} if masked else {}

    def run(p: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = p.mask.expand(q.shape[0], heads, steps, others) if masked else None
        options: dict[str, Any] = {"is_causal": causal, "scale": scale, "enable_gqa": grouped}
        return F.scaled_dot_product_attention(q, k, v, mask, **options)

    scores = "t = Transpose<perm=[0, 1, 3, 2]>(g)  s = MatMul(h, t)  d = Mul(s, factor)"
    added = "e = Add(d, mask)" if masked else "e = Identity(d)"
    text = f"{scores}  {added}  a = Softmax<axis=-1>(e)  r = MatMul(a, k)"
    values = [(heads, steps, depth), (shared, others, depth), (shared, others, width)]
    factor = np.array(scale or depth**-0.5, np.float32)
    known = not grouped and not causal
    return drawn(values, text if known else None, run, factor=factor, **tensors)


@st.composite
def recurrent(draw: Draw) -> Drawn:
    """LSTM, GRU and RNN: gates, directions, layers, biases; all steps and the last state are read."""
    kind, gates = draw(st.sampled_from([("LSTM", 4), ("GRU", 3), ("RNN", 1)]))
    steps, into, hidden = shape_of(draw, 3, 3, high=4)
    directions, layers, biased = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.booleans())
    tensors: dict[str, Any] = {}
    for cell in range(layers * directions):
        width = into if cell < directions else hidden * directions
        shapes: dict[str, Any] = {"w": (gates * hidden, width), "r": (gates * hidden, hidden)}
        shapes |= {"b": (gates * hidden,), "c": (gates * hidden,)} if biased else {}
        tensors |= {f"{name}{cell}": shape for name, shape in shapes.items()}

    def run(p: Any, h: Tensor) -> Tensor:
        state = h.new_zeros(layers * directions, h.shape[0], hidden)
        parameters = [getattr(p, name) for name in tensors]
        options = (parameters, biased, layers, 0.0, False, directions == 2, True)
        if kind == "LSTM":
            steps, last, _ = torch.lstm(h, (state, state), *options)
        else:
            steps, last = (torch.gru if kind == "GRU" else torch.rnn_tanh)(h, state, *options)
        return torch.cat([steps.flatten(1), last.transpose(0, 1).flatten(1)], 1)

    return drawn([(steps, into)], None, run, **tensors)


@st.composite
def recurrent_node(draw: Draw) -> Drawn:
    """The nodes of ONNX, whose gates and directions are laid out in other ways."""
    kind, gates = draw(st.sampled_from([("LSTM", 4), ("GRU", 3), ("RNN", 1)]))
    steps, into, hidden = shape_of(draw, 3, 3)
    ways = draw(st.integers(1, 2))
    direction = "bidirectional" if ways == 2 else draw(st.sampled_from(["forward", "reverse"]))
    names: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if kind == "GRU":
        names["linear_before_reset"] = draw(st.booleans())
    tensors: dict[str, Any] = {"w": (ways, gates * hidden, into), "u": (ways, gates * hidden, hidden)}
    if draw(st.booleans()):
        tensors["b"] = (ways, 2 * gates * hidden)
    inputs = ", ".join(["t", *tensors])
    all_steps = "a, last" if kind != "LSTM" else "a, last, cell"
    text = f"t = Transpose<perm=[1, 0, 2]>(h)  {all_steps} = {kind}{attributes(**names)}({inputs})"
    every = "r = Transpose<perm=[2, 0, 1, 3]>(a)", (steps, ways, hidden)
    final = "r = Transpose<perm=[1, 0, 2]>(last)", (ways, hidden)
    read, result = every if draw(st.booleans()) else final
    return Drawn(((steps, into),), result, f"{text}  {read}", None, tensors)


@st.composite
def weight_norm(draw: Draw) -> Drawn:
    into, out, kernel = shape_of(draw, 3, 3, 1, 4)
    h, dimension = (into, kernel + 2), draw(st.integers(0, 1))
    g = (out, 1, 1) if dimension == 0 else (1, into, 1)

    def run(p: Any, h: Tensor) -> Tensor:
        return F.conv1d(h, torch._weight_norm(p.v, p.g, dimension))

    return drawn([h], None, run, v=(out, into, kernel), g=g)
