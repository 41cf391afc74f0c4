"""What QONNX's own tools make of a Q/DQ graph: `Quant` operators, cleaned up."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from tools.producers.networks import NETWORKS, SMALL, Produced, Size, export, make
from tools.producers.onnxruntime_tools import STATIC, static

__all__ = ["produced"]


def quant_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Q, Clip, DQ as Quant, then `qonnx-cleanup`."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.transformation.qcdq_to_qonnx import QCDQToQuant
    from qonnx.util.cleanup import cleanup_model

    converted = ModelWrapper(model).transform(InferShapes()).transform(QCDQToQuant())
    return cleanup_model(converted).model  # type: ignore[no-any-return]


def produced(size: Size = SMALL) -> Iterator[Produced]:
    for name in NETWORKS:
        network = make(name, size)
        floats = export(network.module, network.inputs[0], optimize=True)
        model = static(floats, network.inputs, **STATIC["QDQ uint8"])
        standard = onnx.ModelProto()
        standard.CopyFrom(model)  # the tools edit what they are given
        yield Produced("qonnx", "Quant", name, quant_operators(model), network.inputs, standard)
