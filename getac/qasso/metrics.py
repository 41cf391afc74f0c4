"""What a training has reached so far, for loggers and for the live line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import fx

from getac.axes.analysis import Analysis
from getac.axes.axis import Axis, Mask
from getac.axes.costs import meter_of
from getac.axes.meter import Cost
from getac.fx_graph.view import FxView
from getac.qasso.bounds import mean_bits
from getac.quantizer import Quantizer
from getac.training.quantizers import PlacedQuantizer, find_quantizers

__all__ = ["Metrics", "cost_of", "mean_bits_of"]


@dataclass(frozen=True)
class Metrics:
    """A moment of a training.

    Args:
        step: How many steps are done.
        stage: warm-up, projection, joint or cool-down.
        sparsity: The share of all prunable units that are zero or removed.
        units: How many units are left.
        weight_bits: The mean number of bits of quantized weights, each weight counted once; None: there are
            none.
        activation_bits: The mean over the quantizers of activations; likewise.
        parameters: Relative to the model at the start; the others likewise.
        macs: Multiply-accumulates.
        bops: Bit operations, MACs x bits x bits, relative to the model at the start in 32 bits.
    """

    step: int
    stage: str
    sparsity: float
    units: int
    weight_bits: float | None
    activation_bits: float | None
    parameters: float
    macs: float
    bops: float


def cost_of(analysis: Analysis, masks: Mapping[Axis, Mask], rounded: bool = True) -> Cost:
    """What a module costs per sample without the units that the masks drop.

    Args:
        rounded: Whether quantizers count with their bits; otherwise all count as floats.
    """
    view = analysis.view
    assert isinstance(view, FxView)
    records = records_of(view) if rounded else {}
    return meter_of(replace(analysis, quantizers=records), masks).total()


def records_of(view: FxView) -> dict[Any, Quantizer]:
    """Value -> a lattice of as many bits as its quantizer has, to the next whole number."""
    bits = mean_bits(list(view.quantizers.values()))
    pairs = zip(view.quantizers.items(), bits, strict=True)
    return {value: lattice_of(one, round(number)) for (value, one), number in pairs}


def lattice_of(quantizer: PlacedQuantizer, bits: int) -> Quantizer:
    high = int(quantizer.bits.top(bits))
    return Quantizer(np.ones((), np.float32), -high if quantizer.bits.signed else 0, high)


def mean_bits_of(module: fx.GraphModule) -> tuple[float | None, float | None]:
    """The mean number of bits of weights, and of activations."""
    quantizers = find_quantizers(module)
    pairs = list(zip(quantizers, mean_bits(quantizers), strict=True))
    weights = [(bits, one.x.meta["val"].numel()) for one, bits in pairs if one.of_weight]
    activations = [(bits, 1) for one, bits in pairs if not one.of_weight]
    return weighted(weights), weighted(activations)


def weighted(pairs: Sequence[tuple[float, int]]) -> float | None:
    total = sum(count for _, count in pairs)
    return sum(value * count for value, count in pairs) / total if total else None
