"""A model as an onnx-graphsurgeon Graph, and back (measured with onnx-graphsurgeon 0.6).

Weights stay where they are: the Graph has references, which load when somebody reads them and come back as
the tensors that they stand for. graphsurgeon forgets some of what a file can say. What can be given back
afterwards is (metadata of the model, its graph, and of nodes and values that are still there under their
names); a model with anything else that would be lost is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from getac.errors import BadInputError, PassError, UnsupportedModelError

if TYPE_CHECKING:
    from getac.onnx_graph.lent_tensors import Shelf

__all__ = ["Surgery", "check_survives"]

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


@dataclass(frozen=True)
class Surgery:
    """A model that is a Graph for the time being.

    Args:
        before: The model.
        graph: The Graph.
        shelf: What its constants stand for.
        exported: What graphsurgeon writes of the Graph as it is.
    """

    before: ir.Model
    graph: Any
    shelf: Shelf
    exported: bytes

    @classmethod
    def of(cls, model: ir.Model) -> Surgery:
        """Opens a model; it is not changed.

        Raises:
            UnsupportedModelError: See `check_survives`.
            BadInputError: graphsurgeon is not installed, or cannot read the model.
        """
        surgeon = graphsurgeon()
        check_survives(model)
        from getac.onnx_graph.lent_tensors import Shelf

        copy, tensors = referring_copy(model)
        shelf = Shelf(tensors)
        try:
            graph = surgeon.import_onnx(ir.to_proto(copy))
            shelf.lend(graph)
            exported = export(graph, shelf).SerializeToString()
        except Exception as error:  # whatever graphsurgeon raises on a valid file
            raise BadInputError(
                "onnx-graphsurgeon cannot read the model", found=f"{type(error).__name__}: {error}"
            ) from error
        return cls(model, graph, shelf, exported)

    def close(self, graph: Any) -> ir.Model:
        """The Graph as a model, with the tensors that it still refers to and the metadata of what is there.

        Where the Graph is as it was, the model itself: graphsurgeon spells some things otherwise, and nobody
        asked for that.

        Raises:
            PassError: graphsurgeon cannot write the Graph.
        """
        self.shelf.take_back(graph)
        try:
            proto = export(graph, self.shelf)
            if proto.SerializeToString() == self.exported:
                return self.before
            model: ir.Model = ir.from_proto(proto)
        except Exception as error:  # whatever graphsurgeon raises on a graph that somebody built
            raise PassError(
                "onnx-graphsurgeon cannot write the graph that came out of the function",
                found=f"{type(error).__name__}: {error}",
                hint="graph.cleanup().toposort() at the end of the function; inputs and outputs need a dtype",
            ) from error
        resolve(model, self.shelf.tensors)
        hoist(model, set(self.before.graph.initializers))
        reattach(model, self.before)
        return model


def referring_copy(model: ir.Model) -> tuple[ir.Model, dict[str, ir.TensorProtocol]]:
    """A copy that names its stored tensors instead of holding them, and the tensors by these names."""
    copy, tensors = model.clone(), {}
    for number, (name, value) in enumerate(copy.graph.initializers.items()):
        if value.const_value is not None and value.const_value.dtype is not ir.DataType.STRING:
            key = f"{_KEY}-{number}"
            tensors[key] = value.const_value
            value.const_value = reference(key, name, value.const_value)
    return copy, tensors


def export(graph: Any, shelf: Shelf) -> onnx.ModelProto:
    with shelf.references():
        proto: onnx.ModelProto = graphsurgeon().export_onnx(graph)
    return proto


def reference(key: str, name: str, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    """A tensor that names its contents instead of holding them."""
    return ir.ExternalTensor(
        key, 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
    )


def resolve(model: ir.Model, tensors: Mapping[str, ir.TensorProtocol]) -> None:
    """Puts the tensors where their names stand."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            held = value.const_value
            if isinstance(held, ir.ExternalTensor) and held.location in tensors:
                value.const_value = renamed(tensors[str(held.location)], name)
    for node in model.graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            held = attribute.value
            if isinstance(held, ir.ExternalTensor) and held.location in tensors:
                node.attributes[name] = ir.AttrTensor(name, tensors[str(held.location)])


def hoist(model: ir.Model, outer: set[str]) -> None:
    """Moves tensors of the main graph back; graphsurgeon writes them into each graph that reads them."""
    main = model.graph
    for graph in model.graphs():
        for name, value in list(graph.initializers.items()):
            if graph is main or name not in outer | set(main.initializers) or value.is_graph_output():
                continue
            graph.initializers.pop(name)
            if name in main.initializers:
                ir.convenience.replace_all_uses_with(value, main.initializers[name])
            else:
                main.register_initializer(value)


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
    for node in model.graph.all_nodes():
        old = nodes.get(node.name or "")
        if old is not None and old.op_type == node.op_type:
            annotate(node, old)
            node.meta.update(old.meta)
    values = {value.name: value for value in values_of(before) if value.name}
    for value in values_of(model):
        if value.name in values:
            annotate(value, values[value.name])


def annotate(new: ir.Node | ir.Value, old: ir.Node | ir.Value) -> None:
    new.metadata_props.update(old.metadata_props)
    new.doc_string = new.doc_string or old.doc_string


def values_of(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from (*graph.inputs, *graph.initializers.values())
    for node in model.graph.all_nodes():
        yield from node.outputs
