"""What a training has reached so far, for loggers and for the live line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import fx

from getac.axes.analysis import Analysis
from getac.axes.axis import Axis, Mask
from getac.axes.costs import meter_of
from getac.axes.meter import Cost
from getac.fx_graph.view import FxView
from getac.qasso.position import Position
from getac.qasso.schedule import Stage
from getac.qasso.units import UnitTable
from getac.quantizer import Quantizer
from getac.training.quantizers import PlacedQuantizer, find_quantizers

__all__ = ["Metrics", "cost_of", "measure"]


@dataclass(frozen=True)
class Metrics:
    """A moment of a training.

    Args:
        step: How many steps are done.
        stage: warm-up, projection, joint or cool-down.
        sparsity: The share of all prunable units that are zero or removed.
        goal: The share that is in the end: as near to what was asked for as alignment lets it.
        units: How many units are left.
        weight_bits: The mean number of bits of quantized weights, each weight counted once; None: there are
            none. In the joint stage, units that are being forgotten have few: the mean rises as they leave.
        activation_bits: The mean over the quantizers of activations; likewise.
        parameters: Relative to the model at the start; the others likewise.
        macs: Multiply-accumulates.
        bops: Bit operations, MACs x bits x bits, relative to the model at the start in 32 bits.
    """

    step: int
    stage: str
    sparsity: float
    goal: float
    units: int
    weight_bits: float | None
    activation_bits: float | None
    parameters: float
    macs: float
    bops: float


def measure(module: fx.GraphModule, table: UnitTable, position: Position, stage: Stage) -> Metrics:
    """Looks at a module and its quantizers as they are.

    Args:
        table: The units of the module.
        stage: That of the last step.
    """
    quantizers = find_quantizers(module)
    bits = numbers_of_bits(quantizers)
    keep = table.keep(position.gone.nonzero()[:, 0])
    masks = {one.atom: keep[one.name] for one in table.classes if one.name in keep}
    cost, dense, units = cost_of(table.analysis, masks, bits), position.dense, max(position.units, 1)
    return Metrics(
        step=position.step,
        stage=stage.value,
        sparsity=position.zero / units,
        goal=position.goal / units,
        units=position.units - position.zero,
        weight_bits=mean_of(bits, quantizers, weights=True),
        activation_bits=mean_of(bits, quantizers, weights=False),
        parameters=cost.parameters / max(dense.parameters, 1),
        macs=cost.macs / max(dense.macs, 1),
        bops=cost.bops / max(dense.bops, 1),
    )


def cost_of(analysis: Analysis, masks: Mapping[Axis, Mask], bits: Mapping[str, float] | None) -> Cost:
    """What a module costs per sample without the units that the masks drop.

    Args:
        bits: Name of a quantizer -> its number of bits; None: all count as floats.
    """
    view = analysis.view
    assert isinstance(view, FxView)
    records = (
        {value: lattice_of(one, round(bits[one.name])) for value, one in view.quantizers.items()}
        if bits
        else {}
    )
    return meter_of(replace(analysis, quantizers=records), masks).total()


def lattice_of(quantizer: PlacedQuantizer, bits: int) -> Quantizer:
    high = int(quantizer.bits.top(bits))
    return Quantizer(np.ones((), np.float32), -high if quantizer.bits.signed else 0, high)


def numbers_of_bits(quantizers: Sequence[PlacedQuantizer]) -> dict[str, float]:
    """Name of a quantizer -> the mean over its steps; waits for the device once.

    Counted on the lattice that is really used: in warm-up d may be anything.
    """
    if not quantizers:
        return {}
    tops = [torch.as_tensor(one.lattice().top, device=one.d.device) for one in quantizers]
    means = torch.stack([top.double().add(1).log2().mean() for top in tops]).tolist()
    return {one.name: mean + one.bits.signed for one, mean in zip(quantizers, means, strict=True)}


def mean_of(bits: Mapping[str, float], quantizers: Sequence[PlacedQuantizer], weights: bool) -> float | None:
    """The mean number of bits of the weights, by their sizes; or of the activations."""
    chosen = [one for one in quantizers if one.of_weight == weights]
    sizes = [one.x.meta["val"].numel() if weights else 1 for one in chosen]
    total = sum(bits[one.name] * size for one, size in zip(chosen, sizes, strict=True))
    return total / sum(sizes) if sizes else None
