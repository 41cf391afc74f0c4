"""What is asked of every quantized model that another tool wrote."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import getac
from getac.compression import Compressed, compress
from getac.errors import UnsupportedModelError
from getac.executed import executed_kernels, kernel_kind
from getac.onnx_graph.read import load
from getac.runtime import Model
from getac.verifying.pieces import compare_pieces
from getac.verifying.verification import Models
from tools.producers.networks import Produced
from tools.producers.steps import samples, steps_apart

__all__ = ["OVERHEAD", "by_form", "check_lowered", "check_pruned"]

OVERHEAD = 128
"""Bytes for each operator of the input that a result may have more: names, scales and zero points of pairs
where the input has operators on integers, cuts of integers that it clips in floats."""


def by_form(produce: Callable[[], Iterator[Produced]]) -> Mapping[tuple[str, str], Produced]:
    """All models of a producer, each made once."""
    with warnings.catch_warnings():  # what tools say of themselves
        warnings.simplefilter("ignore")
        return {(one.form, one.network): one for one in produce()}


def check_lowered(one: Produced, *, integers: int, in_floats: int = 0) -> getac.Report:
    """Lowered unchanged: within an output step, no larger, and on integer kernels where it was.

    Within a step of the producer's graph as it is written or as onnxruntime optimises it; one step further
    where these two are more than a step apart, and where the weights alone are integers: MatMulNBits rounds
    what it reads to 8 bits.

    Args:
        integers: How many layers run on integers.
        in_floats: How many ran on integers before and are faster in floats.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lowered.onnx")
        report = getac.lower(one.model, path, bench=False)
        steps = steps_apart(one, path)
        before, after = integer_kernels(load(one.model)), integer_kernels(path)
        size = path.stat().st_size
    on_the_fly = any(layer.kernel.startswith("weight-only") for layer in report.layers)
    assert steps.least <= steps.bound + on_the_fly, steps
    kernels = [(layer.kernel, layer.reason) for layer in report.layers]
    assert sum(name.startswith("integer") for name, _ in kernels) == integers, kernels
    assert after + in_floats >= before
    assert size <= one.model.ByteSize() + OVERHEAD * len(one.model.graph.node)
    return report


def integer_kernels(model: Model) -> int:
    """How many products onnxruntime computes on integers; none where it does not load the model."""
    with contextlib.suppress(UnsupportedModelError):
        return sum(kernel_kind(node.op_type) == "integer" for node in executed_kernels(model))
    return 0


def lowered_models(model: Model, **options: Any) -> tuple[getac.Report, Models]:
    """What `getac.lower` reports of a model, and the model at its stages."""
    found = []

    def compressed(*given: Any) -> Compressed:
        found.append(compress(*given))
        return found[-1]

    with patch("getac.lowering.compress", compressed):
        report = getac.lower(model, None, bench=False, **options)
    return report, found[-1].models


def check_pruned(one: Produced) -> None:
    """With 30 % of the units gone, the sliced graph is the masked one, also with the quantizers running."""
    report, models = lowered_models(one.model, sparsity=0.3, align=1)
    assert report.units_removed >= 0.2 * report.units > 0
    assert max(each.relative for each in report.verification.sliced) < 1e-4
    assert report.after.parameters < report.before.parameters
    assert models.rounded is not None
    running, records = models.rounded.running(), models.rounded.sliced.records
    pieces = compare_pieces(running.reference, running.sliced, records, samples(one, 8), models.keep())
    assert max(each.relative for each in pieces) < 1e-4
