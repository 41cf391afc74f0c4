"""A saliency that knows what units cost in bit operations."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from getac.axes.costs import costs_of
from getac.fx_graph.view import FxView
from getac.qasso.metrics import lattice_of
from getac.qasso.saliency import Saliency, score_units
from getac.qasso.units import UnitTable

__all__ = ["per_bops"]


def per_bops(exponent: float, saliency: str = "mixed") -> Saliency:
    """A saliency over (the bit operations that the unit saves)^exponent, at the most bits allowed by now.

    With an exponent of 1 whole layers would go, because nothing else is as cheap. Products of two
    activations count 32 x 32, since they stay in floats: heads cost the most.
    """

    def score(table: UnitTable, _: nn.Module) -> Tensor:
        scores = score_units(table, saliency)
        view = table.analysis.view
        assert isinstance(view, FxView)
        records = {value: lattice_of(one, round(one.bits.most)) for value, one in view.quantizers.items()}
        costs = costs_of(replace(table.analysis, quantizers=records)).classes
        saved = torch.tensor([float(costs[one.name].bops) for one in table.classes]).to(scores)
        return scores / saved.pow(exponent)[table.class_of]

    return score
