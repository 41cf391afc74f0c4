"""Trains networks on the digits, an epoch of each in turn, so that their times can be compared."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from tools.benchmark import cpu_seconds
from tools.digits.data import Images
from tools.digits.settings import Training

__all__ = ["Run", "in_turn", "logits_of", "renormalise"]


@dataclass(eq=False)
class Run:
    """A network and what trains it.

    Args:
        teacher: The logits of the dense network for all training images, shape (n, 10); None: none.
        distill: Their weight in the loss.
        temperature: What logits are divided by before they are compared (Hinton et al. 2015, section 2).
        seconds: CPU time of each epoch so far, on one thread.
    """

    model: nn.Module
    optimizer: Optimizer
    images: Images
    training: Training
    seed: int
    teacher: Tensor | None = None
    distill: float = 0.0
    temperature: float = 1.0
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._order = torch.Generator().manual_seed(self.seed)  # the same for every method
        self._rates = MultiStepLR(self.optimizer, [self.training.drop_after])

    def epoch(self) -> None:
        self.seconds.append(cpu_seconds(self._train))
        self._rates.step()

    def _train(self) -> None:
        self.model.train()
        order = torch.randperm(len(self.images), generator=self._order)
        for chosen in torch.split(order, self.training.batch):
            self.optimizer.zero_grad()
            self.loss(chosen).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def loss(self, chosen: Tensor) -> Tensor:
        batch = self.images[chosen]
        logits = self.model(batch.images)
        loss = functional.cross_entropy(logits, batch.labels)
        if self.teacher is None:
            return loss
        by = self.temperature
        answers = (self.teacher[chosen] / by).softmax(1)
        weight = self.distill * by**2  # gradients shrink with the square of the temperature
        return loss + weight * functional.cross_entropy(logits / by, answers)


def in_turn(runs: Sequence[Run], epochs: int, say: Callable[[str], None]) -> Iterator[int]:
    """Trains all of them, epoch by epoch.

    What was imported is no longer searched for garbage: that takes as long as many steps, and whatever run
    it happens to fall on would pay for it.
    """
    gc.collect()
    gc.freeze()
    try:
        for epoch in range(1, epochs + 1):
            for run in runs:
                run.epoch()
            say(f"epoch {epoch}/{epochs}: " + "  ".join(f"{run.seconds[-1]:.2f} s" for run in runs))
            yield epoch
    finally:
        gc.unfreeze()


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """What a network answers in evaluation mode."""
    logits: Tensor = model.eval()(images)
    return logits


@torch.no_grad()
def renormalise(model: nn.Module, images: Images, batch: int) -> None:
    """Takes the statistics of batch norms from the training images anew; weights stay."""
    model.train()
    for part in torch.split(images.images, batch):
        model(part)
    model.eval()
