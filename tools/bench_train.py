"""What training with quantizers costs beside the float model in eager mode, as JSON.

    python tools/bench_train.py [--json FILE] [--quick]

Times are medians of CPU time of a whole step (forward, backward, SGD) over interleaved runs in one process
on one thread. Memory is the most that a step holds at once. With --quick nothing is compiled. What is
compiled has the options that README recommends on a CPU; they serve the float model as well.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by path: make `tools` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers
from torch import Tensor, fx, nn
from torch.nn import functional

import getac
from getac.training.quantizers import find_quantizers
from tools.benchmark import Figure, command, interleaved, median, spread
from tools.torch_zoo.blocks import conv_norm
from tools.torch_zoo.resnet import Basic

__all__ = ["main"]


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        width: Channels of ResNet-18's first stage.
        batch: Images, and sequences, per step.
        tokens: Length of a sequence.
        layers: Of BERT, whose width is twice that of the ResNet.
        rounds: Interleaved steps per time.
    """

    width: int
    batch: int
    tokens: int
    layers: int
    rounds: int


FULL = Setting(width=64, batch=64, tokens=64, layers=4, rounds=15)
QUICK = Setting(width=8, batch=4, tokens=8, layers=1, rounds=2)


@dataclass(frozen=True)
class Task:
    """A model, its inputs, and what it should answer."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    labels: Tensor


def resnet18(setting: Setting) -> Task:
    """In the layout of ImageNet, on images of 32 x 32."""
    width, blocks = setting.width, []
    for stage in range(4):
        out = width * 2**stage
        blocks += [Basic(out if stage == 0 else out // 2, out, 1 + (stage > 0)), Basic(out, out, 1)]
    net = nn.Sequential(
        *(conv_norm(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *blocks,
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, 1000)),
    )
    return Task(net, (torch.randn(setting.batch, 3, 32, 32),), torch.randint(0, 1000, (setting.batch,)))


class Bert(nn.Module):
    """The logits alone."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        config = transformers.BertConfig(
            vocab_size=1000,
            hidden_size=2 * setting.width,
            num_hidden_layers=setting.layers,
            num_attention_heads=4,
            intermediate_size=8 * setting.width,
            max_position_embeddings=setting.tokens,
        )
        self.bert = transformers.BertForSequenceClassification(config)

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.bert(input_ids=words).logits
        return logits


def bert(setting: Setting) -> Task:
    words = torch.randint(0, 1000, (setting.batch, setting.tokens))
    return Task(Bert(setting), (words,), torch.randint(0, 2, (setting.batch,)))


TASKS: Mapping[str, Callable[[Setting], Task]] = {"resnet18": resnet18, "bert": bert}


def prepared(task: Task) -> fx.GraphModule:
    return getac.prepare(task.model, task.inputs, calibration=[task.inputs])


def captured(task: Task) -> nn.Module:
    return getac.capture(task.model, task.inputs)


VARIANTS: Mapping[str, Callable[[Task], nn.Module]] = {
    "float": lambda task: task.model,
    "regenerated": captured,
    "quantized": prepared,
}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, task: Task) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(*task.inputs), task.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


COMPILE = {
    "layout_optimization": False,  # channels last: slower than what oneDNN chooses by itself
    "fallback_random": True,  # eager mode's numbers for dropout; inductor's are computed one by one
}


def compiled_of(variant: Callable[[Task], nn.Module], task: Task) -> nn.Module:
    model = torch.compile(variant(task), options=dict(COMPILE))
    return model  # type: ignore[return-value]  # it wraps a module in a module


def whole_step(task: Task, variant: Callable[[Task], nn.Module]) -> Callable[[], None]:
    model = variant(task).train()
    return train_step(model, sgd(model), task)


def steps_of(
    make: Callable[[Setting], Task], setting: Setting, compiled: bool
) -> dict[str, Callable[[], None]]:
    """The steps to compare; each trains a model of its own."""
    steps = {}
    for name, variant in VARIANTS.items():
        torch.manual_seed(0)
        steps[name] = whole_step(make(setting), variant)
        if compiled and name != "regenerated":
            steps[f"{name}, compiled"] = whole_step(make(setting), partial(compiled_of, variant))
    return steps


def figures(name: str, setting: Setting, compiled: bool) -> dict[str, Any]:
    steps = steps_of(TASKS[name], setting, compiled)
    starts = {variant: first_step(step) for variant, step in steps.items() if "compiled" in variant}
    times = interleaved(steps, setting.rounds)
    base = median(times["float"])
    ratios = {variant: median(series) / base for variant, series in times.items()}
    bounds = {"regenerated": 1.05, "quantized": 1.6, "quantized, compiled": 1.35}
    return {
        **{variant: Figure(ratios[variant], at_most=bounds.get(variant)).as_json() for variant in ratios},
        "memory": memory_figure(name, setting),
        "ms": {variant: median(series) * 1e3 for variant, series in times.items()},
        "spread_ms": {variant: spread(series) for variant, series in times.items()},
        "first_compiled_step_seconds": starts,
        "quantizers": quantizer_times(name, setting),
    }


def first_step(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def quantizer_times(name: str, setting: Setting) -> dict[str, Any]:
    """What the quantizers take of a step, by torch's own profiler."""
    torch.manual_seed(0)
    step = whole_step(TASKS[name](setting), prepared)
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(3):
            step()
    averages = profile.key_averages()
    whole = sum(one.self_cpu_time_total for one in averages)
    shares = {one.key: one.cpu_time_total / whole for one in averages if one.key in OF_QUANTIZERS}
    return {
        "share_of_step": shares,
        "calls_per_step": {o.key: o.count // 3 for o in averages if o.key in shares},
        "memory_traffic": traffic_figures(name, setting, sum(shares.values()), whole / 3e6),
    }


OF_QUANTIZERS = ("getac::fake_quantize", "FakeQuantizeBackward")
"""The two passes, as the profiler names them: the backward one does not go through the dispatcher."""

PASSES = 5
"""Over every quantized tensor, at least: x is read and x_Q written; then the gradient and x are read, and the
gradient of x written. None of them can go away while operators run one by one."""


def traffic_figures(name: str, setting: Setting, share: float, step_seconds: float) -> dict[str, float]:
    """What moving the quantized tensors through memory takes, at the speed of a large copy.

    Args:
        share: Of the step that the quantizers take.
        step_seconds: Of one step, on the profiler's clock.
    """
    quantizers = find_quantizers(prepared(TASKS[name](setting)))
    shapes = [[int(size) for size in one.x.meta["val"].shape] for one in quantizers]
    entries = sum(math.prod(shape) for shape in shapes)
    moved = PASSES * 4 * entries
    seconds = moved * seconds_per_byte()
    return {
        "bytes": moved,
        "share_of_step": seconds / step_seconds,
        "of_quantizers": seconds / step_seconds / share,
    }


def seconds_per_byte() -> float:
    """Of a copy that no cache holds; reading and writing count both."""
    source = torch.ones(2**25)
    target = torch.empty_like(source)
    series = interleaved({"copy": lambda: target.copy_(source)}, 5)["copy"]
    return median(series) / (2 * source.nbytes)


def memory_figure(name: str, setting: Setting) -> dict[str, Any]:
    """Peak memory of the quantized step to that of the float one."""
    peaks = {variant: peak_bytes(name, variant, setting) for variant in ("float", "quantized")}
    figure = Figure(peaks["quantized"] / peaks["float"], at_most=1.5).as_json()
    return {**figure, "mib": {variant: peak / 2**20 for variant, peak in peaks.items()}}


def peak_bytes(name: str, variant: str, setting: Setting) -> int:
    """The most that a step holds at once: the model, the optimizer's state, gradients and what they need."""
    torch.manual_seed(0)
    task = TASKS[name](setting)
    model = VARIANTS[variant](task).train()
    optimizer = sgd(model)
    step = train_step(model, optimizer, task)
    step()
    kept = [state["momentum_buffer"] for state in optimizer.state.values()]
    kept += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    held = sum(tensor.nbytes for tensor in [*model.state_dict().values(), *kept])
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    sizes = itertools.accumulate(size for _, size in changes)
    return int(held + max(sizes, default=0))


def main(arguments: Sequence[str] | None = None) -> int:
    return command(__doc__, lambda quick: measure(QUICK if quick else FULL, compiled=not quick), arguments)


def measure(setting: Setting, compiled: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    return {"setting": asdict(setting), **{name: figures(name, setting, compiled) for name in TASKS}}


if __name__ == "__main__":
    sys.exit(main())
