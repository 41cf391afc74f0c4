"""Reads calibration batches: what a model is called with, again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from getac.errors import CalibrationError

__all__ = ["Call", "calls_of"]

Call = tuple[Sequence[Any], Mapping[str, Any]]
"""Positional and keyword inputs."""


def calls_of(batches: Iterable[Any]) -> Iterator[Call]:
    """Each batch as a call of the model, one at a time.

    Args:
        batches: Each a tensor, a tuple or list of positional inputs, or a dictionary of keyword inputs.

    Raises:
        CalibrationError: Anything else.
    """
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise CalibrationError(
            "calibration data is not a sequence of batches",
            where="calibration",
            found=type(batches).__name__,
            hint="put a single batch into a list",
        )
    for position, batch in enumerate(batches):
        yield call_of_batch(batch, position)


def call_of_batch(batch: Any, position: int) -> Call:
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, list | tuple):
        return batch, {}
    if isinstance(batch, Mapping) and all(isinstance(name, str) for name in batch):
        return (), batch
    raise CalibrationError(
        "a calibration batch is of an unknown kind",
        where=f"batch {position}",
        required="a tensor, a tuple or list of positional inputs, or a dictionary of keyword inputs",
        found=type(batch).__name__,
    )
