"""The operator set of a model, brought to one version.

Older models go up through onnx's version converter, save for the steps that it gets wrong (measured against
onnxruntime), which are written here. Newer models come down: an operator that uses nothing newer than the
target keeps its name, and one that is new is spelled out: by an expander, if there is one for it here, else
by the function body in its own definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import defs, helper, version_converter
from onnx.defs import OpSchema

from getac.errors import GetacError, InvalidModelError, UnsupportedModelError
from getac.onnx_graph.attention import expand_attention
from getac.onnx_graph.functions import Names, expand_call, subgraphs
from getac.onnx_graph.rotary import expand_rotary

__all__ = ["NEWEST_OPSET", "OLDEST_OPSET", "TARGET_OPSET", "convert_opset", "default_opset"]

OLDEST_OPSET = 7
NEWEST_OPSET = 26
TARGET_OPSET = 21

_NEWEST_TYPE = onnx.TensorProto.INT4  # of opset 21
_HIDDEN = "getac.hidden"  # the converter leaves operators of other domains alone

_CONVERTER_ERRORS = (
    RuntimeError,
    ValueError,
    IndexError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    version_converter.ConvertError,
    DecodeError,
)

_Types = dict[str, onnx.TypeProto]


def default_opset(proto: onnx.ModelProto) -> int:
    """The version of the default operator set that a model imports.

    Raises:
        InvalidModelError: No import of the default domain, or two that differ.
        UnsupportedModelError: A version outside 7 to 26.
    """
    versions = {entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")}
    required = f"opset {OLDEST_OPSET} to {NEWEST_OPSET}"
    if len(versions) != 1:
        message = "the model does not say which version of the ONNX operators it uses"
        found = f"opset imports {sorted(versions)}"
        hint = "the file may be cut off at its end; export it again"
        raise InvalidModelError(message, where="opset_import", required=required, found=found, hint=hint)
    version = int(versions.pop())
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        message = f"the model's opset {version} is too {'new' if version > NEWEST_OPSET else 'old'}"
        hint = f"export the model with opset {TARGET_OPSET}"
        raise UnsupportedModelError(
            message, where="opset_import", required=required, found=f"opset {version}", hint=hint
        )
    return version


def convert_opset(proto: onnx.ModelProto, target: int = TARGET_OPSET) -> onnx.ModelProto:
    """The same computation with the operators of opset `target`.

    Args:
        proto: A model without local functions, sorted, of opset 7 to 26; it is not changed. Big tensors
            should be set aside before (the converter copies the model a few times).
        target: The version to reach, 21 unless asked otherwise.

    Returns:
        A new model. Operators of other domains, declared types and metadata are what they were.

    Raises:
        InvalidModelError: No import of the default domain.
        UnsupportedModelError: An opset outside 7 to 26, or an operator that cannot be said in `target`.
    """
    version = default_opset(proto)
    if version == target:
        return proto
    types = _infer_types(proto)
    return (
        _raise(proto, types, version, target) if version < target else _lower(proto, types, version, target)
    )


def _infer_types(proto: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(proto)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return proto  # inference only helps; the conversion says what it misses


def _with_nodes(proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], version: int) -> onnx.ModelProto:
    """`proto` with other nodes; what it declares about values stays, without what inference guessed."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    for entry in result.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = version
    return result


# ---- up ----


def _raise(proto: onnx.ModelProto, inferred: onnx.ModelProto, version: int, target: int) -> onnx.ModelProto:
    hidden = onnx.ModelProto()
    hidden.CopyFrom(inferred)
    hidden.opset_import.add(domain=_HIDDEN, version=1)
    _hide(hidden.graph, version, {}, Names.of(proto.graph))
    try:
        converted = version_converter.convert_version(hidden, target)
    except _CONVERTER_ERRORS as error:
        raise UnsupportedModelError(
            f"the model cannot be converted from opset {version} to {target}",
            where="opset_import",
            found=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            hint=f"export the model with opset {target}",
        ) from error
    _unhide(converted.graph)
    _restore_metadata(proto.graph, converted.graph)
    result = _with_nodes(proto, converted.graph.node, target)
    known = {tensor.name for tensor in result.graph.initializer}
    result.graph.initializer.extend(t for t in converted.graph.initializer if t.name not in known)
    return result


def _restore_metadata(source: onnx.GraphProto, target: onnx.GraphProto) -> None:
    """The converter drops metadata; a node that still makes the same value gets it back."""
    metadata = {output: node.metadata_props for node in source.node for output in node.output if output}
    for node in target.node:
        found = next((metadata[output] for output in node.output if output in metadata), ())
        if not node.metadata_props:
            node.metadata_props.extend(found)


def _types_in(graph: onnx.GraphProto, outer: Mapping[str, onnx.TypeProto]) -> _Types:
    types = {**outer}
    for tensor in graph.initializer:
        types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    for info in (*graph.value_info, *graph.input, *graph.output):
        if info.type.WhichOneof("value"):
            types[info.name] = info.type
    return types


def _shape(types: _Types, name: str) -> list[int | None] | None:
    """The dimensions of a tensor, None where unknown; None if not even their number is known."""
    if name not in types or not types[name].tensor_type.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else None for d in types[name].tensor_type.shape.dim]


@dataclass(frozen=True)
class _Context:
    version: int
    types: _Types
    names: Names


_Mender = Callable[[onnx.NodeProto, _Context], "list[onnx.NodeProto] | None"]


def _hide(graph: onnx.GraphProto, version: int, outer: _Types, names: Names) -> None:
    """Write the operators that the converter gets wrong as the target says them, out of its sight."""
    context = _Context(version, _types_in(graph, outer), names)
    result: list[onnx.NodeProto] = []
    for node in graph.node:
        for inner in subgraphs(node):
            _hide(inner, version, context.types, names)
        mender = _MENDERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        mended = mender(node, context) if mender else None
        for new in mended or ():
            new.domain = _HIDDEN
        result.extend([node] if mended is None else mended)
    del graph.node[:]
    graph.node.extend(result)


def _unhide(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.domain == _HIDDEN:
            node.domain = ""
        for inner in subgraphs(node):
            _unhide(inner)


def _attributes(node: onnx.NodeProto) -> dict[str, onnx.AttributeProto]:
    return {attribute.name: attribute for attribute in node.attribute}


def _constant(values: Sequence[float], names: Names, hint: str) -> onnx.NodeProto:
    node = onnx.NodeProto(op_type="Constant", output=[names.fresh(hint)])
    key = "value_ints" if all(isinstance(value, int) for value in values) else "value_floats"
    node.attribute.append(helper.make_attribute(key, values))
    return node


def _mend_pad(node: onnx.NodeProto, context: _Context) -> None:
    """The converter keeps `value` on pads that have none to fill in, where it means nothing."""
    mode = _attributes(node).get("mode")
    if context.version < 11 and mode is not None and mode.s != b"constant":
        kept = [a for a in node.attribute if a.name != "value"]
        del node.attribute[:]
        node.attribute.extend(kept)


def _mend_resize(node: onnx.NodeProto, context: _Context) -> list[onnx.NodeProto] | None:
    """Upsample and Resize up to opset 10 map x to x / scale ("asymmetric"), and take the floor."""
    if context.version > 10:
        return None
    attributes, new = _attributes(node), []
    if "scales" in attributes:
        new.append(_constant(list(attributes["scales"].floats), context.names, f"{node.output[0]}_scales"))
    scales = new[0].output[0] if new else node.input[1]
    mode = attributes["mode"].s.decode() if "mode" in attributes else "nearest"
    mapping = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    resize = helper.make_node(
        "Resize",
        [node.input[0], "", scales],
        node.output,
        node.name,
        mode=mode.replace("bilinear", "linear"),
        **mapping,
    )
    return [*new, resize]


def _mend_softmax(node: onnx.NodeProto, context: _Context) -> list[onnx.NodeProto] | None:
    """Up to opset 12 the dimensions from `axis` on are one: flatten, normalise the rows, restore the shape.

    The converter knows this for Softmax and LogSoftmax of known rank, and forgets it for Hardmax.
    """
    attributes, shape = _attributes(node), _shape(context.types, node.input[0])
    if context.version > 12 or (node.op_type != "Hardmax" and shape is not None):
        return None
    axis = attributes["axis"].i if "axis" in attributes else 1
    (x,), (y,), names = node.input, node.output, context.names
    flat, rows, size = (names.fresh(f"{y}_{part}") for part in ("flat", "rows", "shape"))
    return [
        helper.make_node("Flatten", [x], [flat], axis=axis),
        helper.make_node(node.op_type, [flat], [rows], node.name, axis=-1),
        helper.make_node("Shape", [x], [size]),
        helper.make_node("Reshape", [rows, size], [y], allowzero=1),
    ]


def _mend_group_norm(node: onnx.NodeProto, context: _Context) -> list[onnx.NodeProto] | None:
    """Up to opset 20 scale and bias have one value per group, from 21 on one per channel."""
    if context.version < 18:
        return None
    shape, groups = _shape(context.types, node.input[0]), _attributes(node)["num_groups"].i
    if shape is None or len(shape) < 2 or not (channels := shape[1]) or channels % groups:
        raise UnsupportedModelError(
            f"GroupNormalization of opset {context.version} needs a known number of channels",
            where=f"node {_label(node)}",
            required=f"a multiple of {groups} channels",
            found=f"input of shape {shape}",
            hint=f"export the model with opset {TARGET_OPSET}",
        )
    new, inputs = [], [node.input[0]]
    for name in node.input[1:]:
        column, repeated, flat = (context.names.fresh(f"{name}_{p}") for p in ("column", "repeated", "flat"))
        column_shape = _constant([groups, 1], context.names, f"{name}_column_shape")
        repeated_shape = _constant([groups, channels // groups], context.names, f"{name}_repeated_shape")
        flat_shape = _constant([channels], context.names, f"{name}_flat_shape")
        new += [
            column_shape,
            helper.make_node("Reshape", [name, column_shape.output[0]], [column]),
            repeated_shape,
            helper.make_node("Expand", [column, repeated_shape.output[0]], [repeated]),
            flat_shape,
            helper.make_node("Reshape", [repeated, flat_shape.output[0]], [flat]),
        ]
        inputs.append(flat)
    norm = onnx.NodeProto()
    norm.CopyFrom(node)
    norm.input[:] = inputs
    return [*new, norm]


def _refuse_scan(node: onnx.NodeProto, context: _Context) -> None:
    """Scan of opset 8 runs over a batch; the converter would give its body other shapes."""
    if context.version < 9:
        raise UnsupportedModelError(
            "Scan of opset 8 is not supported",
            where=f"node {_label(node)}",
            required="opset 9 or newer",
            found=f"opset {context.version}",
            hint=f"export the model with opset {TARGET_OPSET}",
        )


_MENDERS: dict[str, _Mender] = {
    "GroupNormalization": _mend_group_norm,
    "Hardmax": _mend_softmax,
    "LogSoftmax": _mend_softmax,
    "Pad": _mend_pad,
    "Resize": _mend_resize,
    "Scan": _refuse_scan,
    "Softmax": _mend_softmax,
    "Upsample": _mend_resize,
}


# ---- down ----


# Operators whose own function bodies compute with sizes, so that the analysis would lose their axes. Where an
# expander has too little to go by, the body is used.
_EXPANDERS = {"Attention": expand_attention, "RotaryEmbedding": expand_rotary}


def _lower(proto: onnx.ModelProto, inferred: onnx.ModelProto, version: int, target: int) -> onnx.ModelProto:
    result = _with_nodes(proto, proto.graph.node, target)
    _check_tensor_types(result.graph, target)
    _lower_graph(result.graph, inferred.graph, {}, _Lowering(version, target, Names.of(proto.graph)))
    return result


@dataclass(frozen=True)
class _Lowering:
    """Brings nodes of opset `source` to `target`."""

    source: int
    target: int
    names: Names

    def nodes(self, node: onnx.NodeProto, types: _Types) -> list[onnx.NodeProto]:
        if node.domain not in ("", "ai.onnx"):
            return [node]
        if not defs.has(node.op_type, self.source, ""):
            raise self._refusal(node, f"no operator of this name in opset {self.source}")
        now = defs.get_schema(node.op_type, self.source, "")
        then = (
            defs.get_schema(node.op_type, self.target, "")
            if defs.has(node.op_type, self.target, "")
            else None
        )
        if then is not None and then.since_version == now.since_version:
            return [node]
        misfit = _adapt(node, now, then, types) if then else f"an operator of opset {now.since_version}"
        return [node] if misfit is None else self._expand(node, now, types, misfit)

    def _expand(
        self, node: onnx.NodeProto, schema: OpSchema, types: _Types, misfit: str
    ) -> list[onnx.NodeProto]:
        expand = _EXPANDERS.get(node.op_type)
        if expand and (nodes := expand(node, schema.since_version, types, self.names)):
            return nodes
        body = _function_body(node, schema, self.source, types)
        if body is None:
            raise self._refusal(node, misfit)
        call = onnx.NodeProto()
        call.CopyFrom(node)
        given = _attributes(node)
        call.attribute.extend(
            a.default_value for n, a in schema.attributes.items() if n not in given and a.default_value.type
        )
        opset = next((e.version for e in body.opset_import if not e.domain), self.source)
        inner = _Lowering(opset, self.target, self.names)
        try:
            return [low for each in expand_call(call, body, self.names) for low in inner.nodes(each, types)]
        except GetacError as error:
            raise self._refusal(node, misfit) from error

    def _refusal(self, node: onnx.NodeProto, found: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"operator {node.op_type} cannot be said in opset {self.target}",
            where=f"node {_label(node)}",
            required=f"operators of opset {self.target}",
            found=found,
            hint=f"export the model with opset {self.target}",
        )


def _lower_graph(
    graph: onnx.GraphProto, inferred: onnx.GraphProto, outer: _Types, lowering: _Lowering
) -> None:
    types = _types_in(inferred, outer)
    result: list[onnx.NodeProto] = []
    for node, known in zip(graph.node, inferred.node, strict=True):
        for inner, inner_known in zip(subgraphs(node), subgraphs(known), strict=True):
            _lower_graph(inner, inner_known, types, lowering)
        result.extend(lowering.nodes(node, types))
    del graph.node[:]
    graph.node.extend(result)


def _adapt(node: onnx.NodeProto, now: OpSchema, then: OpSchema, types: _Types) -> str | None:
    """Make the node say the same with the older schema; else return what stands against it."""
    if len(node.input) > then.max_input or len(node.output) > then.max_output:
        return f"inputs or outputs that came with opset {now.since_version}"
    kept = []
    for attribute in node.attribute:
        if attribute.name in then.attributes:
            kept.append(attribute)
        elif attribute.name not in now.attributes:
            return f"an unknown attribute {attribute.name!r}"
        elif attribute != now.attributes[attribute.name].default_value:
            return f"attribute {attribute.name}, of opset {now.since_version}"
    for names, formals in ((node.input, then.inputs), (node.output, then.outputs)):
        for i, name in enumerate(names):
            formal = formals[min(i, len(formals) - 1)]
            if name and not _allows(then, formal.type_str, types.get(name)):
                return f"{name!r} of a type that came with opset {now.since_version}"
    if len(kept) < len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(kept)
    return None


def _allows(schema: OpSchema, type_str: str, found: onnx.TypeProto | None) -> bool:
    """Whether a formal parameter takes a type. What is not known passes: onnxruntime judges the result."""
    if found is None or not found.tensor_type.elem_type:
        return True
    allowed = next(
        (c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == type_str), [type_str]
    )
    if found.tensor_type.elem_type not in onnx.TensorProto.DataType.values():
        return False
    element = onnx.TensorProto.DataType.Name(found.tensor_type.elem_type).lower()
    return f"tensor({element})" in allowed


def _function_body(
    node: onnx.NodeProto, schema: OpSchema, version: int, types: _Types
) -> onnx.FunctionProto | None:
    """The operator's meaning in terms of others, from its definition; None if it has none that fits here."""
    definition: Any = schema  # the type stubs of onnx leave the function bodies out
    if definition.has_context_dependent_function:
        known = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        versions = [v for v in definition.context_dependent_function_opset_versions if v <= version]
        if not versions:
            return None
        try:
            text = definition.get_context_dependent_function_with_opset_version(
                max(versions), node.SerializeToString(), known
            )
        except (RuntimeError, ValueError):  # the definition asks for types that are not known
            return None
    elif definition.has_function and (
        versions := [v for v in definition.function_opset_versions if v <= version]
    ):
        text = definition.get_function_with_opset_version(max(versions))
    else:
        return None
    return onnx.FunctionProto.FromString(text) if text else None


def _check_tensor_types(graph: onnx.GraphProto, target: int) -> None:
    for tensor in graph.initializer:
        if tensor.data_type > _NEWEST_TYPE:
            raise UnsupportedModelError(
                f"an element type is newer than opset {target}",
                where=f"tensor {tensor.name!r}",
                required=f"a type of opset {target}",
                found=onnx.TensorProto.DataType.Name(tensor.data_type),
                hint=f"export the model with opset {target}",
            )


def _label(node: onnx.NodeProto) -> str:
    return repr(node.name or next((name for name in node.output if name), node.op_type))
