"""A model between two passes as a model that runs: the records of quantizers written back into the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from getac.errors import BadInputError
from getac.passes import WriteQuantizers
from getac.pipeline import State
from getac.runtime import open_session, run
from getac.units.masking import masked_copy
from getac.verifying.agreement import (
    Agreement,
    Batch,
    Departure,
    KeepMasks,
    first_departure,
    relative_bound,
)

__all__ = ["OnnxRunnable", "Runnable", "check_names", "executable", "runnable"]


class Runnable(Protocol):
    """What a program was at one moment, so that it can be run; later edits of the program do not reach it."""

    def outputs(self, batches: Sequence[Batch]) -> list[Batch]:
        """Every output on every batch; raises GetacError where it does not run."""

    def relative_bound(self, output: str) -> float:
        """What max |a - b| / max |a| may be by the rounding of floats alone."""

    def departure(
        self,
        result: Runnable,
        batches: Sequence[Batch],
        departs: Callable[[Agreement], bool],
        keep: KeepMasks,
    ) -> Departure | None:
        """The first value inside that the result computes otherwise."""


@dataclass(frozen=True)
class OnnxRunnable:
    """An ONNX model under onnxruntime, without onnxruntime's rewrites, which are not on trial."""

    model: ir.Model

    def outputs(self, batches: Sequence[Batch]) -> list[Batch]:
        for batch in batches:
            check_names(batch, [str(value.name) for value in self.model.graph.inputs])
        session = open_session(self.model, optimize=False)
        return [run(session, batch) for batch in batches]

    def relative_bound(self, output: str) -> float:
        return relative_bound(self.model, output)

    def departure(
        self,
        result: Runnable,
        batches: Sequence[Batch],
        departs: Callable[[Agreement], bool],
        keep: KeepMasks,
    ) -> Departure | None:
        assert isinstance(result, OnnxRunnable)
        return first_departure(self.model, result.model, batches, departs, keep)


def check_names(batch: Batch, names: Sequence[str]) -> None:
    """Raises BadInputError where the inputs are not those of the program."""
    if set(batch) != set(names):
        raise BadInputError(
            "the inputs to verify with are not those of the model",
            required=", ".join(names) or "none",
            found=", ".join(map(str, batch)) or "none",
        )


def runnable(state: State, *, masked: bool = False, rounded: bool = True) -> Runnable:
    """What the program computes now.

    Args:
        masked: With the entries of the chosen units zero: what slicing must be equal to.
        rounded: Whether values are rounded as the records of quantizers say.
    """
    if isinstance(state.program, ir.Model):
        return OnnxRunnable(executable(state, masked=masked, rounded=rounded))
    from getac.pipelines.executable_module import ModuleRunnable  # whoever has a module has imported torch

    return ModuleRunnable.of(state, masked)


def executable(state: State, *, masked: bool = False, rounded: bool = True) -> ir.Model:
    """A copy of the model that rounds where the records say so; it shares the stored tensors."""
    analysis, choice = state.analysis, state.choice
    if masked and analysis is not None and choice is not None and not choice.exact:
        copy = masked_copy(state.model, analysis, choice)
    else:
        copy = state.model.clone()
    return with_records(state, copy) if rounded else copy


def with_records(state: State, copy: ir.Model) -> ir.Model:
    names = {value.name: value for value in [*copy.graph.inputs, *copy.graph.initializers.values()]}
    names.update({value.name: value for node in copy.graph for value in node.outputs})
    records = {names[value.name]: record for value, record in state.quantizers.items() if value.name in names}
    WriteQuantizers().run(State(copy, quantizers=records))
    return copy
