"""The plan: every decision that made a small model out of a large one, as JSON (docs/plan.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from getac.axes.analysis import Analysis, PruningClass
from getac.plans.structure import Structure
from getac.quantizer import Quantizer
from getac.units.choice import Choice

__all__ = ["GETAC", "MODEL", "PLAN_VERSION", "Plan", "make_plan", "quantizer_entry", "versions"]

PLAN_VERSION = 2

MODEL, GETAC = "model", "getac"
"""Whose a quantizer is: the model came with it, or it was made on the way."""


@dataclass(frozen=True)
class Plan:
    """Kept units of every class and the quantizer of every value; `as_json` is what `--plan` writes."""

    content: dict[str, Any]

    def as_json(self) -> str:
        return json.dumps(self.content, indent=1)


def make_plan(
    source: Path | None,
    structure: Structure,
    analysis: Analysis,
    choice: Choice,
    quantizers: Mapping[ir.Value, Quantizer],
    *,
    own: Collection[ir.Value] = (),
    floats: Mapping[ir.Node, str] | None = None,
    keep: Sequence[str] = (),
    integer: bool = False,
) -> Plan:
    """Collects the decisions of one run.

    Args:
        structure: Of the analysed model, before units were removed.
        quantizers: Of the sliced model.
        own: The values whose quantizers the model came with.
        floats: Layers that run in floats by choice -> why.
        keep: The globs that the analysis was given.
        integer: Whether layers run on integers.
    """
    return Plan(
        {
            "plan_version": PLAN_VERSION,
            "versions": versions(),
            "source": {"name": source.name, "sha256": sha256(source)} if source else None,
            "structure": structure.as_content(),
            "keep": list(keep),
            "sparsity": choice.sparsity,
            "exact": choice.exact,
            "integer": integer,
            "classes": [class_entry(one, choice) for one in analysis.classes],
            "quantizers": {
                str(value.name): placed_entry(value, q, value in own) for value, q in quantizers.items()
            },
            "floats": {str(node.name): reason for node, reason in (floats or {}).items()},
        }
    )


def class_entry(one: PruningClass, choice: Choice) -> dict[str, Any]:
    mask = choice.masks.get(one.atom)
    kept = np.arange(one.size) if mask is None else np.flatnonzero(mask)
    return {
        "name": one.name,
        "role": one.role,
        "units": one.size,
        "kept": kept.tolist(),
        "members": [{"parameter": m.name, "dimension": m.dimension} for m in one.members],
    }


def placed_entry(value: ir.Value, quantizer: Quantizer, own: bool) -> dict[str, Any]:
    """A quantizer, what it rounds, and whose it is."""
    stored = value.const_value is not None
    return {**quantizer_entry(quantizer), "stored": stored, "of": MODEL if own else GETAC}


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
