"""Two models on the same inputs: how far their values are apart, summed batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from getac.data.calibration import Batch
from getac.onnx_graph.model_file import ModelFile
from getac.runtime import open_session, run
from getac.verifying.differences import Difference, difference
from getac.verifying.matching import Pair, byte_sizes, computed, in_groups

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["Differences", "inner_differences", "output_differences"]

Differences = Mapping[str, Difference | None]
"""Value, by its name in the reference -> the difference over all batches; None: not comparable."""

MOST_BYTES = 1 << 28  # of values of both models that are in memory at a time
UNKNOWN_BYTES = MOST_BYTES >> 6  # what a value counts whose shape is not known


@dataclass(frozen=True)
class Runner:
    """A session, and whose it is."""

    file: ModelFile
    session: InferenceSession

    def __call__(self, batch: Batch) -> dict[str, Any]:
        with self.file.named():
            return run(self.session, batch)


def output_differences(
    a: ModelFile, b: ModelFile, pairs: Sequence[Pair], batches: Iterable[Batch]
) -> Differences:
    """The reference runs as it is written, the result as onnxruntime optimises it."""
    with a.named():
        expected = Runner(a, open_session(a.runnable, optimize=False))
    with b.named():
        found = Runner(b, open_session(b.runnable))
    return summed(expected, found, pairs, batches)


def inner_differences(
    a: ModelFile, b: ModelFile, pairs: Sequence[Pair], batches: Iterable[Batch]
) -> Differences:
    """Both run as they are written, as often as it takes to hold no more than `MOST_BYTES` of values."""
    totals: dict[str, Difference | None] = dict.fromkeys(pair.name for pair in pairs)
    sizes = fetchable_sizes((a.model, b.model), next(iter(batches)))
    fetched = [pair for pair in pairs if pair.expected in sizes and pair.found in sizes]
    for group in in_groups(fetched, sizes, MOST_BYTES):
        expected, found = [pair.expected for pair in group], [pair.found for pair in group]
        totals.update(summed(as_written(a, expected), as_written(b, found), group, batches))
    return totals


def fetchable_sizes(models: Iterable[ir.Model], batch: Batch) -> dict[ir.Value, int]:
    """Bytes of the values that onnxruntime can hand out; where the shape is not known, a guess."""
    sizes = {}
    for model in models:
        known, unfetchable = byte_sizes(model, batch)
        for value in computed(model):
            if value.name not in unfetchable:
                sizes[value] = known.get(str(value.name), UNKNOWN_BYTES)
    return sizes


def as_written(file: ModelFile, values: Sequence[ir.Value]) -> Runner:
    """Runs the graph without optimisation, and gives these values as well."""
    with file.named():
        names = [str(value.name) for value in values]
        return Runner(file, open_session(file.model, outputs=names, optimize=False))


def summed(a: Runner, b: Runner, pairs: Sequence[Pair], batches: Iterable[Batch]) -> Differences:
    totals: dict[str, Difference | None] = {pair.name: Difference() for pair in pairs}
    for batch in batches:
        add(totals, pairs, a(batch), b(batch))  # no name here keeps the values while the next batch runs
    return totals


def add(
    totals: dict[str, Difference | None],
    pairs: Sequence[Pair],
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
) -> None:
    """Adds the differences of one batch."""
    for pair in pairs:
        total = totals[pair.name]
        one, other = expected[str(pair.expected.name)], found[str(pair.found.name)]
        totals[pair.name] = total + difference(one, other) if total and comparable(one, other) else None


def comparable(one: object, other: object) -> bool:
    """Whether both are arrays of numbers, and both or none of floats."""
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return False
    kinds = one.dtype.kind + other.dtype.kind
    return set(kinds) <= set("iub") or kinds == "ff"
