"""What an optimizer remembers of each parameter, cut with the parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from getac.axes.axis import Mask
from getac.errors import BadInputError
from getac.fx_graph.slicing import kept_part

__all__ = ["StateCut", "state_cuts"]

WHOLE = np.ones(1, dtype=np.bool_)


@dataclass(frozen=True)
class StateCut:
    """One entry of an optimizer's state that becomes smaller.

    Args:
        state: What the optimizer holds for one parameter.
        key: The entry.
        masks: Which indices of each of its dimensions stay.
    """

    state: dict[str, Any]
    key: str
    masks: Sequence[Mask]

    def carry_out(self) -> None:
        self.state[self.key] = kept_part(self.state[self.key].detach(), self.masks)


def state_cuts(
    optimizer: Optimizer, cuts: Mapping[Tensor, Sequence[Mask]], module: nn.Module
) -> Sequence[StateCut]:
    """What becomes smaller in an optimizer's state; nothing is changed yet.

    A tensor with a parameter's dimensions is cut as the parameter is. Where it has size 1 instead (a
    factored moment) it stays. Numbers and tensors of one element belong to the parameter as a whole.

    Args:
        cuts: Stored tensor -> which indices of each dimension stay.

    Raises:
        BadInputError: It is no torch optimizer, it trains no parameter of the module, or it keeps what
            cannot be matched with a parameter's elements (LBFGS does).
    """
    check_optimizer(optimizer, module)
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    known = [(one, masks) for one, masks in cuts.items() if one in optimizer.state]
    return [cut for one, masks in known for cut in cuts_of(optimizer, one, masks, names.get(one, ""))]


def check_optimizer(optimizer: Optimizer, module: nn.Module) -> None:
    if not isinstance(optimizer, Optimizer):
        raise BadInputError(
            "this is not a torch optimizer",
            found=type(optimizer).__name__,
            required="an instance of torch.optim.Optimizer",
        )
    if isinstance(optimizer, LBFGS):
        raise BadInputError(
            "the state of LBFGS cannot be cut: it mixes all elements of all parameters",
            hint="use an optimizer that treats every element by itself, such as SGD or AdamW",
        )
    parameters = set(module.parameters())
    if not any(one in parameters for group in optimizer.param_groups for one in group["params"]):
        raise BadInputError(
            "the optimizer trains no parameter of this module",
            where=type(optimizer).__name__,
            hint="make the optimizer from module.parameters()",
        )


def cuts_of(optimizer: Optimizer, parameter: Tensor, masks: Sequence[Mask], name: str) -> Iterator[StateCut]:
    state = optimizer.state[parameter]
    for key, entry in state.items():
        if isinstance(entry, Tensor) and entry.numel() != 1 and has_dimensions_of(parameter, entry):
            here = [mask if size > 1 else WHOLE for size, mask in zip(entry.shape, masks, strict=True)]
            yield StateCut(state, key, here)
        elif not belongs_to_the_whole(entry):
            raise BadInputError(
                "an optimizer keeps something that cannot be cut with its parameter",
                where=f"{type(optimizer).__name__}, {key!r} of {name}",
                required=f"numbers, or a tensor of shape {tuple(parameter.shape)}, or with 1 for some sizes",
                found=f"shape {tuple(entry.shape)}" if isinstance(entry, Tensor) else type(entry).__name__,
            )


def has_dimensions_of(parameter: Tensor, entry: Tensor) -> bool:
    return entry.ndim == parameter.ndim and all(
        size in (1, whole) for size, whole in zip(entry.shape, parameter.shape, strict=True)
    )


def belongs_to_the_whole(entry: Any) -> bool:
    if isinstance(entry, Tensor):
        return entry.numel() == 1
    return entry is None or isinstance(entry, int | float | str)
