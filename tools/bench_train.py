"""What training with quantizers costs beside the float model in eager mode, as JSON.

    python tools/bench_train.py [--json FILE] [--quick] [--no-compile]

Times are medians of CPU time of a whole step (forward, backward, SGD) over interleaved runs in one process
on one thread. Memory is the peak of a process that trains, above what it holds before the model is built.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by path: make `tools` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

import getac
from tools.benchmark import Figure, command, interleaved, median, spread
from tools.torch_zoo.blocks import conv_norm
from tools.torch_zoo.resnet import Basic

__all__ = ["main"]

SETTINGS = ("full", "quick")
MEMORY = "memory"  # the first argument of the process that measures it


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


def prepared(task: Task) -> nn.Module:
    return getac.prepare(task.model, task.inputs, calibration=[task.inputs])


def captured(task: Task) -> nn.Module:
    return getac.capture(task.model, task.inputs)


VARIANTS: Mapping[str, Callable[[Task], nn.Module]] = {
    "float": lambda task: task.model,
    "regenerated": captured,
    "quantized": prepared,
}


def train_step(model: nn.Module, task: Task) -> Callable[[], None]:
    """One step of SGD with momentum."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(*task.inputs), task.labels).backward()
        optimizer.step()

    return step


def steps_of(make: Callable[[Setting], Task], setting: Setting, compiled: bool) -> dict[str, Callable[[], None]]:
    """The steps to compare; each trains a model of its own."""
    steps = {}
    for name, variant in VARIANTS.items():
        torch.manual_seed(0)
        task = make(setting)
        steps[name] = train_step(variant(task).train(), task)
        if compiled and name != "regenerated":
            task = make(setting)
            steps[f"{name}, compiled"] = train_step(torch.compile(variant(task).train()), task)  # type: ignore[arg-type]
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
    """Where a quantized step's time goes, by torch's own profiler."""
    torch.manual_seed(0)
    task = TASKS[name](setting)
    step = train_step(prepared(task).train(), task)
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(3):
            step()
    averages = profile.key_averages()
    whole = sum(one.self_cpu_time_total for one in averages)
    shares = {one.key: one.cpu_time_total / whole for one in averages if one.key.startswith("getac::")}
    return {"share_of_step": shares, "calls_per_step": {o.key: o.count // 3 for o in averages if o.key in shares}}


def memory_figure(name: str, setting: Setting) -> dict[str, Any]:
    """Peak memory of the quantized step to that of the float one, each in a process of its own."""
    peaks = {variant: peak_of_process(name, variant, setting) for variant in ("float", "quantized")}
    figure = Figure(peaks["quantized"] / peaks["float"], at_most=1.5).as_json()
    return {**figure, "mib": {variant: peak / 2**20 for variant, peak in peaks.items()}}


def peak_of_process(name: str, variant: str, setting: Setting) -> float:
    size = "full" if setting is FULL else "quick"
    command = [sys.executable, "-m", "tools.bench_train", MEMORY, name, variant, size]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def print_peak(name: str, variant: str, size: str) -> None:
    """Trains three steps and prints the bytes above what the process held after it prepared the model.

    The weights count; what capturing needs for a while does not, being over before the first step.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = TASKS[name](FULL if size == "full" else QUICK)
    step = train_step(VARIANTS[variant](task).train(), task)
    weights = sum(tensor.nbytes for tensor in task.model.state_dict().values())
    before = reset_peak()
    for _ in range(3):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before + weights)


def reset_peak() -> int:
    """Bytes in memory now."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [MEMORY]:
        print_peak(*given[1:])
        return 0
    compiled = "--no-compile" not in given
    return command(
        __doc__, lambda quick: measure(QUICK if quick else FULL, compiled), [a for a in given if a != "--no-compile"]
    )


def measure(setting: Setting, compiled: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    return {"setting": asdict(setting), **{name: figures(name, setting, compiled) for name in TASKS}}


if __name__ == "__main__":
    sys.exit(main())
