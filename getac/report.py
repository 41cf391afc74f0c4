"""The report: what was done to a model, what it costs now, and how well it agrees with the original."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from getac.pipeline import PassRecord, Refusal
from getac.verifying.verification import Verification

__all__ = ["Latency", "LayerReport", "Report", "Totals"]


@dataclass(frozen=True)
class LayerReport:
    """One layer before and after. MACs are per sample; BOPs = MACs x weight bits x activation bits.

    Args:
        kernel: What onnxruntime runs it as: integer, weight-only, float or unknown, and its operator.
        reason: Why it does not run on integers; empty if it does.
        bytes_before: Weight, bias and scales in the file.
        strategy: How it is run, with the time of the other type, by the cost table.
        predicted_ms: That time of one sample; None where its shape or kernel is unknown.
        storage: What the weight is in the file: a type, digits in bytes ("4-bit"), or parts of several.
    """

    name: str
    operator: str
    channels_in_before: int
    channels_in: int
    channels_out_before: int
    channels_out: int
    weight_bits: int
    activation_bits: int
    bytes_before: int
    bytes: int
    storage: str
    macs_before: int
    macs: int
    bops_before: int
    bops: int
    kernel: str
    reason: str
    strategy: str
    predicted_ms: float | None


@dataclass(frozen=True)
class Totals:
    """Sums over the model.

    Args:
        parameters: Entries of all stored tensors.
        weight_bytes: Bytes of all stored tensors.
        file_bytes: What lies on disk, external data included; None if nothing does.
        macs: Multiply-accumulates per sample.
        bops: Bit operations per sample.
    """

    parameters: int
    weight_bytes: int
    file_bytes: int | None
    macs: int
    bops: int


@dataclass(frozen=True)
class Latency:
    """Median CPU time of one run with one sample, one thread, interleaved, in milliseconds."""

    before_ms: float
    after_ms: float

    @property
    def ratio(self) -> float:
        return self.before_ms / self.after_ms


@dataclass(frozen=True)
class Report:
    """Everything that a run of `getac lower` has to say; `as_json` is what `--report` writes.

    Args:
        sparsity_requested: None: the units that were zero already.
        sparsity: The share of units that was removed.
        calibrated: Whether activations have quantizers; without, only weights are integers.
        least_bytes: What the parameters take with no bit more than their quantizers say; floats 4 bytes.
        sizes: Symbolic dimension -> the size at which MACs, BOPs and latency were taken.
        notes: What a reader should know before trusting the numbers.
        refusals: Pass -> what it left as it was, and why.
        passes: What ran, with wall time and whether it changed the graph.
    """

    source: str
    output: str | None
    sparsity_requested: float | None
    sparsity: float
    units: int
    units_removed: int
    calibrated: bool
    sizes: Mapping[str, int]
    notes: Sequence[str]
    layers: Sequence[LayerReport]
    before: Totals
    after: Totals
    least_bytes: int
    latency: Latency | None
    verification: Verification
    refusals: Mapping[str, Sequence[Refusal]]
    passes: Sequence[PassRecord]
    versions: Mapping[str, str]

    @property
    def storage_ratio(self) -> float | None:
        """Bytes of the file for each byte that the bits of the parameters need; None without a file."""
        size = self.after.file_bytes
        return None if size is None or not self.least_bytes else size / self.least_bytes

    def written_to(self, output: str | os.PathLike[str], files: Sequence[Path]) -> Report:
        """The report on a result that lies in these files by now."""
        size = sum(file.stat().st_size for file in files)
        return replace(self, output=str(output), after=replace(self.after, file_bytes=size))

    def as_json(self) -> str:
        content: dict[str, Any] = asdict(self)
        if self.latency is not None:
            content["latency"]["ratio"] = self.latency.ratio
        content["storage_ratio"] = self.storage_ratio
        content["verification"]["passed"] = self.verification.passed
        return json.dumps(finite_or_null(content), indent=1)


def finite_or_null(content: Any) -> Any:
    """JSON has no infinity and no NaN: null stands for both."""
    if isinstance(content, dict):
        return {key: finite_or_null(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite_or_null(value) for value in content]
    if isinstance(content, float) and content - content != 0:
        return None
    return content
