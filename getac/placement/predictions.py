"""What the cost table says of the layers of a result: the time of each, and of the other type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from getac.axes.meter import FLOAT_BITS
from getac.executed import Kernel
from getac.kernel_costs import CostTable, LayerShape, Strategy
from getac.kernel_costs.layers import shape_of
from getac.onnx_graph.shapes import infer_shapes
from getac.onnx_graph.view import OnnxView

__all__ = ["NOTHING", "Prediction", "predict_layers"]

WORDS = {
    Strategy.INTEGER: "integer kernel",
    Strategy.WEIGHT_ONLY_8: "weight-only, 8 bits",
    Strategy.WEIGHT_ONLY_4: "weight-only, 4 bits",
    Strategy.FOLDED: "float weights, restored when the model is loaded",
    Strategy.FLOAT: "floats",
}
AGAINST = {Strategy.INTEGER: "on integers", Strategy.FLOAT: "in floats"}


@dataclass(frozen=True)
class Prediction:
    """A layer by the cost table.

    Args:
        strategy: How it is run, and what the table says to that; empty where it was not found.
        ms: Milliseconds of one sample; None where its shape or kernel is unknown.
    """

    strategy: str = ""
    ms: float | None = None


NOTHING = Prediction()


def predict_layers(
    sliced: ir.Model,
    sizes: Mapping[str, int],
    kernels: Mapping[str, Kernel],
    bits: Mapping[str, tuple[int, int]],
    costs: CostTable,
) -> dict[str, Prediction]:
    """Predicts every layer as the kernel that it really runs on.

    Args:
        sliced: The result, in floats.
        sizes: A size for every symbolic dimension.
        kernels: Layer -> what onnxruntime runs it as.
        bits: Layer -> bits of its stored weight and of its input.
    """
    view = OnnxView(sliced, infer_shapes(sliced, sizes))
    found = {}
    for node in view.nodes:
        shape, kernel = shape_of(node, view.sizes), kernels.get(node.name)
        strategy = kernel and strategy_of(kernel, bits.get(node.name, (FLOAT_BITS, FLOAT_BITS))[0])
        if strategy:
            found[node.name] = predicted(shape, strategy, costs)
    return found


def strategy_of(kernel: Kernel, weight_bits: int) -> Strategy | None:
    """How a layer is run, by the kernel it has and the bits that its weights are stored in."""
    if kernel.kind == "integer":
        return Strategy.INTEGER
    if kernel.kind == "weight-only":
        return Strategy.WEIGHT_ONLY_4 if weight_bits <= 4 else Strategy.WEIGHT_ONLY_8
    if kernel.kind == "float":
        return Strategy.FOLDED if weight_bits < FLOAT_BITS else Strategy.FLOAT
    return None


def predicted(shape: LayerShape | None, strategy: Strategy, costs: CostTable) -> Prediction:
    """The time, and that of the other type."""
    if shape is None or not costs.has(shape.kind, strategy):
        return Prediction(WORDS[strategy])
    other = Strategy.INTEGER if strategy.measured_as is Strategy.FLOAT else Strategy.FLOAT
    ms, alternative = (1e3 * costs.seconds(shape, one) for one in (strategy, other))
    return Prediction(
        f"{WORDS[strategy]}: {ms:.3g} ms against {alternative:.3g} ms {AGAINST[other]} (cost table)", ms
    )
