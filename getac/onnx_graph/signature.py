"""A model's inputs as data has to fit them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from getac.data.calibration import InputSpec
from getac.errors import UnsupportedModelError

__all__ = ["batch_symbols", "signature_of"]


def signature_of(model: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs of a model; a dynamic dimension without a name is called `input.position`.

    Raises:
        UnsupportedModelError: An input is not a tensor of known rank.
    """
    return tuple(input_spec(value) for value in model.graph.inputs)


def input_spec(value: ir.Value) -> InputSpec:
    if value.shape is None or value.dtype is None or not isinstance(value.type, ir.TensorType):
        raise UnsupportedModelError(
            "a model input is not a tensor of known rank",
            where=str(value.name),
            required="a tensor type with a shape; its dimensions may be symbolic",
            hint="declare the input's shape and export the model again",
        )
    shape = tuple(
        dim if isinstance(dim, int) else dim.value or f"{value.name}.{position}"
        for position, dim in enumerate(value.shape)
    )
    return InputSpec(str(value.name), np.dtype(value.dtype.numpy()), shape)


def batch_symbols(signature: tuple[InputSpec, ...]) -> set[str]:
    """The names of dynamic first dimensions."""
    return {dim for spec in signature for dim in spec.shape[:1] if isinstance(dim, str)}
