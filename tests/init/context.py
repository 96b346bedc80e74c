"""A context for strategies: a tiny model, a corpus of words behind the template's opening, a tokenizer."""

from __future__ import annotations

from typing import Any

import torch

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.init import InitContext
from tests.tiny_run import FIRST_WORD, tokenizer

OPENING = [1, 4]  # <bos> <system>
CORPUS = [FIRST_WORD + (i * i + 3 * i) % 71 for i in range(60)]


def new_context(
    model: Any, num_tokens: int = 12, corpus: list[int] | None = None, **options: Any
) -> InitContext:
    """With everything but a teacher."""
    corpus = CORPUS if corpus is None else corpus
    known = {"model": model, "num_tokens": num_tokens, "corpus_ids": corpus, "context_ids": OPENING + corpus}
    return InitContext(**(known | {"renderer": ChatRenderer(tokenizer())} | options))


@torch.no_grad()
def naive_prefill(model: Any, ids: list[int]) -> list[torch.Tensor]:
    """All layers' keys, then all their values, [kv_heads, tokens, head_dim], by one call of the plain model.

    A cache without a config keeps every position, those outside of a sliding window too.
    """
    from transformers import DynamicCache

    cache = DynamicCache()
    model(torch.tensor([ids]), **cache_argument(cache), use_cache=True)
    return [getattr(layer, side)[0] for side in ("keys", "values") for layer in cache.layers]


def all_tensors(tensors: Any) -> list[torch.Tensor]:
    """Keys, then values, of all layers."""
    return [*tensors.keys, *tensors.values]


def same(mine: Any, theirs: Any) -> bool:
    """Equal to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(all_tensors(mine), all_tensors(theirs), strict=True))


def close(mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    """Equal to fp32's tolerance of one forward pass."""
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
