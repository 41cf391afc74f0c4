"""How far a lowered model is from the graph that its producer wrote, in steps of the output."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from getac.errors import UnsupportedModelError
from getac.onnx_graph.read import load
from getac.runtime import open_session, run
from getac.verifying.agreement import Batch
from tools.producers.networks import Produced

__all__ = ["SAMPLES", "Steps", "samples", "steps_apart"]

SAMPLES = 64
ROUNDINGS = 1e-3  # of a step: what floats make of a whole one
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Steps:
    """Greatest differences from the producer's graph as it is written, without onnxruntime's optimisations.

    A step is that of 8 bits over the range of the output.

    Args:
        result: Of the lowered model, as onnxruntime optimises it.
        own: Of the producer's graph as onnxruntime optimises it, in ONNX's own operators; None where it does
            not load that.
        share: Which part of the output's entries is within a step.
    """

    result: float
    own: float | None
    share: float

    @property
    def bound(self) -> float:
        """A step; where the producer's own two runs are further apart than that, one more than they are."""
        own = self.own or 0.0
        return (1 if own <= 1 else own + 1) + ROUNDINGS


def steps_apart(one: Produced, lowered: Path, count: int = SAMPLES) -> Steps:
    """Runs both on so many random samples, which are not those that ranges were measured on."""
    source, feeds = load(one.model), samples(one, count)
    want = outputs(open_session(source, optimize=False), feeds)
    step = float(np.ptp(want)) / 255
    apart = np.abs(outputs(open_session(lowered), feeds) - want) / step
    own = None
    with contextlib.suppress(UnsupportedModelError):  # its fusions fail on the shapes of some graphs
        own = own_difference(load(one.standard or one.model), feeds) / step
    return Steps(float(apart.max()), own, float((apart <= 1 + ROUNDINGS).mean()))


def own_difference(model: ir.Model, feeds: list[Batch]) -> float:
    """How far two runs of a model are apart: as it is written, and as onnxruntime optimises it."""
    name = str(model.graph.inputs[0].name)
    mine: list[Batch] = [{name: next(iter(feed.values()))} for feed in feeds]
    plain, optimised = (outputs(open_session(model, optimize=how), mine) for how in (False, True))
    return float(np.abs(plain - optimised).max())


def samples(one: Produced, count: int = SAMPLES) -> list[Batch]:
    """Random inputs in batches of the size that the model was made for."""
    rng, shape = np.random.default_rng(0), tuple(one.inputs[0].shape)
    name = one.model.graph.input[0].name
    return [{name: rng.normal(size=shape).astype(np.float32)} for _ in range(-(-count // shape[0]))]


def outputs(session: ort.InferenceSession, feeds: list[Batch]) -> Floats:
    return np.stack([next(iter(run(session, feed).values())) for feed in feeds])
