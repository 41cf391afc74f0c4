"""What one operator says of its outputs: types by its schema, small values by the reference evaluator."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from getac.onnx_graph.node_checks import Contradiction, check_sizes
from getac.onnx_graph.tensor_types import Kind, dims_of, dtype_of, kind_of, sizes_of

__all__ = ["MAX_ELEMENTS", "Array", "Data", "Kinds", "NodeInference", "prepare", "signature_of"]

Array = npt.NDArray[np.generic]
Kinds = Sequence[Kind | None]
Data = Sequence[Array | None]

# Integers that describe shapes are few; whatever is larger is data, and evaluating it could take forever.
MAX_ELEMENTS = 4096

# The arithmetic that exporters do on sizes. Each costs at most about as much as its operands and result.
_EVALUATED = frozenset(
    """
    Abs Add And ArgMax ArgMin Cast CastLike Ceil Clip Concat Constant ConstantOfShape CumSum Div Equal
    Expand Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual Identity Less LessOrEqual
    Max Min Mod Mul Neg NonZero Not OneHot Or Pad Pow Range Reciprocal ReduceMax ReduceMin ReduceProd
    ReduceSum Reshape Round ScatterElements ScatterND Sign Slice Split Sqrt Squeeze Sub Sum Tile Transpose
    Trilu Unsqueeze Where Xor
    """.split()  # noqa: SIM905 (a word list reads better)
)
_SAME_AS_FIRST = frozenset({"GroupNormalization", "MeanVarianceNormalization"})  # schemas without inference
_PLAIN = frozenset({ir.AttributeType.INT, ir.AttributeType.STRING})
_PLAIN_LISTS = frozenset({ir.AttributeType.INTS, ir.AttributeType.STRINGS})
_BODIES = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})
_INFERENCE_ERRORS = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    RuntimeError,  # what other C++ exceptions become, such as an integer overflow
    ValueError,
)


@dataclass(frozen=True)
class NodeInference:
    """One operator with its inputs called x0, x1, ... and its outputs y0, y1, ... (absent ones stay '').

    Nodes of one signature share it, and what was once found for some input types and values: in the many
    layers of a network, few nodes are new.
    """

    proto: onnx.NodeProto
    schema: onnx.defs.OpSchema
    opset_imports: Sequence[onnx.OperatorSetIdProto]
    _found: dict[Hashable, tuple[Kinds, Data]] = field(default_factory=dict, repr=False)

    def outputs(self, inputs: Kinds, data: Data) -> tuple[Kinds, Data]:
        """Types with as many sizes as can be known, and small values; raises Contradiction."""
        key = (*inputs, *(None if a is None else (a.dtype.char, a.shape, a.tobytes()) for a in data))
        if key not in self._found:
            types = self._types(inputs, data)
            self._found[key] = types, self._values(inputs, data, types)
        return self._found[key]

    def is_contradicted_by(self, inputs: Kinds, data: Data) -> bool:
        """True if the operator cannot run whatever the unknown ones among the sizes and values are."""
        try:
            self._inferred(inputs, data)
        except Contradiction:
            return True
        return False

    def _types(self, inputs: Kinds, data: Data) -> Kinds:
        try:
            return self._inferred(inputs, data)
        except Contradiction:
            # With half of the inputs unknown a complaint may be about what is missing.
            if all(
                sizes_of(kind) is not None
                for name, kind in zip(self.proto.input, inputs, strict=True)
                if name
            ):
                raise
            return [None] * len(self.proto.output)

    def _inferred(self, inputs: Kinds, data: Data) -> Kinds:
        if self.proto.op_type in _SAME_AS_FIRST and self.proto.domain == "":
            return [inputs[0]]
        names = self.proto.input
        known = {
            name: onnx.TypeProto() if kind is None else kind.proto()
            for name, kind in zip(names, inputs, strict=True)
            if name
        }
        tensors = {
            name: onnx.numpy_helper.from_array(array)
            for name, array in zip(names, data, strict=True)
            if name and array is not None
        }
        try:
            found = onnx.shape_inference.infer_node_outputs(
                self.schema,
                self.proto,
                known,
                tensors,
                opset_imports=list(self.opset_imports),
            )
        except _INFERENCE_ERRORS as error:
            raise Contradiction(" ".join(str(error).split())) from error
        outputs = [kind_of(found.get(name)) for name in self.proto.output]
        check_sizes(self.proto, inputs, outputs)
        return outputs

    def _values(self, inputs: Kinds, data: Data, outputs: Kinds) -> Data:
        """The values of the outputs where all inputs are known and everything is small, else None."""
        unknown: Data = [None] * len(self.proto.output)
        if self.proto.domain != "":
            return unknown
        if self.proto.op_type in ("Shape", "Size"):
            return _size_values(self.proto, inputs[0]) or unknown
        if self.proto.op_type not in _EVALUATED:
            return unknown
        if self.proto.op_type == "CastLike":
            data = _with_type_alone(data, outputs)
        if any(name and array is None for name, array in zip(self.proto.input, data, strict=True)):
            return unknown
        if not self._is_bounded(outputs):
            return unknown
        feeds = {name: array for name, array in zip(self.proto.input, data, strict=True) if name}
        try:
            with np.errstate(divide="raise", invalid="raise", over="ignore"):
                results = self._evaluator.run(None, feeds, attributes={})
        # The evaluator raises whatever numpy raises; a value that cannot be computed is simply not known.
        except Exception:
            return unknown
        named = dict(zip((name for name in self.proto.output if name), results, strict=True))
        return [
            _fitting(named.get(name), kind) for name, kind in zip(self.proto.output, outputs, strict=True)
        ]

    def _is_bounded(self, outputs: Kinds) -> bool:
        if self.proto.op_type == "NonZero":  # unknown size, at most rank times the elements of the input
            return True
        sizes = [sizes_of(kind) for name, kind in zip(self.proto.output, outputs, strict=True) if name]
        return all(known is not None and math.prod(known) <= MAX_ELEMENTS for known in sizes)

    @cached_property
    def _evaluator(self) -> ReferenceEvaluator:
        names = dict.fromkeys(name for name in self.proto.input if name)
        outputs = [name for name in self.proto.output if name]
        function = onnx.helper.make_function(
            "getac", "node", list(names), outputs, [self.proto], list(self.opset_imports)
        )
        return ReferenceEvaluator(function)


def prepare(node: ir.Node, opsets: Mapping[str, int]) -> NodeInference | None:
    """The node as its schema sees it; None where the opset has no such operator, or it has a body.

    Names are replaced by positions, so that it does for all nodes of the same `signature_of`.
    """
    version = opsets.get(node.domain)
    if version is None or not onnx.defs.has(node.op_type, version, node.domain) or has_body(node):
        return None
    proto = onnx.NodeProto(
        op_type=node.op_type,
        domain=node.domain,
        input=["" if value is None else f"x{i}" for i, value in enumerate(node.inputs)],
        output=["" if value.name == "" else f"y{i}" for i, value in enumerate(node.outputs)],
        attribute=[ir.serde.serialize_attribute(attribute) for attribute in node.attributes.values()],
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return NodeInference(proto, onnx.defs.get_schema(node.op_type, version, node.domain), imports)


def signature_of(node: ir.Node) -> Hashable:
    """What `prepare` sees of a node: nodes that are alike in it have one inference."""
    return (
        node.domain,
        node.op_type,
        tuple(value is None for value in node.inputs),
        tuple(value.name == "" for value in node.outputs),
        tuple(map(_content, node.attributes.values())),
    )


def _content(attribute: ir.Attr) -> Hashable:
    if attribute.type in _PLAIN:
        return attribute.name, attribute.type.value, attribute.value
    if attribute.type in _PLAIN_LISTS:
        return attribute.name, attribute.type.value, tuple(attribute.value)
    text: bytes = ir.serde.serialize_attribute(attribute).SerializeToString(deterministic=True)
    return text  # of floats too: 0.0 and -0.0 are equal, and not the same


def has_body(node: ir.Node) -> bool:
    """Whether it runs a graph of its own."""
    return any(attribute.type in _BODIES for attribute in node.attributes.values())


def _size_values(node: onnx.NodeProto, kind: Kind | None) -> Data | None:
    """The values of Shape and Size: this is where sizes become constants."""
    if node.op_type == "Size":
        sizes = sizes_of(kind)
        return None if sizes is None else [np.array(np.prod(sizes, dtype=object), dtype=np.int64)]
    dims = dims_of(kind)
    if dims is None:
        return None
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    dims = dims[bounds.get("start", 0) : bounds.get("end")]
    if None in dims or len(dims) > MAX_ELEMENTS:
        return None
    return [np.array(dims, dtype=np.int64)]


def _with_type_alone(data: Data, outputs: Kinds) -> Data:
    """Of the tensor whose type CastLike takes, nothing but the type matters; it is the output's."""
    dtype = dtype_of(outputs[0])
    return data if dtype is None else [data[0], np.zeros((), dtype.numpy())]


def _fitting(result: object, kind: Kind | None) -> Array | None:
    """The evaluator's result if it is a number array of the type that the schema promises."""
    if not isinstance(result, np.ndarray | np.generic) or result.dtype.kind not in "biuf":
        return None
    if dtype_of(kind) != ir.DataType.from_numpy(result.dtype):
        return None
    array: Array = np.asarray(result)
    return array if sizes_of(kind) in (None, array.shape) and array.size <= MAX_ELEMENTS else None
