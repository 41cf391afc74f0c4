"""Calibration data: the inputs that a model is run on to see the ranges of its activations.

The data streams. Only array headers are kept in memory; an .npz is read a few rows at a time straight from
the zip file (compressed or not), a folder one file at a time, and the source can be iterated again and again.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from getac.data.npz import NPZ_HINT, Header, MemoryArrays, NpzArchive
from getac.errors import CalibrationError, OptionError

__all__ = ["Batch", "CalibrationData", "InputSpec", "Source", "generate_inputs"]

Array = npt.NDArray[Any]
Batch = dict[str, Array]
Source = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]]

_MOST_ROWS = 64  # of a batch whose size is searched for


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: an int is a static dimension, a name or None a dynamic one."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    def dimension(self, axis: int) -> str:
        """The key of a dynamic dimension in bindings: its symbol, or "input[axis]" if it has no name."""
        dim = self.shape[axis]
        return dim if isinstance(dim, str) else f"{self.name}[{axis}]"

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


_Part = MemoryArrays | NpzArchive


@dataclass(frozen=True)
class CalibrationData:
    """A source of input batches for one model, checked against its signature, that can be iterated again.

    A batch maps every input name to an array. If the first dimension of every input is dynamic, batches hold
    up to `batch_size` samples; if it is static, exactly that many, and an incomplete rest is dropped. Where
    some inputs have a dynamic and others a static first dimension (or none), or where the first dimension of
    one is also another one of some input (a matrix of N x N), a file or mapping is one batch.

    Attributes:
        samples: How many samples the batches hold together (batches, where a file is one batch).
        bound: Sizes of first dimensions that the model leaves open and `with_batches` has settled.
    """

    signature: tuple[InputSpec, ...]
    samples: int
    _parts: tuple[_Part, ...] = field(repr=False)
    _rows: dict[str, int] | None = field(repr=False)
    _length: int = field(repr=False)
    bound: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def open(source: Source, signature: Sequence[InputSpec], batch_size: int = 8) -> CalibrationData:
        """Checks the data against the signature; reads all of it once, a batch at a time.

        Args:
            source: An .npz with one array per input (first axis: samples), a folder of them (read in the
                order of their names, each a batch of samples), a mapping of arrays, or mappings.
            signature: The inputs of the model.
            batch_size: The most samples per batch, where the model leaves it open.

        Raises:
            CalibrationError: Unreadable, pickled or empty data; missing or extra names; wrong dtype, rank,
                static size or sample count; NaN or infinite values.
        """
        signature = tuple(signature)
        if not signature:
            raise CalibrationError("a model without inputs cannot be calibrated", found="no inputs")
        data = CalibrationData._of(_parts(source), signature, _rows_per_batch(signature, batch_size))
        for part in data._parts:
            for batch in data._batches_of(part):
                _check_finite(part.where, batch)
        return data

    @staticmethod
    def _of(
        parts: tuple[_Part, ...], signature: tuple[InputSpec, ...], rows: dict[str, int] | None
    ) -> CalibrationData:
        samples = batches = 0
        for part in parts:
            headers = part.headers()
            _check_names(part.where, headers, signature)
            for spec in signature:
                _check_array(part.where, headers[spec.name], spec, whole=rows is None)
            _bind(part.where, headers, signature, whole=rows is None)
            count = 1 if rows is None else _count(part.where, headers, rows, signature)
            batches += count
            samples += 1 if rows is None else _samples(headers, rows, count, signature)
        return CalibrationData(signature, samples, parts, rows, batches)

    def with_batches(self, sizes: Mapping[str, int]) -> CalibrationData:
        """The same data in batches of fixed sizes, by the names of the dynamic first dimensions.

        Raises:
            CalibrationError: There are too few samples for one batch.
        """
        signature = tuple(
            replace(spec, shape=tuple(sizes.get(str(dim), dim) for dim in spec.shape))
            for spec in self.signature
        )
        data = CalibrationData._of(self._parts, signature, _rows_per_batch(signature, 1))
        return replace(data, bound=sizes)

    def batch_sizes(self) -> Iterator[dict[str, int]]:
        """Sizes that the dynamic first dimensions could be bound to, those near the usual batch first."""
        names = {dim for spec in self.signature for dim in spec.shape[:1] if isinstance(dim, str)}
        if self._rows is not None:
            most = min(header.shape[0] for part in self._parts for header in part.headers().values())
            usual = min(most, *self._rows.values())
            for size in (*range(usual, 0, -1), *range(usual + 1, min(most, _MOST_ROWS) + 1)):
                yield dict.fromkeys(sorted(names), size)
            return
        found = [_bind(part.where, part.headers(), self.signature, whole=True) for part in self._parts]
        if all(one == found[0] for one in found):
            yield {name: found[0][name] for name in sorted(names)}

    def __len__(self) -> int:
        """The number of batches."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        for part in self._parts:
            yield from self._batches_of(part)

    def _batches_of(self, part: _Part) -> Iterator[Batch]:
        headers = part.headers()
        rows = self._rows or {name: max(header.shape[:1], default=1) for name, header in headers.items()}
        streams = [part.rows(spec.name, rows[spec.name]) for spec in self.signature]
        for arrays in zip(*streams, strict=False):
            if all(_complete(spec, array) for spec, array in zip(self.signature, arrays, strict=True)):
                yield {spec.name: array for spec, array in zip(self.signature, arrays, strict=True)}

    def samples_in(self, batch: Batch) -> int:
        """How many of `samples` a batch holds: one, where a file or mapping is one batch."""
        return 1 if self._rows is None else len(batch[self.signature[0].name])

    def settle(self) -> dict[str, int]:
        """The size of every dynamic dimension but an open batch, where all the data agrees on one.

        Keys are symbols, or "input[axis]" for a dimension without a name. A dimension that varies from file
        to file is not settled and is left out.
        """
        seen: dict[str, set[int]] = {}
        for part in self._parts:
            for name, size in _bind(part.where, part.headers(), self.signature).items():
                seen.setdefault(name, set()).add(size)
        return {**{name: min(sizes) for name, sizes in seen.items() if len(sizes) == 1}, **self.bound}


def generate_inputs(
    signature: Sequence[InputSpec], bindings: Mapping[str, int], seed: int, batch: int = 1
) -> Batch:
    """Random inputs for a model without data: normal floats, integers 0 and 1, booleans.

    Args:
        signature: The inputs of the model.
        bindings: Sizes of dynamic dimensions, as `CalibrationData.settle` gives them.
        seed: The same seed gives the same inputs.
        batch: The size of a dynamic first dimension.

    Raises:
        CalibrationError: A dynamic dimension has no binding, or a dtype has no values to draw.
        OptionError: The seed is negative.
    """
    leading = {_dynamic(spec)[0]: batch for spec in signature if 0 in _dynamic(spec)}
    known = {**leading, **bindings}
    missing = sorted({key for spec in signature for key in _dynamic(spec).values()} - known.keys())
    if missing:
        raise CalibrationError(
            "the model has dynamic dimensions of unknown size",
            where=", ".join(str(spec) for spec in signature),
            required="a size for every dynamic dimension but the first",
            found=f"none for {', '.join(missing)}",
            hint="give calibration data: it settles the sizes",
        )
    check_seed(seed)
    rng = np.random.default_rng(seed)
    return {spec.name: _draw(rng, spec, _shape(spec, known)) for spec in signature}


def check_seed(seed: object) -> None:
    """Raises OptionError for what is no whole number of 0 or more."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise OptionError("the seed is a whole number of 0 or more", found=repr(seed))


def _dynamic(spec: InputSpec) -> dict[int, str]:
    return {axis: spec.dimension(axis) for axis, dim in enumerate(spec.shape) if not isinstance(dim, int)}


def _shape(spec: InputSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(
        dim if isinstance(dim, int) else sizes[spec.dimension(axis)] for axis, dim in enumerate(spec.shape)
    )


def _draw(rng: np.random.Generator, spec: InputSpec, shape: tuple[int, ...]) -> Array:
    if np.issubdtype(spec.dtype, np.floating):
        return rng.standard_normal(shape).astype(spec.dtype)
    if spec.dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(spec.dtype)
    raise CalibrationError(
        "inputs of this type cannot be generated",
        where=str(spec),
        required="a float, integer or boolean input",
        found=str(spec.dtype),
        hint="export the model with a float32 input, and a Cast behind it",
    )


def _parts(source: Source) -> tuple[_Part, ...]:
    parts: tuple[_Part, ...]
    if isinstance(source, str | os.PathLike):
        parts = _files(Path(source))
    else:
        if not isinstance(source, Iterable):
            raise CalibrationError(
                "this is no calibration data",
                required="a path, a mapping from input names to arrays, or several mappings",
                found=type(source).__name__,
            )
        mappings = [source] if isinstance(source, Mapping) else list(source)
        parts = tuple(_memory(f"batch {index}", mapping) for index, mapping in enumerate(mappings))
    if not parts:
        where = str(source) if isinstance(source, str | os.PathLike) else None
        raise CalibrationError(
            "there is no calibration data", where=where, required="at least one .npz or batch", hint=NPZ_HINT
        )
    return parts


def _memory(where: str, batch: object) -> MemoryArrays:
    if not isinstance(batch, Mapping):
        raise CalibrationError(
            "the calibration data does not name its arrays",
            where=where,
            required="a mapping from input names to arrays",
            found=type(batch).__name__,
        )
    return MemoryArrays(where, {str(name): np.asarray(array) for name, array in batch.items()})


def _files(path: Path) -> tuple[_Part, ...]:
    if path.is_dir():
        return tuple(NpzArchive(file) for file in sorted(path.glob("*.npz")))
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise CalibrationError(
            "the calibration data is not an .npz file",
            where=str(path),
            required="an .npz file, or a folder of .npz files",
            found="a file of another format" if path.is_file() else "no such file",
            hint=NPZ_HINT,
        )
    return (NpzArchive(path),)


def _rows_per_batch(signature: Sequence[InputSpec], batch_size: int) -> dict[str, int] | None:
    leading = [spec.shape[0] if spec.shape else 0 for spec in signature]
    if all(isinstance(dim, int) and dim > 0 for dim in leading):
        return {spec.name: int(dim or 1) for spec, dim in zip(signature, leading, strict=True)}
    inner = {dim for spec in signature for dim in spec.shape[1:] if isinstance(dim, str)}
    if any(isinstance(dim, int) or dim in inner for dim in leading):
        return None
    return dict.fromkeys((spec.name for spec in signature), batch_size)


def _check_names(where: str, headers: Mapping[str, Header], signature: Sequence[InputSpec]) -> None:
    names = [spec.name for spec in signature]
    missing = [name for name in names if name not in headers]
    extra = [name for name in headers if name not in names]
    if not missing and not extra:
        return
    found = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"extra: {', '.join(extra)}"] * bool(extra)
    arrays = ", ".join(f"{name!r}: array" for name in names)
    raise CalibrationError(
        "the calibration data has other names than the model's inputs",
        where=where,
        required=f"one array for each of: {', '.join(names)}",
        found="; ".join(found),
        hint=f'np.savez("calibration.npz", **{{{arrays}}})',
    )


def _check_array(where: str, header: Header, spec: InputSpec, *, whole: bool) -> None:
    where = f"{where}: {spec.name}"
    if header.dtype != spec.dtype:
        raise CalibrationError(
            "the calibration data has another type than the model's input",
            where=where,
            required=str(spec.dtype),
            found=str(header.dtype),
            hint=f"array.astype(np.{spec.dtype.name})",
        )
    # The first axis counts samples, so only a source that is one batch must agree with the model there.
    skipped = 0 if whole else 1
    fits = len(header.shape) == len(spec.shape) and all(
        size == dim or not isinstance(dim, int)
        for size, dim in zip(header.shape[skipped:], spec.shape[skipped:], strict=True)
    )
    if not fits:
        raise CalibrationError(
            "the calibration data has another shape than the model's input",
            where=where,
            required=str(spec),
            found=str(list(header.shape)),
            hint="one array per input, samples along the first axis",
        )
    if 0 in header.shape:
        raise CalibrationError(
            "the calibration data is empty",
            where=where,
            required="at least one sample",
            found=str(list(header.shape)),
            hint=NPZ_HINT,
        )


def _bind(
    where: str, headers: Mapping[str, Header], signature: Sequence[InputSpec], whole: bool = False
) -> dict[str, int]:
    """The size of each dynamic dimension in one part; they must agree between its inputs.

    Args:
        whole: Whether the part is one batch; else first dimensions count samples, and are left out.
    """
    leading = set() if whole else {spec.dimension(0) for spec in signature if spec.shape}
    sizes: dict[str, int] = {}
    for spec in signature:
        for axis, name in _dynamic(spec).items():
            size = headers[spec.name].shape[axis]
            if name not in leading and sizes.setdefault(name, size) != size:
                raise CalibrationError(
                    "the calibration data gives one dimension two sizes",
                    where=f"{where}: {spec.name}",
                    required=f"{name} = {sizes[name]}, as in the inputs before",
                    found=f"{name} = {size}",
                )
    return sizes


def _count(
    where: str, headers: Mapping[str, Header], rows: Mapping[str, int], signature: Sequence[InputSpec]
) -> int:
    """The number of batches in one part; all inputs must have the same."""
    static = isinstance(signature[0].shape[0], int)
    lengths = {name: headers[name].shape[0] for name in rows}
    counts = {lengths[name] // rows[name] if static else lengths[name] for name in rows}
    if len(counts) != 1:
        raise CalibrationError(
            "the calibration data has different sample counts",
            where=where,
            required="the same number of samples for every input",
            found=", ".join(f"{name}: {length}" for name, length in lengths.items()),
        )
    if counts == {0}:
        raise CalibrationError(
            "the calibration data has too few samples",
            where=where,
            required=f"at least {max(rows.values())}, the model's fixed batch size",
            found=str(min(lengths.values())),
            hint="give more samples in one file, or export the model with a dynamic batch",
        )
    return counts.pop() if static else math.ceil(counts.pop() / min(rows.values()))


def _samples(
    headers: Mapping[str, Header], rows: Mapping[str, int], batches: int, signature: Sequence[InputSpec]
) -> int:
    first = signature[0].name
    return min(headers[first].shape[0], batches * rows[first])


def _complete(spec: InputSpec, array: Array) -> bool:
    return not spec.shape or not isinstance(spec.shape[0], int) or len(array) == spec.shape[0]


def _check_finite(where: str, batch: Batch) -> None:
    for name, array in batch.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CalibrationError(
                "the calibration data holds NaN or infinite values",
                where=f"{where}: {name}",
                required="finite numbers",
                found=f"{int((~np.isfinite(array)).sum())} of {array.size} values of a batch",
                hint="leave out the samples concerned, or repair what made them",
            )
