"""Recurrent layers: the rows of every gate belong to the same hidden units.

A hidden unit whose gate rows and biases are zero stays zero from a zero state on: an LSTM's cell becomes
0.5 c + 0.5 tanh(0), a GRU's state 0.5 tanh(0) + 0.5 h, a plain layer's tanh(0) or relu(0).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from getac.axes.axis import Axis, total
from getac.axes.reasons import DIRECTIONS, STEPS
from getac.axes.roles import HIDDEN_UNITS
from getac.rules.base import UNKNOWN, Axes, AxisContext, Rule, Slab, SlabContext, Slabs

__all__ = ["Recurrent", "RecurrentCell", "RecurrentLayers"]


def gate_rows(hidden: Axis, gates: int) -> Axis:
    """The hidden units once per gate, end to end."""
    return total(*(hidden,) * gates)


def zero_rows(slab: Slab, parts: int) -> Slab:
    """0 for each hidden unit whose row is zero in every part (gate), else NaN."""
    rows = slab == 0 if slab.ndim == 0 else (slab.reshape(parts, -1) == 0).all(axis=0)
    return np.where(rows, 0.0, np.nan)


def zero_in_all(slabs: Sequence[Slab]) -> Slab:
    """0 where every slab is 0, else NaN."""
    result = np.array(0.0)
    for slab in slabs:
        result = np.where(slab == 0, result, np.nan)
    return result


@dataclass(frozen=True)
class Recurrent(Rule):
    """One recurrent layer, directions stacked. ONNX LSTM (4 gates), GRU (3), RNN (1).

    Inputs: x (T, B, in), W (D, gates H, in), R (D, gates H, H), biases (D, 2 gates H), sequence lengths
    (B), initial h (D, B, H), initial c (D, B, H), peepholes (D, 3 H); from the biases on each may be absent.
    Outputs: Y (T, D, B, H), last h (D, B, H), last c (D, B, H). The site "hidden" is H.

    Args:
        gates: How often the hidden units occur among the rows of W and R.
        batch_first: ONNX's layout 1: x (B, T, in), Y (B, T, D, H), states (B, D, H).
        zero_stays: Whether a unit of zero weights keeps a zero state zero, which the activations decide.
    """

    gates: int
    batch_first: bool = False
    zero_stays: bool = True

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, weight, recurrence = c.input(0), c.input(1), c.input(2)
        batch, steps = (x[0], x[1]) if self.batch_first else (x[1], x[0])
        hidden, directions = recurrence[2], recurrence[0]
        c.freeze(steps, STEPS)
        c.role(hidden, HIDDEN_UNITS)
        c.freeze(directions, DIRECTIONS)
        c.size_site("hidden", hidden)
        c.same(x[2], weight[2])
        state = (batch, directions, hidden) if self.batch_first else (directions, batch, hidden)
        rows = gate_rows(hidden, self.gates)
        self._tie(c, 1, (directions, rows, x[2]))
        self._tie(c, 2, (directions, rows, hidden))
        self._tie(c, 3, (directions, gate_rows(hidden, 2 * self.gates)))
        self._tie(c, 4, (batch,))
        self._tie(c, 5, state)
        self._tie(c, 6, state)
        self._tie(c, 7, (directions, gate_rows(hidden, 3)))
        every = (batch, steps, directions, hidden) if self.batch_first else (steps, directions, batch, hidden)
        return [every, state, state][: c.outputs]

    def _tie(self, c: AxisContext, index: int, axes: Axes) -> None:
        for axis, expected in zip(c.optional_input(index) or (), axes, strict=False):
            c.same(axis, expected)

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        hidden = self._hidden(c)
        c.contract(0, 2, c.slab(1, 2))
        c.contract(2, 2, hidden)  # the state of the step before
        return [(*(UNKNOWN,) * (len(c.sizes(i)) - 1), hidden) for i in range(c.outputs)]

    def _hidden(self, c: SlabContext) -> Slab:
        if not self.zero_stays:
            return UNKNOWN
        zero = [zero_rows(c.slab(1, 1), self.gates), zero_rows(c.slab(2, 1), self.gates)]
        if c.has(3):
            zero.append(zero_rows(c.slab(3, 1), 2 * self.gates))
        zero += [c.slab(index, 2) for index in (5, 6) if c.has(index)]
        return zero_in_all(zero)

    def macs(self, inputs: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
        x, weight, recurrence = inputs[:3]
        assert x is not None and weight is not None and recurrence is not None
        return x[0] * x[1] * (math.prod(weight) + math.prod(recurrence))


@dataclass(frozen=True)
class RecurrentLayers(Rule):
    """A stack of recurrent layers. aten.lstm.input (4 gates, 2 states), gru.input (3, 1), rnn_*.input (1, 1).

    Inputs: x (T, B, in), the initial states (L D, B, H), and then, per layer and per direction,
    w_ih (gates H, in), w_hh (gates H, H) and, with biases, b_ih and b_hh (gates H). Outputs:
    Y (T, B, D H), directions end to end, and the last states (L D, B, H).

    All layers and directions share H, because their states are stacked in one tensor.

    Args:
        layers: L.
        directions: D: 1 or 2.
        states: How many state tensors there are.
        batch_first: x (B, T, in) and Y (B, T, D H); the states stay as they are.
    """

    gates: int
    layers: int = 1
    directions: int = 1
    states: int = 1
    biases: bool = True
    batch_first: bool = False

    def _cells(self) -> Iterator[tuple[int, int]]:
        """For each layer and direction: the layer, and where its parameters begin."""
        each = 4 if self.biases else 2
        for position in range(self.layers * self.directions):
            yield position // self.directions, 1 + self.states + each * position

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x = c.input(0)
        batch, steps = (x[0], x[1]) if self.batch_first else (x[1], x[0])
        hidden = c.input(2 + self.states)[1]
        c.freeze(steps, STEPS)
        c.role(hidden, HIDDEN_UNITS)
        rows = gate_rows(hidden, self.gates)
        for layer, start in self._cells():
            into = x[2] if layer == 0 else gate_rows(hidden, self.directions)
            for index, axes in enumerate(((rows, into), (rows, hidden), (rows,), (rows,)), start=start):
                if index < start + (4 if self.biases else 2):
                    for axis, expected in zip(c.input(index), axes, strict=True):
                        c.same(axis, expected)
        stacked = [c.input(1 + i) for i in range(self.states)]
        for state in stacked:
            c.freeze(state[0], DIRECTIONS)
            c.same(state[1], batch)
            c.same(state[2], hidden)
        return [(*x[:2], gate_rows(hidden, self.directions)), *stacked]

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        hidden = zero_in_all([*self._rows(c), *(c.slab(1 + i, 2) for i in range(self.states))])
        below = np.tile(hidden, self.directions) if hidden.ndim else hidden
        for layer, start in self._cells():
            if layer == 0:
                c.contract(0, 2, c.slab(start, 1))
            else:
                c.contract(start, 1, below)
            c.contract(start + 1, 1, hidden)
        return [(UNKNOWN, UNKNOWN, below), *[(UNKNOWN, UNKNOWN, hidden)] * self.states]

    def _rows(self, c: SlabContext) -> Iterator[Slab]:
        """The rows of all layers: a unit of the class is zero where it is zero in each."""
        for _, start in self._cells():
            for index in range(start, start + (4 if self.biases else 2)):
                yield zero_rows(c.slab(index, 0), self.gates)

    def macs(self, inputs: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
        weights = (inputs[start + i] for _, start in self._cells() for i in range(2))
        return math.prod(output[:2]) * sum(math.prod(sizes or ()) for sizes in weights)


@dataclass(frozen=True)
class RecurrentCell(Rule):
    """One step of a recurrent layer. aten.lstm_cell (4 gates, 2 states), gru_cell (3, 1), rnn_*_cell (1, 1).

    Inputs: x (..., in), the states (..., H), w_ih (gates H, in), w_hh (gates H, H) and, maybe, b_ih and b_hh
    (gates H). Outputs: the next states.
    """

    gates: int
    states: int = 1

    def axes(self, c: AxisContext) -> Sequence[Axes]:
        x, start = c.input(0), 1 + self.states
        hidden = c.input(start + 1)[1]
        rows, state = gate_rows(hidden, self.gates), (*x[:-1], hidden)
        parameters = ((rows, x[-1]), (rows, hidden), (rows,), (rows,))
        for index, axes in enumerate((*(state,) * self.states, *parameters), start=1):
            for axis, expected in zip(c.optional_input(index) or (), axes, strict=False):
                c.same(axis, expected)
        return [state] * c.outputs

    def slabs(self, c: SlabContext) -> Sequence[Slabs]:
        start, last = 1 + self.states, len(c.sizes()) - 1
        parameters = [index for index in range(start, start + 4) if c.has(index)]
        rows = [zero_rows(c.slab(index, 0), self.gates) for index in parameters]
        hidden = zero_in_all([*rows, *(c.slab(1 + i, last) for i in range(self.states))])
        c.contract(0, last, c.slab(start, 1))
        c.contract(1, last, c.slab(start + 1, 1))
        return [(*(UNKNOWN,) * last, hidden)] * c.outputs

    def macs(self, inputs: Sequence[tuple[int, ...] | None], output: tuple[int, ...]) -> int:
        weights = inputs[1 + self.states : 3 + self.states]
        return math.prod(output[:-1]) * sum(math.prod(sizes or ()) for sizes in weights)
