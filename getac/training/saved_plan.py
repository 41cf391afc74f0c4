"""What a checkpoint's plan says of how its module came to be, read with doubt: it may say anything.

What is wrong raises one of `UNREADABLE`. Whether it fits the model is asked in `replaying`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from getac.axes.wishes import Wishes
from getac.fx_graph.given import check_call
from getac.json_types import of_type, texts
from getac.kernels.fake_quantize import Bits
from getac.kernels.ranges import METHODS
from getac.training.checkpoint_file import Checkpoint
from getac.training.observation import AUTO
from getac.training.state import Insertion, Removal, TrainingState
from getac.training.trees import decode

__all__ = ["read_frozen", "read_state", "read_targets", "read_training"]

LEAST, GREATEST = 1, 16
"""Numbers of bits; with a sign, there are more than the least."""


def read_training(plan: Mapping[str, Any]) -> bool:
    """Whether the module was in training mode."""
    return of_type(bool, plan["training"], "training")


def read_frozen(plan: Mapping[str, Any]) -> frozenset[str]:
    """The parameters that do not learn."""
    return frozenset(texts(plan["frozen"], "frozen"))


def read_state(checkpoint: Checkpoint, device: torch.device) -> TrainingState:
    """How the module came to be; its example inputs on the device of the model."""
    plan, read = checkpoint.plan, checkpoint.tensors
    args = of_type(tuple, decode(plan["args"], read), "args")
    kwargs = of_type(dict, decode(plan["kwargs"], read), "kwargs")
    check_call(args, kwargs)
    args, kwargs = _pytree.tree_map_only(Tensor, lambda one: one.to(device), (args, kwargs))
    return TrainingState(
        args,
        kwargs,
        of_type(bool, plan["dynamic_batch"], "dynamic_batch"),
        [read_insertion(**one) for one in of_type(list, plan["insertions"], "insertions")],
        [read_removal(**one) for one in of_type(list, plan["removals"], "removals")],
        of_type(str, plan["model"], "model"),
        read_ranges(plan),
    )


def read_ranges(plan: Mapping[str, Any]) -> str:
    """How ranges are chosen; files of the first versions do not say it."""
    method = of_type(str, plan.get("ranges", AUTO), "ranges")
    if method not in (AUTO, *METHODS):
        raise ValueError(f"{method!r} chooses no ranges")
    return method


def read_targets(plan: Mapping[str, Any], state: TrainingState) -> list[Insertion]:
    """The insertions with the bounds that were asked for; those of the graph change as it trains."""
    now = [list(one.bits) for one in state.insertions]
    bits = [read_bits(one) for one in of_type(list, plan.get("targets", now), "targets")]
    return [replace(one, bits=own) for one, own in zip(state.insertions, bits, strict=True)]


def read_removal(kept: Any, wishes: Any = None) -> Removal:
    globs = of_type(dict, {} if wishes is None else wishes, "wishes")
    units = {name: read_units(one) for name, one in of_type(dict, kept, "kept").items()}
    return Removal(units, Wishes(**{name: texts(one, name) for name, one in globs.items()}))


def read_units(units: Any) -> list[int]:
    return [of_type(int, one, "a unit") for one in of_type(list, units, "kept")]


def read_insertion(node: Any, readers: Any, name: Any, axis: Any, bits: Any, exponent: Any) -> Insertion:
    return Insertion(
        of_type(str, node, "node"),
        texts(readers, "readers"),
        of_type(str, name, "name"),
        None if axis is None else of_type(int, axis, "axis"),
        read_bits(bits),
        of_type(bool, exponent, "exponent"),
    )


def read_bits(bits: Any) -> Bits:
    signed, least, most = of_type(list, bits, "bits")
    of_type(bool, signed, "signed")
    if not all(type(one) in (int, float) for one in (least, most)):
        raise TypeError(f"{least!r} to {most!r} are no numbers of bits")
    if not LEAST <= least <= most <= GREATEST or (signed and least == LEAST):
        raise ValueError(f"from {least} to {most} bits")
    return Bits(signed, float(least), float(most))
