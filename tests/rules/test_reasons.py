"""Every kind of freeze, on a graph that shows it, with the advice that a person gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import onnx
import pytest
import torch
from torch import Tensor, nn

import getac
from getac.axes import reasons
from getac.axes.analysis import Analysis, analyze_view
from getac.axes.axis import Axis, Freeze, atom, leaves, product, total
from getac.axes.reasons import GLOB, Reason
from getac.axes.unify import unify
from getac.fx_graph.capture import capture
from getac.inspection import inspect
from getac.rules.layout import Transpose
from tests.rules import test_refusals, test_refusals_wide
from tests.rules.cases import Case, floats, image, ints, sequence
from tests.rules.steps import Step, graph, matmul
from tests.rules.test_refusals import analysis_of
from tools.fx_law import analyzed

KINDS = {name: value for name, value in vars(reasons).items() if isinstance(value, Reason)}
REFUSALS = (*test_refusals.REFUSALS.values(), *test_refusals_wide.REFUSALS.values())

COMPUTED = "b = Shape<end=2>(h)  t = Concat<axis=0>(b, last)  s = Max(t, one)"
GRAPHS: dict[str, Case] = {
    "VECTOR_NORM": sequence("r = LpNormalization(h)"),
    "EVERY_ENTRY": sequence("t = ReduceProd(h, a)  r = Add(h, t)", a=ints(2)),
    "INTERLEAVED": image("r = Slice(h, s, e, a, t)", out=4, s=ints(0), e=ints(8), a=ints(1), t=ints(2)),
    "PADDING": image("r = Pad(h, p)", p=ints(0, 1, 0, 0, 0, 1, 0, 0), out=10),
    "RESIZED": image("r = Resize(h, , s)", s=floats(1, 2, 1, 1), out=16),
    "RANGE": sequence(
        "n = Range(i, j, k)  c = Cast<to=1>(n)  r = Mul(h, c)",
        i=ints(0).reshape(()),
        j=ints(8).reshape(()),
        k=ints(1).reshape(()),
    ),
    "RANDOM": sequence("t = RandomNormal<shape=[4, 8]>()  r = Mul(h, t)"),
    "SIZE_LIST": sequence("s = Shape(h)  r = Expand(h, s)"),
    "OUTPUT_SIZE": sequence("n = Shape<start=2>(h)  r = Relu(h)"),
    "COMPUTED_SIZE": sequence(
        "b = Shape<end=2>(h)  k = Max(last, one)  s = Concat<axis=0>(b, k)  r = Reshape(h, s)",
        last=ints(8),
        one=ints(1),
    ),
    "COMPUTED_RESHAPE": sequence(f"{COMPUTED}  r = Reshape(h, s)", last=ints(8), one=ints(1)),
    "COMPUTED_EXPAND": sequence(
        f"{COMPUTED}  u = Expand(p, s)  r = Mul(h, u)", last=ints(8), one=ints(1), p=(1, 1, 8)
    ),
    "COMPUTED_FILL": sequence(
        f"{COMPUTED}  u = ConstantOfShape(s)  r = Add(h, u)", last=ints(8), one=ints(1)
    ),
    "COMPUTED_REPEATS": sequence(
        f"{COMPUTED}  u = Tile(p, s)  r = Mul(h, u)", last=ints(1), one=ints(1), p=(1, 1, 8)
    ),
    "COPIED_SIZE": Case(
        "h = MatMul(x, w)  t = Reshape(h, s)  r = Reshape(t, v)  y = MatMul(r, w_out)",
        (),
        {"x": ("N", 8, 6)},
        {"w": (6, 8), "w_out": (8, 5), "s": ints(0, 2, 0, 4), "v": ints(0, 8, 8)},
    ),
    "NO_INPUT_SHAPE": sequence(
        "i = NonZero(h)  t = Transpose(i)  f = Cast<to=1>(t)  u = MatMul(f, p)  v = ReduceSum<keepdims=0>(u)"
        "  r = Add(h, v)",
        p=(3, 8),
    ),
    "NO_OUTPUT_SHAPE": sequence(
        "m = ReduceMax<keepdims=0>(x)  i = Cast<to=7>(m)  j = Unsqueeze(i, zero)  u = ConstantOfShape(j)"
        "  v = ReduceSum<keepdims=0>(u)  r = Add(h, v)",
        zero=ints(0),
    ),
    "EMPTY_INPUT": sequence(
        "t = Slice(h, s, e, a)  u = Mul(t, p)  r = Concat<axis=2>(h, u)",
        s=ints(5),
        e=ints(2),
        a=ints(2),
        p=(4, 1),
    ),
}


def turned(h: Tensor) -> Tensor:
    """As rotary embeddings in complex numbers do it."""
    numbers = torch.view_as_complex(h.unflatten(2, (4, 2)))
    return torch.view_as_real(numbers * 1j).flatten(2)


TOKENS = torch.ones(1, 7, 8)


class Layers(nn.Module):
    """x (N, 4, 6) -> linear -> h (N, 4, 8) -> body -> linear."""

    def __init__(self, body: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.into, self.out, self.body = nn.Linear(6, 8), nn.Linear(width, 5), body

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(self.into(x)))  # type: ignore[no-any-return]


def causal(h: Tensor) -> Tensor:
    queries = TOKENS.expand(h.shape[0], 7, 8)
    return nn.functional.scaled_dot_product_attention(queries, h, h, is_causal=True)


def written(h: Tensor) -> Tensor:
    """A part of h is written to, and then all of h is read."""
    h[:, :2].mul_(2.0)
    return h


MODULES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "CUMULATED_PRODUCT": (lambda h: h.cumprod(2), 8),
    "DIFFERENCES": (lambda h: h.diff(dim=2), 7),
    "UNFOLD_WINDOW": (lambda h: h.unfold(2, 2, 1), 2),
    "STACKED": (lambda h: torch.stack([h, h], 3), 2),
    "ROLLED": (lambda h: h.roll(1, 2), 8),
    "CAUSAL": (causal, 8),
    "COMPLEX": (turned, 8),
    "NOT_FOLLOWED": (lambda h: h.view(torch.int32).view(torch.float32), 8),
    "WRITES_VIEW": (written, 8),
}


def unequal() -> list[Axis]:
    a, b = atom(4), atom(8)
    unify(a, b, "add")
    return [a, b]


def apart() -> list[Axis]:
    """2 x 4 cannot end after 6 entries."""
    whole, parts = total(product(atom(2), atom(4)), atom(5)), total(atom(6), atom(7))
    unify(whole, parts, "concat")
    return [whole, parts]


def inside_of_itself() -> list[Axis]:
    """An axis without entries is a product of itself and anything."""
    empty = atom(0)
    unify(empty, product(empty, atom(5)), "reshape")
    return [empty]


def wrong_rule() -> list[Axis]:
    """A rule for a transposition that says it moves nothing."""
    step = Step(Transpose((0, 1)), torch.t, ("h",), ("y",))
    net = graph([matmul("x", "w_in", "h"), step], {"w_in": (6, 8)}, (3, 6))
    return axes_of(analyze_view(net))


EQUATIONS: dict[str, Callable[[], list[Axis]]] = {
    "UNEQUAL_SIZES": unequal,
    "PARTS_APART": apart,
    "SELF_CONTAINING": inside_of_itself,
    "WRONG_RESULT": wrong_rule,
}

ADVICE = {
    "GRAPH_INPUT GRAPH_OUTPUT": "nothing to do: the graph's inputs and outputs keep their sizes",
    "OUTPUT_SIZE": "return the tensor alone",
    "KEPT": "drop the glob of keep",
    "NORMALIZED REDUCED": f"open it with --prune '{GLOB}' (prune=['{GLOB}']): masked then differs",
    "SOFTMAX VECTOR_NORM EVERY_ENTRY SORTED CUMULATED CUMULATED_PRODUCT DIFFERENCES FOURIER": "every entry",
    "NO_EPSILON": "give the normalisation an epsilon",
    """SPATIAL CONVOLUTION_WINDOW UNFOLD_WINDOW PIXEL_BLOCK CAUSAL STEPS DIRECTIONS STACKED INTERLEAVED
    DIAGONAL TRIANGLE REVERSED ROLLED RANGE SIZE_LIST PADDING COMPLEX""": "nothing to do: along this axis",
    "RANDOM": "nothing to do: what is drawn belongs to no unit",
    "INDEXED PARTLY_INDEXED": "by a slice or a split",
    "WRITTEN": "by a concatenation",
    "EMPTY_SLICE": "leave the empty slice out",
    "SLICED_IN_STEPS": "a step that divides the axis",
    "RESIZED": "resize spatial dimensions alone",
    "PADDED": "fill up with a constant",
    """COMPUTED_PLACE COMPUTED_SIZE COMPUTED_RESHAPE COMPUTED_EXPAND COMPUTED_FILL
    COMPUTED_REPEATS""": "compute them from shapes by +, * and // alone",
    "SIZE_AS_NUMBER": "write the number out as a constant",
    "ARGUMENT": "nothing to do: the operator takes it whole",
    "COPIED_SIZE": "write the size itself in place of the 0",
    "SPLIT_ELSEWHERE PARTS_APART": "choose numbers of heads, groups or parts of which one divides the other",
    "NOT_ZERO": "put a function that keeps zero",
    "NOT_FINITE": "add an epsilon",
    "NO_RULE": "replace the operator, or write a rule for it",
    "NOT_FOLLOWED": "write it by other operators, or with arguments that are numbers",
    "WRITES_VIEW": "compute a new tensor",
    "NO_INPUT_SHAPE NO_OUTPUT_SHAPE": "export with known shapes",
    "EMPTY_INPUT": "leave out the tensor",
    "WRONG_RESULT UNEQUAL_SIZES SELF_CONTAINING": "please report it",
}
HINTS = {kind: hint for kinds, hint in ADVICE.items() for kind in kinds.split()}


def axes_of(analysis: Analysis) -> list[Axis]:
    return [axis for axes in analysis.axes.values() for axis in axes]


def freezes(axes: Iterable[Axis]) -> set[Freeze]:
    return {leaf.frozen for axis in axes for leaf in leaves(axis) if leaf.frozen is not None}


def pattern(kind: str) -> re.Pattern[str]:
    """Matches the reason of a kind, whatever its details are, and what touches it."""
    text = re.escape(KINDS[kind].text).replace(r"\{\}", ".+")
    return re.compile(rf"(touches [\w.]+: )?{text}")


def shown(kind: str) -> list[Axis]:
    """The axes of a graph that shows a kind of freeze."""
    if kind in EQUATIONS:
        return EQUATIONS[kind]()
    if kind in MODULES:
        body, width = MODULES[kind]
        return axes_of(analyzed(capture(Layers(body, width), (torch.randn(3, 4, 6),))))
    if kind == "KEPT":
        return axes_of(getac.analyze(image("r = Relu(h)").model(seed=0), keep=["w_in"]))
    if kind in GRAPHS:
        case = GRAPHS[kind]
    else:
        case = next(one.case for one in REFUSALS if pattern(kind).fullmatch(one.reason))
    model = case.model(seed=0)
    if kind == "OUTPUT_SIZE":
        model.graph.output.append(onnx.helper.make_tensor_value_info("n", onnx.TensorProto.INT64, [1]))
    return axes_of(analysis_of(model))


def test_every_kind_has_its_advice_here() -> None:
    assert set(HINTS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_shows_the_reason_and_the_advice(kind: str) -> None:
    found = [one for one in freezes(shown(kind)) if pattern(kind).fullmatch(one.reason)]
    assert found and all(one.node for one in found)
    assert all(HINTS[kind] in one.hint for one in found)


UNPACKED = nn.LSTM(8, 8, proj_size=3, batch_first=True)
NOT_FOLLOWED: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "packed sequences, or projected states": (lambda h: UNPACKED(h)[0], 3),
    "repeats that differ": (lambda h: h.repeat_interleave(torch.tensor([1, 2, 3, 1]), 1), 8),
}


@pytest.mark.parametrize("text", NOT_FOLLOWED)
def test_an_operator_with_a_rule_says_what_it_does_not_follow(text: str) -> None:
    body, width = NOT_FOLLOWED[text]
    (opaque,) = analyzed(capture(Layers(body, width), (torch.randn(3, 4, 6),))).opaque
    assert opaque.reason == f"arguments that are not followed: {text}"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("t = Squeeze(h)  r = Relu(t)", "it removes every dimension of size 1"),
        ("m = Max(n, n)  r, t = Split<axis=2>(h, m)", "the sizes of its parts are computed"),
    ],
)
def test_an_onnx_operator_says_so_too(body: str, text: str) -> None:
    (opaque,) = analysis_of(sequence(body, n=ints(8, 0)).model(seed=0)).opaque
    assert opaque.reason == f"arguments that are not followed: {text}"


def test_the_advice_names_a_parameter_to_open_and_it_opens() -> None:
    model = sequence("r = LayerNormalization(h, s)", s=(8,)).model(seed=0)
    (frozen,) = (one for one in analysis_of(model).frozen if one.why.reason == "a normalised axis")
    name = frozen.members[0].name
    assert frozen.hint == f"open it with --prune '{name}' (prune=['{name}']): masked then differs from sliced"
    with pytest.warns(UserWarning, match="opened on request"):
        assert [one.size for one in getac.analyze(model, prune=[name]).classes] == [8]


def test_a_graph_output_is_not_said_to_open() -> None:
    """It is normalised, too, but no wish would open it."""
    model = Case("y = LayerNormalization(x, s)", (), {"x": ("N", 4, 8)}, {"s": (8,)}).model(seed=0)
    assert {one.why.reason for one in analysis_of(model).frozen} == {"a graph input"}
    text = "h = MatMul(x, w)  y = LayerNormalization(h, s)"
    model = Case(text, (), {"x": ("N", 4, 6)}, {"w": (6, 8), "s": (8,)}).model(seed=0)
    assert {one.why.reason for one in analysis_of(model).frozen} == {"a graph input", "a graph output"}


def test_inspection_hands_out_the_advice() -> None:
    found = inspect(sequence("r = Softmax(h)").model(seed=0))
    assert all(entry.hint for entry in found.frozen)
    assert '"hint": "nothing to do: every entry along the axis' in found.as_json()
