"""Where a model came from: the files of its weights, and the inputs that had a default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from getac.errors import OutputError
from getac.onnx_graph.origin import Origin, origin_of
from getac.onnx_graph.read import read_model, read_proto
from getac.onnx_graph.write import write_model


def proto(size: int, ir_version: int = 8) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["": 17]> g (float[N,{size}] x, float[{size}] b)'
        f" => (float[N,{size}] y) {{ y = Add(x, b) }}"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones(size, np.float32), "b"))
    return model


@pytest.mark.parametrize("size", [3, 3000])
def test_external_files_whether_read_or_mapped(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(proto(size), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    model = read_model(path)
    assert origin_of(model) == Origin((tmp_path / "w.bin",), ("b",))
    with pytest.raises(OutputError, match="reads its weights from"):
        write_model(model, tmp_path / "w.bin")


@pytest.mark.parametrize(("ir_version", "defaults"), [(3, ()), (4, ("b",)), (8, ("b",))])
def test_defaults_since_ir_4(ir_version: int, defaults: tuple[str, ...]) -> None:
    """Before, every weight had to be an input."""
    assert origin_of(read_proto(proto(3, ir_version))) == Origin((), defaults)
