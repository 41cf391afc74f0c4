"""recognize-quantizers: whatever rounds like a quantizer is written as QuantizeLinear and DequantizeLinear.

before   x -> Div(d) -> Clip(-127, 127) -> Round -> Mul(d) -> y
after    x -> QuantizeLinear -> Clip -> DequantizeLinear -> y

before   Mul(Clip(Round(W / d), -7, 7), d) -> Conv
after    DequantizeLinear(W_int) -> Conv

By meaning, not by spelling. A branch of constants with a rounding in it (or with stored integers) is
computed, and its lattice found. Elementwise operators with a rounding among them, from one value to another,
are a function of one number: it is asked on a grid, a staircase is fitted, and has to be the function on the
grid, on outliers and on fresh points. QONNX, Brevitas, LSQ, PACT, DoReFa, GETA and what somebody wrote
yesterday are all the same to that.

Q/DQ rounds ties to the even multiple. What rounds them otherwise is taken for a quantizer only where they
come by chance, and the report says so (see `getac.onnx_graph.ties`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from getac.errors import GetacError
from getac.onnx_graph.branches import Branches
from getac.onnx_graph.edit import add_initializer, swap_output_name
from getac.onnx_graph.held import ask, check_levels, check_staircase, ties_elsewhere
from getac.onnx_graph.qdq import ROUNDED, Storage, quantizer_nodes, restoring_nodes
from getac.onnx_graph.rounding_parts import RoundingPart, rounding_parts
from getac.onnx_graph.scaled_integers import scaled_integers
from getac.onnx_graph.scaled_products import INTEGERS, scale_weight
from getac.onnx_graph.staircase import Misfit, fit_levels
from getac.onnx_graph.ties import may_be_ties
from getac.onnx_graph.weight_lattice import weight_lattice
from getac.pipeline import Effect, Fact, Refusal, State
from getac.placement.placement import LAYERS
from getac.quantizer import Quantizer

__all__ = ["RecognizeQuantizers"]

ROUNDING = ("Round", "Floor", "Ceil")
TERNARY = ("Sign", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
MOST_BITS = 16
BIAS = 2
BY_RULE = 0.45
"""The share of ties from which on a rule takes them elsewhere, and not the last bit of a quotient."""
ROUNDS_TIES = "it rounds the middle between two levels otherwise than to the even one"
TIES_BY_CHANCE = "it is taken for a quantizer that does: its input is there by chance alone"
PAIR_BEHIND = "it stays as it is, with a quantizer behind it that changes nothing"
STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class RecognizeQuantizers:
    """Finds quantizers that are spelled in other operators, by evaluating them, and writes them as Q/DQ."""

    name: ClassVar[str] = "recognize-quantizers"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()
    effect: ClassVar[Effect] = Effect.KERNELS

    def run(self, state: State) -> None:
        if not (any(map(makes_levels, state.model.graph)) or has_integers(state.model.graph)):
            return
        branches = Branches(state.model)
        for node in list(state.model.graph):
            scale_weight(node, branches)
        branches = Branches(state.model)
        store_biases(branches)
        for end in list(weight_ends(branches)):
            self.attempt(state, end, lambda end=end: recognize_weight(branches, end))  # type: ignore[misc]
        branches = Branches(state.model)
        for node in [node for node in state.model.graph if rounds(node) and node not in branches.constants]:
            self.attempt(
                state,
                node.outputs[0],
                lambda node=node: recognize_activation(branches, node),  # type: ignore[misc]
            )

    def attempt(self, state: State, value: ir.Value, recognize: Callable[[], Refusal | None]) -> None:
        """Floor, Ceil and Cast have other uses than quantizers; of a Round it is said that it is none."""
        try:
            note = recognize()
            if note is not None:
                state.refuse(self.name, note)
        except (Misfit, GetacError) as error:
            node = value.producer()
            assert node is not None
            if node.op_type in ("Floor", "Ceil", "Cast"):
                return
            reason = f"{error.message}: {error.found}" if isinstance(error, GetacError) else str(error)
            what = f"it is taken for no quantizer: {reason}"
            state.refuse(self.name, Refusal(node.name or node.op_type, what, "it stays as it is, in floats"))


def rounds(node: ir.Node) -> bool:
    if node.domain not in STANDARD:
        return False
    to = ir.DataType(node.attributes.get_int("to", 0)) if node.op_type == "Cast" else None
    return node.op_type in ROUNDING or (to is not None and to.is_integer())


def makes_levels(node: ir.Node) -> bool:
    return rounds(node) or (node.op_type in TERNARY and node.domain in STANDARD)


def has_integers(graph: ir.Graph) -> bool:
    return any(value.dtype in INTEGERS for value in graph.initializers.values())


# ---- branches of constants ----


def weight_ends(branches: Branches) -> Iterator[ir.Value]:
    """Computed weights of layers, and tables, with something in their branch that makes levels."""
    for node in branches.constants:
        value = node.outputs[0]
        if not any(is_weight(user, index) for user, index in value.uses()):
            continue
        nodes = branches.behind([value])
        kinds = {one.op_type for one in nodes}
        stored = {one for each in nodes for one in each.inputs if one is not None}
        leveled = kinds & {*ROUNDING, *TERNARY} or any(one.dtype in INTEGERS for one in stored)
        spelled = "DequantizeLinear" in kinds or (node.op_type == "Mul" and scaled_integers(node) is not None)
        if leveled and not spelled:  # what is spelled says more: how many bits were meant
            yield value


def is_weight(user: ir.Node, index: int) -> bool:
    layer = user.op_type in LAYERS and index < BIAS
    return user.domain in STANDARD and (layer or (user.op_type == "Gather" and index == 0))


def store_biases(branches: Branches) -> None:
    """Biases become what their quantizers make of them: a lowered layer gives them steps of its own."""
    computed = {
        value: None
        for node in branches.constants
        for value in node.outputs
        if any(is_bias(user, index) for user, index in value.uses())
        and not value.is_graph_output()
        and any(makes_levels(one) for one in branches.behind([value]))
    }
    for value, array in zip(computed, branches.results(list(computed)), strict=True):
        stored = add_initializer(branches.graph, f"{value.name}.stored", array)
        for user, index in list(value.uses()):
            if is_bias(user, index):
                user.replace_input_with(index, stored)


def is_bias(user: ir.Node, index: int) -> bool:
    return user.op_type in LAYERS and user.domain in STANDARD and index == BIAS


def recognize_weight(branches: Branches, value: ir.Value) -> None:
    """W = f(stored tensors) becomes DequantizeLinear(W_int)."""
    weight = branches.result(value)
    if weight.dtype != np.float32:
        return
    record = weight_lattice(weight, MOST_BITS)
    if record is None:
        raise Misfit(f"its values are on no lattice of at most {MOST_BITS} bits")
    storage = Storage.centred(record)
    integers = record.integers(weight).astype(storage.integer.numpy())
    nodes = restoring_nodes(branches.graph, str(value.name), integers, record, storage)
    put_behind(branches.graph, value, nodes)


# ---- functions of one value ----


class Ties(Misfit):
    """Why a function is a quantizer but for ties."""


def recognize_activation(branches: Branches, node: ir.Node) -> Refusal | None:
    """The largest part around a rounding that is a quantizer, from one value to another, becomes Q/DQ.

    A part whose results are on a lattice, and whose steps are elsewhere (a power comes before the rounding,
    or it rounds down), stays as it is and gets a pair behind it, which changes nothing. So does one that
    rounds ties by another rule than to the even multiple where ties may come; where they come by chance
    alone, it becomes Q/DQ.

    Returns:
        What is to be said of it.

    Raises:
        Misfit: There is none; the reason is that of the last part that was tried.
    """
    if node.graph is None or not node.outputs[0].uses():
        return None
    reason = Misfit("what it rounds depends on several values, or on more than entry by entry")
    ties: Ties | None = None
    leveled: tuple[ir.Value, Quantizer] | None = None
    for part, on_grid in rounding_parts(branches, node):
        behind = leveled is not None and leveled[0] is not part.y and feeds_layer(leveled[0])
        if behind and not feeds_layer(part.y):
            continue  # what layers read has its record
        try:
            levels = fit_levels(on_grid, part)
            answers = ask(part, on_grid, levels, part.numbers())
            check_levels(levels, answers)
            leveled = leveled or (part.y, levels)
            check_staircase(levels, answers)
            note = check_ties(part, levels, node)
            if behind:
                write_behind(branches.graph, *leveled)
            write(branches.graph, part.x, part.y, levels)
            return note
        except Misfit as misfit:
            reason = misfit
            ties = misfit if isinstance(misfit, Ties) else ties
    if leveled is None:
        raise reason
    write_behind(branches.graph, *leveled)
    return Refusal(node.name or node.op_type, str(ties), PAIR_BEHIND) if ties is not None else None


def feeds_layer(value: ir.Value) -> bool:
    return any(is_weight(user, index) for user, index in value.uses())


def check_ties(part: RoundingPart, levels: Quantizer, node: ir.Node) -> Refusal | None:
    """What is to be said of ties; raises Ties where the record would round some that may come otherwise."""
    elsewhere = ties_elsewhere(levels, part)
    by_rule = elsewhere >= BY_RULE
    if elsewhere and may_be_ties(part.branches, part.x, float(levels.step), unknown=by_rule):
        raise Ties(f"{ROUNDS_TIES}, and its input may hold ties")
    return Refusal(node.name or node.op_type, ROUNDS_TIES, TIES_BY_CHANCE) if by_rule else None


def write_behind(graph: ir.Graph, y: ir.Value, record: Quantizer) -> None:
    """A pair behind a value that is on its lattice already, for the kernels that want one."""
    write(graph, y, y, record)
    y.meta[ROUNDED] = record


def write(graph: ir.Graph, x: ir.Value, y: ir.Value, record: Quantizer) -> None:
    """What reads y reads x through a Q/DQ pair; x may be y."""
    nodes = quantizer_nodes(graph, x, record, ir.DataType.FLOAT, Storage.unsigned(record))
    put_behind(graph, y, nodes)


def put_behind(graph: ir.Graph, old: ir.Value, nodes: list[ir.Node]) -> None:
    """What reads a value reads the last of some nodes, which are put behind the value's own."""
    producer, new = old.producer(), nodes[-1].outputs[0]
    assert producer is not None
    graph.insert_after(producer, nodes)
    for user, index in list(old.uses()):
        if user not in nodes:
            user.replace_input_with(index, new)
    if old.is_graph_output():
        swap_output_name(graph, old, new)
