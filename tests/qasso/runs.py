"""Small quantized networks, and steps of training on data that the seed decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from getac.qasso import projection
from getac.qasso.bounds import widen
from getac.training.preparing import prepare
from getac.training.quantizers import find_quantizers

Inputs = Callable[[int], Tensor]


class Small(nn.Module):
    """Two convolutions with batch norms, one without, a residual, and a head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.b, self.norm_b = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.c, self.head = nn.Conv2d(width, 2 * width, 3), nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm_a(self.a(x)))
        h = F.relu(h + self.norm_b(self.b(h)))
        return self.head(F.relu(self.c(h)).mean((2, 3)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """One block: attention of four heads and an MLP, on vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.merge = nn.Linear(6, 16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        b, t, _ = h.shape
        q, k, v = self.qkv(self.norm(h)).view(b, t, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        h = h + self.merge(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, 16))
        return self.head((h + self.down(F.gelu(self.up(h)))).mean(1))  # type: ignore[no-any-return]


def images(seed: int, batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def vectors(seed: int, batch: int = 4) -> Tensor:
    return torch.randn(batch, 5, 6, generator=torch.Generator().manual_seed(seed))


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Small()


def prepared(seed: int = 0, start: float = 16) -> fx.GraphModule:
    """Weights of 4 to 8 bits (8 at the ends), activations of 8, at 16 while it warms up."""
    calibration = [images(0)]
    module = prepare(model(seed), images(0), weight_bits=(4, 8), activation_bits=8, calibration=calibration)
    widen(module, start)
    return module


def prepared_attention(seed: int = 0, start: float = 16) -> fx.GraphModule:
    torch.manual_seed(seed)
    calibration = [vectors(0)]
    module = prepare(
        Attention(), vectors(0), weight_bits=(4, 8), activation_bits=(6, 8), calibration=calibration
    )
    widen(module, start)
    return module


def train(
    module: fx.GraphModule, optimizer: Optimizer, count: int, first: int = 0, inputs: Inputs = images
) -> list[float]:
    """Takes `count` steps, the first of which has the number `first`; returns the losses."""
    return list(losses(module, optimizer, count, first, inputs))


def losses(
    module: fx.GraphModule, optimizer: Optimizer, count: int, first: int = 0, inputs: Inputs = images
) -> Iterator[float]:
    """The same one step at a time, for a look in between."""
    module.train()
    for step in range(first, first + count):
        optimizer.zero_grad()
        x = inputs(step)
        loss = F.cross_entropy(module(x), target_of(x))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield loss.item()


def target_of(x: Tensor) -> Tensor:
    return (x.flatten(1).sum(1).abs() * 3).long() % 5


def bits_of(module: fx.GraphModule) -> dict[str, Tensor]:
    """Name of a quantizer -> the numbers of bits of its steps, from its parameters alone."""
    return {one.name: projection.bits_of(one) for one in find_quantizers(module)}
