"""Exports a PyTorch module to ONNX as it is, without optimisation, and in silence."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.utils import _pytree as pytree

from getac.fx_graph.capture import batch_shapes

__all__ = ["export", "export_legacy", "feeds_of"]


def export(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> onnx.ModelProto:
    """torch's exporter by torch.export, with an open batch size."""
    module.eval()
    with silence():
        program = torch.onnx.export(
            module,
            tuple(args),
            kwargs=dict(kwargs),
            dynamo=True,
            optimize=False,  # keeps the names and the layouts of the parameters
            dynamic_shapes=batch_shapes(module, args, kwargs),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


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


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hides what the exporter says about itself: progress and whole graphs on stdout, advice in the log."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sys.stdout.flush()
    stdout = os.dup(1)  # its C++ half writes past sys.stdout
    try:
        with open(os.devnull, "w") as nowhere, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 1)
            with contextlib.redirect_stdout(io.StringIO()):
                yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        logging.disable(before)
