"""The methods of the digits table; all of them train for the same number of epochs.

dense                 the float network
prune-then-quantize   QASSO without quantizers; the small network is quantized after training
quantize-then-prune   quantized training; at the end of the joint stage's time all units go at once
joint                 QASSO
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

import getac
from getac.fx_graph.onnx_export import export_module
from getac.qasso.saliency import macs_of, score_units
from getac.qasso.units import UnitTable
from tools.digits.data import Images
from tools.digits.settings import Goal, Setting, Training
from tools.digits.training import Run, renormalise

__all__ = ["METHODS", "Job", "Trainee", "write_float"]

CALIBRATION = 256  # images


@dataclass(frozen=True)
class Job:
    """What a method starts from."""

    network: nn.Module
    images: Images
    setting: Setting
    seed: int
    teacher: Tensor | None = None

    def run(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Run:
        goal, training = self.setting.goal, self.setting.training
        return Run(model, optimizer, self.images, training, self.seed, self.teacher, goal.distill)


@dataclass(frozen=True)
class Trainee:
    """A run, and how what it has trained becomes a file."""

    run: Run
    write: Callable[[Path], Any]


def write_float(network: nn.Module, images: Tensor, path: Path) -> None:
    onnx.save(export_module(network, (images[:2],), input_names=["image"]), path)


def dense(job: Job) -> Trainee:
    training = job.setting.training
    adam = torch.optim.Adam(job.network.parameters(), training.lr, weight_decay=training.decay)
    run = replace(job, teacher=None).run(job.network, adam)
    return Trainee(run, lambda path: write_float(job.network, job.images.images, path))


def joint(job: Job) -> Trainee:
    return compressing(job, job.setting.goal, stages(job.setting.training))


def prune_then_quantize(job: Job) -> Trainee:
    """Float training; `getac.lower` quantizes to the least numbers of bits that training would have reached."""
    goal = job.setting.goal
    floats = compressing(job, goal, stages(job.setting.training), quantized=False)

    def write(path: Path) -> None:
        geta = floats.run.model
        floats.write(path)
        data = {signature(path): job.images.images[:CALIBRATION].numpy()}
        bits = {"weight_bits": goal.weight_bits[0], "activation_bits": goal.activation_bits[0]}
        getac.lower(path, path, calibration=data, bench=False, **bits)

    return Trainee(floats.run, write)
