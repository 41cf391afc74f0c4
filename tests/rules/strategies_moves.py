"""Strategies for the rules that repeat, rearrange and index."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.rules.strategies import Draw, Drawn, attributes, axis_of, drawn, shape_of, spelled

__all__ = ["indexing", "picked", "rearranged", "repeated"]


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
        return replace(drawn([(c * b * b, side, 2)], text, lambda p, h: F.pixel_shuffle(h, b)), call=None)
    text = f"r = SpaceToDepth{attributes(blocksize=b)}(h)"
    return replace(drawn([(c, side * b, 2 * b)], text, lambda p, h: F.pixel_unshuffle(h, b)), call=None)


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
        return drawn(
            [(c * kernel * kernel, count)], None, lambda p, h: F.fold(h, side, kernel, **options).cos()
        )
    h = shape_of(draw, 1, 3, 3, 4)
    axis = axis_of(draw, h)
    return drawn([h], None, lambda p, h: h.unfold(axis, kernel, stride).cos())


def at(axis: int, positions: Tensor) -> tuple[Any, ...]:
    """An index of positions along one dimension."""
    return (*[slice(None)] * axis, positions)


@st.composite
def picked(draw: Draw) -> Drawn:
    """gather, index_select and indexing by stored positions; an embedding by what is largest."""
    h = shape_of(draw, 1, 3, high=4)
    axis = axis_of(draw, h)
    dim = spelled(draw, axis, h)
    picks = draw(st.lists(st.integers(0, h[axis - 1] - 1), min_size=1, max_size=4))
    kind = draw(st.sampled_from(["select", "index", "scalar", "embedding", "elements"]))
    if kind == "scalar":
        text, one = f"t = Gather{attributes(axis=axis)}(h, i)  r = Cos(t)", np.array(picks[0])
        return drawn([(*h, 2)], text, lambda p, h: h.select(axis, picks[0]).cos(), i=one)
    if kind == "embedding":
        text = f"t = ArgMax{attributes(axis=dim, keepdims=False)}(h)  r = Gather(table, t)"
        table = (h[axis - 1], 4)
        return drawn([h], text, lambda p, h: F.embedding(h.argmax(dim), p.table), table=table)
    if kind == "elements":
        return drawn([h], None, lambda p, h: h.gather(dim, h.argsort(dim)).cos())
    text = f"t = Gather{attributes(axis=dim)}(h, i)  r = Cos(t)"
    if kind == "select":
        return drawn([h], text, lambda p, h: h.index_select(dim, p.i).cos(), i=np.array(picks))
    return drawn([h], text, lambda p, h: h[at(axis, p.i)].cos(), i=np.array(picks))


@st.composite
def indexing(draw: Draw) -> Drawn:
    """Sorting and writing to positions."""
    h = shape_of(draw, 2, 3, high=4)
    axis = axis_of(draw, h)
    dim, size = spelled(draw, axis, h), h[axis - 1]
    picks = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True))
    count = len(picks)
    positions = np.array(picks)

    def narrow(v: Tensor) -> Tensor:
        return v.narrow(axis, 0, count)

    def put(h: Tensor, g: Tensor, i: Tensor) -> Tensor:
        every, last = torch.arange(2), h.transpose(axis, 1)
        return last.index_put((every[:, None], i), g.transpose(axis, 1)[:2]).transpose(axis, 1)

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
                lambda p, h, g: h[at(axis, p.i)] * narrow(g),
                lambda p, h, g: put(h, narrow(g), p.i),
            ]
        )
    )
    return drawn([h, h], None, run, i=positions)
