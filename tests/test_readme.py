"""The code blocks of README.md run as they stand, one after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import getac
from tools.zoo.registry import ZOO

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(title: str, language: str) -> list[str]:
    """The code blocks of a section."""
    _, _, rest = README.partition(f"\n## {title}\n")
    section, _, _ = rest.partition("\n## ")
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def execute(codes: list[str], **names: Any) -> dict[str, Any]:
    for number, code in enumerate(codes):
        exec(compile(code, f"README.md, block {number}", "exec"), names)
    return names


def test_every_python_block_is_run_here() -> None:
    titles = re.findall(r"^## (.*)$", README, re.MULTILINE)
    with_code = [title for title in titles if blocks(title, "python")]
    assert with_code == ["Using it", "Train with quantizers", "For compiler engineers"]


def test_using_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    model = ZOO["resnet"]()
    onnx.save(model, "model.onnx")
    [image] = model.graph.input
    sizes = [one.dim_value or 4 for one in image.type.tensor_type.shape.dim]
    np.savez("samples.npz", **{image.name: np.random.default_rng(0).normal(size=sizes).astype(np.float32)})

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = torch.nn.Linear(4, 6), torch.nn.Linear(6, 3)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(x).relu())

    codes = blocks("Using it", "python")
    names = execute(codes, module=Net(), example=torch.randn(2, 4))
    assert names["report"].verification.passed and Path("small.onnx").exists()
    assert names["state"].choice.removed > 0


def test_train_with_quantizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    *training, geta = blocks("Train with quantizers", "python")
    names = execute(training)
    report = names["report"]
    assert report.verification.passed
    assert {one.kernel.split()[0] for one in report.layers} == {"integer"}
    assert [one.weight_bits for one in report.layers] == [8, 4, 8]
    assert report.layers[0].channels_out == 8  # of 16
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint.safetensors",
        "model.int8.onnx",
        "model.qdq.onnx",
    }
    names = execute([geta], **names)
    assert names["report"].verification.passed
    assert names["optimizer"].metrics().sparsity == 0.5
    assert sum(layer.channels_out for layer in names["report"].layers[:2]) == 16  # of 32


def test_for_compiler_engineers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = ZOO["mlp_gemm"]()
    onnx.save(model, "model.onnx")
    onnx.save(model, "tuned.onnx")
    np.savez("samples.npz", features=np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32))
    names = execute(blocks("For compiler engineers", "python"), getac=getac)
    assert {one.name for one in names["found"].passes} >= {"fold-batch-norm", "slice-units"}
    assert names["report"].sparsity == 0.5
    assert Path("small.onnx").read_bytes() == Path("tuned.small.onnx").read_bytes()


def test_the_extras_that_it_names_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    _, _, extras = project.partition("[project.optional-dependencies]\n")
    found = dict(re.findall(r"^(\w+) = \[\n(.*?)^\]", extras, re.DOTALL | re.MULTILINE))
    assert set(re.findall(r'"\.\[(\w+)\]"', README)) == {"demo", "surgeon", "test", "train"} <= found.keys()
    assert "getac[train]" in found["demo"] and "getac[demo," in found["test"]
