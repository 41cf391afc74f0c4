"""`getac demo`: trains a small residual CNN on real digits, lowers it, and shows what it gained and lost."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from rich.console import RenderableType
from rich.text import Text

from getac.demo_training import (
    Digits,
    export,
    fit,
    load_digits,
    pruning_groups,
    reproducible_torch,
    residual_network,
)
from getac.errors import GetacError, OutputError
from getac.lowering import lower
from getac.onnx_graph.write import check_output
from getac.report import Report
from getac.runtime import open_session, run
from getac.tables import totals_table

__all__ = ["DemoResult", "run_demo"]

PACKAGES = ("torch", "sklearn", "onnxscript")
SPARSITY = 0.6
CALIBRATION_SAMPLES = 128


@dataclass(frozen=True)
class Files:
    """What the demo leaves behind; it replaces files of these names, and touches no others."""

    model: Path
    lowered: Path
    calibration: Path
    test: Path
    report: Path

    @staticmethod
    def in_folder(folder: Path) -> Files:
        names = ("digits.onnx", "digits.int8.onnx", "calibration.npz", "test.npz", "report.json")
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
        for path in (self.model, self.lowered, self.calibration, self.test, self.report):
            check_output(path)

    def command(self) -> str:
        """The command line that makes the lowered model and the report from the other files."""
        quoted = {name: shlex.quote(str(path)) for name, path in vars(self).items()}
        return " \\\n  ".join(
            (
                f"getac lower {quoted['model']} -o {quoted['lowered']}",
                f"--sparsity {SPARSITY} --calibration {quoted['calibration']}",
                f"--report {quoted['report']}",
            )
        )


@dataclass(frozen=True)
class DemoResult:
    """What came out; sizes, BOPs and latency before and after stand in the report.

    Args:
        float_accuracy: Share of test images that the exported model gets right under onnxruntime.
        lowered_accuracy: The same for the lowered model.
    """

    float_accuracy: float
    lowered_accuracy: float
    report: Report
    files: Files


def run_demo(
    folder: Path, *, epochs: int = 12, seed: int = 0, say: Callable[[RenderableType], None]
) -> DemoResult:
    """Trains, exports, lowers and compares; leaves the models and the data in a folder.

    Args:
        folder: Made if need be; files that an earlier run left there are replaced.
        epochs: Passes over the training images.
        seed: Of the split, the weights and the order of the images.
        say: Gets the progress and the result, for a rich console to print.

    Raises:
        GetacError: A package of the demo is missing.
        OutputError: The files cannot be written.
    """
    check_packages()
    files = Files.in_folder(folder)
    files.prepare()
    train, test = load_digits(seed)
    say(f"training a residual network on {len(train.labels)} images of digits")
    with reproducible_torch(seed):
        network = residual_network()
        fit(network, pruning_groups(network), train, epochs, say)
        onnx.save(export(network), files.model)
    np.savez(files.calibration, image=train.images[:CALIBRATION_SAMPLES])
    np.savez(files.test, image=test.images, label=test.labels)

    say("exported; lowering")
    report = lower(
        files.model, files.lowered, sparsity=SPARSITY, calibration=files.calibration, report=files.report
    )
    result = DemoResult(accuracy(files.model, test), accuracy(files.lowered, test), report, files)
    for part in summary(result, len(test.labels)):
        say(part)
    return result


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
    logits: npt.NDArray[Any] = run(open_session(model), {"image": data.images})["logits"]
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
        f"{report.units_removed} of {report.units} units removed;"
        f" {integer} of {len(report.layers)} layers run as integer kernels"
    )
    yield f"\nThe files are in {result.files.model.parent}. The lowered model was made by"
    yield Text(result.files.command())  # a Text: brackets in a path are no markup
