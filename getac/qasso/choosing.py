"""Which units become redundant next: the least salient of those that are left, in aligned blocks.

A class keeps counts that its kernels like (see `getac.placement.alignment`), so its units go in blocks: with
multiples of 4, 61 of them lose 1, then 4 at a time. Which totals can be reached exactly is known before
training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from getac.axes.axis import Axis
from getac.errors import BadInputError, OptionError
from getac.fx_graph.view import FxView
from getac.placement.alignment import unit_multiples
from getac.qasso.schedule import is_number, is_whole
from getac.qasso.units import UnitTable
from getac.training.quantizers import find_quantizers
from getac.units.unit_blocks import Blocks, nearest, pick, reachable, steps_of

__all__ = ["Target", "check_options", "choose_units", "multiples_of", "plan_target"]


@dataclass(frozen=True)
class Target:
    """How many units go in the end.

    Args:
        units: How many there are.
        wanted: The share of them that was asked for, rounded.
        reached: The nearest number that aligned counts allow, the smaller one of two.
    """

    units: int
    wanted: int
    reached: int

    @property
    def sparsity(self) -> float:
        return self.reached / self.units if self.units else 0.0


def multiples_of(table: UnitTable, align: int | None = None) -> Mapping[Axis, int]:
    """Class atom -> the multiple that its kernels like; see `getac.placement.alignment.unit_multiples`.

    Layers whose weights have quantizers will run on integers, if activations have some as well.

    Args:
        align: Channel multiple for every layer, 1 for none; None: what each layer's kernel likes.
    """
    view = table.analysis.view
    assert isinstance(view, FxView)
    has_activations = any(not one.of_weight for one in find_quantizers(table.module))
    return unit_multiples(table.analysis, align, view.quantizers if has_activations else ())


def plan_target(
    table: UnitTable, sparsity: float, multiples: Mapping[Axis, int] | None = None, minimum: int = 1
) -> Target:
    """Decides how many units go, before training starts.

    Args:
        sparsity: The share of all units of the table, in [0, 1).
        multiples: From `multiples_of`; None: any number will do.
        minimum: How many units each class keeps at least.

    Raises:
        OptionError: An option is outside of its domain.
        BadInputError: There are not that many units that may go.
    """
    check_options(sparsity, minimum)
    wanted = round(sparsity * table.size)
    known = multiples or {}
    steps = [steps_of(one.size, known.get(one.atom, 1), minimum) for one in table.classes]
    most = sum(int(step.sum()) for step in steps)
    if wanted > most:
        raise unreachable(table, sparsity, wanted, most)
    return Target(table.size, wanted, nearest(reachable(steps, most), wanted))


def check_options(sparsity: float, minimum: int) -> None:
    if not is_number(sparsity) or not 0 <= sparsity < 1:
        required, found = "a number in [0, 1)", repr(sparsity)
        raise OptionError("the sparsity is the share of units to remove", required=required, found=found)
    if not is_whole(minimum) or minimum < 1:
        raise OptionError("every class keeps one unit at least", required="1 or more", found=repr(minimum))


def unreachable(table: UnitTable, sparsity: float, wanted: int, most: int) -> BadInputError:
    names = [f"{one.name} ({one.size} {one.role} of {one.place or 'the model'})" for one in table.classes]
    reasons = Counter(one.why.reason for one in table.analysis.frozen)
    frozen = [f"{reason} ({count})" for reason, count in reasons.most_common()]
    frozen += [f"{name}: {reason}" for name, reason in table.excluded.items()]
    found = f"{table.size} open units in {len(names)} classes, of which {most} may go"
    return BadInputError(
        f"a sparsity of {sparsity:g} cannot be reached",
        where=listed(names) or "no class is open",
        required=f"{wanted} units that may go",
        found=f"{found}; frozen axes: {listed(frozen)}" if frozen else found,
        hint="a lower sparsity, another alignment, fewer axes kept on request; analysis.frozen lists them",
    )


def listed(names: Sequence[str], most: int = 8) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


def choose_units(
    table: UnitTable,
    scores: Tensor,
    amount: int,
    final: int | None = None,
    *,
    multiples: Mapping[Axis, int] | None = None,
    minimum: int = 1,
    gone: Tensor | None = None,
) -> Tensor:
    """The least salient units, never all of a class.

    Args:
        scores: One per unit, shape (table.size,); no NaN.
        amount: How many to choose now: not more, and fewer only where blocks do not fit.
        final: How many go from now on in all, these included; None: these are the last. The last choice
            is exact; if `final` cannot be reached from here, the nearest number is taken in its place.
        multiples: From `multiples_of` of this table; None: any number will do.
        minimum: How many units each class keeps at least.
        gone: Units that are zero already but still there; bools, shape (table.size,).

    Returns:
        Their numbers in rising order, on the table's device.
    """
    out = np.zeros(table.size, dtype=np.bool_) if gone is None else gone.cpu().numpy()
    live = [np.flatnonzero(~out[table.units_of(i)]) + offset for i, offset in enumerate(table.offsets)]
    known = multiples or {}
    blocks = Blocks.of(
        live,
        scores.detach().cpu().double().numpy(),
        [known.get(one.atom, 1) for one in table.classes],
        minimum,
    )
    is_last = final is None or final <= amount
    final = blocks.nearest(amount if final is None else final)
    taken = pick(blocks, final if is_last else min(amount, final), final)
    return torch.from_numpy(np.sort(blocks.units_in(taken))).to(table.device)
