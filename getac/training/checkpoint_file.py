"""The file of a checkpoint: safetensors, with the plan as JSON among its metadata. Nothing in it is run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from getac.errors import BadInputError, OutputError
from getac.onnx_graph.write import replacing
from getac.plans.plan import versions

__all__ = ["UNREADABLE", "Checkpoint", "damaged", "read_checkpoint", "write_checkpoint"]

Path = str | os.PathLike[str]
FORMAT = 1
KEY = "getac"
UNREADABLE = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What reading a plan raises that `getac.save` has not written: it says anything."""


@dataclass(frozen=True)
class Checkpoint:
    """A file's content.

    Args:
        path: Where it was read.
        plan: What is said about the tensors.
        tensors: By name.
    """

    path: str
    plan: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start so, by the rest of their names."""
        return {n.removeprefix(prefix): one for n, one in self.tensors.items() if n.startswith(prefix)}


def write_checkpoint(path: Path, plan: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes a file that is whole, or leaves what was there.

    Raises:
        OutputError: The file cannot be written.
    """
    content = {"format": FORMAT, "versions": {**versions(), "torch": torch.__version__}, **plan}
    with replacing(path) as temporary:
        try:
            save_file(apart(tensors), temporary, {KEY: json.dumps(content)})
        except (SafetensorError, OSError) as error:
            message = "the checkpoint cannot be written"
            raise OutputError(message, where=str(path), found=str(error)) from error


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each with memory of its own: the format has no views."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes
        found[name] = tensor.contiguous().clone() if shared else tensor.contiguous()
        seen.add(storage.data_ptr())
    return found


def read_checkpoint(path: Path, *prefixes: str) -> Checkpoint:
    """Reads a file, and of its tensors those whose names start with one of the prefixes.

    Raises:
        BadInputError: There is no such file, it is damaged, not a checkpoint, or of a newer format.
    """
    if not isinstance(path, str | os.PathLike):
        raise BadInputError(
            "this is no path",
            found=type(path).__name__,
            required="the name of a file that getac.save has written",
        )
    where = os.fspath(path)
    if not os.path.isfile(where):
        raise BadInputError("there is no such file", where=str(where))
    try:
        with safe_open(where, framework="pt") as file:
            plan = read_plan(str(where), file.metadata() or {})
            every = file.keys()
            names = [name for name in every if name.startswith(prefixes)]
            return Checkpoint(str(where), plan, {name: file.get_tensor(name) for name in names})
    except (SafetensorError, OSError) as error:
        raise BadInputError(
            "this file cannot be read as safetensors",
            where=str(where),
            found=str(error),
            required="a whole file that getac.save has written",
        ) from error


def read_plan(where: str, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    if KEY not in metadata:
        raise BadInputError(
            "this safetensors file is not a checkpoint of getac",
            where=where,
            required="a file that getac.save has written",
        )
    try:
        plan = json.loads(metadata[KEY])
        version, writer = int(plan["format"]), plan["versions"]["getac"]
    except UNREADABLE as error:
        raise damaged(where, error) from error
    if version > FORMAT:
        raise BadInputError(
            "the checkpoint has a newer format than this version of getac knows",
            where=where,
            required=f"format {FORMAT} or older",
            found=f"format {version}, written by getac {writer}",
            hint="update getac",
        )
    assert isinstance(plan, dict)
    return plan


def damaged(where: str, error: Exception) -> BadInputError:
    """For a file of the right kind that says what `getac.save` never writes."""
    return BadInputError(
        "the checkpoint is damaged",
        where=where,
        found=f"{type(error).__name__}: {error}",
        required="a file as getac.save has written it",
    )
