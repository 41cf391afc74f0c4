"""A model that computes something else in evaluation is captured with that, or refused by name."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from getac.errors import UnsupportedModelError
from getac.fx_graph.capture import capture
from getac.fx_graph.onnx_export import export_module
from tools.fx_law import tensors_of

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")


class Layer(nn.Module):
    """A linear layer, an average of its outputs, a counter of steps, and a forward of the test's own."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.function, self.a = function, nn.Linear(6, 6)
        self.register_buffer("average", torch.linspace(0.1, 1, 6))
        self.register_buffer("least", torch.full((6,), torch.inf))
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, self.a(x))


def rows(count: int = 4) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(5))


class Forward(nn.Module):
    """What the models here have; export names lines of functions called `forward` alone."""

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.register_buffer("average", torch.linspace(0.1, 1, 6))


class Noise(Forward):
    def forward(self, x: Tensor) -> Any:
        h = self.a(x)
        if self.training:
            h = h + torch.randn_like(h)  # the noise
        return h * 2


class Auxiliary(Forward):
    def forward(self, x: Tensor) -> Any:
        h = self.a(x)
        return (h, h.relu()) if self.training else h  # the branch


class Softmax(Forward):
    def forward(self, x: Tensor) -> Any:
        h = self.a(x)
        return h if self.training else F.softmax(h, -1)  # the branch


class OwnDropout(Forward):
    def forward(self, x: Tensor) -> Any:
        h = self.a(x)
        if self.training:
            h = h * torch.bernoulli(torch.full_like(h, 0.9)) / 0.9  # the mask
        return h


class Constant(Forward):
    def forward(self, x: Tensor) -> Any:
        return self.a(x) * (0.5 if self.training else 1.0)


class AlwaysOn(Forward):
    def forward(self, x: Tensor) -> Any:
        return F.dropout(self.a(x), 0.5)  # always


class Renewed(Forward):
    """What is read is the sum itself; no buffer is read back."""

    def forward(self, x: Tensor) -> Any:
        h = self.a(x)
        if self.training:
            self.average = self.average * 0.9 + h.detach().mean(0) * 0.1  # the sum
        return h - self.average


REFUSED: dict[type[Forward], tuple[str, str]] = {
    Noise: ("output", "# the noise"),
    Auxiliary: ("2 outputs, the model has 1", "# the branch"),
    Softmax: ("output", "# the branch"),
    OwnDropout: ("output", "# the mask"),
    Constant: ("output", ""),
    Renewed: ("output", "# the sum"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_branch_on_the_mode_is_refused_with_its_line(kind: type[Forward]) -> None:
    torch.manual_seed(0)
    model = kind()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(UnsupportedModelError, match="in evaluation what the model computes") as caught:
        capture(model, (rows(),))
    found, line = REFUSED[kind]
    assert found in str(caught.value.found) and line in str(caught.value.where)
    assert "test_eval_check.py" in str(caught.value.where) or not line
    assert model.training and model.a.training and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())


def averaged(s: Any, h: Tensor) -> Any:
    if s.training:
        s.average.mul_(0.9).add_(h.detach().mean(0) * 0.1)
    return h - s.average


def averaged_without_gradient(s: Any, h: Tensor) -> Any:
    if s.training:
        with torch.no_grad():
            s.average.lerp_(h.mean(0), 0.1)
    return h - s.average


def least(s: Any, h: Tensor) -> Any:
    if s.training:
        s.least.copy_(torch.minimum(s.least, h.detach().amin(0)))
    return h - s.least.clamp(max=1)


def counted(s: Any, h: Tensor) -> Any:
    if s.training:
        s.steps += 1
    return h * s.steps


def first_written(s: Any, h: Tensor) -> Any:
    if s.training:
        s.average[:1] = h.detach().mean()
    return h - s.average


def averaged_always(s: Any, h: Tensor) -> Any:
    s.average.mul_(0.9).add_(h.detach().mean(0) * 0.1)
    return h - s.average


def clamped_always(s: Any, h: Tensor) -> Any:
    s.average.clamp_(0, 1)  # changes nothing yet
    return h - s.average


FOLLOWED: dict[str, Callable[[], nn.Module]] = {
    **{
        one.__name__: lambda one=one: Layer(one)  # type: ignore[misc]
        for one in (
            averaged,
            averaged_without_gradient,
            least,
            counted,
            first_written,
            averaged_always,
            clamped_always,
        )
    },
    "spectral norm": lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 6)), nn.ReLU()),
    "spectral parametrization": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 6))),
    "spectral convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), parametrizations.spectral_norm(nn.Conv1d(2, 4, 3))
    ),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_buffers_are_written_in_the_modes_that_write_them(name: str) -> None:
    """Training, evaluation, training again: the same outputs, gradients and buffers, bit by bit."""
    torch.manual_seed(0)
    model = FOLLOWED[name]()
    before = copy.deepcopy(model.state_dict())
    module = capture(copy.deepcopy(model), (rows(),))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    for training in (True, False, True):
        model.train(training), module.train(training)
        wanted, found = tensors_of(model(rows(5))), tensors_of(module(rows(5)))
        assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
        buffers = dict(module.named_buffers())
        assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())
    torch.autograd.backward([wanted[0].square().sum(), found[0].square().sum()])
    gradients = {key: parameter.grad for key, parameter in module.named_parameters()}
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and gradients[key] is not None, key
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["averaged", "spectral parametrization"])
def test_such_a_module_copies_compiles_and_exports(name: str) -> None:
    torch.manual_seed(0)
    module = capture(FOLLOWED[name](), (rows(),)).eval()
    wanted = module(rows(3))
    assert torch.equal(copy.deepcopy(module)(rows(3)), wanted)
    assert torch.equal(capture(module, (rows(),))(rows(3)), wanted)
    torch.testing.assert_close(torch.compile(module, backend="aot_eager")(rows(3)), wanted)
    assert len(export_module(module, (rows(),)).graph.output) == 1


def test_training_goes_on_through_spectral_norm() -> None:
    losses = []
    for captured in (False, True):
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 6)))
        if captured:
            model = capture(model, (rows(),))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(rows()).square().mean()
            torch.autograd.backward(loss)
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == losses[1]


def test_a_dropout_that_is_always_on_stays_on() -> None:
    torch.manual_seed(0)
    model = AlwaysOn()
    module, x = capture(model, (rows(),)), rows()
    for mode in (True, False):
        results = []
        for one in (model, module):
            torch.manual_seed(1)
            results.append(one.train(mode)(x))
        assert torch.equal(*results) and (results[0] == 0).any()


def test_random_numbers_in_evaluation_that_are_not_dropout_are_kept() -> None:
    def masked(s: Any, h: Tensor) -> Any:
        return h * (torch.rand_like(h) >= 0.3)

    model = Layer(masked)
    module = capture(model, (rows(),)).eval()
    torch.manual_seed(1)
    wanted = model.eval()(rows())
    torch.manual_seed(1)
    assert torch.equal(module(rows()), wanted) and (wanted == 0).any()


def test_a_model_that_does_not_evaluate_is_captured_with_a_warning() -> None:
    def only_in_training(s: Any, h: Tensor) -> Any:
        if not s.training:
            raise NotImplementedError("no evaluation")
        return h

    with pytest.warns(UserWarning, match="does not run in evaluation .* no evaluation"):
        module = capture(Layer(only_in_training), (rows(),))
    assert module(rows()).shape == (4, 6)


def test_inputs_that_are_written_to_and_frozen_attention_are_compared_as_they_are() -> None:
    """Without gradients torch takes a fast path in evaluation, that fills masked rows with zeros."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
            self.e = nn.TransformerEncoder(layer, 2)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.e(x.mul_(2), src_key_padding_mask=mask)  # type: ignore[no-any-return]

    x, mask = torch.randn(2, 3, 6), torch.tensor([[False, False, True], [False, True, True]])
    before, fast = x.clone(), torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        capture(Encoder().requires_grad_(False), (x, mask), dynamic_batch=False)
    assert torch.equal(x, before) and torch.backends.mha.get_fastpath_enabled() == fast
