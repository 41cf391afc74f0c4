"""quantize-weights: gives every layer's weight a quantizer, a step per output unit or per block of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from getac.errors import OptionError
from getac.onnx_graph.edit import array_of
from getac.onnx_graph.packing.ways import Target
from getac.onnx_graph.packing.weights import target_of
from getac.pipeline import Effect, Fact, Refusal, State
from getac.placement.placement import is_layer, output_dimension, place
from getac.weight_lattices import per_block, per_unit

__all__ = ["QuantizeWeights"]

BLOCKS = (16, 32, 64, 128, 256)
DEFAULT_BLOCK = 32


@dataclass(frozen=True)
class QuantizeWeights:
    """Gives every weight of a layer a symmetric quantizer; those that are there already stay.

    With 8 bits the range is that of the greatest weight; with fewer it is the one of least squared error.

    Args:
        bits: 2 to 8.
        block: How many inputs share a step in matrices that are multiplied with floats: 16 to 256, a power
            of two; None: one step per output unit; "auto": 32 with 4 bits or fewer, else None. Integer
            kernels take one step per output unit; where one layer runs on them, all do.
        target: Who loads the model. "portable": OpenVINO wants blocks that divide a matrix's inputs, so
            they are halved until they do; "ort": the last block may be shorter.

    Raises:
        OptionError: `bits`, `block` or `target` is outside its domain.
    """

    bits: int = 8
    block: int | Literal["auto"] | None = "auto"
    target: str = "portable"

    name: ClassVar[str] = "quantize-weights"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact)
    effect: ClassVar[Effect] = Effect.ROUNDS

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise OptionError("stored weights have 2 to 8 bits", required="2 to 8", found=str(self.bits))
        if self.block not in ("auto", None, *BLOCKS):
            required = f"{', '.join(map(str, BLOCKS))}, none or auto"
            raise OptionError("blocks of weights have other sizes", required=required, found=str(self.block))
        target_of(self.target)

    @property
    def size(self) -> int | None:
        """The block."""
        if self.block == "auto":
            return DEFAULT_BLOCK if self.bits <= 4 else None
        return self.block

    def run(self, state: State) -> None:
        graph = state.model.graph
        floats = not place(graph, state.quantizers, state.calibrates, state.floats).values
        for node in graph:
            weight = node.inputs[1] if is_layer(node) else None
            if weight is None or weight in state.quantizers or weight.dtype is not ir.DataType.FLOAT:
                continue
            array, axis = np.asarray(array_of(weight), np.float32), output_dimension(node)
            blocks = floats and node.op_type in ("Gemm", "MatMul") and array.ndim == 2
            size = self.size_for(weight, array.shape[1 - axis], state) if blocks else None
            state.quantizers[weight] = (
                per_unit(array, self.bits, axis)
                if size is None
                else per_block(array, self.bits, 1 - axis, size)
            )

    def size_for(self, weight: ir.Value, inputs: int, state: State) -> int | None:
        """The block of a matrix with so many inputs; that it is not the one asked for is said."""
        size = self.size
        if size is None or inputs % size == 0 or target_of(self.target) is Target.ORT:
            return size
        fitting = next((one for one in reversed(BLOCKS) if one < size and inputs % one == 0), None)
        if self.block != "auto":
            reason = f"blocks of {size} do not divide its {inputs} inputs, as OpenVINO wants"
            instead = f"its blocks have {fitting}" if fitting else "it has a step per output unit"
            state.refuse(self.name, Refusal(weight.name or "", reason, instead))
        return fitting
