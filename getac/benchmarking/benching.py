"""`getac.bench`: what models cost to run under onnxruntime, side by side."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from getac.benchmarking.bench_report import Bench, ModelFigures
from getac.benchmarking.footprint import footprint
from getac.data.calibration import Batch, CalibrationData, Source
from getac.data.sample_inputs import check_count, check_not_negative, check_sizes, generated, open_sizes
from getac.errors import OptionError
from getac.executed import ExecutedNode, Kind, executed_kernels, kernel_kind
from getac.measure import file_bytes
from getac.onnx_graph.model_file import ModelFile
from getac.plans.plan import versions
from getac.runtime import median_times, open_session, run

__all__ = ["bench"]

COMPARED = ("cpu_ms", "wall_ms", "load_ms", "peak_bytes", "file_bytes")

# Threads that wait for the next run would take the cores from the other models in between. Within a run they
# wait as ever.
QUIET = {"session.force_spinning_stop": "1"}


def bench(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    data: Source | None = None,
    *,
    batch: int | None = None,
    sizes: Mapping[str, int] | None = None,
    threads: int | None = None,
    rounds: int = 10,
    budget_s: float = 3.0,
    session_options: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Bench:
    """Measures models in one process, interleaved, so that a slow moment of the machine falls on all of them.

    Without data, each model whose inputs the first one's do not fit runs on its own; a note says so.

    Args:
        models: Paths of ONNX files; ratios are to the first.
        data: An .npz with one array per input, a folder of them, or arrays in memory; the first batch counts.
        batch: The size of an open first dimension; 1 if it is None.
        sizes: Symbolic dimension -> its size; a dimension without a name is called `input.position`.
        threads: Threads of the wall time; None: one per core that this process may use.
        rounds: How often each model runs at least.
        budget_s: Seconds for each of the two latencies; no new round starts after that.
        session_options: onnxruntime's session configuration entries, which ignores those it does not know.
        seed: For generated inputs.

    Raises:
        BadInputError: A model or the data cannot be used, or an option is outside its domain.
        GetacError: A model fails while it runs.
    """
    config = dict(session_options or {})
    threads = available_cores() if threads is None else threads
    check_options(threads, rounds, budget_s, config)
    files = open_files(models)
    feeds = feeds_of(files, data, sizes or {}, batch, seed)
    measured = partial(latencies, files, feeds, config, rounds, budget_s)
    once, many = measured(1, time.thread_time), measured(threads, time.perf_counter)
    found = [
        figures(file, feed, cpu_ms, wall_ms, config)
        for file, feed, cpu_ms, wall_ms in zip(files, feeds, once, many, strict=True)
    ]
    return Bench(
        models=[replace(one, ratios=ratios(found[0], one)) for one in found],
        threads=threads,
        generated=data is None,
        session_options=config,
        notes=notes(files, feeds),
        versions=versions(),
    )


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_options(threads: int, rounds: int, budget_s: float, config: Mapping[str, str]) -> None:
    """Refuses values of other types, or outside their domain."""
    check_count("threads", threads)
    check_count("rounds", rounds)
    check_not_negative("budget", budget_s, "seconds, 0 or more")
    if wrong := [pair for pair in config.items() if {type(part) for part in pair} != {str}]:
        raise OptionError("session options are texts", found=repr(wrong[0]))


def open_files(models: Any) -> list[ModelFile]:
    """The models, in order; they have to be files, because their size and loading count."""
    paths = list(models) if isinstance(models, list | tuple) else [models]
    if not paths or not all(isinstance(path, str | os.PathLike) for path in paths):
        found = ", ".join(type(path).__name__ for path in paths) or "nothing"
        raise OptionError("there is nothing to measure", required="paths of ONNX files", found=found)
    return [ModelFile.open(path) for path in paths]


def feeds_of(
    files: Sequence[ModelFile],
    data: Source | None,
    sizes: Mapping[str, int],
    batch: int | None,
    seed: int,
) -> list[Batch]:
    """What each model is run on: the same wherever it fits."""
    check_sizes([file.signature() for file in files], sizes, batch)
    if data is not None:
        return [first_batch(file, data, sizes, batch or 1) for file in files]
    first = generated_feed(files[0], sizes, batch or 1, seed)
    return [
        first if same_inputs(first, one) else one
        for one in (generated_feed(file, sizes, batch or 1, seed) for file in files)
    ]


def first_batch(file: ModelFile, data: Source, sizes: Mapping[str, int], batch: int) -> Batch:
    """The first samples of the data; raises CalibrationError if the model does not take them."""
    if sizes:
        raise OptionError("the data settles all sizes", found=", ".join(sizes), hint="leave out --size")
    with file.named():
        return next(iter(CalibrationData.open(data, file.signature(), batch_size=batch)))


def generated_feed(file: ModelFile, sizes: Mapping[str, int], batch: int, seed: int) -> Batch:
    signature = file.signature()
    if missing := open_sizes(signature, sizes):
        raise OptionError(
            "the model has dynamic dimensions of unknown size",
            where=f"{file.name}: {', '.join(map(str, signature))}",
            required=f"a size for {', '.join(missing)}",
            hint=f"{' '.join(f'--size {name}=32' for name in missing)} (or what you run it at), or --data",
        )
    return generated(signature, sizes, batch, seed)


def same_inputs(one: Batch, other: Batch) -> bool:
    """Whether two models take the same inputs; their order does not matter."""
    return kinds(one) == kinds(other)


def kinds(batch: Batch) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (str(array.dtype), array.shape) for name, array in batch.items()}


def latencies(
    files: Sequence[ModelFile],
    feeds: Sequence[Batch],
    config: Mapping[str, str],
    rounds: int,
    budget_s: float,
    threads: int,
    clock: Callable[[], float],
) -> list[float]:
    """Medians in milliseconds, in the order of the files."""
    tasks = {}
    for index, (file, feed) in enumerate(zip(files, feeds, strict=True)):
        with file.named():
            session = open_session(file.runnable, threads=threads, config={**QUIET, **config})
            run(session, feed)  # what fails, fails here
        tasks[str(index)] = partial(run, session, feed)
    return list(median_times(tasks, clock=clock, min_rounds=rounds, budget_s=budget_s).values())


def figures(
    file: ModelFile, feed: Batch, cpu_ms: float, wall_ms: float, config: Mapping[str, str]
) -> ModelFigures:
    """All figures of one model, without ratios."""
    assert file.path is not None
    executed = executed_kernels(file.runnable, config)
    taken = footprint(file.path, feed, config)
    return ModelFigures(
        model=file.name,
        inputs={name: list(array.shape) for name, array in feed.items()},
        cpu_ms=cpu_ms,
        wall_ms=wall_ms,
        load_ms=taken.load_ms,
        peak_bytes=taken.peak_bytes,
        file_bytes=file_bytes(file.model, file.path) or 0,
        operators=dict(Counter(node.op_type for node in executed).most_common()),
        layers=layer_kinds(executed),
        ratios={},
    )


def layer_kinds(executed: Sequence[ExecutedNode]) -> dict[Kind, int]:
    kinds = Counter(kernel_kind(node.op_type) for node in executed)
    return {kind: kinds[kind] for kind in ("integer", "weight-only", "float")}


def ratios(first: ModelFigures, one: ModelFigures) -> dict[str, float]:
    """How many times less than the first, where both are known."""
    pairs = {name: (getattr(first, name), getattr(one, name)) for name in COMPARED}
    return {name: before / after for name, (before, after) in pairs.items() if before and after}


def notes(files: Sequence[ModelFile], feeds: Sequence[Batch]) -> list[str]:
    return [
        f"{file.name} has not the inputs of {files[0].name}: each runs on its own, and ratios compare"
        " different work"
        for file, feed in zip(files[1:], feeds[1:], strict=True)
        if not same_inputs(feeds[0], feed)
    ]
