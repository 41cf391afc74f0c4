"""What a person wants removed, and how it is chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, fx

from getac.axes.analysis import analyze_view
from getac.axes.axis import Axis
from getac.axes.wishes import Wishes, check_globs
from getac.errors import OptionError
from getac.fx_graph.view import FxView
from getac.qasso.choosing import Target, check_options, choose_units, multiples_of, plan_target, unreachable
from getac.qasso.costs import COSTS, UnitCosts
from getac.qasso.saliency import SALIENCIES, Saliency, score_units
from getac.qasso.schedule import is_number, is_whole
from getac.qasso.units import UnitTable

__all__ = ["Cost", "Pruning"]

Cost = Literal["macs", "bops", "latency"] | Mapping[str, float]
"""A name of `COSTS`, or name of a class -> what one of its units saves."""


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
        cost: What scores are divided by: a name of `getac.qasso.costs.COSTS` ("macs", "bops", "latency"), or
            name of a class -> what one of its units saves, seconds that were measured for instance; None:
            nothing.
        cost_exponent: The power of the cost. With 1 the scores are per saving, and the classes that save the
            most may go down to their minimum; near 0 costs only decide between equals.
        minimum: How many units each class keeps at least.

    Raises:
        OptionError: An option is outside of its domain.
    """

    sparsity: float = 0.5
    keep: Sequence[str] = ()
    prune: Sequence[str] = ()
    align: int | Literal["auto"] = "auto"
    saliency: str | Saliency = "mixed"
    cost: Cost | None = None
    cost_exponent: float = 0.5
    minimum: int = 1

    def __post_init__(self) -> None:
        check_options(self.sparsity, self.minimum)
        _ = self.wishes  # refuses what is no sequence of globs
        align: object = self.align
        if align != "auto" and not (is_whole(align) and self.multiple):
            required = "a whole number above 0, or auto"
            raise OptionError("this is no alignment", where="align", required=required, found=repr(align))
        if not callable(self.saliency) and self.saliency not in SALIENCIES:
            required = f"{', '.join(SALIENCIES)}, or a function"
            raise OptionError("there is no such saliency", required=required, found=repr(self.saliency))
        check_cost(self.cost, self.cost_exponent)

    @property
    def multiple(self) -> int | None:
        """None: what each layer's kernel likes."""
        return None if self.align == "auto" else max(int(self.align), 0)

    @property
    def wishes(self) -> Wishes:
        return Wishes.of(self.keep, self.prune)

    @property
    def settings(self) -> dict[str, Any]:
        """What a training that is resumed must have in common with the first run: numbers and strings."""
        cost, saliency = self.cost, self.saliency
        name = saliency if isinstance(saliency, str) else getattr(saliency, "__name__", "a function")
        return {
            "sparsity": float(self.sparsity),
            "keep": list(self.keep),
            "prune": list(self.prune),
            "align": "auto" if self.multiple is None else self.multiple,
            "minimum": int(self.minimum),
            "saliency": name,
            "cost": "one per class" if isinstance(cost, Mapping) else str(cost),
            "cost_exponent": float(self.cost_exponent),
        }

    def table(self, module: fx.GraphModule, trained_by: Collection[Tensor] | None = None) -> UnitTable:
        """The units of a module as it is now.

        Args:
            trained_by: A set of the parameters that an optimizer trains; None: all that require gradients.
        """
        analysis = analyze_view(FxView(module), self.wishes)
        check_globs(analysis, "keep", self.keep)
        check_globs(analysis, "prune", self.prune)
        return UnitTable.of(module, analysis, trained_by)

    def multiples(self, table: UnitTable) -> Mapping[Axis, int]:
        return multiples_of(table, self.multiple)

    def plan(self, table: UnitTable) -> Target:
        """How many units go in the end: K of the paper.

        Raises:
            BadInputError: They cannot be reached; names the classes and what is frozen, and why.
            OptionError: The costs are not those of the classes, or no class saves anything.
        """
        if isinstance(self.cost, Mapping):
            check_names(self.cost, table)
        if self.sparsity and table.size:
            check_savings(self.cost, self.costs(table))
        if self.sparsity and not table.size:
            raise unreachable(table, self.sparsity, 1, 0)
        return plan_target(table, self.sparsity, self.multiples(table), self.minimum)

    def costs(self, table: UnitTable) -> UnitCosts | None:
        """What one unit of each class saves, in the module as it is now; None: that does not matter."""
        return COSTS[self.cost](table) if isinstance(self.cost, str) else self.cost

    def choose(self, table: UnitTable, amount: int, final: int, gone: Tensor) -> Tensor:
        """The numbers of the units to remove next.

        Args:
            amount: How many.
            final: How many go from now on, these included.
            gone: Which units are zero already; shape (table.size,).
        """
        costs = self.costs(table)
        if costs is not None and not saves(costs):
            costs = None  # what is left is too small to save anything: all units are equal then
        scores = score_units(table, self.saliency, costs, self.cost_exponent)
        multiples = self.multiples(table)
        return choose_units(
            table, scores, amount, final, multiples=multiples, minimum=self.minimum, gone=gone
        )


def check_cost(cost: object, exponent: object) -> None:
    if not is_number(exponent) or not 0 <= exponent <= 2:  # type: ignore[operator]
        required = "a number from 0 to 2"
        raise OptionError(
            "this is no power of a cost", where="cost_exponent", required=required, found=repr(exponent)
        )
    if cost is None or (isinstance(cost, str) and cost in COSTS):
        return
    if not isinstance(cost, Mapping) or not all(is_number(one) and one >= 0 for one in cost.values()):
        raise OptionError(
            "this is no cost of units",
            where="cost",
            required=f"{', '.join(COSTS)}, or name of a class -> what one of its units saves, 0 or more;"
            " or None",
            found=repr(cost),
        )


def saves(costs: UnitCosts) -> bool:
    return any(one > 0 for one in costs.values())


def check_savings(cost: Cost | None, costs: UnitCosts | None) -> None:
    """Raises OptionError if no class saves anything: costs would decide nothing."""
    if costs is not None and not saves(costs):
        name = repr(cost) if isinstance(cost, str) else "one per class"
        raise OptionError(
            "removing units saves nothing of this cost",
            where=f"cost={name}" if isinstance(cost, str) else "cost",
            required="a positive saving of one class at least",
            found=f"0 for each of {', '.join(costs)}",
            hint="cost='macs', or None: layers this small take the same time with fewer units"
            if cost == "latency"
            else "leave cost out, or give what one unit of each class saves",
        )


def check_names(cost: Mapping[str, float], table: UnitTable) -> None:
    """Raises OptionError for classes that are not there, or that have no cost."""
    known = {one.name for one in table.analysis.classes}
    unknown = [name for name in cost if name not in known]
    missing = [one.name for one in table.classes if one.name not in cost]
    if unknown or missing:
        found = f"no class {', '.join(map(str, unknown))}" if unknown else f"none for {', '.join(missing)}"
        raise OptionError(
            "the costs are not those of the classes",
            where="cost",
            required=f"one for each of {', '.join(one.name for one in table.classes)}",
            found=found,
        )
