"""A model in memory is an input: nothing that getac does changes it."""

from __future__ import annotations

import numpy as np
import pytest

import getac
from getac.onnx_graph.read import load
from getac.passes import Pipeline, State, analysis_passes
from tools.onnx_text import model_of

F32 = np.float32

LAYER = "{a}d = Div({x}, d)  {a}c = Clip({a}d, lo, hi)  {a}r = Round({a}c)  {a}q = Mul({a}r, d)"
LAYER += "  {a}e = Div({w}, s)  {a}f = Round({a}e)  {a}v = Mul({a}f, s)  {y} = MatMul({a}q, {a}v)"


@pytest.fixture
def model():
    """Two layers whose quantizers are spelled in arithmetic on stored tensors."""
    body = (
        LAYER.format(a="a", x="x", w="w", y="h")
        + "  r = Relu(h)  "
        + LAYER.format(a="b", x="r", w="u", y="y")
    )
    rng = np.random.default_rng(0)
    tensors = {name: np.asarray(value, F32) for name, value in {"d": 0.1, "lo": -127, "hi": 127}.items()}
    tensors |= {"s": np.linspace(0.02, 0.03, 16, dtype=F32)}
    tensors |= {name: rng.normal(size=(16, 16)).astype(F32) for name in "wu"}
    return model_of(body, {"x": [4, 16]}, tensors)


USES = {
    "inspect": lambda model: getac.inspect(model),
    "analyze": lambda model: getac.analyze(model),
    "lower": lambda model: getac.lower(model, None, bench=False),
    "pruned": lambda model: getac.lower(model, None, sparsity=0.3, align=1, bench=False),
    "optimize": lambda model: getac.optimize(model, "recognize-quantizers,fold-quantizers", None),
    "pipeline": lambda model: Pipeline(analysis_passes()).run(State(load(model))),
}


@pytest.mark.parametrize("use", USES)
def test_a_model_stays_as_it_was_and_can_be_used_again(model, use):
    before = model.SerializeToString()
    for _ in range(2):
        USES[use](model)
        assert model.SerializeToString() == before


def test_one_use_after_the_other(model):
    before = model.SerializeToString()
    for use in USES.values():
        use(model)
    assert model.SerializeToString() == before
