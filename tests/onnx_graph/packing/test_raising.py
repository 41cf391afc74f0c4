"""A newer operator set is declared only where it says the same."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnx import defs

from getac.onnx_graph.packing.raising import includes, raise_opset, why_not_raise

POOL = "(float[1,1,5,5] x) => (float[N,C,H,W] y) {{ y = {}<kernel_shape=[2,2], strides=[2,2]{}>(x) }}"


def test_every_operator_of_21_is_one_of_25_by_its_definition():
    """What changed behind a definition is the table's business; a definition that changes shows here."""
    names = {schema.name for schema in defs.get_all_schemas_with_history() if schema.domain == ""}
    both = [name for name in names if defs.has(name, 21, "") and defs.has(name, 25, "")]
    assert len(both) > 150
    for name in both:
        old, new = (defs.get_schema(name, version, "") for version in (21, 25))
        assert old.since_version == new.since_version or includes(new, old), name


def test_texts_changed_only_where_the_table_or_the_types_say_so():
    changed = set()
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "" and defs.has(schema.name, 21, "") and defs.has(schema.name, 25, ""):
            old, new = (defs.get_schema(schema.name, version, "") for version in (21, 25))
            changed |= {schema.name} if old.doc != new.doc else set()
    # Of the quantizers: the types of 2 bits, and attributes whose default is what was before.
    assert changed == {"AveragePool", "MaxPool", "Cast", "DequantizeLinear", "QuantizeLinear"}


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_pools_that_round_up_stay(build, operator):
    assert why_not_raise(build(POOL.format(operator, "")), 25) is None
    assert why_not_raise(build(POOL.format(operator, ", ceil_mode=0")), 25) is None
    reason = why_not_raise(build(POOL.format(operator, ", ceil_mode=1")), 25)
    assert reason == f"{operator} of opset 25 may be another one than that of opset 21"


def test_operators_in_subgraphs_count(build):
    text = """(bool c, float[1,1,5,5] x) => (float[N,C,H,W] y) {
        y = If(c) <
            then_branch = one () => (float[N,C,H,W] a) {
                a = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)
            },
            else_branch = other () => (float[N,C,H,W] b) { b = Identity(x) }
        >
    }"""
    assert "MaxPool" in (why_not_raise(build(text), 25) or "")


def test_unknown_operators_and_versions(build):
    model = build("(float[N] x) => (float[N] y) { y = Unheard(x) }")
    assert "Unheard" in (why_not_raise(model, 25) or "")
    model = build("(float[N] x) => (float[N] y) { y = Relu(x) }")
    assert why_not_raise(model, 24) is not None  # the file format of that version is not in the table
    model.graph.opset_imports[""] = 26
    assert why_not_raise(model, 25) == "opset 26 is not one that can become opset 25"


def test_operators_of_other_domains_stay_what_they_are(build):
    model = build("(float[N] x) => (float[N] y) { y = com.microsoft.Gelu(x) }")
    assert why_not_raise(model, 25) is None
    raise_opset(model, 25)
    assert model.graph.opset_imports == {"": 25, "com.microsoft": 1} and model.ir_version == 13
    onnx.checker.check_model(ir.to_proto(model))
