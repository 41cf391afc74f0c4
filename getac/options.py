"""The options of a run, as the command line and the library share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

from getac.errors import OptionError
from getac.passes import ChooseUnits, Pass, Pipeline, Progress, State, quantizing_passes
from getac.pipeline import Announcer

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
    keep: Sequence[str] = ()
    force: bool = False
    seed: int = 0
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

    def choose_units(self, integer: bool) -> ChooseUnits:
        return ChooseUnits(sparsity=self.share, align=self.multiple, integer=integer)

    def quantizing_passes(self, integer: bool) -> tuple[Pass, ...]:
        weights, calibrate = quantizing_passes(
            self.ranges, self.weight_bits, self.activation_bits, self.on_sample
        )
        return (weights, calibrate) if integer else (weights,)

    def check(self) -> None:
        """Refuses values of other types, or outside their domain, before anything is read.

        Raises:
            OptionError: As it says.
        """
        check_number("sparsity", self.sparsity, Real, "a number in [0, 1), or auto", auto=True)
        check_number("align", self.align, Integral, "a whole number, or auto", auto=True)
        check_number("weight_bits", self.weight_bits, Integral, "2 to 8")
        check_number("activation_bits", self.activation_bits, Integral, "2 to 8")
        check_number("seed", self.seed, Integral, "a whole number")
        if isinstance(self.keep, str) or not all(isinstance(glob, str) for glob in self.keep):
            raise OptionError(
                "keep is a sequence of globs", required='such as keep=["layer4.*"]', found=repr(self.keep)
            )
        self.choose_units(integer=True)  # the passes know their domains
        self.quantizing_passes(integer=True)

    def step(self, name: str) -> None:
        if self.on_step:
            self.on_step(name)

    def run(self, state: State, *passes: Pass) -> None:
        Pipeline(passes, watchers=[Announcer(self.step)]).run(state)


def check_number(name: str, value: object, kind: type, required: str, auto: bool = False) -> None:
    if auto and isinstance(value, str) and value == "auto":
        return
    if not isinstance(value, kind) or isinstance(value, bool):
        raise OptionError(f"{name} has a value of another type", required=required, found=repr(value))
