"""Large tensors in blocks that fit the cache, in the order in which they lie in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor

from .lattice import Lattice

__all__ = ["Scratch", "blocks", "in_memory_order"]

BLOCK = 1 << 18  # elements: what is computed in between stays in the cache, and takes little memory


def in_memory_order(axis: int | None, like: Tensor, *others: Tensor) -> list[Tensor]:
    """Views in the order in which a dense tensor lies in memory: flat, or (outer, the axis, inner)."""
    strides, order = like.stride(), list(range(like.ndim))
    alike = [like, *(one if one.stride() == strides else torch.empty_like(like).copy_(one) for one in others)]
    if not like.is_contiguous():
        order.sort(key=strides.__getitem__, reverse=True)
        alike = [one.permute(order) for one in alike]
    if axis is None:
        return [one.view(-1) for one in alike]
    at, shape = order.index(axis % like.ndim), alike[0].shape
    form = prod(shape[:at]), shape[at], prod(shape[at + 1 :])
    return [one.view(form) for one in alike]


def blocks(on: Lattice, views: Sequence[Tensor]) -> Iterator[tuple[Lattice, Sequence[Tensor]]]:
    """The same parts of all views, each with parameters that broadcast against them.

    Fresh memory for all that is computed in between would cost more time than the arithmetic.
    """
    x = views[0]
    if x.ndim == 1:
        yield from ((on, parts) for parts in cut(views, BLOCK))
    elif len(x) > 1:
        here = on.each(lambda one: one[:, None])
        yield from ((here, parts) for parts in cut(views, BLOCK // x[0].numel()))
    else:
        first = 0
        for parts in cut([one[0] for one in views], BLOCK // x.shape[2]):
            rows = slice(first, first := first + len(parts[0]))
            yield on.each(lambda one, rows=rows: one[rows, None]), parts  # type: ignore[misc]


def cut(views: Sequence[Tensor], size: int) -> Iterator[Sequence[Tensor]]:
    """Parts of at most `size` indices, one at least; other devices than the CPU take all at once."""
    size = max(size, 1)
    if len(views[0]) <= size or views[0].device.type != "cpu":
        return iter([views])
    parts: Iterator[Sequence[Tensor]] = zip(
        *map(partial(torch.split, split_size_or_sections=size), views), strict=True
    )
    return parts


class Scratch:
    """Memory for what is computed in between, taken once for all blocks.

    Args:
        count: How many tensors.
    """

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        self.count, self.dtype = count, dtype
        self.tensors: Sequence[Tensor] = ()

    def like(self, part: Tensor) -> Sequence[Tensor]:
        if not self.tensors or self.tensors[0].shape != part.shape:
            memory = torch.empty((self.count, *part.shape), dtype=self.dtype, device=part.device)
            self.tensors = memory.unbind()
        return self.tensors
