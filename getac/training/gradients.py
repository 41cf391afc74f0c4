"""Finds the layer in which gradients stop being finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from getac.errors import GetacError

__all__ = ["check_gradients"]

SHOWN_NAMES = 5


def check_gradients(module: nn.Module) -> None:
    """Checks the gradients of all parameters and quantizers, at the cost of one wait for the device.

    Propagation goes backwards through the graph, and what is not finite spreads: the layer to blame is the
    last one of the graph.

    Args:
        module: From `getac.prepare` or `getac.capture`, after `loss.backward()`.

    Raises:
        GetacError: A gradient is NaN or infinite; names the parameter that backward reached first, its
            layer, and how many others there are.
    """
    bad = not_finite({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    if not bad:
        return
    readers = readers_of(module) if isinstance(module, fx.GraphModule) else {}
    first = max(bad, key=lambda name: readers[name][0] if name in readers else -1)
    where = f"{first}, read by {readers[first][1].name}{path_of(readers[first][1])}" if readers else first
    more = ["..."] if len(bad) > SHOWN_NAMES else []
    raise GetacError(
        "a gradient is not finite",
        where=where,
        required="finite gradients of every parameter and quantizer",
        found=f"NaN or infinity in {len(bad)} of them: {', '.join([*bad[:SHOWN_NAMES], *more])}",
        hint="lower the learning rate or clip gradients; under float16 autocast, scale the loss"
        " (torch.amp.GradScaler)",
    )


def not_finite(gradients: Mapping[str, Tensor]) -> list[str]:
    """The names of gradients that hold NaN or infinity."""
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


def readers_of(module: fx.GraphModule) -> dict[str, tuple[int, fx.Node]]:
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
