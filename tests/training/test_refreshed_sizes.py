"""After a removal the sizes that the graph notes are those that running it on fake tensors tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from torch import fx  # noqa: E402
from torch._dispatch.python import enable_python_dispatcher  # noqa: E402
from torch._subclasses import FakeTensor, FakeTensorMode  # noqa: E402

import getac  # noqa: E402
from getac.training.regenerating import regenerate  # noqa: E402
from tools.torch_zoo.registry import example  # noqa: E402

SMALL = ("resnet", "densenet", "shufflenet_v1", "unet", "lstm_tagger", "graph_network", "vit", "llama")
"""Of the zoo: what is grouped, concatenated, shuffled, recurrent, and has heads."""


class Told(fx.Interpreter):
    """What every value is, as torch's own fake tensors say."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        stored = super().get_attr(target, args, kwargs)
        if not isinstance(stored, torch.Tensor):
            return stored
        return torch.empty(tuple(stored.shape), dtype=stored.dtype, device=stored.device)


def told_by_torch(module: fx.GraphModule) -> dict[fx.Node, Any]:
    inputs = [node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder"]
    fakes = [value for value in inputs if isinstance(value, FakeTensor)]
    interpreter = Told(module)
    mode = fakes[0].fake_mode if fakes else FakeTensorMode()
    with mode, enable_python_dispatcher(), torch.no_grad():
        interpreter.run(*inputs, enable_io_processing=False)
    return interpreter.values


def form(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(map(str, value.shape)), value.dtype, value.device
    return [form(one) for one in value] if isinstance(value, list | tuple) else type(value)


@pytest.mark.parametrize("name", SMALL)
def test_sizes_are_those_that_torch_tells(name: str) -> None:
    given = example(name)
    module = getac.prepare(given.module.eval(), given.args, given.kwargs, activation_bits=None)
    for seed in range(2):
        random = np.random.default_rng(seed)
        classes = getac.analyze(module).classes
        keep = {one.name: random.permutation(one.size) >= one.size // 3 for one in classes}
        regenerate(module, keep)
        for node, value in told_by_torch(module).items():
            if "val" in node.meta and node.op != "output":
                assert form(node.meta["val"]) == form(value), node.name
