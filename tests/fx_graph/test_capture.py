"""The captured module computes what the model computes, in evaluation and in training."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import getac
from getac.errors import UnsupportedModelError
from getac.fx_graph.capture import capture
from tools.fx_law import difference, randomize, tensors_of


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop, self.out = (
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Dropout(0.3),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(F.relu_(self.norm(self.conv(x))).mean((2, 3))))  # type: ignore[no-any-return]


class DropPath(nn.Module):
    """Stochastic depth in the forms in use: a drawn mask, and a rounded one."""

    def __init__(self, rounded: bool) -> None:
        super().__init__()
        self.rounded, self.a, self.b = rounded, nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(F.gelu(self.a(x)))
        if not self.training:
            return x + y  # type: ignore[no-any-return]
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        if self.rounded:
            mask = (0.7 + torch.rand(shape)).floor_()
            return x + y.div(0.7) * mask  # type: ignore[no-any-return]
        mask = x.new_empty(shape).bernoulli_(0.7)
        return x + y * mask.div_(0.7)  # type: ignore[no-any-return]


class Wrapped(nn.Module):
    """A block without gradients, and autocast turned off."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(6, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.a(x)
        with torch.no_grad():
            scale, shift = self.norm(h).sigmoid(), self.b(h).mean()
        with torch.autocast("cpu", enabled=False):
            y = self.b(h * scale + shift)
        return y, scale


class Applied(nn.Module):
    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(6, 5, num_layers=2, dropout=0.4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]  # type: ignore[no-any-return]


class Saved(nn.Module):
    """Tied weights, buffers of both kinds, a constant in the code, and a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out, self.unused = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False), nn.Linear(2, 2)
        self.out.weight = self.table.weight
        self.register_buffer("kept", torch.randn(8))
        self.register_buffer("passing", torch.randn(8), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.table(ids) * self.kept + self.passing + torch.tensor([2.0, 1.0] * 4))  # type: ignore[no-any-return]


def tied() -> tuple[nn.Module, Tensor]:
    return Saved(), torch.randint(0, 9, (3, 5))


IMAGE, ROWS = (3, 3, 6, 6), (3, 6)
MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "batch norm and dropout": lambda: (Images(), torch.randn(IMAGE)),
    "drop path": lambda: (DropPath(rounded=False), torch.randn(3, 5, 6)),
    "drop path by rounding": lambda: (DropPath(rounded=True), torch.randn(3, 5, 6)),
    "no_grad and autocast": lambda: (Wrapped(), torch.randn(ROWS)),
    "lstm with dropout": lambda: (Recurrent(), torch.randn(3, 4, 6)),
    "attention": lambda: (
        Applied(
            lambda s, x: s.mha(x, x, x)[0], mha=nn.MultiheadAttention(6, 2, dropout=0.2, batch_first=True)
        ),
        torch.randn(3, 5, 6),
    ),
    "attention without weights": lambda: (
        Applied(
            lambda s, x: s.mha(x, x, x, need_weights=False)[0],
            mha=nn.MultiheadAttention(6, 2, dropout=0.2, batch_first=True),
        ),
        torch.randn(3, 5, 6),
    ),
    "encoder layer": lambda: (
        Applied(lambda s, x: s.e(x), e=nn.TransformerEncoderLayer(6, 2, 12, dropout=0.2, batch_first=True)),
        torch.randn(3, 5, 6),
    ),
    "tied": tied,
    "instance norm": lambda: (
        Applied(lambda s, x: s.n(x), n=nn.InstanceNorm2d(3, affine=True, track_running_stats=True)),
        torch.randn(IMAGE),
    ),
    "batch norm without statistics": lambda: (
        Applied(lambda s, x: s.n(x), n=nn.BatchNorm2d(3, track_running_stats=False)),
        torch.randn(IMAGE),
    ),
    "rrelu": lambda: (Applied(lambda s, x: s.n(s.l(x)), l=nn.Linear(6, 8), n=nn.RReLU()), torch.randn(ROWS)),
    "every dropout": lambda: (
        Applied(
            lambda s, x: s.d(s.c(s.b(s.a(s.i(x))))),
            i=nn.Conv2d(3, 4, 1),
            a=nn.Dropout2d(),
            b=nn.AlphaDropout(),
            c=nn.FeatureAlphaDropout(),
            d=nn.Dropout(inplace=True),
        ),
        torch.randn(IMAGE),
    ),
    "weight norm": lambda: (
        Applied(lambda s, x: s.c(x), c=nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))),
        torch.randn(IMAGE),
    ),
}

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")


def both(name: str) -> tuple[nn.Module, torch.fx.GraphModule, Tensor]:
    """A model, what is captured of a copy of it (so that they share no buffers), and an input."""
    torch.manual_seed(0)
    model, x = MODELS[name]()
    randomize(model, 0)
    return model, capture(copy.deepcopy(model), (x,)), x


def run(module: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    return tensors_of(module(x.clone()))


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_is_the_same_bit_by_bit(name: str) -> None:
    model, module, x = both(name)
    assert all(torch.equal(a, b) for a, b in zip(run(model.eval(), x), run(module.eval(), x), strict=True))
    longer = torch.cat([x, x.flip(0)[:2]])
    assert difference(run(model, longer), run(module, longer)) <= 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_training_is_the_same(name: str) -> None:
    """The same outputs from the same random numbers, the same gradients, the same running statistics."""
    model, module, x = both(name)
    model.train(), module.train()
    for _ in range(2):
        ours, theirs = run(module, x), run(model, x)
        assert difference(theirs, ours) == 0
    for outputs in (ours, theirs):
        torch.stack([o.square().mean() for o in outputs if o.requires_grad]).sum().backward()
    gradients = dict(module.named_parameters())
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == (gradients[key].grad is None), key
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[key].grad, parameter.grad, rtol=1e-5, atol=1e-6)
    buffers = dict(module.named_buffers())
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in model.named_buffers())


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_the_models_own_under_their_names(name: str) -> None:
    torch.manual_seed(0)
    model, x = MODELS[name]()
    own = dict(model.named_parameters(remove_duplicate=False))
    keys, modes = list(model.state_dict()), [part.training for part in model.modules()]
    module = capture(model, (x,))
    captured = dict(module.named_parameters(remove_duplicate=False))
    assert list(captured) == list(own) and all(captured[key] is own[key] for key in own)
    assert list(module.state_dict()) == keys
    assert [part.training for part in model.modules()] == modes
    run(model, x)  # the model is as it was


@pytest.mark.parametrize("name", ["batch norm and dropout", "drop path", "tied", "lstm with dropout"])
def test_copies_and_new_exports_of_it_work(name: str) -> None:
    model, module, x = both(name)
    copied = copy.deepcopy(module)
    again = torch.export.export(module.eval(), (x,), strict=False).module()
    assert torch.equal(run(model.eval(), x)[0], run(again, x)[0])
    assert torch.equal(run(model.train(), x)[0], run(copied.train(), x)[0])
    assert torch.equal(run(model.eval(), x)[0], run(copied.eval(), x)[0])


def test_the_mode_of_the_model_is_kept() -> None:
    assert not capture(Images().eval(), (torch.randn(IMAGE),)).training
    assert capture(Images(), (torch.randn(IMAGE),)).training


def test_a_frozen_batch_norm_inside_of_a_model_in_training_stays_frozen() -> None:
    model = Images()
    model.norm.eval()
    module = capture(model, (torch.randn(IMAGE),))
    assert not model.norm.training and model.drop.training
    before = model.norm.running_mean.clone()
    module.train()(torch.randn(IMAGE))
    assert torch.equal(before, model.norm.running_mean)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)

    def forward(
        self,
        pair: tuple[Tensor, list[Tensor]],
        named: Mapping[str, Tensor],
        *,
        scale: Tensor,
        flag: bool = True,
    ) -> dict[str, Any]:
        h = self.a(pair[0] + pair[1][0]) * named["gain"] + scale
        return {"sum": h + 1 if flag else h, "parts": [h.relu(), (h.tanh(),)]}


def nested(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    rows = [torch.randn(batch, 6) for _ in range(2)]
    return ((rows[0], [rows[1]]), {"gain": torch.randn(batch, 8)}), {"scale": torch.randn(8), "flag": False}


def test_nested_inputs_share_one_dynamic_batch() -> None:
    model = Nested()
    args, kwargs = nested(3)
    module = capture(model, args, kwargs)
    for batch in (3, 7):
        args, kwargs = nested(batch)
        ours, theirs = module(*args, **kwargs), model(*args, **kwargs)
        assert ours.keys() == theirs.keys() and isinstance(ours["parts"][1], tuple)
        assert difference(tensors_of(theirs), tensors_of(ours)) == 0


def sizes_of_inputs(module: torch.fx.GraphModule) -> list[Any]:
    return [node.meta["val"].shape[0] for node in module.graph.nodes if node.op == "placeholder"]


def test_a_batch_of_one_stays_static_and_so_does_one_that_shall() -> None:
    model = nn.Sequential(nn.Linear(6, 8))
    assert isinstance(sizes_of_inputs(capture(model, (torch.randn(3, 6),)))[0], torch.SymInt)
    assert sizes_of_inputs(capture(model, (torch.randn(1, 6),), dynamic_batch=False)) == [1]
    assert sizes_of_inputs(capture(model, (torch.randn(3, 6),), dynamic_batch=False)) == [3]


def test_an_example_of_one_sample_is_warned_of_once() -> None:
    model = nn.Bilinear(6, 6, 8)
    with pytest.warns(UserWarning, match="first dimension of 1") as caught:
        module = capture(model, (torch.randn(1, 6), torch.randn(1, 6)))
    assert [str(one.message).count("(1, 6)") for one in caught] == [2]
    assert "two samples" in str(caught[0].message)
    assert sizes_of_inputs(module) == [1, 1]
    with pytest.warns(UserWarning, match="first dimension of 1"):
        getac.analyze(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2)), (torch.randn(1, 6),))


@pytest.mark.parametrize("dynamic_batch", [True, False])
def test_an_example_of_two_samples_and_a_batch_that_shall_be_one_are_not(dynamic_batch: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        module = capture(nn.Linear(6, 8), (torch.randn(1 + dynamic_batch, 6),), dynamic_batch=dynamic_batch)
    assert [isinstance(size, int) for size in sizes_of_inputs(module)] == [not dynamic_batch]


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.a(x)  # type: ignore[no-any-return]
        return -self.a(x)  # type: ignore[no-any-return]


def test_a_branch_on_data_is_refused_with_its_line() -> None:
    model = Branching().eval()
    with pytest.raises(UnsupportedModelError) as caught:
        capture(model, (torch.randn(3, 6),))
    assert caught.value.where is not None and caught.value.where.startswith("Branching")
    assert "test_capture.py" in caught.value.where and "if x.sum() > 0" in caught.value.where
    assert "torch.where" in str(caught.value.hint)
    assert not model.training


@pytest.mark.parametrize("args", [(), (torch.randn(3, 5),), (torch.randn(3, 6),) * 3, ("text",)])
def test_inputs_that_do_not_fit_are_refused(args: tuple[Any, ...]) -> None:
    with pytest.raises(UnsupportedModelError, match="cannot capture"):
        capture(nn.Sequential(nn.Linear(6, 8)), args)


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        ((), "give example inputs as Linear.forward("),
        ((torch.randn(3, 6),) * 2, "give example inputs as Linear.forward("),
        ((torch.randn(3, 5),), "the model itself runs with these example inputs"),
    ],
)
def test_the_way_out_fits_the_failure(args: tuple[Any, ...], hint: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        capture(nn.Linear(6, 8), args)
    assert hint in str(caught.value.hint) and "torch.where" not in str(caught.value.hint)


def test_autocast_inside_of_the_model_is_refused() -> None:
    def reduced(s: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return s.a(x)  # type: ignore[no-any-return]

    with pytest.raises(UnsupportedModelError, match="reduced precision"):
        capture(Applied(reduced, a=nn.Linear(6, 8)), (torch.randn(3, 6),))


def test_blocks_leave_no_module_behind() -> None:
    _, module, _ = both("no_grad and autocast")
    assert {name for name, _ in module.named_modules()} == {"", "a", "b", "norm"}
    names = {node.target.__name__ for node in module.graph.nodes if node.op == "call_function"}
    assert not any(name.startswith("wrap") for name in names)


def test_one_tensor_as_two_inputs_is_two_inputs() -> None:
    class Difference(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x - y

    x = torch.randn(2, 3)
    module = capture(Difference(), (x, x))
    torch.testing.assert_close(module(torch.full((2, 3), 3.0), torch.ones(2, 3)), torch.full((2, 3), 2.0))


class Scaled(nn.Module):
    """Without gradients a tensor that has one is scaled in place, and another is returned as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h, y = self.a(x), self.b(x)
        with torch.no_grad():
            h.mul_(2)
            z = y
            mean = (h + y).mean()
        return h.sigmoid() * mean + z  # type: ignore[no-any-return]


def test_a_block_without_gradients_leaves_the_gradients_of_what_it_is_given() -> None:
    model, x = Scaled(), torch.randn(3, 6)
    module = capture(copy.deepcopy(model), (x,))
    outputs = model(x), module(x)
    assert torch.equal(*outputs)
    torch.autograd.backward([one.square().sum() for one in outputs])
    for key, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, model.get_parameter(key).grad)
