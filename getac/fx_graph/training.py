"""Makes a graph that was exported in training mode follow train() and eval() again."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from getac.fx_graph.arguments import set_argument
from getac.fx_graph.reader import CallReader

__all__ = ["always_drawing", "literal_flag", "switch_training"]

aten = torch.ops.aten
FLAGS = ("training", "train", "use_input_stats")
DIVISIONS = (aten.div_.Scalar, aten.div.Scalar, aten.div_.Tensor, aten.div.Tensor)
ROUNDINGS = (aten.floor.default, aten.floor_.default)
DRAWS = (aten.bernoulli_.float, aten.bernoulli.p)


def switch_training(module: fx.GraphModule, always: Collection[str] = ()) -> None:
    """Replaces the literal training flags that export leaves by the module's own `training`.

    Without this, eval() would still normalise by the batch's statistics. A flag that is constant for
    another reason (no running statistics, a batch norm that was frozen) stays what it is.

    Args:
        always: Names of the calls that draw random numbers in evaluation too (see `always_drawing`).
    """
    flags = Flags(module.graph)
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.name in always:
            continue
        if (name := literal_flag(node)) is not None:
            set_argument(node, name, flags.training())
        elif node.target is aten.add_.Tensor and is_counter(node.args[0]):
            node.update_arg(1, flags.training())  # counts batches in training only
        elif is_written_flag(node):
            set_argument(node, "fill_value", flags.training())
        elif node.target is aten.scaled_dot_product_attention.default:
            switch_attention(node, flags)
        elif node.target in DRAWS and len(node.args) > 1 and isinstance(node.args[1], float):
            switch_draw(node, flags)
        elif node.target in ROUNDINGS and is_rounded_draw(node.args[0]):
            switch_rounded_draw(node, flags)


def always_drawing(evaluation: fx.Graph) -> frozenset[str]:
    """The calls that drop although the model was exported in evaluation; the names are those of training."""
    calls = [node for node in evaluation.nodes if node.op == "call_function"]
    return frozenset(node.name for node in calls if literal_flag(node) is not None or attention_drops(node))


def attention_drops(node: fx.Node) -> bool:
    if node.target is not aten.scaled_dot_product_attention.default:
        return False
    return bool(CallReader(node).arguments.get("dropout_p"))


class Flags:
    """Makes the nodes that a flag is computed by, when they are first needed, at the top of the graph."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._training: fx.Node | None = None
        self._probabilities: dict[float, fx.Node] = {}

    def training(self) -> fx.Node:
        """Reads the module's own `training`, which train() and eval() set."""
        if self._training is None:
            with self._graph.inserting_before(next(iter(self._graph.nodes))):
                self._training = self._graph.create_node("get_attr", "training")
        return self._training

    def when_training(self, probability: Any) -> fx.Node:
        """training * probability"""
        with self._graph.inserting_after(self.training()):
            return self._graph.call_function(operator.mul, (self.training(), probability))

    def certain_in_eval(self, probability: float) -> fx.Node:
        """1 - training * (1 - probability)"""
        if probability not in self._probabilities:
            drop = self.when_training(1.0 - probability)
            with self._graph.inserting_after(drop):
                self._probabilities[probability] = self._graph.call_function(operator.sub, (1.0, drop))
        return self._probabilities[probability]


def literal_flag(node: fx.Node) -> str | None:
    """The argument that says "training", where it is a literal and not for want of running statistics."""
    arguments = CallReader(node).arguments
    if "running_mean" in arguments and arguments["running_mean"] is None:
        return None
    return next((name for name in FLAGS if arguments.get(name) is True), None)


def is_counter(node: Any) -> bool:
    return isinstance(node, fx.Node) and str(node.target).rpartition(".")[2] == "num_batches_tracked"


def is_written_flag(node: fx.Node) -> bool:
    """Whether a capture is captured again, in which the flag became a tensor (see `buffer_writes`)."""
    return node.target is aten.new_full.default and list(node.args[1:3]) == [[], True]


def switch_attention(node: fx.Node, flags: Flags) -> None:
    """Attention drops weights in training only."""
    if len(node.args) > 4 and node.args[4]:
        node.update_arg(4, flags.when_training(node.args[4]))
    elif node.kwargs.get("dropout_p"):
        node.update_kwarg("dropout_p", flags.when_training(node.kwargs["dropout_p"]))


def switch_draw(node: fx.Node, flags: Flags) -> None:
    """Stochastic depth: paths are kept with a probability, and divided by it; both are 1 in evaluation.

    before   mask = bernoulli(x, 0.9);  mask / 0.9
    after    keep = 1 - training * 0.1;  mask = bernoulli(x, keep);  mask / keep
    """
    keep = flags.certain_in_eval(node.args[1])  # type: ignore[arg-type]
    for user in list(node.users):
        divide_by(user, node, node.args[1], keep)
    node.update_arg(1, keep)


def switch_rounded_draw(node: fx.Node, flags: Flags) -> None:
    """The same, drawn by rounding.

    before   (x / 0.9) * floor(rand + 0.9)
    after    (x / keep) * floor(rand + keep)
    """
    shifted = node.args[0]
    assert isinstance(shifted, fx.Node)
    probability = shifted.args[1]
    keep = flags.certain_in_eval(probability)  # type: ignore[arg-type]
    for product in list(node.users):
        for factor in product.all_input_nodes:
            divide_by(factor, factor.args[0] if factor.args else None, probability, keep)
    shifted.update_arg(1, keep)


def is_rounded_draw(node: Any) -> bool:
    if not isinstance(node, fx.Node) or node.target not in (aten.add.Tensor, aten.add_.Tensor):
        return False
    draw, probability = node.args[0], node.args[1]
    return isinstance(draw, fx.Node) and draw.target is aten.rand.default and isinstance(probability, float)


def divide_by(node: fx.Node, x: Any, old: Any, new: fx.Node) -> None:
    """Replaces the divisor of x / old."""
    if node.target in DIVISIONS and node.args[0] is x and node.args[1] == old:
        node.update_arg(1, new)
