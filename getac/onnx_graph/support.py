"""What can be read but not lowered, refused before any work is done."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from getac.errors import InvalidModelError, UnsupportedModelError
from getac.onnx_graph.shapes import Dim, Shapes

__all__ = ["check_declared_outputs", "check_supported"]

_NUMERIC = frozenset(
    ir.DataType[name]
    for name in (
        *("FLOAT", "FLOAT16", "DOUBLE", "BOOL"),
        *("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    )
)
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def check_supported(model: ir.Model, compared: bool = True) -> None:
    """Refuses what cannot be fed, compared or multiplied.

    Args:
        compared: Whether the outputs will be; if not, they may be text.

    Raises:
        UnsupportedModelError: An input that holds no numbers or is empty, an output that is no tensor of
            numbers, an empty weight, or a Dropout in training mode.
    """
    for value in model.graph.inputs:
        _check_input(value)
    for value in model.graph.outputs if compared else ():
        _check_output(value)
    for graph in model.graphs():
        for node in graph:
            if node.domain == "":
                _check_node(node)


def check_declared_outputs(graph: ir.Graph, shapes: Shapes) -> None:
    """Refuses an output whose declared sizes are not those that the nodes give it.

    Raises:
        InvalidModelError: A size that is the same for all inputs is another than the file states.
    """
    for value in graph.outputs:
        dims = shapes.dims.get(value)
        if value.shape is not None and dims is not None and not _agree(list(value.shape), dims):
            raise InvalidModelError(
                "the model declares an output with another shape than it computes",
                where=f"output {value.name}",
                required=f"[{', '.join(map(str, dims))}], as its nodes give it",
                found=f"[{', '.join(map(str, value.shape))}]",
                hint="export the model again; or clear the output's shape, which is optional",
            )


def _agree(declared: Sequence[int | ir.SymbolicDim], dims: Sequence[Dim]) -> bool:
    if len(declared) != len(dims):
        return False
    pairs = zip(declared, dims, strict=True)
    return all(one == dim.size for one, dim in pairs if isinstance(one, int) and dim.is_static)


def _check_input(value: ir.Value) -> None:
    if not _is_numeric(value):
        raise UnsupportedModelError(
            "an input of the model does not hold numbers that data can be given for",
            where=f"input {value.name}",
            required="a tensor of float16, float32, float64, integers or booleans",
            found=str(value.type),
            hint="export the model with float32 inputs, one tensor each; a Cast behind one makes other types",
        )
    if value.shape is not None and 0 in value.shape:
        raise UnsupportedModelError(
            "an input of the model is empty",
            where=f"input {value.name}",
            required="sizes of at least 1",
            found=str(value.shape),
        )


def _check_output(value: ir.Value) -> None:
    if not _is_numeric(value):
        raise UnsupportedModelError(
            "an output of the model cannot be compared with what it should be",
            where=f"output {value.name}",
            required="a tensor of numbers or booleans",
            found=str(value.type),
            hint="return the tensors themselves, one output each",
        )


def _is_numeric(value: ir.Value) -> bool:
    """Whether a value is a tensor of a type that NumPy has; also where the file states no type."""
    return value.type is None or (isinstance(value.type, ir.TensorType) and value.dtype in _NUMERIC)


def _check_node(node: ir.Node) -> None:
    if node.op_type in _LAYERS:
        for value in node.inputs:
            if value is not None and value.const_value is not None and value.const_value.size == 0:
                raise UnsupportedModelError(
                    "a layer has an empty weight",
                    where=f"{node.op_type} node {node.name!r}, weight {value.name}",
                    required="sizes of at least 1",
                    found=str(value.const_value.shape),
                    hint="take the layer out: it adds nothing",
                )
    if node.op_type == "Dropout" and len(node.inputs) > 2 and _is_true(node.inputs[2]):
        raise UnsupportedModelError(
            "a Dropout is in training mode: what the model computes is random, and cannot be verified",
            where=f"Dropout node {node.name!r}",
            required="training_mode = false",
            found="training_mode = true",
            hint="export the model in evaluation mode, such as model.eval() in PyTorch",
        )


def _is_true(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and bool(value.const_value.numpy().any())
