"""choose-strategies: decides which layers run in floats although an integer kernel exists.

On some machines a convolution on an image of three channels is quicker in floats, for one. The cost table
says so; without a clear gain a layer stays on integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from getac.axes.meter import Sizes
from getac.kernel_costs import default_table
from getac.onnx_graph.shapes import Shapes, infer_shapes
from getac.onnx_graph.signature import batch_symbols, signature_of
from getac.onnx_graph.view import OnnxView
from getac.pipeline import Fact, State
from getac.placement.strategies import Estimate, choose_floats

__all__ = ["ChooseStrategies"]


@dataclass(frozen=True)
class ChooseStrategies:
    """Decides which layers run in floats although they could run on integers, by measured kernel times."""

    name: ClassVar[str] = "choose-strategies"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact)

    def run(self, state: State) -> None:
        shapes = shapes_per_sample(state)

        def sizes(value: ir.Value) -> Sizes | None:
            return shapes.sizes(value)

        view = OnnxView(state.model, shapes)
        estimate = Estimate(view, sizes, state.quantizers, state.costs or default_table())
        state.floats = choose_floats(state.model.graph, estimate, state.calibrates)


def shapes_per_sample(state: State) -> Shapes:
    """Shapes of one sample; of another size where calibration data settles it."""
    symbols = dict(state.shapes.symbols) if state.shapes is not None else {}
    batch = batch_symbols(signature_of(state.model))
    return infer_shapes(state.model, {**symbols, **dict.fromkeys(batch, 1), **state.bindings})
