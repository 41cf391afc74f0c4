"""The plan: every decision that made a small model out of a large one, as JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from getac.axes.analysis import Analysis, PruningClass
from getac.choice import Choice
from getac.quantizer import Quantizer

__all__ = ["Plan", "make_plan", "versions"]

PLAN_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """Kept units of every class and the quantizer of every value; `as_json` is what `--plan` writes."""

    content: dict[str, Any]

    def as_json(self) -> str:
        return json.dumps(self.content, indent=1)


def make_plan(
    source: Path | None, analysis: Analysis, choice: Choice, quantizers: dict[ir.Value, Quantizer]
) -> Plan:
    """Collects the decisions of one run."""
    return Plan(
        {
            "plan_version": PLAN_VERSION,
            "versions": versions(),
            "source": {"name": source.name, "sha256": sha256(source)} if source else None,
            "sparsity": choice.sparsity,
            "exact": choice.exact,
            "classes": [class_entry(one, choice) for one in analysis.classes],
            "quantizers": {str(value.name): quantizer_entry(q) for value, q in quantizers.items()},
        }
    )


def class_entry(one: PruningClass, choice: Choice) -> dict[str, Any]:
    mask = choice.masks.get(one.atom)
    kept = np.arange(one.size) if mask is None else np.flatnonzero(mask)
    return {
        "name": one.name,
        "units": one.size,
        "kept": kept.tolist(),
        "members": [{"parameter": m.name, "dimension": m.dimension} for m in one.members],
    }


def quantizer_entry(quantizer: Quantizer) -> dict[str, Any]:
    return {
        "bits": quantizer.bits,
        "low": quantizer.low,
        "high": quantizer.high,
        "axis": quantizer.axis,
        "block": quantizer.block,
        "step": quantizer.step.tolist(),
    }


def versions() -> dict[str, str]:
    """The versions of what made the result."""
    found = {}
    for package in ("getac", "onnx", "onnx-ir", "onnxruntime", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
