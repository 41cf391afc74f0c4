"""quantize-weights: gives every layer's weight a quantizer, one step per output unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.errors import OptionError
from getac.onnx_graph.edit import array_of
from getac.pipeline import Fact, State
from getac.placement import is_layer, output_dimension
from getac.quantizer import Quantizer

__all__ = ["QuantizeWeights"]


@dataclass(frozen=True)
class QuantizeWeights:
    """Symmetric quantizers at each output unit's greatest weight; records that are there already stay.

    Args:
        bits: 2 to 8.

    Raises:
        OptionError: `bits` is outside its domain.
    """

    bits: int = 8

    name: ClassVar[str] = "quantize-weights"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact)

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise OptionError("stored weights have 2 to 8 bits", required="2 to 8", found=str(self.bits))

    def run(self, state: State) -> None:
        for node in state.model.graph:
            weight = node.inputs[1] if is_layer(node) else None
            if weight is None or weight in state.quantizers or weight.dtype is not ir.DataType.FLOAT:
                continue
            array, axis = array_of(weight), output_dimension(node)
            rest = tuple(i for i in range(array.ndim) if i != axis)
            state.quantizers[weight] = Quantizer.symmetric(np.abs(array).max(axis=rest), self.bits, axis)
