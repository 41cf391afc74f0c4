"""Measures one row: the float model, the result of `getac.lower`, and that of onnxruntime's own tool."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import getac
from getac.onnx_graph.read import load
from getac.onnx_graph.signature import signature_of
from getac.report import Report
from getac.runtime import open_session, run
from tools.benchmark import Figure
from tools.lowered.profiling import limits, profile
from tools.lowered.rivals import integer_rival, weight_only_rival
from tools.lowered.rows import Row

__all__ = ["Bench", "Setting", "figures", "quiet_medians"]

Batch = dict[str, npt.NDArray[Any]]
EMBEDDING_BITS = 8


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        quick: Whether networks are tiny.
        samples: Calibration samples.
        min_rounds: Interleaved runs per latency, at least.
        budget_s: Wall time per latency, in seconds.
        repeats: How often `lower` and the float pass are timed; medians count.
    """

    quick: bool
    samples: int
    min_rounds: int
    budget_s: float
    repeats: int


@dataclass(frozen=True)
class Bench:
    """The files of one row in a temporary folder."""

    folder: Path
    setting: Setting
    row: Row

    @property
    def model(self) -> Path:
        return self.folder / "float.onnx"

    @property
    def lowered(self) -> Path:
        return self.folder / "lowered.onnx"

    @property
    def rival(self) -> Path:
        return self.folder / "rival.onnx"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration.npz"

    def write_inputs(self) -> None:
        """Saves the float model, and random samples as calibration data."""
        model = self.row.model(self.setting.quick)
        onnx.save(model, self.model)
        rng = np.random.default_rng(0)
        (spec,) = signature_of(load(model))
        shape = (self.setting.samples, *(size for size in spec.shape[1:] if isinstance(size, int)))
        words = next((tensor.dims[0] for tensor in model.graph.initializer if ".table" in tensor.name), 0)
        data: npt.NDArray[Any] = rng.integers(0, words, shape) if words else rng.normal(size=shape)
        np.savez(self.calibration, **{spec.name: data if words else data.astype(np.float32)})  # type: ignore[arg-type]

    def lower(self, on_step: Callable[[str], None] | None = None) -> Report:
        data = None if self.row.weight_only else self.calibration
        return getac.lower(
            self.model, self.lowered, calibration=data, bench=False, on_step=on_step, **self.row.options
        )

    @cached_property
    def samples(self) -> list[Batch]:
        """The calibration data, one sample at a time."""
        with np.load(self.calibration) as arrays:
            ((name, array),) = arrays.items()
        return [{name: array[i : i + 1]} for i in range(len(array))]

    def write_rival(self) -> None:
        if self.row.weight_only:
            weight_only_rival(self.model, self.rival)
        else:
            integer_rival(self.model, self.rival, self.samples)


def figures(folder: Path, setting: Setting, row: Row) -> dict[str, Any]:
    """Speed, size and kernels of one row, beside its targets, and where the time goes."""
    bench = Bench(folder, setting, row)
    bench.write_inputs()
    start = time.process_time()
    report = bench.lower()
    lowering_s = time.process_time() - start
    bench.write_rival()
    files = {"float": bench.model, "lowered": bench.lowered, "rival": bench.rival}
    times = latencies(bench, files)
    profiles = {name: profile(path, bench.samples[0], folder) for name, path in files.items()}
    size, bits = bench.lowered.stat().st_size, weight_bits(bench)
    targets = row.targets
    return {
        "speedup": Figure(times["float"] / times["lowered"], at_least=targets.speedup).as_json(),
        "rival_to_lowered": Figure(times["rival"] / times["lowered"], at_least=targets.rival).as_json(),
        "share_of_float_file": Figure(size / bench.model.stat().st_size, at_most=targets.share).as_json(),
        "file_to_weight_bits": Figure(size / (bits / 8), at_most=1.1).as_json(),
        "rival_speedup": times["float"] / times["rival"],
        "rival_share_of_float_file": bench.rival.stat().st_size / bench.model.stat().st_size,
        "latency_ms": times,
        "file_bytes": {name: path.stat().st_size for name, path in files.items()},
        "removed_share": report.sparsity,
        "macs_ratio": report.before.macs / report.after.macs,
        "layers": layer_counts(report),
        "sqnr_db": min(one.sqnr_db for one in report.verification.original),
        "lowering_cpu_s": lowering_s,
        "time_per_kernel": profiles,
        "limits": limits(profiles["float"], profiles["lowered"]),
    }


def latencies(bench: Bench, files: Mapping[str, Path]) -> dict[str, float]:
    """CPU time for one sample in milliseconds: medians over the quieter half of interleaved rounds.

    Each timed run follows one of the same session: what ran before leaves the caches to it otherwise. That
    is not all: weights of 30 MB behind the float model take 6 % longer, so the order is drawn every round.
    """
    sessions, feeds = {name: open_session(path) for name, path in files.items()}, bench.samples[0]
    times: dict[str, list[float]] = {name: [] for name in sessions}
    end, rng = time.monotonic() + bench.setting.budget_s, np.random.default_rng(0)
    while len(times["float"]) < bench.setting.min_rounds or time.monotonic() < end:
        for name in rng.permutation(list(sessions)).tolist():
            session = sessions[name]
            run(session, feeds)
            start = time.thread_time()
            run(session, feeds)
            times[name].append(1e3 * (time.thread_time() - start))
    return quiet_medians(times)


def quiet_medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Medians over the half of the rounds that took the least, all models together.

    Whoever else is busy on the machine slows integer kernels down more than those of floats: the ratio of
    medians over all rounds falls from 3.1 to 2.7 for minutes, and two files of the same kernels seem to
    differ. What is left out is left out of every model.
    """
    table = np.asarray(list(times.values()))
    burden = (table / np.median(table, axis=1, keepdims=True)).sum(axis=0)
    quiet = np.argsort(burden)[: max(table.shape[1] // 2, 1)]
    return dict(zip(times, np.median(table[:, quiet], axis=1).tolist(), strict=True))


def layer_counts(report: Report) -> dict[str, int]:
    """Operator and kernel -> how many layers."""
    names = [f"{layer.operator}: {layer.kernel}" for layer in report.layers]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def weight_bits(bench: Bench) -> int:
    """The sum of bits over all weights, which are the stored tensors of two dimensions or more.

    What was pruned is counted as it lies in the result, where 8-bit integers are stored as they are.
    """
    graph = onnx.load(bench.lowered if bench.row.pruned else bench.model).graph
    tables = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) > 1]
    return sum(
        math.prod(tensor.dims) * (EMBEDDING_BITS if tensor.name in tables else bench.row.bits)
        for tensor in weights
        if not bench.row.pruned or tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    )


def float_pass_seconds(bench: Bench) -> float:
    """One inference pass over the calibration data, one thread."""
    session = open_session(bench.model)
    run(session, bench.samples[0])
    start = time.perf_counter()
    for sample in bench.samples:
        run(session, sample)
    return time.perf_counter() - start
