"""Reads a plan that `getac lower --plan` wrote, with doubt: the file may say anything."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from getac.errors import BadInputError
from getac.json_types import of_type, texts
from getac.plans.plan import GETAC, MODEL, PLAN_VERSION
from getac.plans.structure import Operation, Structure, Tensor
from getac.quantizer import Quantizer

__all__ = ["PlannedClass", "PlannedQuantizer", "SavedPlan", "read_plan"]

T = TypeVar("T")
UNREADABLE = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
"""What reading a plan raises that getac has not written."""

LOWEST, HIGHEST = -(2**16), 2**16
"""Integers of a lattice lie between these."""

PLAN_KEYS = (
    *("plan_version", "versions", "source", "structure", "keep", "sparsity", "exact", "integer", "classes"),
    *("quantizers", "floats"),
)
SOURCE_KEYS = ("name", "sha256")
STRUCTURE_KEYS = ("hash", "inputs", "parameters", "operations", "outputs")
CLASS_KEYS = ("name", "role", "units", "kept", "members")
MEMBER_KEYS = ("parameter", "dimension")
QUANTIZER_KEYS = ("bits", "low", "high", "axis", "block", "step", "stored", "of")

MemberNames = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class PlannedClass:
    """A pruning class, which units of it stay, and where it occurs: parameters and their dimensions."""

    name: str
    units: int
    kept: tuple[int, ...]
    members: MemberNames

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Which units stay."""
        mask = np.zeros(self.units, np.bool_)
        mask[list(self.kept)] = True
        return mask


@dataclass(frozen=True)
class PlannedQuantizer:
    """A lattice, whether a stored tensor has it, and whether the plan's model came with it."""

    quantizer: Quantizer
    stored: bool
    own: bool


@dataclass(frozen=True)
class SavedPlan:
    """What a plan decides; see docs/plan.md."""

    path: str
    source: str
    structure: Structure
    hash: str
    keep: tuple[str, ...]
    exact: bool
    integer: bool
    classes: tuple[PlannedClass, ...]
    quantizers: Mapping[str, PlannedQuantizer]
    floats: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.path}, made from {self.source}" if self.source else self.path


def read_plan(path: str | os.PathLike[str]) -> SavedPlan:
    """Reads a plan.

    Raises:
        BadInputError: The file cannot be read, is no plan, or one of another version; a class would lose all
            of its units, or keeps units that it does not have; a quantizer has steps that are no steps.
    """
    content = read_json(Path(path))
    if not isinstance(content, dict) or "plan_version" not in content:
        raise BadInputError(
            "this is not a plan", where=str(path), required="what getac lower --plan writes (docs/plan.md)"
        )
    check_version(content["plan_version"], path)
    try:
        return plan_of(str(path), content)
    except UNREADABLE as error:
        raise damaged(path, error) from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError("the plan cannot be read", where=str(path), found=error.strerror) from error
    except (ValueError, RecursionError) as error:  # neither text nor JSON
        raise BadInputError(
            "the plan is not JSON",
            where=str(path),
            required="what getac lower --plan writes (docs/plan.md)",
            found=str(error),
        ) from error


def check_version(found: Any, path: str | os.PathLike[str]) -> None:
    if found == PLAN_VERSION and type(found) is int:
        return
    older = type(found) is int and found < PLAN_VERSION
    raise BadInputError(
        "the plan has another version",
        where=str(path),
        required=f"version {PLAN_VERSION}",
        found=f"version {found!r}" + (", which does not say what models it fits" if older else ""),
        hint="write it anew with getac lower --plan" if older else "use the getac that wrote it",
    )


def damaged(path: str | os.PathLike[str], error: Exception) -> BadInputError:
    missing = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
    return BadInputError(
        "the plan says what no plan says",
        where=str(path),
        required="what docs/plan.schema.json describes",
        found=missing,
    )


def plan_of(path: str, content: Mapping[str, Any]) -> SavedPlan:
    check_keys(content, PLAN_KEYS, "the plan")
    source = check_keys(content["source"], SOURCE_KEYS, "source") if content["source"] is not None else {}
    structure = structure_from(check_keys(content["structure"], STRUCTURE_KEYS, "structure"))
    quantizers = of_type(dict, content["quantizers"], "quantizers")
    check_versions(content["versions"])
    check_share(content["sparsity"])
    classes = tuple(class_from(one) for one in of_type(list, content["classes"], "classes"))
    check_names(classes)
    if content["structure"]["hash"] != structure.hash:
        raise ValueError("the hash of the plan is not that of its structure")
    return SavedPlan(
        path,
        of_type(str, source.get("name", ""), "the name of the source"),
        structure,
        structure.hash,
        texts(content["keep"], "keep"),
        of_type(bool, content["exact"], "exact"),
        of_type(bool, content["integer"], "integer"),
        classes,
        {name: quantizer_from(name, one, path) for name, one in quantizers.items()},
        {
            name: of_type(str, why, f"floats of {name}")
            for name, why in of_type(dict, content["floats"], "floats").items()
        },
    )


def check_keys(content: Any, keys: Collection[str], what: str) -> dict[str, Any]:
    """An object of JSON, if it has these keys and no others."""
    found = of_type(dict, content, what)
    for key in keys:
        if key not in found:
            raise KeyError(key)
    if unknown := sorted(found.keys() - set(keys)):
        raise ValueError(f"{what} has {unknown[0]!r}")
    return found


def check_versions(content: Any) -> None:
    for name, version in of_type(dict, content, "versions").items():
        of_type(str, version, f"the version of {name}")


def check_share(sparsity: Any) -> None:
    if type(sparsity) not in (int, float) or not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is {sparsity!r}, no share of units")


def structure_from(content: Mapping[str, Any]) -> Structure:
    return Structure(
        tuple(record(Tensor, one) for one in of_type(list, content["inputs"], "inputs")),
        tuple(record(Tensor, one) for one in of_type(list, content["parameters"], "parameters")),
        tuple(record(Operation, one) for one in of_type(list, content["operations"], "operations")),
        texts(content["outputs"], "outputs"),
    )


def record(kind: type[T], content: Any) -> T:
    """A dataclass of texts and lists of texts."""
    names = [one.name for one in fields(kind)]  # type: ignore[arg-type]  # a dataclass
    values = [check_keys(content, names, kind.__name__)[name] for name in names]
    return kind(
        *(
            texts(one, kind.__name__) if isinstance(one, list) else of_type(str, one, kind.__name__)
            for one in values
        )
    )


def class_from(content: Any) -> PlannedClass:
    check_keys(content, CLASS_KEYS, "a class")
    name, _ = (of_type(str, content[key], f"the {key} of a class") for key in ("name", "role"))
    units = of_type(int, content["units"], f"units of {name}")
    kept = tuple(of_type(int, one, f"a unit of {name}") for one in of_type(list, content["kept"], "kept"))
    if not kept:
        raise ValueError(f"{name} would lose all of its {units} units")
    if list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < units:
        raise ValueError(f"{name} keeps units that are not among its {units}, or not in order: {shown(kept)}")
    members = tuple(member_from(one, name) for one in of_type(list, content["members"], "members"))
    if not members:
        raise ValueError(f"{name} has no members")
    return PlannedClass(name, units, kept, members)


def member_from(content: Any, name: str) -> tuple[str, int]:
    check_keys(content, MEMBER_KEYS, f"a member of {name}")
    dimension = of_type(int, content["dimension"], f"a dimension of {name}")
    if dimension < 0:
        raise ValueError(f"{name} has a member along dimension {dimension}")
    return of_type(str, content["parameter"], f"a parameter of {name}"), dimension


def check_names(classes: Sequence[PlannedClass]) -> None:
    names = [one.name for one in classes]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"there are {len(repeated)} classes {repeated[0]}")


def shown(units: tuple[int, ...]) -> str:
    return f"{units[0]} ... {units[-1]}, {len(units)} of them" if len(units) > 4 else str(list(units))


def quantizer_from(name: str, content: Any, path: str) -> PlannedQuantizer:
    check_keys(content, QUANTIZER_KEYS, f"the quantizer of {name}")
    low, high = (of_type(int, content[key], f"{key} of {name}") for key in ("low", "high"))
    axis, block = (
        None if content[key] is None else of_type(int, content[key], f"{key} of {name}")
        for key in ("axis", "block")
    )
    whose, stored = content["of"], of_type(bool, content["stored"], "stored")
    step = np.asarray(content["step"])
    if whose not in (MODEL, GETAC):
        raise ValueError(f"the quantizer of {name} is of {whose!r}, not of {MODEL} or {GETAC}")
    if not LOWEST <= low <= 0 <= high <= HIGHEST or low == high:
        raise ValueError(f"the quantizer of {name} has the integers {low} to {high}")
    if step.dtype.kind not in "if" or step.ndim != dimensions(axis, block, step.ndim) or not step.size:
        raise ValueError(f"the steps of {name} are no array of numbers along axis {axis}")
    if content["bits"] != Quantizer(np.ones((), np.float32), low, high).bits:
        raise ValueError(f"the quantizer of {name} has {content['bits']!r} bits for {low} to {high}")
    if (axis or 0) < 0 or (block is not None and (block < 1 or axis is None)):
        raise ValueError(f"the quantizer of {name} has axis {axis} and blocks of {block}")
    if not (stored or whose == MODEL or axis is None):
        raise ValueError(f"the activation {name} has steps along axis {axis}; getac gives it one step")
    try:
        with np.errstate(over="ignore"):  # an infinite step is refused
            quantizer = Quantizer(step.astype(np.float32), low, high, axis, block)
    except BadInputError as error:
        raise BadInputError(
            error.message, where=f"{path}, quantizer of {name}", found=error.found, required=error.required
        ) from error
    return PlannedQuantizer(quantizer, stored, whose == MODEL)


def dimensions(axis: int | None, block: int | None, found: int) -> int:
    """Of the array of steps."""
    if block is not None:
        return found
    return 0 if axis is None else 1
