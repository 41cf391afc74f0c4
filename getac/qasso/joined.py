"""Many small tensors as one: a call for each of them would cost more than its arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["join", "part"]


def join(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of their numbers, one tensor after the other; shape (numbers,).

    Args:
        tensors: At least one; of one device.
    """
    if all(one.ndim == 1 for one in tensors):
        return torch.cat(tensors)  # type: ignore[arg-type]  # any sequence will do
    joined: Tensor = torch.ops.aten.flatten_dense_tensors.default(tensors)
    return joined


def part(numbers: Tensor, tensors: list[Tensor]) -> None:
    """Writes joined numbers back into their tensors."""
    torch._foreach_copy_(tensors, torch.ops.aten.unflatten_dense_tensors.default(numbers, tensors))
