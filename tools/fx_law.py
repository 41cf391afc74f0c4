"""The law of slicing for captured PyTorch modules: masked equals sliced, and the sliced module trains."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils import _pytree

from getac.axes.analysis import Analysis, analyze_view
from getac.axes.axis import Axis, Mask, leaves
from getac.fx_graph.capture import capture
from getac.fx_graph.reader import operator_name
from getac.fx_graph.slicing import FxEditor
from getac.fx_graph.view import FxView, Stored
from getac.slicing import cut_units

__all__ = [
    "FxOutcome",
    "analyzed",
    "check_law",
    "choose",
    "cut",
    "difference",
    "masked_copy",
    "outputs_of",
    "randomize",
    "resized",
    "train_step",
]


@dataclass(frozen=True)
class FxOutcome:
    """What one check found.

    Args:
        module: The sliced module.
        analysis: Of the module before slicing.
        operators: The names of the operators that were captured.
        removed: How many units were removed.
        stored: The share of the parameters that the removal cut away.
        difference: The largest difference between masked and sliced, at two batch sizes, relative to the
            largest number of each output.
        without_gradient: The parameters that got no gradient in a training step.
    """

    module: fx.GraphModule
    analysis: Analysis
    operators: frozenset[str]
    removed: int
    stored: float
    difference: float
    without_gradient: tuple[str, ...]

    @property
    def units(self) -> tuple[int, ...]:
        """The sizes of the open classes before slicing."""
        return tuple(one.size for one in self.analysis.classes)

    @property
    def reasons(self) -> frozenset[str]:
        """Why axes are frozen, of stored tensors or not."""
        axes = (axis for value in self.analysis.axes.values() for axis in value)
        return frozenset(leaf.frozen.reason for axis in axes for leaf in leaves(axis) if leaf.frozen)


def randomize(model: nn.Module, seed: int) -> None:
    """Random numbers for what a new model fills with zeros and ones: biases, norms and their statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and (
                parameter.ndim <= 1 or (parameter == parameter.flatten()[0]).all()
            ):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


def analyzed(module: fx.GraphModule) -> Analysis:
    return analyze_view(FxView(module))


def choose(analysis: Analysis, rng: np.random.Generator) -> dict[Axis, Mask]:
    """Random units of every open class at once; each class loses one at least, and keeps one."""
    masks: dict[Axis, Mask] = {}
    for one in analysis.classes:
        mask = masks[one.atom] = np.ones(one.size, dtype=np.bool_)
        mask[rng.permutation(one.size)[: rng.integers(1, one.size)]] = False
    return masks


def masked_copy(module: fx.GraphModule, analysis: Analysis, masks: Mapping[Axis, Mask]) -> fx.GraphModule:
    """A copy in which every float entry that a removed unit owns is zero."""
    masked = copy.deepcopy(module)
    for stored in analysis.parameters:
        keep = analysis.zero_masks(stored, masks)
        if keep is None:
            continue
        assert isinstance(stored, Stored)
        tensor = attrgetter(stored.name)(masked)
        for dimension, mask in enumerate(keep):
            shape = [-1 if i == dimension else 1 for i in range(tensor.ndim)]
            tensor.data = torch.where(torch.from_numpy(mask).view(shape), tensor.data, 0)
    return masked


def cut(analysis: Analysis, masks: Mapping[Axis, Mask]) -> None:
    assert isinstance(analysis.view, FxView)
    cut_units(FxEditor(analysis.view), analysis, masks)


def check_law(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    other_batch: int | None = 5,
) -> FxOutcome:
    """Captures a model, removes random units of every open class, compares, and makes a training step.

    Args:
        other_batch: A second batch size to compare at; None captures the batch size of the example for good,
            which takes a third of the time.
    """
    torch.manual_seed(seed)
    randomize(model, seed)
    module = capture(model.eval(), args, kwargs, dynamic_batch=other_batch is not None)
    analysis = analyzed(module)
    masks = choose(analysis, np.random.default_rng(seed))
    operators = frozenset(operator_name(n) for n in module.graph.nodes if n.op == "call_function")
    before = parameter_count(module)
    masked = masked_copy(module, analysis, masks)
    cut(analysis, masks)
    inputs = [(tuple(args), dict(kwargs or {}))]
    if other_batch is not None:
        inputs.append(resized(inputs[0], other_batch))
    worst = max(difference(outputs_of(masked, *given), outputs_of(module, *given)) for given in inputs)
    removed = sum(int((~mask).sum()) for mask in masks.values())
    stored = 1 - parameter_count(module) / max(before, 1)
    stuck = train_step(module, *inputs[-1])
    return FxOutcome(module, analysis, operators, removed, stored, worst, stuck)


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def resized(inputs: Any, batch: int) -> Any:
    """The example inputs with another batch size: the first dimension of every tensor."""

    def of(tensor: torch.Tensor) -> torch.Tensor:
        picked = tensor[torch.arange(batch) % len(tensor)]
        return picked + torch.randn(picked.shape) * 0.1 if picked.is_floating_point() else picked

    return _pytree.tree_map_only(torch.Tensor, of, inputs)


def outputs_of(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that a module answers in evaluation, the same random numbers every time."""
    module.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        return tensors_of(module(*args, **kwargs))


def tensors_of(outputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def difference(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    """The largest difference relative to the largest number of each output; infinite where shapes differ."""
    return max((_difference(a, b) for a, b in zip(left, right, strict=True)), default=0.0)


def _difference(left: torch.Tensor, right: torch.Tensor) -> float:
    if left.shape != right.shape or left.dtype != right.dtype:
        return float("inf")
    a, b = left.detach().double(), right.detach().double()
    if not (a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    return float((a - b).abs().amax() / max(float(a.abs().amax()), 1e-6)) if a.numel() else 0.0


def train_step(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Runs forward and backward in training mode.

    Returns:
        The names of the parameters that got no gradient.

    Raises:
        AssertionError: A gradient is not finite, or has another shape than its parameter.
    """
    module.train()
    module.zero_grad(set_to_none=True)
    outputs = [output for output in tensors_of(module(*args, **kwargs)) if output.requires_grad]
    if outputs:
        torch.stack([output.float().square().mean() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.shape == parameter.shape, name
            assert parameter.grad.isfinite().all(), name
    return tuple(name for name, parameter in module.named_parameters() if parameter.grad is None)
