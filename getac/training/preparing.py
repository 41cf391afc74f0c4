"""`getac.prepare`: any PyTorch model becomes a module with learnable quantizers that trains as it did."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from getac.errors import BadInputError, UnsupportedModelError
from getac.fx_graph.capture import capture
from getac.fx_graph.given import check_flags, check_module
from getac.training.batches import Call, calls_of
from getac.training.insertion import insert, names_of, plan_activations, plan_weights
from getac.training.layers import Layer, find_layers
from getac.training.observation import check_method, observed_maxima, weight_maxima
from getac.training.quantizers import find_quantizers
from getac.training.state import KEY, TrainingState
from getac.training.widths import Widths

__all__ = ["prepare"]

PARAMETER_TYPES = (torch.float32, torch.float16)


def prepare(
    model: nn.Module,
    example_inputs: Sequence[Any] | Tensor = (),
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    weight_bits: int | tuple[int, int] | None = 8,
    activation_bits: int | tuple[int, int] | None = 8,
    calibration: Iterable[Any] | None = None,
    overrides: Mapping[str, int | tuple[int, int] | None] | None = None,
    ranges: str = "auto",
    embeddings: bool = False,
    learn_exponents: bool = False,
    dynamic_batch: bool = True,
    per_channel: bool = True,
) -> fx.GraphModule:
    """Captures a model and inserts quantizers, which learn with it.

    Weights of convolutions, linear layers and matrix products are quantized, and the activations that these
    read (see `getac.training.placing`). Parameters are the model's own under their names; the quantizers'
    are `d`, `q_m` and `t` under `layer.weight_quantizer` and `node_quantizer`.

    Args:
        model: Its mode (training or evaluation) is kept. Parameters that do not learn (requires_grad False)
            have quantizers that do not learn, nor do those of the inputs and of what only these decide:
            `requires_grad_()` on their d and q_m makes them.
        example_inputs: Positional inputs; the first dimension of each tensor is the batch.
        example_kwargs: Keyword inputs.
        weight_bits: 2 to 16; a pair (least, greatest): the number of bits learns in between, from the
            greatest on; None: floats while training, which `getac.lower` still stores in 8 bits where
            their layer reads quantized activations. The first and the last layers have 8 at least.
        activation_bits: Likewise.
        calibration: Batches for the ranges of activations, each a tensor, a tuple or list of positional
            inputs, or a dictionary of keyword inputs. None: the example inputs, with a warning. The ranges
            of the inputs stay as they are here. Data that is constant (zeros) shows none: they start at 1 or
            more, with a warning.
        overrides: Glob on the name of a weight, or of the node that an activation comes from -> its bits;
            the last that matches decides. None: it stays a float, with a weight its layer.
        ranges: "minmax", "percentile" or "mse"; "auto": minmax from 8 bits on, mse below.
        embeddings: Whether tables that are looked up are quantized.
        learn_exponents: Whether the exponents of weights learn; those of activations stay 1, which is what
            QuantizeLinear can say.
        dynamic_batch: Whether the batch size is left open.
        per_channel: Whether every output channel of a weight has a step and a range of its own.

    Raises:
        UnsupportedModelError: The model cannot be captured, has no layer, or has parameters that are neither
            float32 nor float16.
        OptionError: A number of bits that is none, a glob that matches nothing, an unknown way of ranges.
        CalibrationError: Data that does not fit the model, or makes it compute what is not finite.
        BadInputError: The model was prepared already, or what is given is no module or no inputs.
    """
    check_module(model)
    check_flags(embeddings=embeddings, learn_exponents=learn_exponents, per_channel=per_channel)
    widths = replace(Widths.read(weight_bits, activation_bits, overrides), aliases=aliases_of(model))
    check_method(ranges)
    check_new(model)
    check_types(model)
    args = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
    module = capture(model, args, example_kwargs, dynamic_batch=dynamic_batch)
    args, kwargs = tuple(args), dict(example_kwargs or {})
    layers = find_layers(module, embeddings)
    check_layers(model, layers)
    widths.check_names(names_of(layers))
    weights = plan_weights(module, layers, widths, per_channel)
    weights = [replace(one, exponent=learn_exponents) for one in weights]
    activations = plan_activations(module, layers, widths)
    insertions = [*weights, *activations]
    maxima = weight_maxima(module, weights)
    if activations:
        calls = calls_of(calibration) if calibration is not None else alone((args, kwargs))
        maxima |= observed_maxima(module, activations, calls, ranges)
    insert(module, insertions, maxima)
    module.meta[KEY] = TrainingState(
        args, kwargs, dynamic_batch, insertions, model=type(model).__name__, ranges=ranges
    )
    return module


def check_new(model: nn.Module) -> None:
    if isinstance(model, fx.GraphModule) and KEY in model.meta:
        raise BadInputError(
            "the model was prepared already",
            found=f"a module with {len(find_quantizers(model))} quantizers",
            hint="train it as it is, or prepare the original model again",
        )


def check_types(model: nn.Module) -> None:
    """Steps and ranges are float32, and so is what onnxruntime's kernels compute with."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype not in PARAMETER_TYPES:
            raise UnsupportedModelError(
                "the model has parameters of a type that cannot be lowered",
                where=f"parameter {name}",
                required="float32 (or float16)",
                found=str(parameter.dtype).removeprefix("torch."),
                hint="prepare model.float(), and train it under torch.autocast for bfloat16",
            )


def aliases_of(model: nn.Module) -> dict[str, list[str]]:
    """The first name of every parameter, which the graph reads, -> all of its names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {every[0]: every for every in names.values()}


def check_layers(model: nn.Module, layers: Sequence[Layer]) -> None:
    if not layers:
        raise UnsupportedModelError(
            "the model has no layer whose weights could be quantized",
            where=type(model).__name__,
            required="a convolution, a linear layer, or a matrix product with a parameter",
        )


def alone(given: Call) -> Iterable[Call]:
    """The example inputs in place of data."""
    warnings.warn(
        "no calibration data: the ranges of activations are those of the example inputs, and that of the"
        " inputs stays so (it does not learn, unless requires_grad_() on its d and q_m makes it); give a few"
        " batches of real data, prepare(..., calibration=batches)",
        stacklevel=3,
    )
    return [given]
