"""Small models from ONNX's text form, with random weights of given shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

__all__ = ["Tensor", "model_of"]

Tensor = Sequence[int] | NDArray[np.generic]
"""A shape, filled with random numbers; or the numbers themselves."""


def model_of(
    body: str,
    inputs: Mapping[str, Sequence[int | str]],
    tensors: Mapping[str, Tensor],
    outputs: Sequence[str] = ("y",),
    seed: int = 0,
) -> onnx.ModelProto:
    """A model of opset 21 from the nodes' text, such as `h = Relu(x)  y = MatMul(h, w)`.

    Nodes are named after their first output. Output shapes stay open.

    Args:
        inputs: Name -> shape; texts are symbolic sizes.
        tensors: Name -> a shape, filled with seeded random numbers, or the numbers themselves.
    """
    rng = np.random.default_rng(seed)
    declared = ", ".join(f"float[{', '.join(map(str, shape))}] {name}" for name, shape in inputs.items())
    text = f'<ir_version: 10, opset_import: ["" : 21]> g ({declared}) => (float y) {{ {body} }}'
    model = parser.parse_model(text)
    del model.graph.output[:]
    for name in outputs:
        model.graph.output.append(onnx.ValueInfoProto(name=name, type=onnx.TypeProto()))
        model.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for node in model.graph.node:
        node.name = node.output[0]
    for name, tensor in tensors.items():
        array = tensor if isinstance(tensor, np.ndarray) else rng.normal(size=tensor).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model
