"""What a person wants removed, and how it is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from torch import Tensor, fx

from getac.axes.analysis import analyze_view
from getac.axes.axis import Axis
from getac.axes.wishes import Wishes, check_globs
from getac.errors import OptionError
from getac.fx_graph.view import FxView
from getac.qasso.choosing import Target, choose_units, multiples_of, plan_target
from getac.qasso.saliency import Saliency, macs_of, score_units
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
        is_multiple = isinstance(self.align, Integral) and not isinstance(self.align, bool) and self.align > 0
        if self.align != "auto" and not is_multiple:
            required = "a whole number above 0, or auto"
            raise OptionError(
                "this is no alignment", where="align", required=required, found=repr(self.align)
            )

    @property
    def wishes(self) -> Wishes:
        return Wishes(tuple(self.keep), tuple(self.prune))

    def table(self, module: fx.GraphModule) -> UnitTable:
        """The units of a module as it is now."""
        analysis = analyze_view(FxView(module), self.wishes)
        check_globs(analysis, "keep", self.keep)
        check_globs(analysis, "prune", self.prune)
        return UnitTable.of(module, analysis)

    def multiples(self, table: UnitTable) -> Mapping[Axis, int]:
        return multiples_of(table, None if self.align == "auto" else int(self.align))

    def plan(self, table: UnitTable) -> Target:
        """How many units go in the end: K of the paper.

        Raises:
            GetacError: They cannot be reached; names the classes and what is frozen, and why.
        """
        return plan_target(table, self.sparsity, self.multiples(table), self.minimum)

    def choose(self, table: UnitTable, amount: int, final: int, gone: Tensor) -> Tensor:
        """The numbers of the units to remove next.

        Args:
            amount: How many.
            final: How many go from now on, these included.
            gone: Which units are zero already; shape (table.size,).
        """
        costs = macs_of(table) if self.cost == "macs" else self.cost
        scores = score_units(table, self.saliency, costs)  # type: ignore[arg-type]
        multiples = self.multiples(table)
        return choose_units(
            table, scores, amount, final, multiples=multiples, minimum=self.minimum, gone=gone
        )
