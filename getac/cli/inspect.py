"""`getac inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from getac.cli.arguments import KeepGlobs, ModelPath
from getac.cli.console import output_console

__all__ = ["inspect"]

PruneGlobs = Annotated[
    list[str] | None,
    typer.Option(
        "--prune",
        help="Glob on parameter names to open although statistics are taken over them, to see what that"
        " would give (lowering keeps them whole); repeatable.",
    ),
]


def inspect(
    model: ModelPath,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    dot: Annotated[Path | None, typer.Option(help="Write the folded network for Graphviz.")] = None,
    keep: KeepGlobs = None,
    prune: PruneGlobs = None,
) -> None:
    """Show the pruning classes, the frozen axes with their reasons, and the quantizers of a model."""
    from getac.inspection import inspect as run

    if dot is not None:
        from getac.onnx_graph.origin import origin_of
        from getac.onnx_graph.read import load
        from getac.onnx_graph.write import check_output

        check_output(dot, [model, *origin_of(load(model)).files])
    found = run(model, keep=keep or (), prune=prune or ())
    if dot is not None:
        from getac.network import to_dot
        from getac.onnx_graph.write import atomic_write_text

        atomic_write_text(dot, to_dot(found.network))
    if json:
        print(found.as_json())
        return
    from getac.tables import inspection_tables

    output_console().print(inspection_tables(found))
