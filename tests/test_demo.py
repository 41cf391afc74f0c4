"""The demo trains, lowers, and says the truth about it; its command line makes the same files again."""

from __future__ import annotations

import json
import shlex
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from typer.testing import CliRunner

from getac.cli import app
from getac.demo import DemoResult, check_packages, run_demo
from getac.demo_training import load_digits
from getac.errors import GetacError, OutputError
from getac.runtime import open_session, run

torch = pytest.importorskip("torch")
EPOCHS = 6


class Spoken:
    """Collects what a terminal would show."""

    def __init__(self) -> None:
        self.console = Console(file=StringIO(), width=1000)

    @property
    def text(self) -> str:
        assert isinstance(self.console.file, StringIO)
        return self.console.file.getvalue()


@pytest.fixture(scope="module")
def spoken() -> Spoken:
    return Spoken()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, spoken: Spoken) -> DemoResult:
    folder = tmp_path_factory.mktemp("demo") / "made" / "by the demo"
    return run_demo(folder, epochs=EPOCHS, say=spoken.console.print)


def predictions(model: Path, test: Path) -> NDArray[Any]:
    with np.load(test) as data:
        images = data["image"]
    (logits,) = run(open_session(model), {"input": images}).values()
    return np.asarray(logits.argmax(axis=1))


def accuracy(model: Path, test: Path) -> float:
    with np.load(test) as data:
        return float((predictions(model, test) == data["label"]).mean())


def test_leaves_its_files_and_nothing_else(result: DemoResult) -> None:
    paths = vars(result.files).values()
    assert {path.name for path in paths} == {path.name for path in result.files.model.parent.iterdir()}
    assert json.loads(result.files.report.read_text())["verification"]["passed"] is True


def test_both_models_classify_and_agree_with_the_result(result: DemoResult) -> None:
    files = result.files
    assert accuracy(files.model, files.test) == result.float_accuracy >= 0.97
    assert accuracy(files.lowered, files.test) == result.lowered_accuracy
    assert result.lowered_accuracy >= result.float_accuracy - 0.02


def test_training_and_test_images_are_different_ones() -> None:
    train, test = load_digits(0)
    assert train.images.shape == (1347, 1, 8, 8) and test.images.shape == (450, 1, 8, 8)
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}


def test_lowered_model_is_smaller_and_all_integer(result: DemoResult) -> None:
    report = result.report
    assert result.sparsity == pytest.approx(0.6, abs=0.01)
    assert [layer.operator for layer in report.layers].count("Conv") == 8
    assert {layer.kernel for layer in report.layers} == {"integer (QLinearConv)", "integer (QGemm)"}
    assert result.files.lowered.stat().st_size < result.files.model.stat().st_size / 8
    assert report.after.bops < report.before.bops / 40


def test_before_is_the_float_network(result: DemoResult) -> None:
    before = result.report.before
    assert before.bops == before.macs * 32 * 32
    assert before.file_bytes == result.files.model.stat().st_size


def test_what_was_trained_is_what_is_lowered(result: DemoResult) -> None:
    (against_trained,) = result.report.verification.original
    assert against_trained.sqnr_db > 15


def test_says_accuracy_size_bops_latency_and_the_command(result: DemoResult, spoken: Spoken) -> None:
    for words in (
        "file bytes",
        "BOPs",
        "latency",
        "accuracy, 450 test images",
        f"epoch {EPOCHS} of {EPOCHS}",
    ):
        assert words in spoken.text
    assert f"{result.lowered_accuracy:.1%}" in spoken.text
    assert result.files.command() in spoken.text


def test_the_command_makes_the_lowered_model_again(result: DemoResult) -> None:
    files, size = result.files, result.files.lowered.stat().st_size
    before = predictions(files.lowered, files.test)
    files.lowered.unlink()
    program, *arguments = shlex.split(files.command().replace("\\\n", " "))
    outcome = CliRunner().invoke(app, [*arguments, "--no-bench"])
    assert (program, outcome.exit_code) == ("getac", 0), outcome.output
    # The last bit of a float sum may depend on where memory lies; what is removed and stored does not.
    assert files.lowered.stat().st_size == size
    assert (predictions(files.lowered, files.test) == before).mean() > 0.99


def test_refuses_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(GetacError, match="no sklearn, no onnxscript") as caught:
        check_packages()
    assert caught.value.hint == 'pip install "getac[demo]"'


def test_refuses_a_folder_that_cannot_be_made(tmp_path: Path, spoken: Spoken) -> None:
    Path(tmp_path, "taken").write_text("a file")
    with pytest.raises(OutputError, match="folder cannot be made"):
        run_demo(tmp_path / "taken", say=spoken.console.print)
