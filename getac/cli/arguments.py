"""Arguments and options that several commands have, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from getac.errors import OptionError

__all__ = [
    "BatchSize",
    "JsonFlag",
    "KeepGlobs",
    "ModelPath",
    "ReportFile",
    "Seed",
    "Sizes",
    "number_or_auto",
    "number_or_none",
    "pairs",
    "sizes_of",
]

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX file to read.")]

KeepGlobs = Annotated[
    list[str] | None, typer.Option("--keep", help="Glob on parameter names that stay whole; repeatable.")
]

BatchSize = Annotated[int | None, typer.Option(help="Size of a batch that the model leaves open.")]

Sizes = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=N", help="Size of another dimension that the model leaves open; repeatable."),
]

Seed = Annotated[int, typer.Option(help="For generated inputs.")]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]

ReportFile = Annotated[Path | None, typer.Option(help="Write everything as JSON to a file.")]


def number_or_auto(option: str, text: str, kind: type[float] | type[int]) -> Any:
    """ "auto", or the number that was typed."""
    return text if text == "auto" else number(option, text, kind, "auto")


def number_or_none(option: str, text: str, kind: type[float] | type[int]) -> Any:
    """None for "none", or the number that was typed."""
    return None if text == "none" else number(option, text, kind, "none")


def number(option: str, text: str, kind: type[float] | type[int], other: str) -> Any:
    """The number that was typed; `other` is what could have been instead."""
    try:
        return kind(text)
    except ValueError:
        expected = "a number" if kind is float else "a whole number"
        raise OptionError(
            f"{option} is not a number", required=f"{expected}, or {other}", found=repr(text)
        ) from None


def pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    """What was typed as NAME=VALUE, once or several times."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise OptionError(f"{option} takes a name and a value", required="NAME=VALUE", found=repr(text))
        if found.setdefault(name, value) != value:
            raise OptionError(
                f"{option} gives one name two values", found=f"{found[name]} and {value}", where=name
            )
    return found


def sizes_of(texts: list[str] | None) -> dict[str, int]:
    """The sizes that were typed as NAME=N."""
    found = pairs("--size", texts)
    if wrong := next((value for value in found.values() if not value.isdecimal()), None):
        raise OptionError("--size is not a whole number", required="NAME=N", found=repr(wrong))
    return {name: int(value) for name, value in found.items()}
