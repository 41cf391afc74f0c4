"""What the recipes share: their options, the loop around QASSO, and the answers of the lowered file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

import getac
from getac.qasso.progress import LiveLine
from getac.runtime import open_session, run

__all__ = ["Batch", "Samples", "accuracy", "answers", "arguments", "compress", "tell"]

CALIBRATION = 8  # batches
Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Batch:
    """Positional inputs of a network, and the classes that it should answer: cross entropy's target."""

    inputs: Tensors
    target: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(tuple(one.to(device) for one in self.inputs), self.target.to(device))


class Samples(Protocol):
    """A data set that hands out the samples of some numbers."""

    def __len__(self) -> int: ...

    def batch(self, chosen: Tensor) -> Batch: ...


def arguments(description: str | None, lr: float, epochs: int, batch: int) -> argparse.ArgumentParser:
    """The options that all recipes have; the numbers are defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="where the data lies, see above")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--sparsity", type=float, default=0.5, help="the share of units to remove")
    parser.add_argument("--weight-bits", type=int, nargs=2, default=(4, 8), metavar=("LEAST", "MOST"))
    parser.add_argument("--activation-bits", type=int, nargs=2, default=(8, 8), metavar=("LEAST", "MOST"))
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--decay", type=float, default=1e-4, help="weight decay")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--checkpoint", type=Path, help="stored after every epoch, for getac.GETA.load")
    return parser


def compress(
    network: nn.Module, samples: Samples, options: argparse.Namespace, variant: str, **more: Any
) -> getac.Report:
    """Trains with QASSO and a cosine learning rate, and writes the lowered network.

    Args:
        variant: The base optimizer.
        more: Its options, and `getac.GETA.qasso`'s.

    Raises:
        ValueError: There are fewer samples than one batch has.
    """
    steps = len(samples) // options.batch  # the rest of an epoch is left out: norms want whole batches
    if not steps:
        raise ValueError(f"{len(samples)} samples are less than one batch of {options.batch}")
    order = torch.Generator().manual_seed(options.seed)

    def batches(count: int) -> list[Tensor]:
        chosen = torch.randperm(len(samples), generator=order)[: steps * options.batch]
        return list(torch.split(chosen, options.batch))[:count]

    calibration = [samples.batch(chosen).to(options.device).inputs for chosen in batches(CALIBRATION)]
    geta = getac.GETA(
        network.to(options.device),
        calibration[0],
        sparsity=options.sparsity,
        weight_bits=tuple(options.weight_bits),
        activation_bits=tuple(options.activation_bits),
        calibration=calibration,
    )
    total = steps * options.epochs
    optimizer = geta.qasso(variant, options.lr, total, weight_decay=options.decay, **more)
    rates = CosineAnnealingLR(optimizer, total)
    with LiveLine(optimizer) as line:
        for _ in range(options.epochs):
            geta.model.train()
            for chosen in batches(steps):
                batch = samples.batch(chosen).to(options.device)
                optimizer.zero_grad()
                loss = functional.cross_entropy(geta.model(*batch.inputs), batch.target)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                rates.step()
                line.update(loss.item())
            if options.checkpoint:
                geta.save(options.checkpoint)
    return geta.lower(options.output, bench=False)


def answers(path: Path, samples: Samples, batch: int) -> np.ndarray:
    """What a file answers to all samples, in their order, under onnxruntime."""
    session = open_session(path)
    names = [one.name for one in session.get_inputs()]
    found = []
    for chosen in torch.split(torch.arange(len(samples)), batch):
        arrays = [one.numpy() for one in samples.batch(chosen).inputs]
        (logits,) = run(session, dict(zip(names, arrays, strict=True))).values()
        found.append(logits)
    return np.concatenate(found)


def accuracy(path: Path, samples: Samples, batch: int) -> float:
    """The share of samples whose greatest logit is their class."""
    target = [samples.batch(chosen).target for chosen in torch.split(torch.arange(len(samples)), batch)]
    right = answers(path, samples, batch).argmax(1) == torch.cat(target).numpy()
    return float(np.mean(right))


def tell(report: getac.Report, quality: str, say: Callable[[str], None] = print) -> None:
    """Prints what was gained."""
    before, after = report.before, report.after
    say(f"{report.output}: {quality}, {after.file_bytes} bytes")
    say(f"MACs {after.macs / before.macs:.1%}, BOPs {after.bops / before.bops:.2%} of the dense network")
