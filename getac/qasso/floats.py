"""A warm-up in floats: quantizers are left out, and start with the ranges that its last step has shown."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Literal

import torch
from torch import Tensor, fx

from getac.kernels import ahead
from getac.qasso.projection import reach_of
from getac.training.observation import estimator_of, greatest, magnitude_of, magnitudes, stored_value
from getac.training.quantizers import PlacedQuantizer, find_quantizers
from getac.training.state import state_of

__all__ = ["FloatWarmUp", "QuantizeFrom"]

QuantizeFrom = Literal["warm-up", "projection"]


class FloatWarmUp:
    """From now on a module computes without its quantizers, whoever calls it.

    Args:
        module: From `getac.prepare`.

    Attributes:
        observing: Whether training (in training mode, with gradients) decides the ranges of activations now.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.observing = False
        self._module = weakref.ref(module)  # `ahead` holds this as long as the module is there
        self._has_trained = False
        self.forget()
        for one in find_quantizers(module):
            ahead.leave_out(one.q_m, partial(self._see, one.name))

    def forget(self) -> None:
        """Nothing of a step that was refused decides ranges."""
        module = self._module()
        assert module is not None
        state, seen = state_of(module), {one.name for one in find_quantizers(module) if not one.of_weight}
        chosen = [one for one in state.insertions if one.name in seen]
        self._estimators = {one.name: estimator_of(state.ranges, one) for one in chosen}

    def _see(self, name: str, x: Tensor) -> None:
        module = self._module()
        if module is None or not module.training or not torch.is_grad_enabled():
            return  # a validation in between
        self._has_trained = True
        if self.observing and name in self._estimators:
            self._estimators[name].update(magnitudes(x))

    def detach(self) -> None:
        """Puts the quantizers back as they were."""
        module = self._module()
        for one in find_quantizers(module) if module is not None else ():
            ahead.put_back(one.q_m)

    @torch.no_grad()
    def end(self) -> None:
        """Puts the quantizers back, at their most bits, with ranges of what they have to round by now.

        Those of weights are the weights' own, those of activations are chosen as in `getac.prepare`. Without
        a training step nothing has changed, and all stay.
        """
        self.detach()
        module = self._module()
        if module is None or not self._has_trained:
            return
        for one in find_quantizers(module):
            maximum = self._maximum(module, one)
            is_good = maximum.isfinite() & (maximum > 0)
            if is_good.any():
                one.q_m.copy_(torch.where(is_good, maximum, one.q_m))
                one.d.copy_(reach_of(one) / one.bits.top(one.bits.most))

    def _maximum(self, module: fx.GraphModule, quantizer: PlacedQuantizer) -> Tensor:
        """0 where nothing was seen."""
        if quantizer.of_weight:
            maximum = greatest(stored_value(module, quantizer.x), quantizer.axis)
        else:
            maximum = magnitude_of(self._estimators[quantizer.name])
        return maximum.to(quantizer.q_m)
