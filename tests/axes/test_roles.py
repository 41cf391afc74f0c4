"""What classes are called: the names that people use for the parts of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from getac.axes.analysis import analyze_view
from getac.axes.wishes import NO_WISHES, Wishes
from getac.fx_graph.capture import capture
from getac.fx_graph.view import FxView

pytest.importorskip("transformers")

from tools.torch_zoo.registry import example

PER_BLOCK = ("heads", "head dimensions (q, k)", "head dimensions (v)", "MLP columns")
GROUPED = ("KV heads", "repeats", "head dimensions (v)", "MLP columns")
BLOCKS = 2
PLAIN = {
    "bert": Counter(dict.fromkeys(PER_BLOCK, BLOCKS) | {"MLP columns": BLOCKS + 1}),  # and the pooler
    "gpt2": Counter(dict.fromkeys(PER_BLOCK, BLOCKS)),
    "llama": Counter(dict.fromkeys(GROUPED, BLOCKS) | {"pairs of head dimensions (q, k)": 1}),
    "mixtral": Counter(dict.fromkeys(GROUPED, BLOCKS) | {"pairs of head dimensions (q, k)": 1}),
}


@cache
def captured(name: str) -> FxView:
    made = example(name)
    return FxView(capture(made.module.eval(), made.args, made.kwargs))


def roles_of(view: FxView, wishes: Wishes = NO_WISHES) -> list[tuple[int, str]]:
    return [(one.size, one.role) for one in analyze_view(view, wishes).classes]


def names(found: list[tuple[int, str]]) -> Counter[str]:
    return Counter(role for _, role in found)


@pytest.mark.parametrize("name", PLAIN)
def test_the_parts_of_language_models(name: str) -> None:
    assert names(roles_of(captured(name))) == PLAIN[name]


@pytest.mark.parametrize("name", PLAIN)
def test_the_stream_is_no_mlp_when_it_is_opened(name: str) -> None:
    found = roles_of(captured(name), Wishes(prune=["*"]))
    assert names(found) - PLAIN[name] == {"embedding columns": 1}
    assert PLAIN[name] - names(found) == {}


@pytest.mark.parametrize(
    ("name", "glob", "left"),
    [
        ("bert", "*attention*", Counter({"MLP columns": BLOCKS + 1})),
        ("gpt2", "*mlp*", Counter(dict.fromkeys(PER_BLOCK[:3], BLOCKS))),
        ("llama", "*q_proj*", Counter({"head dimensions (v)": BLOCKS, "MLP columns": BLOCKS})),
        ("mixtral", "*experts*", PLAIN["mixtral"] - Counter({"MLP columns": BLOCKS})),
    ],
)
def test_names_stay_where_others_are_kept(name: str, glob: str, left: Counter[str]) -> None:
    assert names(roles_of(captured(name), Wishes(keep=[glob]))) == left


class Net(nn.Module):
    """x (B, 5, 6) -> function(parts, x)"""

    def __init__(self, function: Callable[[nn.ModuleDict, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleDict(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.parts, x)


def linear(into: int, out: int) -> nn.Linear:
    return nn.Linear(into, out)


def attended(m: nn.ModuleDict, x: Tensor) -> Tensor:
    """An attention without a residual around it."""
    h = m["i"](x)
    return m["o"](m["a"](h, h, h, need_weights=False)[0])  # type: ignore[no-any-return]


def grouped_einsum(m: nn.ModuleDict, x: Tensor) -> Tensor:
    q, k, v = m["q"](x).view(-1, 5, 2, 3, 4), m["k"](x).view(-1, 5, 2, 4), m["v"](x).view(-1, 5, 2, 4)
    a = torch.einsum("bqgrd,bkgd->bgrqk", q, k).softmax(-1)
    return m["o"](torch.einsum("bgrqk,bkgd->bqgrd", a, v).flatten(2))  # type: ignore[no-any-return]


def grouped_product(m: nn.ModuleDict, x: Tensor) -> Tensor:
    q, k, v = m["q"](x).view(-1, 5, 2, 3, 4), m["k"](x).view(-1, 5, 2, 1, 4), m["v"](x).view(-1, 5, 2, 1, 4)
    q, k, v = (t.permute(0, 2, 3, 1, 4) for t in (q, k, v))
    a = (q @ k.mT).softmax(-1) @ v
    return m["o"](a.permute(0, 3, 1, 2, 4).flatten(2))  # type: ignore[no-any-return]


def tied(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = m["e"](x.argmax(-1))
    return (h + m["d"](F.gelu(m["u"](h)))) @ m["e"].weight.t()  # type: ignore[operator, no-any-return]


def gated(m: nn.ModuleDict, x: Tensor) -> Tensor:
    """Both halves of a stored tensor, as a gate and what it gates."""
    gate, up = m["w"].weight.split(7, 0)  # type: ignore[operator]
    return m["o"]((x @ gate.t()).sigmoid() * (x @ up.t()))  # type: ignore[no-any-return]


def placed(m: nn.ModuleDict, x: Tensor) -> Tensor:
    """Of 16 positions, 5 are read."""
    return m["o"](m["i"](x) + m["p"].weight[: x.shape[1]])  # type: ignore[index, no-any-return]


def adjacent(m: nn.ModuleDict, x: Tensor) -> Tensor:
    """Neighbours by a matrix that is computed: no attention."""
    h = m["i"](x)
    return m["o"](torch.bmm((x @ x.mT).relu(), h) + h)  # type: ignore[no-any-return]


def experts(m: nn.ModuleDict, x: Tensor) -> Tensor:
    up, down = m["u"].weight.view(3, 6, 7), m["d"].weight.view(3, 7, 6)  # type: ignore[operator]
    h = torch.einsum("btd,edf->btef", x, up).relu()
    return m["o"](torch.einsum("btef,efd->bted", h, down).sum(2))  # type: ignore[no-any-return]


SHARED = {"q": (6, 24), "k": (6, 8), "v": (6, 8), "o": (24, 5)}
GROUPED_ROLES = {(2, "KV heads"), (3, "repeats"), (4, "head dimensions (q, k)"), (4, "head dimensions (v)")}
NETS: dict[str, tuple[Callable[[], Net], set[tuple[int, str]]]] = {
    "what an attention reads": (
        lambda: Net(
            attended, i=linear(6, 8), a=nn.MultiheadAttention(8, 2, batch_first=True), o=linear(8, 3)
        ),
        {(8, "columns"), (2, "heads"), (4, "head dimensions")},
    ),
    "grouped heads by einsum": (
        lambda: Net(grouped_einsum, **{name: linear(*sizes) for name, sizes in SHARED.items()}),
        GROUPED_ROLES,
    ),
    "grouped heads in five dimensions": (
        lambda: Net(grouped_product, **{name: linear(*sizes) for name, sizes in SHARED.items()}),
        GROUPED_ROLES,
    ),
    "a tied embedding": (
        lambda: Net(tied, e=nn.Embedding(6, 8), u=linear(8, 9), d=linear(9, 8)),
        {(8, "embedding columns"), (9, "MLP columns")},
    ),
    "a gate in half of a weight": (
        lambda: Net(gated, w=linear(6, 14), o=linear(7, 3)),
        {(7, "MLP columns")},
    ),
    "positions that nobody reads": (
        lambda: Net(placed, i=linear(6, 8), p=nn.Embedding(16, 8), o=linear(8, 3)),
        {(8, "MLP columns"), (11, "unused rows")},
    ),
    "a product that is no attention": (
        lambda: Net(adjacent, i=linear(6, 8), o=linear(8, 3)),
        {(8, "columns")},
    ),
    "experts by einsum": (
        lambda: Net(experts, u=nn.Embedding(3, 42), d=nn.Embedding(3, 42), o=linear(6, 3)),
        {(7, "MLP columns")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_small_structures(name: str) -> None:
    make, expected = NETS[name]
    found = roles_of(FxView(capture(make().eval(), (torch.randn(3, 5, 6),))))
    assert expected <= set(found)
    if name != "experts by einsum":
        assert {role for _, role in found} == {role for _, role in expected}


def test_values_are_named_where_heads_must_stay() -> None:
    """The bias of relative positions is kept, and with it the heads of a stack, but those across stacks."""
    found = roles_of(captured("t5"), Wishes(keep=["*relative_attention_bias*"]))
    assert names(found)["heads"] == 1
    assert names(found)["head dimensions (v)"] == names(found)["head dimensions (q, k)"] == 6
