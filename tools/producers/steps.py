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
    """Greatest differences between the lowered model and the producer's graph, which has two runs of its own.

    As written, it runs without onnxruntime's optimisations; optimised, on integer kernels where it has such,
    which round otherwise. A step is that of 8 bits over the range of the output.

    Args:
        written: Of the lowered model, as onnxruntime optimises it, from the graph as it is written.
        optimised: Of the same from the graph as onnxruntime optimises it, in ONNX's own operators; None where
            it does not load that.
        own: Between the two runs of the producer's graph; None likewise.
        share: Which part of the output's entries is within a step of the graph as it is written.
    """

    written: float
    optimised: float | None
    own: float | None
    share: float

    @property
    def least(self) -> float:
        """From the nearer of the producer's two runs."""
        return self.written if self.optimised is None else min(self.written, self.optimised)

    @property
    def bound(self) -> float:
        """A step from the nearer run; where the two are further apart than that, one more than they are."""
        own = self.own or 0.0
        return (1 if own <= 1 else own + 1) + ROUNDINGS


def steps_apart(one: Produced, lowered: Path, count: int = SAMPLES) -> Steps:
    """Runs both on so many random samples, which are not those that ranges were measured on."""
    source, feeds = load(one.model), samples(one, count)
    want, got = outputs(open_session(source, optimize=False), feeds), outputs(open_session(lowered), feeds)
    step = float(np.ptp(want)) / 255
    apart = np.abs(got - want) / step
    optimised = own = None
    with contextlib.suppress(UnsupportedModelError):  # its fusions fail on the shapes of some graphs
        ran = optimised_outputs(load(one.standard or one.model), feeds)
        optimised, own = (float(np.abs(other - ran).max()) / step for other in (got, want))
    return Steps(float(apart.max()), optimised, own, float((apart <= 1 + ROUNDINGS).mean()))


def optimised_outputs(model: ir.Model, feeds: list[Batch]) -> Floats:
    """What a producer's graph gives as onnxruntime optimises it; its input may have a name of its own."""
    name = str(model.graph.inputs[0].name)
    return outputs(open_session(model), [{name: next(iter(feed.values()))} for feed in feeds])


def samples(one: Produced, count: int = SAMPLES) -> list[Batch]:
    """Random inputs in batches of the size that the model was made for."""
    rng, shape = np.random.default_rng(0), tuple(one.inputs[0].shape)
    name = one.model.graph.input[0].name
    return [{name: rng.normal(size=shape).astype(np.float32)} for _ in range(-(-count // shape[0]))]


def outputs(session: ort.InferenceSession, feeds: list[Batch]) -> Floats:
    return np.stack([next(iter(run(session, feed).values())) for feed in feeds])
