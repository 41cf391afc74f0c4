"""The methods of the digits table; all of them train for the same number of epochs.

dense                 the float network
prune-then-quantize   QASSO without quantizers; `getac.lower` quantizes the small network after training
quantize-then-prune   quantized training; where the joint stage would end, all units go in one step
joint                 QASSO
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

import getac
from getac.axes.meter import Cost
from getac.fx_graph.onnx_export import export_module
from tools.digits.data import Images
from tools.digits.settings import Setting, Training
from tools.digits.training import Run, renormalise

__all__ = ["METHODS", "Job", "Trainee", "dense", "write_float"]

CALIBRATION = 256  # images


@dataclass(frozen=True)
class Job:
    """What a method starts from.

    Args:
        teacher: The logits of the dense network for all images; None: there is no distillation.
    """

    network: nn.Module
    images: Images
    setting: Setting
    seed: int
    teacher: Tensor | None = None

    @property
    def example(self) -> tuple[Tensor]:
        return (self.images.images[:2],)

    @property
    def calibration(self) -> Tensor:
        return self.images.images[:CALIBRATION]

    def run(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Run:
        goal, training = self.setting.goal, self.setting.training
        softly = (self.teacher, goal.distill, goal.temperature)
        return Run(model, optimizer, self.images, training, self.seed, *softly)


@dataclass(frozen=True)
class Trainee:
    """A run, and what makes a file of it and tells what that costs."""

    run: Run
    write: Callable[[Path], Cost]


@dataclass(frozen=True)
class Stages:
    """Steps of QASSO's stages."""

    warm_up: int
    projection: int
    joint: int
    joint_periods: int
    cool_down: int

    @classmethod
    def of(cls, training: Training, images: int) -> Stages:
        steps = -(-images // training.batch)
        warm_up, projection, joint = (
            steps * one for one in (training.warm_up, training.projection, training.joint)
        )
        rest = steps * training.epochs - warm_up - projection - joint
        return cls(warm_up, projection, joint, training.joint_periods, rest)

    @property
    def at_once(self) -> Stages:
        """All units go in the last step of the joint stage."""
        return Stages(self.warm_up + self.joint - 1, self.projection, 1, 1, self.cool_down)


def write_float(network: nn.Module, example: tuple[Tensor], path: Path) -> None:
    onnx.save(export_module(network, example), path)


def dense(job: Job) -> Trainee:
    training = job.setting.training
    adam = torch.optim.Adam(job.network.parameters(), training.lr, weight_decay=training.decay, fused=True)

    def write(path: Path) -> Cost:
        write_float(job.network, job.example, path)
        return getac.analyze(job.network, job.example).costs.total

    run = job.run(job.network, adam)
    run.teacher = None
    return Trainee(run, write)


def joint(job: Job) -> Trainee:
    return compressing(job, Stages.of(job.setting.training, len(job.images)))


def quantize_then_prune(job: Job) -> Trainee:
    return compressing(job, Stages.of(job.setting.training, len(job.images)).at_once)


def compressing(job: Job, stages: Stages) -> Trainee:
    goal = job.setting.goal
    geta = wrap(job, goal.weight_bits, goal.activation_bits)
    run = job.run(geta.model, optimizer(geta, job.setting, stages))

    def write(path: Path) -> Cost:
        finish(geta, job)
        return cost_of(geta.lower(path, bench=False))  # latency is measured beside the dense network's

    return Trainee(run, write)


def prune_then_quantize(job: Job) -> Trainee:
    goal = job.setting.goal
    geta = wrap(job, None, None)
    stages = Stages.of(job.setting.training, len(job.images))
    run = job.run(geta.model, optimizer(geta, job.setting, stages))

    def write(path: Path) -> Cost:
        finish(geta, job)
        with TemporaryDirectory(prefix="getac-digits-") as folder:
            floats = Path(folder) / "float.onnx"
            getac.export(geta.construct_subnet(), floats)
            name = onnx.load(floats).graph.input[0].name
            report = getac.lower(
                floats,
                path,
                calibration={name: job.calibration.numpy()},
                weight_bits=goal.weight_bits[1],
                activation_bits=goal.activation_bits[1],
                bench=False,
                force=True,  # how far from the floats it is, the table tells
            )
        return cost_of(report)

    return Trainee(run, write)


def wrap(
    job: Job, weight_bits: tuple[int, int] | None, activation_bits: tuple[int, int] | None
) -> getac.GETA:
    goal = job.setting.goal
    return getac.GETA(
        job.network,
        job.example,
        sparsity=goal.sparsity,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        calibration=[job.calibration],
        align=goal.align,
        minimum=goal.minimum,
        saliency=goal.saliency,
        cost="bops" if goal.per_bops else None,
        cost_exponent=goal.per_bops,
    )


def optimizer(geta: getac.GETA, setting: Setting, stages: Stages) -> getac.QASSO:
    training = setting.training
    return geta.qasso(
        "adam",
        training.lr,
        schedule=getac.Schedule(projection_periods=training.projection_periods, **vars(stages)),
        quantizer_lr=setting.goal.quantizer_lr,
        quantize_from="projection" if setting.goal.float_warm_up else "warm-up",
        weight_decay=training.decay,
        fused=True,
    )


def finish(geta: getac.GETA, job: Job) -> None:
    model = geta.construct_subnet()
    if job.setting.goal.renormalise:
        renormalise(model, job.images, job.setting.training.batch)


def cost_of(report: getac.Report) -> Cost:
    after = report.after
    return Cost(after.parameters, after.weight_bytes, after.macs, after.bops)


METHODS: Mapping[str, Callable[[Job], Trainee]] = {
    "dense": dense,
    "prune-then-quantize": prune_then_quantize,
    "quantize-then-prune": quantize_then_prune,
    "joint": joint,
}
