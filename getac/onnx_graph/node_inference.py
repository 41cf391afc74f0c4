"""What one operator says of its outputs: types by its schema, small values by the reference evaluator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from getac.onnx_graph.node_checks import Contradiction, check_sizes
from getac.onnx_graph.tensor_types import sizes_of, tensor_type

__all__ = ["MAX_ELEMENTS", "Array", "NodeInference", "prepare"]

Array = npt.NDArray[np.generic]

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
_INFERENCE_ERRORS = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    RuntimeError,  # what other C++ exceptions become, such as an integer overflow
    ValueError,
)


@dataclass(frozen=True)
class NodeInference:
    """One operator with its inputs called x0, x1, ... and its outputs y0, y1, ... (absent ones stay '')."""

    proto: onnx.NodeProto
    schema: onnx.defs.OpSchema
    opset_imports: Sequence[onnx.OperatorSetIdProto]
    evaluators: dict[bytes, ReferenceEvaluator] = field(repr=False)

    def types(
        self, inputs: Sequence[onnx.TypeProto | None], data: Sequence[Array | None]
    ) -> Sequence[onnx.TypeProto | None]:
        """The types of the outputs, with as many sizes as can be known; raises Contradiction."""
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

    def is_contradicted_by(
        self, inputs: Sequence[onnx.TypeProto | None], data: Sequence[Array | None]
    ) -> bool:
        """True if the operator cannot run whatever the unknown ones among the sizes and values are."""
        try:
            self._inferred(inputs, data)
        except Contradiction:
            return True
        return False

    def _inferred(
        self, inputs: Sequence[onnx.TypeProto | None], data: Sequence[Array | None]
    ) -> Sequence[onnx.TypeProto | None]:
        if self.proto.op_type in _SAME_AS_FIRST and self.proto.domain == "":
            return [inputs[0]]
        names = self.proto.input
        known = {name: kind or onnx.TypeProto() for name, kind in zip(names, inputs, strict=True) if name}
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
        outputs = [found.get(name) for name in self.proto.output]
        check_sizes(self.proto, inputs, outputs)
        return outputs

    def values(
        self, data: Sequence[Array | None], outputs: Sequence[onnx.TypeProto | None]
    ) -> Sequence[Array | None]:
        """The values of the outputs where all inputs are known and everything is small, else None."""
        unknown: Sequence[Array | None] = [None] * len(self.proto.output)
        if self.proto.domain != "" or self.proto.op_type not in _EVALUATED:
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
                results = self._evaluator().run(None, feeds, attributes={})
        # The evaluator raises whatever numpy raises; a value that cannot be computed is simply not known.
        except Exception:
            return unknown
        named = dict(zip((name for name in self.proto.output if name), results, strict=True))
        return [
            _fitting(named.get(name), kind) for name, kind in zip(self.proto.output, outputs, strict=True)
        ]

    def _is_bounded(self, outputs: Sequence[onnx.TypeProto | None]) -> bool:
        if self.proto.op_type == "NonZero":  # unknown size, at most rank times the elements of the input
            return True
        sizes = [sizes_of(kind) for name, kind in zip(self.proto.output, outputs, strict=True) if name]
        return all(known is not None and math.prod(known) <= MAX_ELEMENTS for known in sizes)

    def _evaluator(self) -> ReferenceEvaluator:
        key = self.proto.SerializeToString(deterministic=True)
        if key not in self.evaluators:
            names = [name for name in self.proto.input if name]
            self.evaluators[key] = ReferenceEvaluator(
                onnx.helper.make_function(
                    "getac",
                    "node",
                    list(dict.fromkeys(names)),
                    [name for name in self.proto.output if name],
                    [self.proto],
                    list(self.opset_imports),
                )
            )
        return self.evaluators[key]


def prepare(
    node: ir.Node,
    opsets: Mapping[str, int],
    evaluators: dict[bytes, ReferenceEvaluator],
) -> NodeInference | None:
    """The node as its schema sees it; None where the opset has no such operator.

    Names are replaced by positions, so that equal operators share one evaluator.
    """
    version = opsets.get(node.domain)
    if version is None or not onnx.defs.has(node.op_type, version, node.domain):
        return None
    proto = onnx.NodeProto(
        op_type=node.op_type,
        domain=node.domain,
        input=["" if value is None else f"x{i}" for i, value in enumerate(node.inputs)],
        output=["" if value.name == "" else f"y{i}" for i, value in enumerate(node.outputs)],
        attribute=[ir.serde.serialize_attribute(attribute) for attribute in node.attributes.values()],
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    return NodeInference(proto, schema, imports, evaluators)


def _with_type_alone(
    data: Sequence[Array | None], outputs: Sequence[onnx.TypeProto | None]
) -> Sequence[Array | None]:
    """Of the tensor whose type CastLike takes, nothing but the type matters; it is the output's."""
    kind = outputs[0].tensor_type.elem_type if outputs[0] is not None else 0
    if not kind:
        return data
    return [data[0], np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(kind))]


def _fitting(result: object, kind: onnx.TypeProto | None) -> Array | None:
    """The evaluator's result if it is a number array of the type that the schema promises."""
    if kind is None or not isinstance(result, np.ndarray | np.generic) or result.dtype.kind not in "biuf":
        return None
    array: Array = np.asarray(result)
    promised = sizes_of(kind)
    if tensor_type(array.dtype, array.shape).tensor_type.elem_type != kind.tensor_type.elem_type:
        return None
    return array if promised in (None, array.shape) and array.size <= MAX_ELEMENTS else None
