"""`getac.save` and `getac.load`: a training that is interrupted goes on as if it had not been.

A checkpoint says how the module came to be (captured with these inputs, quantized there, cut so) and holds
its numbers. Loading does all of that again with the model that the user's own code makes, and reads the
numbers. No code is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer
from torch.utils import _pytree

from getac.errors import BadInputError
from getac.fx_graph.capture import capture, is_captured
from getac.kernels.fake_quantize import Bits
from getac.training.checkpoint_file import Checkpoint, Path, damaged, read_checkpoint, write_checkpoint
from getac.training.insertion import insert
from getac.training.quantizers import find_quantizers
from getac.training.regenerating import regenerate
from getac.training.saved_optimizer import optimizer_entry
from getac.training.state import KEY, Insertion, Removal, TrainingState, state_of
from getac.training.stored_tensors import check_same, copy_into, once, stored_tensors
from getac.training.trees import decode, encode

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
        "args": encode(tuple(state.args), f"{EXAMPLE}args", tensors),
        "kwargs": encode(dict(state.kwargs), f"{EXAMPLE}kwargs", tensors),
        "insertions": [asdict(one) for one in current_insertions(module, state)],
        "removals": [asdict(one) for one in state.removals],
        "optimizer": optimizer_entry(optimizer, module, tensors) if optimizer is not None else None,
    }
    write_checkpoint(path, plan, tensors)


def current_insertions(module: fx.GraphModule, state: TrainingState) -> list[Insertion]:
    """With the bounds that are in the graph: training may have narrowed them."""
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
        BadInputError: The file cannot be read, or is one of another model.
        UnsupportedModelError: The model cannot be captured.
    """
    check_model(model)
    checkpoint = read_checkpoint(path, MODEL, EXAMPLE)
    tensors, name = checkpoint.under(MODEL), type(model).__name__
    try:
        state = read_state(checkpoint, device_of(model))
        training, frozen = bool(checkpoint.plan["training"]), frozenset(checkpoint.plan["frozen"])
        inserted = tuple(f"{one.name}." for one in state.insertions)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # a plan that nobody wrote
        raise damaged(checkpoint.path, error) from error
    before = {name: one for name, one in tensors.items() if not name.startswith(inserted)}
    check_same(stored_tensors(model), before, cut=False, model=name, path=checkpoint.path)
    module = replay(model, state, checkpoint)
    check_same(stored_tensors(module), tensors, cut=True, model=name, path=checkpoint.path)
    copy_into(stored_tensors(module), tensors)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return module.train(training)


def check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module) or is_captured(model):
        raise BadInputError(
            "a checkpoint is loaded into a new model",
            found="a module that was captured already"
            if isinstance(model, nn.Module)
            else type(model).__name__,
            required="the model itself, as it was given to getac.prepare",
            hint="module = getac.load(make_model(), path)",
        )


def device_of(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in stored_tensors(model).values()), torch.device("cpu"))


def read_state(checkpoint: Checkpoint, device: torch.device) -> TrainingState:
    """How the module came to be; its example inputs on the device of the model."""
    plan, read = checkpoint.plan, checkpoint.tensors
    args, kwargs = _pytree.tree_map_only(
        Tensor, lambda one: one.to(device), (decode(plan["args"], read), decode(plan["kwargs"], read))
    )
    insertions = [read_insertion(**one) for one in plan["insertions"]]
    removals = [
        Removal({str(n): list(units) for n, units in one["kept"].items()}) for one in plan["removals"]
    ]
    return TrainingState(args, kwargs, bool(plan["dynamic_batch"]), insertions, removals, str(plan["model"]))


def read_insertion(
    node: str, readers: Sequence[str], name: str, axis: int | None, bits: Sequence[Any]
) -> Insertion:
    signed, least, most = bits
    return Insertion(node, tuple(readers), name, axis, Bits(bool(signed), float(least), float(most)))


def replay(model: nn.Module, state: TrainingState, checkpoint: Checkpoint) -> fx.GraphModule:
    """Captures the model, inserts the quantizers and cuts it, as it was done before."""
    module = capture(model, tuple(state.args), state.kwargs, dynamic_batch=state.dynamic_batch)
    check_nodes(module, state, checkpoint)
    try:
        insert(module, state.insertions)
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RuntimeError,
    ) as error:
        raise damaged(checkpoint.path, error) from error  # a plan that nobody wrote
    module.meta[KEY] = replace(state, removals=[])
    for removal in state.removals:
        try:
            regenerate(module, removal.kept)
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
