"""What QASSO's own arithmetic costs on the parameters of a ResNet-50, as JSON.

    python tools/bench_qasso.py [--json FILE] [--quick]

A step of the joint stage (the base optimizer's, forgetting, projection, the check that gradients are finite)
beside the step of torch's optimizer of the same variant on the float network's parameters: medians of CPU
time of interleaved steps, on one thread. And the step that selects what is forgotten next.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by path: make `tools` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

import getac
from getac.qasso.joint import JointUpdate
from tools.bench_analysis import FULL as NET
from tools.bench_analysis import QUICK as QUICK_NET
from tools.bench_analysis import Setting as Net
from tools.bench_analysis import residual_net
from tools.benchmark import Figure, command, cpu_seconds, interleaved, median, spread

__all__ = ["main"]

RATIO, SELECTING_MS = 2.0, 100.0
VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {}),
    "sgd, momentum": ("sgd", {"momentum": 0.9}),
    "adam": ("adam", {}),
    "adamw": ("adamw", {}),
}
HELD = ("sgd, momentum", "adam", "adamw")
"""The variants with a target: plain SGD is one pass over memory, beside which all else is much."""


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        net: ResNet-50 at the full setting.
        image: Height and width that it is captured with; its parameters do not depend on it.
        rounds: Interleaved steps of each variant.
        periods: Of the joint stage, whose first is measured: half of all units go in that many. What
            `getac.GETA.qasso` takes from 1600 joint steps on; with more, fewer are forgotten at a time.
    """

    net: Net
    image: int
    rounds: int
    periods: int = 32


FULL = Setting(NET, image=64, rounds=30)
QUICK = Setting(QUICK_NET, image=16, rounds=2)


def main(arguments: Sequence[str] | None = None) -> int:
    return command(__doc__, lambda quick: measure(QUICK if quick else FULL), arguments)


def measure(setting: Setting) -> dict[str, Any]:
    torch.set_num_threads(1)
    return {
        "step": {name: step_figures(setting, name) for name in VARIANTS},
        "selecting": selecting_figures(setting),
    }


def with_gradients(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.grad = 1e-3 * torch.randn(parameter.shape, generator=generator)
    return module


def optimizer_of(setting: Setting, variant: str, options: Mapping[str, Any]) -> getac.QASSO:
    """At the first step of its joint stage."""
    image = torch.randn(2, 3, setting.image, setting.image)
    net = residual_net(setting.net).train()
    geta = getac.GETA(net, (image,), sparsity=0.5, align=1, calibration=[(image,)])
    schedule = getac.Schedule(0, 0, 1, joint=10**6, joint_periods=setting.periods, cool_down=0)
    optimizer = geta.qasso(variant, lr=1e-4, schedule=schedule, **options)
    with_gradients(geta.model)
    optimizer.step()
    return optimizer


def step_figures(setting: Setting, name: str) -> dict[str, Any]:
    variant, options = VARIANTS[name]
    optimizer = optimizer_of(setting, variant, options)
    kind: Any = type(optimizer.base)
    alone = kind(with_gradients(residual_net(setting.net)).parameters(), lr=1e-4, **options)
    tasks: dict[str, Callable[[], Any]] = {"torch": alone.step, "qasso": optimizer.step}
    times = interleaved(tasks, setting.rounds)
    bound = RATIO if name in HELD else None
    return {
        "ratio": Figure(median(times["qasso"]) / median(times["torch"]), at_most=bound).as_json(),
        "ms": {who: median(series) * 1e3 for who, series in times.items()},
        "spread_ms": {who: spread(series) for who, series in times.items()},
        "forgetting_units": len(optimizer.position.redundant),
    }


def selecting_figures(setting: Setting) -> dict[str, Any]:
    """Scoring all units, choosing the least salient, and finding where they lie."""
    optimizer = optimizer_of(setting, "adam", {})
    table, goal = optimizer.table, optimizer.position.goal
    none = optimizer.position.gone

    def select() -> None:
        units = optimizer.pruning.choose(table, goal // setting.periods, goal, none)
        JointUpdate(table, units)

    series = [cpu_seconds(select) for _ in range(setting.rounds + 1)][1:]
    return {
        "ms": Figure(median(series) * 1e3, at_most=SELECTING_MS).as_json(),
        "spread_ms": spread(series),
        "units": table.size,
    }


if __name__ == "__main__":
    sys.exit(main())
