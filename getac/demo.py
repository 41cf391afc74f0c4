"""`getac demo`: trains a small residual CNN on real digits, lowers it, and shows what it gained and lost.

Pruning costs nothing where training has emptied the units first. Here a group lasso does that: after every
step of SGD, each unit g (all entries that one pruning class of the model ties together) shrinks towards zero,

    x_g <- x_g max(0, 1 - s / ||x_g||)        the proximal step of s sum_g ||x_g|| (Yuan and Lin 2006)

so that units which the loss does not hold up arrive at exactly zero, and stay there.
"""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import RenderableType
from rich.text import Text

from getac.errors import GetacError, OutputError
from getac.lowering import lower
from getac.onnx_graph.read import load
from getac.onnx_graph.write import check_output
from getac.passes import FoldQuantizers, InferAxes, InferShapes, Pipeline, RemoveDead, State
from getac.report import Report
from getac.runtime import open_session, run
from getac.tables import totals_table

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    # A unit's entries: slices of parameters along one dimension, all with the same number of units.
    Group = list[tuple[nn.Parameter, int]]

__all__ = ["DemoResult", "run_demo"]

PACKAGES = ("torch", "sklearn", "onnxscript")
WIDTH = 64
BATCH = 64
LEARNING_RATE = 0.1
SPARSITY = 0.6
ZERO_SHARE = 0.7  # more than the sparsity: whole blocks of units go, and each class keeps some
SHRINKAGE = 1.0  # of a unit's norm (about 2 at the start) per unit of learning rate
CALIBRATION_SAMPLES = 128


@dataclass(frozen=True)
class Digits:
    """Scans of handwritten digits: images (n, 1, 8, 8) in [0, 1], labels (n,) in 0 to 9."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


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
        export(network).save(files.model, external_data=False)
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


def load_digits(seed: int) -> tuple[Digits, Digits]:
    """scikit-learn's 1797 digits; three quarters to train on, the rest to test on."""
    from sklearn import datasets, model_selection

    digits = datasets.load_digits()
    images, labels = (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64)
    a, b, c, d = model_selection.train_test_split(images, labels, stratify=labels, random_state=seed)
    return Digits(a, c), Digits(b, d)


def residual_network() -> nn.Module:
    """Eight convolutions in three blocks (He et al. 2015), for images (n, 1, 8, 8): logits (n, 10)."""
    from torch import nn

    def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm2d(outputs)]

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            first, second = convolution(inputs, outputs, 3, stride), convolution(outputs, outputs, 3)
            same = inputs == outputs and stride == 1
            self.body = nn.Sequential(*first, nn.ReLU(), *second)
            self.shortcut = nn.Sequential(*([] if same else convolution(inputs, outputs, 1, stride)))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.body(x) + self.shortcut(x)
            return y.relu()

    return nn.Sequential(
        *convolution(1, WIDTH, 3),
        nn.ReLU(),
        Block(WIDTH, WIDTH, 1),
        Block(WIDTH, 2 * WIDTH, 2),
        Block(2 * WIDTH, 2 * WIDTH, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * WIDTH, 10),
    )


def pruning_groups(network: nn.Module) -> list[Group]:
    """The classes that getac finds in the exported network, as slices of the network's parameters."""
    state = State(load(export(network).model_proto))
    Pipeline((FoldQuantizers(), RemoveDead(), InferShapes(), InferAxes())).run(state)
    assert state.analysis is not None
    parameters = dict(network.named_parameters())  # the exporter keeps their names
    return [
        [(parameters[one.name], one.dimension) for one in found.members if one.name in parameters]
        for found in state.analysis.classes
    ]


def fit(
    network: nn.Module,
    groups: list[Group],
    data: Digits,
    epochs: int,
    say: Callable[[RenderableType], None],
) -> None:
    """SGD with momentum and a falling learning rate; shrinks the less, the more units are zero."""
    import torch

    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    batches = len(labels) // BATCH
    optimizer = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs * batches)
    zero = 0.0
    network.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for chosen in torch.randperm(len(labels))[: batches * BATCH].reshape(batches, BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(images[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate = float(optimizer.param_groups[0]["lr"])
            zero = shrink(groups, rate * SHRINKAGE * max(0.0, 1 - zero / ZERO_SHARE))
            schedule.step()
            total += loss.item()
        say(f"epoch {epoch} of {epochs}: loss {total / batches:.4f}, {zero:.0%} of the units are zero")


def shrink(groups: list[Group], threshold: float) -> float:
    """Takes `threshold` off the norm of every unit, in place; returns the share of units that are zero."""
    import torch

    zero = units = 0
    with torch.no_grad():
        for group in groups:
            rows = [parameter.movedim(dimension, 0) for parameter, dimension in group]
            norms = torch.stack([row.reshape(len(row), -1).square().sum(1) for row in rows]).sum(0).sqrt()
            factors = (1 - threshold / norms.clamp_min(1e-12)).clamp_min(0)
            for row in rows:
                row.mul_(factors.reshape(-1, *[1] * (row.dim() - 1)))
            zero += int((factors == 0).sum())
            units += len(factors)
    return zero / units


def export(network: nn.Module) -> torch.onnx.ONNXProgram:
    """The network in evaluation mode with a symbolic batch, its batch norms not yet folded."""
    import torch

    image = torch.zeros(2, 1, 8, 8)
    with silence():
        program = torch.onnx.export(
            network.eval(),
            (image,),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            optimize=False,
        )
    assert program is not None
    return program


@contextmanager
def reproducible_torch(seed: int) -> Iterator[None]:
    """Seeds torch and keeps it on one thread (faster for batches this small); puts both back afterwards."""
    import torch

    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def silence() -> Iterator[None]:
    """Swallows what torch's exporter prints, warns and logs."""
    level = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


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
