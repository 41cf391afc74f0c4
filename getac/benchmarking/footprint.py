"""What a model takes to be loaded and run: time and memory, in a process of its own.

Memory of one process is one number: several models in it would mix. The child imports what it needs, reads
the inputs, notes its resident memory, and only then loads the model; the peak is counted from there.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from getac.data.calibration import Batch
from getac.errors import GetacError
from getac.runtime import open_session, run

__all__ = ["Footprint", "footprint"]

RUNS = 3
LOADS = 3
LOADING_S = 5.0  # after which a load is not repeated
PEAK, NOW = "VmHWM", "VmRSS"


@dataclass(frozen=True)
class Footprint:
    """What one model takes in a fresh process, one thread.

    Args:
        load_ms: Median wall time to open a session; the file lies in the system's cache from the second on.
        peak_bytes: The most resident memory while it loads and runs three times, above that of the
            interpreter with its libraries and the inputs (`baseline_bytes`). Pages of memory-mapped weights
            count. None where the system does not tell.
        baseline_bytes: As it says.
    """

    load_ms: float
    peak_bytes: int | None
    baseline_bytes: int | None


def footprint(path: Path, feeds: Batch, config: Mapping[str, str]) -> Footprint:
    """Loads and runs a model in a child process.

    Raises:
        GetacError: The child failed; a model that runs in this process fails there for want of memory.
    """
    with tempfile.TemporaryDirectory(prefix="getac-", ignore_cleanup_errors=True) as folder:
        inputs = Path(folder, "inputs.npz")
        np.savez(inputs, *feeds.values())
        job = {"model": os.path.abspath(path), "names": list(feeds), "inputs": str(inputs), "config": config}
        # The child finds what this process finds; its working directory holds nothing that it could import.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        done = subprocess.run(
            [sys.executable, "-m", "getac.benchmarking.footprint", json.dumps(job)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        last = next(iter(done.stderr.strip().splitlines()[-1:]), "")
        raise GetacError(
            "the process that measures memory failed",
            where=str(path),
            found=f"exit code {done.returncode}{f': {last}' if last else ''}",
            hint="is there enough memory for the model?",
        )
    return Footprint(**json.loads(done.stdout))


def measure(job: Mapping[str, Any]) -> Footprint:
    """What the child does."""
    with np.load(job["inputs"]) as arrays:
        feeds = {name: arrays[f"arr_{index}"] for index, name in enumerate(job["names"])}
    forget_peak()
    baseline = resident(NOW)
    start = time.perf_counter()
    session = open_session(job["model"], config=job["config"])
    loads = [time.perf_counter() - start]
    for _ in range(RUNS):
        run(session, feeds)
    peak = resident(PEAK)
    while len(loads) < LOADS and sum(loads) < LOADING_S:
        del session
        start = time.perf_counter()
        session = open_session(job["model"], config=job["config"])
        loads.append(time.perf_counter() - start)
    taken = None if peak is None or baseline is None else max(peak - baseline, 0)
    return Footprint(1e3 * statistics.median(loads), taken, baseline)


def forget_peak() -> None:
    """Lets the peak start again from what is resident now: importing may have taken more for a moment."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or forbidden: the peak of the imports counts
        return


def resident(key: str) -> int | None:
    """Resident memory of this process in bytes: now, or the most since it started or since `forget_peak`.

    `getrusage` would say that of the parent, which Linux hands on to a child.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return None
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return 1024 * int(found[key].split()[0]) if key in found else None


if __name__ == "__main__":
    print(json.dumps(asdict(measure(json.loads(sys.argv[1])))))
