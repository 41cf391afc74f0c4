"""What `getac lower` makes of quantized models of other tools: size, latency and agreement, before and after.

    python tools/bench_producers.py [--json FILE] [--quick]

Nothing is pruned, and no data is given. Latencies are medians of CPU time over interleaved runs on one
thread; a ratio above 1 is faster. Steps are those of 8 bits over the range of the output: the greatest
difference from the producer's graph as it is written, from the same graph as onnxruntime optimises it (ran),
between these two (own), and the share of the outputs within one step of what is written. Producers that are
not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

if __name__ == "__main__":  # run by path: make `tools` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import getac
from getac.onnx_graph.read import load
from getac.runtime import measure_latency, open_session
from tools.benchmark import machine, rounded
from tools.producers.networks import SMALL, Produced, Size
from tools.producers.steps import steps_apart

__all__ = ["Row", "main", "measure"]

FULL = Size(channels=64, image=28, features=384, hidden=1536, heads=6, tokens=64, batch=1)
COMPARED = 16  # samples
MODULES = (
    "onnxruntime_tools", "torchao_nets", "torch_ao", "brevitas_nets", "qonnx_tools", "modelopt_graphs",
    "torch_modules",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One model; `faster` is the latency before over that after."""

    producer: str
    form: str
    network: str
    bytes_before: int
    bytes_after: int
    milliseconds_before: float
    milliseconds_after: float
    steps: float
    ran_steps: float | None
    own_steps: float | None
    within_a_step: float

    @property
    def faster(self) -> float:
        return self.milliseconds_before / self.milliseconds_after

    def __str__(self) -> str:
        what = f"{self.producer:19} {self.form:21} {self.network:12}"
        size = f"{self.bytes_before:>11,} {self.bytes_after:>11,}"
        times = f"{self.milliseconds_before:8.3f} {self.milliseconds_after:8.3f} {self.faster:6.2f}x"
        two = (f"{'-' if one is None else f'{one:.2f}':>7}" for one in (self.ran_steps, self.own_steps))
        return f"{what}{size}{times}{self.steps:8.2f}{''.join(two)}{self.within_a_step:8.1%}"


HEAD = (
    f"{'producer':19} {'form':21} {'network':12}{'bytes':>11} {'after':>11}"
    f"{'ms':>8} {'after':>8} {'faster':>7}   steps    ran    own  within"
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as JSON")
    parser.add_argument("--quick", action="store_true", help="tiny networks: the form, no judgement")
    parser.add_argument("--only", nargs="*", default=MODULES, choices=MODULES, metavar="PRODUCER")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # tools that open the root logger
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    print(HEAD)
    for one in models(options.only, SMALL if options.quick else FULL):
        rows.append(measure(one, 0.2 if options.quick else 2.0))
        print(rows[-1], flush=True)
    if options.json:
        content = {"machine": machine(), "rows": [{**asdict(row), "faster": row.faster} for row in rows]}
        options.json.write_text(json.dumps(rounded(content), indent=1) + "\n")
    return 0


def models(names: Sequence[str], size: Size) -> Iterator[Produced]:
    for name in names:
        try:
            yield from importlib.import_module(f"tools.producers.{name}").produced(size)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)


def measure(one: Produced, budget: float) -> Row:
    """Lowers a model as it is and runs both; one with QONNX operators runs as what they mean."""
    with TemporaryDirectory(prefix="getac-bench-") as folder:
        path = Path(folder, "lowered.onnx")
        getac.lower(one.model, path, bench=False)
        standard = not any(node.op_type == "Quant" for node in one.model.graph.node)
        before = one.model.SerializeToString() if standard else load(one.model)
        sessions = {"before": open_session(before), "after": open_session(path)}
        feeds = {sessions["before"].get_inputs()[0].name: one.inputs[0].numpy()}
        times = measure_latency(sessions, feeds, budget_s=budget)
        steps = steps_apart(one, path, COMPARED)
        size = path.stat().st_size
    return Row(
        one.producer,
        one.form,
        one.network,
        one.model.ByteSize(),
        size,
        times["before"],
        times["after"],
        steps.written,
        steps.optimised,
        steps.own,
        steps.share,
    )


if __name__ == "__main__":
    sys.exit(main())
