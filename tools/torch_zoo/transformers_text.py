"""Language models of transformers, from small configurations with random weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tools.torch_zoo.example import BATCH, Example

__all__ = ["albert", "bert", "distilbert", "gpt2", "llama", "mamba", "mixtral", "t5"]

WORDS, TOKENS = 100, 11
SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
}
NO_WORDS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def words(tokens: int = TOKENS) -> Tensor:
    return torch.randint(0, WORDS, (BATCH, tokens))


def bert() -> Example:
    config = transformers.BertConfig(**SIZES)
    padding = torch.ones(BATCH, TOKENS, dtype=torch.long)
    padding[1, 8:] = 0
    inputs = {"input_ids": words(), "attention_mask": padding}
    return Example(transformers.BertForSequenceClassification(config), (), inputs)


def distilbert() -> Example:
    sizes: dict[str, Any] = {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 16,
    }
    config = transformers.DistilBertConfig(vocab_size=WORDS, **sizes)
    return Example(transformers.DistilBertForMaskedLM(config), (), {"input_ids": words()})


def albert() -> Example:
    """All layers share their parameters."""
    config = transformers.AlbertConfig(**SIZES, **NO_WORDS, embedding_size=16)
    return Example(transformers.AlbertModel(config), (), {"input_ids": words()})


def generator(model: nn.Module, tokens: int = TOKENS) -> Example:
    return Example(model, (), {"input_ids": words(tokens), "use_cache": False})


def gpt2() -> Example:
    """Query, key and value lie in one weight; embedding and head are tied."""
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
    config = transformers.GPT2Config(vocab_size=WORDS, **sizes, **NO_WORDS)
    return generator(transformers.GPT2LMHeadModel(config))


def llama() -> Example:
    """Two query heads share a key and value head; rotary embeddings."""
    config = transformers.LlamaConfig(**SIZES, **NO_WORDS, num_key_value_heads=2)
    return generator(transformers.LlamaForCausalLM(config))


def mixtral() -> Example:
    """Four experts, two of them for each token, as batched matrix products."""
    experts: dict[str, Any] = {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "experts_implementation": "batched_mm",
    }
    config = transformers.MixtralConfig(**SIZES, **NO_WORDS, **experts, num_key_value_heads=2)
    return generator(transformers.MixtralForCausalLM(config))


def mamba() -> Example:
    """Few tokens: its graph repeats the step from one to the next."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4}
    config = transformers.MambaConfig(vocab_size=WORDS, **sizes, **NO_WORDS)
    return generator(transformers.MambaForCausalLM(config), tokens=5)


def t5() -> Example:
    """Encoder and decoder; a bias of relative positions that all layers share.

    torch's ONNX exporter views the transposed result of scaled_dot_product_attention, and fails.
    """
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    more: dict[str, Any] = {"decoder_start_token_id": 0, "attn_implementation": "eager"}
    config = transformers.T5Config(vocab_size=WORDS, **sizes, **more)
    inputs = {"input_ids": words(), "decoder_input_ids": words(), "use_cache": False}
    return Example(transformers.T5ForConditionalGeneration(config), (), inputs)
