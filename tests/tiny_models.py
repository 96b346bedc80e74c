"""Tiny random models of real architectures: 2 to 3 layers, grouped-query heads where the architecture has them."""

from __future__ import annotations

from functools import cache

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 97
_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MOE = {"num_experts_per_tok": 2}
ARCHITECTURES: dict[str, dict] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 24},
    "gemma3_text": {
        "head_dim": 16,
        "num_hidden_layers": 3,
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 16,
    },
    "phi3": {},
    "gpt_neox": {"rotary_pct": 0.5, "num_key_value_heads": 4},
    "mixtral": {"num_local_experts": 4, **_MOE},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 16, **_MOE},
}


def tiny_config_model(kind: str, **settings: object) -> PreTrainedModel:
    """A new model of transformers' type ``kind``: frozen, fp32, in eval mode, weights so large that attention matters."""
    config = AutoConfig.for_model(kind, **(_COMMON | settings))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval().requires_grad_(False)


@cache
def tiny_model(name: str) -> PreTrainedModel:
    """The one of an architecture that all tests share."""
    return tiny_config_model(name, **ARCHITECTURES[name])
