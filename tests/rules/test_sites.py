"""Sizes that are written in the graph: each is rewritten where its axis changed, and only there."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from getac.onnx_graph.edit import array_of
from getac.passes import SliceUnits
from getac.pipeline import Fact, State
from getac.units.choice import Choice
from tests.rules.cases import Case, image, ints, sequence
from tools.law import AS_WRITTEN, analyzed, check_law
from tools.onnx_text import Tensor


def sliced(case: Case, *keep: list[int]) -> State:
    """The case's graph after each class kept the listed units only."""
    state = analyzed(case.model(seed=0), AS_WRITTEN)
    assert state.analysis is not None
    classes = state.analysis.classes
    assert len(classes) == len(keep), classes
    masks = {one.atom: np.isin(np.arange(one.size), units) for one, units in zip(classes, keep, strict=True)}
    state.choice = Choice(masks, (), 0, 0, exact=False)
    state.facts.add(Fact.CHOSEN)
    SliceUnits().run(state)
    return state


def node_of(state: State, output: str) -> ir.Node:
    return next(node for node in state.model.graph if node.outputs[0].name == output)


def numbers(state: State, output: str, index: int) -> list[int]:
    return [int(number) for number in array_of(node_of(state, output).inputs[index])]


def law_holds(case: Case) -> bool:
    return all(check_law(case.model(seed), seed, passes=AS_WRITTEN).difference <= 1e-5 for seed in range(3))


HALVES = list(range(0, 8, 2))


@pytest.mark.parametrize(
    ("target", "after"),
    [
        ((-1, 32), (-1, 16)),
        ((0, 32), (0, 16)),
        ((0, -1), (0, -1)),
        ((0, 4, 8), (0, 4, 4)),
        ((0, 0, 8), (0, 0, 4)),
        ((-1, 4, 2, 4), (-1, 4, 2, 2)),
        ((0, 4, 8, 1), (0, 4, 4, 1)),
    ],
)
def test_reshape_targets(target: tuple[int, ...], after: tuple[int, ...]) -> None:
    case = sequence("t = Reshape(h, s)  r = Reshape(t, v)", s=ints(*target), v=ints(-1, 4, 8))
    keep = [[0, 1], [0, 2]] if target[-2:] == (2, 4) else [HALVES]
    state = sliced(case, *keep)
    assert numbers(state, "t", 1) == list(after)
    assert numbers(state, "r", 1) == [-1, 4, 4]
    assert law_holds(case)


def test_a_zero_may_copy_the_size_that_changed() -> None:
    case = image("t = Reshape(h, s)  r = Reshape(t, v)", s=ints(0, 0, 36), v=ints(0, 0, 6, 6))
    state = sliced(case, HALVES)
    assert numbers(state, "t", 1) == [0, 0, 36]
    assert law_holds(case)


def test_a_zero_that_copies_another_axis_freezes_both() -> None:
    """(N, 8, 8) as (N, 2, 8, 4): the second 8 is no longer the dimension that the 0 copies."""
    body = "h = MatMul(x, w_in)  t = Reshape(h, s)  r = Reshape(t, v)  y = MatMul(r, w_out)"
    tensors: dict[str, Tensor] = {"w_in": (6, 8), "w_out": (8, 5), "s": ints(0, 2, 0, 4), "v": ints(0, 8, 8)}
    case = Case(body, (), {"x": ("N", 8, 6)}, tensors)
    analysis = analyzed(case.model(seed=0), AS_WRITTEN).analysis
    assert analysis is not None
    assert analysis.classes == ()
    assert "a reshape copies the size of another axis (t)" in {str(one.why) for one in analysis.frozen}
    assert law_holds(case)


def test_a_computed_target_keeps_its_batch_and_rewrites_its_literal() -> None:
    body = """b = Shape<start=0, end=1>(x)  s = Concat<axis=0>(b, rest)
        t = Transpose<perm=[1, 0, 2]>(h)  u = Transpose<perm=[1, 0, 2]>(t)  r = Reshape(u, s)"""
    case = sequence(body, rest=ints(4, 8))
    state = sliced(case, HALVES)
    assert [int(n) for n in array_of(node_of(state, "s").inputs[1])] == [4, 4]
    assert law_holds(case)


def test_a_size_read_from_the_graph_follows_by_itself() -> None:
    body = "s = Shape(h)  f = Flatten(h)  r = Reshape(f, s)"
    state = sliced(sequence(body), HALVES)
    assert [node.op_type for node in state.model.graph] == ["MatMul", "Shape", "Flatten", "Reshape", "MatMul"]
    assert law_holds(sequence(body))


def test_one_stored_target_for_two_classes_becomes_two() -> None:
    body = """g = MatMul(x, w_g)  a = Reshape(h, s)  b = Reshape(g, s)
        p = MatMul(a, w_a)  q = MatMul(b, w_b)  r = Add(p, q)"""
    weights = {"w_g": (6, 8), "w_a": (8, 5), "w_b": (8, 5)}
    case = sequence(body, s=ints(-1, 8), out=5, **weights)
    state = sliced(case, HALVES, [0, 1, 2, 3, 4], [0, 1, 2])
    assert numbers(state, "a", 1) == [-1, 4]
    assert numbers(state, "b", 1) == [-1, 3]
    assert law_holds(case)


def test_one_literal_inside_a_shared_computed_target_ties_the_classes() -> None:
    body = """n = Shape<start=0, end=1>(x)  s = Concat<axis=0>(n, rest)  g = MatMul(x, w_g)
        fh = Flatten(h)  fg = Flatten(g)  a = Reshape(fh, s)  b = Reshape(fg, s)
        p = MatMul(a, w_a)  q = MatMul(b, w_b)  r = Add(p, q)"""
    weights = {"w_g": (6, 8), "w_a": (8, 5), "w_b": (8, 5)}
    case = sequence(body, rest=ints(4, 8), out=5, **weights)
    analysis = analyzed(case.model(seed=0), AS_WRITTEN).analysis
    assert analysis is not None
    assert [one.size for one in analysis.classes] == [8, 5]
    assert law_holds(case)


@pytest.mark.parametrize("count", ["num_outputs=3", ""])
def test_split_sizes(count: str) -> None:
    body = f"a, b, c = Split<axis=-1{', ' * bool(count)}{count}>(h{'' if count else ', s'})"
    case = sequence(f"{body}  r = Concat<axis=-1>(a, b, c)", s=ints(3, 3, 2))
    state = sliced(case, [0, 1], [2], [0, 1])
    assert numbers(state, "a", 1) == [2, 1, 2]
    assert "num_outputs" not in node_of(state, "a").attributes
    assert law_holds(case)


@pytest.mark.parametrize(
    ("start", "end", "starts", "ends"),
    [
        (0, 6, 0, 3),
        (2, 6, 1, 3),
        (2, 2**63 - 1, 1, 2**63 - 1),
        (-6, -2, -3, -1),
        (2, -2, 1, -1),
        (-6, 6, -3, 3),
        (-(2**31), 6, -(2**31), 3),
    ],
)
def test_slice_bounds_keep_their_form(start: int, end: int, starts: int, ends: int) -> None:
    case = image("r = Slice(h, s, e, a)", s=ints(start), e=ints(end), a=ints(1), out=len(range(8)[start:end]))
    analysis = analyzed(case.model(seed=0), AS_WRITTEN).analysis
    assert analysis is not None
    keep = [list(range(0, one.size, 2)) for one in analysis.classes]
    state = sliced(case, *keep)
    if end < 2**62:
        assert numbers(state, "r", 2) == [ends]
    if start > -(2**30):
        assert numbers(state, "r", 1) == [starts]
    assert law_holds(case)


def test_a_slice_of_another_dimension_stays_as_it_is_written() -> None:
    """Rewriting the channels' bounds must not settle the end of a dimension of unknown length."""
    body = "g = Conv(i, w_g)  r = Slice(g, s, e, a)"
    case = Case(
        f"{body}  y = Conv(r, w_out)",
        (2, 4, 2),
        {"i": ("N", 3, "H", "H")},
        {"w_g": (8, 3, 1, 1), "w_out": (4, 4, 1, 1), "s": ints(2, 0), "e": ints(6, -1), "a": ints(1, 2)},
    )
    state = sliced(case, [0], [0, 1, 2], [0])
    assert numbers(state, "r", 1) == [1, 0]
    assert numbers(state, "r", 2) == [4, -1]


def test_expand_targets() -> None:
    case = sequence("t = Unsqueeze(h, a)  r = Expand(t, s)", a=ints(1), s=ints(3, 1, 8))
    assert numbers(sliced(case, HALVES), "r", 1) == [3, 1, 4]
    assert law_holds(case)


def test_constants_of_a_shape() -> None:
    case = sequence("z = ConstantOfShape<value=float[1] {0.5}>(s)  r = Mul(h, z)", s=ints(1, 1, 8))
    assert numbers(sliced(case, HALVES), "z", 0) == [1, 1, 4]
    assert law_holds(case)


def test_the_groups_of_a_convolution() -> None:
    case = image("r = Conv<group=8>(h, w)", w=(8, 1, 3, 3))
    state = sliced(case, [0, 3, 7])
    assert node_of(state, "r").attributes["group"].as_int() == 3
    assert array_of(node_of(state, "r").inputs[1]).shape == (3, 1, 3, 3)


def test_a_group_keeps_as_many_channels_as_the_others() -> None:
    case = image("r = Conv<group=2>(h, w)", out=12, w=(12, 4, 1, 1))
    state = sliced(case, [1], [0, 2], [0, 1, 5])
    assert node_of(state, "r").attributes["group"].as_int() == 1
    assert array_of(node_of(state, "r").inputs[1]).shape == (3, 2, 1, 1)
    assert law_holds(case)


def test_the_groups_of_a_normalisation() -> None:
    case = image("r = GroupNormalization<num_groups=4>(h, s, b)", s=(8,), b=(8,))
    state = sliced(case, [0, 2])
    assert node_of(state, "r").attributes["num_groups"].as_int() == 2
    assert array_of(node_of(state, "r").inputs[1]).shape == (4,)


def test_resize_by_sizes() -> None:
    body = """n = Shape<start=0, end=1>(x)  s = Concat<axis=0>(n, rest)
        r = Resize<mode="nearest">(h, , , s)"""
    case = image(body, rest=ints(8, 9, 9))
    state = sliced(case, HALVES)
    assert [int(n) for n in array_of(node_of(state, "s").inputs[1])] == [4, 9, 9]
    assert law_holds(case)


def test_a_model_that_loses_nothing_stays_as_it_is() -> None:
    case = image("a, b = Split<axis=1, num_outputs=2>(h)  r = Slice(a, s, e, c)", s=ints(-3), e=ints(9),
                 c=ints(1), out=3)  # fmt: skip
    state = analyzed(case.model(seed=0), AS_WRITTEN)
    before = ir.serde.serialize_model(state.model).SerializeToString()
    state.choice = Choice({}, (), 0, 0, exact=False)
    SliceUnits().run(state)
    assert ir.serde.serialize_model(state.model).SerializeToString() == before
