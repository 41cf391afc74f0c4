"""Where numbers come in the middle between two levels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from getac.onnx_graph.branches import Branches
from getac.onnx_graph.ties import has_ties, may_be_ties
from tools.onnx_text import model_of

F32 = np.float32
FLOATS = np.random.default_rng(0).normal(size=(16, 16)).astype(F32)
INTEGERS = np.random.default_rng(1).integers(-8, 8, (16, 16)).astype(F32)
PAIR = "q = QuantizeLinear(x, s, z)  p = DequantizeLinear(q, s, z)  "


def ties(body, step, s=0.25, unknown=False, **tensors):
    """Whether the model's last value may be a tie of a step."""
    given = {"s": np.asarray(s, F32), "z": np.asarray(0, np.int8), **tensors}
    model = ir.from_proto(model_of(body, {"x": [2, 16]}, given))
    return may_be_ties(Branches(model), model.graph.outputs[0], step, unknown)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (1, False),
        (0.5, True),
        (1.5, True),
        (3, False),
        (2, False),
        (1 / 3, False),
        (1 / 6, True),
        (5 / 12, True),
    ],
)
def test_what_fractions_of_a_step_have_ties(ratio, expected):
    """n a / b is an integer and a half for some n."""
    assert has_ties(ratio) == expected
    assert has_ties(float(F32(ratio) * F32(0.3)) / float(F32(0.3))) == expected
    counted = np.arange(1, 200) * ratio
    assert np.isclose(counted % 1, 0.5).any() == expected


@pytest.mark.parametrize("ratio", np.random.default_rng(0).uniform(0.01, 10, 20))
def test_others_have_none_but_by_chance(ratio):
    assert not has_ties(ratio)


@pytest.mark.parametrize(
    ("body", "step", "expected"),
    [
        ("y = Relu(p)", 0.5, True),
        ("y = Relu(p)", 0.25, False),
        ("y = Relu(p)", 0.3117, False),
        ("a = Add(p, p)  y = Transpose(a)", 0.5, True),
        ("y = ReduceMean<keepdims = 1>(p)", 0.25, True),  # a mean of sixteen
        ("y = ReduceMean<keepdims = 1>(p)", 0.3117, False),
        ("y = Tanh(p)", 0.5, False),
        ("y = MatMul(p, floats)", 0.5, False),
        ("y = MatMul(p, integers)", 0.5, True),  # products of powers of two
        ("y = MatMul(p, thirds)", 0.3117, False),
        ("y = MatMul(p, thirds)", 0.5 / 3, True),  # a step that is a multiple of that of the products
        ("a = MatMul(p, thirds)  y = MatMul(a, floats)", 0.5 / 3, False),
    ],
)
def test_behind_a_pair(body, step, expected):
    thirds = INTEGERS / F32(3)
    assert ties(PAIR + body, step, floats=FLOATS, integers=INTEGERS, thirds=thirds) == expected


@pytest.mark.parametrize(
    ("body", "unknown"),
    [
        ("y = Relu(x)", True),
        ("a = TopK(x, k)  y = Identity(a)", True),
        ("y = MatMul(x, floats)", False),
        ("a = Identity(x)  y = Softmax(a)", False),
    ],
)
def test_of_inputs_nothing_is_known(body, unknown):
    body = body.replace("a = TopK(x, k)", "a, i = TopK(x, k)")
    tensors = {"floats": FLOATS, "k": np.asarray([16])}
    assert not ties(body, 0.5, unknown=False, **tensors)
    assert ties(body, 0.5, unknown=True, **tensors) == unknown
