"""`getac.save` and `getac.load`: a training that is interrupted goes on as if it had not been.

A checkpoint says how the module came to be (captured with these inputs, quantized there, cut so) and holds
its numbers. Loading does all of that again with the model that the user's own code makes, and reads the
numbers. No code is stored.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
from torch import fx, nn
from torch.optim import Optimizer

from getac.errors import BadInputError
from getac.fx_graph.capture import is_captured
from getac.training.checkpoint_file import (
    UNREADABLE,
    Path,
    damaged,
    read_checkpoint,
    write_checkpoint,
)
from getac.training.quantizers import find_quantizers
from getac.training.replaying import replay
from getac.training.saved_optimizer import optimizer_entry
from getac.training.saved_plan import read_frozen, read_state, read_targets, read_training
from getac.training.state import Insertion, TrainingState, state_of
from getac.training.stored_tensors import check_same, copy_into, once, stored_tensors, unchanged_on_failure
from getac.training.trees import encode

__all__ = ["load", "save"]

MODEL, EXAMPLE = "model/", "example/"


def save(module: fx.GraphModule, path: Path, optimizer: Optimizer | None = None) -> None:
    """Writes a module, and the optimizer that trains it, to one safetensors file.

    Random numbers, schedulers and scalers are the user's to save.

    Args:
        module: From `getac.prepare`, regenerated any number of times.

    Raises:
        BadInputError: The module was not prepared, or something among the example inputs or in the
            optimizer cannot be stored.
        OutputError: The file cannot be written; what was there stays.
    """
    state = state_of(module)
    tensors = {MODEL + name: tensor.detach() for name, tensor in once(stored_tensors(module)).items()}
    plan = {
        "model": state.model,
        "training": module.training,
        "frozen": [name for name, one in module.named_parameters() if not one.requires_grad],
        "dynamic_batch": state.dynamic_batch,
        "ranges": state.ranges,
        "args": encode(tuple(state.args), f"{EXAMPLE}args", tensors),
        "kwargs": encode(dict(state.kwargs), f"{EXAMPLE}kwargs", tensors),
        "insertions": [asdict(one) for one in current_insertions(module, state)],
        "targets": [list(one.bits) for one in state.insertions],
        "removals": [asdict(one) for one in state.removals],
        "optimizer": optimizer_entry(optimizer, module, tensors) if optimizer is not None else None,
    }
    write_checkpoint(path, plan, tensors)


def current_insertions(module: fx.GraphModule, state: TrainingState) -> list[Insertion]:
    """With the bounds that are in the graph: training may have widened or narrowed them."""
    bits = {quantizer.name: quantizer.bits for quantizer in find_quantizers(module)}
    return [replace(one, bits=bits[one.name]) for one in state.insertions]


def load(model: nn.Module, path: Path) -> fx.GraphModule:
    """Makes the module that was saved out of the model that it was prepared from.

    Args:
        model: As the user's code makes it, whatever its numbers. Its parameters become those of the module,
            which is on the model's device.

    Returns:
        A module in the mode (training or evaluation) in which it was saved.

    Raises:
        BadInputError: The file cannot be read, or is one of another model, which then stays as it was.
        UnsupportedModelError: The model cannot be captured.
    """
    check_model(model)
    checkpoint = read_checkpoint(path, MODEL, EXAMPLE)
    tensors, name = checkpoint.under(MODEL), type(model).__name__
    try:
        state = read_state(checkpoint, device_of(model))
        training, frozen = read_training(checkpoint.plan), read_frozen(checkpoint.plan)
        inserted = tuple(f"{one.name}." for one in state.insertions)
        targets = read_targets(checkpoint.plan, state)
    except UNREADABLE as error:
        raise damaged(checkpoint.path, error) from error
    before = {name: one for name, one in tensors.items() if not name.startswith(inserted)}
    check_same(stored_tensors(model), before, cut=False, model=name, path=checkpoint.path)
    with unchanged_on_failure([*model.parameters(), *model.buffers()]):
        module = replay(model, state, checkpoint)
        check_same(stored_tensors(module), tensors, cut=True, model=name, path=checkpoint.path)
    state_of(module).insertions = targets
    copy_into(stored_tensors(module), tensors)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return module.train(training)


def check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module) or is_captured(model):
        captured = "captured already" if isinstance(model, nn.Module) else "no module"
        raise BadInputError(
            "a checkpoint is loaded into a new model",
            found=f"{type(model).__name__}, {captured}",
            required="the model itself, as it was given to getac.prepare",
            hint="module = getac.load(make_model(), path)",
        )


def device_of(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in stored_tensors(model).values()), torch.device("cpu"))
