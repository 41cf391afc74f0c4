"""Operators that compute nothing, held to it: every entry of their results is one of their first input's."""

from __future__ import annotations

import numpy as np
import pytest

from getac.onnx_graph.rearranging import REARRANGING, rearranges
from getac.onnx_graph.signs import is_non_negative
from getac.runtime import open_session, run

F32 = np.float32
CALLS = {
    "Reshape": "Reshape(x, shape)",
    "Flatten": "Flatten(x)",
    "Squeeze": "Squeeze(x, first)",
    "Unsqueeze": "Unsqueeze(x, first)",
    "Transpose": "Transpose<perm=[1,3,2,0]>(x)",
    "DepthToSpace": "DepthToSpace<blocksize=2>(x)",
    "SpaceToDepth": "SpaceToDepth<blocksize=2>(x)",
    "Slice": "Slice(x, first, second, second)",
    "Split": "Split<axis=1, num_outputs=1>(x)",
    "Gather": "Gather<axis=3>(x, order)",
    "GatherElements": "GatherElements<axis=3>(x, entries)",
    "Expand": "Expand(x, wide)",
    "Tile": "Tile(x, repeats)",
    "Resize": 'Resize<mode="nearest">(x, , factors)',
}
NUMBERS = {
    "shape": np.array([4, -1]),
    "first": np.array([0]),
    "second": np.array([2]),
    "order": np.array([3, 0, 0, 1]),
    "entries": np.array([1, 0, 3]).reshape(1, 1, 1, 3),
    "wide": np.array([3, 1, 1, 1]),
    "repeats": np.array([1, 2, 1, 3]),
    "factors": np.array([1, 1, 2, 3], F32),
}


def operator(build, call):
    return build(f"(float[1,4,4,4] x) => (float y) {{ y = {call} }}", **NUMBERS)


def test_every_operator_has_a_case():
    assert CALLS.keys() == REARRANGING


@pytest.mark.parametrize("name", CALLS)
def test_results_are_entries_of_the_first_input(build, name):
    model = operator(build, CALLS[name])
    x = np.random.default_rng(0).permutation(64).reshape(1, 4, 4, 4).astype(F32)
    assert rearranges(model.graph[0])
    found = run(open_session(model), {"x": x})["y"]
    assert found.size and np.isin(found, x).all()


@pytest.mark.parametrize(
    "call",
    [
        'Resize<mode="linear">(x, , factors)',
        'Resize<mode="cubic">(x, , factors)',
        'Resize<mode="nearest", coordinate_transformation_mode="tf_crop_and_resize">(x, box, factors)',
        "Pad(x, repeats)",
        "Identity(x)",  # a quantizer may stand on one side alone
        "AveragePool<kernel_shape=[2,2]>(x)",
        "com.microsoft.Transpose(x)",
    ],
)
def test_what_computes_does_not_rearrange(build, call):
    assert not rearranges(operator(build, call).graph[0])


@pytest.mark.parametrize("name", CALLS)
def test_what_is_never_negative_stays_so(build, name):
    text = f"(float[1,4,4,4] z) => (float y) {{ x = Relu(z) \n y = {CALLS[name]} }}"
    model = build(text, **NUMBERS)
    assert is_non_negative(model.graph.outputs[0], {})
    assert not is_non_negative(build(text.replace("Relu", "Tanh"), **NUMBERS).graph.outputs[0], {})
