"""Llamas with random weights, for measuring speed, which does not depend on what the weights know."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

# name -> (vocabulary, width, MLP width, layers, query heads, key-value heads)
SIZES = {
    "tiny": (512, 64, 128, 2, 4, 2),
    "5m": (4096, 256, 704, 4, 4, 2),
    "30m": (16384, 512, 1408, 8, 8, 4),
    "3b": (128256, 3072, 8192, 28, 24, 8),
    "8b": (128256, 4096, 14336, 32, 32, 8),
}


def random_llama(
    size: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32, attention_layers: int | None = None
) -> PreTrainedModel:
    """A frozen Llama of a size in `SIZES`, weights random, input and output embeddings shared.

    With ``attention_layers``, only so many layers, whose MLP and vocabulary are next to nothing.
    """
    vocabulary, width, mlp, layers, heads, kv_heads = SIZES[size]
    if attention_layers is not None:
        vocabulary, mlp, layers = 512, 128, attention_layers
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2**21,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.device(device):
        model: Any = LlamaForCausalLM(config)
    model.to(dtype)
    model.generation_config.eos_token_id = None
    frozen: PreTrainedModel = model.eval().requires_grad_(False)
    return frozen
