"""Which rule each ONNX operator follows, and where its arguments stand (default domain, opset 21).

To add an operator: write a function from `NodeReader` to a rule (or reuse one) and name it in the table of
its family. A function that cannot normalise its node's arguments raises `NotConstant`, and says why; the
node is then opaque, as one that is in no table.

Left out on purpose, so that they are opaque:

- control flow, sequences, optionals and strings: If Loop Scan Sequence* Optional* ConcatFromSequence
  SplitToSequence String* RegexFullMatch TfIdfVectorizer ImageDecoder
- results whose shape depends on the data: Compress NonMaxSuppression NonZero Unique
- integer arithmetic of models that are lowered already: ConvInteger MatMulInteger QLinearConv QLinearMatMul
  QuantizeLinear DequantizeLinear DynamicQuantizeLinear (what is fake quantization was folded before)
- losses, which belong to training: NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss
- indices that count through several dimensions at once: MaxUnpool; DeformConv and STFT, which nobody met yet
"""

from __future__ import annotations

import onnx_ir as ir

from getac.axes.reasons import NO_RULE, NOT_FOLLOWED, Reason
from getac.onnx_graph.arithmetic_operators import ARITHMETIC
from getac.onnx_graph.indexing_operators import INDEXING
from getac.onnx_graph.layer_operators import LAYERS
from getac.onnx_graph.layout_operators import LAYOUT
from getac.onnx_graph.node_reader import NodeReader, NotConstant
from getac.onnx_graph.operator_table import Maker
from getac.onnx_graph.shapes import Shapes
from getac.rules.base import Rule

__all__ = ["OPERATORS", "NodeReader", "NotConstant", "rule_of"]

OPERATORS: dict[str, Maker] = ARITHMETIC | LAYERS | LAYOUT | INDEXING


def rule_of(node: ir.Node, shapes: Shapes) -> Rule | Reason:
    """The rule of a node; why not, where there is none or its arguments cannot be normalised."""
    maker = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if maker is None:
        return NO_RULE
    try:
        return maker(NodeReader(node, shapes))
    except NotConstant as error:
        return NOT_FOLLOWED.about(error)
