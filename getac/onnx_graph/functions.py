"""Model-local functions, inlined: afterwards the graph holds operators only.

The size of the result is counted before anything is expanded, since twenty functions that call each other
twice make a million nodes ("billion laughs").
"""

from __future__ import annotations

import graphlib
import itertools
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field

import onnx
from onnx import defs

from getac.errors import InvalidModelError, UnsupportedModelError

__all__ = ["MAX_NODES", "Names", "expand_call", "inline_functions", "subgraphs"]

MAX_NODES = 200_000
_MAX_BYTES = 1 << 30
_MAX_DEPTH = 100  # of calls; protobuf itself reads no deeper nesting of subgraphs

# Operators that once changed what they compute, and not how they are called.
_REDEFINED = frozenset({"Softmax", "LogSoftmax", "Hardmax", "GroupNormalization"})

_Id = tuple[str, str, str]


@dataclass
class Names:
    """Names in use, and fresh ones."""

    used: set[str] = field(default_factory=set)
    _count: Iterator[int] = field(default_factory=itertools.count)

    def fresh(self, name: str) -> str:
        """The name itself if it is free, else with a number behind it."""
        unique = name
        while not unique or unique in self.used:
            unique = f"{name}_{next(self._count)}"
        self.used.add(unique)
        return unique

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> Names:
        """The names of a graph's values, those of its subgraphs included."""
        names = cls()
        pending = [graph]
        while pending:
            current = pending.pop()
            names.used.update(_declared(current))
            pending.extend(sub for node in current.node for sub in subgraphs(node))
        return names


@dataclass(frozen=True)
class _Cost:
    nodes: int
    size: int
    depth: int


def inline_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Replace every call of a model-local function by the function's body.

    Args:
        proto: A model without big tensors; it is changed.

    Returns:
        The same model, without functions.

    Raises:
        InvalidModelError: A function that calls itself, or two functions with one name.
        UnsupportedModelError: An expansion beyond 200,000 nodes or 1 GiB, calls more than 100 deep, or a
            function written for an operator-set version that means something else than the model's.
    """
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    if len(functions) != len(proto.functions):
        raise InvalidModelError("two functions of the model have the same name")
    if not functions:
        return proto
    used = _check_expansion(proto, functions)
    for key in used:
        _check_imports(proto, functions[key])
    _inline_nodes(proto.graph, functions, Names.of(proto.graph))
    del proto.functions[:]
    return proto


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes (branches of If, bodies of Loop and Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def expand_call(node: onnx.NodeProto, function: onnx.FunctionProto, names: Names) -> list[onnx.NodeProto]:
    """The nodes of a function's body, with the caller's values, attributes and fresh inner names."""
    attributes = {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.attribute}
    call = node.name or node.op_type
    actual = itertools.chain(node.input, itertools.repeat(""))
    rename: MutableMapping[str, str] = ChainMap(dict(zip(function.input, actual, strict=False)))
    body = _Body(attributes, call, names)
    produced = {name for inner in function.node for name in inner.output}
    passed_on = []
    for formal, name in zip(function.output, node.output, strict=False):
        if not name:
            continue
        if formal in produced and formal not in rename:
            rename[formal] = name
        else:  # an output that is an input, or an output twice, needs an operator that makes it
            passed_on.append((formal, name))
    result = [body.copy(inner, rename) for inner in function.node]
    for formal, name in passed_on:
        identity = onnx.helper.make_node("Identity", [rename[formal]], [name], name=f"{call}/{name}")
        result.append(identity)
    return result


@dataclass(frozen=True)
class _Body:
    """Copies a function's nodes into a caller."""

    attributes: Mapping[str, onnx.AttributeProto]
    call: str
    names: Names

    def copy(self, node: onnx.NodeProto, rename: MutableMapping[str, str]) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.name:
            copy.name = f"{self.call}/{node.name}"
        copy.input[:] = [rename.get(name, name) for name in node.input]
        copy.output[:] = [self._declare(name, rename) for name in node.output]
        del copy.attribute[:]
        copy.attribute.extend(a for a in map(self._resolve, node.attribute) if a is not None)
        for graph in subgraphs(copy):
            self._rename_graph(graph, ChainMap({}, *_maps(rename)))
        return copy

    def _declare(self, name: str, rename: MutableMapping[str, str]) -> str:
        if name and name not in rename:
            rename[name] = self.names.fresh(f"{self.call}/{name}")
        return rename[name] if name else ""

    def _resolve(self, attribute: onnx.AttributeProto) -> onnx.AttributeProto | None:
        """An attribute that refers to one of the function's takes the caller's value, if there is one."""
        copy = onnx.AttributeProto()
        if not attribute.ref_attr_name:
            copy.CopyFrom(attribute)
        elif attribute.ref_attr_name in self.attributes:
            copy.CopyFrom(self.attributes[attribute.ref_attr_name])
            copy.name = attribute.name
        else:
            return None
        return copy

    def _rename_graph(self, graph: onnx.GraphProto, rename: MutableMapping[str, str]) -> None:
        for declared in (*graph.input, *graph.initializer):
            local = _maps(rename)[0]
            if declared.name not in local:
                local[declared.name] = self.names.fresh(f"{self.call}/{declared.name}")
            declared.name = local[declared.name]
        nodes = [self.copy(node, rename) for node in graph.node]
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
        for output in graph.output:
            output.name = rename.get(output.name, output.name)


def _maps(rename: MutableMapping[str, str]) -> list[MutableMapping[str, str]]:
    return list(rename.maps) if isinstance(rename, ChainMap) else [rename]


def _declared(graph: onnx.GraphProto) -> Iterator[str]:
    for named in (*graph.input, *graph.initializer):
        yield named.name
    for node in graph.node:
        yield from (name for name in node.output if name)


def _identifier(node: onnx.NodeProto) -> _Id:
    return (node.domain, node.op_type, node.overload)


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of their subgraphs."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node
        pending.extend(inner for graph in subgraphs(node) for inner in graph.node)


def _check_expansion(proto: onnx.ModelProto, functions: Mapping[_Id, onnx.FunctionProto]) -> set[_Id]:
    """Count what inlining would make, callees before callers; return the functions that are called at all."""
    calls = {
        key: {_identifier(n) for n in _all_nodes(f.node)} & functions.keys() for key, f in functions.items()
    }
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        cycle = " -> ".join(key[1] for key in error.args[1])
        raise InvalidModelError("a function of the model calls itself", where=cycle) from error
    costs: dict[_Id, _Cost] = {}
    for key in order:
        costs[key] = _cost(functions[key].node, costs)
    total = _cost(proto.graph.node, costs)
    if total.nodes > MAX_NODES or total.size > _MAX_BYTES or total.depth > _MAX_DEPTH:
        raise UnsupportedModelError(
            "the model's functions expand to too much",
            required=f"at most {MAX_NODES} nodes, {_MAX_BYTES} bytes, calls {_MAX_DEPTH} deep",
            found=f"{total.nodes} nodes, {total.size} bytes, calls {total.depth} deep",
            hint="export the model without functions",
        )
    reached: set[_Id] = set()
    pending = {_identifier(n) for n in _all_nodes(proto.graph.node)} & functions.keys()
    while pending:
        reached |= pending
        pending = {callee for key in pending for callee in calls[key]} - reached
    return reached


def _cost(nodes: Iterable[onnx.NodeProto], costs: Mapping[_Id, _Cost]) -> _Cost:
    count = size = depth = 0
    for node in nodes:
        size += node.ByteSize()
        for each in _all_nodes([node]):
            callee = costs.get(_identifier(each), _Cost(0, 0, -1))
            count, size, depth = count + 1 + callee.nodes, size + callee.size, max(depth, callee.depth + 1)
    return _Cost(count, size, depth)


def _check_imports(proto: onnx.ModelProto, function: onnx.FunctionProto) -> None:
    """The operators of a function must mean the same under the model's imports, which take over."""
    imports = {entry.domain: entry.version for entry in proto.opset_import}
    for entry in function.opset_import:
        if entry.domain not in imports:
            proto.opset_import.add(domain=entry.domain, version=entry.version)
        elif not entry.domain and entry.version != imports[""]:
            _check_same_meaning(function, entry.version, imports[""])


def _check_same_meaning(function: onnx.FunctionProto, version: int, model_version: int) -> None:
    for node in _all_nodes(function.node):
        if node.domain or _same_meaning(node.op_type, version, model_version):
            continue
        raise UnsupportedModelError(
            "a function uses another version of an operator than the model does",
            where=f"operator {node.op_type} in function {function.name!r}",
            required=f"opset {model_version}, as the model",
            found=f"opset {version}",
            hint="export the model without functions",
        )


def _same_meaning(operator: str, version: int, other: int) -> bool:
    """Whether two versions of an operator differ in the element types that they take at most."""
    if not (defs.has(operator, version, "") and defs.has(operator, other, "")):
        return False
    one, two = defs.get_schema(operator, version, ""), defs.get_schema(operator, other, "")
    if one.since_version == two.since_version:
        return True
    return operator not in _REDEFINED and _signature(one) == _signature(two)


def _signature(schema: defs.OpSchema) -> tuple[object, ...]:
    defaults = {name: a.default_value.SerializeToString() for name, a in schema.attributes.items()}
    return [f.name for f in schema.inputs], [f.name for f in schema.outputs], defaults


def _inline_nodes(graph: onnx.GraphProto, functions: Mapping[_Id, onnx.FunctionProto], names: Names) -> None:
    pending = list(reversed(graph.node))
    result = []
    while pending:
        node = pending.pop()
        function = functions.get(_identifier(node))
        if function is not None:
            pending.extend(reversed(expand_call(node, function, names)))
            continue
        for inner in subgraphs(node):
            _inline_nodes(inner, functions, names)
        result.append(node)
    del graph.node[:]
    graph.node.extend(result)
