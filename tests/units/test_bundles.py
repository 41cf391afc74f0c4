"""Units that share blocks of steps go together."""

from __future__ import annotations

import numpy as np
import pytest

from getac.onnx_graph.edit import replace_tensor
from getac.passes import ChooseUnits, FoldQuantizers, InferAxes, InferShapes, SliceUnits
from getac.pipeline import Pipeline, State
from getac.units.bundles import STAYS, bundles_of
from getac.units.unit_blocks import Blocks, pick, whole_bundles

F32 = np.float32
RNG = np.random.default_rng(4)


def blocked(name, shape, block, axis=0):
    """A stored matrix in blocks, as tensors and as text."""
    steps = [-(-n // block) if i == axis else n for i, n in enumerate(shape)]
    integers, scales = RNG.integers(-7, 8, shape), RNG.uniform(0.01, 0.02, steps)
    tensors = {f"{name}_q": integers.astype(np.int8), f"{name}_s": scales.astype(F32)}
    text = f"{name} = DequantizeLinear<axis={axis}, block_size={block}>({name}_q, {name}_s)"
    return text, tensors


def analysed(model):
    return Pipeline([FoldQuantizers(), InferShapes(), InferAxes()]).run(State(model))


def network(build, size, block, *, body="y = MatMul(h, w)", **more):
    """x -> MatMul -> Relu -> h, of `size` units, in front of a matrix w in blocks."""
    text, tensors = blocked("w", (size, 4), block)
    first = RNG.normal(size=(8, size)).astype(F32)
    return build(
        f"(float[N,8] x) => (float[N,4] y) {{ g = MatMul(x, v) h = Relu(g) {text} {body} }}",
        v=first,
        **tensors,
        **more,
    )


def only(state):
    (bundling,) = bundles_of(state.analysis).values()
    return bundling


@pytest.mark.parametrize(("size", "block"), [(64, 16), (70, 16), (12, 5)])
def test_units_of_a_block_are_a_bundle(build, size, block):
    bundling = only(analysed(network(build, size, block)))
    assert bundling.of.tolist() == [unit // block * block for unit in range(size)]
    assert list(bundling.blocks.values()) == [block]


@pytest.mark.parametrize(("size", "block"), [(32, 32), (20, 32), (64, 1)])
def test_one_block_and_blocks_of_one_tie_nothing(build, size, block):
    assert bundles_of(analysed(network(build, size, block)).analysis) == {}


def test_blocks_of_two_readers_are_tied_in_chains(build):
    text, tensors = blocked("u", (60, 4), 6)
    state = analysed(
        network(build, 60, 4, body=f"{text} a = MatMul(h, w) b = MatMul(h, u) y = Add(a, b)", **tensors)
    )
    assert only(state).of.tolist() == [unit // 12 * 12 for unit in range(60)]


def test_blocks_that_hold_others_keep_their_units(build):
    """h and x are concatenated: the block in the middle holds units of h and features of the input."""
    text, tensors = blocked("w", (32, 4), 8)
    body = f"g = MatMul(x, v) h = Relu(g) c = Concat<axis=1>(h, x) {text} y = MatMul(c, w)"
    model = build(
        f"(float[N,12] x) => (float[N,4] y) {{ {body} }}", v=RNG.normal(size=(12, 20)).astype(F32), **tensors
    )
    bundling = only(analysed(model))
    assert bundling.of.tolist() == [*[0] * 8, *[8] * 8, *[STAYS] * 4]
    assert bundling.held(np.ones(20, bool)) == 4
    some = np.arange(20) < 8
    assert bundling.among(some).tolist() == [*[0] * 8, *[STAYS] * 12] and bundling.held(some) == 0


def test_heads_and_the_units_in_them(build):
    """32 columns are 4 heads of 8: blocks of 16 tie heads in pairs, and all that is in a head."""
    text, tensors = blocked("w", (32, 4), 16)
    body = f"""g = MatMul(x, v) r = Reshape(g, split) a = Transpose<perm=[0, 2, 1, 3]>(r)
        t = Transpose<perm=[0, 2, 1, 3]>(a) h = Reshape(t, join) {text} y = MatMul(h, w)"""
    model = build(
        f"(float[2,3,8] x) => (float[2,3,4] y) {{ {body} }}",
        v=RNG.normal(size=(8, 32)).astype(F32),
        split=np.array([2, 3, 4, 8]),
        join=np.array([2, 3, 32]),
        **tensors,
    )
    state = analysed(model)
    found = {atom.size: one.of.tolist() for atom, one in bundles_of(state.analysis).items()}
    assert found == {4: [0, 0, 2, 2], 8: [0] * 8}


def test_whole_bundles_by_their_mean():
    bundles = np.array([0, 0, 2, 2, 2, STAYS, 6])
    scores = np.array([5, 5, 0, 1, 2, 0, 3.0])
    order, sizes = whole_bundles(bundles, scores, 1, 1)
    assert order.tolist() == [2, 3, 4, 6, 0, 1, 5] and sizes.tolist() == [3, 1, 2]
    assert whole_bundles(bundles, scores, 2, 1)[1].tolist() == [3]  # 4 are left; 3 would be odd, 1 too
    assert whole_bundles(bundles, scores, 1, 4)[1].tolist() == [3]
    assert whole_bundles(np.zeros(4, int), np.ones(4), 1, 1)[1].tolist() == []  # never all


def test_bundles_of_one_are_blocks_of_one():
    live, scores = [np.arange(6), np.arange(6, 15)], np.random.default_rng(1).random(15)
    plain = Blocks.of(live, scores, [2, 3], 1)
    alone = Blocks.of(live, scores, [2, 3], 1, [np.arange(6), np.arange(9)])
    assert alone.units[: plain.units.size].tolist() == plain.units.tolist()
    np.testing.assert_array_equal(plain.sizes, alone.sizes)
    np.testing.assert_allclose(plain.scores, alone.scores)
    assert pick(alone, 5, 5).tolist() == pick(plain, 5, 5).tolist()


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.9])
def test_what_is_sliced_keeps_its_blocks(build, evaluate, sparsity):
    model = network(build, 128, 16)
    state = analysed(model)
    Pipeline([ChooseUnits(sparsity, align=1)]).run(state)
    (mask,) = state.choice.masks.values()
    assert (mask.reshape(-1, 16).all(axis=1) == mask.reshape(-1, 16).any(axis=1)).all()
    assert abs((~mask).mean() - sparsity) <= 8 / 128
    Pipeline([SliceUnits()]).run(state)
    (record,) = state.quantizers.values()
    assert record.block == 16 and record.step.shape == (mask.sum() // 16, 4) and not state.refusals


def test_dead_units_go_by_whole_blocks(build, evaluate):
    """Of three dead blocks and a half, three go; the report says of the others why they stay."""
    model = network(build, 128, 16)
    first = model.graph.initializers["v"]
    array = np.array(first.const_value.numpy())
    array[:, 16:64] = array[:, 96:104] = 0
    replace_tensor(first, array)
    x = RNG.normal(size=(3, 8)).astype(F32)
    want = evaluate(model, x=x)
    state = analysed(model)
    Pipeline([ChooseUnits(None, align=1)]).run(state)
    (mask,) = state.choice.masks.values()
    assert np.flatnonzero(~mask).tolist() == list(range(16, 64))
    (told,) = state.refusals["choose-units"]
    assert told.reason.startswith("8 of its 128") and "blocks of 16" in told.reason
    Pipeline([SliceUnits()]).run(state)
    np.testing.assert_allclose(evaluate(state.model, x=x), want, rtol=1e-5, atol=1e-6)
