"""Quantizes a module's small weights together, right before its forward pass asks for each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from getac.kernels import ahead
from getac.kernels.fake_quantize import Bits, is_direct
from getac.kernels.together import quantize_together
from getac.training.quantizers import PlacedQuantizer, find_quantizers

__all__ = ["SmallWeights"]

SMALL = 1 << 15  # elements of a weight, at most
SHARED = 1 << 17  # of all that are quantized at once: they stay in the cache


class Group(NamedTuple):
    """Weights whose rows are equally long, and what quantizes them."""

    weights: Sequence[Tensor]
    d: Sequence[Tensor]
    q_m: Sequence[Tensor]
    bits: Bits


class SmallWeights:
    """While it is attached to a module, a training forward pass quantizes small weights together.

    What the module computes stays the same: whatever does not fit the calls of its graph is not used.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.groups = [group for same in alike(module) for group in packed(same)]
        self._handles = [
            module.register_forward_pre_hook(self._quantize),
            module.register_forward_hook(forget, always_call=True),
        ]

    def detach(self) -> None:
        """Leaves the module as it was."""
        for one in self._handles:
            one.remove()

    def _quantize(self, module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        ahead.clear()  # a pass that was interrupted may have left results
        for group in self.groups if torch.is_grad_enabled() else ():
            if ahead.leaves_out(group.q_m[0]) or not is_direct(group.weights[0]):
                return
            results = quantize_together(*group)
            for *tensors, result in zip(group.weights, group.d, group.q_m, results, strict=True):
                ahead.put(tensors, (0, *group.bits), result)


def forget(module: nn.Module, inputs: Any, outputs: Any) -> None:
    ahead.clear()


def alike(module: fx.GraphModule) -> Iterable[list[tuple[Tensor, PlacedQuantizer]]]:
    """Weights, with their quantizers, that can be quantized by one call."""
    found: dict[Any, list[tuple[Tensor, PlacedQuantizer]]] = {}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for one in find_quantizers(module):
        weight = parameters.get(str(one.x.target)) if fits(one) else None
        if weight is not None and is_small(weight):
            key = weight[0].numel(), weight.dtype, weight.device, one.d.dtype, one.bits
            found.setdefault(key, []).append((weight, one))
    return found.values()


def fits(quantizer: PlacedQuantizer) -> bool:
    """Whether it has a step for each row of a stored tensor, and no exponent."""
    is_plain = quantizer.node.args[3] is None and quantizer.d.requires_grad
    return is_plain and quantizer.x.op == "get_attr" and quantizer.axis == 0 and quantizer.d.ndim == 1


def is_small(weight: Tensor) -> bool:
    return weight.requires_grad and weight.is_contiguous() and weight.numel() <= SMALL


def packed(several: Sequence[tuple[Tensor, PlacedQuantizer]]) -> Iterator[Group]:
    """Groups of two at least, which are small together."""
    chosen: list[tuple[Tensor, PlacedQuantizer]] = []
    for one in [*several, None]:
        if one is None or sum(weight.numel() for weight, _ in [*chosen, one]) > SHARED:
            if len(chosen) > 1:
                weights, quantizers = zip(*chosen, strict=True)
                yield Group(
                    weights, [q.d for q in quantizers], [q.q_m for q in quantizers], quantizers[0].bits
                )
            chosen = []
        if one is not None:
            chosen.append(one)
