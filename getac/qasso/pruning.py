"""What a person wants removed, and how it is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx

from getac.axes.analysis import analyze_view
from getac.axes.axis import Axis
from getac.axes.wishes import Wishes, check_globs
from getac.errors import OptionError
from getac.fx_graph.view import FxView
from getac.qasso.choosing import Target, choose_units, multiples_of, plan_target, unreachable
from getac.qasso.saliency import SALIENCIES, Saliency, macs_of, score_units
from getac.qasso.schedule import is_whole
from getac.qasso.units import UnitTable

__all__ = ["Pruning"]


@dataclass(frozen=True)
class Pruning:
    """Which units become redundant.

    Args:
        sparsity: The share of all units to remove, in [0, 1).
        keep: Globs on parameter names: no unit of these is removed.
        prune: Globs on parameter names whose axes are opened although statistics are taken over them.
        align: The multiple that channel counts are kept at, 1 for none; "auto": what each layer's kernel
            likes.
        saliency: A name of `getac.qasso.saliency.SALIENCIES`, or a function of a table of units and its
            module that returns one number per unit.
        cost: What scores are divided by: "macs", or name of a class -> what one of its units saves, or
            None.
        minimum: How many units each class keeps at least.

    Raises:
        OptionError: The alignment is no multiple.
    """

    sparsity: float = 0.5
    keep: Sequence[str] = ()
    prune: Sequence[str] = ()
    align: int | Literal["auto"] = "auto"
    saliency: str | Saliency = "mixed"
    cost: Literal["macs"] | Mapping[str, float] | None = None
    minimum: int = 1

    def __post_init__(self) -> None:
        align: object = self.align
        if align != "auto" and not (is_whole(align) and self.multiple):
            required = "a whole number above 0, or auto"
            raise OptionError("this is no alignment", where="align", required=required, found=repr(align))
        if not callable(self.saliency) and self.saliency not in SALIENCIES:
            required = f"{', '.join(SALIENCIES)}, or a function"
            raise OptionError("there is no such saliency", required=required, found=repr(self.saliency))

    @property
    def multiple(self) -> int | None:
        """None: what each layer's kernel likes."""
        return None if self.align == "auto" else max(int(self.align), 0)

    @property
    def wishes(self) -> Wishes:
        return Wishes.of(self.keep, self.prune)

    def table(self, module: fx.GraphModule) -> UnitTable:
        """The units of a module as it is now."""
        analysis = analyze_view(FxView(module), self.wishes)
        check_globs(analysis, "keep", self.keep)
        check_globs(analysis, "prune", self.prune)
        return UnitTable.of(module, analysis)

    def multiples(self, table: UnitTable) -> Mapping[Axis, int]:
        return multiples_of(table, self.multiple)

    def plan(self, table: UnitTable) -> Target:
        """How many units go in the end: K of the paper.

        Raises:
            GetacError: They cannot be reached; names the classes and what is frozen, and why.
        """
        if self.sparsity and not table.size:
            raise unreachable(table, self.sparsity, 1, 0)
        return plan_target(table, self.sparsity, self.multiples(table), self.minimum)

    def choose(self, table: UnitTable, amount: int, final: int, gone: Tensor) -> Tensor:
        """The numbers of the units to remove next.

        Args:
            amount: How many.
            final: How many go from now on, these included.
            gone: Which units are zero already; shape (table.size,).
        """
        costs = macs_of(table) if self.cost == "macs" else self.cost
        scores = score_units(table, self.saliency, costs)
        multiples = self.multiples(table)
        return choose_units(
            table, scores, amount, final, multiples=multiples, minimum=self.minimum, gone=gone
        )
