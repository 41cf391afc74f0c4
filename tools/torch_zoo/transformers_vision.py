"""Models of images and sound of transformers, from small configurations with random weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tools.torch_zoo.example import BATCH, Example

__all__ = ["clip", "swin", "vit", "whisper"]

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def vit() -> Example:
    image: dict[str, Any] = {"image_size": 16, "patch_size": 4, "num_labels": 5}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, **image))
    return Example(model, (torch.randn(BATCH, 3, 16, 16),))


def swin() -> Example:
    """Windows, rolled by half a window; patches merged. Attention written out: see T5."""
    image: dict[str, Any] = {"image_size": 32, "patch_size": 2, "window_size": 4, "num_labels": 5}
    sizes: dict[str, Any] = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
    sizes |= {"attn_implementation": "eager"}
    config = transformers.SwinConfig(**image, **sizes)
    return Example(transformers.SwinForImageClassification(config), (torch.randn(BATCH, 3, 32, 32),))


def clip() -> Example:
    special: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.CLIPConfig(
        text_config=SIZES | special | {"vocab_size": 100, "max_position_embeddings": 16},
        vision_config=SIZES | {"image_size": 16, "patch_size": 4},
        projection_dim=24,
    )
    words = torch.randint(3, 100, (BATCH, 8))
    words[:, -1] = 2
    inputs = {"input_ids": words, "pixel_values": torch.randn(BATCH, 3, 16, 16)}
    return Example(transformers.CLIPModel(config), (), inputs)


def whisper() -> Example:
    config = transformers.WhisperConfig(
        vocab_size=100,
        num_mel_bins=8,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=10,
        max_target_positions=16,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        decoder_start_token_id=1,
    )
    inputs = {
        "input_features": torch.randn(BATCH, 8, 20),
        "decoder_input_ids": torch.randint(3, 100, (BATCH, 6)),
        "use_cache": False,
    }
    return Example(transformers.WhisperForConditionalGeneration(config), (), inputs)
