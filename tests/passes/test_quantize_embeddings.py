"""quantize-embeddings: one step per row of a table; a tied head takes the table's steps."""

from __future__ import annotations

import numpy as np
import pytest

from getac.errors import OptionError
from getac.passes import QuantizeEmbeddings, QuantizeWeights
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer

F32 = np.float32
LOOKUP = "(int64[N,T] i) => (float[N,T,64] y) { y = Gather(w, i) }"


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(F32)


def quantized(model, bits=8, records=None):
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    for name, record in (records or {}).items():
        state.quantizers[model.graph.initializers[name]] = record
    Pipeline([QuantizeEmbeddings(bits)]).run(state)
    return {value.name: record for value, record in state.quantizers.items()}, state


@pytest.mark.parametrize("bits", [8, 4])
def test_each_row_has_a_step(build, bits):
    table = normal(300, 64) * np.linspace(0.01, 1, 300, dtype=F32)[:, None]
    records, _ = quantized(build(LOOKUP, w=table), bits)
    high = 2 ** (bits - 1) - 1
    assert (records["w"].low, records["w"].high, records["w"].axis) == (-high, high, 0)
    np.testing.assert_array_equal(records["w"].step, np.abs(table).max(axis=1) / F32(high))


def test_a_row_of_zeros_has_some_step(build):
    table = normal(300, 64)
    table[0] = 0
    assert quantized(build(LOOKUP, w=table))[0]["w"].step[0] == 1


def test_records_that_are_there_stay(build):
    mine = Quantizer(np.asarray(0.05, F32), -7, 7)
    assert quantized(build(LOOKUP, w=normal(300, 64)), records={"w": mine})[0] == {"w": mine}


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("(int64[N] i) => (float[N,64] y) { y = Gather(w, i) }", normal(200, 64)),  # too small
        ("(int64[N] i) => (float[300,N] y) { y = Gather<axis=1>(w, i) }", normal(300, 64)),
        ("(int64[N] i) => (float[N,64,8] y) { y = Gather(w, i) }", normal(300, 64, 8)),
        ("(int64[N] i) => (float16[N,64] y) { y = Gather(w, i) }", normal(300, 64).astype(np.float16)),
        ("(int64[N] i) => (float[2,64] y) { y = Gather(w, c) }", normal(300, 64)),  # always the same rows
    ],
)
def test_what_is_no_embedding_stays(build, text, table):
    tensors = {"w": table, **({"c": np.array([3, 4])} if "c)" in text else {})}
    assert quantized(build(text, **tensors))[0] == {}


def test_tables_stay_floats_if_asked_for(build):
    assert quantized(build(LOOKUP, w=normal(300, 64)), bits=None)[0] == {}


def test_a_head_that_reads_the_table_transposed_is_a_layer_with_its_steps(build):
    text = """(int64[N,T] i) => (float[N,T,300] y) {
        t = Transpose<perm=[1,0]>(w) \n h = Gather(w, i) \n y = MatMul(h, t) }"""
    table = normal(300, 64)
    records, state = quantized(build(text, w=table))
    assert records["w.transposed"] == records["w"].transposed()
    assert [node.op_type for node in state.model.graph] == ["Gather", "MatMul"]
    np.testing.assert_array_equal(state.model.graph[1].inputs[1].const_value.numpy(), table.T)


def test_a_head_that_is_stored_apart_has_the_same_steps(build):
    text = "(int64[N,T] i) => (float[N,T,300] y) { h = Gather(w, i) \n y = MatMul(h, v) }"
    table = normal(300, 64)
    records, state = quantized(build(text, w=table, v=table.T.copy()))
    assert records["v"] == records["w"].transposed()
    Pipeline([QuantizeWeights(4)]).run(state)
    assert len(state.quantizers) == 2  # they are there already
    records, _ = quantized(build(text, w=table, v=normal(64, 300)))
    assert list(records) == ["w"]


@pytest.mark.parametrize("bits", [1, 9, 0])
def test_other_bits_are_refused(bits):
    with pytest.raises(OptionError, match="stored embeddings have 2 to 8 bits"):
        QuantizeEmbeddings(bits)
