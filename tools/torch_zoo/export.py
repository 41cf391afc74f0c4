"""torch's older exporter, and the feeds of an exported model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.utils import _pytree as pytree

from getac.fx_graph.capture import batch_shapes
from getac.fx_graph.onnx_export import silence

__all__ = ["export_legacy", "feeds_of"]


def export_legacy(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> onnx.ModelProto:
    """torch's exporter by tracing; the batch size is open where it can tell."""
    names = [name for name, value in batch_shapes(module, args, kwargs).items() if value is not None]
    with silence(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module.eval(),
            tuple(args),
            str(path),
            kwargs=dict(kwargs),
            dynamo=False,
            input_names=names,
            dynamic_axes={name: {0: "batch"} for name in names},
        )
        model = onnx.load(path)
    if len(model.graph.input) != len(tensors_of((args, kwargs))):  # it made one of an argument's default
        raise ValueError(f"the inputs are {', '.join(spec.name for spec in model.graph.input)}")
    return model


def tensors_of(inputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]


def feeds_of(model: onnx.ModelProto, inputs: Any) -> dict[str, Any]:
    """The tensors among a module's inputs, under the names of the model's; those that it dropped too."""
    tensors = [tensor.numpy() for tensor in tensors_of(inputs)]
    return dict(zip((spec.name for spec in model.graph.input), tensors, strict=True))
