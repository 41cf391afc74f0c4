"""What is asked of every quantized model that another tool wrote."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import getac
from getac.compression import compress
from getac.errors import UnsupportedModelError
from getac.executed import executed_kernels, kernel_kind
from getac.onnx_graph.read import load
from getac.options import Options
from getac.runtime import Model
from getac.verifying.pieces import compare_pieces
from tools.producers.networks import Produced
from tools.producers.steps import samples, steps_apart

__all__ = ["OVERHEAD", "by_form", "check_lowered", "check_pruned"]

OVERHEAD = 512
"""Bytes for each operator of the input that a result may have more: names, scales and zero points of pairs
where the input has operators on integers, cuts of integers that it clips in floats."""

NO_INTEGERS = "its bias would change results"  # what lowering says of a layer whose bias has too few levels


def by_form(produce: Callable[[], Iterator[Produced]]) -> Mapping[tuple[str, str], Produced]:
    """All models of a producer, each made once."""
    with warnings.catch_warnings():  # what tools say of themselves
        warnings.simplefilter("ignore")
        return {(one.form, one.network): one for one in produce()}


def check_lowered(one: Produced, *, integers: int, in_floats: int = 0) -> getac.Report:
    """Lowered unchanged: within an output step, no larger, and on integer kernels where it was.

    Where the producer's own graph, as onnxruntime optimises it, is further than a step from itself as it is
    written, the result may be one step further than that; so may one whose weights alone are integers, since
    MatMulNBits rounds what it reads to 8 bits.

    Args:
        integers: How many layers run on integers, or do not because their bias cannot.
        in_floats: How many ran on integers before and are faster in floats.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lowered.onnx")
        report = getac.lower(one.model, path, bench=False)
        steps = steps_apart(one, path)
        before, after = integer_kernels(load(one.model)), integer_kernels(path)
        size = path.stat().st_size
    on_the_fly = any(layer.kernel.startswith("weight-only") for layer in report.layers)
    assert steps.result <= steps.bound + on_the_fly, steps
    kernels = [(layer.kernel, layer.reason) for layer in report.layers]
    ran = (name.startswith("integer") or why.startswith(NO_INTEGERS) for name, why in kernels)
    assert sum(ran) == integers, kernels
    assert after + in_floats >= before
    assert size <= one.model.ByteSize() + OVERHEAD * len(one.model.graph.node)
    return report


def integer_kernels(model: Model) -> int:
    """How many products onnxruntime computes on integers; none where it does not load the model."""
    with contextlib.suppress(UnsupportedModelError):
        return sum(kernel_kind(node.op_type) == "integer" for node in executed_kernels(model))
    return 0


def check_pruned(one: Produced) -> None:
    """With 30 % of the units gone, the sliced graph is the masked one, also with the quantizers running."""
    report = getac.lower(one.model, None, sparsity=0.3, align=1, bench=False)
    assert report.units_removed >= 0.2 * report.units > 0
    assert max(each.relative for each in report.verification.sliced) < 1e-4
    assert report.after.parameters < report.before.parameters
    how = Options(sparsity=0.3, align=1, bench=False)
    models = compress(load(one.model), None, None, how).models
    assert models.rounded is not None
    running, records = models.rounded.running(), models.rounded.sliced.records
    pieces = compare_pieces(running.reference, running.sliced, records, samples(one, 8), models.keep())
    assert max(each.relative for each in pieces) < 1e-4
