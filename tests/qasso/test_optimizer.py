"""What QASSO promises, looked at in every step; and that it is used like any optimizer of torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from getac.errors import BadInputError, GetacError, OptionError
from getac.fx_graph.capture import capture
from getac.qasso.optimizer import QASSO
from getac.qasso.pruning import Pruning
from getac.qasso.schedule import Schedule, Stage
from getac.training.preparing import prepare
from getac.training.quantizers import find_quantizers
from tests.qasso.runs import (
    Inputs,
    Small,
    bits_of,
    images,
    losses,
    model,
    prepared,
    prepared_attention,
    target_of,
    train,
    vectors,
)

SCHEDULE = Schedule(2, 6, 3, 9, 3, 4)
HALF, DENSE = Pruning(0.5, align=1), Pruning(0.0)
Make = Callable[[], fx.GraphModule]
NETS = [(prepared, images), (prepared_attention, vectors)]


def optimizer_of(module: fx.GraphModule, **options: Any) -> QASSO:
    return QASSO(module, **{"schedule": SCHEDULE, "pruning": HALF, "lr": 1e-2, "variant": "adam"} | options)


def check_bits(module: fx.GraphModule, bounds: dict[str, tuple[float, float]]) -> None:
    for name, bits in bits_of(module).items():
        least, most = bounds[name]
        assert least - 1e-3 <= bits.min() and bits.max() <= most + 1e-3, (name, bits)


@pytest.mark.parametrize(("make", "inputs"), NETS)
@pytest.mark.parametrize("removal", ["period", "end", "never"])
@pytest.mark.parametrize("variant", ["sgd", "adamw"])
def test_every_step_keeps_the_promises(make: Make, inputs: Inputs, removal: Any, variant: str) -> None:
    module = make()
    targets = {one.name: (one.bits.least, 8.0) for one in find_quantizers(module)}
    optimizer = optimizer_of(module, removal=removal, variant=variant)
    units, zero, fixed = optimizer.position.units, 0, None
    for step, _ in enumerate(losses(module, optimizer, SCHEDULE.total, 0, inputs)):
        metrics, stage = optimizer.metrics(), SCHEDULE.at(step).stage
        assert (metrics.step, metrics.stage) == (step + 1, stage.value)
        if stage is Stage.PROJECTION:
            most = SCHEDULE.most_bits(step + 1, 16, 8)
            check_bits(module, {name: (least, most) for name, (least, _) in targets.items()})
        elif stage is not Stage.WARM_UP:
            check_bits(module, targets)
        assert units - metrics.units >= zero  # zero stays zero
        zero = units - metrics.units
        if removal != "never" and not optimizer.position.gone.any():
            assert optimizer.table.size == metrics.units
        else:
            assert optimizer.table.zero()[optimizer.position.gone].all()
        if stage is Stage.JOINT and SCHEDULE.at(step).is_last:
            assert zero == round(units / 2 * (SCHEDULE.at(step).period + 1) / 3)
        if stage is Stage.COOL_DOWN:
            bits = {name: float(found.mean()) for name, found in bits_of(module).items()}
            assert all(abs(number - round(number)) < 1e-3 for number in bits.values())
            rounded = {name: round(number) for name, number in bits.items()}
            assert fixed is None or rounded == fixed
            fixed = rounded
            assert all(one.bits.fixed for one in find_quantizers(module))
    assert zero == round(units / 2)
    optimizer.finish()
    assert optimizer.table.size == units - zero and optimizer.metrics().sparsity == 0.5


@pytest.mark.parametrize(("make", "inputs"), NETS)
def test_removal_does_not_change_the_function(make: Make, inputs: Inputs) -> None:
    module = make()
    optimizer = optimizer_of(module, removal="never")
    train(module, optimizer, SCHEDULE.total, 0, inputs)
    module.eval()
    before, size = module(inputs(99)), sum(one.numel() for one in module.parameters())
    optimizer.finish()
    after = module(inputs(99))
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    assert sum(one.numel() for one in module.parameters()) < 0.8 * size


def test_alignment_takes_the_nearest_number() -> None:
    module = prepared()
    optimizer = optimizer_of(module, pruning=Pruning(0.4, align=4))
    assert optimizer.position.units == 24 and round(0.4 * 24) == 10
    assert optimizer.metrics().goal == 8 / 24  # 8 and 12 are as near
    train(module, optimizer, SCHEDULE.total)
    assert {one.size % 4 for one in optimizer.table.classes} == {0}
    assert optimizer.metrics().units == 16


def test_what_is_kept_stays_whole() -> None:
    module = prepared()
    optimizer = optimizer_of(module, pruning=Pruning(0.5, keep=["a.*"], align=1))
    train(module, optimizer, SCHEDULE.total)
    assert module.get_parameter("a.weight").shape[0] == 8
    assert module.get_parameter("c.weight").shape[:2] == (8, 8)


def test_pruning_alone() -> None:
    module = prepare(model(), images(0), weight_bits=None, activation_bits=None)
    optimizer = optimizer_of(module)
    train(module, optimizer, SCHEDULE.total)
    metrics = optimizer.metrics()
    assert metrics.sparsity == 0.5 and metrics.weight_bits is None and metrics.bops == metrics.macs < 0.8


def test_quantization_alone() -> None:
    module = prepared()
    train(module, optimizer := optimizer_of(module, schedule=Schedule(1, 4, 2, 0, 1, 3), pruning=DENSE), 8)
    metrics = optimizer.metrics()
    assert metrics.sparsity == 0 and metrics.macs == 1 and 0 < metrics.bops <= 0.0626


def test_scheduler_clipping_and_groups() -> None:
    module = prepared()
    head = [module.get_parameter("head.weight"), module.get_parameter("head.bias")]
    rest = [one for one in module.parameters() if all(one is not other for other in head)]
    optimizer = optimizer_of(module, params=[{"params": rest}, {"params": head, "lr": 1e-3}], variant="sgd")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1)
    for step in range(SCHEDULE.total):
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        F.cross_entropy(module(images(step)), target_of(images(step))).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-4, 1e-5, 1e-4, 1e-6])
    assert optimizer.metrics().sparsity == 0.5


def test_a_closure_is_called_with_gradients() -> None:
    module, twin = prepared(), prepared()
    optimizer, other = optimizer_of(module), optimizer_of(twin)

    def closure(step: int) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(module(images(step)), target_of(images(step)))
        loss.backward()
        return loss

    module.train()
    found = [optimizer.step(lambda step=step: closure(step)).item() for step in range(SCHEDULE.total)]
    assert found == train(twin, other, SCHEDULE.total)


def test_gradients_that_add_up_make_one_step() -> None:
    module, optimizer = (m := prepared()), optimizer_of(m)
    for _ in range(3):
        F.cross_entropy(module(images(0)), target_of(images(0))).backward()
    assert optimizer.steps_done == 0
    optimizer.step()
    assert optimizer.steps_done == 1


def test_a_skipped_step_of_a_scaler_does_not_count() -> None:
    module = prepared()
    optimizer, scaler = optimizer_of(module), torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(4):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(module(images(step)), target_of(images(step)))).backward()
        if step == 1:
            module.get_parameter("c.weight").grad.fill_(torch.inf)  # type: ignore[union-attr]
        scaler.step(optimizer)
        scaler.update()
        assert optimizer.steps_done == (step + 1 if step < 1 else step)


def test_a_gradient_that_is_nan_stops_before_anything_changes() -> None:
    module = prepared()
    optimizer = optimizer_of(module)
    train(module, optimizer, 10)
    optimizer.zero_grad()
    before, moments = copy.deepcopy(module.state_dict()), copy.deepcopy(optimizer.state_dict())
    F.cross_entropy(module(images(1)), target_of(images(1))).backward()
    module.get_parameter("c.weight").grad[0] = torch.nan  # type: ignore[index]
    with pytest.raises(
        GetacError, match=r"not finite in step 10 \(joint\)(.|\n)*c\.weight, read by c_weight_quantizer \(c\)"
    ):
        optimizer.step()
    check_floats(module, before)
    assert optimizer.steps_done == 10
    assert all(
        torch.equal(one, moments["state"][i][key])
        for i, entry in optimizer.state_dict()["state"].items()
        for key, one in entry.items()
    )
    train(module, optimizer, SCHEDULE.total - 10, 10)
    assert optimizer.metrics().sparsity == 0.5


def check_floats(module: fx.GraphModule, before: dict[str, Tensor]) -> None:
    floats = {name: one for name, one in module.state_dict().items() if one.is_floating_point()}
    assert all(torch.equal(one, before[name]) for name, one in floats.items())


def test_checks_can_be_rare() -> None:
    module = prepared()
    optimizer = optimizer_of(module, check_every=2, schedule=Schedule(9, 0, 1, 0, 1, 0), pruning=DENSE)
    train(module, optimizer, 1)
    for one in module.parameters():
        one.grad = torch.full_like(one, torch.nan)
    optimizer.step()
    with pytest.raises(GetacError, match="step 2"):
        optimizer.step()


def test_the_parameters_stay_the_same_objects() -> None:
    module = prepared()
    weight = module.get_parameter("c.weight")
    optimizer = optimizer_of(module)
    train(module, optimizer, SCHEDULE.total)
    assert module.get_parameter("c.weight") is weight and weight.numel() < 8 * 16 * 9
    assert optimizer.state[weight]["exp_avg"].shape == weight.shape


def test_a_saliency_of_ones_own() -> None:
    module = prepared()
    seen = []

    def last_first(table: Any, module: nn.Module) -> Tensor:
        seen.append(table.size)
        return -torch.arange(table.size).float()

    optimizer = optimizer_of(module, pruning=Pruning(0.25, align=1, saliency=last_first))
    train(module, optimizer, SCHEDULE.total)
    assert seen == [24, 22, 20]
    assert module.get_parameter("c.weight").shape[:2] == (10, 8)


@pytest.mark.parametrize("cost", ["macs", "bops", "latency"])
def test_costs_decide_where_units_go(cost: Any) -> None:
    module = prepared()
    train(module, optimizer := optimizer_of(module, pruning=Pruning(0.25, align=1, cost=cost)), 17)
    assert optimizer.metrics().sparsity == 0.25


def test_refuses_a_module_without_quantizers() -> None:
    with pytest.raises(BadInputError, match="not prepared by getac"):
        optimizer_of(capture(Small(), (images(0),)))


def test_refuses_a_sparsity_that_cannot_be_reached() -> None:
    module = prepared()
    code, numbers = module.code, copy.deepcopy(module.state_dict())
    with pytest.raises(BadInputError, match=r"0\.9 cannot be reached(.|\n)*channels") as caught:
        optimizer_of(module, pruning=Pruning(0.9, keep=["a.*", "b.*"]))
    assert "kept on request" in str(caught.value) or "keep" in str(caught.value)
    assert module.code == code
    assert all(torch.equal(one, numbers[name]) for name, one in module.state_dict().items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"removal": "later"}, "period, end, never"),
        ({"bit_reduction": 1}, "b_r"),
        ({"schedule": None}, "Schedule"),
        ({"schedule": "long"}, "Schedule"),
        ({"pruning": 0.5}, "Pruning"),
        ({"constants": {"beta": 0.5}}, "JointConstants"),
        ({"check_every": "x"}, "check_every"),
        ({"check_every": -1}, "check_every"),
        ({"params": 5}, "no parameters to train"),
        ({"params": [{"params": []}]}, "no parameters to train"),
        ({"params": [{"params": []}, 3]}, "no parameters to train"),
        ({"params": []}, "no parameters to train"),
        ({"params": [{"lr": 1}]}, r"params(.|\n)*'lr'"),
        ({"schedule": Schedule(2, 6, 3, 0, 1, 4)}, "quantization alone"),
    ],
)
def test_refuses_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        optimizer_of(prepared(), **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"align": 0}, "align"),
        ({"sparsity": 1.5}, r"\[0, 1\)"),
        ({"sparsity": "half"}, r"\[0, 1\)"),
        ({"sparsity": None}, r"\[0, 1\)"),
        ({"minimum": 0}, "1 or more"),
        ({"minimum": 0.5}, "1 or more"),
        ({"cost": "watts"}, "macs, bops, latency, or name of a class"),
        ({"cost": {"a": "dear"}}, "macs, bops, latency, or name of a class"),
        ({"cost_exponent": -1}, "cost_exponent"),
        ({"cost_exponent": "half"}, "cost_exponent"),
        ({"keep": "a.*"}, "sequence of globs"),
    ],
)
def test_pruning_refuses(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Pruning(**options)


def test_refuses_costs_of_other_classes_before_training() -> None:
    classes = [one.name for one in HALF.table(prepared()).classes]
    known = dict.fromkeys(classes, 1.0)
    optimizer_of(prepared(), pruning=Pruning(0.5, align=1, cost=known))
    with pytest.raises(OptionError, match="no class nope"):
        optimizer_of(prepared(), pruning=Pruning(0.5, cost={**known, "nope": 1.0}))
    with pytest.raises(OptionError, match=f"none for {classes[0]}"):
        optimizer_of(prepared(), pruning=Pruning(0.5, cost=dict.fromkeys(classes[1:], 1.0)))


def test_floats_are_aligned_as_floats() -> None:
    pruning = Pruning(0.4)
    floats = prepare(model(), images(0), weight_bits=None, activation_bits=None)
    rounded = prepare(model(), images(0), weight_bits=8, activation_bits=None)
    for module, multiple in ((floats, 16), (rounded, 16), (prepared(), 4)):
        assert set(pruning.multiples(pruning.table(module)).values()) == {multiple}


def named(module: fx.GraphModule, *layers: str) -> list[Tensor]:
    return [one for name, one in module.named_parameters() if name.startswith(layers)]


@pytest.mark.parametrize("removal", ["period", "never"])
def test_parameters_that_are_left_out_stay_as_they_are(removal: Any) -> None:
    module = prepared()
    norms = {name: one.clone() for name, one in module.named_parameters() if name.startswith("norm")}
    optimizer = optimizer_of(module, params=named(module, "a.", "b.", "c.", "head."), removal=removal)
    goal = optimizer.position.goal
    assert goal == round(optimizer.position.units / 2) > 0
    assert not {entry.name for entry in optimizer.table.entries} & norms.keys()
    for _ in losses(module, optimizer, SCHEDULE.total):
        zero = optimizer.table.zero()
        assert zero[optimizer.position.gone].all()
    assert optimizer.position.zero == goal
    if removal == "never":
        assert zero.sum() == goal
        assert all(torch.equal(module.get_parameter(name), one) for name, one in norms.items())
    before = module.eval()(images(3))
    optimizer.finish()
    assert (module(images(3)) - before).abs().max() <= 1e-5 * before.abs().max()


def test_units_without_trained_parameters_do_not_count() -> None:
    module = prepared()
    head = named(module, "head.")
    with pytest.raises(BadInputError, match=r"cannot be reached(.|\n)*no group of the optimizer"):
        optimizer_of(module, params=head[1:])
    optimizer = optimizer_of(module, params=head)  # its columns are the units of c
    assert optimizer.position.units == 16
    optimizer.add_param_group({"params": named(module, "a.", "b.", "c.", "norm")})
    assert optimizer.position.units == 24 and optimizer.position.goal == 12
    train(module, optimizer, SCHEDULE.total)
    assert optimizer.metrics().sparsity == 0.5
    with pytest.raises(OptionError, match="before the first step"):
        optimizer.add_param_group({"params": []})


def test_an_input_that_is_nan_leaves_the_running_statistics_alone() -> None:
    module = prepared()
    optimizer = optimizer_of(module)
    for step in range(SCHEDULE.total):
        train(module, optimizer, 1, step)
        before = copy.deepcopy(module.state_dict())
        optimizer.zero_grad()
        x = images(step)
        x[0, 0, 0, 0] = torch.nan
        F.cross_entropy(module(x), target_of(images(0))).backward()
        assert module.get_buffer("norm_a.running_mean").isnan().any()
        with pytest.raises(GetacError, match=r"running statistics"):
            optimizer.step()
        check_floats(module, before)
    assert module.eval()(images(1)).isfinite().all() and optimizer.metrics().sparsity == 0.5


def test_refuses_to_prune_twice() -> None:
    module = prepared()
    train(module, optimizer_of(module), 14)
    code = module.code
    again = optimizer_of(module)
    with pytest.raises(OptionError, match=r"pruned already(.|\n)*lost units 2 times"):
        train(module, again, 1)
    assert module.code == code
    train(module, optimizer := optimizer_of(module, pruning=DENSE), SCHEDULE.total)
    assert optimizer.metrics().sparsity == 0 and {bits.most for bits in bounds_of(module)} <= set(range(4, 9))


def bounds_of(module: fx.GraphModule) -> list[Any]:
    return [one.bits for one in find_quantizers(module)]


def test_refuses_foreign_groups_later() -> None:
    optimizer = optimizer_of(prepared())
    with pytest.raises(OptionError, match="not the module's"):
        optimizer.add_param_group({"params": nn.Linear(2, 2).parameters()})


def test_refuses_the_state_of_another() -> None:
    module = prepared()
    optimizer = optimizer_of(module)
    with pytest.raises(BadInputError, match="not the state of QASSO"):
        optimizer.load_state_dict(optimizer.base.state_dict())
    other = optimizer_of(prepared(), schedule=Schedule(2, 6, 3, 8, 2, 4))
    with pytest.raises(BadInputError, match="another schedule"):
        optimizer.load_state_dict(other.state_dict())


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("removal", ["period", "end"])
def test_steps_inside_of_a_period_wait_for_nothing(removal: Any) -> None:
    module = prepared()
    schedule = Schedule(3, 6, 2, 9, 3, 4)
    optimizer = optimizer_of(module, schedule=schedule, variant="sgd", check_every=0, removal=removal)
    quiet = 0
    for step in range(schedule.total):
        optimizer.zero_grad()
        F.cross_entropy(module(images(step)), target_of(images(step))).backward()
        with Waits() as waits:
            optimizer.step()
        moment = schedule.at(step)
        if not moment.is_first and not moment.is_last:
            assert waits.found == []
            quiet += 1
    assert quiet == 1 + 2 + 3 + 2
