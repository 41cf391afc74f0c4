"""`getac.GETA`: from a model to a small quantized one, in four lines around the user's own training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from typing import Any, Literal

from torch import Tensor, fx, nn

from getac.errors import BadInputError, GetacError, OptionError
from getac.fx_graph.capture import is_captured
from getac.lowering import lower
from getac.qasso.attached import attached_to
from getac.qasso.bounds import widen
from getac.qasso.checks import Removal, check_whole
from getac.qasso.floats import QuantizeFrom
from getac.qasso.joint import JointConstants
from getac.qasso.optimizer import QASSO
from getac.qasso.pruning import Cost, Pruning
from getac.qasso.saliency import Saliency
from getac.qasso.schedule import Schedule, Stage, is_number
from getac.report import Report
from getac.training.checkpoint import load, save
from getac.training.preparing import prepare
from getac.training.saved_optimizer import holds_optimizer, load_optimizer
from getac.training.state import state_of

__all__ = ["GETA"]

Path = str | os.PathLike[str]
GREATEST_START = 16


class GETA:
    """Joint structured pruning and quantization of a model while it trains (arXiv 2502.16638).

        geta = getac.GETA(model, example_inputs, sparsity=0.5, weight_bits=(4, 8), activation_bits=(8, 8))
        optimizer = geta.qasso(lr=1e-3, steps=len(loader) * epochs)
        for inputs, target in loader:
            optimizer.zero_grad(); criterion(geta.model(inputs), target).backward(); optimizer.step()
        subnet = geta.construct_subnet()
        report = geta.lower("model.int8.onnx")

    `getac.LiveLine` shows on a terminal how the training stands; `optimizer.metrics()` says it to a logger.

    Args:
        model: What to train; its parameters become those of `GETA.model`.
        example_inputs: Positional inputs; the first dimension of each tensor is the batch.
        example_kwargs: Keyword inputs.
        sparsity: The share of all units (channels, heads, ...) to remove, in [0, 1).
        weight_bits: Bounds of the number of bits, 2 to 16; one number; or None: floats.
        activation_bits: Likewise.
        start_bits: How many bits training starts with, from which they fall to their bounds.
        calibration: Batches for the ranges of activations; see `getac.prepare`. The range of the model's
            inputs stays the calibration's: its quantizer does not learn, unless it is told to by
            `requires_grad_()` on its d and q_m before `qasso`.
        keep: Globs on parameter names: no unit of these is removed.
        prune: Globs on parameter names whose axes are opened although statistics are taken over them.
        align: The multiple that channel counts are kept at, 1 for none; "auto": what each layer's kernel
            likes.
        saliency: How important a unit is: "mixed", "magnitude", "average_magnitude", "cosine", "taylor",
            "taylor2", or a function of a table of units and its module that returns one number per unit.
        cost: What importance is divided by: what one unit saves in "macs", "bops" or "latency" (as predicted
            from measured kernels; refused where that is nothing); or name of a class -> what one of its units
            saves.
        cost_exponent: The power of the cost: 0 ignores it, 1 takes importance per saving.
        minimum: How many units each class keeps at least.
        options: What else `getac.prepare` takes: overrides, ranges, embeddings, per_channel, ...

    Raises:
        OptionError: An option is outside of its domain.
        UnsupportedModelError: The model cannot be captured.
        BadInputError: The model was captured already, or that sparsity cannot be reached; says which
            classes there are, and why the rest is frozen.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Sequence[Any] | Tensor = (),
        example_kwargs: Mapping[str, Any] | None = None,
        *,
        sparsity: float = 0.5,
        weight_bits: int | tuple[int, int] | None = (4, 8),
        activation_bits: int | tuple[int, int] | None = (8, 8),
        start_bits: int = GREATEST_START,
        calibration: Iterable[Any] | None = None,
        keep: Sequence[str] = (),
        prune: Sequence[str] = (),
        align: int | Literal["auto"] = "auto",
        saliency: str | Saliency = "mixed",
        cost: Cost | None = None,
        cost_exponent: float = 0.5,
        minimum: int = 1,
        **options: Any,
    ) -> None:
        self.pruning = Pruning(sparsity, keep, prune, align, saliency, cost, cost_exponent, minimum)
        check_start(start_bits)
        check_plain(model)
        module = prepare(
            model,
            example_inputs,
            example_kwargs,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            calibration=calibration,
            **options,
        )
        self.pruning.plan(self.pruning.table(module))
        widen(module, start_bits)
        self._of(module)

    def _of(self, module: fx.GraphModule) -> None:
        self.model = module
        self.optimizer: QASSO | None = None
        self._checkpoint: Path | None = None

    @classmethod
    def load(
        cls,
        model: nn.Module,
        path: Path,
        *,
        sparsity: float = 0.5,
        keep: Sequence[str] = (),
        prune: Sequence[str] = (),
        align: int | Literal["auto"] = "auto",
        saliency: str | Saliency = "mixed",
        cost: Cost | None = None,
        cost_exponent: float = 0.5,
        minimum: int = 1,
    ) -> GETA:
        """Goes on with a training that `save` has stored; `qasso` then continues its optimizer, if any.

        Args:
            model: As the user's code makes it, whatever its numbers.
            sparsity: As in the first run; the others likewise: `qasso` refuses what differs.

        Raises:
            BadInputError: The file cannot be read, or is one of another model.
        """
        geta = cls.__new__(cls)
        geta.pruning = Pruning(sparsity, keep, prune, align, saliency, cost, cost_exponent, minimum)
        geta._of(load(model, path))
        geta._checkpoint = path if holds_optimizer(path) else None
        return geta

    def qasso(
        self,
        variant: str = "adamw",
        lr: float = 1e-3,
        steps: int | None = None,
        params: Iterable[Any] | None = None,
        *,
        schedule: Schedule | None = None,
        warm_up: float = 0.1,
        projection: float = 0.2,
        projection_periods: int = 4,
        joint: float = 0.2,
        joint_periods: int | None = None,
        cool_down: float | None = None,
        quantizer_lr: float | None = None,
        step_lr: float | None = None,
        bit_reduction: float | None = None,
        constants: JointConstants | None = None,
        removal: Removal = "period",
        check_every: int = 1,
        quantize_from: QuantizeFrom = "warm-up",
        **options: Any,
    ) -> QASSO:
        """The optimizer that prunes and quantizes while it trains; see `getac.QASSO`.

        Args:
            variant: "sgd", "adam" or "adamw": torch's own update rules.
            steps: How many the training has in all: `len(loader) * epochs`.
            params: Groups of parameters as torch takes them; None: all of the model.
            schedule: All stages; in its place, the next six say how many of the steps each has (not both).
            warm_up: A whole number of steps, or a share of all; `projection`, `joint`, `cool_down` likewise.
            joint_periods: None: 4 to 32 (or one per step), with 50 steps or more where there are enough.
            quantize_from: "warm-up", or "projection": warm-up trains floats.
            options: Those of the base optimizer: momentum, weight_decay, betas, ...

        Raises:
            OptionError: Options outside of their domains, stages that are longer than the training; the model
                was pruned already.
        """
        if self._checkpoint is None:
            check_whole(self.model, self.pruning)
        stages = {
            "warm_up": warm_up,
            "projection": projection,
            "projection_periods": projection_periods,
            "joint": joint,
            "joint_periods": joint_periods,
            "cool_down": cool_down,
        }
        optimizer = QASSO(
            self.model,
            params,
            schedule=schedule_of(schedule, steps, stages),
            pruning=self.pruning,
            variant=variant,
            lr=lr,
            quantizer_lr=quantizer_lr,
            step_lr=step_lr,
            bit_reduction=bit_reduction,
            constants=constants,
            removal=removal,
            check_every=check_every,
            quantize_from=quantize_from,
            **options,
        )
        if self._checkpoint is not None:
            self._go_on(optimizer, self._checkpoint)
        self.optimizer = optimizer
        return optimizer

    def _go_on(self, optimizer: QASSO, checkpoint: Path) -> None:
        """Where a training stopped; a refused checkpoint leaves the module as it was."""
        try:
            load_optimizer(optimizer, checkpoint)
        except GetacError:
            attached_to(self.model).detach()
            raise

    def construct_subnet(self, *, unfinished: bool = False) -> fx.GraphModule:
        """Finishes: removes zero units that are still there, and fixes the numbers of bits.

        Args:
            unfinished: Whether to take what there is of a training that has not come to the end of its
                joint stage, where fewer units are zero than asked for.

        Returns:
            `GETA.model` itself, in evaluation mode: small, and a plain torch.fx.GraphModule.

        Raises:
            BadInputError: There is no optimizer, or training has not come far enough.
        """
        optimizer = self.optimizer
        if optimizer is None:
            raise BadInputError(
                "the model was not trained",
                required="an optimizer, and its steps",
                hint="optimizer = geta.qasso(lr=1e-3, steps=len(loader) * epochs)",
            )
        reached = optimizer.schedule.start(Stage.COOL_DOWN)
        if optimizer.steps_done < reached and not unfinished:
            raise BadInputError(
                "the training has not come to the end of its joint stage",
                required=f"{reached} of the {optimizer.schedule.total} steps that it was planned for",
                found=f"{optimizer.steps_done} steps; nothing was changed",
                hint="train on, plan for fewer steps, or construct_subnet(unfinished=True)",
            )
        optimizer.finish()
        return self.model.eval()

    def lower(self, path: Path | None, **options: Any) -> Report:
        """Writes the trained model as an integer ONNX file; see `getac.lower`.

        Raises:
            BadInputError: As `construct_subnet` and `getac.lower` say.
            VerificationError: The file would not compute what the model computes; nothing is written.
        """
        return lower(self.construct_subnet(), path, **options)

    def save(self, path: Path) -> None:
        """Stores model and optimizer, at any step, in one file that `GETA.load` reads."""
        save(self.model, path, self.optimizer)


def schedule_of(given: object, steps: int | None, stages: Mapping[str, Any]) -> Schedule:
    """The schedule that was given, or made of the numbers of steps; one of the two."""
    if given is None:
        return Schedule.of(steps, **stages)  # type: ignore[arg-type]  # None is refused there
    if not isinstance(given, Schedule):
        return given  # type: ignore[return-value]  # QASSO refuses it
    defaults = signature(Schedule.of).parameters
    dropped = [name for name, value in stages.items() if value != defaults[name].default]
    if dropped:
        raise OptionError(
            "the stages are said twice",
            where=", ".join(dropped),
            required="a schedule, or how many steps each stage has",
            found=f"schedule=..., and {', '.join(f'{name}={stages[name]!r}' for name in dropped)}",
        )
    if steps is not None and given.total > steps:
        raise OptionError(
            "the schedule is longer than the training",
            required=f"at most {steps} steps",
            found=f"{given.total} steps\n{given}",
        )
    return given


def check_start(bits: object) -> None:
    if not is_number(bits) or not 2 <= bits <= GREATEST_START:  # type: ignore[operator]
        raise OptionError(
            "this is no number of bits to start with",
            where="start_bits",
            required=f"2 to {GREATEST_START}",
            found=repr(bits),
        )


def check_plain(model: nn.Module) -> None:
    """A graph that was captured before has no quantizers, and cannot be captured with all it could do."""
    if not isinstance(model, nn.Module):
        raise BadInputError("this is no model", required="a torch.nn.Module", found=type(model).__name__)
    if is_captured(model):
        state_of(model)  # says that it was not prepared, if so
        raise BadInputError(
            "the model was prepared already",
            required="the model itself, whose bits GETA can choose",
            hint="getac.QASSO(prepared, schedule=...) trains a module that getac.prepare has returned",
        )
