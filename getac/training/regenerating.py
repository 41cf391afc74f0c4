"""`getac.regenerate`: removes units from a module while it is being trained."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from getac.axes.analysis import Analysis, analyze_view
from getac.axes.axis import Axis, Mask, kept, leaves
from getac.axes.wishes import NO_WISHES, Wishes
from getac.errors import BadInputError, OptionError
from getac.fx_graph.capture import is_captured
from getac.fx_graph.slicing import FxEditor, cut_tensor
from getac.fx_graph.view import FxView
from getac.slicing import cut_units, smaller
from getac.training.keeping import masks_of
from getac.training.optimizer_state import state_cuts
from getac.training.state import KEY, Removal, TrainingState

__all__ = ["regenerate"]


def regenerate(
    module: nn.Module,
    keep: Mapping[str, Any],
    optimizer: Optimizer | None = None,
    wishes: Wishes = NO_WISHES,
) -> fx.GraphModule:
    """Removes units from a captured module in place, and from the optimizer that trains it.

    Parameters stay the same objects under the same names, tied ones stay tied; their gradients, the buffers
    and the quantizers are cut with them. It can be called as often as one likes, under torch.compile too,
    which then compiles again. A loss that was computed before cannot be propagated back afterwards.

    Args:
        module: From `getac.prepare`.
        keep: Name of a class of `getac.analyze(module)` -> the units that stay: one bool per unit, or their
            indices. Classes that are not named stay whole. After a removal the classes are named anew.
        optimizer: The one whose state follows: moments, and whatever else it keeps per element. Its groups
            and learning rates stay as they are.
        wishes: The globs that the analysis was given, which decide on the names of classes.

    Returns:
        The module itself.

    Raises:
        BadInputError: The module is not captured; a class is unknown, would lose all of its units, or has
            another number of them; the optimizer keeps what cannot be cut. Nothing is changed then.
        OptionError: `wishes` is of another type.
    """
    if not is_captured(module):
        raise BadInputError(
            "only a captured module can be regenerated",
            found=type(module).__name__,
            required="the module that getac.prepare returned (itself, not what torch.compile makes of it)",
            hint="prepared = getac.prepare(model, example_inputs)",
        )
    if not isinstance(wishes, Wishes):
        raise OptionError(
            "wishes are not given as such", found=repr(wishes), required="a Wishes(keep, prune)"
        )
    view = FxView(module)
    analysis = analyze_view(view, wishes)
    masks = masks_of(analysis, keep)
    if not masks:
        return module
    stored = {view.tensor(one): dimensions for one, dimensions in smaller(analysis, masks).items()}
    quantizers = quantizer_cuts(analysis, masks)
    states = state_cuts(optimizer, stored | quantizers, module) if optimizer is not None else []
    with torch.inference_mode(False):
        for state in states:
            state.carry_out()
        for tensor, dimensions in quantizers.items():
            cut_tensor(tensor, dimensions)
        cut_units(FxEditor(view, partial(sizes_after, analysis, masks)), analysis, masks)
    note(module, analysis, masks, wishes)
    return module


def sizes_after(
    analysis: Analysis, masks: Mapping[Axis, Mask], value: Hashable, before: Tensor
) -> list[Any] | None:
    """The sizes that a value has after a removal; None where the analysis does not know them."""
    assert isinstance(analysis.view, FxView)
    axes = analysis.axes.get(analysis.view.value_of(value) if isinstance(value, fx.Node) else value)
    if axes is None or before.ndim != len(axes):
        return None
    sizes: list[Any] = []
    for axis, size in zip(axes, before.shape, strict=True):
        if masks.keys().isdisjoint(leaves(axis)):
            sizes.append(size)
        elif isinstance(size, int) and size == axis.size:
            sizes.append(int(kept(axis, masks).sum()))
        else:
            return None  # a symbol is a factor of it
    return sizes


def quantizer_cuts(analysis: Analysis, masks: Mapping[Axis, Mask]) -> dict[Tensor, Sequence[Mask]]:
    """The steps and ranges of quantizers that have one per index of an axis that loses some."""
    assert isinstance(analysis.view, FxView)
    cuts: dict[Tensor, Sequence[Mask]] = {}
    for value, quantizer in analysis.view.quantizers.items():
        keep = analysis.keep_masks(value, masks)
        if quantizer.axis is not None and keep is not None and not keep[quantizer.axis].all():
            cuts |= {one: [keep[quantizer.axis]] for one in (quantizer.d, quantizer.q_m) if one.ndim}
    return cuts


def note(module: fx.GraphModule, analysis: Analysis, masks: Mapping[Axis, Mask], wishes: Wishes) -> None:
    """Adds the removal to what a prepared module remembers; a copy of the module may share the old list."""
    state = module.meta.get(KEY)
    if isinstance(state, TrainingState):
        classes = [one for one in analysis.classes if one.atom in masks]
        removal = Removal({one.name: np.flatnonzero(masks[one.atom]).tolist() for one in classes}, wishes)
        module.meta[KEY] = replace(state, removals=[*state.removals, removal])
