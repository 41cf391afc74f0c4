"""Strategies for the rules that lay out, cut, join, rearrange and index."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.rules.strategies import Draw, Drawn, Shape, attributes, axis_of, drawn, shape_of, spelled

__all__ = ["concat", "cut", "indexing", "layout", "picked", "rearranged", "repeated", "stacked"]

LARGE = 2**63 - 1


@st.composite
def factored(draw: Draw, shape: Sequence[int]) -> Shape:
    """Another shape of as many numbers: neighbours merged, or factors in any order, fitting or not."""
    if len(shape) > 1 and draw(st.booleans()):
        first = draw(st.integers(0, len(shape) - 2))
        last = draw(st.integers(first + 2, len(shape)))
        return (*shape[:first], prod(shape[first:last]), *shape[last:])
    rest, made = prod(shape), []
    while rest > 1 and len(made) < 3:
        made.append(draw(st.sampled_from([d for d in range(2, rest + 1) if rest % d == 0])))
        rest //= made[-1]
    return (*made, rest) if rest > 1 else tuple(made)


@st.composite
def layout(draw: Draw) -> Drawn:
    """A chain of reshapes and transposes, spelled in the ways that exporters know."""
    shape = h = shape_of(draw, 1, 3, high=6)
    lines, steps, tensors = [], [], {}
    for i in range(draw(st.integers(1, 4))):
        name, result = (f"v{i - 1}" if i else "h"), f"v{i}"
        if len(shape) > 1 and draw(st.booleans()):
            order = [0, *(j + 1 for j in draw(st.permutations(range(len(shape)))))]
            shape = tuple(shape[j - 1] for j in order[1:])
            lines.append(f"{result} = Transpose<perm={order}>({name})")
            steps.append(lambda v, order=order: v.permute(order))
        else:
            shape = draw(factored(shape))
            target = [-1, *shape] if draw(st.booleans()) else [0, *shape]
            if target[0] == 0:
                target[draw(st.integers(1, len(shape)))] = -1
            tensors[f"s{i}"] = np.array(target)
            lines.append(f"{result} = Reshape({name}, s{i})")
            steps.append(lambda v, target=target: v.reshape(target[0] or v.shape[0], *target[1:]))

    def run(p: Any, v: Tensor) -> Tensor:
        for step in steps:
            v = step(v)
        return v * p.scale

    scale = (shape[0], *(1 for _ in shape[1:]))
    text = "  ".join(lines) + f"  r = Mul(v{len(lines) - 1}, scale)"
    return drawn([h], text, run, scale=scale, **tensors)


@st.composite
def flattened(draw: Draw) -> Drawn:
    """flatten, unsqueeze, squeeze and expand."""
    h = shape_of(draw, 1, 3)
    axis, times = axis_of(draw, (*h, 1)), draw(st.integers(2, 3))
    where = axis - len(h) - 2 if draw(st.booleans()) else axis
    wide = [1] * (len(h) + 2)
    wide[axis] = times
    text = "t = Unsqueeze(h, axis)  u = Expand(t, wide)  v = Mul(u, p)  r = Flatten(v)"

    def run(p: Any, h: Tensor) -> Tensor:
        t = h.unsqueeze(where)
        return (t.expand(t.shape[0], *(n if n > 1 else -1 for n in wide[1:])) * p.p).flatten(1)

    p = tuple(times if i == axis else 1 for i in range(1, len(h) + 2))
    return drawn([h], text, run, axis=np.array([where]), wide=np.array(wide), p=p)


@st.composite
def concat(draw: Draw) -> Drawn:
    """Two to four values, one perhaps twice, and a stored tensor, along any dimension."""
    h = list(shape_of(draw, 1, 3, high=4))
    axis = axis_of(draw, h)
    values = [h]
    for size in draw(st.lists(st.integers(1, 4), max_size=2)):
        values.append([*h[: axis - 1], size, *h[axis:]])
    order = draw(st.lists(st.integers(0, len(values) - 1), min_size=2, max_size=4))
    dim = spelled(draw, axis, h)
    text = f"t = Concat{attributes(axis=dim)}({', '.join('hgk'[i] for i in order)})  r = Relu(t)"
    return drawn(values, text, lambda p, *v: torch.cat([v[i] for i in order], dim).relu())


@st.composite
def cut(draw: Draw) -> Drawn:
    """split, chunk and slice along any dimension, with bounds from either end; the parts are permuted."""
    h = shape_of(draw, 1, 3, 3, 6)
    axis = axis_of(draw, h)
    size, dim = h[axis - 1], spelled(draw, axis, h)
    if draw(st.booleans()):
        return draw(sliced(h, axis, dim))  # type: ignore[no-any-return]
    sizes = draw(st.sampled_from([[1, size - 1], [size - 1, 1], [1, 1, size - 2], [size // 2, size - size // 2]]))
    order = draw(st.permutations(range(len(sizes))))[: draw(st.integers(1, len(sizes)))]
    names = [f"p{i}" for i in range(len(sizes))]
    even, tensors = draw(st.booleans()), {}
    if even:
        parts, source = -(-size // len(sizes)), f"{attributes(axis=dim, num_outputs=len(sizes))}(h)"
        if -(-size // parts) != len(sizes):
            even = False
    if not even:
        parts, source, tensors = sizes, f"{attributes(axis=dim)}(h, sizes)", {"sizes": np.array(sizes)}
    text = f"{', '.join(names)} = Split{source}  t = Concat{attributes(axis=dim)}({', '.join(names[i] for i in order)})"

    def run(p: Any, h: Tensor) -> Tensor:
        pieces = h.split(parts, dim)
        return torch.cat([pieces[i] for i in order], dim).cos()

    return drawn([h], f"{text}  r = Cos(t)", run, **tensors)


@st.composite
def sliced(draw: Draw, h: Shape, axis: int, dim: int) -> Drawn:
    size, step = h[axis - 1], draw(st.sampled_from([1, 1, 1, 2]))
    start = draw(st.integers(0, size - 1))
    end = draw(st.integers(start + 1, size))
    first = start - size if draw(st.booleans()) else start
    last = draw(st.sampled_from([LARGE, end])) if end == size else draw(st.sampled_from([end, end - size]))
    bounds = {name: np.array([n]) for name, n in {"s": first, "e": last, "a": dim, "d": step}.items()}
    where = tuple([slice(None)] * axis + [slice(first, last, step)])
    whole = draw(st.booleans())
    if not whole or end - start > 1 or step > 1:
        return drawn([h], "t = Slice(h, s, e, a, d)  r = Cos(t)", lambda p, h: h[where].cos(), **bounds)
    text = "t = Slice(h, s, e, a, d)  r = Mul(t, h)"
    return drawn([h], text, lambda p, h: h[where] * h, **bounds)


@st.composite
def stacked(draw: Draw) -> Drawn:
    """stack, and unbind in another order."""
    h = shape_of(draw, 1, 3, high=4)
    axis = draw(st.integers(1, len(h) + 1))
    back = draw(st.sampled_from([axis, axis, axis_of(draw, (*h, 2))]))

    def run(p: Any, h: Tensor, g: Tensor) -> Tensor:
        parts = torch.stack([h, g.tanh(), h], axis).unbind(back)
        return torch.stack([parts[-1], parts[0] * parts[-1]], 1)

    return drawn([h, h], None, run)


@st.composite
def repeated(draw: Draw) -> Drawn:
    """repeat, tile and repeat_interleave along any dimensions."""
    h = shape_of(draw, 1, 3, high=4)
    if draw(st.booleans()):
        axis, times = spelled(draw, axis_of(draw, h), h), draw(st.integers(1, 3))
        return drawn([h], None, lambda p, h: h.repeat_interleave(times, axis).cos())
    times = [1, *draw(st.lists(st.integers(1, 3), min_size=len(h), max_size=len(h)))]
    text = "t = Tile(h, n)  r = Cos(t)"
    return drawn([h], text, lambda p, h: h.repeat(times).cos(), n=np.array(times))


@st.composite
def rearranged(draw: Draw) -> Drawn:
    kind = draw(st.sampled_from([shuffled, moved, windowed]))
    return draw(kind())  # type: ignore[no-any-return]


@st.composite
def shuffled(draw: Draw) -> Drawn:
    """Pixels and channels exchange places, in both layouts."""
    b, c, side, groups = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3)), 2
    kind = draw(st.sampled_from(["CRD", "DCR", "space", "channels", "unshuffle"]))
    if kind == "channels":
        return drawn([(groups * c, side, side)], None, lambda p, h: F.channel_shuffle(h, groups).cos())
    if kind == "CRD":
        text = f"t = DepthToSpace{attributes(blocksize=b, mode=kind)}(h)  r = Cos(t)"
        return drawn([(c * b * b, side, 2)], text, lambda p, h: F.pixel_shuffle(h, b).cos())
    if kind == "unshuffle":
        return drawn([(c, side * b, 2 * b)], None, lambda p, h: F.pixel_unshuffle(h, b).cos())
    if kind == "DCR":
        text = f"r = DepthToSpace{attributes(blocksize=b)}(h)"
        return drawn([(c * b * b, side, 2)], text, lambda p, h: F.pixel_shuffle(h, b), only_onnx=True)
    text = f"r = SpaceToDepth{attributes(blocksize=b)}(h)"
    return drawn([(c, side * b, 2 * b)], text, lambda p, h: F.pixel_unshuffle(h, b), only_onnx=True)


@st.composite
def moved(draw: Draw) -> Drawn:
    """roll, flip, cumsum, diff, softmax, padding, along any dimension."""
    h = shape_of(draw, 2, 3, high=4)
    axis = axis_of(draw, h)
    dim = spelled(draw, axis, h)
    amounts = [0] * (2 * len(h) + 2)
    amounts[axis], amounts[axis + len(h) + 1] = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    sides = [n for i in range(len(h), 0, -1) for n in (amounts[i], amounts[i + len(h) + 1])]
    filling = draw(st.sampled_from([0.0, 0.5]))
    many = [axis, draw(st.sampled_from([i for i in range(1, len(h) + 1) if i != axis]))]
    text, run, tensors = draw(
        st.sampled_from(
            [
                (None, lambda p, h: h.roll(1, dim).cos(), {}),
                (None, lambda p, h: h.roll((1, 2), many).cos(), {}),
                (None, lambda p, h: h.flip(many).cos(), {}),
                (None, lambda p, h: h.diff(dim=dim).cos(), {}),
                (None, lambda p, h: h.tril(1).cos(), {}),
                ("r = CumSum(h, axis)", lambda p, h: h.cumsum(dim), {"axis": np.array(dim)}),
                (f"r = Softmax{attributes(axis=dim)}(h)", lambda p, h: h.softmax(dim), {}),
                (
                    "t = Pad(h, pads, filling)  r = Cos(t)",
                    lambda p, h: F.pad(h, sides, value=filling).cos(),
                    {"pads": np.array(amounts), "filling": np.array(filling, np.float32)},
                ),
            ]
        )
    )
    return drawn([h], text, run, **tensors)


@st.composite
def windowed(draw: Draw) -> Drawn:
    """unfold, as columns and as a view of windows; fold."""
    c, side, kernel, stride = draw(st.integers(1, 4)), 4, draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, kernel // 2))
    options: dict[str, Any] = {"padding": padding, "stride": stride}
    kind = draw(st.sampled_from(["columns", "fold", "windows"]))
    if kind == "columns":
        return drawn([(c, side, side)], None, lambda p, h: F.unfold(h, kernel, **options).cos())
    if kind == "fold":
        count = ((side + 2 * padding - kernel) // stride + 1) ** 2
        h = (c * kernel * kernel, count)
        return drawn([h], None, lambda p, h: F.fold(h, side, kernel, **options).cos())
    h = shape_of(draw, 1, 3, 3, 4)
    axis = axis_of(draw, h)
    return drawn([h], None, lambda p, h: h.unfold(axis, kernel, stride).cos())


@st.composite
def picked(draw: Draw) -> Drawn:
    """gather, index_select and indexing by stored positions; an embedding by what is largest."""
    h = shape_of(draw, 1, 3, high=4)
    axis = axis_of(draw, h)
    dim = spelled(draw, axis, h)
    picks = draw(st.lists(st.integers(0, h[axis - 1] - 1), min_size=1, max_size=4))
    kind = draw(st.sampled_from(["select", "index", "scalar", "embedding", "elements"]))
    where = tuple([slice(None)] * axis)
    if kind == "scalar":
        text = f"t = Gather{attributes(axis=dim)}(h, i)  r = Cos(t)"
        return drawn([(*h, 2)], text.replace(f"axis={dim}", f"axis={axis}"), lambda p, h: h.select(axis, picks[0]).cos(), i=np.array(picks[0]))
    if kind == "embedding":
        text = f"t = ArgMax{attributes(axis=dim, keepdims=False)}(h)  r = Gather(table, t)"
        table = (h[axis - 1], 4)
        return drawn([h], text, lambda p, h: F.embedding(h.argmax(dim), p.table), table=table)
    if kind == "elements":
        return drawn([h], None, lambda p, h: h.gather(dim, h.argsort(dim)).cos())
    text = f"t = Gather{attributes(axis=dim)}(h, i)  r = Cos(t)"
    if kind == "select":
        return drawn([h], text, lambda p, h: h.index_select(dim, p.i).cos(), i=np.array(picks))
    return drawn([h], text, lambda p, h: h[(*where, p.i)].cos(), i=np.array(picks))


@st.composite
def indexing(draw: Draw) -> Drawn:
    """Sorting and writing to positions."""
    h = shape_of(draw, 2, 3, high=4)
    axis = axis_of(draw, h)
    dim, size = spelled(draw, axis, h), h[axis - 1]
    picks = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True))
    count, where = len(picks), tuple([slice(None)] * axis)
    positions = np.array(picks)

    def narrow(v: Tensor) -> Tensor:
        return v.narrow(axis, 0, count)

    run = draw(
        st.sampled_from(
            [
                lambda p, h, g: h.topk(count, dim)[0] * narrow(g),
                lambda p, h, g: h.sort(dim)[0] * g,
                lambda p, h, g: h.index_add(dim, p.i, narrow(g)),
                lambda p, h, g: h.index_copy(dim, p.i, narrow(g)),
                lambda p, h, g: h.scatter(dim, h.argsort(dim), g),
                lambda p, h, g: h.scatter_add(dim, h.argsort(dim), g),
                lambda p, h, g: torch.slice_scatter(h, narrow(g), axis, 0, count),
                lambda p, h, g: h.cos().index_put((*([None] * axis), p.i), narrow(g)) if axis < 0 else h[(*where, p.i)] * narrow(g),
            ]
        )
    )
    return drawn([h, h], None, run, i=positions)
