"""Declares a newer operator set for a graph, where every operator in it means there what it means now.

Between two versions of an operator set most operators only take more types. That is read off their
definitions: the same inputs and outputs, whose types include those of before, and attributes that are new at
most. What definitions do not say stands in `REDEFINED`, for opset 21 to 25.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx import defs
from onnx.defs import OpSchema

__all__ = ["raise_opset", "why_not_raise"]

IR_VERSIONS = {21: 10, 25: 13}
"""Operator set -> the file format that came with it (onnx 1.16, 1.20)."""


def rounds_up(node: ir.Node) -> bool:
    return node.attributes.get_int("ceil_mode", 0) != 0


def makes_float8(node: ir.Node) -> bool:
    return "saturate" in node.attributes


# Operators of which a later version says something else, in some cases.
REDEFINED: dict[str, Callable[[ir.Node], bool]] = {
    "AveragePool": rounds_up,  # from 22 on, no window starts in the padding on the right
    "MaxPool": rounds_up,
    "Cast": makes_float8,  # what becomes of infinity
    "CastLike": makes_float8,
}


def why_not_raise(model: ir.Model, version: int) -> str | None:
    """The first operator that may mean something else in opset `version`, None if there is none."""
    now = model.graph.opset_imports.get("")
    if now is None or now > version or version not in IR_VERSIONS:
        return f"opset {now} is not one that can become opset {version}"
    if model.functions:
        return "the model has local functions"
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx") and not means_the_same(node, now, version):
            return f"{node.op_type} of opset {version} may be another one than that of opset {now}"
    return None


def raise_opset(model: ir.Model, version: int) -> None:
    """Declares opset `version`, for a model of which `why_not_raise` has nothing to say."""
    model.graph.opset_imports[""] = version
    model.ir_version = max(model.ir_version, IR_VERSIONS[version])


def means_the_same(node: ir.Node, now: int, version: int) -> bool:
    if not (defs.has(node.op_type, now, "") and defs.has(node.op_type, version, "")):
        return False
    old, new = (defs.get_schema(node.op_type, opset, "") for opset in (now, version))
    if old.since_version == new.since_version:
        return True
    redefined = REDEFINED.get(node.op_type)
    return not new.deprecated and includes(new, old) and not (redefined and redefined(node))


def includes(new: OpSchema, old: OpSchema) -> bool:
    """Whether a definition takes all that another one takes."""
    pairs = [*zip(old.inputs, new.inputs, strict=False), *zip(old.outputs, new.outputs, strict=False)]
    return (
        (len(old.inputs), len(old.outputs)) == (len(new.inputs), len(new.outputs))
        and all(a.name == b.name and a.option == b.option and a.types <= b.types for a, b in pairs)
        and all(same_attribute(new, old, name) for name in old.attributes)
        and not any(new.attributes[name].required for name in new.attributes.keys() - old.attributes.keys())
    )


def same_attribute(new: OpSchema, old: OpSchema, name: str) -> bool:
    a, b = old.attributes[name], new.attributes.get(name)
    return b is not None and (a.type, a.required, a.default_value) == (b.type, b.required, b.default_value)
