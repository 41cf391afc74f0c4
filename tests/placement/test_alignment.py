"""Which multiples the numbers of kept units must be, by what the units own."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from getac.axes.axis import atom, product, total
from getac.kernel_costs import Kind, Strategy, default_table
from getac.kernel_costs.table import Steps
from getac.passes import FoldBatchNorm, FoldQuantizers, InferAxes, InferShapes, RemoveDead
from getac.pipeline import Pipeline, State
from getac.placement.alignment import allowed_counts, convolution_multiple, unit_multiple, unit_multiples
from getac.rules.contraction import Convolution
from tools.zoo.registry import ZOO


def analysis_of(model):
    passes = [FoldQuantizers(), FoldBatchNorm(), RemoveDead(), InferShapes(), InferAxes()]
    return Pipeline(passes).run(State(model)).analysis


def multiples_of(net, align, integer):
    """The set of (units, multiple) over the classes of a net of the zoo."""
    analysis = analysis_of(ir.serde.deserialize_model(ZOO[net]()))
    multiples = unit_multiples(analysis, align, integer)
    assert multiples.keys() == {one.atom for one in analysis.classes}
    return {(one.size, multiples[one.atom]) for one in analysis.classes}


@pytest.mark.parametrize(
    ("rule", "channels", "integer", "multiple"),
    [
        (Convolution(), 64, True, 4),
        (Convolution(), 64, False, 16),
        (Convolution(groups=64), 64, True, 16),
        (Convolution(groups=64), 64, False, 16),
        (Convolution(groups=4), 64, True, 4),
        (Convolution(transposed=True), 64, True, 16),
    ],
)
def test_what_kernels_like(rule, channels, integer, multiple):
    assert convolution_multiple(rule, channels, integer, default_table()) == multiple


def test_multiples_of_units_that_own_one_channel_each():
    channels = atom(64)
    assert [unit_multiple(channels, channels, m) for m in (1, 4, 16)] == [1, 4, 16]


def test_units_that_own_several_channels():
    heads, width = atom(6), atom(8)
    axis = product(heads, width)
    assert unit_multiple(axis, heads, 16) == 2  # 8 channels each
    assert unit_multiple(axis, width, 16) == 8  # 6 channels each: 8 x 6 = 3 x 16
    assert unit_multiple(axis, heads, 4) == 1


def test_units_that_occur_in_several_parts():
    part, other = atom(10), atom(7)
    axis = total(part, other, part)
    assert unit_multiple(axis, part, 4) == 2
    assert unit_multiple(axis, other, 4) == 4


@pytest.mark.parametrize(
    ("size", "multiple", "counts"),
    [
        (10, 4, [4, 8, 10]),
        (8, 4, [4, 8]),
        (3, 4, [3]),
        (4, 4, [4]),
        (5, 1, [1, 2, 3, 4, 5]),
        (1, 1, [1]),
    ],
)
def test_allowed_counts(size, multiple, counts):
    assert allowed_counts(SimpleNamespace(size=size), multiple) == counts


def test_convolutions_by_their_kernel():
    assert {multiple for _, multiple in multiples_of("resnet", None, True)} == {4}
    assert {multiple for _, multiple in multiples_of("resnet", None, False)} == {16}
    assert {multiple for _, multiple in multiples_of("mobilenet_v2", None, True)} == {4, 16}


def test_linear_layers_take_any_width():
    for net in ("mlp_gemm", "mlp_matmul", "mlp_gemm_transposed"):
        assert multiples_of(net, None, True) == {(48, 1), (32, 1)}


@pytest.mark.parametrize("net", ["resnet", "vgg", "unet"])
def test_one_multiple_for_every_convolution(net):
    assert {multiple for _, multiple in multiples_of(net, 8, True)} <= {1, 8}
    assert {multiple for _, multiple in multiples_of(net, 1, True)} == {1}


def test_a_convolution_behind_a_value_of_unknown_shape(build):
    """It says nothing about its input; the class before it keeps any number."""
    model = build(
        "(float[N,3,8,8] x, int64[4] s) => (float[A,B,C,D] y)"
        " { c = Conv(x, v) \n d = Reshape(c, s) \n y = Conv(d, w) }",
        v=np.ones((8, 3, 1, 1), np.float32),
        w=np.ones((4, 8, 1, 1), np.float32),
    )
    analysis = analysis_of(model)
    assert unit_multiples(analysis, None, True).keys() == {one.atom for one in analysis.classes}


def test_another_table_likes_other_multiples():
    """A machine whose integer convolutions take any number of channels."""
    key = (Kind.CONVOLUTION, Strategy.INTEGER)
    smooth = Steps(Kind.CONVOLUTION, (48, 49, 50, 52, 56, 64), (48, 49, 50, 52, 56, 64))
    costs = replace(default_table(), steps={**default_table().steps, key: smooth})
    analysis = analysis_of(ir.serde.deserialize_model(ZOO["resnet"]()))
    assert set(unit_multiples(analysis, None, True, costs).values()) == {1}
    assert set(unit_multiples(analysis, None, False, costs).values()) == {16}
    assert set(unit_multiples(analysis, 8, True, costs).values()) == {8}
