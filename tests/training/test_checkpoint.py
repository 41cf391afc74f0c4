"""A training that was interrupted goes on as if it had not been, bit by bit."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from getac.errors import BadInputError, OutputError
from getac.fx_graph.arguments import set_argument
from getac.training.checkpoint import load, save
from getac.training.quantizers import find_quantizers
from getac.training.regenerating import regenerate
from getac.training.saved_optimizer import load_optimizer
from getac.training.state import state_of
from tests.training.nets import (
    ConvNet,
    Tied,
    captured,
    ids,
    images,
    quantized_module,
    some_units,
    steps,
)
from tools.fx_law import randomize
from tools.torch_zoo.registry import example

optim = torch.optim
Make = Callable[[Any], Optimizer]
Prepare = Callable[..., fx.GraphModule]

OPTIMIZERS: dict[str, Make] = {
    "sgd": partial(optim.SGD, lr=0.05, momentum=0.9),
    "adam": partial(optim.Adam, lr=0.01),
    "adamw": partial(optim.AdamW, lr=0.01, amsgrad=True),
    "nadam": partial(optim.NAdam, lr=0.01),
    "adafactor": partial(optim.Adafactor, lr=0.01),
}


def conv_net(seed: int = 0) -> ConvNet:
    torch.manual_seed(seed)
    model = ConvNet()
    randomize(model, seed)
    return model


def tied_net(seed: int = 0) -> Tied:
    torch.manual_seed(seed)
    model = Tied()
    if seed:  # the buffer that is not saved is of the code, not of the training
        model.passing = tied_net().passing
    return model


def numbers(module: nn.Module, optimizer: Optimizer | None = None) -> dict[str, Any]:
    found: dict[str, Any] = dict(module.named_parameters()) | dict(module.named_buffers())
    if optimizer is not None:
        for index, state in optimizer.state_dict()["state"].items():
            found |= {f"{index} {key}": entry for key, entry in state.items()}
    return found


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name, one in left.items():
        if isinstance(one, Tensor):
            assert one.dtype == right[name].dtype and torch.equal(one, right[name]), name
        else:
            assert one == right[name], name


def interrupted(
    module: fx.GraphModule,
    model: nn.Module,
    make: Make,
    path: Path,
    inputs: Callable[[int], Any] = lambda seed: images(4, seed),
) -> fx.GraphModule:
    """Trains, cuts, trains, cuts, trains, saves, loads; both must go on alike. Returns what was loaded."""
    optimizer = make(module.parameters())
    for seed in range(2):
        steps(module, optimizer, 2, inputs, seed)
        regenerate(module, some_units(module, seed), optimizer)
    steps(module, optimizer, 2, inputs, seed=7)
    save(module, path, optimizer)
    again = load(model, path)
    other = make(again.parameters())
    load_optimizer(other, path)
    assert again.code == module.code
    assert_same(numbers(module, optimizer), numbers(again, other))
    losses = [steps(m, o, 3, inputs, seed=9) for m, o in ((module, optimizer), (again, other))]
    assert losses[0] == losses[1]
    regenerate(module, some_units(module, 5), optimizer)
    regenerate(again, some_units(again, 5), other)
    for m, o in ((module, optimizer), (again, other)):
        steps(m, o, 2, inputs, seed=12)
    assert_same(numbers(module, optimizer), numbers(again, other))
    assert state_of(again).removals == state_of(module).removals and len(state_of(again).removals) == 3
    return again


@pytest.mark.parametrize("prepared", [captured, quantized_module])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resuming_is_exact(tmp_path: Path, name: str, prepared: Prepare) -> None:
    interrupted(prepared(conv_net(), images()), conv_net(1), OPTIMIZERS[name], tmp_path / "a.safetensors")


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    module = interrupted(captured(tied_net(), ids()), tied_net(1), OPTIMIZERS["adam"], path, partial(ids, 3))
    stored = load_file(path)
    assert ("model/table.weight" in stored) != ("model/head.weight" in stored)
    assert "model/kept" in stored and "model/passing" not in stored
    assert module.get_parameter("head.weight") is module.get_parameter("table.weight")


@pytest.mark.parametrize("prepared", [captured, quantized_module])
@pytest.mark.parametrize(("name", "make"), [("bert", "adamw"), ("gpt2", "adam"), ("lstm_tagger", "sgd")])
def test_transformers_and_recurrent_networks(tmp_path: Path, name: str, make: str, prepared: Prepare) -> None:
    given, new = example(name), example(name, seed=1)
    module = prepared(given.module, *given.args, **given.kwargs)

    def inputs(seed: int) -> Any:
        return given.kwargs or given.args[0]

    interrupted(module, new.module, OPTIMIZERS[make], tmp_path / "a.safetensors", inputs)


def saved(path: Path, optimizer: bool = False) -> fx.GraphModule:
    module = captured(conv_net(), images())
    regenerate(module, some_units(module))
    made = optim.Adam(module.parameters()) if optimizer else None
    if made is not None:
        steps(module, made)
    save(module, path, made)
    return module


def test_modes_and_frozen_parameters_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for mode in (True, False):
        module = saved(path).train(mode)
        module.get_parameter("a.weight").requires_grad_(False)
        save(module, path)
        model = conv_net(1)
        model.get_parameter("b.weight").requires_grad_(False)
        again = load(model, path)
        assert again.training is mode
        assert [n for n, p in again.named_parameters() if not p.requires_grad] == ["a.weight"]
        assert torch.equal(again.eval()(images()), module.eval()(images()))


class Nested(nn.Module):
    """Takes inputs of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, pair: Any, scale: float, *, more: Any, mode: str = "", none: Any = None) -> Tensor:
        x, (y, times) = pair
        h = torch.relu(self.a(x + y * times)) * scale + more["z"][0]
        return self.b(h) if mode == "plain" else self.b(h) + 1  # type: ignore[no-any-return]


def test_example_inputs_of_many_kinds(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    args: tuple[Any, ...] = ((x, [torch.randn(3, 4), 2]), 0.5)
    kwargs = {"more": {"z": [torch.ones(3, 1)]}, "mode": "plain", "none": None}
    module = captured(Nested(), *args, **kwargs)
    save(module, tmp_path / "a.safetensors")
    again = load(Nested(), tmp_path / "a.safetensors")
    state = state_of(again)
    assert str(state.args) == str(args) and str(state.kwargs) == str(kwargs)
    assert again.code == module.code
    assert torch.equal(again(*args, **kwargs), module(*args, **kwargs))


def test_a_cast_module(tmp_path: Path) -> None:
    module = saved(tmp_path / "a").double()
    save(module, tmp_path / "a")
    again = load(conv_net(1), tmp_path / "a")
    assert {p.dtype for p in again.parameters()} == {torch.float64}
    assert torch.equal(again.eval()(images().double()), module.eval()(images().double()))


def test_the_plan_says_what_it_is(tmp_path: Path) -> None:
    saved(tmp_path / "a", optimizer=True)
    with safe_open(tmp_path / "a", framework="pt") as file:
        plan = json.loads(file.metadata()["getac"])
    assert (
        plan["format"] == 1 and plan["versions"]["torch"] == torch.__version__ and "getac" in plan["versions"]
    )
    assert plan["optimizer"]["class"] == "Adam" and len(plan["removals"]) == 1
    assert list(plan["removals"][0]["kept"]) == ["c0", "c1"]


def test_files_are_whole_and_for_everybody_whom_the_umask_admits(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    old = os.umask(0o022)
    try:
        module = saved(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 and os.listdir(tmp_path) == ["a.safetensors"]
    before = path.read_bytes()
    state_of(module).kwargs = {"x": object()}
    with pytest.raises(BadInputError, match="cannot be stored") as error:
        save(module, path)
    assert error.value.where == "example/kwargs/x" and error.value.found == "object"
    assert path.read_bytes() == before


def test_refuses_places_that_cannot_be_written(tmp_path: Path) -> None:
    module = saved(tmp_path / "a")
    with pytest.raises(OutputError, match="folder does not exist"):
        save(module, tmp_path / "none" / "a")
    with pytest.raises(OutputError, match="is a folder"):
        save(module, tmp_path)


def test_refuses_modules_that_were_not_prepared(tmp_path: Path) -> None:
    module = saved(tmp_path / "a")
    compiled: Any = torch.compile(module, backend="eager")  # under other names
    for other in (ConvNet(), compiled):
        with pytest.raises(BadInputError, match="not prepared"):
            save(other, tmp_path / "a")
    with pytest.raises(BadInputError, match="into a new model"):
        load(module, tmp_path / "a")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def foreign(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path)


def text(path: Path) -> None:
    path.write_text("not a checkpoint")


def with_plan(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            plan = json.loads(file.metadata()["getac"])
        changed = change(plan)
        content = changed if isinstance(changed, str) else json.dumps(plan)
        save_file(load_file(path), path, {"getac": content})

    return write


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncated, "cannot be read as safetensors"),
        (text, "cannot be read as safetensors"),
        (foreign, "not a checkpoint of getac"),
        (os.unlink, "no such file"),
        (with_plan(lambda plan: plan.update(format=2)), "newer format"),
        (with_plan(lambda plan: "{"), "damaged"),
        (with_plan(lambda plan: "[" * 100000), "damaged"),
        (with_plan(lambda plan: "[]"), "damaged"),
        (with_plan(lambda plan: plan.pop("args")), "damaged"),
        (with_plan(lambda plan: plan.update(args={"tensor": "x"})), "damaged"),
        (with_plan(lambda plan: plan.update(removals=[{"kept": 3}])), "damaged"),
        (with_plan(lambda plan: plan.update(insertions=[{"node": "relu"}])), "damaged"),
        (with_plan(lambda plan: plan.update(removals=[{"kept": {"c9": [0]}}])), "another graph"),
        (with_plan(lambda plan: plan.update(removals=[{"kept": {"c0": [99]}}])), "another graph"),
        (with_plan(lambda plan: plan.update(removals=[])), "another model"),
    ],
)
def test_refuses_harmed_files(tmp_path: Path, harm: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "a.safetensors"
    saved(path)
    harm(path)
    with pytest.raises(BadInputError, match=message):
        load(conv_net(1), path)


class Wider(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        self.b, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6, 5)


class Renamed(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        self.last = self.head
        del self.head


def test_refuses_other_models(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    with pytest.raises(BadInputError, match="one of another model") as error:
        load(Wider(), tmp_path / "a")
    assert error.value.found == (
        "b.weight has shape (6, 8, 3, 3) in the model, (8, 6, 3, 3) in the file (and 2 more of 16 tensors)"
    )
    with pytest.raises(BadInputError, match="one of another model") as error:
        load(Renamed(), tmp_path / "a")
    assert error.value.found == "head.bias is not in the model (and 1 more of 16 tensors)"
    assert error.value.required == "the tensors of this Renamed"
    with pytest.raises(BadInputError, match="one of another model"):
        load(nn.Linear(2, 2), tmp_path / "a")


def test_refuses_other_optimizers(tmp_path: Path) -> None:
    path = tmp_path / "a"
    saved(path)
    with pytest.raises(BadInputError, match="holds no optimizer"):
        load_optimizer(optim.Adam(conv_net().parameters()), path)
    saved(path, optimizer=True)
    module = load(conv_net(1), path)
    with pytest.raises(BadInputError, match="another optimizer") as error:
        load_optimizer(optim.AdamW(module.parameters()), path)
    assert (error.value.required, error.value.found) == ("Adam", "AdamW")
    with pytest.raises(BadInputError, match="other parameter groups") as error:
        load_optimizer(optim.Adam([{"params": [p]} for p in module.parameters()]), path)
    with pytest.raises(BadInputError, match="another shape") as error:
        load_optimizer(optim.Adam(conv_net().parameters()), path)
    assert error.value.where is not None and error.value.where.endswith("group 0, a.weight")
    assert error.value.required == "(6, 3, 3, 3)" and error.value.found == "(8, 3, 3, 3)"
    with_plan(lambda plan: plan["optimizer"].pop("state"))(path)
    with pytest.raises(BadInputError, match="damaged"):
        load_optimizer(optim.Adam(module.parameters()), path)


def test_settings_of_groups_come_back(tmp_path: Path) -> None:
    """Among them a rate that is a tensor, as compiled optimizers want it, and what a scheduler has noted."""

    def made(module: fx.GraphModule, lr: float) -> tuple[Optimizer, optim.lr_scheduler.StepLR]:
        weights = [p for p in module.parameters() if p.ndim > 1]
        others = [p for p in module.parameters() if p.ndim <= 1]
        groups = [{"params": weights}, {"params": others, "weight_decay": 0.0, "lr": torch.tensor(lr)}]
        optimizer = optim.AdamW(groups, lr=lr, betas=(0.8, 0.99), foreach=False, capturable=False)
        return optimizer, optim.lr_scheduler.StepLR(optimizer, 2)

    module = captured(conv_net(), images())
    optimizer, schedule = made(module, 0.01)
    for seed in range(3):
        steps(module, optimizer, 1, seed=seed)
        schedule.step()
    save(module, tmp_path / "a", optimizer)
    again = load(conv_net(1), tmp_path / "a")
    other, _ = made(again, 0.5)
    load_optimizer(other, tmp_path / "a")
    assert other.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert [group["lr"] for group in other.param_groups] == pytest.approx([0.001, 0.001])
    assert other.param_groups[0]["betas"] == (0.8, 0.99)


def test_bounds_of_bits_that_training_has_narrowed_come_back(tmp_path: Path) -> None:
    module = quantized_module(conv_net(), images())
    quantizer = next(one for one in find_quantizers(module) if one.of_weight)
    set_argument(quantizer.node, "least_bits", 4.0)
    set_argument(quantizer.node, "most_bits", 4.0)
    module.recompile()
    save(module, tmp_path / "a")
    again = load(conv_net(1), tmp_path / "a")
    assert [one.bits for one in find_quantizers(again)] == [one.bits for one in find_quantizers(module)]
    assert torch.equal(again.eval()(images()), module.eval()(images()))


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), SafetensorError("I/O error")])
def test_a_failure_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    module = saved(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()

    def fail(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise failure

    monkeypatch.setattr("getac.training.checkpoint_file.save_file", fail)
    with pytest.raises(OutputError, match="cannot be written"):
        save(module, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before and os.listdir(tmp_path) == ["a"]


class Rounded(ConvNet):
    """The same tensors, another graph."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.tanh(self.b(self.deep(self.a(x)))).mean((2, 3))))  # type: ignore[no-any-return]


def test_refuses_a_model_that_computes_something_else(tmp_path: Path) -> None:
    save(quantized_module(conv_net(), images()), tmp_path / "a")
    with pytest.raises(BadInputError, match="captured as another graph") as error:
        load(Rounded(), tmp_path / "a")
    assert error.value.found is not None and error.value.found.startswith("no operation ")
    assert error.value.required == f"ConvNet as it was prepared, under torch {torch.__version__}"
