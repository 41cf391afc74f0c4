"""Which units become redundant next: the least salient of those that are left, in aligned blocks.

A class may keep the counts that its kernels like (see `getac.alignment`), so its units go in blocks: with
multiples of 4, 61 of them lose 1, then 4 at a time. Which totals can be reached exactly is known beforehand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from getac.alignment import unit_multiples
from getac.axes.axis import Axis
from getac.errors import BadInputError, OptionError
from getac.qasso.units import UnitTable

__all__ = ["Target", "choose_units", "multiples_of", "plan_target"]

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Target:
    """How many units go in the end.

    Args:
        units: How many there are.
        wanted: The share of them that was asked for, rounded.
        reached: The nearest number that aligned counts allow; the smaller one of two.
        multiples: Class atom -> the multiple that the number of its units is kept at.
        minimum: How many units each class keeps at least.
    """

    units: int
    wanted: int
    reached: int
    multiples: Mapping[Axis, int]
    minimum: int = 1

    @property
    def sparsity(self) -> float:
        return self.reached / self.units if self.units else 0.0


def multiples_of(table: UnitTable, align: int | None = None, integer: bool = True) -> Mapping[Axis, int]:
    """Class atom -> the multiple that its kernels like; see `getac.alignment.unit_multiples`.

    Args:
        align: Channel multiple for every layer, 1 for none; None: what each layer's kernel likes.
    """
    return unit_multiples(table.analysis, align, integer)


def plan_target(
    table: UnitTable, sparsity: float, multiples: Mapping[Axis, int] | None = None, minimum: int = 1
) -> Target:
    """Decides how many units go, before training starts.

    Args:
        sparsity: The share of all units in open classes, in [0, 1).
        multiples: From `multiples_of`; None: any number will do.
        minimum: How many units each class keeps at least.

    Raises:
        OptionError: An option is outside of its domain.
        BadInputError: There are not that many units that may go.
    """
    check_options(sparsity, minimum)
    multiples = multiples or {}
    wanted = round(sparsity * table.size)
    steps = [steps_of(one.size, multiples.get(one.atom, 1), minimum) for one in table.classes]
    most = sum(int(step.sum()) for step in steps)
    if wanted > most:
        raise unreachable(table, sparsity, wanted, most)
    totals = reachable(steps, most)
    reached = next(
        total for far in range(most + 1) for total in (wanted - far, wanted + far) if has(totals, total)
    )
    return Target(table.size, wanted, reached, multiples, minimum)


def check_options(sparsity: float, minimum: int) -> None:
    if not 0 <= sparsity < 1:
        required = "a number in [0, 1)"
        raise OptionError("the sparsity is the share of units to remove", required=required, found=str(sparsity))
    if minimum < 1:
        raise OptionError("every class keeps one unit at least", required="1 or more", found=str(minimum))


def unreachable(table: UnitTable, sparsity: float, wanted: int, most: int) -> BadInputError:
    names = [f"{one.name} ({one.size} {one.role} of {one.place or 'the model'})" for one in table.classes]
    reasons = Counter(one.why.reason for one in table.analysis.frozen)
    frozen = [f"{reason} ({count} axes)" for reason, count in reasons.most_common(5)]
    frozen += [f"class {name}: {reason}" for name, reason in table.excluded.items()]
    found = f"{table.size} open units in {len(names)} classes, of which {most} may go"
    return BadInputError(
        f"a sparsity of {sparsity:g} cannot be reached",
        where=listed(names) or "no class is open",
        required=f"{wanted} units to remove",
        found=f"{found}; frozen: {listed(frozen)}" if frozen else found,
        hint="a lower sparsity, another alignment, or fewer globs of `keep`; getac inspect lists every axis",
    )


def listed(names: Sequence[str], most: int = 8) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


def steps_of(count: int, multiple: int, minimum: int) -> Integers:
    """How many units go at a time, from `count` on, to stay at multiples and not below the minimum."""
    least = -(-minimum // multiple) * multiple
    return -np.diff([count, *range((count - 1) // multiple * multiple, least - 1, -multiple)])


def reachable(steps: Sequence[Integers], limit: int) -> int:
    """The totals that some first steps of every class add up to, as the bits of one integer."""
    totals, mask = 1, (1 << (limit + 1)) - 1
    for step in steps:
        if len(step) and (step == 1).all():
            totals = any_number(totals, len(step)) & mask
        else:
            sums = np.cumsum(step).tolist()
            totals |= sum_of_bits(totals << taken for taken in sums if taken <= limit) & mask
    return totals


def any_number(totals: int, count: int) -> int:
    """Adds 0 to `count` to every total, by doubling."""
    spread = 0
    while spread < count:
        step = min(spread + 1, count - spread)
        totals |= totals << step
        spread += step
    return totals


def sum_of_bits(parts: object) -> int:
    result = 0
    for part in parts:  # type: ignore[attr-defined]
        result |= part
    return result


def has(totals: int, total: int) -> bool:
    return total >= 0 and bool(totals >> total & 1)
