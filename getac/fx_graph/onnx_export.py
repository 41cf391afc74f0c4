"""Exports a PyTorch module to ONNX by torch's own exporter: as it is, and in silence."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import nn

from getac.errors import UnsupportedModelError
from getac.fx_graph.capture import batch_shapes
from getac.fx_graph.eval_check import evaluating

__all__ = ["export_module", "silence"]


def export_module(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_batch: bool = True,
    **options: Any,
) -> onnx.ModelProto:
    """A module in evaluation mode as ONNX; parameters keep their names and their layout.

    Args:
        args: Example inputs.
        dynamic_batch: Whether the first dimension of every tensor is left open.
        options: For `torch.onnx.export`, such as `input_names` or `opset_version`.

    Raises:
        UnsupportedModelError: torch cannot export the module.
    """
    check_exportable(module)
    kwargs = dict(kwargs or {})
    shapes = batch_shapes(module, args, kwargs) if dynamic_batch else None
    try:
        with evaluating(module), silence():
            program = torch.onnx.export(
                module,
                tuple(args),
                kwargs=kwargs,
                dynamo=True,
                optimize=False,  # would fold batch norms, and transpose and rename weights
                dynamic_shapes=shapes,
                verbose=False,
                **options,
            )
            assert program is not None
            return program.model_proto
    except (torch.onnx.OnnxExporterError, ValueError) as error:
        raise UnsupportedModelError(
            "torch cannot export the module to ONNX",
            where=type(module).__name__,
            found=f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}",
            hint="torch.onnx.export(module, ..., dynamo=True, report=True) says more",
        ) from error


CRASHING = torch.ops.aten.embedding_bag
"""What torch 2.13's exporter writes for it ends onnxruntime 1.31's process while it loads the file."""


def check_exportable(module: nn.Module) -> None:
    """Refuses a captured module with an operator whose ONNX form crashes onnxruntime."""
    graph = module.graph if isinstance(module, torch.fx.GraphModule) else None
    for node in graph.nodes if graph is not None else ():
        if getattr(node.target, "overloadpacket", None) is CRASHING:
            raise UnsupportedModelError(
                "onnxruntime crashes on what torch exports for an EmbeddingBag",
                where=str(node.name),
                hint="write it as nn.Embedding and a sum or mean over the bag",
            )


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
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        logging.disable(before)
