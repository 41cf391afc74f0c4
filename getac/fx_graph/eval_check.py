"""Compares a captured module in evaluation with its model: the graph is of a run in training.

What a model computes under `if self.training` is in the graph without its condition. One run of either
shows whether that matters; nothing of the model, nor any random generator, is left changed.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from getac.errors import UnsupportedModelError
from getac.fx_graph.mode_lines import lines_of_one_mode

__all__ = ["Evaluated", "check_evaluation", "evaluate_model", "evaluating"]

TOLERANCE, HALF_TOLERANCE = 1e-5, 1e-2  # of the largest number; fused kernels round in other ways
HINT = (
    "give the part that differs between training and evaluation a module of its own that torch knows, as"
    " nn.Dropout is one, or move it out of the model: auxiliary outputs, for instance, into the loss"
)


@dataclass(frozen=True)
class Evaluated:
    """What one run in evaluation gave.

    Args:
        outputs: Path -> tensor or number.
        buffers: Name -> its numbers after the run.
        written: The buffers that were written to, with whatever numbers.
        random: Whether random numbers were drawn.
    """

    outputs: Mapping[str, Any]
    buffers: Mapping[str, torch.Tensor]
    written: frozenset[str]
    random: bool


def evaluate_model(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Evaluated | None:
    """The model's own results in evaluation; None, with a warning, where it does not run there."""
    if any(one.is_meta for one in tensors_of(model, args, kwargs)):
        return None
    try:
        return evaluate(model, args, kwargs)
    except Exception as error:  # the model's own code can raise anything
        warnings.warn(
            "the model does not run in evaluation on the example inputs, so that eval() of the"
            f" captured module is not checked: {type(error).__name__}: {error}",
            stacklevel=3,
        )
        return None


def check_evaluation(
    module: fx.GraphModule,
    wanted: Evaluated,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    name: str,
    export: Callable[[], fx.GraphModule],
) -> None:
    """Raises where the captured module computes something else in evaluation than the model does.

    Args:
        wanted: Of the model.
        name: Of the model.
        export: Exports the model in evaluation, to find the lines at fault when there are any.

    Raises:
        UnsupportedModelError: Other outputs, or other numbers in the buffers.
    """
    try:
        found = first_difference(wanted, evaluate(module, args, kwargs))
    except Exception as error:  # a graph of another mode can fail in any operator
        found = f"{type(error).__name__}: {error}"
    if found:
        lines = lines_of_one_mode(module.graph, export)
        raise UnsupportedModelError(
            "the captured module would not compute in evaluation what the model computes",
            where="; ".join([name, *lines]),
            required="a model that takes the same steps in training and in evaluation, where torch's own"
            " modules (dropout, batch norm and so on) do not switch by themselves",
            found=found,
            hint=HINT,
        )


def first_difference(wanted: Evaluated, found: Evaluated) -> str | None:
    if wanted.outputs.keys() != found.outputs.keys():
        return f"{len(found.outputs)} outputs, the model has {len(wanted.outputs)}"
    for path, value in wanted.outputs.items():
        if not same(value, found.outputs[path]):
            return f"other numbers in output{path}"
    for name, buffer in wanted.buffers.items():
        exact = name not in wanted.written
        if name in found.buffers and not same(buffer, found.buffers[name], exact):
            return f"other numbers in buffer {name} after a run"
    return None


def same(a: Any, b: Any, exact: bool = False) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return bool(a == b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b):
        return True
    if not (a.is_floating_point() or a.is_complex()):
        return False
    finite = a.isfinite()
    largest = torch.where(finite, a, 0).abs().max().item()
    tolerance = 0 if exact else (HALF_TOLERANCE if a.element_size() <= 2 else TOLERANCE) * largest
    return torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)


def evaluate(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Evaluated:
    devices = {one.device for one in tensors_of(module, args, kwargs) if one.is_cuda}
    with (
        evaluating(module),
        kept_buffers(module) as before,
        torch.random.fork_rng(sorted(device.index for device in devices)),
        unfused_attention(),
        torch.no_grad(),
    ):
        versions = {name: one._version for name, one in before.items()}
        drawn = torch.get_rng_state()
        args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (tuple(args), dict(kwargs)))
        outputs = outputs_by_path(module(*args, **kwargs))
        random = not torch.equal(drawn, torch.get_rng_state())
        after = dict(module.named_buffers(remove_duplicate=False))
        written = {n for n, one in after.items() if one is not before.get(n) or one._version != versions[n]}
        copies = {name: one.clone() for name, one in after.items()}
    return Evaluated(outputs, copies, frozenset(written), random)


def outputs_by_path(outputs: Any) -> dict[str, Any]:
    """Tensors and numbers; whatever else a model returns is not compared."""
    leaves, _ = pytree.tree_flatten_with_path(outputs)
    kinds = (torch.Tensor, int, float)
    # a copy, since an output can be a buffer, whose numbers are put back
    return {
        pytree.keystr(path): value.clone() if isinstance(value, torch.Tensor) else value
        for path, value in leaves
        if isinstance(value, kinds)
    }


def tensors_of(module: nn.Module, *inputs: Any) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
    yield from (one for one in pytree.tree_leaves(inputs) if isinstance(one, torch.Tensor))


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and every part as it was afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextlib.contextmanager
def kept_buffers(module: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """The buffers by name; they are the same tensors with the same numbers again afterwards."""
    before = dict(module.named_buffers(remove_duplicate=False))
    numbers = {name: buffer.detach().clone() for name, buffer in before.items()}
    try:
        yield before
    finally:
        with torch.no_grad():
            for name, buffer in before.items():
                owner, _, own_name = name.rpartition(".")
                module.get_submodule(owner)._buffers[own_name] = buffer
                if not torch.equal(buffer, numbers[name]):
                    buffer.copy_(numbers[name])


@contextlib.contextmanager
def unfused_attention() -> Iterator[None]:
    """Without torch's fast path for evaluation, which rounds in another way and fills masked rows with 0."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
