"""Prints what the analysis finds in every PyTorch model of the zoo, through torch.fx and through ONNX.

python -m tools.zoo_report                  all models, as a table
python -m tools.zoo_report bert llama --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from getac.fx_graph.onnx_export import export_module
from tools.torch_zoo.check import Finding, check_captured, check_exported
from tools.torch_zoo.export import export_legacy
from tools.torch_zoo.registry import TORCH_ZOO, example

COLUMNS = ("model", "graph", "nodes", "classes", "prunable", "kept", "error", "effect", "ms", "opaque")


def findings(name: str, legacy: bool) -> Iterator[tuple[str, Finding | str]]:
    """Graph -> what was found there, or why it could not be exported."""
    captured = check_captured(example(name))
    yield "fx", captured.finding
    for graph, exporter in [("onnx", export_module)] + [("legacy", export_legacy)] * legacy:
        made = example(name)
        try:
            model = exporter(made.module, made.args, made.kwargs)
        except Exception as error:  # the exporters raise whatever their own passes raise
            yield graph, f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        else:
            yield graph, check_exported(model, captured.inputs)


def row(name: str, graph: str, found: Finding | str) -> tuple[str, ...]:
    if isinstance(found, str):
        return (name, graph, *[""] * 7, found)
    numbers = (f"{found.prunable:.3f}", f"{found.kept:.2f}", f"{found.difference:.1e}", f"{found.effect:.1e}")
    time = f"{1e3 * found.seconds:.1f}"
    return (name, graph, str(found.nodes), str(found.classes), *numbers, time, "; ".join(found.opaque))


def plain(found: Finding | str) -> object:
    return found if isinstance(found, str) else asdict(found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(TORCH_ZOO), help="default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--legacy", action="store_true", help="also through torch's older exporter")
    options = parser.parse_args(arguments)
    found = {name: dict(findings(name, options.legacy)) for name in options.models}
    if options.json:
        print(
            json.dumps({name: {graph: plain(one) for graph, one in by.items()} for name, by in found.items()})
        )
        return
    table = Table(*COLUMNS)
    for name, by_graph in found.items():
        for graph, one in by_graph.items():
            table.add_row(*row(name, graph, one))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
