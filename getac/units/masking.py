"""The masked model, which slicing must be equal to, and what of its values slicing keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from getac.axes.analysis import Analysis
from getac.onnx_graph.edit import array_of, replace_tensor
from getac.units.choice import Choice

if TYPE_CHECKING:
    from getac.verifying.agreement import KeepMasks

__all__ = ["keeper", "masked_copy"]


def masked_copy(model: ir.Model, analysis: Analysis, choice: Choice) -> ir.Model:
    """A copy of the model in which every float entry that a removed unit owns is zero.

    Tensors that own nothing removed are shared with the original. Must be called before slicing.
    """
    copy = model.clone()
    for value in analysis.parameters:
        assert isinstance(value, ir.Value) and value.name is not None
        masks = analysis.zero_masks(value, choice.masks)
        if masks is None or all(mask.all() for mask in masks):
            continue
        array = np.array(array_of(value))
        for dimension, mask in enumerate(masks):
            shape = [-1 if i == dimension else 1 for i in range(array.ndim)]
            array = np.where(mask.reshape(shape), array, array.dtype.type(0))
        replace_tensor(copy.graph.initializers[value.name], array)
    return copy


def keeper(graph: ir.Graph, analysis: Analysis, choice: Choice) -> Callable[[], KeepMasks]:
    """Tells, when it is called, which indices of each computed value slicing keeps; by the value's name.

    The values are those of now. Must be called before slicing.
    """
    values = [value for node in graph for value in node.outputs]

    def keep() -> KeepMasks:
        masks = {str(value.name): analysis.keep_masks(value, choice.masks) for value in values}
        return {name: mask for name, mask in masks.items() if mask is not None}

    return keep
