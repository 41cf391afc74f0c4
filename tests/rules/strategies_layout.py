"""Strategies for the rules that lay out, cut and join."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.rules.strategies import Draw, Drawn, Shape, attributes, axis_of, drawn, shape_of, spelled

__all__ = ["concat", "cut", "flattened", "layout", "stacked"]

LARGE = 2**63 - 1


@st.composite
def factored(draw: Draw, shape: Sequence[int]) -> Shape:
    """Another shape of as many numbers: neighbours merged, or factors in any order, fitting or not."""
    if len(shape) > 1 and draw(st.booleans()):
        first = draw(st.integers(0, len(shape) - 2))
        last = draw(st.integers(first + 2, len(shape)))
        return (*shape[:first], prod(shape[first:last]), *shape[last:])
    rest, made = prod(shape), list[int]()
    while rest > 1 and len(made) < 3:
        made.append(draw(st.sampled_from([d for d in range(2, rest + 1) if rest % d == 0])))
        rest //= made[-1]
    return (*made, rest) if rest > 1 else tuple(made)


def reshaped(v: Tensor, target: Sequence[int]) -> Tensor:
    """ONNX's zero copies a size."""
    return v.reshape(target[0] or v.shape[0], *target[1:])


@st.composite
def layout(draw: Draw) -> Drawn:
    """A chain of reshapes and transposes, spelled in the ways that exporters know."""
    shape = h = shape_of(draw, 1, 3, high=6)
    lines, steps, tensors = list[str](), list[Callable[[Tensor], Tensor]](), dict[str, Any]()
    for i in range(draw(st.integers(1, 4))):
        name, result = (f"v{i - 1}" if i else "h"), f"v{i}"
        if len(shape) > 1 and draw(st.booleans()):
            order = [0, *(j + 1 for j in draw(st.permutations(range(len(shape)))))]
            shape = tuple(shape[j - 1] for j in order[1:])
            lines.append(f"{result} = Transpose<perm={order}>({name})")
            steps.append(partial(torch.permute, dims=order))
        else:
            shape = draw(factored(shape))
            target = [-1, *shape] if draw(st.booleans()) else [0, *shape]
            if target[0] == 0:
                target[draw(st.integers(1, len(shape)))] = -1
            tensors[f"s{i}"] = np.array(target)
            lines.append(f"{result} = Reshape({name}, s{i})")
            steps.append(partial(reshaped, target=target))

    def run(p: Any, v: Tensor) -> Tensor:
        for step in steps:
            v = step(v)
        return torch.mul(v, p.scale)

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
        return (t.expand(t.shape[0], *(n if n > 1 else -1 for n in wide[1:])) * p.p).flatten(1)  # type: ignore[no-any-return]

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
    sizes = draw(
        st.sampled_from([[1, size - 1], [size - 1, 1], [1, 1, size - 2], [size // 2, size - size // 2]])
    )
    order = draw(st.permutations(range(len(sizes))))[: draw(st.integers(1, len(sizes)))]
    names = [f"p{i}" for i in range(len(sizes))]
    even, tensors = draw(st.booleans()), {}
    if even:
        parts, source = -(-size // len(sizes)), f"{attributes(axis=dim, num_outputs=len(sizes))}(h)"
        if -(-size // parts) != len(sizes):
            even = False
    if not even:
        parts, source, tensors = sizes, f"{attributes(axis=dim)}(h, sizes)", {"sizes": np.array(sizes)}
    joined = f"Concat{attributes(axis=dim)}({', '.join(names[i] for i in order)})"
    text = f"{', '.join(names)} = Split{source}  t = {joined}"

    def run(p: Any, h: Tensor) -> Tensor:
        pieces = torch.split(h, parts, dim)
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
