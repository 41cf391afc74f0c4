"""From an ONNX file to the graph that getac edits.

`read_model` is the whole flow, top to bottom. Nothing is constant-folded: folding erases quantizers that are
spelled in primitive operators.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from getac.errors import InvalidModelError, UnsupportedModelError
from getac.onnx_graph.constants import constants_to_initializers
from getac.onnx_graph.edit import NAMED_AFTER_RESULT
from getac.onnx_graph.external_data import ModelFolders, WeightTable, put_back, set_aside
from getac.onnx_graph.functions import Names, inline_functions, subgraphs
from getac.onnx_graph.opset import convert_opset, default_opset
from getac.onnx_graph.origin import Origin, set_origin
from getac.onnx_graph.packing.two_bits import widen_two_bits
from getac.onnx_graph.qonnx import give_bodies

__all__ = ["IR_VERSION", "load", "read_model", "read_proto"]

IR_VERSION = 10
_OLDEST_IR, _NEWEST_IR = 3, 13
_MAX_FILE_BYTES = (1 << 31) - 1  # what protobuf can parse
_FOREIGN_FORMATS = (
    (0, b"PK\x03\x04", "a zip archive (a PyTorch or NumPy file?)"),
    (0, b"\x80", "a Python pickle"),
    (0, b"\x89HDF", "an HDF5 file (Keras?)"),
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with 'git lfs pull'"),
    (0, b"{", "JSON text"),
    (0, b"<", "markup text (a web page?)"),
    (4, b"ORTM", "onnxruntime's own format"),
    (4, b"TFL3", "a TensorFlow Lite file"),
)


def load(model_or_path: str | os.PathLike[str] | onnx.ModelProto | ir.Model) -> ir.Model:
    """What a file or a proto holds (see `read_model`); an ir.Model comes back as it is."""
    if isinstance(model_or_path, ir.Model):
        return model_or_path
    if isinstance(model_or_path, onnx.ModelProto):
        return read_proto(model_or_path)
    if not isinstance(model_or_path, str | os.PathLike):
        raise UnsupportedModelError(
            "this is no ONNX model",
            required="a path, an onnx.ModelProto, or an onnx_ir.Model",
            found=type(model_or_path).__name__,
        )
    return read_model(model_or_path)


def read_model(path: str | os.PathLike[str]) -> ir.Model:
    """Read an ONNX file: opset 21, IR 10, no local functions, weights as initializers, every name unique.

    Opsets 7 to 26 are accepted. External data stays on the disk, memory-mapped. An initializer is never a
    graph input afterwards. Outputs that a node leaves out keep the empty name that ONNX gives them.

    Raises:
        InvalidModelError: No such file, not ONNX, truncated, larger than 2 GiB, no graph or outputs, data
            missing or outside the model's folder, cyclic, undefined or duplicate names.
        UnsupportedModelError: A version out of range, or a feature that getac would lose.
    """
    source = Path(os.path.abspath(path))
    proto = _parse(source)
    return _import(proto, ModelFolders.of(source))


def read_proto(proto: onnx.ModelProto, base_dir: str | os.PathLike[str] | None = None) -> ir.Model:
    """`read_model` for a model in memory; external data is looked for in `base_dir`.

    The proto is left as it is, and the result refers to its big tensors: do not change them.
    """
    folder = None if base_dir is None else Path(os.path.realpath(base_dir))
    return _import(proto, None if folder is None else ModelFolders(folder, folder))


def _import(proto: onnx.ModelProto, folders: ModelFolders | None) -> ir.Model:
    try:
        light, weights, files = _prepare(proto, folders)
        model = ir.from_proto(light)
    except UnicodeDecodeError as error:
        raise InvalidModelError("a name in the model is not UTF-8 text", found=repr(error.object)) from error
    except (RecursionError, DecodeError) as error:
        raise UnsupportedModelError(
            "the model's subgraphs are nested too deeply", found=str(error)
        ) from error
    except ir.serde.SerdeError as error:
        raise InvalidModelError(
            "the model cannot be represented", found=str(error.__cause__ or error)
        ) from error
    put_back(model, weights)
    closed = _close_inputs(model.graph)
    set_origin(model, Origin(tuple(sorted(files)), closed if proto.ir_version > 3 else ()))
    constants_to_initializers(model)
    _name_everything(model.graph)
    model.ir_version = IR_VERSION
    return model


def _prepare(
    proto: onnx.ModelProto, folders: ModelFolders | None
) -> tuple[onnx.ModelProto, WeightTable, frozenset[Path]]:
    """What happens to the protobuf message: checks, then inlining and conversion without the weights."""
    _check_header(proto)
    default_opset(proto)
    _refuse_lossy_features(proto)
    light, weights, files = set_aside(proto, folders)
    _normalise_domains(light)
    _check_and_sort(light)
    widen_two_bits(light, weights)
    give_bodies(light)
    light = convert_opset(inline_functions(light))
    _check_and_sort(light)  # what inlining and conversion made
    return light, weights, files


# ---- the file ----


def _parse(source: Path) -> onnx.ModelProto:
    where = str(source)
    try:
        if not source.exists():
            raise InvalidModelError("no such model file", where=where)
        if not source.is_file():
            raise InvalidModelError("the model is not a regular file", where=where)
        size = source.stat().st_size
        if size > _MAX_FILE_BYTES:
            raise InvalidModelError(
                "the model file is larger than 2 GiB, which no ONNX file can be",
                where=where,
                found=f"{size} bytes",
                hint="save the model with external data",
            )
        data = source.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidModelError("the model file cannot be read", where=where, found=str(error)) from error
    if not data:
        raise InvalidModelError("the model file is empty", where=where)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise _not_onnx(data, where) from error
    return proto


def _not_onnx(data: bytes, where: str) -> InvalidModelError:
    for offset, magic, name in _FOREIGN_FORMATS:
        if data[offset:].startswith(magic):
            return InvalidModelError("not an ONNX file", where=where, required="ONNX (protobuf)", found=name)
    if data[0] == 0x08:  # the tag of ir_version, which writers put first
        hint = "copy or export the file again"
        return InvalidModelError("the ONNX file is truncated or damaged", where=where, hint=hint)
    return InvalidModelError("not an ONNX file", where=where, required="ONNX (protobuf)", found="other data")


# ---- what the model says about itself ----


def _check_header(proto: onnx.ModelProto) -> None:
    if not proto.HasField("graph"):
        hint = "the file may be no ONNX model, or cut off"
        raise InvalidModelError("the file holds no ONNX graph", hint=hint)
    if not proto.graph.output:
        raise InvalidModelError("the graph has no outputs", where=f"graph {proto.graph.name!r}")
    if not _OLDEST_IR <= proto.ir_version <= _NEWEST_IR:
        raise UnsupportedModelError(
            f"the model's IR version {proto.ir_version} is out of range",
            where="ir_version",
            required=f"IR version {_OLDEST_IR} to {_NEWEST_IR}",
            found=str(proto.ir_version),
            hint="export the model again with a release of onnx that getac supports",
        )


def _refuse_lossy_features(proto: onnx.ModelProto) -> None:
    """Refuse what the graph representation would drop in silence."""
    if proto.training_info:
        raise UnsupportedModelError(
            "the model holds training information", where="training_info", hint="export it for inference"
        )
    for graph in _graphs(proto):
        if graph.sparse_initializer:
            names = [tensor.values.name for tensor in graph.sparse_initializer]
            raise UnsupportedModelError(
                "sparse initializers are not supported", where=f"tensors {names}", hint="store them dense"
            )
        for node in graph.node:
            if any(a.HasField("sparse_tensor") or a.sparse_tensors for a in node.attribute):
                where = f"node {node.name!r} ({node.op_type})"
                raise UnsupportedModelError(
                    "sparse constants are not supported", where=where, hint="store them dense"
                )
        for info in (*graph.input, *graph.output, *graph.value_info):
            if _is_exotic(info.type):
                raise UnsupportedModelError(
                    "map, opaque and sparse types are not supported",
                    where=f"value {info.name!r}",
                    required="tensors, and sequences or optionals of them",
                    found=str(info.type.WhichOneof("value")),
                )


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """All graphs of a model; a function's subgraphs too."""
    pending = [proto.graph]
    pending += [graph for function in proto.functions for node in function.node for graph in subgraphs(node)]
    while pending:
        graph = pending.pop()
        yield graph
        pending += [inner for node in graph.node for inner in subgraphs(node)]


def _is_exotic(kind: onnx.TypeProto) -> bool:
    while (name := kind.WhichOneof("value")) in ("sequence_type", "optional_type"):
        kind = getattr(kind, name).elem_type
    return name in ("map_type", "opaque_type", "sparse_tensor_type")


def _normalise_domains(proto: onnx.ModelProto) -> None:
    """`ai.onnx` is another spelling of the default domain."""
    bodies = [graph.node for graph in _graphs(proto)] + [function.node for function in proto.functions]
    for node in (node for body in bodies for node in body):
        if node.domain == "ai.onnx":
            node.domain = ""
    for owner in (proto, *proto.functions):
        imports = {"" if e.domain == "ai.onnx" else e.domain: e.version for e in owner.opset_import}
        del owner.opset_import[:]
        owner.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in imports.items())


# ---- names and order ----


def _check_and_sort(proto: onnx.ModelProto) -> None:
    """Put all nodes into topological order.

    Raises:
        InvalidModelError: A value defined twice or not at all, or a cycle.
    """
    _sort_graph(proto.graph, ())
    for function in proto.functions:
        where = f"function {function.name!r}"
        defined = _unique([*function.input], where)
        order, _ = _sort(function.node, function.output, defined, (), where)
        _reorder(function.node, order)


def _sort_graph(graph: onnx.GraphProto, outer: tuple[set[str], ...]) -> set[str]:
    """Sort a graph in place and return the names that it takes from the graphs around it."""
    where = f"graph {graph.name!r}"
    inputs = _unique([value.name for value in graph.input], where)
    defined = inputs | _unique([tensor.name for tensor in graph.initializer], where)
    if "" in defined:
        raise InvalidModelError("an input or initializer has no name", where=where)
    order, captured = _sort(graph.node, [value.name for value in graph.output], defined, outer, where)
    _reorder(graph.node, order)
    return captured


def _sort(
    nodes: Sequence[onnx.NodeProto],
    outputs: Iterable[str],
    defined: set[str],
    outer: tuple[set[str], ...],
    where: str,
) -> tuple[list[int], set[str]]:
    producer: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in producer or name in defined:
                raise InvalidModelError("a value is defined twice", where=where, found=repr(name))
            producer[name] = index
    scopes = (defined | producer.keys(), *outer)
    captured: set[str] = set()
    needs: list[set[int]] = []
    for node in nodes:
        read = set(filter(None, node.input))
        for graph in subgraphs(node):
            read |= _sort_graph(graph, scopes)
        undefined = sorted(name for name in read if not any(name in scope for scope in scopes))
        if undefined:
            found = f"input {undefined[0]!r} of node {_label(node)}"
            raise InvalidModelError("a node reads a value that nothing defines", where=where, found=found)
        captured |= read - scopes[0]
        needs.append({producer[name] for name in read if name in producer})
    _check_outputs(list(outputs), scopes, where)
    captured |= set(outputs) - scopes[0]
    return _topological(needs, nodes, where), captured


def _check_outputs(outputs: list[str], scopes: tuple[set[str], ...], where: str) -> None:
    _unique(outputs, where)
    for name in outputs:
        if not any(name in scope for scope in scopes):
            raise InvalidModelError("an output is never computed", where=where, found=repr(name))


def _topological(needs: list[set[int]], nodes: Sequence[onnx.NodeProto], where: str) -> list[int]:
    """Kahn's algorithm, keeping the order of the file where it is free to."""
    readers: list[list[int]] = [[] for _ in needs]
    for index, producers in enumerate(needs):
        for producer in producers:
            readers[producer].append(index)
    missing = [len(producers) for producers in needs]
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        order.append(index := heapq.heappop(ready))
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(needs):
        stuck = {index for index, count in enumerate(missing) if count}
        names = " -> ".join(_label(nodes[index]) for index in _cycle(needs, stuck))
        raise InvalidModelError(
            "the graph is cyclic", where=where, required="an order in which to compute", found=names
        )
    return order


def _cycle(needs: list[set[int]], stuck: set[int]) -> list[int]:
    """Some cycle among nodes that all wait for another one of them, in the direction of the data."""
    path: list[int] = []
    seen: dict[int, int] = {}
    index = min(stuck)
    while index not in seen:
        seen[index] = len(path)
        path.append(index)
        index = min(needs[index] & stuck)
    return [*path[seen[index] :], index][::-1]


def _reorder(nodes: list[onnx.NodeProto], order: list[int]) -> None:
    if order != sorted(order):
        ordered = [nodes[index] for index in order]
        del nodes[:]
        nodes.extend(ordered)


def _unique(names: list[str], where: str) -> set[str]:
    unique = set(names)
    if len(unique) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidModelError("a value is defined twice", where=where, found=repr(twice))
    return unique


def _label(node: onnx.NodeProto) -> str:
    return f"{node.name or next(iter(node.output), '')!r} ({node.op_type})"


# ---- the graph ----


def _close_inputs(graph: ir.Graph) -> tuple[str, ...]:
    """Weights leave the inputs: IR 3 lists all of them there, later versions those one may override."""
    closed = tuple(str(value.name) for value in graph.inputs if value.name in graph.initializers)
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    graph.inputs.clear()
    graph.inputs.extend(inputs)
    return closed


def _name_everything(graph: ir.Graph) -> None:
    """Give nodes, values and the graph the names that they lack; a named value keeps its name.

    A trailing output without a name is one that the node does not compute: it goes. Between others it stays.
    """
    graph.name = graph.name or "main_graph"
    nodes = Names()
    for node in graph:
        while len(node.outputs) > 1 and not node.outputs[-1].name:
            node.resize_outputs(len(node.outputs) - 1)
        implied = node.outputs[0].name if node.op_type in NAMED_AFTER_RESULT else None
        node.name = nodes.fresh(node.name or implied or node.op_type)
