"""Fake quantizers that people write themselves, in torch: GETA's as published, LSQ, PACT, DoReFa."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.producers.networks import NETWORKS, SMALL, Produced, Size, export, make

__all__ = ["QUANTIZERS", "produced", "quantized", "written"]


class Geta(nn.Module):
    """sgn(x) d round(exp(t ln min(|x|, q_m)) / d), as its authors' implementation spells it."""

    def __init__(self, x: Tensor, bits: int = 8, exponent: float = 1.0) -> None:
        super().__init__()
        top = x.abs().max()
        self.q_m, self.t = nn.Parameter(top.clone()), nn.Parameter(torch.tensor(exponent))
        self.d = nn.Parameter(top**exponent / (2 ** (bits - 1) - 1))

    def forward(self, x: Tensor) -> Tensor:
        powered = torch.exp(self.t * torch.log(torch.min(torch.abs(x), self.q_m)))
        return torch.sign(x) * (self.d * torch.round(powered / self.d))


class Lsq(nn.Module):
    """Learned step size quantization (Esser et al. 2020), with its straight-through additions."""

    def __init__(self, x: Tensor, bits: int = 8) -> None:
        super().__init__()
        self.low, self.high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        self.step = nn.Parameter(2 * x.abs().mean() / self.high**0.5)

    def forward(self, x: Tensor) -> Tensor:
        scaled = self.step * 0.01
        step = (self.step - scaled).detach() + scaled
        y = (x / step).clamp(self.low, self.high)
        return ((y.round() - y).detach() + y) * step


class Pact(nn.Module):
    """Parameterized clipping (Choi et al. 2018) of activations, symmetric where they are signed."""

    def __init__(self, x: Tensor, bits: int = 8) -> None:
        super().__init__()
        self.top, self.low = nn.Parameter(x.abs().max().clone()), -1.0 if bool((x < 0).any()) else 0.0
        self.levels = 2 ** (bits - 1) - 1 if self.low else 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        y = torch.where(
            x >= self.top, self.top, torch.where(x <= self.low * self.top, self.low * self.top, x)
        )
        rounded: Tensor = torch.round(y * self.levels / self.top) * self.top / self.levels
        return rounded


class Dorefa(nn.Module):
    """DoReFa-Net (Zhou et al. 2016): weights through tanh, activations in [0, 1], here scaled."""

    def __init__(self, x: Tensor, bits: int = 8) -> None:
        super().__init__()
        self.weight = isinstance(x, nn.Parameter)
        self.levels = 15 if self.weight else 2 ** (bits - 1) - 1  # 8 bits around no zero are 9
        self.top: Tensor
        self.register_buffer("top", x.detach().abs().max())

    def forward(self, x: Tensor) -> Tensor:
        if self.weight:
            y = torch.tanh(x)
            unit = y / (2 * y.abs().max()) + 0.5
            return 2 * torch.round(unit * self.levels) / self.levels - 1
        y = torch.clamp(x / self.top, -1, 1)
        return torch.round(y * self.levels) / self.levels * self.top


QUANTIZERS: dict[str, Callable[..., nn.Module]] = {
    "GETA": Geta,
    "GETA power": partial(Geta, exponent=0.8),
    "LSQ": Lsq,
    "PACT": Pact,
    "DoReFa": Dorefa,
}


class Quantized(nn.Module):
    """A linear layer or convolution whose weight and input are quantized."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, quantizer: Callable[[Tensor], nn.Module]) -> None:
        super().__init__()
        self.layer, self.quantizer = layer, quantizer
        self.of_weight = quantizer(layer.weight)
        self.of_input: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.of_input is None:
            self.of_input = self.quantizer(x.detach())  # the first batch gives the range
        weight, x = self.of_weight(self.layer.weight), self.of_input(x)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        one = self.layer
        return F.conv2d(x, weight, one.bias, one.stride, one.padding, one.dilation, one.groups)


def quantized(module: nn.Module, quantizer: Callable[[Tensor], nn.Module], x: Tensor) -> nn.Module:
    """The module with quantizers on all of its layers, which have seen an input."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear | nn.Conv2d) and not isinstance(parent, Quantized):
                setattr(parent, name, Quantized(child, quantizer))
    module(x)
    return module.eval()


def produced(size: Size = SMALL, only: str | None = None) -> Iterator[Produced]:
    """Every kind with 8 bits through torch's exporter, and with fewer through the one that traces."""
    for producer in QUANTIZERS if only is None else (only,):
        for name in NETWORKS:
            yield written(producer, name, size)
        for bits in (4, 2):
            for name in ("mixed CNN", "MLP"):
                yield written(producer, name, size, bits)


def written(producer: str, name: str, size: Size = SMALL, bits: int = 8, seed: int = 0) -> Produced:
    """One network with one kind of quantizers; with 8 bits through torch's exporter."""
    network = make(name, size, seed)
    quantizer = partial(QUANTIZERS[producer], bits=bits)
    with torch.no_grad():
        module = quantized(network.module, quantizer, torch.cat(network.inputs))
    dynamo = bits == 8
    model = export(module, network.inputs[0], dynamo=dynamo)
    form = "dynamo" if dynamo else f"traced, {bits} bits"
    return Produced(producer, form, name, model, network.inputs)
