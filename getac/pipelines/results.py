"""What a pass must leave: a model, whole, with the inputs and outputs that its callers know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from getac.errors import PassError
from getac.onnx_graph.defined import undefined_value
from getac.pipelines.snapshot import Snapshot, is_program, same_kind, snapshot

if TYPE_CHECKING:
    from torch.fx import GraphModule

__all__ = ["check_program", "checked_result"]


def check_program(program: object) -> None:
    """Raises PassError for something that no pass can edit."""
    if not is_program(program):
        raise PassError(
            "this is nothing that passes can edit",
            required="an onnx_ir.Model, or a captured torch.fx.GraphModule",
            found=type(program).__name__,
            hint="getac.fx_graph.capture.capture(module, example_inputs) captures a torch module",
        )


def checked_result(
    program: ir.Model | GraphModule, before: Snapshot, pass_name: str, free_interface: bool
) -> Snapshot:
    """What a pass left.

    Args:
        before: What it was given.
        free_interface: Whether inputs and outputs may be others.

    Raises:
        PassError: Nobody can go on with that.
    """
    if not is_program(program) or not same_kind(program, before):
        raise PassError(
            f"the pass {pass_name} left no model",
            required="state.program is the ONNX model, or the torch.fx module, that it was",
            found=type(program).__name__,
        )
    later = snapshot(program)
    contradiction = before.contradiction(later)
    if contradiction is not None and not free_interface:
        raise PassError(
            f"the pass {pass_name} changes the model's {contradiction.kind}",
            required=contradiction.required,
            found=contradiction.found,
            hint="a pass that is meant to says so: effect = Effect.INTERFACE",
        )
    undefined = undefined_value(program.graph) if isinstance(program, ir.Model) else None
    if undefined is not None:
        raise PassError(f"the pass {pass_name} left a value that nothing computes", where=undefined)
    return later
