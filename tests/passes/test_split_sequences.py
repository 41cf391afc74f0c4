"""split-sequences: the parts of a sequence that is only indexed are outputs of a Split."""

from __future__ import annotations

import numpy as np
import pytest

from getac.passes import InferShapes, SplitSequences
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer

F32, I64 = np.float32, np.int64


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def rewritten(model, **more):
    state = State(model, **more)
    Pipeline([InferShapes(), SplitSequences()]).run(state)
    return state


def reading(split, part):
    nodes = ["a = SequenceAt(s, zero)", "b = SequenceAt(s, last)", "y = Relu(a)", "z = Neg(b)"]
    return f"(float[N,7] x) => ({part} y, {part} z) {{ s = {split} \n " + " \n ".join(nodes) + " }"


@pytest.mark.parametrize(
    "split, given, operators",
    [
        ("SplitToSequence<axis=1>(x, k)", np.array([3, 4], I64), {"Split"}),
        ("SplitToSequence<axis=-1>(x, k)", np.array(4, I64), {"Split"}),  # the last part is smaller
        ("SplitToSequence<axis=1>(x)", None, {"Split"}),
        ("SplitToSequence<axis=1,keepdims=0>(x)", None, {"Gather"}),
    ],
)
def test_parts_of_fixed_size(build, evaluate, split, given, operators):
    stored = {"zero": np.array(0, I64), "last": np.array(-1, I64)} | ({} if given is None else {"k": given})
    part = "float[N]" if "Gather" in operators else "float[N,M]"
    model = build(reading(split, part), **stored)
    x = normal(2, 7)
    before = evaluate(model, x=x)
    state = rewritten(model)
    assert {node.op_type for node in model.graph} == operators | {"Relu", "Neg"}
    assert Fact.SHAPES in state.facts and not state.refusals
    for old, new in zip(before, evaluate(model, x=x), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_part_may_be_an_output_and_have_a_quantizer(build, evaluate):
    model = build(
        "(float[N,4] x) => (float[B,M] a) { s = SplitToSequence<axis=1>(x, k) \n a = SequenceAt(s, one) }",
        k=np.array(2, I64),
        one=np.array(1, I64),
    )
    record = Quantizer(np.asarray(1, F32), 0, 255)
    state = rewritten(model, quantizers={model.graph.outputs[0]: record})
    assert [value.name for value in model.graph.outputs] == ["a"]
    assert state.quantizers == {model.graph.outputs[0]: record}
    np.testing.assert_array_equal(evaluate(model, x=normal(2, 4))[0], normal(2, 4)[:, 2:])


OTHER_READER = "its sequence is read in another way than at a fixed position"


@pytest.mark.parametrize(
    "nodes, reason",
    [
        ("s = SplitToSequence<axis=0>(x, k) \n a = SequenceAt(s, i)", "the size that it splits is not fixed"),
        ("s = SplitToSequence<axis=1>(x, j) \n a = SequenceAt(s, i)", "the sizes of its parts are computed"),
        ("s = SplitToSequence<axis=1>(x, k) \n a = SequenceAt(s, j)", OTHER_READER),
        ("s = SplitToSequence<axis=1>(x, k) \n a = ConcatFromSequence<axis=1>(s)", OTHER_READER),
    ],
)
def test_refuses(build, nodes, reason):
    text = f"(float[N,4] x, int64 j) => (float[B,M] a) {{ {nodes} }}"
    model = build(text, k=np.array(2, I64), i=np.array(1, I64))
    state = rewritten(model)
    assert [(r.where, r.reason) for r in state.refusals["split-sequences"]] == [("splittosequence_0", reason)]
    assert model.graph[0].op_type == "SplitToSequence"
