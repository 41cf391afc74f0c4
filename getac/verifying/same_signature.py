"""Two models that are to be compared have the same inputs and outputs."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from getac.data.calibration import InputSpec
from getac.errors import BadInputError
from getac.onnx_graph.interface import described, dims, same_sizes
from getac.onnx_graph.model_file import ModelFile

__all__ = ["common_signature"]


def common_signature(a: ModelFile, b: ModelFile) -> tuple[InputSpec, ...]:
    """The inputs that both models take: a size that one of them fixes is fixed.

    Raises:
        BadInputError: Other names, types or sizes, of inputs or of outputs.
    """
    with a.named():
        expected = {spec.name: spec for spec in a.signature()}
    with b.named():
        found = {spec.name: spec for spec in b.signature()}
    check_names("input", a, b, list(expected), list(found))
    for name, spec in expected.items():
        other = found[name]
        if spec.dtype != other.dtype or not same_sizes(spec.shape, other.shape):
            raise differ("input", a, b, str(spec), str(other))
    check_outputs(a, b)
    return tuple(narrowed(spec, found[name]) for name, spec in expected.items())


def check_outputs(a: ModelFile, b: ModelFile) -> None:
    theirs = {value.name: value for value in b.model.graph.outputs}
    check_names("output", a, b, [str(v.name) for v in a.model.graph.outputs], [str(name) for name in theirs])
    for value in a.model.graph.outputs:
        other = theirs[value.name]
        if not same_kind(value.dtype, other.dtype) or not same_sizes(dims(value), dims(other)):
            raise differ("output", a, b, described(value), described(other))


def check_names(kind: str, a: ModelFile, b: ModelFile, expected: list[str], found: list[str]) -> None:
    if set(expected) != set(found):
        raise differ(kind, a, b, ", ".join(expected) or "none", ", ".join(found) or "none")


def differ(kind: str, a: ModelFile, b: ModelFile, expected: str, found: str) -> BadInputError:
    return BadInputError(
        f"the models have different {kind}s",
        where=f"{a.name} and {b.name}",
        required=f"{expected}, as in the first",
        found=f"{found} in the second",
    )


def same_kind(one: ir.DataType | None, other: ir.DataType | None) -> bool:
    """Whether two types are the same, or floats of any precision."""
    if one is None or other is None or one == other:
        return True
    return one.is_floating_point() and other.is_floating_point()


def narrowed(spec: InputSpec, other: InputSpec) -> InputSpec:
    pairs = zip(spec.shape, other.shape, strict=True)
    return replace(spec, shape=tuple(b if isinstance(b, int) else a for a, b in pairs))
