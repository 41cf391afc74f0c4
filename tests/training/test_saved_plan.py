"""A checkpoint is read with doubt: it runs nothing, and whatever it says, it loads or is refused."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import getac
from getac.errors import BadInputError, GetacError

X = torch.ones(3, 4)
VALUES: list[Any] = [None, -1, "x", [], {}, 10**9, 1e300, 0.0, True, [[1]], {"dict": []}]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def read(path: Path) -> tuple[Any, dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        plan, names = json.loads(file.metadata()["getac"]), file.keys()
        return plan, {name: file.get_tensor(name) for name in names}


def write(path: Path, plan: Any, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, path, {"getac": json.dumps(plan)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module = getac.prepare(net(), (X,), calibration=[X])
    optimizer = torch.optim.Adam(module.parameters())
    module(X).sum().backward()
    optimizer.step()
    getac.regenerate(module, {getac.analyze(module).classes[0].name: range(4)}, optimizer)
    getac.save(module, tmp_path / "a", optimizer)
    return tmp_path / "a"


def test_a_name_that_is_code_does_not_run(path: Path) -> None:
    """FX writes names into the code of a graph as they are."""
    plan, tensors = read(path)
    marker = path.with_name("marker")
    old = plan["insertions"][0]["name"]
    evil = f"training\"), open({str(marker)!r}, 'w'), (self, \""
    plan["insertions"][0]["name"] = evil
    renamed = {name.replace(f"model/{old}", f"model/{evil}"): one for name, one in tensors.items()}
    write(path, plan, renamed)
    with pytest.raises(BadInputError, match="damaged") as caught:
        getac.load(net(), path)(X)
    assert old in str(caught.value.found) and not marker.exists()


class Open(nn.Module):
    """Takes keyword inputs of any name."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, **given: Tensor) -> Tensor:
        return sum(map(self.a, given.values()))  # type: ignore[no-any-return]


def test_a_keyword_that_is_code_does_not_run(tmp_path: Path) -> None:
    module = getac.prepare(Open(), (), {"x": X}, dynamic_batch=False, calibration=[{"x": X}])
    getac.save(module, tmp_path / "a")
    plan, tensors = read(tmp_path / "a")
    marker = tmp_path / "marker"
    plan["kwargs"]["dict"][0][0] = f"x=open({str(marker)!r}, 'w')"
    write(tmp_path / "a", plan, tensors)
    with pytest.raises(BadInputError, match="no name that Python admits"):
        getac.load(Open(), tmp_path / "a")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"readers": {"linear": 1}}, "readers is of type dict"),
        ({"readers": []}, "nothing as a reader"),
        ({"readers": ["output"]}, "output as a reader"),
        ({"node": ["x"]}, "node is of type list"),
        ({"axis": True}, "axis is of type bool"),
        ({"axis": 7}, "along axis 7"),
        ({"bits": [True, 8, 1e9]}, "from 8 to 1000000000.0 bits"),
        ({"bits": [True, 8, 4]}, "from 8 to 4 bits"),
        ({"bits": [True, 1, 4]}, "from 1 to 4 bits"),
        ({"bits": [True, "4", 8]}, "no numbers of bits"),
        ({"bits": [1, 4, 8]}, "signed is of type int"),
        ({"getattr": "x"}, "getattr"),
    ],
)
def test_refuses_what_insertion_never_plans(path: Path, change: dict[str, Any], found: str) -> None:
    plan, tensors = read(path)
    plan["insertions"][0] |= change
    write(path, plan, tensors)
    with pytest.raises(BadInputError) as caught:
        getac.load(net(), path)
    assert found in str(caught.value.found)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested lists and dictionaries."""
    if at:
        yield at
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield from places(child, (*at, key))


def changed(plan: Any, at: tuple[Any, ...], value: Any) -> Any:
    result = copy.deepcopy(plan)
    owner = result
    for key in at[:-1]:
        owner = owner[key]
    owner[at[-1]] = value
    return result


@pytest.mark.parametrize("seed", range(3))
def test_a_plan_with_any_change_loads_or_is_refused(path: Path, seed: int) -> None:
    plan, tensors = read(path)
    rng = random.Random(seed)
    every = list(places(plan))
    refused = 0
    for _ in range(50):
        write(path, changed(plan, rng.choice(every), rng.choice(VALUES)), tensors)
        try:
            module = getac.load(net(), path)
            module(X)
            getac.load_optimizer(torch.optim.Adam(module.parameters()), path)
        except GetacError:
            refused += 1
    assert 25 < refused < 50


def test_a_failure_after_the_cut_leaves_the_model_as_it_was(path: Path) -> None:
    plan, tensors = read(path)
    write(path, plan, tensors | {"model/0.weight": torch.zeros(5, 4)})  # fits before the cut alone
    model = net()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    objects = list(model.parameters())
    with pytest.raises(BadInputError, match="another model"):
        getac.load(model, path)
    after = model.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in before.items())
    assert all(one is other for one, other in zip(objects, model.parameters(), strict=True))
    write(path, plan, tensors)
    assert getac.load(model, path).get_parameter("0.weight").shape == (4, 4)


@pytest.mark.parametrize("name", ["0.weight", "0.weight_quantizer.d"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_refuses_numbers_of_another_kind(path: Path, name: str, dtype: torch.dtype) -> None:
    plan, tensors = read(path)
    write(path, plan, tensors | {f"model/{name}": tensors[f"model/{name}"].to(dtype)})
    model = net()
    with pytest.raises(BadInputError, match="another model") as caught:
        getac.load(model, path)
    assert f"{name} is torch.float32 in the model, {dtype} in the file" in str(caught.value.found)
    assert model.get_parameter("0.weight").shape == (6, 4)
