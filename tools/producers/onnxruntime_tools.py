"""What `onnxruntime.quantization` writes: static Q/DQ and operators on integers, and dynamic ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from tools.producers.networks import MORE, NETWORKS, SMALL, Network, Produced, Size, export, make

__all__ = ["STATIC", "dynamic", "produced", "static"]

STATIC: dict[str, dict[str, Any]] = {
    "QDQ uint8": {"quant_format": QuantFormat.QDQ},
    "QDQ int8 per channel": {
        "quant_format": QuantFormat.QDQ, "per_channel": True, "activation_type": QuantType.QInt8
    },
    "QDQ uint8 weights": {"quant_format": QuantFormat.QDQ, "weight_type": QuantType.QUInt8},
    "QDQ uint16": {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt16},
    "QDQ int4": {"quant_format": QuantFormat.QDQ, "weight_type": QuantType.QInt4},
    "QOperator uint8": {"quant_format": QuantFormat.QOperator, "per_channel": True},
    "QOperator int8": {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QInt8},
}  # fmt: skip
DEFAULTS = {"weight_type": QuantType.QInt8, "activation_type": QuantType.QUInt8}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Inputs one by one."""

    def __init__(self, name: str, inputs: tuple[Tensor, ...]) -> None:
        self.rest = iter([{name: x.numpy()} for x in inputs])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.rest, None)


def static(model: onnx.ModelProto, inputs: tuple[Tensor, ...], **options: Any) -> onnx.ModelProto:
    reader = Reader(model.graph.input[0].name, inputs)
    return through_files(
        model, lambda source, target: quantize_static(source, target, reader, **{**DEFAULTS, **options})
    )


def dynamic(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    return through_files(
        model,
        lambda source, target: quantize_dynamic(source, target, weight_type=QuantType.QInt8, **options),
    )


def through_files(model: onnx.ModelProto, quantize: Callable[[Path, Path], None]) -> onnx.ModelProto:
    """What a tool makes of the optimised model, as its documentation advises."""
    with TemporaryDirectory() as folder:
        source, ready, target = (Path(folder, f"{name}.onnx") for name in ("float", "ready", "quantized"))
        onnx.save(model, source)
        quant_pre_process(source, ready, skip_symbolic_shape=True)
        optimised = onnx.load(ready)
        del optimised.graph.value_info[:]  # quantize_dynamic transposes weights and keeps their old shapes
        onnx.save(optimised, ready)
        quantize(ready, target)
        return onnx.load(target)


def produced(
    size: Size = SMALL, names: Iterable[str] = (*NETWORKS, *MORE), seed: int = 0
) -> Iterator[Produced]:
    for name in names:
        network: Network = make(name, size, seed)
        dynamo = name in NETWORKS  # the exporter that traces is quicker, and writes LSTM and GRU
        model = export(network.module, network.inputs[0], dynamo=dynamo, optimize=True)
        for form, options in STATIC.items():
            yield Produced(
                "onnxruntime", form, name, static(model, network.inputs, **options), network.inputs
            )
        for per_channel in (False, True):
            form = f"dynamic per {'channel' if per_channel else 'tensor'}"
            yield Produced("onnxruntime", form, name, dynamic(model, per_channel=per_channel), network.inputs)
