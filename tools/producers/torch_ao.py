"""What torch.ao's fake quantizers become in the exporter that traces."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.ao.quantization import (
    FakeQuantize,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
    disable_observer,
)

from tools.producers.networks import NETWORKS, SMALL, Produced, Size, export, make
from tools.producers.torch_modules import quantized

__all__ = ["produced"]


def fake_quantizer(x: Tensor, per_channel: bool) -> nn.Module:
    """torch.ao's, UINT8 for activations and INT8 for weights, that has seen a tensor."""
    if not isinstance(x, nn.Parameter):
        kind = {"observer": MovingAverageMinMaxObserver, "quant_min": 0, "quant_max": 255}
    elif per_channel:
        kind = {
            "observer": PerChannelMinMaxObserver, "quant_min": -128, "quant_max": 127, "dtype": torch.qint8,
            "qscheme": torch.per_channel_symmetric, "ch_axis": 0,
        }  # fmt: skip
    else:
        kind = {
            "observer": MovingAverageMinMaxObserver, "quant_min": -128, "quant_max": 127,
            "dtype": torch.qint8, "qscheme": torch.per_tensor_symmetric,
        }  # fmt: skip
    made = FakeQuantize(**kind)  # type: ignore[no-untyped-call]
    made(x)
    made.apply(disable_observer)
    return made


def produced(size: Size = SMALL) -> Iterator[Produced]:
    with warnings.catch_warnings():  # of the exporter that traces: it is the only one that knows them
        warnings.simplefilter("ignore")
        for name in NETWORKS:
            network = make(name, size)
            for form, per_channel in (("per tensor", False), ("per channel", True)):
                with torch.no_grad():
                    module = quantized(
                        copy.deepcopy(network.module),
                        partial(fake_quantizer, per_channel=per_channel),
                        torch.cat(network.inputs),
                    )
                    model = export(module, network.inputs[0], dynamo=False)
                yield Produced("torch.ao", form, name, model, network.inputs)
