"""What many tests need: a model from its text, the numbers that it computes, the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
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
