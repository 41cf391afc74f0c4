"""Stops a training before a gradient that is not finite spoils it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from getac.errors import GetacError
from getac.qasso.schedule import Stage
from getac.training.gradients import check_gradients

__all__ = ["check_finite"]


def check_finite(module: nn.Module, params: Iterable[Tensor], step: int, stage: Stage) -> None:
    """Waits for the device once; only if something is wrong it looks for the layer.

    Raises:
        GetacError: A gradient is NaN or infinite; names the step and the layer.
    """
    gradients = [one.grad for one in params if one.grad is not None]
    if all(finite_on_each_device(gradients)):
        return
    try:
        check_gradients(module)
    except GetacError as error:
        raise GetacError(
            f"a gradient is not finite in step {step} ({stage.value})",
            where=error.where,
            required=error.required,
            found=f"{error.found}; parameters and quantizers are as they were before the step",
            hint=error.hint,
        ) from error


def finite_on_each_device(gradients: Iterable[Tensor]) -> list[bool]:
    by_device: dict[torch.device, list[Tensor]] = {}
    for gradient in gradients:
        numbers = gradient.coalesce().values() if gradient.is_sparse else gradient
        by_device.setdefault(numbers.device, []).append(numbers)
    largest = [torch._foreach_norm(found, torch.inf) for found in by_device.values()]
    return [bool(torch.stack([one.float() for one in found]).isfinite().all()) for found in largest]
