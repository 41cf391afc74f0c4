"""A model as an onnx-graphsurgeon Graph, and back (measured with onnx-graphsurgeon 0.6).

Weights stay where they are: the Graph has references, which load when somebody reads them and come back as
the tensors that they stand for. graphsurgeon forgets some of what a file can say. What can be given back
afterwards is (metadata of the model, its graph, and of nodes and values that are still there under their
names); a model with anything else that would be lost is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from getac.errors import BadInputError, PassError, UnsupportedModelError

__all__ = ["check_survives", "from_surgeon", "to_surgeon"]

_KEY = "getac-tensor"
_KNOWN = {
    ir.AttributeType.FLOAT,
    ir.AttributeType.INT,
    ir.AttributeType.STRING,
    ir.AttributeType.TENSOR,
    ir.AttributeType.GRAPH,
    ir.AttributeType.FLOATS,
    ir.AttributeType.INTS,
    ir.AttributeType.STRINGS,
}

Tensors = dict[str, ir.TensorProtocol]


def graphsurgeon() -> Any:
    """The library, which is an extra of getac.

    Raises:
        BadInputError: It is not installed.
    """
    try:
        import onnx_graphsurgeon
    except ImportError:
        raise BadInputError(
            "onnx-graphsurgeon is not installed",
            required="the extra of getac for it",
            hint='pip install "getac[surgeon]"',
        ) from None
    return onnx_graphsurgeon


def check_survives(model: ir.Model) -> None:
    """Refuses what graphsurgeon would lose without a word.

    Raises:
        UnsupportedModelError: The feature, and where it is.
    """
    for what, where in lost_features(model):
        raise UnsupportedModelError(
            f"onnx-graphsurgeon would lose {what}",
            where=where,
            hint="write the pass against onnx_ir instead: docs/writing-a-pass.md",
        )


def lost_features(model: ir.Model) -> Iterable[tuple[str, str]]:
    for (domain, name, overload), _ in model.functions.items():
        if overload:
            yield "overloads of functions", f"function {domain}::{name}, overload {overload}"
    for graph in model.graphs():
        for value in [*graph.inputs, *graph.outputs]:
            if value.type is not None and not isinstance(value.type, ir.TensorType):
                yield f"the type {type(value.type).__name__} of inputs and outputs", str(value.name)
        for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
            if "quant_parameter_tensor_names" in value.meta:
                yield "quantization annotations", str(value.name)
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type not in _KNOWN:
                yield f"attributes of type {attribute.type.name}", f"{node.name}, {attribute.name}"


def to_surgeon(model: ir.Model) -> tuple[Any, Tensors]:
    """The model as a Graph, and the tensors that its constants refer to.

    Raises:
        UnsupportedModelError: See `check_survives`.
        BadInputError: graphsurgeon is not installed, or cannot read the model.
    """
    surgeon = graphsurgeon()
    check_survives(model)
    copy, tensors = model.clone(), {}
    for number, (name, value) in enumerate(copy.graph.initializers.items()):
        if value.const_value is not None:
            key = f"{_KEY}-{number}"
            tensors[key] = value.const_value
            value.const_value = reference(key, name, value.const_value)
    try:
        graph = surgeon.import_onnx(ir.to_proto(copy))
    except Exception as error:  # whatever graphsurgeon raises on a valid file
        raise BadInputError(
            "onnx-graphsurgeon cannot read the model", found=f"{type(error).__name__}: {error}"
        ) from error
    for tensor in graph.tensors().values():
        if isinstance(tensor, surgeon.Constant):
            make_lazy(tensor, tensors)
    return graph, tensors


def reference(key: str, name: str, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    """A tensor that names its contents instead of holding them."""
    return ir.ExternalTensor(
        key, 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
    )


def key_of(proto: onnx.TensorProto) -> str:
    entries: dict[str, str] = {entry.key: entry.value for entry in proto.external_data}
    return entries.get("location", "")


def make_lazy(constant: Any, tensors: Tensors) -> None:
    """Lets a constant load what it refers to."""
    from onnx_graphsurgeon.ir.tensor import LazyValues

    class Stored(LazyValues):  # type: ignore[misc]  # the library has no types
        def load(self) -> np.ndarray[Any, Any]:
            return tensors[key_of(self.tensor)].numpy()

    held = constant._values  # reading `.values` would load it
    if isinstance(held, LazyValues) and key_of(held.tensor) in tensors:
        constant._values = Stored(held.tensor)
        constant.data_location = None  # of whatever the user puts in its place


def from_surgeon(graph: Any, tensors: Tensors, before: ir.Model) -> ir.Model:
    """The Graph as a model, with the tensors that it still refers to and the metadata of what is still there.

    Raises:
        PassError: graphsurgeon cannot write the Graph.
    """
    surgeon = graphsurgeon()
    try:
        model: ir.Model = ir.from_proto(surgeon.export_onnx(graph))
    except Exception as error:  # whatever graphsurgeon raises on a graph that somebody built
        raise PassError(
            "onnx-graphsurgeon cannot write the graph that came out of the function",
            found=f"{type(error).__name__}: {error}",
            hint="graph.cleanup().toposort() at the end of the function; inputs and outputs need a dtype",
        ) from error
    for name, value in model.graph.initializers.items():
        held = value.const_value
        if isinstance(held, ir.ExternalTensor) and held.location in tensors:
            value.const_value = renamed(tensors[held.location], name)
    reattach(model, before)
    return model


def renamed(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    if tensor.name == name:
        return tensor
    return ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name)


def reattach(model: ir.Model, before: ir.Model) -> None:
    """Gives back what the file said and graphsurgeon does not carry."""
    model.metadata_props.update(before.metadata_props)
    model.graph.metadata_props.update(before.graph.metadata_props)
    model.meta.update(before.meta)
    model.doc_string, model.graph.doc_string = before.doc_string, before.graph.doc_string
    model.domain, model.model_version = before.domain, before.model_version
    nodes = {node.name: node for node in before.graph.all_nodes() if node.name}
    values = {value.name: value for node in before.graph.all_nodes() for value in node.outputs}
    for node in model.graph.all_nodes():
        old = nodes.get(node.name or "")
        if old is not None and old.op_type == node.op_type:
            node.metadata_props.update(old.metadata_props)
            node.meta.update(old.meta)
        for value in node.outputs:
            if value.name in values:
                value.metadata_props.update(values[value.name].metadata_props)
