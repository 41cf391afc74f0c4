"""A warm-up in floats: quantizers are left out, and start with the ranges that its last step has shown."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from getac.kernels import ahead
from getac.qasso.projection import reach_of
from getac.training.quantizers import find_quantizers

__all__ = ["FloatWarmUp", "QuantizeFrom"]

QuantizeFrom = Literal["warm-up", "projection"]


class FloatWarmUp:
    """While it is attached to a module, its forward pass leaves all quantizers out.

    Args:
        module: From `getac.prepare`.

    Attributes:
        observing: Whether the greatest magnitudes that reach the quantizers are noted.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.observing = False
        self._module = module
        self._maxima: dict[int, Tensor] = {}
        self._handles = [
            module.register_forward_pre_hook(self._enter, prepend=True),  # before others quantize ahead
            module.register_forward_hook(leave, always_call=True),
        ]

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if not torch.compiler.is_compiling():  # what is compiled once would stay without quantizers
            ahead.leave_out(self._see)

    @torch.no_grad()
    def _see(self, x: Tensor, q_m: Tensor, axis: int | None) -> None:
        if self.observing:
            others = [i for i in range(x.ndim) if axis is None or i != axis % x.ndim]
            maximum = x.abs().amax(others) if others else x.abs()
            known = self._maxima.get(id(q_m))
            self._maxima[id(q_m)] = maximum if known is None else torch.maximum(known, maximum)

    @torch.no_grad()
    def end(self) -> None:
        """Puts the quantizers back, with ranges that cover what was noted, at their most bits."""
        for one in self._handles:
            one.remove()
        for quantizer in find_quantizers(self._module):
            maximum = self._maxima.get(id(quantizer.q_m))
            if maximum is not None:
                is_good = maximum.isfinite() & (maximum > 0)
                quantizer.q_m.copy_(torch.where(is_good, maximum.to(quantizer.q_m.dtype), quantizer.q_m))
                quantizer.d.copy_(reach_of(quantizer) / quantizer.bits.top(quantizer.bits.most))


def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
    ahead.leave_out(None)
