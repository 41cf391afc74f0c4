"""pack-weights: stored integers take as few bits as their values need, and come back when a model is loaded.

    before   W_int8 -> DequantizeLinear -> Conv                         16 k, with -7 <= k <= 7
    after    W_int4 -> Cast(INT8) -> Mul(16) -> DequantizeLinear -> Conv
    after    bytes -> Cast(INT32) -> Gather(table) -> Reshape -> DequantizeLinear -> Conv

onnxruntime folds what is new before it looks for integer kernels: the same ones run, on the same integers.
The values alone decide, so it does not matter which tool stored them, nor what is made of them: a MatMulNBits
of 4 bits reads INT4, which fewer bits may restore.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from getac.onnx_graph.packing.weights import pack_weights, target_of
from getac.pipeline import Effect, Fact, Refusal, State

__all__ = ["PackWeights"]


@dataclass(frozen=True)
class PackWeights:
    """Stores weights in the fewest bytes that hold them exactly.

    Args:
        target: Who loads the model: "portable" (opset 21), or "ort" (onnxruntime alone; opset 25 where that
            helps, and less memory while it loads).
    """

    target: str = "portable"

    name: ClassVar[str] = "pack-weights"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset({Fact.LOWERED, Fact.SLICED, Fact.BATCH_NORMS_FOLDED})
    effect: ClassVar[Effect] = Effect.NONE

    def __post_init__(self) -> None:
        target_of(self.target)

    def run(self, state: State) -> None:
        why_not = pack_weights(state.model, target_of(self.target))
        if why_not is not None:
            state.refuse(self.name, Refusal("the graph", why_not, "integers of 2 bits are stored in bytes"))
