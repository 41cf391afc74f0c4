"""What `getac lower` reaches on a ResNet-18 with random weights, against its targets, as JSON.

    python tools/bench_lower.py [--json FILE] [--quick]

All ratios are taken in one process on one thread; latencies are medians of CPU time over interleaved runs.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":  # run by path: make `tools` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
import onnxruntime as ort

import getac
from getac.calibration import Batch, CalibrationData
from getac.onnx_graph.read import load
from getac.onnx_graph.signature import signature_of
from getac.report import Report
from getac.runtime import measure_latency, open_session, run
from tools.benchmark import Figure, command
from tools.zoo.resnet import resnet18

__all__ = ["main"]

PROFILED_RUNS = 20


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        width: Channels of the first stage.
        image: Height and width of an image.
        samples: Calibration images.
        min_rounds: Interleaved runs per latency, at least.
        budget_s: Wall time per latency, in seconds.
        repeats: How often `lower` and the float pass are timed; medians count.
    """

    width: int
    image: int
    samples: int
    min_rounds: int
    budget_s: float
    repeats: int


FULL = Setting(width=64, image=224, samples=32, min_rounds=100, budget_s=10, repeats=5)
QUICK = Setting(width=8, image=32, samples=4, min_rounds=3, budget_s=0.1, repeats=1)


@dataclass(frozen=True)
class Bench:
    """The files of one run in a temporary folder."""

    folder: Path
    setting: Setting

    @property
    def model(self) -> Path:
        return self.folder / "resnet18.onnx"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration.npz"

    def write_inputs(self) -> None:
        """Saves the float model, and random images as calibration data."""
        onnx.save(resnet18(width=self.setting.width, image=self.setting.image), self.model)
        shape = (self.setting.samples, 3, self.setting.image, self.setting.image)
        np.savez(self.calibration, image=np.random.default_rng(0).normal(size=shape).astype(np.float32))

    def lower(self, sparsity: float, on_step: Callable[[str], None] | None = None) -> tuple[Path, Report]:
        output = self.folder / f"lowered-{sparsity}.onnx"
        report = getac.lower(
            self.model, output, sparsity=sparsity, calibration=self.calibration, bench=False, on_step=on_step
        )
        return output, report

    def batches(self) -> list[Batch]:
        """The calibration data in the batches in which `lower` reads it."""
        return list(CalibrationData.open(self.calibration, signature_of(load(self.model))))

    def image(self) -> Batch:
        return {name: array[:1] for name, array in self.batches()[0].items()}


def main(arguments: Sequence[str] | None = None) -> int:
    return command(__doc__, lambda quick: measure(QUICK if quick else FULL), arguments)


def measure(setting: Setting) -> dict[str, Any]:
    with TemporaryDirectory(prefix="getac-bench-") as folder:
        bench = Bench(Path(folder), setting)
        bench.write_inputs()
        return {
            "setting": asdict(setting),
            "sparsity_0": sparsity_figures(bench, 0.0, 2.8),
            "sparsity_0.5": sparsity_figures(bench, 0.5, 6.0),
            "lower": lowering_figures(bench),
        }


def sparsity_figures(bench: Bench, sparsity: float, speedup: float) -> dict[str, Any]:
    """Speed, kernels and size of the lowered model, and where its time goes."""
    output, report = bench.lower(sparsity)
    times = latencies(bench, output)
    kernels = [(layer.operator, layer.kernel.startswith("integer")) for layer in report.layers]
    profiles = {"float": profile(bench.model, bench), "lowered": profile(output, bench)}
    return {
        "speedup": Figure(times["float"] / times["lowered"], at_least=speedup).as_json(),
        "integer_convolutions": Figure(kernels.count(("Conv", True)), at_least=20).as_json(),
        "integer_gemms": Figure(kernels.count(("Gemm", True)), at_least=1).as_json(),
        "file_to_int8_weights": Figure(output.stat().st_size / weight_entries(output), at_most=1.1).as_json(),
        "latency_ms": times,
        "file_bytes": output.stat().st_size,
        "int8_weight_bytes": weight_entries(output),
        "removed_share": report.sparsity,
        "macs_ratio": report.before.macs / report.after.macs,
        "time_per_kernel": profiles,
        "limits": limits(profiles["float"], profiles["lowered"]),
    }


def latencies(bench: Bench, output: Path) -> dict[str, float]:
    """Medians of CPU time for one image, in milliseconds."""
    sessions = {"float": open_session(bench.model), "lowered": open_session(output)}
    setting = bench.setting
    return measure_latency(sessions, bench.image(), min_rounds=setting.min_rounds, budget_s=setting.budget_s)


def weight_entries(model: Path) -> int:
    """Entries of all weights, which are the stored tensors of two dimensions or more: bytes at 8 bits."""
    tensors = onnx.load(model).graph.initializer
    return sum(math.prod(tensor.dims) for tensor in tensors if len(tensor.dims) > 1)


def lowering_figures(bench: Bench) -> dict[str, Any]:
    """Wall time of `lower` without its own benchmark, against one float pass over the calibration data."""
    passes, lowerings = [], []
    for _ in range(bench.setting.repeats):
        passes.append(float_pass_seconds(bench))
        lowerings.append(step_seconds(bench))
    one_pass = statistics.median(passes)
    seconds = statistics.median(sum(steps.values()) for steps in lowerings)
    return {
        "seconds": Figure(seconds, at_most=20 * one_pass + 5).as_json(),
        "float_pass_seconds": one_pass,
        "float_passes": seconds / one_pass,
        "step_seconds": {
            step: statistics.median(steps[step] for steps in lowerings) for step in lowerings[0]
        },
    }


def step_seconds(bench: Bench) -> dict[str, float]:
    """What each step of one `lower` takes; steps of the same name add up."""
    marks = [("start", time.perf_counter())]
    bench.lower(0.0, on_step=lambda name: marks.append((name, time.perf_counter())))
    marks.append(("end", time.perf_counter()))
    seconds: dict[str, float] = defaultdict(float)
    for (name, begin), (_, end) in itertools.pairwise(marks):
        seconds[name] += end - begin
    return dict(seconds)


def float_pass_seconds(bench: Bench) -> float:
    """One inference pass over the calibration data, one thread, in the batches of calibration."""
    session, batches = open_session(bench.model), bench.batches()
    run(session, batches[0])
    start = time.perf_counter()
    for batch in batches:
        run(session, batch)
    return time.perf_counter() - start


def profile(model: Path, bench: Bench) -> dict[str, dict[str, float]]:
    """What onnxruntime's own profiler sees: executed operator -> time per run, and share of all kernels."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(bench.folder / "profile")
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    for _ in range(PROFILED_RUNS):
        run(session, bench.image())
    events = json.loads(Path(session.end_profiling()).read_text())
    return kernel_shares(events)


def kernel_shares(events: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Medians over the runs of each node, summed by operator."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
    by_operator: dict[str, float] = defaultdict(float)
    for (operator, _), series in times.items():
        by_operator[operator] += statistics.median(series)
    total = sum(by_operator.values()) or 1.0
    ranked = sorted(by_operator.items(), key=lambda item: -item[1])
    return {operator: {"ms": ms, "share": ms / total} for operator, ms in ranked}


def limits(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> str:
    """One line on what keeps the lowered model from being faster."""
    convolution = {"Conv", "FusedConv", "NhwcFusedConv", "QLinearConv"}
    old, new = (
        sum(part["ms"] for op, part in times.items() if op in convolution) for times in (before, after)
    )
    rest = {op: part["share"] for op, part in after.items() if op not in convolution}
    others = ", ".join(f"{op} {share:.0%}" for op, share in list(rest.items())[:4])
    return (
        f"convolutions {old / max(new, 1e-9):.2f}x faster, {1 - sum(rest.values()):.0%} of the lowered time;"
        f" the rest: {others}"
    )


if __name__ == "__main__":
    sys.exit(main())
