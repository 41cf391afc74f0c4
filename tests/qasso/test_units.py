"""A unit's group: zero there, and the module computes what it computes without the unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from getac.fx_graph.capture import capture
from getac.qasso.units import UnitTable, along
from getac.training.regenerating import regenerate
from tests.qasso.nets import Attention, group, module_of, prepared, random_units, table_of
from tests.training.nets import ConvNet, images
from tools.fx_law import difference, outputs_of
from tools.torch_zoo.registry import example


def places(table: UnitTable) -> set[tuple[str, int]]:
    return {(entry.name, entry.dimension) for entry in table.entries}


def removal_error(module: fx.GraphModule, args: Any, kwargs: Any, seed: int) -> tuple[float, float]:
    """How far the regenerated module is from the one with zeros, and that one from the original."""
    table = table_of(module)
    units = random_units(table, seed)
    original = outputs_of(module, args, kwargs)
    for rows in table.rows(units):
        rows.fill(rows.entry.parameter)
    assert table.zero().nonzero()[:, 0].tolist() == units.tolist()
    zeroed = outputs_of(module, args, kwargs)
    regenerate(module, table.keep(units))
    return difference(zeroed, outputs_of(module, args, kwargs)), difference(original, zeroed)


@pytest.mark.parametrize("name", ["resnet", "resnext", "efficientnet", "unet", "bert", "gpt2", "llama"])
def test_zeroed_equals_removed(name: str) -> None:
    made = example(name)
    module = capture(made.module.eval(), made.args, made.kwargs)
    table = table_of(module)
    assert len(table.classes) == len(table.analysis.classes) and table.excluded == {}
    error, effect = removal_error(module, made.args, made.kwargs, seed=0)
    assert error < 1e-5 and effect > 1e-3


@pytest.mark.parametrize("per_channel", [True, False])
def test_zeroed_equals_removed_with_quantizers(per_channel: bool) -> None:
    for model, x in ((ConvNet(0.0), images()), (Attention(), torch.randn(2, 5, 6))):
        module = prepared(model, x, per_channel=per_channel).eval()
        error, effect = removal_error(module, (x,), {}, seed=1)
        assert error < 1e-5 and effect > 1e-3


def test_the_producing_side_alone() -> None:
    module = prepared()
    table = table_of(module)
    names = ("a.weight", "norm_a.weight", "norm_a.bias", "deep.weight", "norm_deep.weight", "norm_deep.bias")
    assert places(table) == {(name, 0) for name in (*names, "b.weight", "b.bias")}
    assert (
        [one.size for one in table.classes] == [8, 12] and list(table.offsets) == [0, 8] and table.size == 20
    )
    assert table.class_of.tolist() == [0] * 8 + [1] * 12
    assert table.counts.tolist() == [3 * 9 + 2 + 9 + 2] * 8 + [8 * 9 + 1] * 12
    by_name = {entry.name: entry for entry in table.entries}
    quantizer = by_name["a.weight"].quantizer
    assert quantizer is not None and quantizer.name == "a.weight_quantizer" and quantizer.d.shape == (8,)
    assert by_name["a.weight"].steers and not by_name["b.bias"].steers and by_name["b.bias"].quantizer is None


def test_a_square_layer_between_residuals_gives_its_rows() -> None:
    """Rows and columns are one class in the network, and two dimensions of the layer."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.a(x))
            return self.head(h + F.relu(self.b(h)))  # type: ignore[no-any-return]

    table = table_of(module_of(Residual(), torch.randn(2, 3)))
    assert places(table) == {("a.weight", 0), ("a.bias", 0), ("b.weight", 0), ("b.bias", 0)}


class Shaped(nn.Module):
    """One hidden layer, with something between the layers."""

    def __init__(self, between: Callable[[Tensor], Tensor], bias: bool = True) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(3, 6, bias=bias), nn.Linear(6, 2), between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "between", [torch.sigmoid, torch.cos, lambda x: x + 1, torch.exp, lambda x: F.relu(x) - 2]
)
def test_a_constant_other_than_zero_takes_both_sides(between: Callable[[Tensor], Tensor]) -> None:
    module = module_of(Shaped(between).eval(), torch.randn(4, 3))
    assert places(table_of(module)) == {("a.weight", 0), ("a.bias", 0), ("b.weight", 1)}
    error, effect = removal_error(module, (torch.randn(4, 3),), {}, seed=2)
    assert error < 1e-5 and effect > 1e-3


@pytest.mark.parametrize("between", [torch.relu, torch.tanh, F.gelu, F.silu, lambda x: x.sigmoid() * x])
def test_what_maps_zero_to_zero_needs_one_side(between: Callable[[Tensor], Tensor]) -> None:
    module = module_of(Shaped(between), torch.randn(4, 3))
    assert places(table_of(module)) == {("a.weight", 0), ("a.bias", 0)}


class Gated(nn.Module):
    """A sigmoid in front of a layer, and one that only scales what is zero already."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.gate = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.squeeze, self.b = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.a(x)))
        mean = h.mean((2, 3), keepdim=True)
        h = h * self.gate(mean).sigmoid() * self.excite(torch.sigmoid(self.squeeze(mean)))
        return self.b(h)  # type: ignore[no-any-return]

    def excite(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True)


def test_gates() -> None:
    x = torch.randn(2, 3, 6, 6)
    module = module_of(Gated().eval(), x)
    table = table_of(module)
    assert ("b.weight", 1) not in places(table) and ("gate.weight", 0) in places(table)
    assert ("gate.weight", 1) not in places(table)
    error, effect = removal_error(module, (x,), {}, seed=3)
    assert error < 1e-5 and effect > 1e-3


class Normed(nn.Module):
    """A norm without parameters: a running mean of its own is left of a channel of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, affine=False), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)))  # type: ignore[no-any-return]


def test_buffers_are_no_part_of_a_group() -> None:
    x = torch.randn(2, 3, 4, 4)
    module = module_of(Normed().eval(), x)
    assert places(table_of(module)) == {("a.weight", 0), ("a.bias", 0), ("b.weight", 1)}
    mean = module.get_buffer("norm.running_mean").clone()
    assert mean.abs().min() > 0
    error, _ = removal_error(module, (x,), {}, seed=4)
    assert error < 1e-5 and set(module.get_buffer("norm.running_mean").tolist()) <= set(mean.tolist())


class Summed(nn.Module):
    """The sum over units keeps what a buffer adds to each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)
        self.register_buffer("added", torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x) + self.added
        return self.b(h) + h.sum(-1, keepdim=True)  # type: ignore[no-any-return]


def test_what_training_cannot_zero_is_left_out_with_the_reason() -> None:
    model = Summed()
    table = table_of(module_of(model, torch.randn(4, 3)))
    assert table.classes == [] and table.size == 0 and table.entries == []
    assert list(table.excluded.values()) == [
        "its activation does not vanish with its parameters: numbers that are not trained add to it"
    ]
    assert table.rows(torch.zeros(0, dtype=torch.long)) == [] and table.zero().shape == (0,)


def test_frozen_layers() -> None:
    model = Shaped(torch.relu)
    module = module_of(model, torch.randn(4, 3))
    module.get_parameter("a.weight").requires_grad_(False)
    assert places(table_of(module)) == {("a.bias", 0), ("b.weight", 1)}  # the rows cannot be zeroed
    module.requires_grad_(False)
    assert list(table_of(module).excluded.values()) == [
        "none of its parameters is trained: they are frozen, or in no group of the optimizer"
    ]


def test_units_that_overlap_lie_in_two_layers() -> None:
    table = table_of(prepared(Attention(), torch.randn(2, 5, 6)))
    by_name = {entry.name: entry for entry in table.entries}
    assert {name for name, entry in by_name.items() if len(entry.owners) == 2} == {
        "q.weight", "q.bias", "k.weight", "k.bias", "v.weight", "v.bias"
    }  # fmt: skip
    assert "out.weight" not in by_name
    for unit in range(table.size):  # rows() against the literal search
        rows = {one.entry.name: one for one in table.rows(torch.tensor([unit]))}
        found = {entry.name: mask for entry, mask in group(table, unit)}
        assert rows.keys() == found.keys()
        for name, mask in found.items():
            filled = torch.ones_like(by_name[name].parameter)
            rows[name].fill(filled)
            assert torch.equal(filled == 0, mask)


def test_tied_parameters_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 2)
            self.c.weight = self.b.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.c(self.b(self.a(x).relu()).relu()).relu())  # type: ignore[no-any-return]

    x = torch.randn(4, 3)
    module = module_of(Tied().eval(), x)
    table = table_of(module)
    assert sum(entry.parameter is module.get_parameter("b.weight") for entry in table.entries) == 1
    assert removal_error(module, (x,), {}, seed=5)[0] < 1e-5


def test_sums_against_a_loop() -> None:
    table = table_of(prepared(Attention(), torch.randn(2, 5, 6)))
    found = table.sums(lambda entry: along(entry.parameter.double().square(), entry.dimension, Tensor.sum))
    for unit in range(table.size):
        squares = [
            entry.parameter.detach()[mask].double().square().sum() for entry, mask in group(table, unit)
        ]
        assert float(found[unit]) == pytest.approx(float(sum(squares)), rel=1e-12)
