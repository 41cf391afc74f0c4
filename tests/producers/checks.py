"""What is asked of every quantized model that another tool wrote."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

import getac
from getac.errors import UnsupportedModelError
from getac.onnx_graph.read import load
from getac.passes import ChooseUnits, Pipeline, SliceUnits, State, analysis_passes
from getac.pipelines.verifying import EachVerified
from getac.runtime import open_session, run
from getac.verifying.agreement import Agreement
from tools.producers.networks import Produced

__all__ = ["by_form", "check_lowered", "check_pruned", "steps_apart"]


def by_form(produce: Callable[[], Iterator[Produced]]) -> Mapping[tuple[str, str], Produced]:
    """All models of a producer, each made once."""
    with warnings.catch_warnings():  # what tools say of themselves
        warnings.simplefilter("ignore")
        return {(one.form, one.network): one for one in produce()}


def steps_apart(one: Produced, lowered: Path) -> float:
    """How far the outputs are from those of the producer's own graph, in steps of 8 bits of their range.

    The graph counts as it is written, or with onnxruntime's own fusions, which round in other places (and
    fail on some graphs: on the shape of a matrix product between quantizers of INT8).
    """
    source = load(one.model)
    wanted = [outputs(open_session(source, optimize=False), one)]
    with contextlib.suppress(UnsupportedModelError):
        wanted.append(outputs(open_session(source), one))
    got = outputs(open_session(lowered), one)
    apart = min(float(np.abs(got - want).max()) for want in wanted)
    return apart / (float(np.ptp(wanted[0])) / 255)


def outputs(session: ort.InferenceSession, one: Produced) -> npt.NDArray[np.float32]:
    name = session.get_inputs()[0].name
    return np.stack([next(iter(run(session, {name: x.numpy()}).values())) for x in one.inputs])


def check_lowered(one: Produced, *, integers: int, steps: float = 1.0) -> getac.Report:
    """Lowered unchanged: within so many output steps, and as many layers on integer kernels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lowered.onnx")
        report = getac.lower(one.model, path, bench=False)
        apart = steps_apart(one, path)
    assert apart <= steps
    kernels = [layer.kernel for layer in report.layers]
    assert sum(kernel.startswith("integer") for kernel in kernels) == integers, kernels
    return report


def check_pruned(one: Produced) -> None:
    """With 30 % of the units gone, the sliced graph is the masked one."""
    report = getac.lower(one.model, None, sparsity=0.3, align=1, bench=False)
    assert report.units_removed >= 0.2 * report.units > 0
    assert max(each.relative for each in report.verification.sliced) < 1e-4
    assert report.after.parameters < report.before.parameters
    assert with_quantizers(one).relative < 1 / 127


def with_quantizers(one: Produced) -> Agreement:
    """How the sliced graph agrees with the masked one where both round as the producer's does."""
    state = State(load(one.model).clone())
    name = str(state.model.graph.inputs[0].name)
    watcher = EachVerified([{name: x.numpy()} for x in one.inputs])
    Pipeline(analysis_passes()).run(state)
    rounded = len(state.quantizers)
    Pipeline([ChooseUnits(sparsity=0.3, align=1), SliceUnits()], watchers=[watcher]).run(state)
    assert rounded > 0
    return watcher.checks[-1].worst
