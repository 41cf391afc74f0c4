"""What `getac.QASSO` refuses before anything is trained."""

from __future__ import annotations

from typing import Literal, get_args

from torch import fx

from getac.errors import OptionError
from getac.qasso.floats import QuantizeFrom
from getac.qasso.joint import JointConstants
from getac.qasso.pruning import Pruning
from getac.qasso.schedule import Schedule, is_whole
from getac.training.state import state_of

__all__ = ["Removal", "check_given", "check_joint", "check_whole"]

Removal = Literal["period", "end", "never"]


def check_given(
    schedule: object,
    pruning: object,
    constants: object,
    removal: str,
    every: object,
    quantize_from: str = "warm-up",
) -> None:
    kinds = (("schedule", schedule, Schedule), ("pruning", pruning, Pruning))
    for name, value, kind in (*kinds, ("constants", constants, JointConstants)):
        if not isinstance(value, kind) and (value is not None or kind is Schedule):
            raise OptionError(
                f"{name} is of another type",
                where=name,
                required=f"a {kind.__module__}.{kind.__name__}",
                found=repr(value),
            )
    if not is_whole(every) or every < 0:  # type: ignore[operator]
        raise OptionError(
            "gradients are checked every so many steps",
            where="check_every",
            required="a whole number, 0 for never",
            found=repr(every),
        )
    if removal not in get_args(Removal):
        raise OptionError(
            "unknown time of removal",
            where="removal",
            required=", ".join(get_args(Removal)),
            found=repr(removal),
        )
    if quantize_from not in get_args(QuantizeFrom):
        raise OptionError(
            "there are no quantizers from that stage on",
            where="quantize_from",
            required=", ".join(get_args(QuantizeFrom)),
            found=repr(quantize_from),
        )


def check_joint(schedule: Schedule, pruning: Pruning) -> None:
    if pruning.sparsity and not schedule.joint:
        raise OptionError(
            "units are removed in the joint stage, and the schedule has none",
            where="schedule",
            required=f"joint steps, for a sparsity of {pruning.sparsity:g}",
            found="joint=0",
            hint="a sparsity of 0 is for quantization alone",
        )


def check_whole(module: fx.GraphModule, pruning: Pruning) -> None:
    """The sparsity is a share of all units: it says nothing of a module that has lost some."""
    removals = state_of(module).removals
    if pruning.sparsity and removals:
        raise OptionError(
            "the module was pruned already",
            where="sparsity",
            required="0, to train what is left; or the module as it was prepared",
            found=f"{pruning.sparsity:g}, of a module that has lost units {len(removals)} times",
            hint="a training that was stored is continued with getac.GETA.load or getac.load_optimizer",
        )
