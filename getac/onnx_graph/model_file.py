"""A model as its file has it: to run it and to look at it, neither converted nor folded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from getac.data.calibration import InputSpec
from getac.errors import GetacError, UnsupportedModelError
from getac.onnx_graph.read import load
from getac.onnx_graph.signature import input_spec

__all__ = ["ModelFile", "ModelSource"]

ModelSource = str | os.PathLike[str] | onnx.ModelProto | ir.Model


@dataclass(frozen=True)
class ModelFile:
    """What a file or a model in memory says.

    Args:
        name: The path, or "a model in memory".
        path: The file, if it is one.
        model: The model; its external data stays on the disk.
    """

    name: str
    path: Path | None
    model: ir.Model

    @staticmethod
    def open(source: ModelSource) -> ModelFile:
        """Reads a model of any opset.

        Raises:
            InvalidModelError: No such file, not ONNX, truncated, data missing.
            UnsupportedModelError: A feature that cannot be represented.
        """
        if isinstance(source, ir.Model):
            return ModelFile("a model in memory", None, source)
        try:
            load(source)  # its checks are about what is wrong with the file
        except UnsupportedModelError:
            if not isinstance(source, str | os.PathLike | onnx.ModelProto):
                raise  # what cannot be lowered may still run; this is no model at all
        if isinstance(source, onnx.ModelProto):
            return ModelFile("a model in memory", None, _represented(source))
        return ModelFile(os.fspath(source), Path(source), _represented(Path(source)))

    @property
    def runnable(self) -> Path | ir.Model:
        """What onnxruntime opens: the file itself where there is one."""
        return self.path or self.model

    def signature(self) -> tuple[InputSpec, ...]:
        """The inputs that a caller must give; one with a default is none.

        Raises:
            UnsupportedModelError: An input is not a tensor of known rank.
        """
        return tuple(input_spec(value) for value in self.model.graph.inputs if not value.is_initializer())

    @contextmanager
    def named(self) -> Iterator[None]:
        """Names the model in errors that do not say whose they are."""
        try:
            yield
        except GetacError as error:
            if self.name in (error.where or ""):
                raise
            where = f"{self.name}: {error.where}" if error.where else self.name
            raise type(error)(
                error.message, where=where, required=error.required, found=error.found, hint=error.hint
            ) from error


def _represented(source: Path | onnx.ModelProto) -> ir.Model:
    try:
        return ir.load(source) if isinstance(source, Path) else ir.from_proto(source)
    except ir.serde.SerdeError as error:
        raise UnsupportedModelError(
            "the model cannot be represented",
            where=str(source) if isinstance(source, Path) else None,
            found=str(error.__cause__ or error),
        ) from error
