"""`getac.analyze`: the dependency analysis of a model, whichever graph it is."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from getac.axes.analysis import Analysis, analyze_view
from getac.axes.wishes import Wishes, check_globs
from getac.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["analyze"]


def analyze(
    model: str | os.PathLike[str] | onnx.ModelProto | ir.Model | nn.Module,
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    keep: Sequence[str] = (),
    prune: Sequence[str] = (),
) -> Analysis:
    """Finds what can be removed from a model.

    An ONNX model is prepared as `getac.lower` does it: quantizers and batch normalisations are folded. A
    PyTorch module is captured by `torch.export`; a module that was captured already is taken as it is.

    Args:
        model: A path or model of ONNX, or a PyTorch module.
        example_inputs: Positional inputs of a module; the first dimension of each tensor is the batch, of
            two samples or more.
        example_kwargs: Keyword inputs of a module.
        keep: Globs on parameter names: no unit of these parameters is removed.
        prune: Globs on parameter names: axes of these that are frozen only because statistics are taken
            over them (layer norms, means) are opened. Masked then differs from sliced, with a warning.

    Raises:
        BadInputError: The model cannot be read or captured, or a glob matches no parameter.
    """
    wishes = Wishes(tuple(keep), tuple(prune))
    if isinstance(model, str | os.PathLike | onnx.ModelProto | ir.Model):
        analysis = analyze_onnx(model, wishes)
    else:
        analysis = analyze_module(model, example_inputs, example_kwargs, wishes)
    check_globs(analysis, "keep", keep)
    check_globs(analysis, "prune", prune)
    if analysis.opened:
        names = ", ".join(f"{one.name} ({one.size} {one.role})" for one in analysis.opened)
        warnings.warn(
            f"opened on request although statistics are taken over them: {names};"
            " removing units changes the statistics, so the sliced model is not the masked one",
            stacklevel=2,
        )
    return analysis


def analyze_onnx(model: str | os.PathLike[str] | onnx.ModelProto | ir.Model, wishes: Wishes) -> Analysis:
    from getac.onnx_graph.read import load
    from getac.passes import Pipeline, State, analysis_passes

    state = State(load(model).clone())
    Pipeline(analysis_passes(wishes)).run(state)
    assert state.analysis is not None
    return state.analysis


def analyze_module(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None, wishes: Wishes
) -> Analysis:
    torch = sys.modules.get("torch")  # whoever has a module has imported torch
    if torch is None or not isinstance(model, torch.nn.Module):
        raise UnsupportedModelError(
            "this is neither an ONNX model nor a PyTorch module",
            found=type(model).__name__,
            required="a path, an onnx.ModelProto, an onnx_ir.Model, or a torch.nn.Module",
        )
    from getac.fx_graph.capture import capture, is_captured
    from getac.fx_graph.view import FxView

    module = model if is_captured(model) else capture(model, args, kwargs)
    view = FxView(module)
    rounded = {value: quantizer.record() for value, quantizer in view.quantizers.items()}
    return analyze_view(view, wishes, rounded)
