"""How far a training has come: what of QASSO goes into a checkpoint beside the base optimizer's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from getac.axes.meter import Cost
from getac.errors import BadInputError, OptionError
from getac.qasso.schedule import Schedule

__all__ = ["KEY", "Position", "no_units", "saved_position"]

KEY = "qasso"


@dataclass
class Position:
    """How far a training has come.

    Args:
        step: How many steps are done.
        units: How many there were at the start.
        goal: How many of them go: K of the paper, as near as alignment lets it.
        removed: How many are removed already.
        redundant: The numbers of those that are being forgotten, in the table of the module as it is.
        gone: Which are zero and not removed; bools, one per unit of the table.
        bits_fixed: Whether numbers of bits are whole and fixed.
        dense: What the module cost at the start, in floats.
    """

    step: int
    units: int
    goal: int
    removed: int
    redundant: Tensor
    gone: Tensor
    bits_fixed: bool
    dense: Cost

    @classmethod
    def start(cls, units: int, dense: Cost, device: torch.device) -> Position:
        none, gone = no_units(device), torch.zeros(units, dtype=torch.bool, device=device)
        return cls(0, units, 0, 0, none, gone, False, dense)

    @property
    def zero(self) -> int:
        """How many units are removed, or zero."""
        return self.removed + int(self.gone.sum())

    def state(self) -> dict[str, Any]:
        """Numbers and tensors, to be stored."""
        return {**vars(self), "dense": asdict(self.dense)}

    @classmethod
    def of_state(cls, state: Mapping[str, Any], device: torch.device) -> Position:
        on_device = {name: state[name].to(device) for name in ("redundant", "gone")}
        return cls(**{**state, **on_device, "dense": Cost(**state["dense"])})


def no_units(device: torch.device) -> Tensor:
    return torch.empty(0, dtype=torch.long, device=device)


def saved_position(
    state_dict: Mapping[str, Any], schedule: Schedule, options: Mapping[str, Any], units: int
) -> Mapping[str, Any]:
    """What is QASSO's own in a state; raises BadInputError if it belongs to another training."""
    own = state_dict.get(KEY)
    if not isinstance(own, Mapping):
        raise BadInputError(
            "this is not the state of QASSO",
            required="what state_dict() of a QASSO optimizer has returned",
            hint="an optimizer of torch cannot be continued: its steps have no stage",
        )
    saved = Schedule(**own["schedule"])
    if replace(saved, cool_down=0) != replace(schedule, cool_down=0):
        raise BadInputError(
            "the training was begun with another schedule",
            required=f"the same stages\n{saved}",
            found=f"\n{schedule}",
            hint="make the optimizer as in the first run; only the cool-down may have another length",
        )
    check_same_options(own["options"], options)
    if len(own["position"]["gone"]) != units:
        raise BadInputError(
            "the training was stored with another number of units",
            required=f"a module with {len(own['position']['gone'])} units",
            found=str(units),
            hint="getac.load cuts a model as it was; give keep and prune as in the first run",
        )
    return own


def check_same_options(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises OptionError: with other options, other units would go than those that were planned for."""
    other = [name for name in given if name not in saved or given[name] != saved[name]]
    if other:
        raise OptionError(
            f"the training was begun with another {', '.join(other)}",
            where=", ".join(other),
            required=", ".join(f"{name}={saved.get(name)!r}" for name in other),
            found=", ".join(f"{name}={given[name]!r}" for name in other),
            hint="give the options of the first run, or begin a new one",
        )
