"""`getac bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from getac.cli.arguments import BatchSize, Inputs, JsonFlag, ReportFile, Seed, Sizes, pairs, sizes_of
from getac.cli.console import check_report, give

__all__ = ["bench"]


def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="ONNX files; ratios are to the first.")
    ],
    data: Inputs = None,
    batch: BatchSize = None,
    size: Sizes = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the wall time; one per core if not given.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each model runs at least.")] = 10,
    budget: Annotated[float, typer.Option(help="Seconds for each of the two latencies.")] = 3.0,
    session_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A session configuration entry of onnxruntime, such as"
            " session.qdq_matmulnbits_block_size=128; repeatable. Unknown ones are ignored by onnxruntime.",
        ),
    ] = None,
    seed: Seed = 0,
    json: JsonFlag = False,
    report: ReportFile = None,
) -> None:
    """Measure latency, load time, memory, size and executed nodes of models, side by side."""
    from getac.benchmarking.bench_tables import bench_tables
    from getac.benchmarking.benching import bench as run

    check_report(report, [*models, data])
    found = run(
        models,
        data,
        batch=batch,
        sizes=sizes_of(size),
        threads=threads,
        rounds=rounds,
        budget_s=budget,
        session_options=pairs("--session-option", session_option),
        seed=seed,
    )
    give(found, bench_tables, json, report)
