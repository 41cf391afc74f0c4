"""Trains the network of `getac demo`: once in floats, and once with QASSO, which prunes and quantizes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import RenderableType

from getac.onnx_graph.write import write_model

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, fx, nn
    from torch.optim import Optimizer

__all__ = [
    "SPARSITY",
    "Digits",
    "export_float",
    "load_digits",
    "reproducible_torch",
    "residual_network",
    "train",
    "train_with_qasso",
]

WIDTH = 64
BATCH = 64
LEARNING_RATE = 3e-3
SPARSITY = 0.6
WEIGHT_BITS, ACTIVATION_BITS = (4, 8), (8, 8)
CALIBRATION_SAMPLES = 128


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


def train(network: nn.Module, data: Digits, epochs: int, say: Callable[[RenderableType], None]) -> None:
    """In floats."""
    import torch

    fit(network, torch.optim.AdamW(network.parameters(), LEARNING_RATE), data, epochs, say, lambda: "")


def train_with_qasso(
    network: nn.Module, data: Digits, epochs: int, say: Callable[[RenderableType], None]
) -> tuple[fx.GraphModule, float]:
    """Trains another network with QASSO for the same number of epochs.

    Returns:
        The small network, quantized as it was trained; the share of units that are gone.
    """
    import torch

    from getac.qasso.geta import GETA

    images = torch.from_numpy(data.images[:CALIBRATION_SAMPLES])
    geta = GETA(
        network,
        images[:2],
        sparsity=SPARSITY,
        weight_bits=WEIGHT_BITS,
        activation_bits=ACTIVATION_BITS,
        calibration=[images],
    )
    optimizer = geta.qasso("adamw", LEARNING_RATE, steps=epochs * (len(data.labels) // BATCH))

    def describe() -> str:
        now = optimizer.metrics()
        return f", {now.sparsity:.0%} of the units are gone, weights have {now.weight_bits:.1f} bits"

    fit(geta.model, optimizer, data, epochs, say, describe)
    return geta.construct_subnet(), optimizer.metrics().sparsity


def fit(
    network: nn.Module,
    optimizer: Optimizer,
    data: Digits,
    epochs: int,
    say: Callable[[RenderableType], None],
    describe: Callable[[], str],
) -> None:
    """A training loop as anybody has it; the learning rate falls to zero."""
    import torch

    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    batches = len(labels) // BATCH
    rates = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs * batches)
    network.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for chosen in torch.randperm(len(labels))[: batches * BATCH].reshape(batches, BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(images[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rates.step()
            total += loss.item()
        say(f"epoch {epoch} of {epochs}: loss {total / batches:.4f}{describe()}")


def export_float(network: nn.Module, path: Path) -> None:
    """Writes the network in evaluation mode, its batch open and its batch norms not yet folded."""
    import torch

    from getac.fx_graph.onnx_export import export_module
    from getac.onnx_graph.read import read_proto

    write_model(read_proto(export_module(network, (torch.zeros(2, 1, 8, 8),))), path)


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
