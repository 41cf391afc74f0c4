"""The rows of the benchmark of `getac lower`: a network, how it is lowered, and what that should reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import onnx

from tools.zoo.language import decoder, encoder
from tools.zoo.mobilenet import mobilenet_v2
from tools.zoo.resnet import resnet18

__all__ = ["ROWS", "Row"]


@dataclass(frozen=True)
class Targets:
    """The bounds of a row; None: there is none.

    Args:
        speedup: Latency of the float model over that of the result, at least.
        share: Bytes of the result over those of the float file, at most.
        rival: Latency of what onnxruntime's own tool makes over that of the result, at least. `EQUAL` allows
            for what two sessions of one file differ by.
    """

    speedup: float | None = None
    share: float | None = None
    rival: float | None = None


@dataclass(frozen=True)
class Row:
    """One network lowered in one way.

    Args:
        network: Makes the float model.
        tiny: Options of a network that takes milliseconds.
        full: Options of the one that figures are for.
        options: Options of `getac.lower`.
        weight_only: Whether activations stay floats; else there is calibration data.
        targets: What the full network should reach.
    """

    network: Callable[..., onnx.ModelProto]
    tiny: Mapping[str, Any]
    targets: Targets
    full: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    weight_only: bool = False

    @property
    def bits(self) -> int:
        return int(self.options.get("weight_bits", 8))

    @property
    def pruned(self) -> bool:
        return bool(self.options.get("sparsity"))

    def model(self, quick: bool) -> onnx.ModelProto:
        return self.network(**(self.tiny if quick else self.full))


resnet_row = partial(Row, resnet18, {"width": 8, "image": 32})
encoder_row = partial(Row, encoder, {"heads": 4, "width": 32, "hidden": 64, "tokens": 8})
mobilenet_row = partial(
    Row,
    mobilenet_v2,
    {"stages": ((1, 16, 1, 1), (6, 24, 2, 2)), "width": 0.5, "last": 128, "image": 32, "classes": 10},
)
decoder_row = partial(
    Row, decoder, {"layers": 1, "heads": 4, "width": 64, "hidden": 128, "tokens": 4, "words": 512}
)
DENSE = {"sparsity": 0.0}
HALF = {"sparsity": 0.5}
# Random weights do not survive 2 bits: speed and size are those of trained ones all the same.
INT2 = {**DENSE, "weight_bits": 2, "target": "ort", "force": True}
INT4 = {**DENSE, "weight_bits": 4}

EQUAL = 0.97

ROWS: Mapping[str, Row] = {
    "resnet18, int8": resnet_row(Targets(speedup=3.1), options=DENSE),
    "resnet18, 4-bit weights": resnet_row(Targets(speedup=3.1, share=0.13), options=INT4),
    "resnet18, 2-bit weights": resnet_row(Targets(speedup=3.1, share=0.07), options=INT2),
    "resnet18, int8, 50 % of groups": resnet_row(Targets(speedup=6.0), options=HALF),
    "bert layer, int8": encoder_row(Targets(speedup=2.6), options=DENSE),
    "bert layer, 4-bit weights": encoder_row(Targets(speedup=2.6, share=0.14), options=INT4),
    "mobilenet_v2, int8": mobilenet_row(Targets(rival=1.0), options=DENSE),
    "mobilenet_v2, int8, 50 % of groups": mobilenet_row(Targets(speedup=2.0), options=HALF),
    "decoder, sequence 1, weight-only int4": decoder_row(
        Targets(rival=EQUAL), full={"tokens": 1}, options=INT4, weight_only=True
    ),
    "decoder, sequence 128, weight-only int4": decoder_row(
        Targets(rival=EQUAL), full={"tokens": 128}, options=INT4, weight_only=True
    ),
}
