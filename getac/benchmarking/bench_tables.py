"""The figures of `getac bench` as tables on a terminal: one column per model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from getac.benchmarking.bench_report import Bench, ModelFigures
from getac.tables import add_row, count, plain_table

__all__ = ["bench_tables"]

Show = Callable[[ModelFigures], str]


def bench_tables(found: Bench) -> RenderableType:
    """What each model costs, the nodes that really run, and what to know of the figures."""
    names = column_names(found)
    figures = plain_table("", *names)
    kernels = plain_table("nodes that run", *names)
    for table in (figures, kernels):
        for column in table.columns[1:]:
            column.justify = "right"
    for label, name, show in figure_rows(found):
        add_row(figures, label, *(cell(one, name, show, one is not found.models[0]) for one in found.models))
    add_row(figures, "layers on integer kernels", *map(integer_layers, found.models))
    for operator in operators(found):
        add_row(kernels, operator, *(str(one.operators.get(operator, "-")) for one in found.models))
    return Group(figures, Text(), kernels, Text(), *map(Text, remarks(found)))


def figure_rows(found: Bench) -> list[tuple[str, str, Show]]:
    """Label, figure, and how to print it."""
    threads = f"{found.threads} thread" + ("s" if found.threads > 1 else "")
    return [
        ("CPU time, 1 thread", "cpu_ms", lambda one: f"{one.cpu_ms:.3f} ms"),
        (f"wall time, {threads}", "wall_ms", lambda one: f"{one.wall_ms:.3f} ms"),
        ("load", "load_ms", lambda one: f"{one.load_ms:.1f} ms"),
        ("peak memory", "peak_bytes", lambda one: "?" if one.peak_bytes is None else count(one.peak_bytes)),
        ("file bytes", "file_bytes", lambda one: count(one.file_bytes)),
    ]


def cell(one: ModelFigures, name: str, show: Show, compared: bool) -> str:
    ratio = one.ratios.get(name) if compared else None
    return f"{show(one)}  {'' if ratio is None else f'{ratio:.2f}x':>6}"


def integer_layers(one: ModelFigures) -> str:
    return f"{one.layers['integer']} of {sum(one.layers.values())}  {one.integer_share:>6.0%}"


def operators(found: Bench) -> list[str]:
    """The executed operators of all models, those of the first one first."""
    return list(dict.fromkeys(operator for one in found.models for operator in one.operators))


def column_names(found: Bench) -> list[str]:
    """File names, or whole paths where two are the same."""
    short = [Path(one.model).name for one in found.models]
    return short if len(set(short)) == len(short) else [one.model for one in found.models]


def remarks(found: Bench) -> list[str]:
    kind = "generated inputs" if found.generated else "the data's first batch"
    shapes = ", ".join(f"{name} {list(sizes)}" for name, sizes in found.models[0].inputs.items())
    options = [f"session options: {', '.join(f'{k}={v}' for k, v in found.session_options.items())}"]
    return [
        f"medians over interleaved runs on {kind}: {shapes}; x: how many times less than the first",
        "peak memory: of loading and running, in a process of its own, above that of the process without it",
        *(options if found.session_options else []),
        *found.notes,
    ]
