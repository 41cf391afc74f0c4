"""Arguments and options that several commands have, and how their text is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from getac.errors import OptionError

__all__ = [
    "BatchSize",
    "Bench",
    "Calibration",
    "Force",
    "Inputs",
    "JsonFlag",
    "KeepGlobs",
    "LoweringReport",
    "ModelPath",
    "OutputFile",
    "ReportFile",
    "Seed",
    "Sizes",
    "Target",
    "number_callback",
    "number_or_auto",
    "pairs",
    "sizes_of",
]

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX file to read.")]

OutputFile = Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")]

LoweringReport = Annotated[Path | None, typer.Option("--report", help="Write the report as JSON.")]

Calibration = Annotated[
    Path | None, typer.Option(help="Samples: an .npz with one array per input, or a folder of them.")
]

Inputs = Annotated[
    Path | None,
    typer.Option(help="Inputs: an .npz with one array per input, or a folder of them; random without."),
]

Target = Annotated[
    str, typer.Option(help="Who loads the result: portable (opset 21), or ort (onnxruntime alone).")
]

Bench = Annotated[bool, typer.Option(help="Measure latency before and after.")]

Force = Annotated[bool, typer.Option("--force", help="Write the result even if it does not verify.")]

KeepGlobs = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        help="Glob on parameter names that stay whole; repeatable.",
        callback=lambda globs: tuple(globs or ()),
    ),
]

BatchSize = Annotated[int | None, typer.Option(help="Size of a batch that the model leaves open.")]

Sizes = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=N", help="Size of another dimension that the model leaves open; repeatable."),
]

Seed = Annotated[int, typer.Option(min=0, help="For generated inputs.")]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]

ReportFile = Annotated[Path | None, typer.Option(help="Write everything as JSON to a file.")]


def number_callback(kind: type[float] | type[int], **words: object) -> Callable[..., Any]:
    """Makes a number of what was typed for an option, or what one of these words stands for."""

    def read(parameter: typer.CallbackParam, text: str) -> Any:
        return number(parameter.opts[0], text, kind, words)

    return read


def number_or_auto(option: str, text: str, kind: type[float] | type[int]) -> Any:
    """ "auto", or the number that was typed."""
    return number(option, text, kind, {"auto": "auto"})


def number(option: str, text: str, kind: type[float] | type[int], words: Mapping[str, object]) -> Any:
    """The number that was typed, or what a word stands for."""
    if text in words:
        return words[text]
    try:
        return kind(text)
    except ValueError:
        expected = "a number" if kind is float else "a whole number"
        raise OptionError(
            f"{option} is not a number", required=f"{expected}, or {' or '.join(words)}", found=repr(text)
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
