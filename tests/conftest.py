"""What many tests need: a model from its text, the numbers that it computes, the command line."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch starts: the workers share the cores

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import settings
from onnx import numpy_helper

import getac
from getac.cli import main
from tools.zoo.registry import ZOO

settings.register_profile("getac", derandomize=True, database=None, deadline=None)
settings.load_profile("getac")

LONGEST = (
    "tests/test_torch_zoo.py",
    "tests/test_random_graphs.py",
    "tests/training/test_end_to_end.py",
    "tests/producers/test_torch_modules.py",
    "tests/test_lower.py",
    "tests/fx_graph/test_operators.py",
    "tests/fx_graph/test_random_modules.py",
    "tests/rules/test_properties.py",
    "tests/training/test_prepared_zoo.py",
    "tests/producers/test_onnxruntime.py",
    "tests/training/test_exporting.py",
    "tests/training/test_checkpoint.py",
    "tests/tools/test_bench_digits.py",
)
"""The files of more than 15 seconds, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: begun last, one would keep a single worker busy to the end."""
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(LONGEST)))


def pytest_configure() -> None:
    """Looks for garbage seldom: torch allocates so much that it took a sixth of the time."""
    gc.set_threshold(50_000, 20, 50)


def pytest_collection_finish() -> None:
    """What is imported by now, and the tests themselves, stay: garbage is not looked for among them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def parsed_once() -> None:
    """For every export torch has all 500 of its ONNX functions parsed, in a third of a second."""
    if "torch" in sys.modules and find_spec("onnxscript"):
        from onnxscript.values import TracedOnnxFunction

        parsing = vars(TracedOnnxFunction).get("function_ir")
        if isinstance(parsing, property) and parsing.fget is not None:  # a detail of the library
            TracedOnnxFunction.function_ir = property(functools.cache(parsing.fget))


@pytest.fixture(scope="session")
def build() -> Callable[..., ir.Model]:
    """Makes an opset 21 model from ONNX's text form; stored tensors are given by name."""

    def make(text: str, **tensors: np.ndarray | onnx.TensorProto) -> ir.Model:
        model = onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> graph ' + text
        )
        for name, tensor in tensors.items():
            if not isinstance(tensor, onnx.TensorProto):
                tensor = numpy_helper.from_array(np.asarray(tensor), name)
            model.graph.initializer.append(tensor)
        for index, node in enumerate(model.graph.node):
            node.name = f"{node.op_type.lower()}_{index}"
        return ir.serde.deserialize_model(model)

    return make


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., list[np.ndarray]]:
    """Runs a model under onnxruntime as it is written, without optimisations; returns its outputs."""

    def run(model: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
        proto = ir.serde.serialize_model(model)
        onnx.checker.check_model(proto, full_check=True)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        return session.run(None, feeds)

    return run


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int | str, str, str]]:
    """Runs `getac ...` in this process; gives the exit code, the output and the errors."""

    def call(*arguments: object) -> tuple[int | str, str, str]:
        monkeypatch.setattr(sys, "argv", ["getac", *map(str, arguments)])
        try:
            main()
            code: int | str = 0
        except SystemExit as end:
            code = end.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a float model, what `lower` makes of it, and its data."""
    folder = tmp_path_factory.mktemp("mlp")
    onnx.save(ZOO["mlp_gemm_transposed"](), folder / "float.onnx")
    x = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
    np.savez(folder / "data.npz", features=x)
    getac.lower(folder / "float.onnx", folder / "int8.onnx", calibration=folder / "data.npz", bench=False)
    return folder


@pytest.fixture(scope="module")
def torch_threads() -> Iterator[None]:
    """Gives torch back, in the end, the number of threads that it has: for what sets another one."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
