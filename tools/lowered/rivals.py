"""What onnxruntime's own tools make of a model, with the settings that its documentation recommends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

__all__ = ["integer_rival", "weight_only_rival"]

Batch = Mapping[str, npt.NDArray[Any]]
ON_THE_FLY = 4  # the accuracy level that rounds activations to 8 bits as it runs, as in our result
BLOCK = 32


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Calibration data as the tool wants it."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches: Iterator[Batch] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


def integer_rival(model: Path, output: Path, batches: Sequence[Batch]) -> None:
    """Q/DQ with UINT8 activations and INT8 weights per channel, after the tool's own preparation."""
    prepared = output.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(output),
        Batches(batches),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def weight_only_rival(model: Path, output: Path) -> None:
    """Every MatMul of stored weights as MatMulNBits with 4 bits in blocks of 32."""
    tool = MatMulNBitsQuantizer(
        onnx.load(model), bits=4, block_size=BLOCK, is_symmetric=True, accuracy_level=ON_THE_FLY
    )
    tool.process()
    onnx.save(tool.model.model, output)
