"""name-squeezed, and why it must be: a class of two units that loses one keeps its dimension."""

from __future__ import annotations

import numpy as np

from getac.passes import InferShapes, NameSqueezed, Pipeline, RemoveDead, SliceUnits, State, analysis_passes
from getac.runtime import open_session, run
from getac.units.choice import Choice
from getac.units.masking import masked_copy

NET = """(float[N,3,4,4] x) => (float[N,5] y) {
    h = Conv(x, w)  p = GlobalAveragePool(h)  s = Squeeze(p)  y = MatMul(s, v)
}"""


def net(build):
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(2, 3, 1, 1)), "v": rng.normal(size=(2, 5))}
    return build(NET, **{name: array.astype(np.float32) for name, array in weights.items()})


def test_names_the_dimensions_of_size_one(build) -> None:
    state = State(net(build))
    Pipeline([InferShapes(), NameSqueezed()]).run(state)
    squeeze = next(node for node in state.model.graph if node.op_type == "Squeeze")
    assert squeeze.inputs[1].const_value.numpy().tolist() == [2, 3]
    Pipeline([NameSqueezed()]).run(state)
    assert not state.records[-1].changed


def test_leaves_a_squeeze_of_unknown_shape(build) -> None:
    model = build("(float[N,4] x) => (float[M] y) { i = NonZero(x)  f = Cast<to=1>(i)  y = Squeeze(f) }")
    state = State(model)
    Pipeline([InferShapes(), NameSqueezed()]).run(state)
    assert len(next(node for node in model.graph if node.op_type == "Squeeze").inputs) == 1


def test_a_class_can_lose_all_units_but_one(build) -> None:
    state = State(net(build))
    Pipeline(analysis_passes()).run(state)
    (one,) = state.analysis.classes
    assert one.size == 2
    state.choice = Choice({one.atom: np.array([True, False])}, (), units=2, removed=1, exact=False)
    masked = masked_copy(state.model, state.analysis, state.choice)
    state.facts.update(SliceUnits.needs)
    Pipeline([SliceUnits(), RemoveDead()]).run(state)
    x = {"x": np.random.default_rng(1).normal(size=(3, 3, 4, 4)).astype(np.float32)}
    expected, found = (run(open_session(model), x)["y"] for model in (masked, state.model))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
