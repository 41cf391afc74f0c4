"""Blocks of units that go together, and the totals that whole blocks add up to.

A class loses its blocks in one order, least salient first: what it has lost is always a first part of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
import numpy.typing as npt

__all__ = ["Blocks", "nearest", "pick", "reachable", "steps_of", "whole_bundles"]

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def steps_of(count: int, multiple: int, minimum: int) -> Integers:
    """How many units go at a time, from `count` on, to stay at multiples and not below the minimum."""
    least = -(-minimum // multiple) * multiple
    lower = range((count - 1) // multiple * multiple, least - 1, -multiple)
    counts: Integers = np.array([count, *lower], dtype=np.int64)
    return counts[:-1] - counts[1:]


def whole_bundles(
    bundles: Integers, scores: Floats, multiple: int, minimum: int
) -> tuple[Integers, Integers]:
    """The units of a class that may go, in whole bundles, and how many of them go at a time.

    Args:
        bundles: The bundle of each unit; those of a negative one stay.
        scores: Of the units; a bundle goes by the mean of its own.
        multiple: What is left is a multiple of this, and not less than `minimum`.
    """
    numbers, members, sizes = np.unique(bundles, return_inverse=True, return_counts=True)
    means = np.bincount(members, scores, len(numbers)) / sizes
    rank = np.lexsort((means, numbers < 0))  # those that stay come last
    order = np.argsort(np.argsort(rank)[members], kind="stable")
    ends = np.cumsum(sizes[rank])[: (numbers >= 0).sum()]
    left = len(bundles) - ends
    ends = ends[(left % multiple == 0) & (left >= minimum)]
    return order.astype(np.int64), np.diff(ends, prepend=0).astype(np.int64)


def reachable(steps: Sequence[Integers], limit: int) -> int:
    """The totals up to a limit that first parts of the steps add up to, as the bits of one integer."""
    totals, mask = 1, (1 << (limit + 1)) - 1
    for step in steps:
        if (step == 1).all():
            totals = with_any(totals, len(step)) & mask
        else:
            sums = np.cumsum(step)
            shifted = [totals << taken for taken in sums[sums <= limit].tolist()]
            totals = reduce(or_, shifted, totals) & mask
    return totals


def with_any(totals: int, count: int) -> int:
    """Every total plus 0, 1, ... count; by doubling."""
    spread = 0
    while spread < count:
        step = min(spread + 1, count - spread)
        totals |= totals << step
        spread += step
    return totals


def nearest(totals: int, wanted: int) -> int:
    """The total next to a number; the smaller one of two."""
    below = (totals & ((1 << (wanted + 1)) - 1)).bit_length() - 1  # 0 is always among them
    above = totals >> wanted
    up = (above & -above).bit_length() - 1 if above else wanted + 1
    return below if wanted - below <= up else wanted + up


@dataclass(frozen=True, eq=False)
class Blocks:
    """All blocks of all classes, one class after the other, in the order in which they would go.

    Args:
        units: The units in them, one block after the other.
        sizes: How many units each block has.
        classes: The position of each block's class.
        scores: The mean of its units.
    """

    units: Integers
    sizes: Integers
    classes: Integers
    scores: Floats

    @classmethod
    def of(
        cls,
        live: Sequence[Integers],
        scores: Floats,
        multiples: Sequence[int],
        minimum: int,
        bundles: Sequence[Integers | None] | None = None,
    ) -> Blocks:
        """Cuts classes, given by their units.

        Args:
            scores: Of all units; no NaN.
            bundles: Where units of a class go together, the bundle of each of them (see `whole_bundles`).
        """
        together = [None] * len(live) if bundles is None else bundles
        order, sizes = [], []
        for own, multiple, bundle in zip(live, multiples, together, strict=True):
            if bundle is None:
                order.append(own[np.argsort(scores[own], kind="stable")])
                sizes.append(steps_of(len(own), multiple, minimum))
            else:
                going, steps = whole_bundles(bundle, scores[own], multiple, minimum)
                order.append(own[going])
                sizes.append(steps)
        units = concatenated([one[: step.sum()] for one, step in zip(order, sizes, strict=True)])
        classes = concatenated([np.full(len(step), i) for i, step in enumerate(sizes)])
        flat = concatenated(sizes)
        starts = np.cumsum(flat) - flat
        means = np.add.reduceat(scores[units], starts) / flat if len(flat) else np.zeros(0)
        return cls(units, flat, classes, means)

    def steps(self, taken: npt.NDArray[np.bool_]) -> list[Integers]:
        """The sizes of each class's blocks that are not taken."""
        left = ~taken
        ends = np.searchsorted(self.classes[left], np.arange(1, self.classes.max(initial=0) + 1))
        return np.split(self.sizes[left], ends)

    def nearest(self, wanted: int) -> int:
        """The number of units next to a wanted one that whole blocks add up to; the smaller one of two."""
        totals = reachable(self.steps(np.zeros(len(self.sizes), dtype=np.bool_)), int(self.sizes.sum()))
        return nearest(totals, wanted)

    def units_in(self, taken: npt.NDArray[np.bool_]) -> Integers:
        return self.units[np.repeat(taken, self.sizes)]


def concatenated(parts: Sequence[Integers]) -> Integers:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def pick(blocks: Blocks, amount: int, final: int) -> npt.NDArray[np.bool_]:
    """Takes the least salient blocks: up to `amount` units, so that `final` can still be reached exactly.

    Args:
        final: How many units go in the end; if it is `amount`, exactly that many are taken.
    """
    order = least_salient(blocks, amount)
    taken = np.zeros(len(blocks.sizes), dtype=np.bool_)
    taken[order] = True
    rest = final - int(blocks.sizes[order].sum())
    while rest and not reachable(blocks.steps(taken), rest) >> rest & 1:
        last = order.pop()  # of its class too: a class goes in the order of its scores
        taken[last] = False
        rest += int(blocks.sizes[last])
    if rest and amount == final:
        taken |= exactly(blocks, taken, rest)
    return taken


def least_salient(blocks: Blocks, amount: int) -> list[int]:
    """Blocks by score, while they fit; a class of which one did not fit is done."""
    order = np.argsort(blocks.scores, kind="stable")
    fit = int(np.searchsorted(np.cumsum(blocks.sizes[order]), amount, side="right"))
    chosen: list[int] = order[:fit].tolist()
    left = amount - int(blocks.sizes[chosen].sum())
    done: set[int] = set()
    for block in order[fit:].tolist():
        if left == 0:
            break
        one = int(blocks.classes[block])
        if one not in done and blocks.sizes[block] <= left:
            chosen.append(block)
            left -= int(blocks.sizes[block])
        else:
            done.add(one)
    return chosen


def exactly(blocks: Blocks, taken: npt.NDArray[np.bool_], rest: int) -> npt.NDArray[np.bool_]:
    """The blocks of the least total score that have `rest` units; a reachable number.

    Dynamic programming over classes: the least cost of every total, and how many blocks a class adds to it.
    """
    costs = np.where(np.arange(rest + 1) == 0, 0.0, np.inf)
    added: list[tuple[Integers, Integers]] = []
    for one in np.unique(blocks.classes[~taken]):
        mine = np.flatnonzero(~taken & (blocks.classes == one))
        sums = np.cumsum(blocks.sizes[mine])
        prices = np.cumsum(np.nan_to_num(blocks.scores[mine], posinf=1e30) * blocks.sizes[mine])
        best, count = costs.copy(), np.zeros(rest + 1, dtype=np.int64)
        for i, total in enumerate(sums[sums <= rest].tolist()):
            candidate = costs[: rest + 1 - total] + prices[i]
            better = candidate < best[total:]
            best[total:][better], count[total:][better] = candidate[better], i + 1
        costs = best
        added.append((mine, count))
    chosen = np.zeros(len(taken), dtype=np.bool_)
    for mine, count in reversed(added):
        blocks_here = mine[: count[rest]]
        chosen[blocks_here] = True
        rest -= int(blocks.sizes[blocks_here].sum())
    return chosen
