"""`getac demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from getac.cli.console import output_console

__all__ = ["demo"]


def demo(
    folder: Annotated[Path, typer.Option(help="Where the files are left.")] = Path("getac-demo"),
) -> None:
    """Train a small network on real digits, lower it, and show what it gained and lost."""
    from getac.demo import run_demo

    run_demo(folder, say=output_console().print)
