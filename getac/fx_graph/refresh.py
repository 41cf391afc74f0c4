"""Keeps the sizes that a graph notes for its values true after slicing."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses import FakeTensor, FakeTensorMode

__all__ = ["refresh_sizes"]


def refresh_sizes(module: fx.GraphModule) -> None:
    """Runs the graph on tensors without numbers and notes every value's new shape in `meta["val"]`.

    Dynamic dimensions stay dynamic: the inputs keep the symbols of the capture.
    """
    inputs = [node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder"]
    fakes = [value for value in inputs if isinstance(value, FakeTensor)]
    mode = fakes[0].fake_mode if fakes else FakeTensorMode()
    with mode, enable_python_dispatcher(), torch.no_grad():  # lstm has no kernel for symbolic sizes
        Shapes(module).run(*inputs, enable_io_processing=False)


class Shapes(fx.Interpreter):
    """Every stored tensor is an empty one of the same form."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if "val" in n.meta:
            n.meta["val"] = result
        return result

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        stored = super().get_attr(target, args, kwargs)
        if not isinstance(stored, torch.Tensor):
            return stored
        # From its numbers, not by empty_like: the mode remembers tensors that it has seen at their old sizes.
        return torch.empty(tuple(stored.shape), dtype=stored.dtype, device=stored.device)
