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
from getac.opening import prune_warnings

if TYPE_CHECKING:
    from torch import nn

    from getac.pipeline import State

__all__ = ["analyze", "analyze_onnx"]


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
            over them (layer norms, means) are opened. Masked then differs from sliced, with a warning; so
            does a glob that opens nothing warn, and one that a glob of `keep` goes before.

    Raises:
        BadInputError: The model cannot be read or captured, or a glob matches no parameter.
    """
    wishes = Wishes.of(keep, prune)
    if isinstance(model, str | os.PathLike | onnx.ModelProto | ir.Model):
        _, analysis = analyze_onnx(model, wishes)
    else:
        analysis = analyze_module(model, example_inputs, example_kwargs, wishes)
    for warning in prune_warnings(analysis, wishes.prune):
        warnings.warn(warning, stacklevel=2)
    return analysis


def analyze_onnx(
    model: str | os.PathLike[str] | onnx.ModelProto | ir.Model, wishes: Wishes
) -> tuple[State, Analysis]:
    """Runs the analysis passes on a copy of an ONNX model; raises as `analyze`."""
    from getac.onnx_graph.read import load
    from getac.passes import Pipeline, State, analysis_passes

    state = State(load(model).clone())
    Pipeline(analysis_passes(wishes)).run(state)
    assert state.analysis is not None
    return state, state.analysis


def granted(analysis: Analysis, wishes: Wishes) -> Analysis:
    """The analysis, if every glob matches a parameter."""
    check_globs(analysis, "keep", wishes.keep)
    check_globs(analysis, "prune", wishes.prune)
    return analysis


def analyze_module(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None, wishes: Wishes
) -> Analysis:
    """Captures a module and analyses it; raises as `analyze`."""
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
    return granted(analyze_view(view, wishes, rounded), wishes)
