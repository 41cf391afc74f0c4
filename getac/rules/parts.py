"""Operators that put tensors end to end or cut pieces out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.axis import Axis, product, total
from getac.axes.contents import Entry, Literal, Unknown
from getac.axes.reasons import COMPUTED_PLACE, EMPTY_SLICE, INDEXED, INTERLEAVED, SLICED_IN_STEPS
from getac.axes.roles import EMBEDDING, UNITS, UNUSED_ROWS
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, Slab, SlabContext, Slabs

__all__ = ["Concat", "Cut", "Gather", "Slice", "Split"]


@dataclass(frozen=True)
class Concat(Rule):
    """The sizes along `axis` add up, the other dimensions are the same. ONNX Concat."""

    axis: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        inputs = [c.input(i) for i in range(c.inputs)]
        dimension = self.axis % len(inputs[0])
        out = list(inputs[0])
        for other in inputs[1:]:
            for position, axis in enumerate(other):
                if position != dimension:
                    c.same(out[position], axis)
        out[dimension] = total(*(axes[dimension] for axes in inputs))
        if len(out) == 1:
            self._entries(c)
        return [tuple(out)]

    def _entries(self, c: AxisContext) -> None:
        entries: list[Entry] = []
        for index in range(c.inputs):
            entries += c.contents(index) or (Unknown(),) * c.input(index)[0].size
        c.set_contents(tuple(entries))

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank = len(c.sizes())
        dimension = self.axis % rank
        sizes = [c.input_sizes(i)[dimension] for i in range(c.inputs)]
        result = []
        for position in range(rank):
            parts = [c.slab(i, position) for i in range(c.inputs)]
            result.append(end_to_end(parts, sizes) if position == dimension else common(parts))
        return [tuple(result)]


def common(slabs: Sequence[Slab]) -> Slab:
    """What all slabs agree on."""
    result = slabs[0]
    for slab in slabs[1:]:
        result = np.where(result == slab, result, np.nan)
    return result


def end_to_end(slabs: Sequence[Slab], sizes: Sequence[int]) -> Slab:
    """One slab after the other; stays one number where all hold the same."""
    if all(slab.ndim == 0 for slab in slabs) and len({float(slab) for slab in slabs}) == 1:
        return slabs[0]
    return np.concatenate([np.broadcast_to(slab, (size,)) for slab, size in zip(slabs, sizes, strict=True)])


def section(slab: Slab, start: int, stop: int) -> Slab:
    return slab if slab.ndim == 0 else slab[start:stop]


@dataclass(frozen=True)
class Split(Rule):
    """Cuts a dimension into consecutive parts, one output each. ONNX Split: the argument "split"."""

    axis: int

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        dimension = self.axis % len(x)
        parts = [c.atom(c.sizes(output)[dimension]) for output in range(c.outputs)]
        c.same(x[dimension], total(*parts))
        for index, part in enumerate(parts):
            c.size_site("split", part, index)
        return [(*x[:dimension], part, *x[dimension + 1 :]) for part in parts]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank = len(c.input_sizes(0))
        dimension = self.axis % rank
        x = [c.slab(0, position) for position in range(rank)]
        result, start = [], 0
        for output in range(c.outputs):
            stop = start + c.sizes(output)[dimension]
            result.append((*x[:dimension], section(x[dimension], start, stop), *x[dimension + 1 :]))
            start = stop
        return result


@dataclass(frozen=True)
class Cut:
    """One sliced dimension: indices start, start + step, ... before stop, already within the dimension.

    Args:
        entry: The position of this dimension's bounds in the lists "starts" and "ends".
        start_from_end: Whether the start is written as a negative number.
        stop_from_end: Whether the end is written as a negative number.
        fixed: Whether the bounds cannot be rewritten, because they are computed.
    """

    dimension: int
    start: int
    stop: int
    step: int
    entry: int
    start_from_end: bool = False
    stop_from_end: bool = False
    fixed: bool = False


@dataclass(frozen=True)
class Slice(Rule):
    """Cuts one piece out of each sliced dimension. ONNX Slice: the arguments "starts" and "ends".

    Every s-th index of n is one of s interleaved parts, n = n/s x s, where s divides n; other steps freeze.
    """

    cuts: tuple[Cut, ...]

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        out = list(x)
        for cut in self.cuts:
            axis = x[cut.dimension]
            if cut.step == 1 and cut.stop < cut.start:
                c.freeze(axis, EMPTY_SLICE)
                out[cut.dimension] = c.atom(0)
            elif cut.step == 1 and cut.fixed:
                out[cut.dimension] = self._computed_piece(c, axis, cut)
            elif cut.step != 1:
                out[cut.dimension] = self._interleaved_part(c, axis, cut)
            elif (cut.start, cut.stop) != (0, axis.size):
                out[cut.dimension] = self._piece(c, axis, cut)
        if len(x) == 1 and len(self.cuts) == 1 and (contents := c.contents(0)):
            cut = self.cuts[0]
            c.set_contents(tuple(contents[i] for i in range(cut.start, cut.stop, cut.step)))
        return [tuple(out)]

    def _piece(self, c: AxisContext, axis: Axis, cut: Cut) -> Axis:
        """Cuts the axis in three; a bound is the size of what lies before it, or minus that of the rest."""
        before, piece = c.atom(cut.start), c.atom(cut.stop - cut.start)
        after = c.atom(axis.size - cut.stop)
        c.same(axis, total(before, piece, after))
        if c.is_parameter(0):
            c.role(piece, UNITS)
            c.role(total(before, after), UNUSED_ROWS)
        start = total(piece, after) if cut.start_from_end else before
        stop = after if cut.stop_from_end else total(before, piece)
        c.size_site("starts", start, cut.entry, from_end=cut.start_from_end)
        c.size_site("ends", stop, cut.entry, from_end=cut.stop_from_end)
        return piece

    def _interleaved_part(self, c: AxisContext, axis: Axis, cut: Cut) -> Axis:
        """One index of every `step`: a start below the step stays, as does an end that is counted back."""
        count = len(range(cut.start, cut.stop, cut.step))
        whole = cut.step > 0 and count * cut.step == axis.size and cut.start < cut.step
        if not whole or cut.start_from_end or cut.fixed:
            c.freeze(axis, SLICED_IN_STEPS)
            return c.frozen_atom(count, SLICED_IN_STEPS)
        part = c.atom(count, "part")
        c.same(axis, product(part, c.frozen_atom(cut.step, INTERLEAVED)))
        if not cut.stop_from_end:
            c.size_site("ends", axis, cut.entry)
        return part

    def _computed_piece(self, c: AxisContext, axis: Axis, cut: Cut) -> Axis:
        """As `_piece`, with bounds that are followed to what they are the sizes of."""
        before, piece = c.atom(cut.start), c.atom(cut.stop - cut.start)
        c.same(axis, total(before, piece, c.atom(axis.size - cut.stop)))
        bounds = ((1, before, cut.start_from_end), (2, total(before, piece), cut.stop_from_end))
        for index, bound, from_end in bounds:
            contents = c.contents(index) or ()
            entry = contents[cut.entry] if cut.entry < len(contents) else Unknown()
            if from_end or entry == Unknown():
                c.freeze(axis, COMPUTED_PLACE)
            elif not (isinstance(entry, Literal) and entry.value > axis.size):  # beyond the end
                c.size_sites((entry,), (bound,))
        return piece

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        result = [c.slab(0, dimension) for dimension in range(len(c.sizes()))]
        for cut in self.cuts:
            if result[cut.dimension].ndim:
                stop = cut.stop if cut.stop >= 0 else None  # a negative step runs down to the first index
                result[cut.dimension] = result[cut.dimension][cut.start : stop : cut.step]
        return [tuple(result)]


@dataclass(frozen=True)
class Gather(Rule):
    """Picks entries along a dimension, which is frozen. ONNX Gather: inputs data, indices.

    Args:
        picks: The indices, where they are constant and data is a list of integers.
    """

    axis: int
    picks: tuple[int, ...] | None = None

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        data, indices = c.input(0), c.input(1)
        dimension = self.axis % len(data)
        c.freeze(data[dimension], INDEXED)
        if len(data) == 2 and c.is_weight(0):
            c.role(data[1 - dimension], EMBEDDING)
        if len(data) == 1 and self.picks is not None and (contents := c.contents(0)):
            c.set_contents(tuple(contents[pick] for pick in self.picks))
        return [(*data[:dimension], *indices, *data[dimension + 1 :])]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        rank = len(c.input_sizes(0))
        dimension = self.axis % rank
        data = [c.slab(0, position) for position in range(rank)]
        indices = (UNKNOWN,) * len(c.input_sizes(1))
        return [(*data[:dimension], *indices, *data[dimension + 1 :])]
