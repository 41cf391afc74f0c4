"""recognize-quantizers: whatever rounds like a quantizer is written as QuantizeLinear and DequantizeLinear.

before   x -> Div(d) -> Clip(-127, 127) -> Round -> Mul(d) -> y
after    x -> QuantizeLinear -> Clip -> DequantizeLinear -> y

before   Mul(Clip(Round(W / d), -7, 7), d) -> Conv
after    DequantizeLinear(W_int) -> Conv

By meaning, not by spelling. A branch of constants with a rounding in it (or with stored integers) is
computed, and its lattice found. Elementwise operators with a rounding among them, from one value to another,
are a function of one number: it is asked on a grid, a staircase is fitted, and has to be the function on
fresh points. QONNX, Brevitas, LSQ, PACT, DoReFa, GETA and what somebody wrote yesterday are all the same to
that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from getac.errors import GetacError
from getac.onnx_graph.branches import Branches
from getac.onnx_graph.edit import add_initializer, array_of, is_stored, swap_output_name, unique_name
from getac.onnx_graph.qdq import Storage, quantizer_nodes, restoring_nodes
from getac.onnx_graph.scaled_integers import scaled_integers
from getac.onnx_graph.staircase import GRID, Misfit, check_staircase, fit_levels
from getac.onnx_graph.weight_lattice import weight_lattice
from getac.pipeline import Effect, Fact, Refusal, State
from getac.placement.placement import LAYERS
from getac.quantizer import Quantizer

__all__ = ["RecognizeQuantizers"]

ROUNDING = ("Round", "Floor", "Ceil")
TERNARY = ("Sign", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
INTEGERS = {getattr(ir.DataType, f"{sign}INT{bits}") for sign in ("", "U") for bits in (2, 4, 8, 16)}
FARTHEST = 16
MOST_BITS = 16
BIAS = 2
STANDARD = ("", "ai.onnx")
Floats = npt.NDArray[np.float32]


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

    def attempt(self, state: State, value: ir.Value, recognize: Callable[[], None]) -> None:
        """Floor, Ceil and Cast have other uses than quantizers; of a Round it is said that it is none."""
        try:
            recognize()
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


def scale_weight(node: ir.Node, branches: Branches) -> None:
    """MatMul(x, Cast(W_int)) * s becomes MatMul(x, Cast(W_int) * s): steps belong to the weight."""
    product = node.inputs[0].producer() if node.op_type == "Mul" and node.inputs[0] is not None else None
    weight = product.inputs[1] if product is not None and product.op_type == "MatMul" else None
    cast, steps, graph = weight.producer() if weight is not None else None, node.inputs[-1], node.graph
    if cast is None or product is None or steps is None or not isinstance(graph, ir.Graph):
        return
    integers = cast.inputs[0] if cast.op_type == "Cast" and cast.inputs else None
    mine = len(product.outputs[0].uses()) == 1 and product.graph is graph
    if integers is None or integers.dtype not in INTEGERS or not branches.is_constant(steps) or not mine:
        return
    array = array_of(steps) if is_stored(steps) else branches.result(steps)
    if array.size != (array.shape[-1] if array.ndim else 1):
        return  # more than a row
    row = add_initializer(graph, f"{steps.name}.row", array.reshape(-1) if array.ndim else array)
    scaled = ir.node("Mul", [weight, row], name=unique_name(graph, f"{product.name}.weight"))
    scaled.outputs[0].name, scaled.outputs[0].type = scaled.name, node.outputs[0].type
    graph.insert_before(product, scaled)
    product.replace_input_with(1, scaled.outputs[0])
    made, name = product.outputs[0], node.outputs[0].name
    made.shape = node.outputs[0].shape
    ir.convenience.replace_all_uses_with(node.outputs[0], made, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    made.name = name


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


def recognize_activation(branches: Branches, node: ir.Node) -> None:
    """The largest part around a rounding that is a quantizer, from one value to another, becomes Q/DQ.

    A part whose results are on a lattice, and whose steps are elsewhere (a power comes before the rounding),
    stays as it is and gets a pair behind it, which changes nothing.

    Raises:
        Misfit: There is none; the reason is that of the last part that was tried.
    """
    if node.graph is None or not node.outputs[0].uses():
        return
    reason = Misfit("what it rounds depends on several values, or on more than entry by entry")
    leveled: tuple[ir.Value, Quantizer] | None = None
    for x in reversed(list(branches.sources(node, FARTHEST))):
        later = branches.later(node, branches.region(x))
        results = branches.on(x, GRID, later) if later else []
        for y, on_grid in reversed(list(zip(later, results, strict=True))):
            function = asker(branches, x, y)
            try:
                levels = fit_levels(on_grid, function)
                leveled = leveled or (y, levels)
                check_staircase(levels, function)
                write(branches.graph, x, y, levels)
                return
            except Misfit as misfit:
                reason = misfit
    if leveled is None:
        raise reason
    write(branches.graph, leveled[0], *leveled)


def asker(branches: Branches, x: ir.Value, y: ir.Value) -> Callable[[Floats], Floats]:
    """y as a function of x."""
    return lambda points: branches.on(x, points, [y])[0]


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
