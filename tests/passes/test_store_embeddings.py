"""store-embeddings: integers are looked up, and only those rows become floats."""

from __future__ import annotations

import numpy as np
import pytest

from getac.executed import executed_kernels
from getac.passes import QuantizeEmbeddings, RemoveDead, StoreEmbeddings
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer
from getac.runtime import open_session, run

F32 = np.float32
LOOKUP = "(int64[N,T] i) => (float[N,T,64] y) { y = Gather(w, i) }"
TABLE = np.random.default_rng(0).normal(size=(300, 64)).astype(F32)
ROWS = np.array([[0, 299, 7], [-1, 7, 8]])

RECORDS = {
    "rows": Quantizer(np.linspace(0.01, 0.05, 300, dtype=F32), -127, 127, axis=0),
    "rows from -3 to 252": Quantizer(np.linspace(0.01, 0.05, 300, dtype=F32), -3, 252, axis=0),
    "columns": Quantizer(np.linspace(0.01, 0.05, 64, dtype=F32), -127, 127, axis=1),
    "columns from -3 to 252": Quantizer(np.linspace(0.01, 0.05, 64, dtype=F32), -3, 252, axis=1),
    "whole": Quantizer(np.asarray(0.03, F32), -7, 7),
    "16 bits": Quantizer(np.asarray(1e-4, F32), -(2**15), 2**15 - 1),
}


def stored(model, record):
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    if record is not None:
        state.quantizers[model.graph.initializers["w"]] = record
    Pipeline([QuantizeEmbeddings(), StoreEmbeddings(), RemoveDead()]).run(state)
    return state


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_rows_are_exactly_the_rounded_ones(build, record, optimize):
    model = build(LOOKUP, w=TABLE)
    stored(model, record)
    found = run(open_session(model, optimize=optimize), {"i": ROWS})["y"]
    np.testing.assert_array_equal(found, record.quantize(TABLE)[ROWS])
    assert "w" not in model.graph.initializers
    sizes = {value.const_value.nbytes for value in model.graph.initializers.values()}
    assert max(sizes) == TABLE.size * (2 if record.bits > 8 else 1)


def test_a_table_without_a_quantizer_gets_one(build):
    model = build(LOOKUP, w=TABLE)
    stored(model, None)
    assert sorted(node.op_type for node in model.graph) == ["Cast", "Gather", "Gather", "Mul"]
    found = run(open_session(model), {"i": ROWS})["y"]
    assert np.abs(found - TABLE[ROWS]).max() <= np.abs(TABLE).max() / 254 * 1.001


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_the_table_itself_never_becomes_floats(build, record):
    """Not when the model is loaded, nor when it runs."""
    model = build(LOOKUP, w=TABLE)
    stored(model, record)
    readers = [node.op_type for node in executed_kernels(model) if "w.int" in node.inputs]
    assert readers == ["Gather"]


def test_two_that_look_up_in_one_table_share_it(build):
    text = (
        "(int64[N] i, int64[N] j) => (float[N,64] a, float[N,64] b) { a = Gather(w, i) \n b = Gather(w, j) }"
    )
    model = build(text, w=TABLE)
    stored(model, RECORDS["rows"])
    assert sorted(model.graph.initializers) == ["w.int", "w.scale"]


def test_the_output_keeps_its_record(build):
    model = build(LOOKUP, w=TABLE)
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    state.quantizers[model.graph.outputs[0]] = RECORDS["whole"]
    Pipeline([QuantizeEmbeddings(), StoreEmbeddings()]).run(state)
    assert state.quantizers[model.graph.outputs[0]] == RECORDS["whole"]


def test_a_second_run_changes_nothing(build):
    state = stored(build(LOOKUP, w=TABLE), None)
    state.facts.add(Fact.QUANTIZERS_FOLDED)
    Pipeline([QuantizeEmbeddings(), StoreEmbeddings()]).run(state)
    assert not any(record.changed for record in state.records[-2:])
