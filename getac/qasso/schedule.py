"""The schedule of QASSO: which stage, and which of its periods, a step belongs to.

    warm-up | projection, in periods | joint, in periods | cool-down

It is a pure function of the step's number, so that a training that is resumed needs to know nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from numbers import Integral, Real
from typing import NamedTuple

from getac.errors import OptionError

__all__ = ["Moment", "Schedule", "Stage"]

PERIOD = 50  # steps that a joint period has, where there are enough for them
FEWEST, MOST = 4, 32  # joint periods


class Stage(Enum):
    """What the optimizer does beside the steps of its base (arXiv 2502.16638, section 5)."""

    WARM_UP = "warm-up"
    PROJECTION = "projection"
    JOINT = "joint"
    COOL_DOWN = "cool-down"


class Moment(NamedTuple):
    """Where a step stands.

    Args:
        period: Of its stage, from 0 on; warm-up and cool-down are one period.
        step_in_period: From 0 on: k of the paper.
        period_length: In steps: K_p of the paper.
    """

    stage: Stage
    period: int
    step_in_period: int
    period_length: int

    @property
    def is_first(self) -> bool:
        """Whether the step begins its period."""
        return self.step_in_period == 0

    @property
    def is_last(self) -> bool:
        """Whether the step ends its period."""
        return self.step_in_period == self.period_length - 1


@dataclass(frozen=True)
class Schedule:
    """How many steps each stage has. What comes after the last step counts as cool-down.

    Args:
        warm_up: Steps of the base optimizer alone.
        projection: Steps in which the upper bound of the number of bits falls: B periods of the paper.
        projection_periods: How many.
        joint: Steps in which units become zero: P periods of the paper.
        joint_periods: How many.
        cool_down: Steps in which bits are fixed and what is left trains on.

    Raises:
        OptionError: A number that is negative or not whole, or periods of less than one step.
    """

    warm_up: int
    projection: int
    projection_periods: int
    joint: int
    joint_periods: int
    cool_down: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not is_whole(value) or value < 0:
                raise OptionError(
                    "this is no number of steps", where=name, required="0 or more", found=repr(value)
                )
            object.__setattr__(self, name, int(value))  # other kinds of integers cannot be stored
        for name in ("projection", "joint"):
            steps, periods = getattr(self, name), getattr(self, f"{name}_periods")
            if periods < 1 or 0 < steps < periods:
                raise OptionError(
                    f"the {name} stage has more periods than steps",
                    where=f"{name}_periods",
                    required=f"1 to {steps}" if steps else "1 or more",
                    found=str(periods),
                    hint="train for more steps, or ask for fewer periods",
                )

    @classmethod
    def of(
        cls,
        total: int,
        warm_up: float = 0.1,
        projection: float = 0.2,
        projection_periods: int = 4,
        joint: float = 0.2,
        joint_periods: int | None = None,
        cool_down: float | None = None,
    ) -> Schedule:
        """The schedule of a training.

        Args:
            total: All steps.
            warm_up: A whole number of steps, or a share of the total below 1; the others likewise.
            joint_periods: None: as many as have 50 steps or more, but 4 at least (or one per step) and 32 at
                most. With more, fewer units are forgotten at a time: a step costs less, and each choice knows
                the ones before.
            cool_down: None: what is left of the total.

        Raises:
            OptionError: The stages are longer than the training, or as the class says.
        """
        check_total(total)
        stages = [
            steps_of(name, value, total)
            for name, value in (("warm_up", warm_up), ("projection", projection), ("joint", joint))
        ]
        rest = int(total) - sum(stages)
        last = rest if cool_down is None else steps_of("cool_down", cool_down, total)
        if rest < 0 or last > rest:
            asked = sum(stages) + (last if cool_down is not None else 0)
            raise OptionError(
                "the schedule is longer than the training",
                required=f"at most {total} steps",
                found=f"{asked} steps: warm-up {stages[0]}, projection {stages[1]}, joint {stages[2]},"
                f" cool-down {last if cool_down is not None else 0}",
                hint="give the stages as shares of the total, such as warm_up=0.1",
            )
        if joint_periods is None:
            joint_periods = min(max(stages[2] // PERIOD, FEWEST), MOST, max(stages[2], 1))
        return cls(stages[0], stages[1], projection_periods, stages[2], joint_periods, last)

    @property
    def total(self) -> int:
        """All steps."""
        return self.warm_up + self.projection + self.joint + self.cool_down

    def start(self, stage: Stage) -> int:
        """The first step of a stage."""
        before = (self.warm_up, self.projection, self.joint)
        return sum(before[: list(Stage).index(stage)])

    def at(self, step: int) -> Moment:
        """Where a step stands; steps count from 0."""
        stage, within = Stage.COOL_DOWN, step - self.warm_up - self.projection - self.joint
        if step < self.warm_up:
            stage, within = Stage.WARM_UP, step
        elif step < self.warm_up + self.projection:
            stage, within = Stage.PROJECTION, step - self.warm_up
        elif within < 0:
            stage, within = Stage.JOINT, within + self.joint
        if stage is Stage.WARM_UP:
            return Moment(stage, 0, within, self.warm_up)
        if stage is Stage.COOL_DOWN:
            return Moment(stage, 0, within, self.cool_down)
        if stage is Stage.PROJECTION:
            return Moment(stage, *in_periods(within, self.projection, self.projection_periods))
        return Moment(stage, *in_periods(within, self.joint, self.joint_periods))

    def most_bits(self, step: int, start: float, target: float, reduction: float | None = None) -> float:
        """The upper bound of the number of bits in a step: b_u of the paper.

        Args:
            start: The bound in warm-up and in the first projection period.
            target: The bound from the joint stage on.
            reduction: By how much it falls after each period (b_r of the paper); None: evenly.
        """
        stage, period, *_ = self.at(step)
        if stage is Stage.WARM_UP:
            return max(start, target)
        if stage is not Stage.PROJECTION:
            return target
        fall = (start - target) / self.projection_periods if reduction is None else reduction
        return max(target, start - period * fall)

    def check_reduction(self, start: float, target: float, reduction: float | None) -> None:
        """Raises OptionError if the bound does not reach its target by the end of the projection stage."""
        if reduction is None:
            return
        if not is_number(reduction) or reduction <= 0:
            raise OptionError(
                "this is no reduction of the number of bits",
                where="bit_reduction (b_r)",
                required="a number of bits per period, above 0",
                found=repr(reduction),
            )
        if self.projection and start - reduction * self.projection_periods > target:
            least = (start - target) / self.projection_periods
            raise OptionError(
                "the number of bits does not reach its target",
                where="bit_reduction (b_r)",
                required=f"{least:g} or more, to fall from {start:g} to {target:g} bits in"
                f" {self.projection_periods} periods",
                found=f"{reduction:g}",
            )

    def __str__(self) -> str:
        rows = [f"{'stage':<11} {'steps':>8} {'from':>8} {'periods':>8}"]
        periods = (1, self.projection_periods, self.joint_periods, 1)
        lengths = (self.warm_up, self.projection, self.joint, self.cool_down)
        for stage, length, count in zip(Stage, lengths, periods, strict=True):
            rows.append(f"{stage.value:<11} {length:>8} {self.start(stage):>8} {count if length else 0:>8}")
        return "\n".join(rows)


def in_periods(within: int, steps: int, periods: int) -> tuple[int, int, int]:
    """The period, the step in it, and its length; lengths differ by one step at most."""
    period = ((within + 1) * periods - 1) // steps
    first, after = period * steps // periods, (period + 1) * steps // periods
    return period, within - first, after - first


def steps_of(name: str, value: float, total: int) -> int:
    """A number of steps, which may be given as a share of the total."""
    if is_whole(value) and value >= 0:
        return int(value)
    if is_number(value) and 0 <= value <= 1:
        return int(value * total + 1e-6)  # rounded down: shares that make 1 are never too many steps
    raise OptionError(
        "this is neither a number of steps nor a share of them",
        where=name,
        required="a whole number, or a share from 0 to 1",
        found=repr(value),
    )


def check_total(total: int) -> None:
    if not is_whole(total) or total < 1:
        raise OptionError(
            "how many steps the training has must be known",
            where="steps",
            required="a whole number above 0, such as len(loader) * epochs",
            found=repr(total),
        )


def is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
