"""Small networks to regenerate, and what the tests of the training front end do with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from getac.analyzing import analyze
from getac.fx_graph.capture import capture
from getac.training.preparing import prepare
from getac.training.state import KEY, TrainingState
from tools.fx_law import randomize, tensors_of

Keep = dict[str, Any]


class ConvNet(nn.Module):
    """Convolutions (one depthwise), with batch norms and without, and a head.

    No bias before a batch norm: its gradient is zero but for rounding, which Adam would make large.
    """

    def __init__(self, drop: float = 0.1) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.deep, self.norm_deep = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.b, self.drop, self.head = nn.Conv2d(8, 12, 3), nn.Dropout(drop), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm_a(self.a(x)))
        h = F.relu(self.norm_deep(self.deep(h)))
        return self.head(self.drop(F.relu(self.b(h)).mean((2, 3))))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """A table that is read twice, a buffer that is not saved, fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.fused, self.merge = nn.Embedding(9, 12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.mlp, self.back = nn.Linear(12, 20), nn.Linear(10, 12, bias=False)
        self.head = nn.Linear(12, 9, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("kept", torch.randn(12))
        self.register_buffer("passing", torch.randn(12), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.table(ids) * self.kept + self.passing
        b, t, _ = h.shape
        q, k, v = self.fused(h).view(b, t, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        h = h + self.merge(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, 12))
        a, g = self.mlp(h).chunk(2, dim=-1)
        return self.head(h + self.back(a * g.sigmoid()))  # type: ignore[no-any-return]


class Normalized(nn.Module):
    """Layers with the old torch.nn.utils.weight_norm, which computes weights by itself."""

    def __init__(self) -> None:
        super().__init__()
        with_norm: Callable[..., Any] = torch.nn.utils.weight_norm
        self.a, self.b = with_norm(nn.Linear(6, 8)), with_norm(nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)))  # type: ignore[no-any-return]


def images(batch: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def ids(batch: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, 9, (batch, 5), generator=torch.Generator().manual_seed(seed))


def captured(model: nn.Module, *args: Any, **kwargs: Any) -> fx.GraphModule:
    """As `getac.prepare` makes it, without quantizers: it remembers what it was captured with."""
    module = capture(model, args, kwargs)
    module.meta[KEY] = TrainingState(args, kwargs)
    return module


def quantized_module(model: nn.Module, *args: Any, **kwargs: Any) -> fx.GraphModule:
    """With few bits, some of which can change, and exponents that learn."""
    bits: Any = {"weight_bits": (3, 6), "activation_bits": 5, "learn_exponents": True}
    calls = [kwargs or args]
    return prepare(model, args, kwargs, calibration=calls, **bits)


def conv_net(seed: int = 0, drop: float = 0.1, quantized: bool = False) -> fx.GraphModule:
    torch.manual_seed(seed)
    model = ConvNet(drop)
    randomize(model, seed)
    return quantized_module(model, images()) if quantized else captured(model, images())


def tied(seed: int = 0) -> fx.GraphModule:
    torch.manual_seed(seed)
    model = Tied()
    randomize(model, seed)
    return captured(model, ids())


def some_units(module: nn.Module, seed: int = 0, share: float = 0.3) -> Keep:
    """Class name -> a mask that drops about a share of its units, one at least."""
    rng = np.random.default_rng(seed)
    keep = {}
    for one in analyze(module).classes:
        dropped = rng.permutation(one.size)[: min(max(round(share * one.size), 1), one.size - 1)]
        keep[one.name] = ~np.isin(np.arange(one.size), dropped)
    return keep


def steps(
    module: nn.Module,
    optimizer: Optimizer,
    count: int = 2,
    inputs: Callable[[int], Any] = lambda seed: images(4, seed),
    seed: int = 0,
) -> list[float]:
    """Trains; the seed decides the inputs and the random numbers of dropout. Returns the losses."""
    losses = []
    module.train()
    for step in range(count):
        torch.manual_seed(seed + step)
        optimizer.zero_grad()
        given = inputs(seed + step)
        outputs = module(**given) if isinstance(given, Mapping) else module(given)
        loss = loss_of(outputs)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def loss_of(outputs: Any) -> Tensor:
    tensors = [one.float() for one in tensors_of(outputs) if one.requires_grad]
    return torch.stack([one.square().mean() for one in tensors]).sum()
