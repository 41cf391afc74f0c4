"""What an entry of the PyTorch zoo is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["BATCH", "Example"]

BATCH = 2


@dataclass(frozen=True)
class Example:
    """A model with random weights, and inputs of batch size `BATCH` for it.

    Every tensor among the inputs begins with the batch.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
