"""Memory for what is computed in between: fresh memory for every step would cost more than the arithmetic."""

from __future__ import annotations

from collections.abc import Hashable
from math import prod

from torch import Tensor

__all__ = ["Scratch"]


class Scratch:
    """Memory that is taken once, and used again from then on: it stays in the cache."""

    def __init__(self) -> None:
        self._memory: dict[Hashable, Tensor] = {}
        self._views: dict[Hashable, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A contiguous tensor; its numbers stay until memory is taken under the same name again."""
        key = name, like.dtype, like.device
        view = self._views.get((key, shape))
        if view is None:
            memory, count = self._memory.get(key), prod(shape)
            if memory is None or memory.numel() < count:
                memory = self._memory[key] = like.new_empty(count)
            view = self._views[key, shape] = memory[:count].view(shape)
        return view
