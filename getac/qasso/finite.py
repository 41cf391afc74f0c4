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
    """Waits for the device once, for one sum per parameter: only if one is wrong it looks for the layer.

    Raises:
        GetacError: A gradient is NaN or infinite; names the step and the layer.
    """
    gradients = [one.grad for one in params if one.grad is not None]
    if all(finite_on_each_device(gradients)):
        return
    try:
        check_gradients(module)  # it says nothing where large numbers have only added up to infinity
    except GetacError as error:
        raise GetacError(
            f"a gradient is not finite in step {step} ({stage.value})",
            where=error.where,
            required=error.required,
            found=f"{error.found}; parameters and quantizers are as they were before the step",
            hint=error.hint,
        ) from error


def finite_on_each_device(gradients: Iterable[Tensor]) -> list[bool]:
    """Whether all sums are finite: NaN and infinities never leave a sum."""
    sums: dict[torch.device, list[Tensor]] = {}
    for gradient in gradients:
        numbers = gradient.coalesce().values() if gradient.is_sparse else gradient
        sums.setdefault(numbers.device, []).append(numbers.sum(dtype=torch.float32))
    return [bool(torch.stack(found).isfinite().all()) for found in sums.values()]
