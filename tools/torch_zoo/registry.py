"""The zoo of PyTorch models: a small instance of every family, with random weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tools.fx_law import randomize
from tools.torch_zoo.convnext import convnext
from tools.torch_zoo.dense_prediction import super_resolution, unet
from tools.torch_zoo.densenet import densenet
from tools.torch_zoo.example import Example
from tools.torch_zoo.fused_attention import fused_vit
from tools.torch_zoo.inception import inception
from tools.torch_zoo.mobile import efficientnet, mobilenet
from tools.torch_zoo.resnet import resnet, resnext
from tools.torch_zoo.sequences import graph_network, lstm_tagger
from tools.torch_zoo.shufflenet import shufflenet_v1, shufflenet_v2
from tools.torch_zoo.transformers_text import albert, bert, distilbert, gpt2, llama, mamba, mixtral, t5
from tools.torch_zoo.transformers_vision import clip, swin, vit, whisper
from tools.torch_zoo.vocoder import vocoder

__all__ = ["TORCH_ZOO", "example"]

FAMILIES: tuple[Callable[[], Example], ...] = (
    resnet,
    resnext,
    densenet,
    inception,
    mobilenet,
    efficientnet,
    shufflenet_v1,
    shufflenet_v2,
    convnext,
    unet,
    super_resolution,
    vocoder,
    lstm_tagger,
    graph_network,
    fused_vit,
    vit,
    swin,
    clip,
    whisper,
    bert,
    distilbert,
    albert,
    gpt2,
    llama,
    mixtral,
    t5,
    mamba,
)

TORCH_ZOO: dict[str, Callable[[], Example]] = {family.__name__: family for family in FAMILIES}


def example(name: str, seed: int = 0) -> Example:
    """A model of the zoo, the same numbers every time, none of them a zero or a one that means nothing."""
    torch.manual_seed(seed)
    made = TORCH_ZOO[name]()
    randomize(made.module, seed)
    return made
