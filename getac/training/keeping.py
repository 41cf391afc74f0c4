"""Reads which units a person wants to keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from getac.axes.analysis import Analysis, PruningClass
from getac.axes.axis import Axis, Mask
from getac.errors import BadInputError

__all__ = ["masks_of"]


def masks_of(analysis: Analysis, keep: Mapping[str, Any]) -> dict[Axis, Mask]:
    """Class atom -> which units stay, for the classes that lose some.

    Args:
        keep: Name of a class -> one bool per unit, or the indices of the units that stay.

    Raises:
        BadInputError: An unknown class, no unit left, or not one entry per unit.
    """
    if not isinstance(keep, Mapping):
        raise BadInputError(
            "what to keep is not given by class",
            found=type(keep).__name__,
            required="a dictionary: name of a class -> its units that stay",
        )
    classes = {one.name: one for one in analysis.classes}
    for name in keep:
        if name not in classes:
            raise BadInputError(
                f"there is no class {name!r} in this module",
                found=f"{len(classes)} classes: {', '.join(classes)}" if classes else "no classes",
                hint="read the names from getac.analyze(module).classes; after every removal they are new",
            )
    masks = {classes[name].atom: mask_of(classes[name], units) for name, units in keep.items()}
    return {atom: mask for atom, mask in masks.items() if not mask.all()}


def mask_of(one: PruningClass, units: Any) -> Mask:
    array = array_of(one, units)
    if array.size and array.dtype != np.bool_:
        array = mask_of_indices(one, array)
    if not array.any():
        raise refusal(one, "no unit of a class would stay", "none", "at least one unit")
    if len(array) != one.size:
        raise refusal(one, "a mask has another length than its class", f"{len(array)}", f"{one.size} entries")
    return array


def array_of(one: PruningClass, units: Any) -> npt.NDArray[Any]:
    """One-dimensional, of bools or of whole numbers."""
    required = "a sequence of bools, or of indices"
    if isinstance(units, torch.Tensor):
        units = units.detach().cpu()
    elif isinstance(units, set | frozenset | range):
        units = list(units)
    try:
        array = np.asarray(units)
    except ValueError as error:  # rows of different lengths
        raise refusal(one, "units cannot be read", str(error), required) from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "biu"):
        raise refusal(one, "units cannot be read", f"shape {array.shape} of {array.dtype}", required)
    return array


def mask_of_indices(one: PruningClass, indices: npt.NDArray[Any]) -> Mask:
    required = f"different numbers from 0 to {one.size - 1}"
    if indices.min() < 0 or indices.max() >= one.size:
        wrong = indices[(indices < 0) | (indices >= one.size)][0]
        raise refusal(one, "an index is outside of its class", str(wrong), required)
    if len(np.unique(indices)) != len(indices):
        raise refusal(one, "an index is given twice", str(indices[:8].tolist()), required)
    mask = np.zeros(one.size, dtype=np.bool_)
    mask[indices] = True
    return mask


def refusal(one: PruningClass, message: str, found: str, required: str) -> BadInputError:
    where = f"{one.name}: {one.size} {one.role} of {one.place or one.members[0].name}"
    return BadInputError(message, where=where, found=found, required=required)
