"""onnxruntime: sessions, runs and latency."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from getac.errors import GetacError, OptionError, UnsupportedModelError

__all__ = [
    "measure_latency",
    "median_times",
    "open_session",
    "run",
    "with_outputs",
]

Array = npt.NDArray[Any]
Model = ir.Model | bytes | str | os.PathLike[str]

_PROTOBUF_LIMIT = 1_800_000_000  # bytes; protobuf itself ends at 2^31
_WARM_UPS = 2
_MAX_ROUNDS = 500

# onnxruntime's exceptions have no common base; a wrong feed is a ValueError or a RuntimeError.
_FAILURES: tuple[type[Exception], ...] = (
    ValueError,
    RuntimeError,
    *(kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)


def open_session(
    model: Model,
    *,
    threads: int = 1,
    optimize: bool = True,
    outputs: Iterable[str] | None = None,
    config: Mapping[str, str] | None = None,
) -> ort.InferenceSession:
    """Opens a CPU session for a model in memory, serialized, or on disk.

    A model above 1.8 GB or with external tensors goes through a temporary folder.

    Args:
        model: The model; it is not changed.
        threads: Threads inside an operator. With 1, everything runs in the calling thread.
        optimize: Whether onnxruntime may rewrite the graph; without, each node runs as written.
        outputs: Names of inner values to return as well; for an `ir.Model` only.
        config: onnxruntime's session configuration entries; it ignores those that it does not know.

    Raises:
        UnsupportedModelError: onnxruntime does not load the model.
        OptionError: onnxruntime does not take an entry of `config`.
        GetacError: A value in `outputs` does not exist.
    """
    if outputs is not None:
        if not isinstance(model, ir.Model):
            raise TypeError("outputs can only be exposed on an ir.Model")
        model = with_outputs(model, outputs)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    configure(options, config or {})
    return create_session(model, options)


def configure(options: ort.SessionOptions, config: Mapping[str, str]) -> None:
    """Adds configuration entries; raises OptionError for one that onnxruntime does not take."""
    for key, value in config.items():
        try:
            options.add_session_config_entry(key, value)
        except _FAILURES as error:
            raise OptionError(
                "onnxruntime does not take this session option",
                where=f"{key}={value}",
                found=_first_line(error),
            ) from error


def run(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Runs the session once; gives every output under its name, raises GetacError if onnxruntime fails."""
    names = [output.name for output in session.get_outputs()]
    try:
        values = session.run(names, dict(feeds))
    except _FAILURES as error:
        raise GetacError(
            "onnxruntime failed while it ran the model",
            found=_first_line(error),
            required=", ".join(f"{spec.name}: {spec.type}{spec.shape}" for spec in session.get_inputs()),
        ) from error
    return dict(zip(names, values, strict=True))


def with_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of the model, sharing its tensors, that also returns the named values of its main graph.

    Values without a type stay so (onnxruntime infers it). Names that are outputs already are left as they
    are; the new ones follow in the given order. Raises GetacError for a name that the graph does not have.
    """
    copy = model.clone()
    values = {value.name: value for value in _values(copy.graph)}
    present = {value.name for value in copy.graph.outputs}
    for name in dict.fromkeys(names):
        if name not in values:
            raise GetacError("the graph has no such value", where=name, required="a value of the main graph")
        if name not in present:
            copy.graph.outputs.append(values[name])
    return copy


def measure_latency(
    sessions: Mapping[str, ort.InferenceSession],
    feeds: Mapping[str, Array],
    *,
    min_rounds: int = 10,
    budget_s: float = 3.0,
) -> dict[str, float]:
    """The median CPU time in milliseconds that one run takes in each session, for all fed the same.

    Each round runs every session once, so that a slow moment of the machine falls on all of them. Only
    sessions with one thread are measured right: their work is done in the calling thread.

    Args:
        sessions: The sessions to compare, by name.
        feeds: The inputs of each run.
        min_rounds: How often each one runs at least.
        budget_s: Wall time after which no new round starts.
    """
    tasks = {name: partial(run, session, feeds) for name, session in sessions.items()}
    return median_times(tasks, min_rounds=min_rounds, budget_s=budget_s)


def median_times(
    tasks: Mapping[str, Callable[[], object]],
    *,
    clock: Callable[[], float] = time.thread_time,
    min_rounds: int = 10,
    budget_s: float = 3.0,
) -> dict[str, float]:
    """The median time in milliseconds that each task takes, interleaved as in `measure_latency`.

    Args:
        tasks: What to time, by name.
        clock: In seconds: CPU time of the calling thread, or `time.perf_counter` where several threads work.
        min_rounds: How often each one runs at least.
        budget_s: Wall time after which no new round starts.
    """
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        for _ in range(_WARM_UPS):
            task()
    end = time.monotonic() + budget_s
    for done in range(max(min_rounds, _MAX_ROUNDS)):
        if done >= min_rounds and time.monotonic() > end:
            break
        for name, task in tasks.items():
            start = clock()
            task()
            times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(series) for name, series in times.items()}


def create_session(model: Model, options: ort.SessionOptions) -> ort.InferenceSession:
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    if isinstance(model, str | os.PathLike):
        return _load(os.fspath(model), options)
    if isinstance(model, bytes):
        return _load(model, options)
    if not _needs_folder(model):
        return _load(ir.to_proto(model).SerializeToString(), options)
    with tempfile.TemporaryDirectory(prefix="getac-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, "model.onnx")
        ir.save(model, path, external_data="weights.bin")
        return _load(str(path), options)


def _load(source: str | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except _FAILURES as error:
        raise UnsupportedModelError(
            "onnxruntime cannot load the model",
            where=source if isinstance(source, str) else None,
            found=_first_line(error),
        ) from error


def _needs_folder(model: ir.Model) -> bool:
    tensors = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    external = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    return external or sum(tensor.nbytes for tensor in tensors if tensor is not None) > _PROTOBUF_LIMIT


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _first_line(error: Exception) -> str:
    """The first line of onnxruntime's message, without its "[ONNXRuntimeError] : 1 : FAIL : "."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line.rsplit(" : ", 1)[-1] if line.startswith("[ONNXRuntimeError]") else line
