"""`getac demo`: trains a small residual CNN on real digits with QASSO, lowers it, shows gains and losses."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import RenderableType
from rich.text import Text

from getac.analyzing import analyze
from getac.demo_training import (
    Digits,
    export_float,
    load_digits,
    reproducible_torch,
    residual_network,
    train,
    train_with_qasso,
)
from getac.errors import GetacError, OutputError
from getac.lowering import lower
from getac.onnx_graph.write import check_output
from getac.report import Latency, Report, Totals
from getac.runtime import measure_latency, open_session, run
from getac.tables import totals_table

__all__ = ["DemoResult", "run_demo"]

PACKAGES = ("torch", "sklearn", "onnxscript")
INPUT = "input"


@dataclass(frozen=True)
class Files:
    """What the demo leaves behind; it replaces files of these names, and touches no others."""

    model: Path
    trained: Path
    lowered: Path
    test: Path
    report: Path

    @staticmethod
    def in_folder(folder: Path) -> Files:
        names = ("digits.onnx", "digits.trained.onnx", "digits.int8.onnx", "test.npz", "report.json")
        return Files(*(folder / name for name in names))

    def prepare(self) -> None:
        """Makes the folder; raises OutputError if something cannot be written."""
        folder = self.model.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                "the folder cannot be made", where=str(folder), found=error.strerror or str(error)
            ) from error
        for path in vars(self).values():
            check_output(path)

    def command(self) -> str:
        """The command line that makes the lowered model and the report from the trained one."""
        quoted = {name: shlex.quote(str(path)) for name, path in vars(self).items()}
        return f"getac lower {quoted['trained']} -o {quoted['lowered']} \\\n  --report {quoted['report']}"


@dataclass(frozen=True)
class DemoResult:
    """What came out.

    Args:
        float_accuracy: Share of test images that the float network gets right under onnxruntime.
        lowered_accuracy: The same for the small integer one.
        sparsity: The share of units that training has removed.
        report: Of the lowering, but with sizes, BOPs and latency of the float network before it.
    """

    float_accuracy: float
    lowered_accuracy: float
    sparsity: float
    report: Report
    files: Files


def run_demo(
    folder: Path, *, epochs: int = 12, seed: int = 0, say: Callable[[RenderableType], None]
) -> DemoResult:
    """Trains in floats and with QASSO, lowers and compares; leaves the models in a folder.

    Args:
        folder: Made if need be; files that an earlier run left there are replaced.
        epochs: Passes over the training images, of each training.
        seed: Of the split, the weights and the order of the images.
        say: Gets the progress and the result, for a rich console to print.

    Raises:
        GetacError: A package of the demo is missing.
        OutputError: The files cannot be written.
    """
    check_packages()
    files = Files.in_folder(folder)
    files.prepare()
    data, test = load_digits(seed)
    np.savez(files.test, image=test.images, label=test.labels)
    sparsity = train_both(data, files, epochs, seed, say)

    say("exported; lowering")
    report = lower(files.trained, files.lowered, report=files.report, bench=False)
    report = beside_float(report, files, test)
    accuracies = accuracy(files.model, test), accuracy(files.lowered, test)
    result = DemoResult(*accuracies, sparsity, report, files)
    for part in summary(result, len(test.labels)):
        say(part)
    return result


def train_both(
    data: Digits, files: Files, epochs: int, seed: int, say: Callable[[RenderableType], None]
) -> float:
    """Writes the float network and the small quantized one; returns the share of units that went."""
    from getac.training.exporting import export

    with reproducible_torch(seed):
        say(f"training a residual network on {len(data.labels)} images of digits, in floats")
        network = residual_network()
        train(network, data, epochs, say)
        export_float(network, files.model)
    with reproducible_torch(seed):
        say("and another one with QASSO, which prunes and quantizes while it trains")
        small, sparsity = train_with_qasso(residual_network(), data, epochs, say)
        export(small, files.trained)
    return sparsity


def beside_float(report: Report, files: Files, test: Digits) -> Report:
    """The report on the lowered network beside the float one, from whose shape it came."""
    cost = analyze(files.model).costs.total
    before = Totals(cost.parameters, cost.bytes, files.model.stat().st_size, cost.macs, cost.bops)
    sessions = {"before": open_session(files.model), "after": open_session(files.lowered)}
    times = measure_latency(sessions, {INPUT: test.images[:1]})
    return replace(report, before=before, latency=Latency(times["before"], times["after"]))


def check_packages() -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise GetacError(
            "the demo trains a network and exports it, and needs packages that are not installed",
            found=f"no {', no '.join(missing)}",
            hint='pip install "getac[demo]"',
        )


def accuracy(model: Path, data: Digits) -> float:
    """Share of images whose greatest logit is their label, under onnxruntime."""
    logits: npt.NDArray[Any]
    (logits,) = run(open_session(model), {INPUT: data.images}).values()
    return float((logits.argmax(axis=1) == data.labels).mean())


def summary(result: DemoResult, images: int) -> Iterator[RenderableType]:
    report, before, after = result.report, result.float_accuracy, result.lowered_accuracy
    integer = sum(layer.kernel.startswith("integer") for layer in report.layers)
    table = totals_table(report)
    table.add_row(
        f"accuracy, {images} test images",
        f"{before:.1%}",
        f"{after:.1%}",
        f"{100 * (after - before):+.1f} points",
    )
    yield ""
    yield table
    yield (
        f"{result.sparsity:.0%} of the units removed while it trained;"
        f" {integer} of {len(report.layers)} layers run as integer kernels"
    )
    yield f"\nThe files are in {result.files.model.parent}. The lowered model was made by"
    yield Text(result.files.command())  # a Text: brackets in a path are no markup
