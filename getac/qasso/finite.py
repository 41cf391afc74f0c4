"""Stops a training before a gradient that is not finite spoils it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from getac.errors import GetacError
from getac.qasso.joined import join
from getac.qasso.schedule import Stage
from getac.training.gradients import check_gradients

__all__ = ["GoodBuffers", "check_finite"]

SHORT = 4096  # elements: shorter gradients are added up together


class GoodBuffers:
    """A copy of a module's floating-point buffers: batch norm averages NaN before any gradient shows it."""

    def __init__(self, module: nn.Module) -> None:
        named = [(one._buffers, name) for one in module.modules() for name in one._buffers]
        self._places = [(own, name) for own, name in named if is_float(own[name])]
        self._copies = [one.clone() for one in self._now()]

    def _now(self) -> list[Tensor]:
        """Whatever stands there by now: a module that is moved to a device gets other tensors."""
        return [one for own, name in self._places if (one := own[name]) is not None]

    @torch.no_grad()
    def keep(self) -> None:
        """Takes the numbers as they are now."""
        copy_all(self._copies, self._now())

    @torch.no_grad()
    def put_back(self) -> None:
        """Gives the module the numbers that were kept last."""
        copy_all(self._now(), self._copies)


def is_float(buffer: Tensor | None) -> bool:
    return buffer is not None and buffer.is_floating_point()


def copy_all(into: list[Tensor], numbers: list[Tensor]) -> None:
    if into:
        torch._foreach_copy_(into, numbers)


def check_finite(
    module: nn.Module, params: Iterable[Tensor], step: int, stage: Stage, buffers: GoodBuffers
) -> None:
    """Waits for the device once, for one sum per parameter: only if one is wrong it looks for the layer.

    Args:
        buffers: They are kept if all is well, and put back otherwise.

    Raises:
        GetacError: A gradient is NaN or infinite; names the step and the layer.
    """
    gradients = [gradient for one in params if (gradient := one.grad) is not None]
    if all(finite_on_each_device(gradients)):
        buffers.keep()
        return
    try:
        check_gradients(module)  # it says nothing where large numbers have only added up to infinity
        buffers.keep()
    except GetacError as error:
        buffers.put_back()
        raise GetacError(
            f"a gradient is not finite in step {step} ({stage.value})",
            where=error.where,
            required=error.required,
            found=f"{error.found}; parameters, quantizers and running statistics are as they were after the"
            " last good step",
            hint=error.hint,
        ) from error


def finite_on_each_device(gradients: Iterable[Tensor]) -> list[bool]:
    """Whether all sums are finite: NaN and infinities never leave a sum."""
    found: dict[torch.device, list[Tensor]] = {}
    for gradient in gradients:
        numbers = gradient.coalesce().values() if gradient.is_sparse else gradient
        found.setdefault(numbers.device, []).append(numbers)
    return [bool(torch.stack(sums_of(several)).isfinite().all()) for several in found.values()]


def sums_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum of each long one, that of all short vectors, and that of all else that is short."""
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for one in tensors:
        parts[0 if one.numel() > SHORT else 1 if one.ndim == 1 else 2].append(one)  # vectors join quickly
    joined = [join(short) for short in parts[1:] if short]
    return [one.sum(dtype=torch.float32) for one in (*parts[0], *joined)]
