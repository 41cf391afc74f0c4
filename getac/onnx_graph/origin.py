"""Where a model came from, as far as its graph does not show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

__all__ = ["Origin", "origin_of", "set_origin"]

_KEY = "getac.origin"


@dataclass(frozen=True)
class Origin:
    """What the file of a model said.

    Args:
        files: The files of external data that it names, also those whose tensors are in memory by now.
        defaults: Inputs that had a default, which callers could override; they are constants now.
    """

    files: tuple[Path, ...] = ()
    defaults: tuple[str, ...] = ()


def origin_of(model: ir.Model) -> Origin:
    """The origin of a model that was read, completed by the files that its tensors still lie in."""
    known = model.meta.get(_KEY, Origin())
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    files = {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    return Origin(tuple(sorted({*known.files, *files})), known.defaults)


def set_origin(model: ir.Model, origin: Origin) -> None:
    model.meta[_KEY] = origin
