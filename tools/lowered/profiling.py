"""Where the time of a session goes, as onnxruntime's own profiler sees it."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime as ort

__all__ = ["kernel_shares", "limits", "profile"]

Times = dict[str, dict[str, float]]
RUNS = 20
PRODUCTS = {
    *("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv"),
    *("Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "MatMulNBits", "MatMulIntegerToFloat"),
    *("QLinearMatMul", "DynamicQuantizeMatMul"),
}


def profile(model: Path, feeds: Mapping[str, npt.NDArray[Any]], folder: Path, runs: int = RUNS) -> Times:
    """Executed operator -> time per run in milliseconds, and share of all kernels.

    Args:
        folder: Where onnxruntime writes its trace.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    for _ in range(runs):
        session.run(None, dict(feeds))
    return kernel_shares(json.loads(Path(session.end_profiling()).read_text()))


def kernel_shares(events: Sequence[Mapping[str, Any]]) -> Times:
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


def limits(before: Times, after: Times) -> str:
    """One line on what keeps the lowered model from being faster."""
    old, new = (sum(part["ms"] for op, part in times.items() if op in PRODUCTS) for times in (before, after))
    rest = {op: part["share"] for op, part in after.items() if op not in PRODUCTS}
    others = ", ".join(f"{op} {share:.0%}" for op, share in list(rest.items())[:4])
    return (
        f"convolutions and matrix products {old / max(new, 1e-9):.2f}x faster,"
        f" {1 - sum(rest.values()):.0%} of the lowered time; the rest: {others}"
    )
