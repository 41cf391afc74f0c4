"""Arrays that calibration data is made of: in memory, or in an .npz that is read a few rows at a time."""

from __future__ import annotations

import contextlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from getac.errors import CalibrationError

__all__ = ["NPZ_HINT", "Header", "MemoryArrays", "NpzArchive"]

Array = npt.NDArray[Any]
Batch = dict[str, Array]

NPZ_HINT = 'save the samples with np.savez("calibration.npz", INPUT=array, ...), one array per model input'
_BAD_HEADER = (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)
BROKEN = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, RuntimeError)


@dataclass(frozen=True)
class Header:
    """What is known about an array before its data is read."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool = False


@dataclass(frozen=True)
class MemoryArrays:
    """Arrays in memory, sliced on demand."""

    where: str
    arrays: Batch

    def headers(self) -> dict[str, Header]:
        return {name: Header(array.dtype, array.shape) for name, array in self.arrays.items()}

    def rows(self, name: str, count: int) -> Iterator[Array]:
        array = self.arrays[name]
        if array.ndim == 0:
            yield array
            return
        for start in range(0, len(array), count):
            yield array[start : start + count]


@dataclass(frozen=True)
class NpzArchive:
    """An .npz file, of which a few rows at a time are in memory."""

    path: Path

    @property
    def where(self) -> str:
        return str(self.path)

    def headers(self) -> dict[str, Header]:
        headers = {}
        with self._guard(), zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                with archive.open(info) as file:
                    header = read_header(file)
                    stored = info.file_size - file.tell()
                if header.dtype.hasobject or stored != math.prod(header.shape) * header.dtype.itemsize:
                    raise bad_array(self.where, info.filename, header)
                headers[info.filename.removesuffix(".npy")] = header
        return headers

    def rows(self, name: str, count: int) -> Iterator[Array]:
        with self._guard(), self._open(name) as file:
            header = read_header(file)
            if header.fortran or not header.shape:
                # A transposed array has its rows scattered over the whole file.
                order = header.shape[::-1] if header.fortran else header.shape
                whole = np.frombuffer(file.read(), header.dtype).reshape(order)
                yield from MemoryArrays(self.where, {name: whole.T if header.fortran else whole}).rows(
                    name, count
                )
                return
            total, *row = header.shape
            size = math.prod(row) * header.dtype.itemsize
            for start in range(0, total, count):
                taken = min(count, total - start)
                yield np.frombuffer(file.read(taken * size), header.dtype).reshape(taken, *row)

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        with zipfile.ZipFile(self.path) as archive:
            member = f"{name}.npy" if f"{name}.npy" in archive.namelist() else name
            with archive.open(member) as file:
                yield file

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except BROKEN as error:
            raise CalibrationError(
                "the calibration data cannot be read",
                where=self.where,
                required="an .npz file of plain arrays",
                found=str(error) or type(error).__name__,
                hint=NPZ_HINT,
            ) from error


def read_header(file: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"array format {version[0]}.{version[1]} (structured arrays) is not supported")
    try:
        shape, fortran, dtype = readers[version](file)
    except _BAD_HEADER as error:  # numpy parses the header as a Python literal, and passes on what fails
        raise ValueError(f"an array's header cannot be parsed: {error}") from error
    return Header(dtype, shape, fortran)


def bad_array(where: str, name: str, header: Header) -> CalibrationError:
    found = "pickled Python objects" if header.dtype.hasobject else "less or more data than its header says"
    return CalibrationError(
        "the calibration data cannot be read",
        where=f"{where}: {name}",
        required="plain numeric arrays",
        found=found,
        hint=NPZ_HINT,
    )
