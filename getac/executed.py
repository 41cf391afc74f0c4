"""Which kernels a model really runs on, from the graph that onnxruntime writes after its own optimisation.

How a layer is found again in the graph that onnxruntime writes after its own optimisation
(`layer_kernels`), as seen with onnxruntime 1.31 on an AVX512 CPU:

- An integer kernel keeps the name of its weight: the initializer, or, where the weight is unpacked by a
  constant branch (INT4 -> Cast), the value of that branch which the kernel takes. Node names change
  (`conv1` becomes `conv1_token_1` on the way to NHWC) and outputs take the *node's* name there.
- Scales and zero points are no evidence: equal ones of up to 8 elements are merged between layers.
- A float Conv in NCHWc layout loses its weight's name (`reorder_token_4`), but its node is called after
  the value it computes, the activation that was fused into it included: `relu1_nchwc`.
- Gemm, MatMul, ConvTranspose and FusedConv keep the weight's name; MatMulNBits makes `w_T` of it, and keeps
  the node's name and the output. A batch norm folded by onnxruntime renames the weight, and keeps the output.
- A DequantizeLinear with several consumers is copied for each (`w_dq/duplicated`), so a weight that is
  dequantized at every run is traced through it. A float weight between DequantizeLinear and QuantizeLinear
  is quantized by onnxruntime on its own account: `conv1_weight_q`, after the node.
So the weight's names come first, then the names of what the layer computes, then the node's own name; always
compared whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
import onnxruntime as ort

from getac.runtime import Model, configure, create_session

__all__ = [
    "ExecutedNode",
    "Kernel",
    "Kind",
    "Layer",
    "executed_kernels",
    "kernel_kind",
    "layer_kernels",
    "trace_layer",
]

_LONGEST_BRANCH = 100  # values; the walk ends there where it went up the activations of a deep model


@dataclass(frozen=True)
class ExecutedNode:
    """A node of the graph as onnxruntime executes it, after its own optimisation."""

    op_type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...]


def executed_kernels(model: Model, config: Mapping[str, str] | None = None) -> tuple[ExecutedNode, ...]:
    """The nodes that onnxruntime executes for this model, in order, those of subgraphs after their parent.

    Args:
        model: As for `open_session`.
        config: Session configuration entries, likewise.

    Raises UnsupportedModelError if onnxruntime does not load the model.
    """
    with tempfile.TemporaryDirectory(prefix="getac-", ignore_cleanup_errors=True) as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        # Weights go to a file of their own, which is never read.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        configure(options, config or {})
        create_session(model, options)
        optimized = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return tuple(_executed(optimized.graph))


Kind = Literal["integer", "weight-only", "float", "unknown"]


@dataclass(frozen=True)
class Kernel:
    """What a layer runs as; `op_type` is empty where the layer was not found ("unknown")."""

    kind: Kind
    op_type: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.op_type})" if self.op_type else self.kind


@dataclass(frozen=True)
class Layer:
    """By what names a layer can be known in the executed graph.

    Attributes:
        node: The name of the layer's node.
        weights: Every constant that its weight passes through, from the initializer to the node's input.
        results: Its output, then what single consumers make of it (bias, activation, quantization).
    """

    node: str
    weights: frozenset[str]
    results: tuple[str, ...]


# Executed operator -> what it is, and which of its inputs may be a weight.
_KERNELS: dict[str, tuple[Kind, tuple[int, ...]]] = {
    "QLinearConv": ("integer", (3,)),
    "QLinearMatMul": ("integer", (0, 3)),
    "QGemm": ("integer", (0, 3)),
    "MatMulIntegerToFloat": ("integer", (0, 1)),
    "DynamicQuantizeMatMul": ("integer", (1,)),
    "ConvInteger": ("integer", (1,)),
    "ConvIntegerToFloat": ("integer", (1,)),
    "MatMulInteger": ("integer", (0, 1)),
    "MatMulNBits": ("weight-only", (1,)),
    "Conv": ("float", (1,)),
    "FusedConv": ("float", (1,)),
    "NhwcFusedConv": ("float", (1,)),
    "ConvTranspose": ("float", (1,)),
    "Gemm": ("float", (0, 1)),
    "FusedGemm": ("float", (0, 1)),
    "MatMul": ("float", (0, 1)),
    "FusedMatMul": ("float", (0, 1)),
}
_FLOAT_FIRST: tuple[Kind, ...] = ("float", "weight-only", "integer")

# What may stand between a stored weight and a float kernel when it runs.
_RESPELLING = frozenset(("Cast", "DequantizeLinear", "Reshape", "Transpose"))

# What onnxruntime may fuse into the layer before, so that the result is known by its output.
_EPILOGUE = frozenset(
    (
        *("Add", "BatchNormalization", "Mul", "QuantizeLinear"),
        *("Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh"),
    )
)


def kernel_kind(op_type: str) -> Kind | None:
    """Integer, weight-only or float, for an executed operator that multiplies matrices; None for others."""
    return _KERNELS[op_type][0] if op_type in _KERNELS else None


def trace_layer(node: ir.Node) -> Layer:
    """Collects the names by which a Conv, ConvTranspose, Gemm or MatMul node can be known when executed."""
    weights = frozenset().union(*(_constant_names(value) for value in node.inputs[:2]))
    return Layer(node.name or "", weights, tuple(_results(node)))


def layer_kernels(layers: Mapping[str, Layer], executed: Sequence[ExecutedNode]) -> dict[str, Kernel]:
    """What each layer runs as.

    A layer whose weight several executed nodes share is told apart by its results and name; if that fails,
    the slowest kind counts (float before weight-only before integer). A layer that was not found, because
    onnxruntime folded it away or fused it beyond recognition, is "unknown".
    """
    producers = {output: node for node in executed for output in node.outputs}
    weights = {node: _weights(node, producers) for node in executed if node.op_type in _KERNELS}
    return {name: _kernel(layer, weights) for name, layer in layers.items()}


def _kernel(layer: Layer, executed: Mapping[ExecutedNode, frozenset[str]]) -> Kernel:
    by_weight = [node for node, weights in executed.items() if layer.weights & weights]
    found = by_weight if len(by_weight) == 1 else _by_name(layer, by_weight or list(executed)) or by_weight
    kernels = [Kernel(_KERNELS[node.op_type][0], node.op_type) for node in found]
    return min(kernels, key=lambda kernel: _FLOAT_FIRST.index(kernel.kind), default=Kernel("unknown", ""))


def _weights(node: ExecutedNode, producers: Mapping[str, ExecutedNode]) -> frozenset[str]:
    """The names of what may be the node's weight, before and after operators that only spell it otherwise."""
    names = set()
    for name in (node.inputs[index] for index in _KERNELS[node.op_type][1] if index < len(node.inputs)):
        names.add(name)
        while name in producers and producers[name].op_type in _RESPELLING:
            name = producers[name].inputs[0]
            names.add(name)
    return frozenset(names)


def _by_name(layer: Layer, executed: Sequence[ExecutedNode]) -> list[ExecutedNode]:
    # The nearest result first: further on, an Add has the results of two layers.
    for result in layer.results:
        found = [node for node in executed if result in node.outputs or node.name == f"{result}_nchwc"]
        if found:
            return found
    names = {layer.node, f"fused {layer.node}", f"{layer.node}/MatMulAddFusion"} if layer.node else set()
    return [node for node in executed if names.intersection((node.name, *node.outputs))]


def _constant_names(end: ir.Value | None) -> frozenset[str]:
    """The names on the constant branch that ends in a value; none if it depends on an input."""
    names: set[str] = set()
    todo = [end]
    while todo:
        value = todo.pop()
        if value is None or value.name is None or value.name in names:
            continue
        names.add(value.name)
        node = value.producer()
        constant = node is not None or (value.is_initializer() and not value.is_graph_input())
        if not constant or len(names) > _LONGEST_BRANCH:
            return frozenset()
        todo.extend(node.inputs if node is not None else ())
    return frozenset(names)


def _results(node: ir.Node) -> Iterator[str]:
    value = node.outputs[0]
    while True:
        yield value.name or ""
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type not in _EPILOGUE:
            return
        value = uses[0].node.outputs[0]


def _executed(graph: onnx.GraphProto) -> Iterator[ExecutedNode]:
    for node in graph.node:
        attributes = tuple(attribute.name for attribute in node.attribute)
        yield ExecutedNode(
            node.op_type, node.domain, node.name, tuple(node.input), tuple(node.output), attributes
        )
        for attribute in node.attribute:
            for subgraph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _executed(subgraph)
