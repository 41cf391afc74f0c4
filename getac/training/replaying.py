"""Makes a module anew as a checkpoint says: captured with these inputs, quantized there, cut so."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx, nn

from getac.errors import BadInputError
from getac.fx_graph.capture import capture
from getac.training.checkpoint_file import UNREADABLE, Checkpoint, damaged
from getac.training.insertion import insert, quantizer_name
from getac.training.layers import is_floating
from getac.training.regenerating import regenerate
from getac.training.state import KEY, Insertion, TrainingState

__all__ = ["replay"]


def replay(model: nn.Module, state: TrainingState, checkpoint: Checkpoint) -> fx.GraphModule:
    """Captures the model, inserts the quantizers and cuts it, as it was done before."""
    module = capture(model, tuple(state.args), state.kwargs, dynamic_batch=state.dynamic_batch)
    check_insertions(module, state, checkpoint)
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


def check_insertions(module: fx.GraphModule, state: TrainingState, checkpoint: Checkpoint) -> None:
    """Whether the quantizers of a file have their places in this graph, and the names that are theirs.

    Names become code: those of a file must be the ones that this graph gives.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    named = [name for one in state.insertions for name in (one.node, *one.readers)]
    missing = [name for name in dict.fromkeys(named) if name not in nodes]
    if missing:
        found = f"no operation {missing[0]}" + (f" (and {len(missing) - 1} more)" if missing[1:] else "")
        raise other_code(checkpoint, state, found)
    for one in state.insertions:
        check_place(one, nodes[one.node], checkpoint, state)
        if one.name != (own := quantizer_name(module, nodes[one.node])):
            raise damaged(checkpoint.path, ValueError(f"a quantizer of {own!r} has the name {one.name!r}"))
    if len({one.name for one in state.insertions}) < len(state.insertions):
        raise damaged(checkpoint.path, ValueError("two quantizers have one name"))


def check_place(one: Insertion, value: fx.Node, checkpoint: Checkpoint, state: TrainingState) -> None:
    users = {user.name for user in value.users}
    strangers = [name for name in one.readers if name not in users]
    if strangers or not one.readers:
        raise other_code(
            checkpoint, state, f"{strangers[0] if strangers else 'nothing'} as a reader of {one.node}"
        )
    if not is_floating(value) or (one.axis is not None and one.axis not in range(value.meta["val"].ndim)):
        raise other_code(checkpoint, state, f"{one.node} cannot be quantized along axis {one.axis}")


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
