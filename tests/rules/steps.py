"""Graphs of torch functions, for rules that no ONNX operator follows; and the law of slicing on them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from getac.axes.analysis import Analysis, analyze_view
from getac.axes.axis import kept
from getac.axes.contents import Site
from getac.axes.reasons import Reason
from getac.rules.base import Rule
from getac.rules.contraction import MatMul
from getac.rules.elementwise import Elementwise
from getac.view import Array

Tensors = Mapping[str, torch.Tensor]
Arguments = dict[str | int, Any]


@dataclass(frozen=True)
class Step:
    """A node: its function gets the inputs that are there, and the arguments that slicing may rewrite.

    Args:
        arguments: The rule's name of an argument, or the position of a list, -> its value.
    """

    rule: Rule
    function: Callable[..., Any]
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    arguments: Arguments = field(default_factory=dict)

    @property
    def identity(self) -> Hashable:
        return self.name

    @property
    def name(self) -> str:
        return self.outputs[0]

    @property
    def operator(self) -> str:
        return type(self.rule).__name__

    @property
    def refusal(self) -> Reason | None:
        return None

    @property
    def signature(self) -> Hashable:
        return self.name

    @property
    def captured(self) -> Sequence[Hashable]:
        return ()

    def entries(self, index: int) -> Sequence[int | Hashable] | None:
        return self.arguments.get(index)

    def evaluate(self, inputs: Sequence[Array | None]) -> Array:
        return np.asarray(self.function(*(torch.as_tensor(x) for x in inputs if x is not None)))


@dataclass(frozen=True)
class Graph:
    """Steps over parameters and inputs; see `getac.view.GraphView`. The output is y."""

    steps: tuple[Step, ...]
    tensors: Tensors
    feeds: Tensors

    def run(self, tensors: Tensors, arguments: Mapping[str, Arguments] | None = None) -> Tensors:
        values = {**tensors, **self.feeds}
        for step in self.steps:
            given = (arguments or {}).get(step.name, step.arguments)
            named = {key if isinstance(key, str) else f"list{key}": value for key, value in given.items()}
            result = step.function(*(values[name] for name in step.inputs if name is not None), **named)
            results = result if isinstance(result, tuple | list) else (result,)
            values.update(zip(step.outputs, results, strict=False))
        return values

    @property
    def nodes(self) -> Sequence[Step]:
        return self.steps

    @property
    def inputs(self) -> Sequence[Hashable]:
        return list(self.feeds)

    @property
    def outputs(self) -> Sequence[Hashable]:
        return ["y"]

    @property
    def parameters(self) -> Sequence[Hashable]:
        return list(self.tensors)

    def name_of(self, value: Hashable) -> str:
        return str(value)

    def sizes(self, value: Hashable) -> tuple[int, ...] | None:
        values = self.run(self.tensors)
        return tuple(values[str(value)].shape)

    def sizes_per_sample(self, value: Hashable) -> tuple[int, ...] | None:
        return self.sizes(value)

    def is_float(self, value: Hashable) -> bool:
        return self.run(self.tensors)[str(value)].is_floating_point()

    def small_constant(self, value: Hashable) -> Array | None:
        return None

    def array(self, parameter: Hashable) -> Array:
        return self.tensors[str(parameter)].numpy()


def graph(
    steps: Sequence[Step], tensors: Mapping[str, Sequence[int] | torch.Tensor], x: Sequence[int]
) -> Graph:
    """Shapes among the tensors are filled with random numbers, and so is the input x."""
    generator = torch.Generator().manual_seed(0)
    filled = {
        name: value if isinstance(value, torch.Tensor) else torch.randn(*value, generator=generator)
        for name, value in tensors.items()
    }
    return Graph(tuple(steps), filled, {"x": torch.randn(*x, generator=generator)})


def matmul(x: str, weight: str, out: str) -> Step:
    return Step(MatMul(), torch.matmul, (x, weight), (out,))


def multiply(x: str, y: str, out: str) -> Step:
    return Step(Elementwise(absorbing=True), torch.mul, (x, y), (out,))


def rewritten(net: Graph, analysis: Analysis, masks: Mapping[Any, Any]) -> dict[str, Arguments]:
    """The arguments of every step after slicing."""
    arguments = {
        step.name: {key: list(v) if isinstance(v, list) else v for key, v in step.arguments.items()}
        for step in net.steps
    }
    for site, axis in analysis.sites.items():
        write(arguments, site, int(kept(axis, masks).sum()))
    for site, derived in analysis.inference.derived.items():
        write(arguments, site, derived.value)
    return arguments


def write(arguments: dict[str, Arguments], site: Site, value: float) -> None:
    where = arguments[str(site.node)]
    if isinstance(where.get(site.argument), list):
        where[site.argument][site.index] = value
    else:
        where[site.argument] = value


def check_law(net: Graph, seed: int = 0) -> tuple[tuple[int, ...], float]:
    """The sizes of the open classes, and how far masked and sliced are apart, relative to the output."""
    analysis = analyze_view(net)
    assert analysis.opaque == []
    rng = np.random.default_rng(seed)
    masks = {one.atom: np.ones(one.size, dtype=np.bool_) for one in analysis.classes}
    for mask in masks.values():
        mask[rng.permutation(mask.size)[: rng.integers(1, mask.size)]] = False
    masked, sliced = {}, {}
    for name, tensor in net.tensors.items():
        keep = analysis.keep_masks(name, masks)
        assert keep is not None
        masked[name], sliced[name] = tensor.clone(), tensor
        for dimension, mask in enumerate(analysis.zero_masks(name, masks) or ()):
            masked[name].index_fill_(dimension, torch.from_numpy(np.flatnonzero(~mask)), 0.0)
        for dimension, mask in enumerate(keep):
            sliced[name] = sliced[name].index_select(dimension, torch.from_numpy(np.flatnonzero(mask)))
    before = net.run(masked, rewritten(net, analysis, {}))["y"]
    after = net.run(sliced, rewritten(net, analysis, masks))["y"]
    assert before.shape == after.shape
    difference = float((before - after).abs().max() / before.abs().max().clamp(min=1e-6))
    return tuple(one.size for one in analysis.classes), difference
