"""What stands in a user's file: `-p my_passes.py:DoubleWeights`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from getac.errors import OptionError
from getac.pipelines.blame import described, last_line

__all__ = ["load_from_file"]


def load_from_file(name: str) -> Any:
    """What FILE.py:NAME names; runs the file.

    Raises:
        OptionError: There is no such file, it fails, or nothing in it is called so.
    """
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise OptionError("there is no such file", where=name, required="FILE.py:ClassName", found=file)
    module = import_file(path)
    if not hasattr(module, attribute):
        own = [key for key, one in vars(module).items() if is_defined_in(module, one) and key[0] != "_"]
        raise OptionError(
            f"{path.name} has no {attribute}", where=name, required=" or ".join(own) or "a class"
        )
    return getattr(module, attribute)


def is_defined_in(module: ModuleType, one: Any) -> bool:
    """Whether it is a class or a function of the file itself, not one that it imports."""
    return callable(one) and getattr(one, "__module__", None) == module.__name__


def import_file(path: Path) -> ModuleType:
    """Runs a file, once for as long as it stays as it is, as a module whose name no other can have."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise OptionError("the file cannot be read", where=str(path), found=error.strerror) from error
    name = f"getac user pass {path.resolve()} {hashlib.sha256(source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        del sys.modules[name]
        raise OptionError(
            "the file cannot be imported", where=place(path, error), found=described(error)
        ) from error
    return module


def place(path: Path, error: BaseException) -> str:
    """The line of the file at which it failed."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}"
    last = last_line(error, {str(path)})
    return f"{path}, line {last.lineno}" if last.filename == str(path) else str(path)
