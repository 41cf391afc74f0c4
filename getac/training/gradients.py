"""Finds the layer in which gradients stop being finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from getac.errors import GetacError
from getac.fx_graph.given import check_module

__all__ = ["check_gradients"]

SHOWN_NAMES = 5
Readers = Mapping[str, tuple[int, fx.Node]]
"""Parameter -> the position of a node that reads it, and the node."""


def check_gradients(module: nn.Module) -> None:
    """Checks the gradients of all parameters and quantizers, at the cost of one wait for the device.

    Propagation goes backwards through the graph, and what is not finite spreads: the layer to blame is the
    last one of the graph. If a parameter itself is not finite, the first of the graph is.

    Args:
        module: From `getac.prepare` or `getac.capture`, after `loss.backward()`.

    Raises:
        BadInputError: What is given is no module.
        GetacError: A gradient is NaN or infinite; names the parameter that backward reached first, its
            layer, and how many others there are.
    """
    check_module(module)
    bad = not_finite({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    if not bad:
        return
    readers = readers_of(module) if isinstance(module, fx.GraphModule) else {}
    check_parameters(module, readers)
    first = max(bad, key=lambda name: readers[name][0] if name in readers else -1)
    raise GetacError(
        "a gradient is not finite",
        where=place_of(first, readers),
        required="finite gradients of every parameter and quantizer",
        found=some_of(bad),
        hint="lower the learning rate or clip gradients; under float16 autocast, scale the loss"
        " (torch.amp.GradScaler)",
    )


def check_parameters(module: nn.Module, readers: Readers) -> None:
    """What is not finite before the loss spreads forwards: to blame is the first of the graph."""
    bad = not_finite(dict(module.named_parameters()))
    if bad:
        first = min(bad, key=lambda name: readers[name][0] if name in readers else math.inf)
        raise GetacError(
            "a parameter itself is not finite, so no gradient can be",
            where=place_of(first, readers),
            required="finite parameters and quantizers",
            found=some_of(bad),
            hint="go back to a checkpoint; check gradients before optimizer.step(), not after it",
        )


def place_of(name: str, readers: Readers) -> str:
    return f"{name}, read by {readers[name][1].name}{path_of(readers[name][1])}" if name in readers else name


def some_of(bad: Sequence[str]) -> str:
    more = ["..."] if len(bad) > SHOWN_NAMES else []
    return f"NaN or infinity in {len(bad)} of them: {', '.join([*bad[:SHOWN_NAMES], *more])}"


def not_finite(gradients: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that hold NaN or infinity."""
    flags: dict[torch.device, list[Tensor]] = {}
    names: dict[torch.device, list[str]] = {}
    for name, gradient in gradients.items():
        numbers = gradient.coalesce().values() if gradient.is_sparse else gradient
        flags.setdefault(numbers.device, []).append(numbers.isfinite().all())
        names.setdefault(numbers.device, []).append(name)
    return [
        name
        for device, found in flags.items()
        for name, finite in zip(names[device], torch.stack(found).tolist(), strict=True)
        if not finite
    ]


def readers_of(module: fx.GraphModule) -> Readers:
    """Parameter -> the last node of the graph that reads it, and its position."""
    positions = {node: position for position, node in enumerate(module.graph.nodes)}
    first_names = {id(p): name for name, p in module.named_parameters()}
    every = dict(module.named_parameters(remove_duplicate=False))
    readers: dict[str, tuple[int, fx.Node]] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        if str(node.target) in every and node.users:
            last = max(node.users, key=positions.__getitem__)
            name = first_names[id(every[str(node.target)])]
            readers[name] = max(readers.get(name, (-1, last)), (positions[last], last))
    return readers


def path_of(node: fx.Node) -> str:
    """The module whose code a node comes from."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    return f" ({path})" if path else ""
