"""Small prepared networks, and the literal form of what the optimizer does to units."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from getac.analyzing import analyze
from getac.fx_graph.capture import capture
from getac.qasso.units import Entry, UnitTable
from getac.training.preparing import prepare
from tests.training.nets import ConvNet, images, loss_of
from tools.fx_law import randomize


class Attention(nn.Module):
    """Heads and the dimensions of all heads overlap in every row of q, k and v."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (
            nn.Linear(6, 12),
            nn.Linear(6, 12),
            nn.Linear(6, 12),
            nn.Linear(12, 6),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (layer(x).view(b, t, 3, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, 12))  # type: ignore[no-any-return]


def module_of(model: nn.Module, *args: Any, seed: int = 0) -> fx.GraphModule:
    """Captured, without quantizers."""
    randomize(model, seed)
    return capture(model, args)


def table_of(module: fx.GraphModule) -> UnitTable:
    return UnitTable.of(module, analyze(module))


def prepared(model: nn.Module | None = None, x: Tensor | None = None, **options: Any) -> fx.GraphModule:
    """With quantizers of 4 to 8 bits, unless asked otherwise; a convolutional net by default."""
    torch.manual_seed(0)
    model = ConvNet(drop=0.0) if model is None else model
    randomize(model, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prepare(
            model,
            images() if x is None else x,
            **({"weight_bits": (4, 8), "activation_bits": (4, 8)} | options),
        )


def with_gradients(module: fx.GraphModule, x: Tensor | None = None) -> fx.GraphModule:
    torch.manual_seed(1)
    loss_of(module(images() if x is None else x)).backward()
    return module


def group(table: UnitTable, unit: int) -> Iterator[tuple[Entry, Tensor]]:
    """Where one unit lies: each entry, and the mask of its numbers, looked up index by index."""
    for entry in table.entries:
        mask = torch.zeros_like(entry.parameter, dtype=torch.bool)
        for layer in entry.owners.tolist():
            for index, owner in enumerate(layer):
                if owner == unit:
                    mask.select(entry.dimension, index).fill_(True)
        if mask.any():
            yield entry, mask


def random_units(table: UnitTable, seed: int, share: float = 0.4) -> Tensor:
    """Some units of every class, one at least, not all."""
    rng = np.random.default_rng(seed)
    counts = [min(max(round(share * one.size), 1), one.size - 1) for one in table.classes]
    parts = [
        rng.permutation(one.size)[:count] + offset
        for one, offset, count in zip(table.classes, table.offsets, counts, strict=True)
    ]
    return torch.from_numpy(np.sort(np.concatenate(parts)))
