"""Slicing a captured module: the same parameters, smaller, and everything that is written down follows."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from getac.axes.analysis import Analysis
from getac.axes.axis import Axis, Mask
from getac.fx_graph.capture import capture
from tools.fx_law import analyzed, choose, cut, difference, masked_copy, outputs_of, randomize, train_step

aten = torch.ops.aten


class Tied(nn.Module):
    """A tied table, buffers of both kinds, fused attention, grouped convolution, literals."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.fused, self.merge = nn.Embedding(9, 12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.group, self.norm = nn.Conv1d(12, 24, 3, padding=1, groups=4), nn.BatchNorm1d(24)
        self.mlp, self.back = nn.Linear(24, 20), nn.Linear(10, 12, bias=False)
        self.head = nn.Linear(12, 9, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("kept", torch.randn(12))
        self.register_buffer("passing", torch.randn(12), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.table(ids) * self.kept + self.passing
        b, t, _ = h.shape
        q, k, v = self.fused(h).view(b, t, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        h = h + self.merge(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, 12))
        c = F.relu(self.norm(self.group(h.transpose(1, 2)))).transpose(1, 2)
        a, g = self.mlp(c).chunk(2, dim=-1)
        return self.head(h + self.back(a * g.sigmoid()))  # type: ignore[no-any-return]


def ids(batch: int = 3) -> Tensor:
    return torch.randint(0, 9, (batch, 5), generator=torch.Generator().manual_seed(batch))


def captured() -> tuple[nn.Module, fx.GraphModule]:
    torch.manual_seed(0)
    model = Tied()
    randomize(model, 0)
    return model, capture(model.eval(), (ids(),))


def half(analysis: Analysis) -> dict[Axis, Mask]:
    """Removes the first units of every class."""
    return {one.atom: np.arange(one.size) >= one.size // 2 for one in analysis.classes}


def sliced() -> tuple[nn.Module, fx.GraphModule, Analysis]:
    model, module = captured()
    analysis = analyzed(module)
    cut(analysis, half(analysis))
    return model, module, analysis


def calls(module: fx.GraphModule, *targets: Any) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.target in targets]


def test_the_classes_of_the_module() -> None:
    _, module = captured()
    assert sorted(one.size for one in analyzed(module).classes) == [3, 3, 4, 4, 6, 10]


def test_parameters_stay_the_same_objects_under_the_same_names() -> None:
    model, module = captured()
    before = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    module.train()(ids()).sum().backward()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    analysis = analyzed(module)
    cut(analysis, half(analysis))
    after = dict(module.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert {id(p) for p in after.values()} == held
    assert all(p.grad is None or p.grad.shape == p.shape for p in after.values())
    assert after["mlp.weight"].grad is not None
    module.train()(ids()).square().sum().backward()
    optimizer.step()
    assert all(p.isfinite().all() for p in after.values())


def test_the_state_dict_keeps_its_keys() -> None:
    model, module = captured()
    keys = list(model.state_dict())
    assert list(module.state_dict()) == keys
    analysis = analyzed(module)
    cut(analysis, half(analysis))
    assert list(module.state_dict()) == keys
    assert "passing" not in keys and "passing" in dict(module.named_buffers())


def test_tied_weights_stay_one_tensor() -> None:
    _, module, _ = sliced()
    assert module.get_parameter("head.weight") is module.get_parameter("table.weight")
    assert "head.weight" not in dict(module.named_parameters())
    assert module.get_parameter("table.weight").shape[1] == module.get_parameter("merge.weight").shape[0] < 12


def test_what_is_written_down_follows() -> None:
    _, module, _ = sliced()
    (split,) = calls(module, aten.split_with_sizes.default)
    assert split.args[1] == [5, 5] and not calls(module, aten.chunk.default)
    (conv,) = calls(module, aten.conv1d.default)
    weight = module.get_parameter("group.weight")
    groups = conv.args[6]
    assert groups == 2
    assert weight.shape[0] % groups == 0
    (view,) = calls(module, aten.view.default)
    assert view.args[1][2:] == [3, 2, 2]


def test_an_attention_keeps_its_trained_scale() -> None:
    _, module, _ = sliced()
    (attention,) = calls(module, aten.scaled_dot_product_attention.default)
    assert attention.kwargs["scale"] == pytest.approx(4**-0.5)


def test_a_whole_attention_keeps_its_implicit_scale() -> None:
    _, module = captured()
    analysis = analyzed(module)
    one = next(one for one in analysis.classes if any(m.name == "mlp.weight" for m in one.members))
    cut(analysis, {one.atom: np.arange(one.size) > 0})
    (attention,) = calls(module, aten.scaled_dot_product_attention.default)
    assert attention.kwargs.get("scale") is None


@pytest.mark.parametrize("train", [False, True])
def test_copies_compute_the_same(train: bool) -> None:
    _, module, _ = sliced()
    copied = copy.deepcopy(module).train(train)
    module.train(train)
    assert torch.equal(copied(ids(4)), module(ids(4)))


def test_the_noted_sizes_are_those_of_the_sliced_module() -> None:
    _, module, _ = sliced()
    module.eval()
    found: dict[str, tuple[int, ...]] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                found[n.name] = tuple(result.shape)
            return result

    Shapes(module).run(ids(3), enable_io_processing=False)
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if node.name in found and node.op == "call_function":
            assert tuple(s if isinstance(s, int) else s.node.hint for s in value.shape) == found[node.name], (
                node
            )
    linears = calls(module, aten.linear.default)
    assert len(linears) == 5 and all(isinstance(node.meta["val"].shape[0], torch.SymInt) for node in linears)


def test_a_sliced_module_can_be_sliced_again() -> None:
    _, module, first = sliced()
    sizes = [one.size for one in first.classes]
    again = analyzed(module)
    assert [one.size for one in again.classes] == [size - size // 2 for size in sizes if size - size // 2 > 1]
    for seed in range(3):
        again = analyzed(module)
        masks = choose(again, np.random.default_rng(seed))
        masked = masked_copy(module, again, masks)
        cut(again, masks)
        for batch in (3, 5):
            given = ((ids(batch),), {})
            assert difference(outputs_of(masked, *given), outputs_of(module, *given)) <= 1e-5
        assert train_step(module, (ids(6),), {}) == ()
    (attention,) = calls(module, aten.scaled_dot_product_attention.default)
    assert attention.kwargs["scale"] == pytest.approx(4**-0.5)


def test_slicing_nothing_changes_nothing() -> None:
    _, module = captured()
    code, before = module.code, outputs_of(module, (ids(),), {})
    cut(analyzed(module), {})
    assert module.code == code
    assert torch.equal(before[0], outputs_of(module, (ids(),), {})[0])


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).mean((2, 3), keepdim=True).squeeze().squeeze(1))  # type: ignore[no-any-return]


def test_a_squeeze_leaves_the_last_unit_in_place() -> None:
    module = capture(Squeezed().eval(), (torch.randn(3, 3, 5, 5),))
    analysis = analyzed(module)
    (one,) = analysis.classes
    masks = {one.atom: np.arange(8) == 5}
    masked = masked_copy(module, analysis, masks)
    cut(analysis, masks)
    given = ((torch.randn(4, 3, 5, 5),), {})
    assert difference(outputs_of(masked, *given), outputs_of(module, *given)) <= 1e-5


class Shared(nn.Module):
    """Writes into a part of a tensor that is read as a whole later on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h[:, :2].add_(1.0)
        return self.b(h.sum(-1))  # type: ignore[no-any-return]


def test_writing_into_a_part_is_not_followed() -> None:
    analysis = analyzed(capture(Shared().eval(), (torch.randn(3, 5, 6),)))
    assert analysis.classes == ()
    assert [(node.operator, node.reason) for node in analysis.opaque] == [
        ("aten.add_", "writes into a tensor that is read by another name, too")
    ]


class Halved(nn.Module):
    """Needs an even batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(-1, 2, 8).sum(1))  # type: ignore[no-any-return]


def test_a_batch_that_must_be_even_is_understood() -> None:
    module = capture(Halved().eval(), (torch.randn(4, 6),))
    analysis = analyzed(module)
    assert [one.size for one in analysis.classes] == [8]
    masks = half(analysis)
    masked = masked_copy(module, analysis, masks)
    cut(analysis, masks)
    for batch in (4, 6):
        given = ((torch.randn(batch, 6),), {})
        assert difference(outputs_of(masked, *given), outputs_of(module, *given)) <= 1e-5
