"""Declares the shapes of outputs: the ONNX format asks for them, and some exporters leave them out."""

from __future__ import annotations

import onnx_ir as ir

from getac.onnx_graph.shapes import Dim, infer_shapes
from getac.runtime import open_session

__all__ = ["declare_outputs"]


def declare_outputs(model: ir.Model) -> None:
    """Gives outputs without a shape the one that their nodes give them; sizes by data stay open."""
    bare = [value for value in model.graph.outputs if value.shape is None]
    shapes = infer_shapes(model) if bare else None
    for value in bare:
        assert shapes is not None
        if value in shapes.dims:
            value.shape = ir.Shape([declared(dim) for dim in shapes.dims[value]])
        if value in shapes.dtypes:
            value.type = ir.TensorType(shapes.dtypes[value])
    if any(value.shape is None for value in bare):
        declare_ranks(model)


def declared(dim: Dim) -> int | str | None:
    if dim.is_static:
        return dim.constant
    return dim.symbols[0] if dim.constant == 1 and len(dim.symbols) == 1 else None


def declare_ranks(model: ir.Model) -> None:
    """What onnxruntime infers where a size depends on data: the rank is known, at least."""
    known = {output.name: output.shape for output in open_session(model, optimize=False).get_outputs()}
    for value in model.graph.outputs:
        if value.shape is None and known.get(value.name) is not None:
            value.shape = ir.Shape([size if isinstance(size, int) else None for size in known[value.name]])
