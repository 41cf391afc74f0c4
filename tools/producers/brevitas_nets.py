"""What Brevitas writes: Q, Clip and DQ of ONNX (QCDQ), and the `Quant` operators of QONNX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import brevitas.nn as qnn
import onnx
import torch
from brevitas.export import export_onnx_qcdq, export_qonnx
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8Bias,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Uint8ActPerTensorFloat,
)
from torch import Tensor, nn

from tools.producers.networks import SMALL, Network, Produced, Size, make

print(qnn, Int8Bias)
