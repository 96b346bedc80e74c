"""Random Llamas and random conversations: speed does not depend on what the weights know."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from lit_cartridges.data.batch import Example
from lit_cartridges.models.random_llama import SIZES, random_llama

__all__ = [
    "SIZES",
    "count_parameters",
    "kv_bytes_per_token",
    "random_conversations",
    "random_llama",
    "random_prefix",
]


def count_parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Weights of the layers' matrices, and of the language head."""
    layers = sum(p.numel() for p in model.base_model.layers.parameters() if p.ndim == 2)
    return layers, model.get_output_embeddings().weight.numel()


def kv_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of one position's keys and values in all layers."""
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    element = torch.empty((), dtype=model.dtype).element_size()
    return 2 * config.num_hidden_layers * config.num_key_value_heads * width * element


def random_conversations(
    count: int,
    *,
    vocabulary: int,
    shortest: int,
    longest: int,
    top_k: int = 20,
    answer_share: float = 0.5,
    seed: int = 0,
) -> list[Example]:
    """Conversations of lengths spread evenly from ``shortest`` to ``longest`` tokens in random order, the second part
    of each an answer with top-k log-probabilities."""
    rng = np.random.default_rng(seed)
    lengths = rng.permutation(np.linspace(shortest, longest, count).round().astype(int))
    examples = []
    for length in lengths:
        answers = max(1, round(length * answer_share))
        ids = rng.integers(0, vocabulary, length + 1)
        probabilities = np.sort(rng.dirichlet(np.full(top_k, 0.3), answers))[:, ::-1] + 1e-9
        examples.append(
            Example(
                token_ids=ids[:-1],
                target_rows=np.arange(length - answers, length),
                target_ids=ids[length - answers + 1 :],
                top_ids=_distinct(rng, vocabulary, (answers, top_k)),
                top_logprobs=np.log(probabilities).astype(np.float32),
            )
        )
    return examples


def _distinct(rng: np.random.Generator, vocabulary: int, shape: tuple[int, int]) -> np.ndarray:
    """Token ids, none twice in a row, without drawing or sorting a number for every token of the vocabulary."""
    return rng.integers(1, vocabulary // shape[1] + 1, shape).cumsum(1) - 1


def random_prefix(
    model: PreTrainedModel, tokens: int, *, spread: float = 0.3
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Keys and values per layer [kv_heads, tokens, head_dim]."""
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    shape = (config.num_key_value_heads, tokens, width)
    keys, values = (
        [torch.randn(shape, device=model.device).mul_(spread) for _ in range(config.num_hidden_layers)]
        for _ in range(2)
    )
    return keys, values
