"""The options of a run, as the command line and the library share them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import Literal

from getac.errors import OptionError
from getac.kernel_costs import CostTable, default_table, read_table
from getac.passes import (
    ChooseStrategies,
    ChooseUnits,
    Pass,
    Pipeline,
    Progress,
    ReplayQuantizers,
    ReplayUnits,
    State,
    integer_passes,
    quantizing_passes,
    weight_only_passes,
)
from getac.pipeline import Announcer
from getac.plans.saved_plan import SavedPlan

__all__ = ["Options"]

WEIGHT_BITS = 8


@dataclass(frozen=True)
class Options:
    """How to lower: the keyword arguments of `getac.lower`, which explains them.

    Args:
        replayed: A plan (docs/plan.md): its units go and its bits are used, instead of `sparsity`, `align`,
            `weight_bits`, `activation_bits`, `block` and `embedding_bits`.
    """

    sparsity: float | Literal["auto"] = "auto"
    align: int | Literal["auto"] = "auto"
    ranges: str = "minmax"
    weight_bits: int | Literal["auto"] = "auto"
    activation_bits: int = 8
    block: int | Literal["auto"] | None = "auto"
    embedding_bits: int | None = 8
    target: str = "portable"
    cost: str | os.PathLike[str] | None = None
    latency_budget: float | None = None
    bench: bool = True
    keep: Sequence[str] = ()
    force: bool = False
    seed: int = 0
    replayed: SavedPlan | None = None
    on_step: Callable[[str], None] | None = None
    on_sample: Progress | None = None

    @property
    def share(self) -> float | None:
        """The share of units to remove; None: those that are zero already."""
        return None if self.sparsity == "auto" else float(self.sparsity)

    @property
    def multiple(self) -> int | None:
        """The multiple of channels; None: what each layer's kernel likes."""
        return None if self.align == "auto" else int(self.align)

    @cached_property
    def costs(self) -> CostTable:
        """What kernels take."""
        return default_table() if self.cost is None else read_table(self.cost)

    def choose_units(self, integer: bool) -> Pass:
        if self.replayed is not None:
            return ReplayUnits(self.replayed.path)
        return ChooseUnits(sparsity=self.share, align=self.multiple, integer=integer)

    def strategy_passes(self) -> tuple[Pass, ...]:
        """What decides on layers that could run on integers; a plan says it itself."""
        return () if self.replayed is not None else (ChooseStrategies(),)

    def quantizing_passes(self, integer: bool) -> tuple[Pass, ...]:
        replayed: tuple[Pass, ...] = ()
        embedding_bits = self.embedding_bits
        if self.replayed is not None:
            replayed = (ReplayQuantizers(self.replayed.path, self.ranges, self.on_sample),)
            embedding_bits = None  # tables without quantizers in the plan stay floats
        *weights, calibrate = quantizing_passes(
            self.ranges,
            WEIGHT_BITS if self.weight_bits == "auto" else self.weight_bits,
            self.activation_bits,
            self.on_sample,
            self.block,
            embedding_bits,
            self.target,
        )
        return (*replayed, *weights, calibrate) if integer else (*replayed, *weights)

    def lowering_passes(self, integer: bool) -> tuple[Pass, ...]:
        return integer_passes(self.target) if integer else weight_only_passes(self.target)

    def check(self) -> None:
        """Refuses values of other types, or outside their domain, before anything is read.

        Raises:
            OptionError: As it says.
        """
        check_number("sparsity", self.sparsity, Real, "a number in [0, 1), or auto", others=("auto",))
        check_number("align", self.align, Integral, "a whole number, or auto", others=("auto",))
        check_number("weight_bits", self.weight_bits, Integral, "2 to 8, or auto", others=("auto",))
        check_number("activation_bits", self.activation_bits, Integral, "2 to 8")
        check_number("block", self.block, Integral, "16 to 256, None or auto", others=("auto", None))
        check_number("embedding_bits", self.embedding_bits, Integral, "2 to 8, or None", others=(None,))
        check_number("seed", self.seed, Integral, "a whole number")
        if isinstance(self.keep, str) or not all(isinstance(glob, str) for glob in self.keep):
            raise OptionError(
                "keep is a sequence of globs", required='such as keep=["layer4.*"]', found=repr(self.keep)
            )
        self.check_budget()
        assert self.costs  # a file that is no table is refused here
        self.choose_units(integer=True)  # the passes know their domains
        self.quantizing_passes(integer=True)
        self.lowering_passes(integer=True)

    def check_budget(self) -> None:
        check_number("latency_budget", self.latency_budget, Real, "a number in (0, 1)", others=(None,))
        if self.latency_budget is None:
            return
        if not 0 < self.latency_budget < 1:
            raise OptionError(
                "the latency budget is a part of the original's latency",
                required="a number in (0, 1)",
                found=str(self.latency_budget),
            )
        if self.sparsity != "auto":
            raise OptionError(
                "a latency budget picks the sparsity; both were given",
                required="one of them",
                found=f"sparsity {self.sparsity}, latency budget {self.latency_budget}",
            )

    def step(self, name: str) -> None:
        if self.on_step:
            self.on_step(name)

    def run(self, state: State, *passes: Pass) -> None:
        Pipeline(passes, watchers=[Announcer(self.step)]).run(state)


def check_number(
    name: str, value: object, kind: type, required: str, others: tuple[str | None, ...] = ()
) -> None:
    if (value is None or isinstance(value, str)) and value in others:
        return
    if not isinstance(value, kind) or isinstance(value, bool):
        raise OptionError(f"{name} has a value of another type", required=required, found=repr(value))
