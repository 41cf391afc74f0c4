"""An optimizer's state in a checkpoint: the moments of every parameter, and the settings of its groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from getac.errors import BadInputError
from getac.training.checkpoint_file import UNREADABLE, Checkpoint, Path, damaged, read_checkpoint
from getac.training.optimizer_state import check_optimizer
from getac.training.trees import decode, encode

__all__ = ["holds_optimizer", "load_optimizer", "optimizer_entry"]

PREFIX = "optimizer/"
SavedGroups = Sequence[Sequence[tuple[str, list[int]]]]
"""The name and the shape of every parameter in every group."""


def optimizer_entry(optimizer: Optimizer, module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What a plan says of an optimizer; the tensors of its state go to `tensors`."""
    check_optimizer(optimizer, module)
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = [group["params"] for group in optimizer.param_groups]
    return {
        "class": type(optimizer).__name__,
        "groups": [[[names.get(p, "?"), list(p.shape)] for p in group] for group in groups],
        "state": encode(optimizer.state_dict(), PREFIX.rstrip("/"), tensors),
    }


def holds_optimizer(path: Path) -> bool:
    """Whether an optimizer was saved with the module."""
    return read_checkpoint(path, PREFIX).plan.get("optimizer") is not None


def load_optimizer(optimizer: Optimizer, path: Path) -> None:
    """Gives an optimizer the state and the settings that `getac.save` has stored.

    Args:
        optimizer: Made as in the first run, from the parameters of the module that `getac.load` returned.

    Raises:
        BadInputError: The file cannot be read, holds no optimizer, or one of another class, with other
            groups or for parameters of other shapes.
    """
    checkpoint = read_checkpoint(path, PREFIX)
    entry = checkpoint.plan.get("optimizer")
    if entry is None:
        raise BadInputError(
            "the checkpoint holds no optimizer",
            where=checkpoint.path,
            hint="getac.save(module, path, optimizer)",
        )
    try:
        check_class(optimizer, str(entry["class"]), checkpoint)
        check_groups(optimizer, entry["groups"], checkpoint)
        state = decode(entry["state"], checkpoint.tensors)
        optimizer.load_state_dict(state)
        restore_types(optimizer, state["state"])
    except UNREADABLE as error:
        raise damaged(checkpoint.path, error) from error


def check_class(optimizer: Optimizer, name: str, checkpoint: Checkpoint) -> None:
    if type(optimizer).__name__ != name:
        raise BadInputError(
            "the checkpoint holds another optimizer",
            where=checkpoint.path,
            required=name,
            found=type(optimizer).__name__,
        )


def check_groups(optimizer: Optimizer, saved: SavedGroups, checkpoint: Checkpoint) -> None:
    groups = [group["params"] for group in optimizer.param_groups]
    if [len(group) for group in groups] != [len(group) for group in saved]:
        raise BadInputError(
            "the optimizer has other parameter groups than that of the checkpoint",
            where=checkpoint.path,
            required=f"groups of {', '.join(str(len(group)) for group in saved)} parameters",
            found=", ".join(str(len(group)) for group in groups),
            hint="make it as in the first run, from the module that getac.load returned",
        )
    for position, (group, entries) in enumerate(zip(groups, saved, strict=True)):
        for parameter, (name, shape) in zip(group, entries, strict=True):
            if list(parameter.shape) != shape:
                raise BadInputError(
                    "a parameter of the optimizer has another shape than in the checkpoint",
                    where=f"{checkpoint.path}, group {position}, {name}",
                    required=str(tuple(shape)),
                    found=str(tuple(parameter.shape)),
                    hint="make the optimizer from the module that getac.load returned",
                )


def restore_types(optimizer: Optimizer, saved: Mapping[int, Mapping[str, Any]]) -> None:
    """torch casts a state to the type of its parameter; what was kept more exactly stays so."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entries in saved.items():
        state = optimizer.state[parameters[index]]
        for key, entry in entries.items():
            if isinstance(entry, Tensor) and state[key].dtype != entry.dtype:
                state[key] = entry.to(state[key].device)
