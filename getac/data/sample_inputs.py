"""Inputs to run models on: the user's data, or generated ones of sizes that were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real

from getac.data.calibration import Batch, InputSpec, generate_inputs
from getac.errors import OptionError
from getac.onnx_graph.signature import batch_symbols

__all__ = ["GENERATED_SAMPLES", "check_count", "check_not_negative", "check_sizes", "generated", "open_sizes"]

Signature = tuple[InputSpec, ...]

GENERATED_SAMPLES = 4  # where numbers are compared


def check_sizes(signatures: Sequence[Signature], sizes: Mapping[str, int], batch: int | None) -> None:
    """Refuses sizes that no model asks for.

    Raises:
        OptionError: A size that is not a whole number above 0; a dimension that no model has; a batch where
            no model leaves it open.
    """
    for name, size in {**sizes, "batch": 1 if batch is None else batch}.items():
        check_count(name, size)
    inputs = "; ".join(str(spec) for signature in signatures for spec in signature)
    known = {dim for signature in signatures for dim in symbols(signature)}
    if unknown := sorted(sizes.keys() - known):
        raise OptionError(
            "no model has an input dimension of this name",
            where=", ".join(unknown),
            required=f"one of: {', '.join(sorted(known))}" if known else "none: all sizes are fixed",
            found=inputs,
        )
    if batch is not None and not any(map(batch_symbols, signatures)):
        raise OptionError("the batch is fixed", where="batch", found=inputs, hint="leave it out")


def check_count(name: str, value: object) -> None:
    """Raises OptionError for what is no whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise OptionError(f"{name} has to be a whole number above 0", required="1 or more", found=repr(value))


def check_not_negative(name: str, value: object, required: str) -> None:
    """Raises OptionError for what is no finite number of 0 or more."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 <= float(value) < float("inf"):  # type: ignore[arg-type]
        raise OptionError(f"{name} is out of its range", required=required, found=repr(value))


def symbols(signature: Signature) -> set[str]:
    return {dim for spec in signature for dim in spec.shape if isinstance(dim, str)}


def open_sizes(signature: Signature, sizes: Mapping[str, int]) -> list[str]:
    """The dynamic dimensions whose sizes nobody has given, the batch left out."""
    return sorted(symbols(signature) - batch_symbols(signature) - sizes.keys())


def generated(signature: Signature, sizes: Mapping[str, int], batch: int, seed: int) -> Batch:
    """Random inputs; raises CalibrationError for an input type that has no numbers.

    Args:
        sizes: Every dynamic dimension but the batch; names that the signature lacks do not matter.
        batch: The size of an open first dimension that `sizes` does not name.
    """
    return generate_inputs(signature, sizes, seed, batch=batch)
