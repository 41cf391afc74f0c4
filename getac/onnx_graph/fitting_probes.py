"""Two probes of a model that go through, at sizes that cannot be confused with each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from getac.errors import BadInputError, InvalidModelError, OptionError, UnsupportedModelError
from getac.onnx_graph.node_inference import Array
from getac.onnx_graph.probe import Misfit, Operators, Probe, Stored, probe
from getac.onnx_graph.probe_sizes import SCHEMES, InputSizes, read_input_sizes
from getac.onnx_graph.tensor_types import Kind, declared_type, joined, sizes_of, tensor_type

__all__ = ["ProbedSymbol", "UnfittingSizesError", "fitting_probes"]

_FEW = 16  # a constant of so many integers may hold sizes; a longer one is a table of indices
_MAX_FACTOR = 2**31  # larger constants are "to the end" markers

ProbedSymbol = tuple[str, int, int]  # name, size at the first and at the second probe


class UnfittingSizesError(UnsupportedModelError):
    """No tried size of the symbolic dimensions fits all nodes; some size that was not tried may."""


def fitting_probes(model: ir.Model, bindings: Mapping[str, int]) -> tuple[Probe, Probe, list[ProbedSymbol]]:
    """Probes the model until both probes go through; raises what `infer_shapes` says."""
    walk = _Walker(model, bindings)
    symbols = list(walk.sizes.symbols)
    failure: Misfit | None = None
    for scheme in SCHEMES:
        one, two = walk.sizes.assignments(scheme)
        first = walk(one)
        second = walk(two) if symbols else first
        if isinstance(first, Probe) and isinstance(second, Probe):
            return first, second, [(name, one[name], two[name]) for name in symbols]
        if isinstance(first, Misfit) and isinstance(second, Misfit) and walk.is_certain(first, second):
            raise _invalid(first)
        failure = failure or next(found for found in (first, second) if isinstance(found, Misfit))
    assert failure is not None
    raise _unsupported(failure, symbols)


class _Walker:
    """Walks one model as often as it is called."""

    def __init__(self, model: ir.Model, bindings: Mapping[str, int]) -> None:
        graph = self._graph = model.graph
        self._operators = Operators(dict(graph.opset_imports))
        stored = set(graph.initializers.values())
        self._inputs = [value for value in graph.inputs if value not in stored]
        numbers = _numbers(graph, self._operators.stored(graph))
        self.sizes = read_input_sizes(self._inputs, numbers, bindings)
        _check_bindings(bindings, self.sizes)

    def __call__(self, symbols: Mapping[str, int]) -> Probe | Misfit:
        known = self.sizes.complete(symbols)
        types = _input_types(self._inputs, self.sizes, known)
        try:
            return probe(self._graph, self._operators, types, known)
        except Misfit as misfit:
            return misfit

    def is_certain(self, one: Misfit, other: Misfit) -> bool:
        """True if the node fails even where all that differs is unknown: then no size is to blame."""
        operator = self._operators[one.node]
        if one.node is not other.node or operator is None:
            return False
        inputs = [joined(a, b) for a, b in zip(one.inputs, other.inputs, strict=True)]
        data = [a if _equal(a, b) else None for a, b in zip(one.data, other.data, strict=True)]
        return operator.is_contradicted_by(inputs, data)


def _equal(one: Array | None, other: Array | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def _numbers(graph: ir.Graph, stored: Stored) -> Iterator[int]:
    """The numbers that a size could be mistaken for: stored sizes, small constants, integer attributes."""
    for kind in stored.types.values():
        yield from sizes_of(kind) or ()
    for array in stored.data.values():
        if array.size <= _FEW and array.dtype.kind in "iu":
            yield from (abs(int(number)) for number in array.flat if abs(int(number)) < _MAX_FACTOR)
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type in (ir.AttributeType.INT, ir.AttributeType.INTS):
                numbers = attribute.value if attribute.type == ir.AttributeType.INTS else [attribute.value]
                yield from (abs(number) for number in numbers if abs(number) < _MAX_FACTOR)


def _check_bindings(bindings: Mapping[str, int], sizes: InputSizes) -> None:
    for name, size in bindings.items():
        if name not in sizes.bindings:
            known = ", ".join(sorted({*sizes.symbols, *sizes.derived, *sizes.bindings})) or "none"
            raise OptionError(
                f"the model's inputs have no symbolic dimension {name!r}", found=f"symbols: {known}"
            )
        if size < 1:
            raise OptionError(f"the dimension {name!r} cannot be {size}", required="a size of at least 1")


def _input_types(
    inputs: Sequence[ir.Value], sizes: InputSizes, known: Mapping[str, int]
) -> dict[ir.Value, Kind]:
    types: dict[ir.Value, Kind] = {}
    for value in inputs:
        if value in sizes.names and value.dtype is not None and isinstance(value.type, ir.TensorType):
            dims = [dim if isinstance(dim, int) else known[dim] for dim in sizes.names[value]]
            types[value] = tensor_type(value.dtype, dims)
        elif (declared := declared_type(value, known)) is not None:
            types[value] = declared
    return types


def _invalid(misfit: Misfit) -> BadInputError:
    return InvalidModelError(
        f"the {misfit.node.op_type} node cannot run on its inputs",
        where=_place(misfit.node),
        found=str(misfit),
    )


def _unsupported(misfit: Misfit, symbols: Sequence[str]) -> UnfittingSizesError:
    names = ", ".join(symbols)
    return UnfittingSizesError(
        f"no tried size of the symbolic dimensions {names} fits the {misfit.node.op_type} node",
        where=_place(misfit.node),
        found=str(misfit),
        hint=f"give calibration data with sizes of {names} that the model runs on,"
        " or export the model with fixed input sizes",
    )


def _place(node: ir.Node) -> str:
    return f"{node.op_type} node {node.name!r}, output {node.outputs[0].name if node.outputs else ''!r}"
