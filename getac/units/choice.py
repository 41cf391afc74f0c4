"""Which units go: the choice that `choose-units` makes and `slice-units` carries out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from getac.axes.axis import Axis, Mask
from getac.errors import OptionError
from getac.rules.base import Floats
from getac.view import NodeView

__all__ = ["BiasFold", "Choice", "check_options"]


@dataclass(frozen=True)
class BiasFold:
    """Constant slices of removed units that a node's bias takes over.

    Args:
        node: A node whose rule has `bias_from_constants`.
        constants: One number per index of its contracted input dimension, 0 where nothing is removed.
    """

    node: NodeView
    constants: Floats


@dataclass(frozen=True)
class Choice:
    """The units to remove.

    Args:
        masks: Class atom -> which units stay, for classes that lose some.
        folds: What must move into biases so that the function stays the same.
        units: How many units there were in all open classes.
        removed: How many of them go.
        exact: Whether removal leaves the model's function unchanged (units that were dead already);
            otherwise the reference is the masked model.
    """

    masks: Mapping[Axis, Mask]
    folds: tuple[BiasFold, ...]
    units: int
    removed: int
    exact: bool

    @property
    def sparsity(self) -> float:
        return self.removed / self.units if self.units else 0.0


def check_options(sparsity: float | None, align: int | None) -> None:
    """Raises OptionError where no choice can be asked for so."""
    if sparsity is not None and not 0 <= sparsity < 1:
        raise OptionError(
            "the sparsity is the share of units to remove",
            required="a number in [0, 1), or auto",
            found=str(sparsity),
        )
    if align is not None and align < 1:
        raise OptionError("the alignment must be a positive multiple", found=str(align))
