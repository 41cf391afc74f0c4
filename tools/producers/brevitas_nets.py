"""What Brevitas writes: Q, Clip and DQ of ONNX (QCDQ), and the `Quant` operators of QONNX."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

from tools.producers.networks import NETWORKS, SMALL, Network, Produced, Size, make

__all__ = ["produced"]

OPSETS = {"QCDQ": 17, "QONNX": 20}


def quantized(name: str, network: Network) -> nn.Module:
    """A network with Brevitas' quantizers, calibrated: every value of the CNN and of the perceptron, the
    linear layers of the transformer."""
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize, quantize

    if name == "transformer":
        module = layerwise_quantize(network.module)
    else:
        module = quantize(preprocess_for_quantize(torch.fx.symbolic_trace(network.module)))
    with torch.no_grad(), calibration_mode(module):
        for x in network.inputs:
            module(x)
    return module.eval()  # type: ignore[no-any-return]


def exported(module: nn.Module, x: Tensor, form: str) -> onnx.ModelProto:
    from brevitas.export import export_onnx_qcdq, export_qonnx

    write = {"QCDQ": export_onnx_qcdq, "QONNX": export_qonnx}[form]
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        write(module, args=x, export_path=str(path), dynamo=False, opset_version=OPSETS[form])
        return onnx.load(path)


def produced(size: Size = SMALL) -> Iterator[Produced]:
    with warnings.catch_warnings():  # of tracing, and of kernels that are not installed
        warnings.simplefilter("ignore")
        for name in NETWORKS:
            network = make(name, size)
            module = quantized(name, network)
            for form in ("QCDQ", "QONNX"):
                model = exported(module, network.inputs[0], form)
                yield Produced("Brevitas", form, name, model, network.inputs)
