"""The options of a run, as the command line and the library share them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from getac.passes import ChooseUnits, Pass, Pipeline, Progress, State, quantizing_passes

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """How to lower.

    Args:
        sparsity: The share of units to remove, in [0, 1); "auto": those that are zero already.
        align: The multiple that channel counts are kept at; "auto": what each layer's kernel likes.
        ranges: How activation ranges are estimated: "minmax", "percentile" or "mse".
        weight_bits: 2 to 8, where the model has no quantizers of its own.
        activation_bits: 2 to 8, likewise.
        bench: Whether to measure latency.
        keep: Globs on parameter names: no unit of these is removed.
        force: Whether to write a result that does not verify.
        seed: For generated inputs.
        on_step: Called with the name of every step before it starts.
        on_sample: Called with the number of samples calibrated so far, and of all.
    """

    sparsity: float | Literal["auto"] = "auto"
    align: int | Literal["auto"] = "auto"
    ranges: str = "minmax"
    weight_bits: int = 8
    activation_bits: int = 8
    bench: bool = True
    keep: tuple[str, ...] = ()
    force: bool = False
    seed: int = 0
    on_step: Callable[[str], None] | None = None
    on_sample: Progress | None = None

    def choose_units(self, integer: bool) -> ChooseUnits:
        return ChooseUnits(
            sparsity=None if self.sparsity == "auto" else self.sparsity,
            align=None if self.align == "auto" else self.align,
            integer=integer,
        )

    def quantizing_passes(self, integer: bool) -> tuple[Pass, ...]:
        weights, calibrate = quantizing_passes(
            self.ranges, self.weight_bits, self.activation_bits, self.on_sample
        )
        return (weights, calibrate) if integer else (weights,)

    def check(self) -> None:
        """Builds the passes, which refuse values outside their domain, before anything is read."""
        self.choose_units(integer=True)
        self.quantizing_passes(integer=True)

    def step(self, name: str) -> None:
        if self.on_step:
            self.on_step(name)

    def run(self, state: State, *passes: Pass) -> None:
        Pipeline(passes, on_pass=self.on_step).run(state)
