"""What `getac.bench` has to say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from getac.executed import Kind
from getac.report import finite_or_null

__all__ = ["Bench", "ModelFigures"]


@dataclass(frozen=True)
class ModelFigures:
    """What one model costs.

    Args:
        model: The path.
        inputs: Input -> the sizes that it ran at.
        cpu_ms: Median CPU time of one run with one thread.
        wall_ms: Median wall time of one run with all threads.
        load_ms: Median wall time to open a session, in a process of its own.
        peak_bytes: The most memory while it loads and runs, above what the process takes without it
            (`getac.benchmarking.footprint`); None where the system does not tell.
        file_bytes: The file and its external data.
        operators: Executed operator -> how many nodes, as onnxruntime runs them after its optimisation.
        layers: Nodes that multiply matrices: how many on integer, weight-only and float kernels.
        ratios: Figure -> how many times less than that of the first model.
    """

    model: str
    inputs: Mapping[str, Sequence[int]]
    cpu_ms: float
    wall_ms: float
    load_ms: float
    peak_bytes: int | None
    file_bytes: int
    operators: Mapping[str, int]
    layers: Mapping[Kind, int]
    ratios: Mapping[str, float]

    @property
    def integer_share(self) -> float:
        """The share of nodes on integer kernels, of those that multiply matrices."""
        return self.layers["integer"] / (sum(self.layers.values()) or 1)


@dataclass(frozen=True)
class Bench:
    """Models side by side.

    Args:
        models: In the order in which they were given.
        threads: How many threads `wall_ms` has.
        generated: Whether the inputs are random, for want of data.
        session_options: Configuration entries of all sessions.
        notes: What a reader should know before trusting the numbers.
    """

    models: Sequence[ModelFigures]
    threads: int
    generated: bool
    session_options: Mapping[str, str]
    notes: Sequence[str]
    versions: Mapping[str, str]

    def as_json(self) -> str:
        content: dict[str, Any] = asdict(self)
        for entry, model in zip(content["models"], self.models, strict=True):
            entry["integer_share"] = model.integer_share
        return json.dumps(finite_or_null(content), indent=1)
