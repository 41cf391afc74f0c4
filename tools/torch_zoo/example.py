"""What an entry of the PyTorch zoo is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

__all__ = ["BATCH", "Example"]

BATCH = 2


@dataclass(frozen=True)
class Example:
    """A model with random weights, and inputs of batch size `BATCH` for it."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self, batch: int = BATCH) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs at another batch size: their rows, in turn."""
        rows = torch.arange(batch) % BATCH

        def resized(value: Any) -> Any:
            is_batched = isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == BATCH
            return value[rows] if is_batched else value

        args, kwargs = pytree.tree_map(resized, (self.args, dict(self.kwargs)))
        return args, kwargs
