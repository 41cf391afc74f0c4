"""The four lines: from a model to an integer ONNX file; and what is refused before anything is lost."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, fx, nn
from torch.nn import functional as F

import getac
from getac.errors import BadInputError, OptionError
from getac.fx_graph.capture import capture
from getac.qasso.geta import GETA
from getac.qasso.progress import LiveLine
from getac.qasso.schedule import Schedule
from getac.runtime import open_session, run
from getac.training.quantizers import find_quantizers
from tests.qasso.runs import Small, images, model, prepared, train


class Digits(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.b, self.norm_b = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.c, self.norm_c = nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm_a(self.a(x)))
        h = F.relu(self.norm_b(self.b(h)))
        h = F.relu(h + self.norm_c(self.c(h)))
        return self.head(h.mean((2, 3)))  # type: ignore[no-any-return]


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1347 to train on, 450 to test on."""
    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.target))
    x = torch.from_numpy(data.images[order, None].astype(np.float32) / 8 - 1)
    y = torch.from_numpy(data.target[order].astype(np.int64))
    return x[:1347], y[:1347], x[1347:], y[1347:]


def accuracy(outputs: Any, target: Tensor) -> float:
    return float((torch.as_tensor(outputs).argmax(1) == target).float().mean())


def test_digits_from_end_to_end(tmp_path: Path) -> None:
    x, y, test_x, test_y = digits()
    torch.manual_seed(0)
    epochs, batch = 8, 64
    geta = getac.GETA(Digits(), (x[:2],), calibration=[x[:256]])
    optimizer = geta.qasso(lr=3e-3, steps=epochs * (len(x) // batch), weight_decay=1e-4)
    geta.model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x))[: len(x) // batch * batch].reshape(-1, batch):
            optimizer.zero_grad()
            F.cross_entropy(geta.model(x[chosen]), y[chosen]).backward()
            optimizer.step()

    metrics = optimizer.metrics()
    assert metrics.stage == "cool-down" and metrics.sparsity == pytest.approx(0.5, abs=0.03)
    assert metrics.macs < 0.5 and metrics.bops < 0.04
    subnet = geta.construct_subnet()
    with torch.no_grad():
        trained = subnet(test_x)
    assert accuracy(trained, test_y) > 0.9

    report = geta.lower(tmp_path / "digits.onnx", bench=False)
    session = open_session(tmp_path / "digits.onnx")
    (name,) = (one.name for one in session.get_inputs())
    (lowered,) = run(session, {name: test_x.numpy()}).values()
    assert sum(layer.kernel.startswith("integer") for layer in report.layers) >= 3
    assert accuracy(lowered, test_y) == pytest.approx(accuracy(trained, test_y), abs=0.01)
    assert np.abs(lowered - trained.numpy()).max() < 0.1 * trained.abs().max().item()


SCHEDULE = Schedule(2, 6, 3, 9, 3, 4)


def small(**options: Any) -> GETA:
    return GETA(model(), images(0), **{"calibration": [images(0)], "align": 1} | options)


def test_training_starts_with_more_bits() -> None:
    assert {one.bits.most for one in find_quantizers(small().model)} == {16}
    assert {one.bits.most for one in find_quantizers(small(start_bits=10).model)} == {10}
    found = {one.bits[1:] for one in find_quantizers(small(start_bits=4, weight_bits=(3, 6)).model)}
    assert found == {(3, 6), (8, 8)}


def test_the_subnet_is_the_model_small_and_plain() -> None:
    geta = small()
    train(geta.model, geta.qasso(steps=30), 30)
    subnet = geta.construct_subnet()
    assert subnet is geta.model and type(subnet).__mro__[1] is fx.GraphModule and not subnet.training
    assert all(one.bits.fixed for one in find_quantizers(subnet))
    before = subnet(images(7))
    assert torch.equal(geta.construct_subnet()(images(7)), before)  # a second time changes nothing


def test_what_was_deferred_is_removed_in_the_end() -> None:
    geta = small()
    train(geta.model, geta.qasso(steps=30, removal="never"), 30)
    before, size = geta.model.eval()(images(7)), geta.model.get_parameter("c.weight").numel()
    after = geta.construct_subnet()(images(7))
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    assert geta.model.get_parameter("c.weight").numel() < size


def test_a_schedule_or_a_few_steps() -> None:
    assert small().qasso(schedule=SCHEDULE, steps=30).schedule is SCHEDULE
    assert small().qasso(steps=15, projection_periods=1).schedule.joint_periods == 3


def test_unfinished_training_is_said_so() -> None:
    geta = small()
    train(geta.model, optimizer := geta.qasso(steps=30), 12)
    state = optimizer.state_dict()["qasso"]
    with pytest.raises(
        BadInputError, match=r"end of its joint stage(.|\n)*15 of the 30 steps(.|\n)*12 steps"
    ):
        geta.construct_subnet()
    assert optimizer.state_dict()["qasso"]["bounds"] == state["bounds"]
    subnet = geta.construct_subnet(unfinished=True)
    assert all(one.bits.fixed for one in find_quantizers(subnet)) and 0 < optimizer.metrics().sparsity < 0.5


def test_line_is_quiet_without_a_terminal() -> None:
    geta = small()
    optimizer = geta.qasso(steps=30)
    quiet, loud = io.StringIO(), io.StringIO()
    for text, is_terminal in ((quiet, False), (loud, True)):
        console = Console(file=text, force_terminal=is_terminal, width=120)
        with LiveLine(optimizer, every=1, console=console) as line:
            train(geta.model, optimizer, 2)
            line.update(0.5)
    assert quiet.getvalue() == ""
    assert "step 4/30" in loud.getvalue() and "loss 0.5000" in loud.getvalue()
    assert "sparsity 0% of 50%" in loud.getvalue() and "BOPs" in loud.getvalue()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight_bits": (8, 4)}, "no number of bits"),
        ({"activation_bits": (8, 4)}, "no number of bits"),
        ({"weight_bits": (1, 8)}, "no number of bits"),
        ({"start_bits": 32}, "start_bits"),
        ({"sparsity": 1.0}, r"\[0, 1\)"),
        ({"sparsity": -0.1}, r"\[0, 1\)"),
        ({"align": 0}, "align"),
        ({"keep": ["nothing.*"]}, "matches no parameter"),
        ({"saliency": "luck"}, "luck"),
        ({"minimum": 0}, "1 or more"),
        ({"cost": {"nope": 1.0}}, "no class nope"),
    ],
)
def test_refuses_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        small(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": None}, "how many steps"),
        ({"steps": 5}, "more periods than steps"),
        ({"steps": 100, "warm_up": 90, "joint": 20}, "longer than the training"),
        ({"steps": 10, "schedule": Schedule(2, 6, 3, 9, 3, 4)}, "longer than the training"),
        ({"schedule": SCHEDULE, "warm_up": 0.7, "joint_periods": 9}, r"said twice\n.*warm_up, joint_periods"),
        ({"schedule": SCHEDULE, "cool_down": 3}, "said twice(.|\n)*cool_down=3"),
        ({"steps": 100, "lr": -1}, "no learning rate"),
        ({"steps": 100, "variant": "lion"}, "sgd, adam, adamw"),
        ({"steps": 100, "joint": 0}, "quantization alone"),
        ({"steps": 100, "schedule": "long"}, "Schedule"),
        ({"steps": 100, "params": [torch.zeros(3)]}, "not the module's"),
    ],
)
def test_refuses_options_of_the_optimizer(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        small().qasso(**options)


def test_a_pruned_model_is_not_pruned_again() -> None:
    geta = small(minimum=2)
    train(geta.model, geta.qasso(steps=30), 30)
    geta.construct_subnet()
    with pytest.raises(OptionError, match="pruned already"):
        geta.qasso(steps=30)


def test_refuses_what_was_captured() -> None:
    with pytest.raises(BadInputError, match="not prepared"):
        GETA(capture(Small(), (images(0),)), images(0))
    with pytest.raises(BadInputError, match="prepared already"):
        GETA(prepared(), images(0))
    with pytest.raises(BadInputError, match="no model"):
        GETA("resnet", images(0))  # type: ignore[arg-type]


def test_refuses_to_prune_what_is_frozen() -> None:
    with pytest.raises(BadInputError, match=r"0\.9 cannot be reached(.|\n)*frozen axes: .*kept on request"):
        small(sparsity=0.9, keep=["a.*", "c.*"])


def test_refuses_a_subnet_of_nothing() -> None:
    with pytest.raises(BadInputError, match="not trained"):
        small().construct_subnet()
