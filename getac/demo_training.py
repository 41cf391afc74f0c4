"""Trains the network of `getac demo`: group sparsity while it learns, on getac's own pruning classes.

Pruning costs nothing where training has emptied the units first. Here a group lasso does that: after every
step of SGD, each unit g (all entries that one pruning class of the model ties together) shrinks towards zero,

    x_g <- x_g max(0, 1 - s / ||x_g||)        the proximal step of s sum_g ||x_g|| (Yuan and Lin 2006)

so that units which the loss does not hold up arrive at exactly zero, and stay there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from rich.console import RenderableType

from getac.onnx_graph.read import load
from getac.passes import FoldQuantizers, InferAxes, InferShapes, Pipeline, RemoveDead, State

if TYPE_CHECKING:
    from torch import Tensor, nn

    # A unit's entries: slices of parameters along one dimension, all with the same number of units.
    Group = list[tuple[nn.Parameter, int]]

__all__ = [
    "Digits",
    "export",
    "fit",
    "load_digits",
    "pruning_groups",
    "reproducible_torch",
    "residual_network",
]

WIDTH = 64
BATCH = 64
LEARNING_RATE = 0.1
ZERO_SHARE = 0.7  # more than is pruned afterwards: whole blocks of units go, and each class keeps some
SHRINKAGE = 1.0  # of a unit's norm (about 2 at the start) per unit of learning rate


@dataclass(frozen=True)
class Digits:
    """Scans of handwritten digits: images (n, 1, 8, 8) in [0, 1], labels (n,) in 0 to 9."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def load_digits(seed: int) -> tuple[Digits, Digits]:
    """scikit-learn's 1797 digits; three quarters to train on, the rest to test on."""
    from sklearn import datasets, model_selection

    digits = datasets.load_digits()
    images, labels = (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64)
    a, b, c, d = model_selection.train_test_split(images, labels, stratify=labels, random_state=seed)
    return Digits(a, c), Digits(b, d)


def residual_network() -> nn.Module:
    """Eight convolutions in three blocks (He et al. 2015), for images (n, 1, 8, 8): logits (n, 10)."""
    from torch import nn

    def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm2d(outputs)]

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            first, second = convolution(inputs, outputs, 3, stride), convolution(outputs, outputs, 3)
            same = inputs == outputs and stride == 1
            self.body = nn.Sequential(*first, nn.ReLU(), *second)
            self.shortcut = nn.Sequential(*([] if same else convolution(inputs, outputs, 1, stride)))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.body(x) + self.shortcut(x)
            return y.relu()

    return nn.Sequential(
        *convolution(1, WIDTH, 3),
        nn.ReLU(),
        Block(WIDTH, WIDTH, 1),
        Block(WIDTH, 2 * WIDTH, 2),
        Block(2 * WIDTH, 2 * WIDTH, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * WIDTH, 10),
    )


def pruning_groups(network: nn.Module) -> list[Group]:
    """The classes that getac finds in the exported network, as slices of the network's parameters."""
    state = State(load(export(network)))
    Pipeline((FoldQuantizers(), RemoveDead(), InferShapes(), InferAxes())).run(state)
    assert state.analysis is not None
    parameters = dict(network.named_parameters())  # the exporter keeps their names
    return [
        [(parameters[one.name], one.dimension) for one in found.members if one.name in parameters]
        for found in state.analysis.classes
    ]


def fit(
    network: nn.Module,
    groups: list[Group],
    data: Digits,
    epochs: int,
    say: Callable[[RenderableType], None],
) -> None:
    """SGD with momentum and a falling learning rate; shrinks the less, the more units are zero."""
    import torch

    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    batches = len(labels) // BATCH
    optimizer = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs * batches)
    zero = 0.0
    network.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for chosen in torch.randperm(len(labels))[: batches * BATCH].reshape(batches, BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(images[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate = float(optimizer.param_groups[0]["lr"])
            zero = shrink(groups, rate * SHRINKAGE * max(0.0, 1 - zero / ZERO_SHARE))
            schedule.step()
            total += loss.item()
        say(f"epoch {epoch} of {epochs}: loss {total / batches:.4f}, {zero:.0%} of the units are zero")


def shrink(groups: list[Group], threshold: float) -> float:
    """Takes `threshold` off the norm of every unit, in place; returns the share of units that are zero."""
    import torch

    zero = units = 0
    with torch.no_grad():
        for group in groups:
            rows = [parameter.movedim(dimension, 0) for parameter, dimension in group]
            norms = torch.stack([row.reshape(len(row), -1).square().sum(1) for row in rows]).sum(0).sqrt()
            factors = (1 - threshold / norms.clamp_min(1e-12)).clamp_min(0)
            for row in rows:
                row.mul_(factors.reshape(-1, *[1] * (row.dim() - 1)))
            zero += int((factors == 0).sum())
            units += len(factors)
    return zero / units


def export(network: nn.Module) -> onnx.ModelProto:
    """The network in evaluation mode with a symbolic batch, its batch norms not yet folded."""
    import torch

    from getac.fx_graph.onnx_export import export_module

    image = torch.zeros(2, 1, 8, 8)
    return export_module(network, (image,), input_names=["image"], output_names=["logits"])


@contextmanager
def reproducible_torch(seed: int) -> Iterator[None]:
    """Seeds torch and keeps it on one thread (faster for batches this small); puts both back afterwards."""
    import torch

    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
