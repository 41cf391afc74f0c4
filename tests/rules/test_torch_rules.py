"""Rules that only torch operators follow: masked equals sliced on small graphs of torch functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from getac.axes.analysis import analyze_view
from getac.axes.axis import leaves
from getac.axes.reasons import ROLLED
from getac.rules.attention import Attention
from getac.rules.blocks import DepthToSpace, SpaceToDepth
from getac.rules.contraction import Convolution
from getac.rules.elementwise import Elementwise
from getac.rules.glu import GatedLinearUnit
from getac.rules.indexing import Index, TopK
from getac.rules.layout import Reshape, Transpose
from getac.rules.matmul_add import MatMulAdd
from getac.rules.rearrange import ChannelShuffle, Reordered, RepeatInterleave, Stack, Tile, Unbind
from getac.rules.recurrent import RecurrentLayers
from getac.rules.reduction import Reduction
from getac.rules.scatter import IndexPut, IndexUpdate
from getac.rules.weight_norm import WeightNorm
from getac.rules.windows import Unfold, Windows
from tests.rules.steps import Graph, Step, check_law, graph, matmul, multiply


def view(x: str, out: str, *sizes: int) -> Step:
    rule = Reshape(shape_input=1, copies_zeros=False)
    return Step(rule, lambda t, list1: t.reshape(list1), (x,), (out,), {1: list(sizes)})


def permute(x: str, out: str, *order: int) -> Step:
    return Step(Transpose(order), lambda t: t.permute(order), (x,), (out,))


def convolution(x: str, weight: str, out: str) -> Step:
    return Step(Convolution(padded=False), functional.conv2d, (x, weight), (out,))


def heads(name: str, count: int, size: int) -> list[Step]:
    """x (2, 5, 6) -> (2, count, 5, size)"""
    return [
        matmul("x", f"w_{name}", f"{name}1"),
        view(f"{name}1", f"{name}2", 2, 5, count, size),
        permute(f"{name}2", name, 0, 2, 1, 3),
    ]


def attention(rule: Attention, query_heads: int, key_heads: int, masked: bool = False) -> Graph:
    def function(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        scale: float | None = None,
    ) -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=rule.causal, scale=scale, enable_gqa=rule.grouped
        )

    inputs = ("q", "k", "v", "mask") if masked else ("q", "k", "v")
    weights = {"w_q": (6, query_heads * 4), "w_k": (6, key_heads * 4), "w_v": (6, key_heads * 3)}
    steps = [
        *heads("q", query_heads, 4),
        *heads("k", key_heads, 4),
        *heads("v", key_heads, 3),
        Step(rule, function, inputs, ("a",)),
        permute("a", "b", 0, 2, 1, 3),
        view("b", "c", 2, 5, query_heads * 3),
        matmul("c", "w_o", "y"),
    ]
    tensors: dict[str, Sequence[int]] = {**weights, "w_o": (query_heads * 3, 6)}
    return graph(steps, {**tensors, **({"mask": (query_heads, 5, 5)} if masked else {})}, (2, 5, 6))


def recurrent(
    kind: str, gates: int, directions: int = 1, biases: bool = True, batch_first: bool = False
) -> Graph:
    states = 2 if kind == "lstm" else 1
    each = 4 if biases else 2

    def function(x: torch.Tensor, *rest: torch.Tensor) -> Sequence[torch.Tensor]:
        given = rest[:2] if states == 2 else rest[0]
        call = getattr(torch._VF, kind)
        result: Sequence[torch.Tensor] = call(
            x, given, rest[states:], biases, 2, 0.0, False, directions == 2, batch_first
        )
        return result

    tensors: dict[str, Sequence[int]] = {"w_in": (6, 7)}
    tensors |= {f"s{i}": (2 * directions, 4 if not batch_first else 2, 5) for i in range(states)}
    for cell in range(2 * directions):
        into = 7 if cell < directions else 5 * directions
        shapes: list[Sequence[int]] = [(gates * 5, into), (gates * 5, 5), (gates * 5,), (gates * 5,)]
        tensors |= {f"p{cell}.{i}": shape for i, shape in enumerate(shapes[:each])}
    rule = RecurrentLayers(gates, 2, directions, states, biases, batch_first)
    inputs = ("h", *(name for name in tensors if name != "w_in"))
    outputs = ("t", *(f"last{i}" for i in range(states)))
    steps = [matmul("x", "w_in", "h"), Step(rule, function, inputs, outputs), matmul("t", "w_out", "y")]
    return graph(steps, {**tensors, "w_out": (5 * directions, 3)}, (2, 4, 6))


def columns(step: Step, out: int, **tensors: Sequence[int] | torch.Tensor) -> Graph:
    """x (3, 4, 6) -> h (3, 4, 8) -> step -> r (..., out) -> y"""
    steps = [matmul("x", "w_in", "h"), step, matmul("r", "w_out", "y")]
    return graph(steps, {"w_in": (6, 8), **tensors, "w_out": (out, 5)}, (3, 4, 6))


def channels(step: Step, out: int) -> Graph:
    """x (2, 3, 4, 4) -> h (2, 8, 4, 4) -> step -> r (2, out, ...) -> y"""
    steps = [convolution("x", "w_in", "h"), step, convolution("r", "w_out", "y")]
    return graph(steps, {"w_in": (8, 3, 1, 1), "w_out": (5, out, 1, 1)}, (2, 3, 4, 4))


def stacked(dimension: int) -> Graph:
    steps = [
        matmul("x", "w_a", "a"),
        matmul("x", "w_b", "b"),
        Step(Stack(dimension), lambda *t: torch.stack(t, dimension), ("a", "b"), ("s",)),
        Step(Unbind(dimension), lambda s: s.unbind(dimension), ("s",), ("c", "d")),
        Step(Unbind(dimension), lambda s: s.select(dimension, 1), ("s",), ("e",)),
        multiply("c", "d", "f"),
        multiply("f", "e", "r"),
        matmul("r", "w_out", "y"),
    ]
    return graph(steps, {"w_a": (6, 8), "w_b": (6, 8), "w_out": (8, 5)}, (3, 4, 6))


def unfolded() -> Graph:
    """A convolution written as im2col and a matrix product."""
    steps = [
        convolution("x", "w_in", "h"),
        Step(Unfold(9), lambda h: functional.unfold(h, 3, padding=1), ("h",), ("cols",)),
        matmul("w", "cols", "o"),
        permute("o", "r", 0, 2, 1),
        matmul("r", "w_out", "y"),
    ]
    return graph(steps, {"w_in": (8, 3, 1, 1), "w": (7, 72), "w_out": (7, 5)}, (2, 3, 4, 4))


PICKS = torch.tensor([[0, 2], [1, 1]])


def put(x: torch.Tensor, values: torch.Tensor, *indices: torch.Tensor) -> torch.Tensor:
    return x.index_put(indices, values)


def weight_normed(direction: str = "v") -> Graph:
    """x (2, 5, 6) -> h (2, 5, 8) -> @ weight norm of v (8, 7), or of u = tanh v, per column"""
    steps = [
        matmul("x", "w_in", "h"),
        Step(Elementwise(), torch.tanh, ("v",), ("u",)),
        Step(WeightNorm(1), lambda v, g: torch._weight_norm(v, g, 1), (direction, "g"), ("w",)),
        matmul("h", "w", "r"),
        matmul("r", "w_out", "y"),
    ]
    return graph(steps, {"w_in": (6, 8), "v": (8, 7), "g": (1, 7), "w_out": (7, 3)}, (2, 5, 6))


def summed_attention(rule: Attention) -> Graph:
    """The results of all heads and dimensions are summed, without a weight."""
    net = attention(rule, 4, 2 if rule.grouped else 4)
    *steps, _ = net.steps
    steps += [Step(Reduction((2,), True, sums=True), lambda c: c.sum(2, keepdim=True), ("c",), ("y",))]
    weights = {name: tensor for name, tensor in net.tensors.items() if name != "w_o"}
    return replace(net, steps=tuple(steps), tensors=weights)


LAWS = {
    "glu": (columns(Step(GatedLinearUnit(), functional.glu, ("h",), ("r",)), 4), (4,)),
    "baddbmm": (
        columns(
            Step(MatMulAdd(), lambda a, b, s: torch.baddbmm(s, a, b), ("h", "b", "s"), ("r",)),
            7,
            b=(3, 8, 7),
            s=(7,),
        ),
        (8, 7),
    ),
    "weight norm": (weight_normed(), (8, 7)),
    "weight norm of a computed direction": (weight_normed("u"), (8,)),
    "sum of attention": (summed_attention(Attention()), (4, 4, 3)),
    "sum of grouped attention": (summed_attention(Attention(grouped=True)), (4,)),
    "argsort": (
        columns(
            Step(TopK(1, values=False), lambda h: h.argsort(dim=1, stable=True).float(), ("h",), ("r",)), 8
        ),
        (8,),
    ),
    "attention": (attention(Attention(), 2, 2), (2, 4, 3)),
    "attention with a mask": (attention(Attention(), 2, 2, masked=True), (2, 4, 3)),
    "causal attention": (attention(Attention(causal=True), 2, 2), (2, 4, 3)),
    "grouped attention": (attention(Attention(grouped=True), 6, 2), (2, 3, 4, 3)),
    "grouped attention with a mask": (attention(Attention(grouped=True), 6, 2, masked=True), (2, 3, 4, 3)),
    "multi-query attention": (attention(Attention(grouped=True), 3, 1), (3, 4, 3)),
    "lstm": (recurrent("lstm", 4), (7, 5)),
    "lstm both ways": (recurrent("lstm", 4, directions=2), (7, 5)),
    "lstm, batch first, without biases": (recurrent("lstm", 4, biases=False, batch_first=True), (7, 5)),
    "gru": (recurrent("gru", 3, directions=2), (7, 5)),
    "rnn_tanh": (recurrent("rnn_tanh", 1), (7, 5)),
    "rnn_relu": (recurrent("rnn_relu", 1), (7, 5)),
    "channel_shuffle": (
        channels(Step(ChannelShuffle(4), torch.channel_shuffle, ("h",), ("r",), {"groups": 4}), 8),
        (4, 2),
    ),
    "pixel_shuffle": (
        channels(Step(DepthToSpace(2, False), lambda h: functional.pixel_shuffle(h, 2), ("h",), ("r",)), 2),
        (2,),
    ),
    "pixel_unshuffle": (
        channels(
            Step(SpaceToDepth(2, False), lambda h: functional.pixel_unshuffle(h, 2), ("h",), ("r",)), 32
        ),
        (8,),
    ),
    "repeat_interleave": (
        columns(
            Step(
                RepeatInterleave(-1),
                lambda h, repeats: h.repeat_interleave(repeats, -1),
                ("h",),
                ("r",),
                {"repeats": 3},
            ),
            24,
        ),
        (8, 3),
    ),
    "repeat": (
        columns(Step(Tile(), lambda h, list1: h.repeat(list1), ("h",), ("r",), {1: [2, 1, 1, 3]}), 24),
        (8, 3),
    ),
    "roll": (columns(Step(Reordered((1,), ROLLED), lambda h: h.roll(1, 1), ("h",), ("r",)), 8), (8,)),
    "stack": (stacked(1), (8,)),
    "stack at the end": (stacked(-1), (8,)),
    "im2col": (unfolded(), (8, 7)),
    "unfold": (
        graph(
            [
                matmul("x", "w_in", "h"),
                Step(Windows(1), lambda h: h.unfold(1, 2, 1), ("h",), ("u",)),
                permute("u", "r", 0, 1, 3, 2),
                matmul("r", "w_out", "y"),
            ],
            {"w_in": (6, 8), "w_out": (8, 5)},
            (3, 4, 6),
        ),
        (8,),
    ),
    "index": (columns(Step(Index((0,)), lambda h, i: h[i], ("h", "i"), ("r",)), 8, i=PICKS), (8,)),
    "index neighbours": (
        columns(
            Step(Index((0, 1)), lambda h, i, j: h[i, j], ("h", "i", "j"), ("r",)), 8, i=PICKS, j=PICKS[0]
        ),
        (8,),
    ),
    "index apart": (
        graph(
            [
                matmul("x", "w_in", "h"),
                permute("h", "t", 0, 2, 1),
                Step(Index((0, 2)), lambda h, i, j: h[i, :, j], ("t", "i", "j"), ("r",)),
                matmul("r", "w_out", "y"),
            ],
            {"w_in": (6, 8), "i": PICKS, "j": PICKS, "w_out": (8, 5)},
            (3, 4, 6),
        ),
        (8,),
    ),
    "index_put": (
        columns(
            Step(
                IndexPut((1,)),
                lambda h, v, i: h.index_put((torch.arange(3)[:, None], i), v),
                ("h", "v", "i"),
                ("r",),
            ),
            8,
            v=(3, 2, 8),
            i=torch.tensor([0, 2]),
        ),
        (8,),
    ),
    "index_put neighbours": (
        columns(
            Step(IndexPut((0, 1)), put, ("h", "v", "i", "j"), ("r",)), 8, v=(2, 8), i=PICKS[0], j=PICKS[1]
        ),
        (8,),
    ),
    "index_add": (
        columns(
            Step(IndexUpdate(1, adds=True), lambda h, v, i: h.index_add(1, i, v), ("h", "v", "i"), ("r",)),
            8,
            v=(3, 2, 8),
            i=torch.tensor([0, 2]),
        ),
        (8,),
    ),
    "slice_scatter": (
        columns(
            Step(IndexUpdate(1), lambda h, v: h.slice_scatter(v, 1, 1, 3), ("h", "v"), ("r",)), 8, v=(3, 2, 8)
        ),
        (8,),
    ),
}


@pytest.mark.parametrize(("net", "units"), LAWS.values(), ids=LAWS.keys())
def test_masked_equals_sliced(net: Graph, units: tuple[int, ...]) -> None:
    for seed in range(4):
        found, difference = check_law(net, seed)
        assert found == units
        assert difference <= 1e-5


def test_without_its_old_scale_a_smaller_attention_computes_something_else() -> None:
    net = attention(Attention(implicit_scale=False), 2, 2)
    assert max(check_law(net, seed)[1] for seed in range(4)) > 1e-3


def test_the_scale_is_kept_at_the_old_head_dimension() -> None:
    (derived,) = analyze_view(attention(Attention(), 2, 2)).inference.derived.values()
    assert derived.value == pytest.approx(0.5)
    assert derived.axis.size == 4


def reasons(net: Graph, value: str, dimension: int) -> set[str]:
    return {str(leaf.frozen) for leaf in leaves(analyze_view(net).axes[value][dimension])}


def test_a_causal_mask_freezes_the_queries() -> None:
    """The queries are stored tokens; every one sees as many keys as its position says."""
    steps = [
        Step(
            Attention(causal=True),
            lambda q, k, v, scale=None: functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scale
            ),
            ("tokens", "k", "v"),
            ("a",),
        ),
        permute("a", "b", 0, 2, 1),
        matmul("b", "w_out", "y"),
    ]
    steps = [matmul("x", "w_k", "k"), matmul("x", "w_v", "v"), *steps]
    net = graph(steps, {"w_k": (6, 4), "w_v": (6, 4), "tokens": (2, 7, 4), "w_out": (7, 3)}, (2, 5, 6))
    assert reasons(net, "tokens", 1) == {"the positions of a causal mask (a)"}
    free = [replace(s, rule=Attention()) if isinstance(s.rule, Attention) else s for s in steps]
    net = graph(free, dict(net.tensors), (2, 5, 6))
    assert reasons(net, "tokens", 1) == {"None"}


def test_a_direction_is_spared_by_masking() -> None:
    one = analyze_view(weight_normed()).classes[1]
    assert [member.name for member in one.members] == ["g", "w_out"]
    assert [(member.name, member.dimension) for member in one.spared] == [("v", 1)]


def test_a_length_of_its_own_freezes_a_channel_of_a_computed_direction() -> None:
    assert reasons(weight_normed("u"), "v", 1) == {"a removed unit would not stay finite (w)"}
    assert reasons(weight_normed("u"), "g", 1) == {"a removed unit would not stay finite (w)"}


def test_sorted_indices_are_not_zero_where_the_entries_are() -> None:
    """Summing over the columns would keep what the removed ones' indices add."""
    step = Step(TopK(1, values=False), lambda h: h.argsort(dim=1, stable=True).float(), ("h",), ("r",))
    total = Step(Reduction((2,), True, sums=True), lambda r: r.sum(2, keepdim=True), ("r",), ("y",))
    net = graph([matmul("x", "w_in", "h"), step, total], {"w_in": (6, 8)}, (3, 4, 6))
    assert reasons(net, "w_in", 1) == {"summed where a removed unit would not be zero (y)"}


def test_attention_counts_both_products() -> None:
    sizes = [(2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6)]
    assert Attention(grouped=True).macs(sizes, (2, 4, 5, 6)) == 2 * 4 * 5 * 7 * (8 + 6)


def test_recurrent_layers_count_every_weight_per_step() -> None:
    sizes: list[tuple[int, ...] | None] = [(9, 3, 7), (1, 3, 5), (1, 3, 5), (20, 7), (20, 5), (20,), (20,)]
    assert RecurrentLayers(4, states=2).macs(sizes, (9, 3, 5)) == 9 * 3 * (20 * 7 + 20 * 5)
