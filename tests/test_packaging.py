"""What is installed is what is in the repository, and importing it is light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"passes": "getac.passes", "kernels": "getac.kernels"}
HEAVY = ("torch", "onnxruntime", "onnx", "onnx_ir", "typer", "rich", "sklearn", "networkx")


@pytest.fixture(scope="module")
def setuptools_table():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11 and later
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def folders(top):
    """The folders below one that hold Python files, symlinks not followed."""
    found = {
        path.parent for path in (ROOT / top).rglob("*.py") if not any(p.is_symlink() for p in path.parents)
    }
    return {folder.relative_to(ROOT).as_posix() for folder in found}


def test_every_folder_with_python_files_is_listed(setuptools_table):
    expected = {folder.replace("/", ".") for folder in folders("getac")}
    for top, package in TOP_LEVEL.items():
        expected |= {folder.replace("/", ".").replace(top, package, 1) for folder in folders(top)}
    packages = setuptools_table["packages"]
    assert sorted(packages) == sorted(expected)
    assert len(packages) == len(set(packages))


def test_top_level_folders_are_mapped_and_linked(setuptools_table):
    mapping = setuptools_table["package-dir"]
    assert mapping == {"getac": "getac"} | {package: top for top, package in TOP_LEVEL.items()}
    for top in TOP_LEVEL:
        link = ROOT / "getac" / top
        assert link.is_symlink() and link.resolve() == ROOT / top
        assert not link.readlink().is_absolute()


def test_the_types_are_shipped(setuptools_table):
    assert "py.typed" in setuptools_table["package-data"]["getac"]
    assert (ROOT / "getac" / "py.typed").is_file()


def test_kernels_cannot_be_taken_for_another_package():
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_import_is_light_and_silent():
    code = f"import sys, getac; print(*[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
    assert result.stderr == ""
