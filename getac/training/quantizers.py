"""The quantizers of a captured module: calls of `getac::fake_quantize`, and their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from getac.fx_graph.reader import CallReader
from getac.kernels.fake_quantize import Bits, Lattice, lattice
from getac.quantizer import Quantizer

__all__ = ["FakeQuantizer", "PlacedQuantizer", "find_quantizers", "is_quantizer", "is_stored", "place"]


class FakeQuantizer(nn.Module):
    """Holds the parameters of one quantizer; the graph reads them and calls the operator.

    Args:
        maximum: The greatest |x| to cover: shape () or (channels,).
        bits: What bounds the step; it starts at the greatest number of bits.
        exponent: Whether there is an exponent that learns; it starts at 1.
    """

    def __init__(self, maximum: Tensor, bits: Bits, exponent: bool = False) -> None:
        super().__init__()
        q_m = torch.where(maximum > 0, maximum.detach().float(), 1.0)  # all zeros: any range does
        self.d = nn.Parameter(q_m / bits.top(bits.most))
        self.q_m = nn.Parameter(q_m.clone())
        if exponent:
            self.t = nn.Parameter(torch.ones((), device=q_m.device))


@dataclass(frozen=True)
class PlacedQuantizer:
    """A quantizer in a graph.

    Args:
        node: The call.
        name: Where its parameters are: `name.d`, `name.q_m`, and `name.t` where an exponent learns.
        t: The exponent; the number 1 where none learns.
        axis: The dimension that has a step and a range of its own per index.
        bits: Its bounds.
    """

    node: fx.Node
    name: str
    d: nn.Parameter
    q_m: nn.Parameter
    t: Tensor
    axis: int | None
    bits: Bits

    @property
    def x(self) -> fx.Node:
        """What it quantizes."""
        x = self.node.args[0]
        assert isinstance(x, fx.Node)
        return x

    @property
    def of_weight(self) -> bool:
        """Whether it quantizes a stored tensor, or what is computed from stored tensors alone."""
        return is_stored(self.x)

    @torch.no_grad()
    def lattice(self) -> Lattice:
        """The parameters that it really uses."""
        return lattice(self.d, self.q_m, self.t, self.bits)

    @torch.no_grad()
    def number_of_bits(self) -> float:
        """b = log2(q_m^t / d + 1) + 1 (one less without a sign); the greatest of all channels."""
        top = torch.as_tensor(self.lattice().top).max().item()
        return float(np.log2(top + 1) + self.bits.signed)

    def record(self) -> Quantizer:
        """The lattice of its outputs: integers times d."""
        on = self.lattice()
        high = int(torch.as_tensor(on.top).round().max().item())
        return Quantizer(on.d.cpu().numpy(), -high if self.bits.signed else 0, high, self.axis)


def is_stored(value: fx.Node) -> bool:
    """Whether a value is a stored tensor, or computed from stored tensors alone."""
    if value.op == "call_function":
        return bool(value.all_input_nodes) and all(map(is_stored, value.all_input_nodes))
    return value.op == "get_attr"


def is_quantizer(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is torch.ops.getac.fake_quantize.default


def find_quantizers(module: fx.GraphModule) -> Sequence[PlacedQuantizer]:
    """All quantizers, in the order of the graph."""
    return [place(module, node) for node in module.graph.nodes if is_quantizer(node)]


def place(module: fx.GraphModule, node: fx.Node) -> PlacedQuantizer:
    """The quantizer that a node calls."""
    arguments = CallReader(node).arguments
    name = str(arguments["d"].target).rpartition(".")[0]
    d, q_m = (module.get_parameter(str(arguments[one].target)) for one in ("d", "q_m"))
    exponent = arguments["t"]
    t = d.new_ones(()) if exponent is None else module.get_parameter(str(exponent.target))
    bits = Bits(arguments["signed"], arguments["least_bits"], arguments["most_bits"])
    axis = arguments["axis"]
    return PlacedQuantizer(node, name, d, q_m, t, axis, bits)
