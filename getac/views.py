"""The analysis' view of whatever model a pipeline works on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import onnx_ir as ir

from getac.onnx_graph.view import OnnxView
from getac.pipeline import State
from getac.quantizer import Quantizer
from getac.view import GraphView

__all__ = ["rounded_values", "view_of"]


def view_of(state: State) -> GraphView:
    """A view of the ONNX graph with its inferred shapes, or of the captured module."""
    if isinstance(state.program, ir.Model):
        assert state.shapes is not None
        return OnnxView(state.program, state.shapes)
    from getac.fx_graph.view import FxView  # whoever has a module has imported torch

    return FxView(state.program)


def rounded_values(state: State, view: GraphView) -> Mapping[Hashable, Quantizer]:
    """Value -> its quantizer: the records of the state, and the fake quantizers of a module."""
    fake = getattr(view, "quantizers", {})
    return {**state.quantizers, **{value: placed.record() for value, placed in fake.items()}}
