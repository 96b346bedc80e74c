"""Tiny models for the cascade's tests, beside those of tests/tiny_models.py."""

from __future__ import annotations

from functools import cache

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade import CascadingCache, reads_cascades
from tests.tiny_models import VOCAB

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def random_model(name: str, **options) -> PreTrainedModel:
    """Frozen, fp32, in eval mode, weights drawn large enough that attention matters."""
    config = AutoConfig.for_model(name, **(_COMMON | options))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


@cache
def one_layer(kv_heads: int) -> PreTrainedModel:
    """A Llama of one layer: its keys and values do not depend on what stands before them."""
    return random_model("llama", num_hidden_layers=1, num_key_value_heads=kv_heads)


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def dense(model: PreTrainedModel, ids: torch.Tensor, **options) -> torch.Tensor:
    """The reference: logits of one plain forward call of the unmodified model, without a cache."""
    return model(ids, use_cache=False, **options).logits


@torch.no_grad()
def read(
    model, cache: CascadingCache, ids: torch.Tensor, stride: int | None = None, mask=None
) -> torch.Tensor:
    """Logits of ``ids`` [R, tokens], read in calls of ``stride`` tokens, or in one."""
    stride, out = stride or ids.shape[1], []
    with reads_cascades(model):
        for start in range(0, ids.shape[1], stride):
            part = slice(start, start + stride)
            seen = None if mask is None else mask[:, part]
            out.append(model(ids[:, part], attention_mask=seen, **cache_argument(cache)).logits)
    return torch.cat(out, dim=1)
