"""Makes a module anew as a checkpoint says: captured with these inputs, quantized there, cut so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from getac.axes.wishes import Wishes
from getac.errors import BadInputError
from getac.fx_graph.capture import capture
from getac.kernels.fake_quantize import Bits
from getac.training.checkpoint_file import UNREADABLE, Checkpoint, damaged
from getac.training.insertion import insert
from getac.training.regenerating import regenerate
from getac.training.state import KEY, Insertion, Removal, TrainingState
from getac.training.trees import decode

__all__ = ["read_state", "replay"]


def read_state(checkpoint: Checkpoint, device: torch.device) -> TrainingState:
    """How the module came to be; its example inputs on the device of the model."""
    plan, read = checkpoint.plan, checkpoint.tensors
    args, kwargs = _pytree.tree_map_only(
        Tensor, lambda one: one.to(device), (decode(plan["args"], read), decode(plan["kwargs"], read))
    )
    insertions = [read_insertion(**one) for one in plan["insertions"]]
    removals = [read_removal(**one) for one in plan["removals"]]
    return TrainingState(args, kwargs, bool(plan["dynamic_batch"]), insertions, removals, str(plan["model"]))


def read_removal(
    kept: Mapping[str, Sequence[int]], wishes: Mapping[str, Sequence[str]] | None = None
) -> Removal:
    globs = {name: tuple(map(str, one)) for name, one in (wishes or {}).items()}
    return Removal({name: list(one) for name, one in kept.items()}, Wishes(**globs))


def read_insertion(
    node: str, readers: Sequence[str], name: str, axis: int | None, bits: Sequence[Any], exponent: bool
) -> Insertion:
    signed, least, most = bits
    bounds = Bits(bool(signed), float(least), float(most))
    return Insertion(node, tuple(readers), name, axis, bounds, bool(exponent))


def replay(model: nn.Module, state: TrainingState, checkpoint: Checkpoint) -> fx.GraphModule:
    """Captures the model, inserts the quantizers and cuts it, as it was done before."""
    module = capture(model, tuple(state.args), state.kwargs, dynamic_batch=state.dynamic_batch)
    check_nodes(module, state, checkpoint)
    try:
        insert(module, state.insertions)
    except UNREADABLE as error:
        raise damaged(checkpoint.path, error) from error
    module.meta[KEY] = replace(state, removals=[])
    for removal in state.removals:
        try:
            regenerate(module, removal.kept, wishes=removal.wishes)
        except BadInputError as error:
            raise other_code(checkpoint, state, f"{error.message} ({error.where or error.found})") from error
    return module


def check_nodes(module: fx.GraphModule, state: TrainingState, checkpoint: Checkpoint) -> None:
    known = {node.name for node in module.graph.nodes}
    named = [name for one in state.insertions for name in (one.node, *one.readers)]
    missing = [name for name in dict.fromkeys(named) if name not in known]
    if missing:
        found = f"no operation {missing[0]}" + (f" (and {len(missing) - 1} more)" if missing[1:] else "")
        raise other_code(checkpoint, state, found)


def other_code(checkpoint: Checkpoint, state: TrainingState, found: str) -> BadInputError:
    """For a model with the same tensors that computes with them in another way."""
    then, now = checkpoint.plan["versions"].get("torch"), torch.__version__
    return BadInputError(
        "the model is captured as another graph than that of the checkpoint",
        where=checkpoint.path,
        required=f"{state.model} as it was prepared, under torch {then}",
        found=f"{found}, under torch {now}",
        hint="use the code, the settings and the version of torch that it was prepared with",
    )
