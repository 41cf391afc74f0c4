"""Captures a PyTorch model as a torch.fx graph of aten operators that trains and evaluates."""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import fx, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from getac.errors import UnsupportedModelError
from getac.fx_graph.buffer_writes import (
    copy_instead_of_out,
    drop_copies_to_itself,
    write_in_training_only,
)
from getac.fx_graph.eval_check import check_evaluation, evaluate_model, evaluating
from getac.fx_graph.functional import make_functional
from getac.fx_graph.given import check_call, check_flags, check_module
from getac.fx_graph.inline import inline_blocks
from getac.fx_graph.normal_form import name_squeezed_dimensions, slice_for_narrow
from getac.fx_graph.training import always_drawing, switch_training

__all__ = ["capture", "is_captured"]

DATA_DEPENDENT = {
    "GuardOnDataDependentSymNode",
    "DataDependentOutputException",
    "DynamicOutputShapeException",
}
"""Errors of torch, by name because their modules are private, for Python that asks for a tensor's values."""
LIBRARIES = ("/torch/", "/getac/", "/contextlib.py", "/inspect.py", "<")


def capture(
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_batch: bool = True,
) -> fx.GraphModule:
    """Captures a model by `torch.export` (non-strict) and returns a plain GraphModule.

    Parameters keep their names and are the model's own; train() and eval() switch what they switched. One
    run of the model and one of the module in evaluation make sure of it.

    Args:
        args: Example inputs; the first dimension of every tensor is taken for the batch.
        dynamic_batch: Whether the batch size is left open. It needs an example of two or more: torch.export
            takes a size of 1 for a constant, and the captured module then runs with batches of 1 alone,
            of which a warning tells.

    Raises:
        BadInputError: What is given is no module, or no inputs.
        UnsupportedModelError: The model cannot be captured (it branches on data, say), or the
            graph, which is of a run in training, computes something else in evaluation than the model does.
    """
    check_module(model)
    check_call(args, kwargs)
    check_flags(dynamic_batch=dynamic_batch)
    if dynamic_batch:
        warn_of_single_samples(args, kwargs or {})
    modes = {part: part.training for part in model.modules()}
    try:
        if not model.training:
            model.train()  # what is in evaluation mode inside of a model in training is frozen on purpose
        own_args, own_kwargs = each_its_own((tuple(args), dict(kwargs or {})))
        exported = export(model, own_args, own_kwargs, dynamic_batch)
    finally:
        for part, training in modes.items():
            part.training = training
    module = fx.GraphModule(exported, exported.graph)
    inline_blocks(module)
    copy_instead_of_out(module.graph)
    drop_copies_to_itself(module.graph)
    drop_checks(module.graph)
    name_squeezed_dimensions(module.graph)
    slice_for_narrow(module.graph)
    evaluated = evaluate_model(model, own_args, own_kwargs)

    def export_evaluation() -> fx.GraphModule:
        with evaluating(model):
            return export(model, own_args, own_kwargs, dynamic_batch)

    random = evaluated is not None and evaluated.random
    switch_training(module, always_drawing(export_evaluation().graph) if random else ())
    if evaluated:
        write_in_training_only(module, {name for name, _ in model.named_buffers()} - evaluated.written)
    make_functional(module.graph)
    module.graph.eliminate_dead_code()
    use_first_names(module, model)
    keep_out_of_state(module, model)
    module.recompile()
    module.train(model.training)
    if evaluated:
        name = type(model).__name__
        check_evaluation(module, evaluated, own_args, own_kwargs, name=name, export=export_evaluation)
    return module


def warn_of_single_samples(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    tensors = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    single = [f"{tuple(one.shape)}" for one in tensors if one.ndim and one.shape[0] == 1]
    if single:
        warnings.warn(
            f"an example input has a first dimension of 1: {', '.join(single)}; torch.export takes it for a"
            " constant, and the captured module runs with batches of 1 alone. Give an example of two samples"
            " or more, or say dynamic_batch=False",
            stacklevel=3,
        )


def each_its_own(inputs: Any) -> Any:
    """The inputs with no tensor twice: torch.export takes two that are one object for one input."""
    seen: set[int] = set()

    def own(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) in seen:
            return tensor.clone()
        seen.add(id(tensor))
        return tensor

    return pytree.tree_map_only(torch.Tensor, own, inputs)


def export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_batch: bool
) -> fx.GraphModule:
    try:
        shapes = batch_shapes(model, args, kwargs) if dynamic_batch else None
        program = torch.export.export(model, args, kwargs, strict=False, dynamic_shapes=shapes)
        exported = program.module(check_guards=False)
    except Exception as error:  # torch.export raises anything that the model's own code can raise
        raise UnsupportedModelError(
            "torch.export cannot capture the model",
            where=f"{type(model).__name__}{user_line(error)}",
            found=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}",
            hint=way_out(error, model, args, kwargs),
        ) from error
    assert isinstance(exported, fx.GraphModule)
    return exported


def way_out(error: Exception, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What to try: a branch on data is rewritten, inputs that do not fit are replaced."""
    if {one.__name__ for one in type(error).__mro__} & DATA_DEPENDENT or "data-dependent" in str(
        error
    ).lower():
        return "remove branches on tensor values, or rewrite them with torch.where"
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return f"give example inputs as {type(model).__name__}.forward{signature} takes them"
    return "see that the model itself runs with these example inputs: model(*args, **kwargs)"


def user_line(error: Exception) -> str:
    """The innermost line of the model's own code in a traceback."""
    lines = [
        f", {frame.filename}:{frame.lineno}: {frame.line}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(name in frame.filename for name in LIBRARIES)
    ]
    return lines[-1] if lines else ""


def use_first_names(module: fx.GraphModule, model: nn.Module) -> None:
    """Reads a tied parameter by the name that `named_parameters` gives it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    every = dict(module.named_parameters(remove_duplicate=False))
    for node in module.graph.find_nodes(op="get_attr"):
        first = names.get(id(every.get(str(node.target))))
        if first is not None and every.get(first) is every[str(node.target)]:
            node.target = first


def keep_out_of_state(module: fx.GraphModule, model: nn.Module) -> None:
    """Buffers that the model does not save, and constants of its code, stay out of the state dict."""
    saved = model.state_dict(keep_vars=True)
    for name, _ in list(module.named_buffers(remove_duplicate=False)):
        if name not in saved:
            owner, _, own_name = name.rpartition(".")
            module.get_submodule(owner)._non_persistent_buffers_set.add(own_name)


def batch_shapes(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A dynamic first dimension for every tensor, by the name of the argument it comes in."""

    def of(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return {0: Dim.AUTO} if value.ndim and value.shape[0] > 1 else {}
        if isinstance(value, list | tuple):
            return type(value)(of(item) for item in value)
        if isinstance(value, Mapping):
            return {key: of(item) for key, item in value.items()}
        return None

    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    shapes: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            shapes.update({key: of(item) for key, item in value.items()})
        else:
            shapes[name] = of(value)
    return shapes


def drop_checks(graph: fx.Graph) -> None:
    """Assertions and guards hold for the example; the analysis works without them."""
    for node in reversed(list(graph.nodes)):
        name = getattr(node.target, "__name__", str(node.target))
        if node.op.startswith("call") and not node.users and name.startswith(("_assert", "_guards")):
            graph.erase_node(node)


def is_captured(model: nn.Module) -> TypeGuard[fx.GraphModule]:
    """Whether a module is a graph of aten calls with sizes, as `capture` makes it."""
    if not isinstance(model, fx.GraphModule):
        return False
    calls = [node for node in model.graph.nodes if node.op == "call_function"]
    aten_calls = [node for node in calls if isinstance(node.target, torch._ops.OpOverload)]
    return bool(aten_calls) and all("val" in node.meta for node in aten_calls)
