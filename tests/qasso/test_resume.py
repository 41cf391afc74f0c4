"""A training that is stored and resumed, in any stage, ends as if it had not been interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn

import getac
from getac.errors import BadInputError, OptionError
from getac.qasso.geta import GETA
from getac.qasso.joint import JointConstants
from getac.qasso.optimizer import QASSO
from getac.qasso.pruning import Pruning
from getac.qasso.schedule import Schedule
from getac.training.quantizers import find_quantizers
from tests.qasso.runs import Small, bits_of, images, prepared, train

SCHEDULE = Schedule(2, 6, 3, 9, 3, 4)
PAUSES = {"warm-up": 1, "projection": 5, "period": 8, "joint": 12, "removed": 14, "cool-down": 19}
Make = Callable[[fx.GraphModule], QASSO]


def make(module: fx.GraphModule, **options: Any) -> QASSO:
    chosen = {"schedule": SCHEDULE, "pruning": Pruning(0.5, align=1), "lr": 1e-2, "variant": "adam"}
    return QASSO(module, **{**chosen, **options})


def check_same_training(a: fx.GraphModule, b: fx.GraphModule, one: QASSO, two: QASSO) -> None:
    assert a.code == b.code
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name
    assert one.metrics() == two.metrics()
    assert one.position.redundant.tolist() == two.position.redundant.tolist()
    for x, y in zip(one.param_groups, two.param_groups, strict=True):
        assert {k: v for k, v in x.items() if k != "params"} == {k: v for k, v in y.items() if k != "params"}


@pytest.mark.parametrize("pause", PAUSES.values(), ids=PAUSES)
@pytest.mark.parametrize("removal", ["period", "end"])
def test_resumes_to_the_bit(tmp_path: Path, pause: int, removal: str) -> None:
    whole = prepared()
    reference = make(whole, removal=removal)
    expected = train(whole, reference, SCHEDULE.total)

    first = prepared()
    optimizer = make(first, removal=removal)
    found = train(first, optimizer, pause)
    getac.save(first, tmp_path / "run.safetensors", optimizer)

    torch.manual_seed(99)
    second = getac.load(Small(), tmp_path / "run.safetensors")
    resumed = make(second, removal=removal)
    getac.load_optimizer(resumed, tmp_path / "run.safetensors")
    check_same_training(first, second, optimizer, resumed)
    found += train(second, resumed, SCHEDULE.total - pause, pause)
    assert found == expected
    check_same_training(whole, second, reference, resumed)


def test_momentum_and_groups_resume(tmp_path: Path) -> None:
    def made(module: fx.GraphModule) -> QASSO:
        head = [module.get_parameter("head.weight"), module.get_parameter("head.bias")]
        rest = [one for one in module.parameters() if all(one is not other for other in head)]
        groups = [{"params": rest}, {"params": head, "lr": 1e-3}]
        return make(module, params=groups, variant="sgd", momentum=0.9, nesterov=True, weight_decay=1e-3)

    whole = prepared()
    expected = train(whole, made(whole), SCHEDULE.total)
    module = prepared()
    optimizer = made(module)
    found = train(module, optimizer, 15)
    getac.save(module, tmp_path / "a", optimizer)
    again = getac.load(Small(), tmp_path / "a")
    resumed = made(again)
    getac.load_optimizer(resumed, tmp_path / "a")
    assert found + train(again, resumed, SCHEDULE.total - 15, 15) == expected


def test_globs_resume(tmp_path: Path) -> None:
    """The classes of an analysis with globs have names of their own."""
    pruning = Pruning(0.5, keep=["a.*"], align=1)
    module = prepared()
    train(module, optimizer := make(module, pruning=pruning), 15)
    getac.save(module, tmp_path / "a", optimizer)
    again = getac.load(Small(), tmp_path / "a")
    resumed = make(again, pruning=pruning)
    getac.load_optimizer(resumed, tmp_path / "a")
    check_same_training(module, again, optimizer, resumed)


def test_geta_resumes(tmp_path: Path) -> None:
    def first_model() -> nn.Module:
        torch.manual_seed(0)
        return Small()

    def run(steps: int) -> tuple[GETA, QASSO, list[float]]:
        geta = GETA(first_model(), images(0), calibration=[images(0)], align=1)
        optimizer = geta.qasso("sgd", lr=0.05, steps=30, momentum=0.9, bit_reduction=2)
        return geta, optimizer, train(geta.model, optimizer, steps)

    geta, optimizer, expected = run(30)
    stopped, _, found = run(14)
    stopped.save(tmp_path / "a")
    loaded = GETA.load(Small(), tmp_path / "a", align=1)
    resumed = loaded.qasso("sgd", lr=0.05, steps=30, momentum=0.9, bit_reduction=2)
    assert found + train(loaded.model, resumed, 16, 14) == expected
    check_same_training(geta.model, loaded.model, optimizer, resumed)
    assert torch.equal(loaded.construct_subnet()(images(5)), geta.construct_subnet()(images(5)))


def test_state_dicts_of_torch_do_as_well(tmp_path: Path) -> None:
    module = prepared()
    optimizer = make(module)
    train(module, optimizer, 4)
    torch.save({"module": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    expected = train(module, optimizer, 3, 4)

    again = prepared()
    resumed = make(again)
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    again.load_state_dict(saved["module"])
    resumed.load_state_dict(saved["optimizer"])
    assert train(again, resumed, 3, 4) == expected
    assert {n: b.tolist() for n, b in bits_of(again).items()} == {
        n: b.tolist() for n, b in bits_of(module).items()
    }


def test_refuses_another_schedule(tmp_path: Path) -> None:
    module = prepared()
    train(module, optimizer := make(module), 3)
    getac.save(module, tmp_path / "a", optimizer)
    again = getac.load(Small(), tmp_path / "a")
    with pytest.raises(BadInputError, match=r"another schedule(.|\n)*projection"):
        getac.load_optimizer(make(again, schedule=Schedule(2, 6, 2, 9, 3, 4)), tmp_path / "a")
    longer = make(again, schedule=Schedule(2, 6, 3, 9, 3, 40))
    getac.load_optimizer(longer, tmp_path / "a")
    assert longer.steps_done == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pruning": Pruning(0.5, align=4)}, "another align"),
        ({"pruning": Pruning(0.25, align=1, saliency="taylor")}, "another sparsity, saliency"),
        ({"pruning": Pruning(0.5, align=1, cost="macs", minimum=2)}, "another minimum, cost"),
        ({"pruning": Pruning(0.5, align=1, keep=["a.*"])}, "another keep"),
        ({"removal": "end", "bit_reduction": 8}, "another removal, bit_reduction"),
        ({"constants": JointConstants(eta=0.9)}, r"another eta(.|\n)*eta=0.999(.|\n)*eta=0.9"),
    ],
)
def test_refuses_other_options(options: dict[str, Any], said: str) -> None:
    module = prepared()
    train(module, optimizer := make(module), 3)
    other = make(prepared(), **options)
    with pytest.raises(OptionError, match=f"begun with {said}"):
        other.load_state_dict(optimizer.state_dict())
    assert other.steps_done == 0


def test_targets_of_bits_come_back_without_the_optimizer(tmp_path: Path) -> None:
    module = prepared(start=16)
    getac.save(module, tmp_path / "a")
    again = getac.load(Small(), tmp_path / "a")
    assert {one.bits.most for one in find_quantizers(again)} == {16}
    train(again, optimizer := make(again), SCHEDULE.total)
    assert {target for _, target in optimizer.bounds.targets.values()} == {8}
    assert all(found.max() <= 8.001 for found in bits_of(again).values())


def test_geta_is_stored_before_there_is_an_optimizer(tmp_path: Path) -> None:
    geta = GETA(Small(), images(0), calibration=[images(0)], align=1)
    geta.save(tmp_path / "a")
    loaded = GETA.load(Small(), tmp_path / "a", align=1)
    runs = [(one.model, one.qasso("sgd", lr=0.05, steps=30)) for one in (geta, loaded)]
    assert train(*runs[0], 30) == train(*runs[1], 30)


def test_integers_of_numpy_can_be_stored(tmp_path: Path) -> None:
    module = prepared()
    pruning = Pruning(np.float64(0.5), align=np.int64(1), minimum=np.int64(1))
    optimizer = make(module, schedule=Schedule(*map(np.int64, (2, 6, 3, 9, 3, 4))), pruning=pruning)
    train(module, optimizer, 1)
    getac.save(module, tmp_path / "a", optimizer)
    getac.load_optimizer(make(getac.load(Small(), tmp_path / "a")), tmp_path / "a")
    assert type(Schedule.of(np.int64(40)).cool_down) is int
