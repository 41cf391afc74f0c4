"""What a trained network's file is worth: accuracy, latency and costs beside the dense network's file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import getac
from getac.axes.meter import Cost
from getac.runtime import measure_latency, open_session, run
from tools.digits.data import Images
from tools.digits.methods import Job, write_float

__all__ = ["Dense", "Measured", "measure"]

ROUNDS, BUDGET_S = 100, 1.0  # of latency


@dataclass(frozen=True)
class Measured:
    """A file beside that of the dense network.

    Args:
        accuracy: The share of test images that it gets right under onnxruntime.
        parameters: Relative to the dense network; macs and bops likewise.
        file_bytes: On disk.
        speedup: The dense network's time for one image over its own, on one thread, interleaved.
    """

    accuracy: float
    parameters: float
    macs: float
    bops: float
    file_bytes: int
    speedup: float


@dataclass(frozen=True)
class Dense:
    """The dense network as a file, whatever its numbers."""

    path: Path
    cost: Cost

    @classmethod
    def of(cls, job: Job, path: Path) -> Dense:
        write_float(job.network, job.example, path)
        return cls(path, getac.analyze(job.network, job.example).costs.total)


def measure(path: Path, cost: Cost, dense: Dense, test: Images) -> Measured:
    return Measured(
        accuracy=accuracy(path, test),
        parameters=cost.parameters / dense.cost.parameters,
        macs=cost.macs / dense.cost.macs,
        bops=cost.bops / dense.cost.bops,
        file_bytes=path.stat().st_size,
        speedup=speedup(path, dense.path, test.images[:1]),
    )


def accuracy(path: Path, test: Images) -> float:
    session = open_session(path)
    (logits,) = run(session, {session.get_inputs()[0].name: test.images.numpy()}).values()
    return float((logits.argmax(1) == test.labels.numpy()).mean())


def speedup(path: Path, dense: Path, image: Tensor) -> float:
    sessions = {"dense": open_session(dense), "this": open_session(path)}
    names = {name: one.get_inputs()[0].name for name, one in sessions.items()}
    if len(set(names.values())) > 1:  # one feed serves both
        raise ValueError(f"the inputs are called {names}")
    feeds = {names["this"]: image.numpy()}
    times = measure_latency(sessions, feeds, min_rounds=ROUNDS, budget_s=BUDGET_S)
    return times["dense"] / times["this"]
