"""What torchao writes: PT2E, after training and during it, and weights alone."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from tools.producers.networks import NETWORKS, SMALL, Network, Produced, Size, export, make

__all__ = ["produced"]

FORMS = {
    "CNN": ("PT2E",),  # preparing convolutions for training compiles patterns, which takes half a minute
    "MLP": ("PT2E", "PT2E QAT", "weight only"),
    "transformer": ("PT2E", "weight only"),
}


def pt2e(network: Network, *, qat: bool) -> nn.Module:
    """The module with the quantizers of torchao's recipe for CPUs: UINT8 activations, weights per channel."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    captured = torch.export.export(network.module, (network.inputs[0],)).module()
    config = get_default_x86_inductor_quantization_config(is_qat=qat)
    prepare = prepare_qat_pt2e if qat else prepare_pt2e
    prepared = prepare(captured, X86InductorQuantizer().set_global(config))
    with torch.no_grad():
        for x in network.inputs:
            prepared(x)
    return convert_pt2e(prepared)  # type: ignore[no-any-return]


def weight_only(network: Network) -> nn.Module:
    """INT8 weights per channel, restored when the layer runs."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(network.module, Int8WeightOnlyConfig())
    return network.module


def produced(size: Size = SMALL) -> Iterator[Produced]:
    logging.getLogger("torch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in NETWORKS:
            for form in FORMS[name]:
                network = make(name, size)
                module = weight_only(network) if form == "weight only" else pt2e(network, qat="QAT" in form)
                model = export(module, network.inputs[0])
                yield Produced("torchao", form, name, model, network.inputs)
