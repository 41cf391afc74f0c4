"""The analysis' view of a torch.fx graph of aten operators (see `getac.view`).

A value is a node, or `Result(node, position)` for one of several results; `operator.getitem` only names
such a result and is no node of the view. A stored tensor is named by the attribute that it was first read
from, so that tied weights are one value. A quantizer is no node either: what it returns is the value that it
rounds.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import fx

from getac.axes.reasons import WRITES_VIEW, Reason
from getac.fx_graph.aliasing import writes_what_others_read
from getac.fx_graph.call import Call
from getac.fx_graph.evaluate import evaluate
from getac.fx_graph.operators import follow
from getac.fx_graph.probe import Probe
from getac.fx_graph.reader import CallReader, operator_name
from getac.rules.base import Rule
from getac.training.quantizers import PlacedQuantizer, is_quantizer, place
from getac.view import Array

__all__ = ["FxNode", "FxView", "Result", "Stored"]

SMALL_INTEGERS, SMALL_FLOATS = 4096, 16
FAKE_QUANTIZE = torch.ops.getac.fake_quantize.default


class Stored(NamedTuple):  # values are dictionary keys throughout the analysis: tuples hash fast
    """A parameter or buffer, by the name of the attribute that holds it (the first one, if tied)."""

    name: str


class Result(NamedTuple):
    """One of several results of a node."""

    node: fx.Node
    position: int


@dataclass(eq=False)  # frozen would be slow, and there is one for each node
class FxNode:
    """A call of an operator; see `getac.view.NodeView`."""

    node: fx.Node
    call: Call | None
    refusal: Reason | None
    inputs: Sequence[Hashable | None] = field(repr=False)
    outputs: Sequence[Hashable] = field(repr=False)
    captured: Sequence[Hashable] = field(repr=False)
    lists: Mapping[int, Sequence[int | Hashable]] = field(repr=False)

    @property
    def identity(self) -> Hashable:
        return self.node

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def operator(self) -> str:
        return operator_name(self.node)

    @property
    def rule(self) -> Rule | None:
        return self.call.rule if self.call else None

    def entries(self, index: int) -> Sequence[int | Hashable] | None:
        """The entries of a list of integers that stands in the call itself."""
        return self.lists.get(index)

    @cached_property
    def signature(self) -> Hashable:
        """What is computed, whatever with: the operands stand for themselves."""
        arguments = (*self.node.args, *self.node.kwargs.items())
        return self.operator, *("" if isinstance(one, fx.Node) else str(one) for one in arguments)

    def evaluate(self, inputs: Sequence[Array | None]) -> Array:
        """Calls the operator itself on the given numbers in place of its operands."""
        assert self.call is not None
        pairs = zip(self.call.operands, inputs, strict=False)
        return evaluate(self.node, {n: array for n, array in pairs if n is not None and array is not None})


class FxView:
    """A captured module as the analysis sees it; see `getac.view.GraphView`.

    Args:
        module: From `getac.fx_graph.capture.capture`: aten calls, sizes in `meta["val"]`.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.probe = Probe.of(module.graph)
        self._owners: dict[str, torch.nn.Module] = {"": module}
        self._names: dict[int, str] = {}  # tensor identity -> the first attribute that it is read by
        self._values: dict[fx.Node, Hashable] = {}
        self._sizes: dict[Hashable, tuple[int, ...] | None] = {}
        self._examples: dict[Hashable, Any] = {}
        self.nodes: list[FxNode] = []
        self.inputs: list[Hashable] = []
        self.outputs: list[Hashable] = []
        self._stored: dict[Stored, torch.Tensor] = {}
        self._floats: set[Hashable] = set()
        self.quantizers: dict[Hashable, PlacedQuantizer] = {}
        quantizers = module.graph.find_nodes(op="call_function", target=FAKE_QUANTIZE)
        self._read_by_quantizers = {n for quantizer in quantizers for n in quantizer.all_input_nodes}
        for node in module.graph.nodes:
            self._add(node)
        self.parameters: Sequence[Hashable] = list(self._stored)

    def _add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.inputs.append(self._define(node, node))
        elif node.op == "get_attr":
            self._add_stored(node)
        elif node.op == "output":
            self.outputs = [value for n in node.all_input_nodes if (value := self._values.get(n)) is not None]
        elif node.target is operator.getitem and isinstance(node.args[0], fx.Node):
            self._add_result(node)
        elif is_quantizer(node):
            self._add_quantizer(node)
        elif self._is_counter(node):
            pass  # the batches that a norm has seen
        elif "val" in node.meta or any(n in self._values for n in node.all_input_nodes):
            self.nodes.append(self._node(node))  # all others compute with the training flag alone

    def _add_quantizer(self, node: fx.Node) -> None:
        quantizer = place(self.module, node)
        value = self._values[node] = self._values[quantizer.x]
        self.quantizers[value] = quantizer

    def _is_counter(self, node: fx.Node) -> bool:
        """Whether a number is computed from numbers alone, and nothing reads it: there are no axes here."""
        if node.users or self.probe.sizes(node.meta.get("val")) != ():
            return False
        read = (self._values.get(n) for n in node.all_input_nodes)
        return all(self._sizes.get(value) == () for value in read if value is not None)

    def value_of(self, node: fx.Node) -> Hashable | None:
        """The value that a node computes, or stands for; None where it has no axes."""
        return self._values.get(node)

    def _define(self, node: fx.Node, value: Hashable) -> Hashable:
        self._values[node] = value
        self._examples[value] = node.meta.get("val")
        self._sizes[value] = self.probe.sizes(node.meta.get("val"))
        return value

    def _add_stored(self, node: fx.Node) -> None:
        if node in self._read_by_quantizers and all(
            is_quantizer(user) and user.args[0] is not node for user in node.users
        ):
            return  # a step, a range or an exponent
        path = str(node.target)
        tensor = self._attribute(path)
        if not isinstance(tensor, torch.Tensor):
            return  # the training flag
        stored = Stored(self._names.setdefault(id(tensor), path))
        self._stored[stored] = tensor
        if tensor.is_floating_point():
            self._floats.add(stored)
        self._values[node] = stored
        self._sizes[stored] = tuple(tensor.shape)

    def _attribute(self, path: str) -> Any:
        """The attribute that a dotted name stands for; torch is slow to look up owners: once each."""
        owner, _, name = path.rpartition(".")
        module = self._owner(owner)
        for stored in (module._parameters, module._buffers):
            if name in stored:
                return stored[name]
        return getattr(module, name)

    def _owner(self, path: str) -> torch.nn.Module:
        found = self._owners.get(path)
        if found is None:
            parent, _, name = path.rpartition(".")
            found = self._owner(parent)._modules[name]
            assert found is not None
            self._owners[path] = found
        return found

    def _add_result(self, node: fx.Node) -> None:
        source, position = node.args
        assert isinstance(source, fx.Node)
        if isinstance(source.meta.get("val"), list | tuple) and isinstance(position, int):
            self._values[node] = Result(source, position)

    def _node(self, node: fx.Node) -> FxNode:
        found = WRITES_VIEW if writes_what_others_read(node) else follow(node)
        call, refusal = (found, None) if isinstance(found, Call) else (None, found)
        lists = self._lists(node, call) if call and call.lists else {}
        read = node.all_input_nodes
        operands = call.operands if call else read
        inputs: list[Hashable | None] = [None if n is None else self._values.get(n) for n in operands]
        inputs += [None] * (max(lists, default=-1) + 1 - len(inputs))
        others = {self._values.get(n) for n in set(read).difference(operands)}
        if lists and others:
            others -= {entry for entries in lists.values() for entry in entries if not isinstance(entry, int)}
        captured = [value for value in others if value is not None and value not in inputs]
        return FxNode(node, call, refusal, inputs, self._results(node), captured, lists)

    def _lists(self, node: fx.Node, call: Call) -> dict[int, Sequence[int | Hashable]]:
        arguments = CallReader(node).arguments
        lists: dict[int, Sequence[int | Hashable]] = {}
        for index, name in call.lists.items():
            listed = arguments[name]
            entries = listed if isinstance(listed, list | tuple) else [listed]
            lists[index] = [self._values[e] if isinstance(e, fx.Node) else e for e in entries]
        return lists

    def _results(self, node: fx.Node) -> list[Hashable]:
        values = node.meta.get("val")
        if not isinstance(values, list | tuple):
            return [self._define(node, node)]
        results: list[Hashable] = [Result(node, position) for position in range(len(values))]
        self._examples.update(zip(results, values, strict=True))
        for result, value in zip(results, values, strict=True):
            self._sizes[result] = self.probe.sizes(value)
        return results

    def name_of(self, value: Hashable) -> str:
        if isinstance(value, Stored | fx.Node):
            return value.name
        return f"{value.node.name}[{value.position}]" if isinstance(value, Result) else str(value)

    def sizes(self, value: Hashable) -> tuple[int, ...] | None:
        return self._sizes.get(value)

    @cached_property
    def _sample(self) -> Probe:
        return Probe.per_sample(self.module.graph)

    def sizes_per_sample(self, value: Hashable) -> tuple[int, ...] | None:
        return self._sizes[value] if value in self._stored else self._sample.sizes(self._examples.get(value))

    def tensor(self, parameter: Hashable) -> torch.Tensor:
        """The stored tensor itself."""
        assert isinstance(parameter, Stored)
        return self._stored[parameter]

    def is_float(self, value: Hashable) -> bool:
        return value in self._floats

    def storage_bits(self, parameter: Hashable) -> int:
        return 8 * self.tensor(parameter).element_size()

    def small_constant(self, value: Hashable) -> Array | None:
        """The numbers of a small buffer; a parameter may change in training and is no constant."""
        if not isinstance(value, Stored) or value not in self._stored:
            return None
        tensor = self._stored[value]
        limit = SMALL_FLOATS if tensor.is_floating_point() else SMALL_INTEGERS
        if isinstance(tensor, torch.nn.Parameter) or tensor.numel() > limit:
            return None
        return self.array(value)

    def array(self, parameter: Hashable) -> Array:
        tensor = self.tensor(parameter).detach().cpu()
        return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
