"""Which passes there are: getac's own, those of installed packages, and those in a user's file.

A package offers passes by the entry point group `getac.passes`:

    [project.entry-points."getac.passes"]
    double-weights = "my_package.passes:DoubleWeights"

A file needs no installation: `-p my_passes.py:DoubleWeights`. Both run the user's code, on purpose.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import getac.passes
from getac.errors import OptionError
from getac.pipeline import Pass
from getac.pipelines.declaration import make_pass
from getac.pipelines.spec import PassSpec, parse

__all__ = ["GROUP", "built_in_passes", "find_pass", "installed_passes", "make_passes"]

GROUP = "getac.passes"
REQUIRED = ("name", "needs", "gives", "keeps", "run")


def make_passes(pipeline: str | Sequence[Pass]) -> tuple[Pass, ...]:
    """The passes of a spec, or passes as they are.

    Raises:
        OptionError: The text is no pipeline, a pass is unknown, or an option does not fit.
    """
    if not isinstance(pipeline, str):
        return tuple(pipeline)
    return tuple(map(pass_of, parse(pipeline)))


def pass_of(spec: PassSpec) -> Pass:
    """The pass that a spec names: a class with options, or a function of a graphsurgeon Graph."""
    found = find_pass(spec)
    if isinstance(found, type):
        return make_pass(checked(found, spec.name), spec)
    if spec.options or not callable(found):
        raise OptionError(
            f"{spec.name} is not a pass",
            required="a frozen dataclass, or a function of an onnx-graphsurgeon Graph (without options)",
            found=str(spec) if spec.options else repr(found),
        )
    return getac.passes.SurgeonPass(found)


def built_in_passes() -> dict[str, type[Pass]]:
    """Name -> pass, of getac itself."""
    found = {}
    for public in getac.passes.__all__:
        kind = getattr(getac.passes, public)
        if is_pass(kind) and kind is not getac.passes.SurgeonPass:  # a function is no text
            found[kind.name] = kind
    return dict(sorted(found.items()))


def is_pass(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind) and all(hasattr(kind, one) for one in REQUIRED)


def installed_passes() -> Mapping[str, EntryPoint]:
    """Name -> entry point, of all installed packages; nothing is imported yet."""
    return {one.name: one for one in entry_points(group=GROUP)}


def find_pass(spec: PassSpec) -> Any:
    """What a spec names: the class of a pass, or what stands in somebody's package or file.

    Raises:
        OptionError: There is none of this name, or the file or package cannot be imported.
    """
    built_in = built_in_passes()
    if spec.name in built_in:
        return built_in[spec.name]
    installed = installed_passes()
    if spec.name in installed:
        return load_entry(installed[spec.name])
    if ":" in spec.name:
        return load_from_file(spec.name)
    raise OptionError(
        f"there is no pass {spec.name}",
        required=", ".join([*built_in, *installed]),
        found=spec.name,
        hint="own passes: FILE.py:ClassName; `getac opt --list-passes` shows all",
    )


def load_entry(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # whatever the import of somebody's package raises
        raise OptionError(
            f"the pass {entry.name} cannot be imported", where=entry.value, found=described(error)
        ) from error


def load_from_file(name: str) -> Any:
    """What FILE.py:NAME names."""
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise OptionError("there is no such file", where=name, required="FILE.py:ClassName", found=file)
    module = import_file(path)
    if not hasattr(module, attribute):
        public = [one for one in vars(module) if callable(vars(module)[one]) and one[0] != "_"]
        raise OptionError(
            f"{path.name} has no {attribute}", where=name, required=" or ".join(public) or "a class"
        )
    return getattr(module, attribute)


def import_file(path: Path) -> ModuleType:
    """Imports a file once, under a name that no installed module can have."""
    name = f"getac user pass {path.resolve()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise OptionError("this is not a Python file", where=str(path), required="FILE.py:ClassName")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        del sys.modules[name]
        raise OptionError("the file cannot be imported", where=str(path), found=described(error)) from error
    return module


def checked(kind: type, name: str) -> type[Pass]:
    """A class, if it is a pass."""
    missing = [one for one in REQUIRED if not hasattr(kind, one)]
    if not is_dataclass(kind) or missing:
        raise OptionError(
            f"{name} is not a pass",
            required=f"a frozen dataclass with {', '.join(REQUIRED)}",
            found=f"no {', '.join(missing)}" if missing else f"{kind!r}, which is no dataclass",
            hint="docs/writing-a-pass.md has a template",
        )
    return kind  # type: ignore[return-value]


def described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
